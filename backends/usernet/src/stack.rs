//! The network as a whole: what its card and the event loop call.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use etherparse::SlicedPacket;
use parking_lot::Mutex;
use smoltcp::time::Instant;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpProtocol};
use trapline_device::{Clock, EventHandler, EventLoop, Notifier, Readiness, Timer, Wake};

use crate::addresses::Addresses;
use crate::datagram::{DATAGRAM_MAX, Flows, Pair};
use crate::forward::{Forward, Forwards};
use crate::fragments::Fragments;
use crate::frame::{self, Frame, Packet, checksums};
use crate::host::HostSocket;
use crate::outbox::Outbox;
use crate::tcp::Connections;
use crate::{arp, icmp, ndp};

/// The longest IP packet of a guest that asks, in bytes. There is no wire, so the longer the better; a
/// multiple of four below IP's limit.
pub const MTU: u16 = 65_520;

/// A network, as its user describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNetOptions {
    /// Who is who.
    pub addresses: Addresses,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
}

/// Who wants to know that there are frames.
pub trait FramesReady: Send + Sync {
    /// There are. Called on the event loop, with no lock of the network held, and from none of its
    /// methods.
    fn frames_ready(&self);
}

/// What a network has at the moment and has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that there are.
    pub connections: usize,
    /// Pairs of ends that exchange datagrams.
    pub flows: usize,
    /// Who waits for room for frames, of these and of forwarded ports.
    pub stalled: usize,
    /// Connections that were begun, from either side.
    pub opened: u64,
    /// Connections that have ended.
    pub closed: u64,
}

/// A network for one guest.
pub struct UserNet {
    notifier: Box<dyn Notifier>,
    timer: Box<dyn Timer>,
    ready: OnceLock<Weak<dyn FramesReady>>,
    inner: Mutex<Inner>,
}

/// Both ends of a connection, or of an exchange of datagrams, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ends {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What has a socket of the host, or a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Connection(Ends),
    Datagram(Pair),
    Forward(usize),
    /// The gateway is to be heard of again.
    Router,
}

/// When whom to look at.
#[derive(Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(u64, Who)>,
    by_name: HashMap<Who, u64>,
    /// What the timer is set to.
    armed: Option<u64>,
}

pub(crate) struct Inner {
    pub(crate) me: Weak<UserNet>,
    pub(crate) event_loop: Arc<dyn EventLoop>,
    clock: Arc<dyn Clock>,
    pub(crate) addresses: Addresses,
    pub(crate) outbox: Outbox,
    pub(crate) connections: Connections,
    pub(crate) flows: Flows,
    pub(crate) forwards: Forwards,
    fragments: Fragments,
    pub(crate) deadlines: Deadlines,
    /// Who waits for room for frames.
    pub(crate) stalled: BTreeSet<Who>,
    /// What is to be dropped without the lock.
    pub(crate) dead: Vec<HostSocket>,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) counts: Counts,
    /// The card wants to know of frames, and has not been told since.
    waited_for: bool,
}

/// The card had frames made, or room for more.
impl EventHandler for UserNet {
    fn event(&self, _ready: Readiness) {
        self.on_loop(Inner::unstall);
    }
}

impl Wake for UserNet {
    fn wake(&self) {
        self.on_loop(Inner::look_at_due);
    }
}

