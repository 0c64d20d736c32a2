//! Coalesced writes: they reach their handlers before anything that was done after them.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use support::{Recorder, Source, event};
use trapline::{
    CoalescedWrite, Handler, IoCx, Limits, Mapping, Offload, Region, Registry, Rules, Size, Space,
    Zone,
};

/// A registry with two handles whose source queues writes to the first byte of `serial0`.
fn serial() -> (Arc<Source>, Registry, Arc<Recorder>, Mapping) {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let region = Region::pio(0x3f8, 8, "serial0", "uart", device.clone()).coalesce(0..1);
    let mapping = registry.map(region).unwrap();
    (source, registry, device, mapping)
}

#[test]
fn the_shortest_way_to_a_handler_does_not_overtake_a_queued_write() {
    let (source, registry, device, _map) = serial();
    let mut handle = registry.handle(0);
    // Only a handle that has been to a region before takes the shortest way there.
    handle.read_value(Space::Pio, 0x3fd, Size::Byte);
    handle.write_value(Space::Pio, 0x3ff, Size::Byte, 0);
    device.take();
    source.guest_write(Space::Pio, 0x3f8, b"a");
    handle.read_value(Space::Pio, 0x3fd, Size::Byte);
    assert_eq!(device.take(), [("write", 0, 1, 0x61), ("read", 5, 1, 5)]);
    source.guest_write(Space::Pio, 0x3f8, b"b");
    handle.write_value(Space::Pio, 0x3ff, Size::Byte, 7);
    assert_eq!(device.take(), [("write", 0, 1, 0x62), ("write", 7, 1, 7)]);
}

#[test]
fn accesses_of_odd_lengths_and_strings_do_not_overtake_a_queued_write() {
    let (source, registry, device, _map) = serial();
    let mut handle = registry.handle(0);
    let accesses: [&dyn Fn(&mut trapline::Handle); 4] = [
        &|handle| handle.read(Space::Pio, 0x3fd, &mut [0; 3]),
        &|handle| handle.write(Space::Pio, 0x3fd, &[0; 3]),
        &|handle| handle.read_rep(0x3f9, Size::Byte, &mut [0; 2]),
        &|handle| handle.write_rep(0x3f9, Size::Byte, &[0; 2]),
    ];
    for (i, access) in accesses.into_iter().enumerate() {
        source.guest_write(Space::Pio, 0x3f8, b"a");
        access(&mut handle);
        let calls = device.take();
        assert_eq!(calls[0], ("write", 0, 1, 0x61), "access {i}");
        assert!(calls.len() > 1, "access {i}");
    }
}

#[test]
fn writes_that_an_edit_took_out_of_the_source_come_before_those_queued_after_it() {
    let (source, registry, device, map) = serial();
    source.guest_write(Space::Pio, 0x3f8, b"1");
    registry
        .edit(|edit| {
            edit.place(map.id(), Some(0x2f8));
            Ok(())
        })
        .unwrap();
    assert!(source.queue.lock().is_empty(), "the edit has the first write");
    source.guest_write(Space::Pio, 0x2f8, b"2");
    registry.drain();
    assert_eq!(device.take(), [("write", 0, 1, 0x31), ("write", 0, 1, 0x32)]);
}

#[test]
fn remove_sync_delivers_what_was_queued_before_it_returns() {
    let (source, registry, device, map) = serial();
    source.guest_write(Space::Pio, 0x3f8, b"last");
    source.guest_write(Space::Pio, 0x3f8, b"x");
    registry.remove_sync(map);
    assert_eq!(device.take(), [("write", 0, 1, 0x78)], "what is longer than the zone traps");
}

#[test]
fn a_queued_write_the_region_refuses_is_counted_as_refused() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let bytes = Rules { valid: Limits::only(Size::Byte), handled: Limits::only(Size::Byte) };
    let device = Recorder::with_rules(bytes);
    let region = Region::mmio(0x1000, 8, "d", "r", device.clone()).coalesce(0..8);
    let _map = registry.map(region).unwrap();
    assert!(source.guest_write(Space::Mmio, 0x1000, &[1, 2]));
    assert!(source.guest_write(Space::Mmio, 0x1004, &[3]));
    assert!(source.guest_write(Space::Mmio, 0x1005, &[4]));
    registry.drain();
    assert_eq!(device.take(), [("write", 4, 1, 3), ("write", 5, 1, 4)]);
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.writes, counts.coalesced, counts.refused), (3, 3, 1));
}

