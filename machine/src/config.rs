//! What a machine is to be.

use std::path::PathBuf;
use std::sync::Arc;

use trapline_device::CharBackend;

/// A machine, as its user describes it.
#[derive(Clone)]
pub struct Config {
    /// vCPUs, from 1.
    pub cpus: u32,
    /// RAM in bytes, a multiple of 4 KiB.
    pub mem_bytes: u64,
    /// The KVM device, usually `/dev/kvm`.
    pub kvm_device: PathBuf,
    /// What runs first.
    pub boot: Boot,
    /// Behind the first serial port.
    pub console: Arc<dyn CharBackend>,
    /// Behind the firmware's debug port (0x402).
    pub firmware_log: Arc<dyn CharBackend>,
    /// The display, if there is one.
    pub display: Option<trapline_display::Mode>,
    /// Whether a port is there through which the guest can end the machine with a status.
    pub exit_port: bool,
    /// Whether a guest that resets is booted again; if not, its run ends.
    pub reboot: bool,
    /// Whether writes that may be late are queued by the kernel.
    pub coalesce: bool,
}

/// What runs first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel.
    Kernel {
        /// The file.
        path: PathBuf,
        /// Its initial RAM disk.
        initrd: Initrd,
        /// Its whole command line.
        cmdline: String,
    },
    /// A firmware image.
    Firmware(PathBuf),
}

/// An initial RAM disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initrd {
    /// None at all.
    None,
    /// A file.
    File(PathBuf),
    /// An archive made on the spot.
    Made(Arc<Vec<u8>>),
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest switched itself off.
    Off,
    /// The guest reset itself and was not to be booted again.
    Reset,
    /// The guest ended the machine with this status.
    Exit(u8),
    /// The host ended it ([`crate::Control::stop`]).
    Stopped,
    /// The guest cannot go on.
    Crashed(Box<trapline_kvm::CrashReport>),
}
