//! The PC's interrupt controllers and its timer, the table that says which of their inputs an
//! interrupt line ends in; and the GICv3 of arm64 boards.
//!
//! ```text
//!             ┌─► pic     8259A pair ──INTR──► the processor (ExtInt), I/O APIC pin 0
//!   Line ─► route
//!             └─► ioapic  I/O APIC ────MsiSink──► local APICs ──EoiSink──► ioapic
//!   Clock ──► pit     8254: channel 0 ──► Line, channel 2 ◄─► port 0x61
//! ```
//!
//! And of the arm64 board, the frame that lets a GICv2 take messages (v2m).
//!
//! Each chip is complete by its data sheet, knows no address and no interrupt number, and can be
//! saved and restored.

#![forbid(unsafe_code)]

pub mod gicv3;
pub mod ioapic;
pub mod pic;
pub mod pit;
mod route;
pub mod v2m;

pub use route::{Outputs, RouteError, Routes};
