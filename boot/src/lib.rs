//! Puts a guest's software into its memory and describes the machine to it.
//!
//! Kernels and firmware for x86-64 (`kernel`, `firmware`) and for arm64 ([`arm64`]), the command line ([`cmdline`]), an
//! initramfs of our own making ([`initramfs`]) with the drivers it needs ([`drivers`]); and the tables by which a guest learns what
//! machine it runs on: `e820`, [`acpi`], [`mptable`]; [`fdt`].
//!
//! Nothing here knows a device, a hypervisor, or an address of the board: whoever builds the
//! machine passes every number in, and gets back the state the first vCPU starts in
//! (`entry::Entry`, [`arm64::Loaded`]).

#![forbid(unsafe_code)]

pub mod acpi;
pub mod arm64;
pub mod cmdline;
pub mod drivers;
#[cfg(target_arch = "x86_64")]
pub mod e820;
#[cfg(target_arch = "x86_64")]
pub mod entry;
mod error;
pub mod fdt;
#[cfg(target_arch = "x86_64")]
pub mod firmware;
pub mod firmware_kernel;
mod foreign;
mod image;
pub mod initramfs;
mod initrd;
#[cfg(target_arch = "x86_64")]
pub mod kernel;
pub mod modules;
pub mod mptable;
mod open;
mod packed;
pub mod search;
pub mod wiring;

#[cfg(target_arch = "x86_64")]
pub use entry::Entry;
pub use error::Error;
pub use initrd::Initrd;
pub use open::{create, empty, open, open_for_update, read, read_ahead};
