//! VFIO: PCI functions of the host that a guest drives itself.
//!
//! ```text
//!   Host ──► container, groups, devices            (sys.rs: the ioctls; all unsafe code is there)
//!     │         │
//!     │         └─ DmaMap: a memory listener, through which the function's DMA reaches guest memory
//!     └─► OpenFunction ──► Function on the guest's bus
//!            layout.rs       configuration space, made from the device's own
//!            function.rs     BARs: pages that the kernel maps are memory regions, the rest is trapped
//!            interrupts.rs   pin, MSI, MSI-X: eventfds from the host's kernel to KVM's irqfds
//!            departure.rs    the host wants it back
//!            names.rs        what registers of trapped BARs are called
//! ```
//!
//! What a function is on the host is [`Sysfs`]'s to say, which also gives functions to vfio-pci and
//! back. The way in is group and container of IOMMU type 1, version 2; what was left out so far is
//! iommufd, which kernels have since 6.6 besides.

mod departure;
mod dma;
mod error;
mod function;
mod hardware;
mod host;
mod interrupts;
mod layout;
mod names;
mod quirks;
mod sys;
mod sysfs;

pub use departure::{Departure, OnDeparture};
pub use error::Error;
pub use function::{OpenFunction, Wires};
pub use host::{Assignment, Host, OpenGroup};
pub use interrupts::{PinConnector, ResampledPin};
pub use names::Names;
pub use sysfs::{Address, Sysfs};
