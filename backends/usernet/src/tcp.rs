//! TCP: smoltcp speaks it with the guest, the host's kernel with the peer, and bytes go from one
//! socket to the other.
//!
//! ```text
//!   SYN of the guest's ──► connect() ──┬── done: SYN+ACK, open
//!                                      └── not: RST, or ICMP says why
//!   connection to a forwarded port ──► SYN to the guest ──┬── SYN+ACK: open
//!                                                         └── not: the peer is reset
//! ```
//!
//! A FIN of one side is a FIN on the other, as is a reset; neither goes before the bytes in front of it.
//! Each connection has an interface of smoltcp's of its own, so that a frame costs the same however many
//! there are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketType, sockopt};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, TcpPacket};
use trapline_device::Readiness;

use crate::frame::{Packet, Place, checksums};
use crate::host::{HostSocket, reset_when_closed, socket};
use crate::icmp::{self, Unreachable};
use crate::outbox::Outbox;
use crate::stack::{Ends, Inner, MTU, Who};

/// The most connections at a time: the next is refused. Each is a descriptor of this process, of which
/// there are 1,024 by default.
pub const CONNECTIONS_MAX: usize = 512;

/// Bytes of a connection that wait in either direction.
const BUFFER: usize = 128 << 10;

/// How long the guest has to take a connection to a forwarded port.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than an acknowledgement is held back for others to join it, shorter than TIME-WAIT.
const LAST_ACK_DELAY: Duration = Duration::from_secs(1);
/// How often a guest that is silent is asked whether it still knows of a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// A connection.
pub(crate) struct Connection {
    guest: Side,
    host: HostSocket,
    phase: Phase,
    /// The peer has sent its last byte.
    host_done: bool,
    /// The guest has, and the peer knows.
    guest_done: bool,
}

/// The guest's side of one.
struct Side {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host connects to the peer; the guest waits.
    Connecting,
    /// The guest is asked to take a connection.
    Dialing,
    Open,
}

/// All of them.
pub(crate) type Connections = HashMap<Ends, Connection>;

/// What smoltcp sends to and receives from: at most one packet, and the queue of frames.
struct Wire<'a> {
    packet: Option<&'a [u8]>,
    outbox: &'a mut Outbox,
}

struct Incoming<'a>(&'a [u8]);

struct Outgoing<'a>(&'a mut Outbox);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.whole_packet(len, f)
    }
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.packet.take().map(|packet| (Incoming(packet), Outgoing(&mut *self.outbox)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        if self.outbox.has_room() { Some(Outgoing(&mut *self.outbox)) } else { None }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = MTU.into();
        caps.checksum = checksums();
        caps
    }
}

/// What has this address.
fn interface(address: IpAddr, outbox: &mut Outbox, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    // Where sequence numbers begin.
    config.random_seed = fastrand::u64(..);
    let mut interface = Interface::new(config, &mut Wire { packet: None, outbox }, now);
    let all = if address.is_ipv6() { 128 } else { 32 };
    // There is room for one.
    interface.update_ip_addrs(|addresses| {
        let _ = addresses.push(IpCidr::new(address.into(), all));
    });
    interface
}

impl Side {
    /// The side of whoever has this address, with no connection yet.
    fn new(address: IpAddr, outbox: &mut Outbox, now: Instant) -> Self {
        let interface = interface(address, outbox, now);
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        // Whoever has sent the bytes has waited for more already.
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        Self { interface, sockets, handle }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes a packet of the guest's.
    fn take(&mut self, packet: &[u8], outbox: &mut Outbox, now: Instant) {
        let wire = &mut Wire { packet: Some(packet), outbox };
        self.interface.poll_ingress_single(now, wire, &mut self.sockets);
    }

    /// Sends what there is to send, as far as there is room.
    fn send(&mut self, outbox: &mut Outbox, now: Instant) {
        while outbox.has_room() {
            let wire = &mut Wire { packet: None, outbox };
            let done = self.interface.poll_egress(now, wire, &mut self.sockets);
            if done == smoltcp::iface::PollResult::None {
                return;
            }
        }
    }
}

impl Inner {
    /// A segment of the guest's.
    pub(crate) fn tcp(&mut self, packet: &Packet<'_>) {
        let Ok(segment) = TcpPacket::new_checked(packet.payload) else { return };
        let Place { source, destination } = packet.place;
        // A connection has two ends (RFC 1122, section 4.2.3.10), and smoltcp has no address for
        // everybody.
        if [source, destination].into_iter().any(|ip| !IpAddress::from(ip).is_unicast()) {
            return;
        }
        let ends = Ends {
            guest: SocketAddr::new(source, segment.src_port()),
            remote: SocketAddr::new(destination, segment.dst_port()),
        };
        if !self.connections.contains_key(&ends) {
            if !segment.syn() || segment.ack() || segment.rst() {
                return self.refuse(packet);
            }
            if !self.connect(ends, packet) {
                return;
            }
        }
        let now = self.instant();
        let Some(connection) = self.connections.get_mut(&ends) else { return };
        connection.guest.take(packet.whole, &mut self.outbox, now);
        self.pump(ends);
    }

