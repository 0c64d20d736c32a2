//! A driver and somebody on the host keep to the rules, or do not.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use trapline_guestmem::GuestMem;
use trapline_testkit::virtio::Part;

use super::regs::{GUEST_CID_MIN, OP_CREDIT_REQUEST};
use super::*;
use crate::alone::Alone;

const RAM: u64 = 0x40_0000;
/// Where packets of the guest are, and those for it.
const OUT: u64 = 0x20_0000;
const IN: u64 = 0x30_0000;
const IN_LEN: u32 = 0x2000;
const CID: u32 = GUEST_CID_MIN;
const GUEST: u32 = 1000;
const HOST: u32 = 80;

/// The host's end, whose other ends are the tests.
#[derive(Default)]
struct Peers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    last: u32,
    events: Vec<Event>,
    peers: BTreeMap<u32, Peer>,
    closed: Vec<u32>,
}

#[derive(Default)]
struct Peer {
    /// What it sends, and whether that is all.
    sends: Vec<u8>,
    ends: bool,
    /// What it has got, and for how much more it has room.
    got: Vec<u8>,
    room: usize,
    finished: bool,
    host_port: u32,
    waits: Readiness,
}

/// Nobody listens there.
const REFUSED: u32 = 81;

impl VsockBackend for Peers {
    fn attach(&self, _device: Weak<dyn VsockDevice>) {}

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().events)
    }

    fn connect(&self, port: u32) -> Option<u32> {
        let inner = &mut *self.0.lock();
        (port != REFUSED).then(|| {
            inner.last += 1;
            let room = usize::MAX;
            inner.peers.insert(inner.last, Peer { room, host_port: port, ..Peer::default() });
            inner.last
        })
    }

    fn accept(&self, id: u32, host_port: u32) {
        self.0.lock().peers.get_mut(&id).unwrap().host_port = host_port;
    }

    fn read(&self, id: u32, buf: &mut [u8]) -> io::Result<usize> {
        let inner = &mut *self.0.lock();
        let peer = inner.peers.get_mut(&id).unwrap();
        let len = peer.sends.len().min(buf.len());
        if len == 0 && !peer.ends {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..len].copy_from_slice(&peer.sends[..len]);
        peer.sends.drain(..len);
        Ok(len)
    }

    fn write(&self, id: u32, data: &[u8]) -> io::Result<usize> {
        let inner = &mut *self.0.lock();
        let peer = inner.peers.get_mut(&id).unwrap();
        let len = data.len().min(peer.room);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer.room -= len;
        peer.got.extend(&data[..len]);
        Ok(len)
    }

    fn wait_for(&self, id: u32, what: Readiness) {
        let inner = &mut *self.0.lock();
        let waits = &mut inner.peers.get_mut(&id).unwrap().waits;
        waits.read |= what.read;
        waits.write |= what.write;
    }

    fn finish(&self, id: u32) {
        self.0.lock().peers.get_mut(&id).unwrap().finished = true;
    }

    fn close(&self, id: u32) {
        let inner = &mut *self.0.lock();
        assert!(inner.peers.remove(&id).is_some(), "it is closed once");
        inner.closed.push(id);
    }
}

impl Peers {
    /// Changes a peer, and has the event come that the device waits for.
    fn with(&self, id: u32, change: impl FnOnce(&mut Peer)) {
        let inner = &mut *self.0.lock();
        let peer = inner.peers.get_mut(&id).unwrap();
        change(peer);
        let read = peer.waits.read && (!peer.sends.is_empty() || peer.ends);
        let write = peer.waits.write && peer.room > 0;
        peer.waits.read &= !read;
        peer.waits.write &= !write;
        if read || write {
            inner.events.push(Event::Ready { id, ready: Readiness { read, write } });
        }
    }

    fn got(&self, id: u32) -> Vec<u8> {
        self.0.lock().peers[&id].got.clone()
    }

    /// Somebody comes in.
    fn comes(&self, port: u32) -> u32 {
        let inner = &mut *self.0.lock();
        inner.last += 1;
        inner.peers.insert(inner.last, Peer { room: usize::MAX, ..Peer::default() });
        inner.events.push(Event::Incoming { id: inner.last, port });
        inner.last
    }
}

struct Bench {
    alone: Alone<Vsock>,
    peers: Arc<Peers>,
    /// Buffers that it was given, and those of them that came back.
    buffers: u32,
    back: u32,
}

