//! Sockets of the host, each watched by the event loop.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, sockopt};
use trapline_device::{EventHandler, EventLoop, Readiness, Watch};

use crate::stack::{UserNet, Who};

/// What every one of ours is: it never blocks, and no program that is started gets it.
pub(crate) const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// A socket. Not to be dropped under the stack's lock: its handler takes that.
pub(crate) struct HostSocket {
    // Dropped before what it calls.
    watch: Box<dyn Watch>,
    interest: Readiness,
    fd: Arc<OwnedFd>,
    _handler: Arc<Ready>,
}

/// Called by the loop for a socket.
struct Ready {
    net: Weak<UserNet>,
    who: Who,
}

impl EventHandler for Ready {
    fn event(&self, ready: Readiness) {
        if let Some(net) = self.net.upgrade() {
            net.event(&self.who, ready);
        }
    }
}

/// A socket for this address, neither bound nor connected.
pub(crate) fn socket(
    address: SocketAddr,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    rustix::net::socket_with(family, kind, FLAGS, protocol)
}

impl HostSocket {
    /// Has the loop watch `fd` for `who`.
    pub(crate) fn new(
        fd: OwnedFd,
        interest: Readiness,
        event_loop: &dyn EventLoop,
        (net, who): (Weak<UserNet>, Who),
    ) -> io::Result<Self> {
        let (fd, handler) = (Arc::new(fd), Arc::new(Ready { net, who }));
        let called: Weak<Ready> = Arc::downgrade(&handler);
        let watch = event_loop.watch(fd.clone(), interest, called)?;
        Ok(Self { watch, interest, fd, _handler: handler })
    }

    /// What it is to be watched for.
    pub(crate) fn want(&mut self, interest: Readiness) {
        if interest != self.interest {
            self.interest = interest;
            // The watch is there already, so the host needs no more memory for it.
            if let Err(error) = self.watch.set_interest(interest) {
                tracing::debug!("a socket cannot be watched: {error}");
            }
        }
    }

    /// Its peer is to hear of a reset when it is closed.
    pub(crate) fn reset_when_closed(&self) {
        reset_when_closed(self.fd());
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A connection's peer is to hear of a reset when it is closed.
pub(crate) fn reset_when_closed(fd: BorrowedFd<'_>) {
    // A kernel that refuses says good-bye in the ordinary way.
    let _ = sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
}
