//! What a recording says of itself.

use serde::{Deserialize, Serialize};

/// What was run, and how it was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The program that recorded, with its version.
    pub recorder: String,
    /// Where the accesses came from.
    pub source: Source,
    /// The architecture of the guest, as `uname -m` says it.
    pub architecture: String,
    /// The board, by its name on the command line; empty where it is not one of ours.
    pub board: String,
    /// The options of the run, word by word.
    pub arguments: Vec<String>,
    /// How many vCPUs the machine has.
    pub vcpus: u32,
    /// The guest's RAM in bytes.
    pub ram_bytes: u64,
    /// UTC at power-on, in nanoseconds since 1970.
    pub utc_ns: u64,
    /// The frequency of the clock that the stamps are of, in Hz: 10^9 for nanoseconds of the
    /// machine's clock.
    pub clock_hz: u64,
    /// SHA-256 of the kernel, in hexadecimal digits; empty where there is none.
    pub kernel_sha256: String,
    /// What the recording holds beside the accesses.
    pub levels: Vec<Level>,
    /// Whether nothing was left to the kernel: no doorbell and no queue of writes, and devices in
    /// turn.
    pub exact: bool,
    /// What was not seen, a sentence each.
    pub unseen: Vec<String>,
    /// What else whoever replays it wants to know, by name.
    pub settings: Vec<(String, String)>,
}

impl Meta {
    /// The value of one of the [`Meta::settings`].
    pub fn setting(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(of, _)| of == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Where the accesses of a recording came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A guest on KVM.
    #[default]
    Kvm,
    /// A client of qtest, which plays the processor.
    Qtest,
    /// The kernel's trace of some VMM: no clock of a device, and of strings the first value only.
    KernelTrace,
    /// A program that makes its accesses itself, as tests do.
    Program,
}

/// What a recording holds, smallest first; each is of use with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// The accesses, stamped with the time that the device was told.
    Accesses,
    /// What devices took from outside.
    Inputs,
    /// What devices read from the guest's memory.
    Memory,
    /// What devices sent, as hashes.
    Outputs,
}
