//! UDP and ICMP echo: a connected socket of the host for each pair of ends, while it is used.
//!
//! A connected socket is told by the kernel what could not be reached, and gets nothing from anybody
//! else. A datagram to a forwarded port goes back through the socket that it came by.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, ipproto};
use smoltcp::wire::{DHCP_SERVER_PORT, IpProtocol, UdpPacket};
use trapline_device::Readiness;

use crate::dhcp;
use crate::frame::{Packet, Place};
use crate::host::{HostSocket, socket};
use crate::icmp::{self, Unreachable};
use crate::stack::{Ends, Inner, Who};

/// The most pairs of ends at a time: the one that was not used for longest makes room for another.
pub const DATAGRAM_FLOWS_MAX: usize = 256;

/// How long a pair is kept after the guest has sent (RFC 4787, REQ-5).
const IDLE_NS: u64 = 120_000_000_000;

/// Datagrams that a turn of a socket takes; the rest is the next turn's.
const TURN: usize = 32;

/// The longest datagram.
pub(crate) const DATAGRAM_MAX: usize = 65_535;

/// A pair of ends of a protocol. For ICMP the guest's port is the echo's identifier, and the remote one 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) is_echo: bool,
    pub(crate) ends: Ends,
}

/// What is kept of one.
pub(crate) struct Flow {
    way: Way,
    used_ns: u64,
    /// The beginning of the guest's last packet, for errors about it.
    quoted: Vec<u8>,
}

/// How the guest's datagrams leave.
enum Way {
    /// By a socket of their own.
    Own(HostSocket),
    /// By that of a forwarded port, to who has sent to it.
    Forward(usize, SocketAddr),
}

/// All of them.
pub(crate) type Flows = HashMap<Pair, Flow>;

impl Inner {
    /// A datagram of UDP of the guest's.
    pub(crate) fn udp(&mut self, packet: &Packet<'_>) {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return };
        let Place { source, destination } = packet.place;
        let (from, to) = (datagram.src_port(), datagram.dst_port());
        if to == DHCP_SERVER_PORT && self.is_for_dhcp(packet.place) {
            return dhcp::answer(&self.addresses, &mut self.outbox, datagram.payload());
        }
        let ends =
            Ends { guest: SocketAddr::new(source, from), remote: SocketAddr::new(destination, to) };
        self.out(Pair { is_echo: false, ends }, packet, datagram.payload());
    }

    fn is_for_dhcp(&self, Place { destination, .. }: Place) -> bool {
        destination == self.addresses.host
            || matches!(destination, std::net::IpAddr::V4(ip) if ip.is_broadcast())
    }

    /// An echo request of the guest's. The gateway answers it itself.
    pub(crate) fn echo(&mut self, packet: &Packet<'_>, ident: u16) {
        let Place { source, destination } = packet.place;
        if self.addresses.is_host(destination) {
            return icmp::echo_reply(&mut self.outbox, packet.place.back(), ident, packet.payload);
        }
        let ends =
            Ends { guest: SocketAddr::new(source, ident), remote: SocketAddr::new(destination, 0) };
        self.out(Pair { is_echo: true, ends }, packet, packet.payload);
    }