/// A driver that has given the device this many buffers to receive into.
fn bench(buffers: u32) -> Bench {
    let peers = Arc::<Peers>::default();
    let device = Vsock::new(CID, peers.clone());
    let mut alone = Alone::new(device, GuestMem::new(&[(0, RAM)]).unwrap());
    alone.start_with_all();
    let mut bench = Bench { alone, peers, buffers: 0, back: 0 };
    bench.give(buffers);
    bench
}

/// What a guest says of its buffer.
const ROOM: u32 = 10_000;

fn packet(op: u16, flags: u32, len: usize) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID,
        src_port: GUEST,
        dst_port: HOST,
        len: u32::try_from(len).unwrap(),
        kind: TYPE_STREAM,
        op,
        flags,
        buf_alloc: ROOM,
        fwd_cnt: 0,
    }
}

impl Bench {
    fn give(&mut self, buffers: u32) {
        for _ in 0..buffers {
            let at = IN + u64::from(self.buffers % 64) * u64::from(IN_LEN);
            self.alone.add(RX, &[Part::Write(at, IN_LEN)]);
            self.buffers += 1;
        }
    }

    /// The guest sends a packet.
    fn send(&mut self, header: &Header, data: &[u8]) {
        let bytes = [&header.bytes()[..], data].concat();
        self.alone.mem.write(OUT, &bytes).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        self.alone.add(TX, &[Part::Read(OUT, len)]);
        assert_eq!(self.alone.used(TX), Some(0));
    }

    fn says(&mut self, op: u16, data: &[u8]) {
        self.send(&packet(op, 0, data.len()), data);
    }

    /// What the guest has got since the last time: packets, each with its data.
    fn got(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.alone.notify(RX);
        let mut all = Vec::new();
        while let Some((head, written)) = self.alone.rings[0].take_used() {
            self.back += 1;
            let at = IN + u64::from(head % 64) * u64::from(IN_LEN);
            let bytes = self.alone.bytes(at, written as usize);
            let (header, data) = bytes.split_first_chunk().unwrap();
            let header = Header::of(header);
            assert_eq!(header.len as usize, data.len());
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID.into()));
            all.push((header, data.to_vec()));
        }
        all
    }

    fn ops(&mut self) -> Vec<u16> {
        self.got().iter().map(|(header, _)| header.op).collect()
    }

    /// The guest connects.
    fn connect(&mut self) -> u32 {
        self.says(OP_REQUEST, &[]);
        assert_eq!(self.ops(), [OP_RESPONSE]);
        self.peers.0.lock().last
    }

    fn closed(&self) -> Vec<u32> {
        std::mem::take(&mut self.peers.0.lock().closed)
    }
}

#[test]
fn a_guest_connects_and_either_side_ends_its_half() {
    let mut bench = bench(16);
    let mut config = [0xff; 8];
    bench.alone.device.config_read(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0]);
    let id = bench.connect();
    assert_eq!(bench.peers.0.lock().peers[&id].host_port, HOST);
    bench.says(OP_RW, b"question");
    assert_eq!(bench.peers.got(id), b"question");
    bench.peers.with(id, |peer| peer.sends = b"answer".to_vec());
    let got = bench.got();
    let (header, data) = &got[0];
    assert_eq!((got.len(), header.op, data.as_slice()), (1, OP_RW, &b"answer"[..]));
    assert_eq!((header.src_port, header.dst_port), (HOST, GUEST));
    assert_eq!((header.buf_alloc, header.fwd_cnt), (BUFFER_LEN, 8));
    // The guest ends its half, and the host goes on.
    bench.send(&packet(OP_SHUTDOWN, SHUTDOWN_SEND, 0), &[]);
    assert!(bench.peers.0.lock().peers[&id].finished);
    bench.peers.with(id, |peer| (peer.sends, peer.ends) = (b"late".to_vec(), true));
    let got = bench.got();
    assert_eq!((got[0].0.op, got[0].1.as_slice()), (OP_RW, &b"late"[..]));
    assert_eq!((got[1].0.op, got[1].0.flags), (OP_SHUTDOWN, SHUTDOWN_SEND));
    assert!(bench.closed().is_empty());
    bench.send(&packet(OP_SHUTDOWN, SHUTDOWN_SEND | SHUTDOWN_RECEIVE, 0), &[]);
    assert_eq!((bench.ops(), bench.closed()), (vec![OP_RST], vec![id]));
}

