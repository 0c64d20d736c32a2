//! Ports of the host that lead to the guest.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Weak;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, sockopt};
use trapline_device::{EventLoop, Readiness};

use crate::host::{FLAGS, HostSocket, socket};
use crate::stack::{Inner, UserNet, Who};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Connections that a turn accepts; the rest is the next turn's.
const TURN: usize = 16;
/// How long they wait if the host has no descriptor for one.
const FULL_NS: u64 = 1_000_000_000;

/// What a forwarded port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to one of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the host listens.
    pub at: SocketAddr,
    /// Where the guest does.
    pub guest: u16,
}

impl fmt::Display for Forward {
    /// Where the host listens, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol} port {} of {}", self.at.port(), self.at.ip())
    }
}

/// Why a text names no forwarded port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no forwarded port: write tcp:8022:22 for port 8022 of the host's loopback interface, or \
     tcp:192.0.2.1:8022:22 for an address of the host's ([…] for IPv6), tcp or udp"
)]
pub struct ForwardError;

impl FromStr for Forward {
    type Err = ForwardError;

    /// `PROTOCOL:[ADDRESS:]PORT:GUESTPORT`; without an address only the host itself gets there.
    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (protocol, rest) = text.split_once(':').ok_or(ForwardError)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(ForwardError),
        };
        let (at, guest) = rest.rsplit_once(':').ok_or(ForwardError)?;
        let at = match at.parse::<u16>() {
            Ok(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            Err(_) => at.parse().map_err(|_| ForwardError)?,
        };
        let guest = guest.parse::<u16>().map_err(|_| ForwardError)?;
        if at.port() == 0 || guest == 0 {
            return Err(ForwardError);
        }
        Ok(Self { protocol, at, guest })
    }
}

/// All of them, each with its socket.
pub(crate) struct Forwards(Vec<Open>);

struct Open {
    forward: Forward,
    socket: HostSocket,
}

impl Forwards {
    /// None.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Listens at all of them.
    ///
    /// # Errors
    /// The host's, with the one it is about.
    pub(crate) fn open(
        forwards: &[Forward],
        net: &Weak<UserNet>,
        event_loop: &dyn EventLoop,
    ) -> Result<Self, (Forward, io::Error)> {
        let open = (0..).zip(forwards).map(|(index, forward)| {
            let listening = listen(forward).map_err(io::Error::from);
            let who = (net.clone(), Who::Forward(index));
            let socket = listening
                .and_then(|fd| HostSocket::new(fd, Readiness::READ, event_loop, who))
                .map_err(|error| (*forward, error))?;
            Ok(Open { forward: *forward, socket })
        });
        Ok(Self(open.collect::<Result<_, _>>()?))
    }

    pub(crate) fn protocol(&self, index: usize) -> Option<Protocol> {
        self.0.get(index).map(|open| open.forward.protocol)
    }

    pub(crate) fn guest_port(&self, index: usize) -> Option<u16> {
        self.0.get(index).map(|open| open.forward.guest)
    }

    /// The next datagram: who has sent it, and its length in `buf`.
    pub(crate) fn receive(&mut self, index: usize, buf: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let open = self.0.get_mut(index)?;
        open.socket.want(Readiness::READ);
        let (_, len, from) =
            rustix::net::recvfrom(open.socket.fd(), buf, RecvFlags::DONTWAIT).ok()?;
        Some((SocketAddr::try_from(from?).ok()?, len))
    }

    /// Sends a datagram of the guest's back.
    pub(crate) fn send_to(&self, index: usize, data: &[u8], to: SocketAddr) -> Result<(), Errno> {
        let Some(open) = self.0.get(index) else { return Ok(()) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendto(open.socket.fd(), data, flags, &to).map(|_| ())
    }

    /// Leaves what has come where it is for now.
    pub(crate) fn pause(&mut self, index: usize) {
        if let Some(open) = self.0.get_mut(index) {
            open.socket.want(Readiness::NONE);
        }
    }

    /// The next connection, and who it is from.
    fn accept(&mut self, index: usize) -> Result<(OwnedFd, SocketAddr), Errno> {
        let open = self.0.get_mut(index).ok_or(Errno::BADF)?;
        open.socket.want(Readiness::READ);
        let (fd, peer) = rustix::net::acceptfrom_with(open.socket.fd(), FLAGS)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((fd, peer.ok_or(Errno::AFNOSUPPORT)?))
    }
}

fn listen(forward: &Forward) -> Result<OwnedFd, Errno> {
    let kind = match forward.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let fd = socket(forward.at, kind, None)?;
    if forward.at.is_ipv6() {
        // The address that was said, and no other.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    if forward.protocol == Protocol::Tcp {
        // The connections of a machine that has just ended are in nobody's way.
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    rustix::net::bind(&fd, &forward.at)?;
    if forward.protocol == Protocol::Tcp {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

impl Inner {
    /// Somebody has come to a forwarded port.
    pub(crate) fn forward_ready(&mut self, index: usize) {
        match self.forwards.protocol(index) {
            Some(Protocol::Udp) => self.forwarded(index),
            Some(Protocol::Tcp) => {
                let Some(port) = self.forwards.guest_port(index) else { return };
                for _ in 0..TURN {
                    match self.forwards.accept(index) {
                        Ok((fd, peer)) => self.offer(fd, peer, port),
                        Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                            return self.accept_later(index);
                        }
                        Err(_) => return,
                    }
                }
            }
            None => {}
        }
    }

    /// Leaves connections where they are for a while: the host has no descriptor for another, and its
    /// socket is ready as long as one waits.
    fn accept_later(&mut self, index: usize) {
        tracing::debug!("there is no descriptor for a connection to a forwarded port");
        self.forwards.pause(index);
        let later = self.now_ns().saturating_add(FULL_NS);
        self.deadlines.set(Who::Forward(index), Some(later));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_said() {
        let parse = |text: &str| text.parse::<Forward>();
        let forward =
            |protocol, at: &str, guest| Ok(Forward { protocol, at: at.parse().unwrap(), guest });
        assert_eq!(parse("tcp:8022:22"), forward(Protocol::Tcp, "127.0.0.1:8022", 22));
        assert_eq!(parse("udp:0.0.0.0:53:5353"), forward(Protocol::Udp, "0.0.0.0:53", 5353));
        assert_eq!(parse("tcp:[::1]:8022:22"), forward(Protocol::Tcp, "[::1]:8022", 22));
        for wrong in [
            "",
            "tcp",
            "tcp:22",
            "sctp:1:2",
            "tcp:0:1",
            "tcp:1:0",
            "tcp:65536:1",
            "tcp::1:2",
            "tcp:host:1:2",
        ] {
            assert_eq!(parse(wrong), Err(ForwardError), "{wrong}");
        }
    }
}