impl UserNet {
    /// A network on this event loop. Its ports are listened at from now on.
    ///
    /// # Errors
    /// The host's, with the port that it is about.
    pub fn new(
        options: &UserNetOptions,
        event_loop: &Arc<dyn EventLoop>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<Self>, (Forward, io::Error)> {
        let mut refused = None;
        let this = Arc::new_cyclic(|me: &Weak<Self>| {
            let forwards = Forwards::open(&options.forwards, me, &**event_loop);
            let forwards = forwards.unwrap_or_else(|error| {
                refused = Some(error);
                Forwards::none()
            });
            Self {
                notifier: event_loop.notifier(me.clone()),
                timer: clock.timer(me.clone()),
                ready: OnceLock::new(),
                inner: Mutex::new(Inner::new(me, options, forwards, (event_loop, clock))),
            }
        });
        match refused {
            Some(refused) => Err(refused),
            None => Ok(this),
        }
    }

    /// Whom to tell of frames. Called once.
    pub fn attach(&self, ready: Weak<dyn FramesReady>) {
        self.ready.get_or_init(|| ready);
    }

    /// Whether [`FramesReady`] is to be called, once each time there are frames after there were none;
    /// at first not.
    pub fn set_receiving(&self, on: bool) {
        self.act(|inner| inner.waited_for = on);
    }

    /// Takes a frame of the guest's, whose checksums need not be made, and which can be one that is still
    /// to be segmented. What makes no sense is dropped.
    pub fn send(&self, frame: &[u8]) {
        self.act(|inner| inner.frame(frame));
    }

    /// Copies the next frame for the guest into `buf`. Its length, or `None` if there is none.
    pub fn receive(&self, buf: &mut [u8]) -> Option<usize> {
        let mut inner = self.inner.lock();
        let len = inner.outbox.pop(buf);
        let moves_on = !inner.stalled.is_empty() && inner.outbox.has_room();
        drop(inner);
        if moves_on {
            self.notifier.notify();
        }
        len
    }

    /// What it has.
    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        let (connections, flows) = (inner.connections.len(), inner.flows.len());
        Counts { connections, flows, stalled: inner.stalled.len(), ..inner.counts }
    }

    /// Does something for the card, which hears of frames later.
    fn act(&self, act: impl FnOnce(&mut Inner)) {
        if self.locked(act) {
            self.notifier.notify();
        }
    }

    /// Does something on the event loop.
    fn on_loop(&self, act: impl FnOnce(&mut Inner)) {
        if self.locked(act) {
            self.tell();
        }
    }

    /// Does something, and what has to be done after it. Whether the card is to hear of frames.
    fn locked(&self, act: impl FnOnce(&mut Inner)) -> bool {
        let mut inner = self.inner.lock();
        act(&mut inner);
        let due = inner.deadlines.changed();
        let dead = std::mem::take(&mut inner.dead);
        let tell = inner.waited_for && !inner.outbox.is_empty();
        drop(inner);
        drop(dead);
        if let Some(due) = due {
            self.timer.arm(due);
        }
        tell
    }

    fn tell(&self) {
        if let Some(ready) = self.ready.get().and_then(Weak::upgrade) {
            ready.frames_ready();
        }
    }

    /// A socket is ready.
    pub(crate) fn event(&self, who: &Who, ready: Readiness) {
        self.on_loop(|inner| match who {
            Who::Connection(ends) => inner.connection_ready(*ends, ready),
            Who::Datagram(pair) => inner.flow_ready(*pair),
            Who::Forward(index) => inner.forward_ready(*index),
            Who::Router => {}
        });
    }
}