#[test]
fn somebody_on_the_host_reaches_the_guest() {
    let mut bench = bench(16);
    let (first, second) = (bench.peers.comes(22), bench.peers.comes(22));
    bench.peers.with(first, |peer| peer.sends = b"early".to_vec());
    let asked = bench.got();
    let ports: Vec<_> = asked.iter().map(|(header, _)| (header.op, header.dst_port)).collect();
    assert_eq!(ports, [(OP_REQUEST, 22); 2]);
    assert_ne!(asked[0].0.src_port, asked[1].0.src_port);
    let port = asked[0].0.src_port;
    let reply = |op, port| Header { src_port: 22, dst_port: port, ..packet(op, 0, 0) };
    bench.send(&reply(OP_RESPONSE, port), &[]);
    assert_eq!(bench.peers.0.lock().peers[&first].host_port, port);
    assert_eq!(bench.got()[0].1, b"early");
    bench.send(&reply(OP_RST, asked[1].0.src_port), &[]);
    assert_eq!((bench.closed(), bench.ops()), (vec![second], vec![]));
    // Nobody takes connections before a driver is there, or after it has gone.
    bench.alone.reset();
    assert_eq!(bench.closed(), [first]);
    let third = bench.peers.comes(22);
    bench.alone.notify(RX);
    assert_eq!(bench.closed(), [third]);
}

#[test]
fn what_belongs_to_no_connection_is_reset() {
    let mut bench = bench(32);
    let to = |port, op| Header { dst_port: port, ..packet(op, 0, 0) };
    bench.send(&to(REFUSED, OP_REQUEST), &[]);
    assert_eq!(bench.ops(), [OP_RST], "nobody listens there");
    for op in [OP_RESPONSE, OP_RW, OP_SHUTDOWN, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST, 99] {
        bench.says(op, &[]);
        assert_eq!(bench.ops(), [OP_RST], "{op}");
    }
    bench.says(OP_RST, &[]);
    bench.send(&Header { kind: 2, ..packet(OP_RST, 0, 0) }, &[]);
    bench.send(&Header { src_cid: 4, ..packet(OP_REQUEST, 0, 0) }, &[]);
    bench.send(&Header { dst_cid: 1, ..packet(OP_REQUEST, 0, 0) }, &[]);
    assert_eq!(bench.ops(), [0; 0]);
    bench.send(&Header { kind: 2, ..packet(OP_REQUEST, 0, 0) }, &[]);
    let got = bench.got();
    assert_eq!((got[0].0.op, got[0].0.kind), (OP_RST, 2), "sockets of packets");
    // What a connection must not do ends it.
    let wrong: [(Header, usize); 5] = [
        (packet(OP_REQUEST, 0, 0), 0),
        (packet(OP_RESPONSE, 0, 0), 0),
        (packet(OP_RW, 0, 5), 4),
        (packet(OP_RW, 0, BUFFER_LEN as usize + 1), 4),
        (packet(77, 0, 0), 0),
    ];
    for (header, len) in wrong {
        let id = bench.connect();
        bench.send(&header, &vec![0; len]);
        assert_eq!((bench.ops(), bench.closed()), (vec![OP_RST], vec![id]), "{header:?}");
        bench.give(2);
    }
    bench.connect();
    bench.send(&packet(OP_SHUTDOWN, SHUTDOWN_SEND, 0), &[]);
    bench.says(OP_RW, b"more");
    assert_eq!(bench.ops(), [OP_RST]);
}

#[test]
fn who_sends_more_than_there_is_room_for_loses_the_connection() {
    let mut bench = bench(32);
    let id = bench.connect();
    bench.peers.with(id, |peer| peer.room = 100);
    let data = vec![7; BUFFER_LEN as usize];
    bench.says(OP_RW, &data);
    assert_eq!(bench.peers.got(id).len(), 100);
    bench.says(OP_CREDIT_REQUEST, &[]);
    let got = bench.got();
    assert_eq!((got[0].0.op, got[0].0.fwd_cnt), (OP_CREDIT_UPDATE, 100));
    bench.says(OP_RW, &data[..100]);
    assert_eq!((bench.closed(), bench.ops()), (vec![], vec![]));
    // The host reads a part, of which the guest hears by itself.
    bench.peers.with(id, |peer| peer.room = 20_000);
    let got = bench.got();
    assert_eq!((got[0].0.op, got[0].0.fwd_cnt), (OP_CREDIT_UPDATE, 20_100));
    bench.says(OP_RW, &data[..20_001]);
    assert_eq!((bench.closed(), bench.ops()), (vec![id], vec![OP_RST]));
}

