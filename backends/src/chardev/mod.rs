//! Files, pseudo terminals and sockets of the host behind a character device.
//!
//! Nothing is queued here. What cannot be written at once is left to the device, which is told when
//! there is room; what the device does not ask for stays in the descriptor. Everything happens on the
//! event loop, and a descriptor is watched only while somebody waits for it.

mod channel;
mod pty;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use trapline_device::{CharBackend, CharDevice, EventLoop};

/// What is behind a character device on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// What the guest writes goes into this file, from its beginning. There is nothing to read.
    File(PathBuf),
    /// A new pseudo terminal. With a path, that is a symbolic link to it while it is there.
    Pty(Option<PathBuf>),
    /// A socket with this name, which one client at a time can connect to. While there is none, what
    /// the guest writes is lost.
    Socket(PathBuf),
    /// A socket without a name, whose other end somebody has.
    Connected(Connected),
}

/// One end of a pair of sockets. Equal to itself alone.
#[derive(Clone, Debug)]
pub struct Connected(Arc<UnixStream>);

impl Connected {
    /// An end for a character device, and the other one.
    ///
    /// # Errors
    /// The host's.
    pub fn pair() -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self(Arc::new(ours)), theirs))
    }
}

impl PartialEq for Connected {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Connected {}

/// A file, pseudo terminal or socket, open.
pub trait OpenOutlet: CharBackend {
    /// Names the device that is told of what happens. Called once.
    fn attach(&self, device: Arc<dyn CharDevice>);

    /// Where it is, if the host has chosen that: the name of a terminal.
    fn place(&self) -> Option<PathBuf> {
        None
    }
}

impl Outlet {
    /// Opens it.
    ///
    /// # Errors
    /// The host's. A link or socket with that name is there already, unless it is a socket that
    /// nobody listens on any more.
    pub fn open(&self, event_loop: &Arc<dyn EventLoop>) -> io::Result<Arc<dyn OpenOutlet>> {
        match self {
            Self::File(path) => Ok(stream::file(path, event_loop)?),
            Self::Pty(link) => Ok(pty::Pty::open(link.as_deref(), event_loop)?),
            Self::Socket(path) => Ok(socket::Socket::listen(path, event_loop)?),
            Self::Connected(Connected(end)) => {
                Ok(stream::Stream::new(OwnedFd::from(end.try_clone()?), true, &**event_loop)?)
            }
        }
    }
}
