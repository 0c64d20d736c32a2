//! UNIX sockets by name: a VMM connects, a device listens.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use crate::ends::Ends;

impl Ends {
    /// Connects to a device that listens on a UNIX socket. Waits for nobody: where as many have
    /// connected as the device lets wait, that is an error.
    ///
    /// # Errors
    /// Nobody listens there, or on a socket of the other kind.
    pub fn connect(path: &Path, seqpacket: bool) -> io::Result<Self> {
        let fd = socket(seqpacket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Self::socket(fd)
    }
}

/// A device's socket, to which VMMs connect. Its name goes with it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens on a new socket with this name. A socket of that name on which nobody listens any more
    /// is replaced.
    ///
    /// # Errors
    /// There is something with that name, or it cannot be had.
    pub fn bind(path: &Path, seqpacket: bool) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let fd = socket(seqpacket, SocketFlags::CLOEXEC)?;
        match bind(&fd, &address) {
            Err(Errno::ADDRINUSE) if is_deserted(path, seqpacket) => {
                fs::remove_file(path)?;
                bind(&fd, &address)?;
            }
            result => result?,
        }
        let this = Self { fd, path: path.to_owned() };
        listen(&this.fd, 1)?;
        Ok(this)
    }

    /// Waits for a VMM.
    ///
    /// # Errors
    /// The host's.
    pub fn accept(&self) -> io::Result<Ends> {
        loop {
            match accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(fd) => return Ends::socket(fd),
                // Whoever connected has gone again.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn socket(seqpacket: bool, flags: SocketFlags) -> io::Result<OwnedFd> {
    let kind = if seqpacket { SocketType::SEQPACKET } else { SocketType::STREAM };
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// Whether nobody listens on a socket of that name.
fn is_deserted(path: &Path, seqpacket: bool) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    Ends::connect(path, seqpacket).err().is_some_and(refused)
}
