//! Puts a guest's software into its memory and describes the machine to it.
//!
//! Kernels ([`kernel`]), flat firmware ([`firmware`]), the command line ([`cmdline`]), an
//! initramfs of our own making ([`initramfs`]); and the tables by which a guest learns what
//! machine it runs on: [`e820`], [`acpi`], [`mptable`].
//!
//! Nothing here knows a device, a hypervisor, or an address of the board: whoever builds the
//! machine passes every number in, and gets back the state the first vCPU starts in
//! ([`entry::Entry`]).

#![forbid(unsafe_code)]

pub mod acpi;
pub mod arm64;
pub mod cmdline;
pub mod e820;
pub mod entry;
mod error;
pub mod fdt;
pub mod firmware;
mod image;
pub mod initramfs;
pub mod kernel;
pub mod mptable;
pub mod wiring;

pub use entry::Entry;
pub use error::Error;
