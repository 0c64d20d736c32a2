//! PCI: configuration space, the bus it sits on, and the two ways a CPU reaches it.
//!
//! ```text
//!  ports 0xcf8..0xcff ──► Conf1 ──┐
//!                                 ├──► Bus ──► Function (HostBridge, later virtio ...)
//!  memory window ─────► EcamWindow┘     │            └── ConfigSpace: bytes and masks
//!                                       └── nobody there: all ones
//! ```
//!
//! What was left out on purpose: bridges to further buses (every bus number but 0 is empty), and
//! the mapping of BARs, which a function does itself through [`IoCx::regions`] when
//! [`ConfigSpace::windows`] changes.
//!
//! [`IoCx::regions`]: trapline_device::IoCx::regions

#![forbid(unsafe_code)]

mod bus;
mod conf1;
mod config;
mod ecam;
pub mod edu;
#[cfg(test)]
mod edu_tests;
mod host_bridge;
mod msi;
mod piix;
pub mod regs;
mod state;
#[cfg(test)]
mod tests;

pub use bus::{Bus, BusError, Devfn, Function};
pub use conf1::Conf1;
pub use config::{Bar, BarWindow, ConfigSpace, Identity, Pin};
pub use ecam::{EcamWindow, Layout};
pub use edu::Edu;
pub use host_bridge::HostBridge;
pub use msi::MsiCapability;
pub use piix::Piix;
pub use state::{Conf1State, ConfigState, ConfigV1};
