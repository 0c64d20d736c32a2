//! What is behind a machine's devices on the host.
//!
//! ```text
//!   descriptors ──┐
//!   doorbells ────┤
//!   notifiers ────┼──► EpollLoop: one thread ──► deliver coalesced writes ──► EventHandler ──► device
//!   HostClock ────┘                              before every call
//! ```
//!
//! A device is called from two kinds of threads: a vCPU's, when the guest makes an access, and an
//! event loop's, when something happens outside of the guest. The loop delivers what the guest
//! wrote before (coalesced writes wait in a queue until somebody asks) ahead of every call, so that
//! no back end has to remember to.
//!
//! What character devices write to and read from, files, terminals and sockets, is in `chardev`.
//!
//! Under qtest and in a replay there is no thread besides the one that makes the accesses. It turns a
//! [`PolledLoop`] between two of them, with the same handlers.

#![forbid(unsafe_code)]

mod chardev;
mod clock;
mod event_loop;
mod listen;

pub use chardev::{Connected, OpenOutlet, Outlet};
pub use clock::HostClock;
pub use event_loop::{EpollLoop, NoQueuedWrites, PolledLoop, QueuedWrites, Turn};
pub use listen::bind;