    /// Answers a segment of no connection: by a reset, if it is none itself.
    fn refuse(&mut self, packet: &Packet<'_>) {
        let now = self.instant();
        let mut nobody = interface(packet.place.destination, &mut self.outbox, now);
        let wire = &mut Wire { packet: Some(packet.whole), outbox: &mut self.outbox };
        nobody.poll_ingress_single(now, wire, &mut SocketSet::new(vec![]));
    }

    /// Begins a connection that the guest asks for. Whether there is one now; the guest has been told if
    /// not.
    fn connect(&mut self, ends: Ends, packet: &Packet<'_>) -> bool {
        let Some(outside) = self.addresses.outside(ends.remote) else { return false };
        if self.connections.len() >= CONNECTIONS_MAX {
            tracing::debug!("the guest has {CONNECTIONS_MAX} connections: another is refused");
            self.refuse(packet);
            return false;
        }
        let host = match self.dial_host(ends, outside) {
            Ok(host) => host,
            Err(error) => {
                tracing::debug!("no connection to {outside}: {error}");
                match Unreachable::of(error).filter(|why| *why != Unreachable::Port) {
                    Some(why) => {
                        icmp::unreachable(&mut self.outbox, packet.place, packet.whole, why);
                    }
                    None => self.refuse(packet),
                }
                return false;
            }
        };
        let now = self.instant();
        let mut guest = Side::new(ends.remote.ip(), &mut self.outbox, now);
        guest.socket().pause_synack(true);
        if guest.socket().listen(ends.remote).is_err() {
            // There is no port 0.
            self.dead.push(host);
            return false;
        }
        self.insert(ends, guest, host, Phase::Connecting);
        true
    }

    fn dial_host(&self, ends: Ends, outside: SocketAddr) -> Result<HostSocket, Errno> {
        let fd = socket(outside, SocketType::STREAM, None)?;
        // A kernel that cannot sends later.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        match rustix::net::connect(&fd, &outside) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let who = (self.me.clone(), Who::Connection(ends));
        HostSocket::new(fd, Readiness::WRITE, &*self.event_loop, who).map_err(|_| Errno::NOMEM)
    }

    /// Offers the guest a connection from `peer`, which has come to a forwarded port of its.
    pub(crate) fn offer(&mut self, fd: OwnedFd, peer: SocketAddr, port: u16) {
        // Until the guest has taken it.
        reset_when_closed(fd.as_fd());
        if self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        let guest = SocketAddr::new(self.addresses.guest.into(), port);
        let mut remote = self.addresses.inside(peer);
        let taken = |remote, all: &Connections| all.contains_key(&Ends { guest, remote });
        while taken(remote, &self.connections) {
            // There are more ports than connections. Those below 1,024 mean something.
            remote.set_port(remote.port().checked_add(1).unwrap_or(1024));
        }
        let (ends, now) = (Ends { guest, remote }, self.instant());
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let who = (self.me.clone(), Who::Connection(ends));
        let event_loop = Arc::clone(&self.event_loop);
        let Ok(host) = HostSocket::new(fd, Readiness::NONE, &*event_loop, who) else { return };
        let mut side = Side::new(remote.ip(), &mut self.outbox, now);
        let handle = side.handle;
        let socket = side.sockets.get_mut::<Socket<'_>>(handle);
        socket.set_timeout(Some(DIAL_TIMEOUT));
        if socket.connect(side.interface.context(), guest, remote).is_err() {
            self.dead.push(host);
            return;
        }
        self.insert(ends, side, host, Phase::Dialing);
        self.pump(ends);
    }

    fn insert(&mut self, ends: Ends, guest: Side, host: HostSocket, phase: Phase) {
        let connection = Connection { guest, host, phase, host_done: false, guest_done: false };
        self.connections.insert(ends, connection);
        self.counts.opened += 1;
    }

