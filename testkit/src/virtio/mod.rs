//! A virtio driver: what a guest would do to a device's registers and rings, right or wrong.
//!
//! ```text
//!   Driver ──► Transport: PciTransport, LegacyPciTransport, MmioTransport ──► Access: a registry's handle, a qtest client …
//!   Ring   ──► Ram
//! ```

mod bench;
mod driver;
mod function;
mod legacy;
mod mmio;
mod pci;
mod ring;

pub use bench::{Bench, Messages};
pub use driver::{Access, Driver, QueueSetup, Transport, status};
pub use function::Room;
pub use legacy::{LegacyPciTransport, port};
pub use mmio::{MmioTransport, reg};
pub use pci::{PciTransport, common};
pub use ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, Part, Ram, Ring};
