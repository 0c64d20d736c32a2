//! The report of a vCPU that cannot go on: why, its registers, its last accesses.

use std::fmt;

/// Why a vCPU could not go on. `Display` is the whole report, several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrashReport {
    /// The vCPU's index.
    pub vcpu: u32,
    /// The reason, a sentence.
    pub cause: String,
    /// Its registers as KVM shows them, ready to print.
    pub registers: String,
    /// The bytes at its instruction pointer in hex, if they could be read.
    pub code: Option<String>,
    /// Its last accesses to devices and the last writes that KVM had queued, by whatever vCPU,
    /// oldest first: `serial0/uart THR (pio 0x3f8) write 1 byte 0x41 coalesced`.
    pub accesses: Vec<String>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "vCPU {} stopped: {}", self.vcpu, self.cause)?;
        write!(f, "{}", self.registers)?;
        if let Some(code) = &self.code {
            writeln!(f, "  code {code}")?;
        }
        if self.accesses.is_empty() {
            return writeln!(f, "It had not accessed any device.");
        }
        writeln!(f, "Its last accesses, oldest first:")?;
        self.accesses.iter().try_for_each(|access| writeln!(f, "  {access}"))
    }
}

/// Bytes in hex, separated by blanks.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