impl Inner {
    fn new(
        me: &Weak<UserNet>,
        options: &UserNetOptions,
        forwards: Forwards,
        (event_loop, clock): (&Arc<dyn EventLoop>, &Arc<dyn Clock>),
    ) -> Self {
        Self {
            me: me.clone(),
            event_loop: Arc::clone(event_loop),
            clock: Arc::clone(clock),
            addresses: options.addresses,
            outbox: Outbox::new(options.addresses.mac()),
            connections: HashMap::new(),
            flows: HashMap::new(),
            forwards,
            fragments: Fragments::new(),
            deadlines: Deadlines::default(),
            stalled: BTreeSet::new(),
            dead: Vec::new(),
            scratch: vec![0; DATAGRAM_MAX].into(),
            counts: Counts::default(),
            waited_for: false,
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// The machine's time as smoltcp has it.
    pub(crate) fn instant(&self) -> Instant {
        let now = Duration::from_nanos(self.now_ns()).as_micros();
        Instant::from_micros(i64::try_from(now).unwrap_or(i64::MAX))
    }

    fn frame(&mut self, frame: &[u8]) {
        let Some((sender, inside)) = frame::parse(frame) else { return };
        self.outbox.guest = sender;
        let whole = match inside {
            Frame::Arp(packet) => return arp::answer(&self.addresses, &mut self.outbox, packet),
            Frame::Ip(whole) => whole,
        };
        let Ok(sliced) = SlicedPacket::from_ip(whole) else { return };
        if let Some(packet) = Packet::new(&sliced, whole) {
            return self.packet(&packet);
        }
        let now = self.now_ns();
        let Some(place) = frame::place(&sliced) else { return };
        let Some((protocol, payload)) = self.fragments.take(&sliced, now) else { return };
        // Segments of TCP are made to fit, so that nobody cuts them.
        if protocol != IpProtocol::Tcp {
            self.packet(&Packet { place, protocol, payload: &payload, whole });
        }
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        if packet.place.source.is_multicast() {
            return;
        }
        match packet.protocol {
            IpProtocol::Tcp => self.tcp(packet),
            IpProtocol::Udp => self.udp(packet),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.icmp(packet),
            _ => self.other(packet),
        }
    }

    fn icmp(&mut self, packet: &Packet<'_>) {
        if let Some(ident) = icmp::echo_ident(packet.protocol, packet.payload) {
            return self.echo(packet, ident);
        }
        let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) =
            (packet.place.source, packet.place.destination)
        else {
            return;
        };
        let Ok(icmp) = Icmpv6Packet::new_checked(packet.payload) else { return };
        let Ok(Icmpv6Repr::Ndisc(message)) =
            Icmpv6Repr::parse(&source, &destination, &icmp, &checksums())
        else {
            return;
        };
        if ndp::answer(&self.addresses, &mut self.outbox, packet.place, &message) {
            self.advertise();
        }
    }

    fn advertise(&mut self) {
        ndp::advertise(&self.addresses, &mut self.outbox);
        let next = self.now_ns().saturating_add(ndp::INTERVAL_NS);
        self.deadlines.set(Who::Router, Some(next));
    }

    /// Looks at all whose time has come.
    fn look_at_due(&mut self) {
        let now = self.now_ns();
        // Each is looked at once, whatever its next time is.
        for who in self.deadlines.take_due(now) {
            match who {
                Who::Connection(ends) => self.pump(ends),
                Who::Datagram(pair) => self.flow_due(pair),
                Who::Forward(index) => self.forward_ready(index),
                Who::Router => self.advertise(),
            }
        }
    }

    /// Waits neither for the time of who has ended, nor for room for it.
    pub(crate) fn forget(&mut self, who: Who) {
        self.deadlines.set(who, None);
        self.stalled.remove(&who);
    }

    /// Lets go on who waited for room.
    fn unstall(&mut self) {
        if !self.outbox.has_room() {
            return;
        }
        // Who has no room again is in the next.
        for who in std::mem::take(&mut self.stalled) {
            match who {
                Who::Connection(ends) => self.pump(ends),
                Who::Datagram(pair) => self.flow_ready(pair),
                Who::Forward(index) => self.forward_ready(index),
                Who::Router => {}
            }
        }
    }
}

impl Deadlines {
    /// When to look at somebody next.
    pub(crate) fn set(&mut self, who: Who, at: Option<u64>) {
        let before = match at {
            Some(at) => self.by_name.insert(who, at),
            None => self.by_name.remove(&who),
        };
        if before != at {
            if let Some(before) = before {
                self.by_time.remove(&(before, who));
            }
            if let Some(at) = at {
                self.by_time.insert((at, who));
            }
        }
    }

    /// Takes out all until now.
    fn take_due(&mut self, now: u64) -> Vec<Who> {
        let due: Vec<Who> =
            self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, who)| *who).collect();
        for who in &due {
            self.set(*who, None);
        }
        // The timer has run out.
        self.armed = None;
        due
    }

    /// The first, if that is another than when this was asked last.
    fn changed(&mut self) -> Option<Option<u64>> {
        let first = self.by_time.first().map(|(at, _)| *at);
        (std::mem::replace(&mut self.armed, first) != first).then_some(first)
    }
}