/// A handler whose writes say that they have begun and wait to be let go.
struct Gate {
    begun: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Handler for Gate {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        self.begun.send(()).unwrap();
        self.go.lock().recv().unwrap();
    }
}

fn gate() -> (Arc<Gate>, Receiver<()>, Sender<()>) {
    let (begun_tx, begun) = channel();
    let (go, go_rx) = channel();
    (Arc::new(Gate { begun: begun_tx, go: Mutex::new(go_rx) }), begun, go)
}

/// Long enough for a thread that waits for nothing to be done; a slow machine cannot make a test
/// fail by it, only let a fault pass.
const MOMENT: Duration = Duration::from_millis(50);

#[test]
fn an_access_waits_for_the_write_that_another_thread_is_delivering() {
    let (source, registry, device, _map) = serial();
    let (slow, begun, go) = gate();
    let region = Region::mmio(0x1000, 8, "slow", "r", slow).coalesce(0..8);
    let _slow = registry.map(region).unwrap();
    let mut first = registry.handle(0);
    let mut second = registry.handle(1);
    second.read_value(Space::Pio, 0x3fd, Size::Byte);
    device.take();
    source.guest_write(Space::Mmio, 0x1000, &[1]);
    // `second` has nothing to look at in the queue any more once `first` delivers.
    let first = std::thread::spawn(move || first.drain());
    begun.recv().unwrap();
    assert!(source.queue.lock().is_empty());
    let (read_tx, read) = channel();
    let second = std::thread::spawn(move || {
        second.read_value(Space::Pio, 0x3fd, Size::Byte);
        read_tx.send(()).unwrap();
    });
    assert!(read.recv_timeout(MOMENT).is_err(), "the read overtook the write");
    go.send(()).unwrap();
    read.recv().unwrap();
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn remove_sync_waits_for_a_queued_write_that_is_being_delivered() {
    let (source, registry, _device, _map) = serial();
    let (slow, begun, go) = gate();
    // Its writes are in the queue though it has no window: `remove_sync` does not have to deliver
    // anything first, so it is the delivered write itself that it has to see.
    let slow_map = registry.map(Region::mmio(0x1000, 8, "slow", "r", slow)).unwrap();
    let write = CoalescedWrite { space: Space::Mmio, addr: 0x1000, len: 1, data: [1; 8] };
    source.queue.lock().push_back(write);
    let mut handle = registry.handle(0);
    let vcpu = std::thread::spawn(move || handle.drain());
    begun.recv().unwrap();
    let (removed_tx, removed) = channel();
    let manager = std::thread::spawn({
        let registry = registry.clone();
        move || {
            registry.remove_sync(slow_map);
            removed_tx.send(()).unwrap();
        }
    });
    assert!(removed.recv_timeout(MOMENT).is_err(), "the handler was still running");
    go.send(()).unwrap();
    removed.recv().unwrap();
    vcpu.join().unwrap();
    manager.join().unwrap();
}

#[test]
fn a_queued_write_that_is_being_delivered_delays_nobody_elses_removal() {
    let (source, registry, _device, _map) = serial();
    let (slow, begun, go) = gate();
    let _slow = registry.map(Region::mmio(0x1000, 8, "slow", "r", slow).coalesce(0..8)).unwrap();
    let other = registry.map(Region::mmio(0x2000, 8, "other", "r", Recorder::new())).unwrap();
    assert!(source.guest_write(Space::Mmio, 0x1000, &[1]));
    let mut handle = registry.handle(0);
    let vcpu = std::thread::spawn(move || handle.drain());
    begun.recv().unwrap();
    // Would never return if it waited: the handler is let go only afterwards.
    registry.remove_sync(other);
    go.send(()).unwrap();
    vcpu.join().unwrap();
}

#[test]
fn writes_are_waiting_only_while_the_source_has_some() {
    let (source, registry, device, map) = serial();
    assert!(registry.coalesces());
    assert!(!registry.drain(), "nothing was written");
    source.guest_write(Space::Pio, 0x3f8, b"a");
    assert!(registry.drain());
    assert!(!registry.drain(), "all of it was delivered");
    // What an edit has taken out of the source is waiting, too.
    source.guest_write(Space::Pio, 0x3f8, b"b");
    source.guest_write(Space::Pio, 0x3f8, b"c");
    registry
        .edit(|edit| {
            edit.place(map.id(), Some(0x2f8));
            Ok(())
        })
        .unwrap();
    assert!(registry.drain());
    assert!(!registry.drain());
    assert_eq!(device.take().len(), 3);
}

/// A source that counts how often it is asked.
#[derive(Default)]
struct Asked(Mutex<usize>);

impl Offload for Asked {
    fn install(&self, _zone: &Zone) -> Result<bool, String> {
        Ok(true)
    }

    fn remove(&self, _zone: &Zone) {}

    fn queued(&self) -> bool {
        *self.0.lock() += 1;
        false
    }
}

#[test]
fn nobody_looks_for_queued_writes_before_anything_is_coalesced() {
    let source = Arc::new(Asked::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let (_seen, bell) = event();
    let region = Region::mmio(0x1000, 8, "d", "r", device.clone()).doorbell(0, 4, None, bell);
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.read_value(Space::Mmio, 0x1004, Size::Byte);
    handle.write_value(Space::Mmio, 0x1004, Size::Byte, 0);
    handle.read(Space::Mmio, 0x1004, &mut [0; 3]);
    assert!(!registry.drain());
    assert!(!registry.coalesces());
    assert_eq!(*source.0.lock(), 0);
    let region = Region::pio(0x3f8, 8, "serial0", "uart", device).coalesce(0..1);
    let _serial = registry.map(region).unwrap();
    handle.read_value(Space::Mmio, 0x1004, Size::Byte);
    assert_ne!(*source.0.lock(), 0);
    assert!(registry.coalesces());
}

#[test]
fn without_a_source_nothing_is_coalesced() {
    let registry = Registry::builder().build();
    let region = Region::pio(0x3f8, 8, "serial0", "uart", Recorder::new()).coalesce(0..1);
    let _map = registry.map(region).unwrap();
    assert!(!registry.coalesces());
}

/// A source that cannot queue and says nothing about it.
struct NoQueue;

impl Offload for NoQueue {
    fn install(&self, _zone: &Zone) -> Result<bool, String> {
        Ok(false)
    }

    fn remove(&self, _zone: &Zone) {}
}

#[test]
fn a_source_without_a_queue_has_nothing_waiting() {
    let registry = Registry::builder().offload(Arc::new(NoQueue)).build();
    let device = Recorder::new();
    let region = Region::pio(0x3f8, 8, "serial0", "uart", device.clone()).coalesce(0..1);
    let _map = registry.map(region).unwrap();
    registry.handle(0).write_value(Space::Pio, 0x3f8, Size::Byte, 7);
    assert_eq!(device.take(), [("write", 0, 1, 7)]);
    assert!(!registry.drain());
}

/// A queued write is one access to one region only if that region has all of its bytes.
#[test]
fn a_queued_write_across_the_end_of_its_region_is_cut_there() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let region = Region::mmio(0x1000, 8, "d", "r", device.clone()).coalesce(0..8);
    let _map = registry.map(region).unwrap();
    let write = |addr, len| CoalescedWrite { space: Space::Mmio, addr, len, data: [0x11; 8] };
    let mut counts = (0, 0);
    for (addr, len, whole) in
        [(0x1000, 8, true), (0x1004, 4, true), (0x1007, 1, true), (0x1007, 2, false)]
    {
        source.queue.lock().push_back(write(addr, len));
        registry.drain();
        let written: usize = device.take().iter().map(|call| call.2).sum();
        let inside = usize::from(len).min(usize::try_from(0x1008 - addr).unwrap());
        assert_eq!(written, inside, "{len} bytes at {addr:#x}");
        counts = (counts.0 + 1, counts.1 + u64::from(whole));
        let counted = registry.stats().regions[0].counts;
        assert_eq!((counted.writes, counted.coalesced, counted.refused), (counts.0, counts.1, 0));
    }
    let stats = registry.stats();
    let strays: Vec<_> = stats.unclaimed.keys().map(|key| (key.addr, key.len)).collect();
    assert_eq!(strays, [(0x1008, 1)]);
}
