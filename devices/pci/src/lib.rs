//! PCI: configuration space, the bus it sits on, and the two ways a CPU reaches it.
//!
//! ```text
//!  ports 0xcf8..0xcff ──► Conf1 ──┐
//!                                 ├──► Bus ──► Function ──► PciDevice (edu, virtio ...)
//!  memory window ─────► EcamWindow┘     │        │ ConfigSpace: bytes and masks
//!                                       │        │ BARs: regions, with the MSI-X table and pending
//!                                       │        │       bits among them
//!                                       │        └ Interrupts: pin, MSI, MSI-X
//!                                       └── BarMap ──► the registry, through the bridge's windows
//! ```
//!
//! A device implements [`PciDevice`]: what is behind its BARs, at offsets in them. Everything else of
//! a function is put together by a [`FunctionBuilder`] and is the bus's: configuration space, where
//! BARs are mapped, which of pin and messages is in use, masks and pending bits, resets.
//!
//! What was left out on purpose: bridges to further buses (every bus number but 0 is empty).

#![forbid(unsafe_code)]

mod bar_regions;
#[cfg(test)]
mod builder_tests;
mod bus;
mod conf1;
mod config;
mod device;
mod ecam;
pub mod edu;
#[cfg(test)]
mod edu_tests;
mod function;
#[cfg(test)]
mod function_tests;
mod host_bridge;
mod hotplug;
mod interrupts;
mod map;
#[cfg(test)]
mod map_tests;
mod mirror;
#[cfg(test)]
mod mirror_tests;
mod msi;
mod msix;
mod piix;
pub mod regs;
mod reset;
mod reset_port;
#[cfg(test)]
mod snapshot_tests;
mod state;
#[cfg(test)]
mod tests;
mod windows;

pub use bar_regions::BarRegions;
pub use bus::{Bus, BusError, Devfn};
pub use conf1::Conf1;
pub use config::{BARS, Bar, BarWindow, CapabilityId, ConfigSpace, Identity, Pin, ROM_BAR};
pub use device::PciDevice;
pub use ecam::{EcamWindow, Layout};
pub use edu::Edu;
pub use function::{Function, FunctionBuilder, Slot};
pub use host_bridge::HostBridge;
pub use hotplug::Hotplug;
pub use msix::MsixLayout;
pub use piix::Piix;
pub use reset_port::ResetPort;
pub use state::{Conf1State, ConfigState, ConfigV1, ResetPortState};
pub use windows::{BridgeWindow, WindowKind};