    /// The peer's socket is ready.
    pub(crate) fn connection_ready(&mut self, ends: Ends, ready: Readiness) {
        let Some(connection) = self.connections.get_mut(&ends) else { return };
        if connection.phase == Phase::Connecting && (ready.read || ready.write) {
            match sockopt::socket_error(connection.host.fd()) {
                Ok(Ok(())) => {
                    connection.phase = Phase::Open;
                    connection.guest.socket().pause_synack(false);
                }
                Ok(Err(error)) | Err(error) => {
                    tracing::debug!("no connection to {}: {error}", ends.remote);
                    connection.guest.socket().abort();
                }
            }
        }
        self.pump(ends);
    }

    /// Moves what can be moved in both directions, and ends what has ended.
    pub(crate) fn pump(&mut self, ends: Ends) {
        let now = self.instant();
        let Some(connection) = self.connections.get_mut(&ends) else { return };
        if connection.phase == Phase::Dialing && connection.guest.socket().may_send() {
            connection.phase = Phase::Open;
            connection.guest.socket().set_timeout(None);
            let _ = sockopt::set_socket_linger(connection.host.fd(), None);
        }
        if connection.phase == Phase::Open {
            connection.give_peer();
            connection.take_from_peer();
        }
        connection.guest.send(&mut self.outbox, now);
        if !self.outbox.has_room() {
            self.stalled.insert(Who::Connection(ends));
        }
        let has_room = self.outbox.has_room();
        let deadline = connection.deadline(now);
        if has_room && connection.is_over(deadline, now) {
            return self.close(ends);
        }
        connection.watch();
        self.deadlines.set(Who::Connection(ends), deadline.filter(|_| has_room));
    }

    fn close(&mut self, ends: Ends) {
        self.forget(Who::Connection(ends));
        let Some(connection) = self.connections.remove(&ends) else { return };
        self.counts.closed += 1;
        if !(connection.host_done && connection.guest_done) {
            connection.host.reset_when_closed();
        }
        self.dead.push(connection.host);
    }
}

impl Connection {
    /// Gives the peer what the guest has sent, and its end.
    fn give_peer(&mut self) {
        let socket = self.guest.sockets.get_mut::<Socket<'_>>(self.guest.handle);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while socket.can_recv() {
            let sent = socket.recv(|bytes| match rustix::net::send(self.host.fd(), bytes, flags) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(_) | Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) | Err(_) => return,
                Ok(Err(_)) => return socket.abort(),
            }
        }
        let ended = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if ended && !self.guest_done {
            self.guest_done = true;
            // A peer that has gone need not know.
            let _ = rustix::net::shutdown(self.host.fd(), Shutdown::Write);
        }
    }

    /// Takes what the peer has sent, as far as there is room, and its end.
    fn take_from_peer(&mut self) {
        let socket = self.guest.sockets.get_mut::<Socket<'_>>(self.guest.handle);
        while !self.host_done && socket.can_send() {
            let flags = RecvFlags::DONTWAIT;
            let received =
                socket.send(|room| match rustix::net::recv(self.host.fd(), room, flags) {
                    Ok((_, count)) => (count, Ok(count)),
                    Err(error) => (0, Err(error)),
                });
            match received {
                Ok(Ok(0)) => {
                    self.host_done = true;
                    socket.close();
                }
                Ok(Ok(_) | Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) | Err(_) => return,
                Ok(Err(_)) => return socket.abort(),
            }
        }
    }

    /// Whether nothing is left of it on the guest's side: what there was to send is sent.
    fn is_over(&mut self, deadline: Option<u64>, now: Instant) -> bool {
        match self.guest.socket().state() {
            // Or the guest has taken back what it asked for.
            State::Closed | State::Listen => true,
            // Nothing gets lost between here and the guest: when the last segment is acknowledged the
            // guest knows, and need not be waited for.
            State::TimeWait => {
                let acknowledged = nanoseconds(now + LAST_ACK_DELAY);
                self.guest_done && deadline.is_none_or(|at| at > acknowledged)
            }
            _ => false,
        }
    }

    /// Has the loop wait for what can be used.
    fn watch(&mut self) {
        let socket = self.guest.sockets.get::<Socket<'_>>(self.guest.handle);
        let interest = match self.phase {
            Phase::Connecting => Readiness::WRITE,
            Phase::Dialing => Readiness::NONE,
            Phase::Open => {
                Readiness { read: !self.host_done && socket.can_send(), write: socket.can_recv() }
            }
        };
        self.host.want(interest);
    }

    /// When it is to be looked at again, if nothing happens.
    fn deadline(&mut self, now: Instant) -> Option<u64> {
        if self.phase == Phase::Connecting {
            return None;
        }
        let Side { interface, sockets, .. } = &mut self.guest;
        interface.poll_at(now, sockets).map(nanoseconds)
    }
}

/// smoltcp's time as the machine's.
fn nanoseconds(at: Instant) -> u64 {
    let since = std::time::Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
