//! The descriptors of a channel: one socket, or a pair of which one is read and one is written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType};

use crate::ring::Ring;

/// How bytes go through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A socket without borders between what is sent at once.
    Stream,
    /// A socket that keeps them: `SOCK_SEQPACKET`, `SOCK_DGRAM`.
    Packets,
    /// Anything else: a pipe, a character device.
    File,
}

/// A VMM's or a device's end of a channel. Nothing it does waits.
///
/// A write to a pipe whose reader has gone raises SIGPIPE, which no flag of the call avoids; programs in
/// Rust ignore it from their start, and others have to.
#[derive(Debug)]
pub struct Ends {
    from: (OwnedFd, Kind),
    to: Option<(OwnedFd, Kind)>,
    /// In the place of the socket, which only wakes who sleeps then.
    ring: Option<Box<Ring>>,
    /// Whether descriptors can be sent along with bytes. Looked up at once: a device that is confined later
    /// may not ask any more.
    is_unix_socket: bool,
}

impl Ends {
    /// One socket for both directions, or whatever else can be read and written.
    ///
    /// # Errors
    /// It cannot be made not to wait.
    pub fn socket(fd: OwnedFd) -> io::Result<Self> {
        let domain = rustix::net::sockopt::socket_domain(&fd);
        let is_unix_socket = domain == Ok(AddressFamily::UNIX);
        Ok(Self { from: prepared(fd)?, to: None, ring: None, is_unix_socket })
    }

    /// Two descriptors: what comes is read from `from`, what goes is written to `to`.
    ///
    /// # Errors
    /// They cannot be made not to wait.
    pub fn pair(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        let (from, to) = (prepared(from)?, Some(prepared(to)?));
        Ok(Self { from, to, ring: None, is_unix_socket: false })
    }

    /// To wait for what comes.
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.from.0.as_fd()
    }

    /// To wait for room.
    pub fn writable(&self) -> BorrowedFd<'_> {
        self.outgoing().0.as_fd()
    }

    /// What to wait for at [`Ends::writable`] where there is no room: in a ring the other end says so.
    pub(crate) fn room(&self) -> PollFlags {
        if self.ring.is_some() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// The same with a ring in memory, by way of another descriptor of the socket.
    pub(crate) fn with_ring(
        self,
        ring: impl FnOnce(OwnedFd) -> io::Result<Ring>,
    ) -> io::Result<Self> {
        let ring = ring(self.from.0.try_clone()?)?;
        Ok(Self { ring: Some(Box::new(ring)), ..self })
    }

    /// Whether descriptors can be sent along with bytes.
    pub(crate) fn is_unix_socket(&self) -> bool {
        self.is_unix_socket
    }

    /// Waits without sleep, as far as that pays, for something to receive; whether there is.
    pub(crate) fn spin(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.spin())
    }

    /// Says that somebody here is about to sleep until there is something to receive, or room; whether
    /// there is neither, so that he may.
    pub(crate) fn go_to_sleep(&self, wants_room: bool) -> bool {
        self.ring.as_ref().is_none_or(|ring| ring.go_to_sleep(wants_room))
    }

    /// Somebody has slept.
    pub(crate) fn wake_up(&self) {
        if let Some(ring) = &self.ring {
            ring.wake_up();
        }
    }

    /// Sends what can be sent at once, in messages of `message` bytes where there are borders: how many
    /// bytes that was.
    pub(crate) fn send(&self, bytes: &[u8], message: usize) -> Result<usize, Errno> {
        if let Some(ring) = &self.ring {
            return ring.send(bytes);
        }
        let (fd, kind) = self.outgoing();
        let bytes = match kind {
            Kind::Packets => bytes.get(..message).unwrap_or(bytes),
            Kind::Stream | Kind::File => bytes,
        };
        retry(|| match kind {
            Kind::File => rustix::io::write(fd, bytes),
            _ => rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        })
    }

    /// Receives what has come, at most one message where there are borders. Zero is the end. A message
    /// longer than `buf` is [`Errno::MSGSIZE`].
    pub(crate) fn receive(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        if let Some(ring) = &self.ring {
            return ring.receive(buf);
        }
        let (fd, kind) = &self.from;
        let room = buf.len();
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        retry(|| match kind {
            Kind::File => rustix::io::read(fd, &mut *buf),
            Kind::Stream => rustix::net::recv(fd, &mut *buf, RecvFlags::DONTWAIT).map(|(n, _)| n),
            Kind::Packets => match rustix::net::recv(fd, &mut *buf, flags)? {
                (_, len) if len > room => Err(Errno::MSGSIZE),
                (len, _) => Ok(len),
            },
        })
    }

    /// Whether messages have borders on the way here.
    pub(crate) fn has_borders(&self) -> bool {
        self.from.1 == Kind::Packets && self.ring.is_none()
    }

    /// Ends the conversation, for whoever waits at either end, too.
    pub(crate) fn shutdown(&self) {
        for (fd, kind) in std::iter::once(&self.from).chain(&self.to) {
            if *kind != Kind::File {
                let _ = rustix::net::shutdown(fd, Shutdown::Both);
            }
        }
    }

    fn outgoing(&self) -> &(OwnedFd, Kind) {
        self.to.as_ref().unwrap_or(&self.from)
    }
}

fn prepared(fd: OwnedFd) -> io::Result<(OwnedFd, Kind)> {
    let kind = match rustix::net::sockopt::socket_type(&fd) {
        Ok(SocketType::STREAM) => Kind::Stream,
        Ok(_) => Kind::Packets,
        Err(_) => {
            let flags = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
            Kind::File
        }
    };
    Ok((fd, kind))
}

/// What a call comes to that no signal interrupts.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
