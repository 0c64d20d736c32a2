//! Disk images, and queues of requests to them.
//!
//! ```text
//!   DiskOptions ──► Disk: Image (raw, qcow2, VMDK), locks, size, limits
//!                     │
//!   Request ──► Queue ┘ ──► at once, io_uring or threads ──► Outcome
//! ```
//!
//! Nothing here knows virtio, or any other way a guest has of asking. `options.rs` is what a user
//! says, `image/` what bytes are in, `queue/` how requests are carried out.
//!
//! What a flush covers: every write that had completed when it was submitted is on the medium when
//! the flush completes.

#![forbid(unsafe_code)]

mod disk;
mod error;
mod image;
mod limit;
mod lock;
mod options;
mod probe;
mod queue;
mod request;

pub use disk::{Disk, DiskShape, SECTOR};
pub use error::{Error, Failure};
pub use image::Topology;
pub use options::{DiskOptions, Format, Limits, OnError, QUEUES_MAX, SERIAL_LEN};
pub use queue::{Engine, Outcome, Queue};
pub use request::{Request, Zeroes};
