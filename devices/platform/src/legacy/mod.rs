//! The ports of a PC that have no device worth a folder, and the debug ports of virtual machines.
//!
//! Every read of every port here has a defined value; none shows a guest the bytes of an earlier
//! access. Each handler is one region; which port it sits at is the machine's business.

mod ata;
mod crtc;
mod debug;
pub mod dma;
mod exit;
mod fpu;
mod latch;
mod printer;
pub mod regs;
mod system_control;

#[cfg(test)]
mod tests;

pub use self::ata::EmptyAtaChannel;
pub use self::crtc::Crtc;
pub use self::debug::{DebugConsole, DebugPort};
pub use self::exit::ExitPort;
pub use self::fpu::FpuPorts;
pub use self::latch::Latches;
pub use self::printer::PrinterPort;
pub use self::system_control::SystemControl;

use trapline_device::{Limits, Rules, Size};

/// Any write is one write, and any read one read: for one-register ports a guest may drive with
/// `outb`, `outw` or `outl`.
const WHOLE: Rules = Rules {
    valid: Limits::ANY,
    handled: Limits { min: Size::Byte, max: Size::Dword, unaligned: false },
};

/// The low byte of a value.
pub(crate) const fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}