    /// Sends what the guest has sent.
    fn out(&mut self, pair: Pair, packet: &Packet<'_>, payload: &[u8]) {
        if !self.flows.contains_key(&pair) {
            match self.open_flow(pair) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.failed(packet.place, packet.whole, error),
            }
        }
        let now = self.now_ns();
        let Some(flow) = self.flows.get_mut(&pair) else { return };
        flow.used_ns = now;
        flow.quoted.clear();
        flow.quoted.extend_from_slice(icmp::quoted(packet.whole));
        let sent = match &flow.way {
            Way::Own(socket) => send(socket.fd(), payload),
            Way::Forward(index, peer) => self.forwards.send_to(*index, payload, *peer),
        };
        // What the kernel has no room for is lost, as on any way.
        if let Err(error) = sent {
            self.failed(packet.place, packet.whole, error);
        }
    }

    /// Whether there is one now: not if nobody can have that address.
    fn open_flow(&mut self, pair: Pair) -> Result<bool, Errno> {
        let Some(outside) = self.addresses.outside(pair.ends.remote) else { return Ok(false) };
        let protocol = match (pair.is_echo, outside.is_ipv6()) {
            (true, true) => Some(ipproto::ICMPV6),
            (true, false) => Some(ipproto::ICMP),
            (false, _) => None,
        };
        let fd = socket(outside, SocketType::DGRAM, protocol)?;
        rustix::net::connect(&fd, &outside)?;
        let who = (self.me.clone(), Who::Datagram(pair));
        let event_loop = Arc::clone(&self.event_loop);
        let socket = HostSocket::new(fd, Readiness::READ, &*event_loop, who);
        self.insert_flow(pair, Way::Own(socket.map_err(|_| Errno::NOMEM)?));
        Ok(true)
    }

    fn insert_flow(&mut self, pair: Pair, way: Way) {
        if self.flows.len() >= DATAGRAM_FLOWS_MAX
            && let Some(oldest) =
                self.flows.iter().min_by_key(|(_, flow)| flow.used_ns).map(|(pair, _)| *pair)
        {
            self.close_flow(oldest);
        }
        let now = self.now_ns();
        self.flows.insert(pair, Flow { way, used_ns: now, quoted: Vec::new() });
        self.deadlines.set(Who::Datagram(pair), Some(now.saturating_add(IDLE_NS)));
    }

    fn close_flow(&mut self, pair: Pair) {
        self.forget(Who::Datagram(pair));
        if let Some(Flow { way: Way::Own(socket), .. }) = self.flows.remove(&pair) {
            self.dead.push(socket);
        }
    }

    /// Its time has come, if the guest has not used it since.
    pub(crate) fn flow_due(&mut self, pair: Pair) {
        let Some(flow) = self.flows.get(&pair) else { return };
        let due = flow.used_ns.saturating_add(IDLE_NS);
        if due <= self.now_ns() {
            self.close_flow(pair);
        } else {
            self.deadlines.set(Who::Datagram(pair), Some(due));
        }
    }

    /// Takes what has come for the guest.
    pub(crate) fn flow_ready(&mut self, pair: Pair) {
        for _ in 0..TURN {
            let Some(Flow { way: Way::Own(socket), quoted, .. }) = self.flows.get_mut(&pair) else {
                return;
            };
            if !self.outbox.has_room() {
                socket.want(Readiness::NONE);
                self.stalled.insert(Who::Datagram(pair));
                return;
            }
            socket.want(Readiness::READ);
            let place = Place { source: pair.ends.remote.ip(), destination: pair.ends.guest.ip() };
            match rustix::net::recv(socket.fd(), &mut self.scratch[..], RecvFlags::DONTWAIT) {
                Ok((_, len)) => {
                    let data = self.scratch.get(..len).unwrap_or_default();
                    if pair.is_echo {
                        let ident = pair.ends.guest.port();
                        icmp::echo_reply(&mut self.outbox, place, ident, data);
                    } else {
                        let ports = (pair.ends.remote.port(), pair.ends.guest.port());
                        self.outbox.udp(place, ports, data);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // What the guest sent before did not get there; the socket goes on.
                Err(error) => {
                    let quoted = std::mem::take(quoted);
                    self.failed(place.back(), &quoted, error);
                }
            }
        }
    }

    /// Takes what has come to a forwarded port.
    pub(crate) fn forwarded(&mut self, index: usize) {
        for _ in 0..TURN {
            if !self.outbox.has_room() {
                self.forwards.pause(index);
                self.stalled.insert(Who::Forward(index));
                return;
            }
            let Some((peer, len)) = self.forwards.receive(index, &mut self.scratch) else { return };
            let Some(port) = self.forwards.guest_port(index) else { return };
            let guest = SocketAddr::new(self.addresses.guest.into(), port);
            let ends = Ends { guest, remote: self.addresses.inside(peer) };
            let pair = Pair { is_echo: false, ends };
            // The last who came with these ends gets the answers.
            match self.flows.get(&pair) {
                Some(Flow { way: Way::Forward(by, to), .. }) if (*by, *to) == (index, peer) => {}
                _ => {
                    self.close_flow(pair);
                    self.insert_flow(pair, Way::Forward(index, peer));
                }
            }
            let now = self.now_ns();
            if let Some(flow) = self.flows.get_mut(&pair) {
                flow.used_ns = now;
            }
            let place = Place { source: ends.remote.ip(), destination: ends.guest.ip() };
            let data = self.scratch.get(..len).unwrap_or_default();
            self.outbox.udp(place, (ends.remote.port(), port), data);
        }
    }

    /// Tells the guest why a packet of its did not get there, if that is known.
    pub(crate) fn failed(&mut self, place: Place, packet: &[u8], error: Errno) {
        tracing::debug!("{} cannot be reached: {error}", place.destination);
        if let Some(why) = Unreachable::of(error).filter(|_| !packet.is_empty()) {
            icmp::unreachable(&mut self.outbox, place, packet, why);
        }
    }

    /// What nobody here speaks.
    pub(crate) fn other(&mut self, packet: &Packet<'_>) {
        let quiet = packet.protocol == IpProtocol::Igmp;
        let destination = SocketAddr::new(packet.place.destination, 0);
        if !quiet && self.addresses.outside(destination).is_some() {
            icmp::unreachable(&mut self.outbox, packet.place, packet.whole, Unreachable::Protocol);
        }
    }
}

fn send(fd: BorrowedFd<'_>, payload: &[u8]) -> Result<(), Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(fd, payload, flags) {
        // An error from before is told of once; the datagram itself can still go.
        Err(Errno::CONNREFUSED) => rustix::net::send(fd, payload, flags).map(|_| ()),
        done => done.map(|_| ()),
    }
}
