//! Virtio: devices, their queues, and how a driver reaches them.
//!
//! ```text
//!   pci ──► transport: registers ──► VirtioDevice: features, configuration, activate, reset
//!           doorbell ──► process ────────┘ │
//!                                          ▼
//!                     Queue ──► Serving ──► Chain: a request's buffers in guest RAM
//!                        │         └ used buffers, one notification decision for a batch
//!                        └ QueueEvents ──► the transport's interrupt
//! ```
//!
//! A device implements [`VirtioDevice`] and reaches its requests through [`Queue`] alone, which
//! judges everything a driver can write into a ring. What registers it is behind, and whether its
//! interrupt is a pin or a message, is the transport's.
//!
//! What was left out on purpose: packed rings, which no driver needs and few devices gain from.
//!
//! Spec: Virtual I/O Device (VIRTIO) Version 1.3.

#![forbid(unsafe_code)]

// What is shared with tests outside of the crate names it as they do.
#[cfg(test)]
extern crate self as trapline_virtio;

#[cfg(test)]
mod alone;
pub mod balloon;
#[cfg(test)]
mod behind;
pub mod blk;
pub mod console;
mod device;
pub mod features;
#[cfg(test)]
#[path = "../tests/hostile/machine.rs"]
mod machine;
pub mod mmio;
pub mod net;
pub mod p9;
pub mod pci;
mod queue;
pub mod rng;
#[cfg(test)]
mod toy;
mod transport;
pub mod vsock;
#[cfg(test)]
#[path = "../tests/hostile/wire.rs"]
mod wire;

pub use device::{Activation, DeviceEvents, DeviceType, Link, VirtioDevice};
pub use queue::{
    Buffer, Chain, ChainError, Queue, QueueError, QueueEvents, QueuePlace, QueuePosition, Serving,
    Slices,
};
