//! A guest for tests: smoltcp behind the network, and the host's side in the same thread.

#![allow(dead_code, reason = "no test needs all of it")]

use std::sync::Arc;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};
use trapline_device::{Clock, EventLoop};
use trapline_testkit::{PolledLoop, TestClock};
use trapline_usernet::{Addresses, Forward, UserNet, UserNetOptions};

pub(crate) const ADDRESSES: Addresses = Addresses::new(0);
pub(crate) const GUEST_MAC: [u8; 6] = [2, 0x15, 0x15, 0x15, 0x15, 0x15];

/// Turns after which something that was to happen has not: more than anything takes.
const TURNS: u32 = 200_000;
/// Machine time of a turn.
const TURN_NS: u64 = 100_000;
const FRAME_MAX: usize = 65_535 + 18;

pub(crate) struct Guest {
    pub(crate) net: Arc<UserNet>,
    pub(crate) clock: TestClock,
    pub(crate) event_loop: Arc<PolledLoop>,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    card: Card,
    next_port: u16,
}

pub(crate) struct Card {
    net: Arc<UserNet>,
    pub(crate) mtu: usize,
    /// All frames that came, if somebody wants them.
    pub(crate) seen: Option<Vec<Vec<u8>>>,
}

pub(crate) struct Rx(Vec<u8>);
pub(crate) struct Tx<'a>(&'a UserNet);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let done = f(&mut frame);
        self.0.send(&frame);
        done
    }
}

impl Device for Card {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Rx, Tx<'_>)> {
        let mut frame = vec![0; FRAME_MAX];
        let len = self.net.receive(&mut frame)?;
        frame.truncate(len);
        if let Some(seen) = &mut self.seen {
            seen.push(frame.clone());
        }
        Some((Rx(frame), Tx(&self.net)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        Some(Tx(&self.net))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        caps
    }
}

impl Guest {
    /// A guest that has its address, and these ports of the host.
    pub(crate) fn new(forwards: &[&str]) -> Self {
        let mut guest = Self::bare(forwards);
        guest.interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(ADDRESSES.guest.into(), 24)).unwrap();
        });
        guest.interface.routes_mut().add_default_ipv4_route(ADDRESSES.host).unwrap();
        guest
    }

    /// One that has none.
    pub(crate) fn bare(forwards: &[&str]) -> Self {
        let event_loop = trapline_testkit::event_loop();
        let clock = TestClock::default();
        let forwards: Vec<Forward> = forwards.iter().map(|text| text.parse().unwrap()).collect();
        let options = UserNetOptions { addresses: ADDRESSES, forwards };
        let (dynamic, time): (Arc<dyn EventLoop>, Arc<dyn Clock>) =
            (event_loop.clone(), Arc::new(clock.clone()));
        let net = UserNet::new(&options, &dynamic, &time);
        let net = net.unwrap_or_else(|(forward, error)| panic!("{forward:?}: {error}"));
        let mut card = Card { net: net.clone(), mtu: 1500, seen: None };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC)));
        config.random_seed = 7;
        let interface = Interface::new(config, &mut card, Instant::ZERO);
        let sockets = SocketSet::new(vec![]);
        Self { net, clock, event_loop, interface, sockets, card, next_port: 20_000 }
    }

    pub(crate) fn card(&mut self) -> &mut Card {
        &mut self.card
    }

    /// Everybody gets a turn.
    pub(crate) fn turn(&mut self) {
        let busy = self.event_loop.turn();
        let now = Instant::from_micros(i64::try_from(self.clock.now_ns() / 1000).unwrap());
        let changed = self.interface.poll(now, &mut self.card, &mut self.sockets);
        self.clock.step_ns(TURN_NS);
        if !busy && changed == smoltcp::iface::PollResult::None {
            // The kernel, or a thread of the test's, has something to do.
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Turns until it has happened.
    #[track_caller]
    pub(crate) fn until<R>(&mut self, mut happened: impl FnMut(&mut Self) -> Option<R>) -> R {
        for _ in 0..TURNS {
            if let Some(done) = happened(self) {
                return done;
            }
            self.turn();
        }
        panic!("it has not happened in {TURNS} turns, {:?}", self.net.counts());
    }

    /// A few turns in which nothing is to happen.
    pub(crate) fn rest(&mut self) {
        (0..50).for_each(|_| self.turn());
    }

    /// A socket of the guest's that connects to this port of the gateway.
    pub(crate) fn connect(&mut self, port: u16) -> SocketHandle {
        self.connect_to((ADDRESSES.host, port).into())
    }

    pub(crate) fn connect_to(&mut self, to: IpEndpoint) -> SocketHandle {
        let handle = self.socket();
        self.next_port += 1;
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, self.next_port).unwrap();
        handle
    }

    /// A socket of the guest's.
    pub(crate) fn socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// Bytes that are not the same anywhere near.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}