#[test]
fn answers_that_nobody_fetches_stop_the_guest() {
    let mut bench = bench(0);
    for port in 0..10 {
        bench.send(&Header { src_port: port, ..packet(OP_REQUEST, 0, 0) }, &[]);
    }
    for _ in 0..300 {
        bench.says(OP_REQUEST, &[]);
        bench.says(OP_RST, &[]);
    }
    assert_eq!(bench.alone.device.run.lock().turns.len(), 10, "nobody else is owed anything");
    bench.alone.reset();
    bench.alone.start_with_all();
    for _ in 0..RESETS_MAX {
        bench.says(OP_RW, &[]);
    }
    bench.alone.mem.write(OUT, &packet(OP_RW, 0, 0).bytes()).unwrap();
    bench.alone.add(TX, &[Part::Read(OUT, 44)]);
    assert_eq!(bench.alone.used(TX), None, "the packet waits");
    bench.give(64);
    assert_eq!(bench.got().len(), 64);
    assert_eq!(bench.alone.used(TX), Some(0), "and is taken");
    bench.give(65);
    assert_eq!(bench.got().len(), 65);
}

#[test]
fn connections_are_bounded() {
    let mut bench = bench(64);
    for port in 0..u32::try_from(CONNECTIONS_MAX).unwrap() {
        bench.send(&Header { src_port: port, ..packet(OP_REQUEST, 0, 0) }, &[]);
        assert_eq!(bench.ops(), [OP_RESPONSE]);
        bench.give(1);
    }
    bench.send(&Header { src_port: 9999, ..packet(OP_REQUEST, 0, 0) }, &[]);
    assert_eq!(bench.ops(), [OP_RST]);
    let incoming = bench.peers.comes(22);
    assert_eq!((bench.ops(), bench.closed()), (vec![], vec![incoming]));
}

#[test]
fn a_driver_hears_that_all_is_lost_in_a_snapshot() {
    let mut bench = bench(8);
    let id = bench.connect();
    let saved = bench.alone.device.save();
    bench.alone.device.restore(&saved).unwrap();
    assert_eq!(bench.closed(), [id]);
    bench.alone.start_with_all();
    // Nobody listens yet.
    bench.alone.add(EVENTS, &[Part::Write(IN, 4)]);
    assert_eq!((bench.alone.used(EVENTS), bench.alone.bytes(IN, 4)), (Some(4), vec![0; 4]));
    bench.alone.add(EVENTS, &[Part::Write(IN, 4)]);
    assert_eq!(bench.alone.used(EVENTS), None, "once");
}

/// What happens to a connection.
#[derive(Clone, Debug)]
enum Step {
    /// The guest sends as much of this as it may.
    Sends(u16),
    /// The host's end has room for so much more.
    Room(u16),
    /// The host's end sends.
    Comes(u16),
    /// The guest reads so much, and says so.
    Reads(u16),
    /// The guest gives buffers to receive into.
    Gives(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u16>().prop_map(Step::Sends),
        any::<u16>().prop_map(Step::Room),
        (0..30_000_u16).prop_map(Step::Comes),
        any::<u16>().prop_map(Step::Reads),
        (0..8_u8).prop_map(Step::Gives),
    ]
}

