//! What is behind a vsock device: the host's end of a guest's connections.
//!
//! ```text
//!   device ── connect, write, finish, close ──► VsockBackend: Unix sockets
//!     ▲                                             │
//!     └── VsockDevice: there are events ◄─────────────┘ event loop
//! ```
//!
//! A connection is known by a number that the back end has given it. What has happened, the device
//! fetches ([`VsockBackend::events`]), so that it can be written down and played again.

#![forbid(unsafe_code)]

mod unix;

use std::io;
use std::sync::Weak;

use trapline_device::Readiness;

pub use unix::UnixSockets;

/// The most connections at a time, those included that have not said yet where they want to go.
pub const CONNECTIONS_MAX: usize = 512;

/// Something has happened at the host's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody on the host wants to reach the guest.
    Incoming {
        /// The connection.
        id: u32,
        /// The guest's port.
        port: u32,
    },
    /// What was waited for ([`VsockBackend::wait_for`]).
    Ready {
        /// The connection.
        id: u32,
        /// What it is ready for, which nobody waits for any more.
        ready: Readiness,
    },
}

/// The host's end of a guest's connections, and who makes new ones. Nothing here blocks.
pub trait VsockBackend: Send + Sync {
    /// Whom to tell of events, from now on.
    fn attach(&self, device: Weak<dyn VsockDevice>);

    /// What has happened since the last call.
    fn events(&self) -> Vec<Event>;

    /// Connects to a port of the host. `None` when nobody listens there, or there are too many
    /// connections.
    fn connect(&self, port: u32) -> Option<u32>;

    /// The guest has taken an incoming connection; it has this port at the host's end.
    fn accept(&self, id: u32, host_port: u32);

    /// Reads what somebody on the host has sent; 0 bytes are its end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is nothing at present; with any other the connection is
    /// broken.
    fn read(&self, id: u32, buf: &mut [u8]) -> io::Result<usize>;

    /// Sends to somebody on the host. Returns how much there was room for.
    ///
    /// # Errors
    /// As of [`VsockBackend::read`].
    fn write(&self, id: u32, data: &[u8]) -> io::Result<usize>;

    /// Has an event come, once, when there is something to read, or room to write.
    fn wait_for(&self, id: u32, what: Readiness);

    /// There is nothing more to be written.
    fn finish(&self, id: u32);

    /// The connection is no more. Its number may be another's later.
    fn close(&self, id: u32);
}

/// The device, as its back end sees it. Called on the event loop, with no lock of the back end held, and
/// from none of the back end's methods.
pub trait VsockDevice: Send + Sync {
    /// There are events.
    fn events_come(&self);
}
