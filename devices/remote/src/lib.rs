//! Devices behind a file descriptor, as the `ioregionfd` patches for KVM had them: each access of the
//! guest to a region is a command of 32 bytes, and its answer a response of 32 bytes.
//!
//! Spec: the RFC series "Introduce MMIO/PIO dispatch file descriptors (ioregionfd)" for Linux's KVM,
//! v1 (2020-12-29), v2 (2021-01-28) and v3 (2021-02-21), and the review of v1 (2021-01-05) for what it
//! says of `KVM_IOREGION_FAST_MMIO`. No kernel has it.
//!
//! * [`wire`] is what goes over the descriptor. It has no I/O and needs no operating system;
//!   `include/ioregionfd.h` says the same to authors of devices in C. Without the feature `std` it is
//!   all there is.
//! * [`IoRegions`] and [`Link`] are the VMM's end: regions of a registry that are forwarded, and the
//!   channel they go through.
//! * [`Server`] is the device's end.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod wire;

#[cfg(feature = "std")]
mod ends;
#[cfg(feature = "std")]
mod hello;
#[cfg(feature = "std")]
mod ioregion;
#[cfg(feature = "std")]
mod link;
#[cfg(feature = "std")]
mod ring;
#[cfg(feature = "std")]
mod server;
#[cfg(feature = "std")]
mod sockets;

#[cfg(feature = "std")]
pub use ends::Ends;
#[cfg(feature = "std")]
pub use ioregion::{DATAMATCH, DEASSIGN, FAST_MMIO, IoRegions, KvmIoregion, PIO, POSTED_WRITES};
#[cfg(feature = "std")]
pub use link::{Death, Link, LinkOptions, LinkStats, WhenFull};
#[cfg(feature = "std")]
pub use server::{ServeError, Server};
#[cfg(feature = "std")]
pub use sockets::Listener;