/// A guest that keeps to its credit.
struct Guest {
    /// Bytes it has sent, those it was told are taken, those that came, those it has read: counts that
    /// wrap.
    sent: u32,
    taken: u32,
    came: u32,
    read: u32,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Nobody ever has more than it has said it has room for, and every byte arrives, in order.
    #[test]
    fn credit_is_kept_either_way(steps in vec(step(), 1..60), start in any::<u32>()) {
        let mut bench = bench(8);
        let id = bench.connect();
        bench.peers.with(id, |peer| peer.room = 0);
        let byte = |n: u32| u8::try_from(n % 251).unwrap();
        let mut host_sent = start;
        let mut guest = Guest { sent: start, taken: start, came: start, read: start };
        for connection in bench.alone.device.run.lock().connections.values_mut() {
            connection.count_from(start);
        }
        for step in steps {
            match step {
                Step::Sends(len) => {
                    let may = BUFFER_LEN - guest.sent.wrapping_sub(guest.taken);
                    let len = u32::from(len).min(may);
                    let data: Vec<u8> = (0..len).map(|n| byte(guest.sent.wrapping_add(n))).collect();
                    guest.sent = guest.sent.wrapping_add(len);
                    let header = Header { fwd_cnt: guest.read, ..packet(OP_RW, 0, data.len()) };
                    bench.send(&header, &data);
                }
                Step::Room(len) => bench.peers.with(id, |peer| peer.room = len.into()),
                Step::Comes(len) => bench.peers.with(id, |peer| {
                    peer.sends.extend((0..u32::from(len)).map(|n| byte(host_sent.wrapping_add(n))));
                    host_sent = host_sent.wrapping_add(len.into());
                }),
                Step::Reads(len) => {
                    let read = u32::from(len).min(guest.came.wrapping_sub(guest.read));
                    guest.read = guest.read.wrapping_add(read);
                    let header = Header { fwd_cnt: guest.read, ..packet(OP_CREDIT_UPDATE, 0, 0) };
                    bench.send(&header, &[]);
                }
                Step::Gives(buffers) => {
                    bench.give(u32::from(buffers).min(64 - (bench.buffers - bench.back)));
                }
            }
            for (header, data) in bench.got() {
                prop_assert!(header.op != OP_RST && header.op != OP_SHUTDOWN);
                guest.taken = header.fwd_cnt;
                prop_assert!(guest.sent.wrapping_sub(guest.taken) <= BUFFER_LEN);
                for (n, got) in (0..).zip(&data) {
                    prop_assert_eq!(*got, byte(guest.came.wrapping_add(n)));
                }
                guest.came = guest.came.wrapping_add(header.len);
                prop_assert!(guest.came.wrapping_sub(guest.read) <= ROOM, "the guest has no room for it");
            }
            let got = bench.peers.got(id);
            prop_assert!(got.iter().zip(0..).all(|(got, n)| *got == byte(start.wrapping_add(n))));
            let waits = guest.sent.wrapping_sub(start) as usize - got.len();
            prop_assert!(waits <= BUFFER_LEN as usize);
        }
        // Once all have room, all of it is there.
        bench.peers.with(id, |peer| peer.room = usize::MAX);
        let mut rounds = 0;
        while guest.came != host_sent && rounds < 1000 {
            guest.read = guest.came;
            let header = Header { fwd_cnt: guest.read, ..packet(OP_CREDIT_UPDATE, 0, 0) };
            bench.give(2.min(64 - (bench.buffers - bench.back)));
            bench.send(&header, &[]);
            for (header, data) in bench.got() {
                guest.came = guest.came.wrapping_add(header.len);
                prop_assert!(header.len as usize == data.len());
                prop_assert!(header.op != OP_RST);
            }
            rounds += 1;
        }
        prop_assert_eq!(guest.came, host_sent);
        bench.alone.notify(TX);
        prop_assert_eq!(bench.peers.got(id).len(), guest.sent.wrapping_sub(start) as usize);
    }
}

/// Any packet: mostly of the connections that there may be.
fn any_packet() -> impl Strategy<Value = (Header, usize)> {
    let ports = (0..3_u32, 79..83_u32);
    let op = prop_oneof![9 => 0..9_u16, 1 => any::<u16>()];
    let len = prop_oneof![9 => 0..200_u32, 1 => any::<u32>()];
    (ports, op, len, any::<u32>(), any::<(u32, u32)>(), 0..220_usize).prop_map(
        |((guest, host), op, len, flags, (buf_alloc, fwd_cnt), data)| {
            let header = Header { src_port: guest, dst_port: host, len, ..packet(op, flags, 0) };
            (Header { buf_alloc, fwd_cnt, ..header }, data)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends, nothing is left of it once the device is reset, and it works.
    #[test]
    fn any_packets_do_no_harm(packets in vec((any_packet(), 0..3_u8), 1..80)) {
        let mut bench = bench(4);
        for ((header, len), act) in packets {
            let bytes = [&header.bytes()[..], &vec![7; len]].concat();
            bench.alone.mem.write(OUT, &bytes).unwrap();
            bench.alone.add(TX, &[Part::Read(OUT, u32::try_from(bytes.len()).unwrap())]);
            prop_assert_eq!(bench.alone.used(TX), Some(0));
            let last = bench.peers.0.lock().peers.keys().next_back().copied();
            match (act, last) {
                (1, Some(id)) => bench.peers.with(id, |peer| peer.sends.extend([7; 100])),
                (2, Some(id)) => bench.peers.with(id, |peer| (peer.ends, peer.room) = (true, 10)),
                _ => _ = bench.peers.comes(header.src_port),
            }
            for (header, data) in bench.got() {
                prop_assert!(data.iter().all(|byte| *byte == 7), "{header:?}");
            }
            bench.give(2.min(64 - (bench.buffers - bench.back)));
            let run = bench.alone.device.run.lock();
            prop_assert_eq!(run.connections.len(), run.numbers.len());
            prop_assert!(run.turns.len() <= run.connections.len());
            prop_assert!(run.resets.len() <= RESETS_MAX + CONNECTIONS_MAX);
        }
        bench.alone.reset();
        prop_assert!(bench.peers.0.lock().peers.is_empty(), "every connection is closed");
        bench.alone.start_with_all();
        (bench.buffers, bench.back) = (0, 0);
        bench.give(4);
        bench.connect();
    }
}
