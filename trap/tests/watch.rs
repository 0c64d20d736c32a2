//! Watching accesses while the guest runs.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use support::{Recorder, Source, event, rung};
use trapline::{
    AddressSpace, Answer, Channel, ChannelRef, CoalescedWrite, Direction, EditError, EventFd,
    Forwarded, Handler, IoCx, Limits, NoRam, Observer, Offload, Outcome, Region, RegionId,
    Registry, Requester, Rules, Size, Space, TraceRecord, Waiter, Watch, Zone,
};

/// What was observed: where, what, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    sequence: u64,
    requester: Requester,
    region: String,
    addr: u64,
    offset: u64,
    register: Option<&'static str>,
    direction: Direction,
    width: usize,
    data: Vec<u8>,
    outcome: Outcome,
}

#[derive(Default)]
struct Notes {
    stops: Mutex<Vec<Seen>>,
    accesses: Mutex<Vec<Seen>>,
}

impl Notes {
    fn seen(r: &TraceRecord<'_>) -> Seen {
        Seen {
            sequence: r.sequence,
            requester: r.requester,
            region: r.region.map_or_else(|| "nobody".to_owned(), |region| region.name.to_string()),
            addr: r.addr,
            offset: r.region.map_or(0, |region| region.offset),
            register: r.region.and_then(|region| region.register),
            direction: r.direction,
            width: r.width,
            data: r.data.to_vec(),
            outcome: r.outcome,
        }
    }

    fn take(&self) -> Vec<Seen> {
        self.stops.lock().clear();
        std::mem::take(&mut *self.accesses.lock())
    }

    fn outcomes(&self) -> Vec<(usize, Vec<u8>, Outcome)> {
        self.take().into_iter().map(|seen| (seen.width, seen.data, seen.outcome)).collect()
    }
}

impl Observer for Notes {
    fn access(&self, record: &TraceRecord<'_>) {
        self.accesses.lock().push(Self::seen(record));
    }

    fn stop(&self, record: &TraceRecord<'_>) {
        self.stops.lock().push(Self::seen(record));
    }
}

fn notes() -> Arc<Notes> {
    Arc::new(Notes::default())
}

#[test]
fn only_what_is_watched_is_seen_and_the_device_notices_nothing() {
    let (registry, notes, device) = (Registry::builder().build(), notes(), Recorder::new());
    let map = registry.map(Region::pio(0x3f8, 8, "serial0", "uart", device.clone())).unwrap();
    let _other = registry.map(Region::pio(0x70, 2, "rtc", "ports", Recorder::new())).unwrap();
    let mut handle = registry.handle(3);
    let mut access = || {
        handle.write(Space::Pio, 0x3f9, &[7]);
        handle.read_value(Space::Pio, 0x3fa, Size::Word);
        handle.read_value(Space::Pio, 0x70, Size::Byte);
        device.take()
    };
    let plain = access();
    assert_eq!(notes.take(), []);
    let watching = registry.watch(Watch::new().region(map.id()), notes.clone()).unwrap();
    assert_eq!(access(), plain);
    let write = Seen {
        sequence: 1,
        requester: Requester::Vcpu(3),
        region: "serial0/uart".to_owned(),
        addr: 0x3f9,
        offset: 1,
        register: None,
        direction: Direction::Write,
        width: 1,
        data: vec![7],
        outcome: Outcome::Handled,
    };
    let read = Seen {
        sequence: 2,
        addr: 0x3fa,
        offset: 2,
        direction: Direction::Read,
        width: 2,
        data: vec![2, 3],
        ..write.clone()
    };
    let stopped = [(vec![7], Outcome::Pending, 0), (vec![0xff; 2], Outcome::Pending, 0)];
    let stops = notes.stops.lock().clone();
    assert!(stops.into_iter().map(|s| (s.data, s.outcome, s.sequence)).eq(stopped));
    assert_eq!(notes.take(), [write, read]);
    drop(watching);
    assert_eq!(access(), plain);
    assert_eq!(notes.take(), []);
    assert_eq!(registry.stats().regions[1].counts.reads, 3);
}

#[test]
fn a_stop_comes_before_the_handler_and_may_hold_the_vcpu_there() {
    struct Gate(Mutex<std::sync::mpsc::Receiver<()>>, std::sync::mpsc::Sender<()>);
    impl Observer for Gate {
        fn stop(&self, record: &TraceRecord<'_>) {
            assert_eq!((record.outcome, record.data), (Outcome::Pending, &[5u8][..]));
            self.1.send(()).unwrap();
            self.0.lock().recv().unwrap();
        }
    }
    let registry = Registry::builder().build();
    let (go, go_rx) = std::sync::mpsc::channel();
    let (stopped_tx, stopped) = std::sync::mpsc::channel();
    let device = Recorder::new();
    let map = registry.map(Region::mmio(0x1000, 8, "d", "r", device.clone())).unwrap();
    let gate = Arc::new(Gate(Mutex::new(go_rx), stopped_tx));
    let watching = registry.watch(Watch::new().region(map.id()), gate).unwrap();
    let mut handle = registry.handle(0);
    let vcpu = std::thread::spawn(move || handle.write(Space::Mmio, 0x1000, &[5]));
    stopped.recv().unwrap();
    assert!(device.take().is_empty());
    drop(watching);
    go.send(()).unwrap();
    vcpu.join().unwrap();
    assert_eq!(device.take().len(), 1);
}

/// Somebody outside who answers 0x77, and may be gone.
struct Outside(bool);

impl Channel for Outside {
    fn read(&self, _access: &Forwarded, _: Option<&dyn Waiter>) -> Answer {
        if self.0 { Answer::Done(0x77) } else { Answer::Gone }
    }

    fn write(&self, _access: &Forwarded, _value: u64, _: Option<&dyn Waiter>) -> Answer {
        if self.0 { Answer::Done(0) } else { Answer::Gone }
    }
}

#[test]
fn whatever_became_of_an_access_it_reaches_its_observer() {
    let (source, notes) = (Arc::new(Source::default()), notes());
    let registry = Registry::builder().offload(source.clone()).build();
    let bytes = Rules { valid: Limits::only(Size::Byte), handled: Limits::only(Size::Byte) };
    let device = Recorder::with_rules(bytes);
    let (ours, theirs) = std::io::pipe().unwrap();
    let [here, gone] = [true, false].map(|here| ChannelRef::new(Arc::new(Outside(here))));
    let region = Region::pio(0x10, 0x20, "d", "r", device)
        .doorbell(8, 0, None, EventFd::new(theirs.into()))
        .forward(0x10..0x12, here, 0, false)
        .forward(0x12..0x14, gone, 0, false);
    let _map = registry.map(region).unwrap();
    let _watching = registry.watch(Watch::new().named("d").unclaimed(), notes.clone()).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Pio, 0x10, &[1, 2]);
    handle.read(Space::Pio, 0x10, &mut [0; 3]);
    handle.write_rep(0x10, Size::Byte, &[1, 2, 3]);
    handle.write(Space::Pio, 0x18, &[9, 9, 9]);
    handle.read(Space::Pio, 0x20, &mut [0]);
    handle.write(Space::Pio, 0x22, &[4]);
    handle.read(Space::Mmio, 0x1234, &mut [0; 5]);
    // A write that was queued before the region was watched.
    let write = CoalescedWrite { space: Space::Pio, addr: 0x11, len: 1, data: [9; 8] };
    source.queue.lock().push_back(write);
    let coalescing = Region::pio(0x80, 1, "c", "r", Recorder::new()).coalesce(0..1);
    let _coalescing = registry.map(coalescing).unwrap();
    handle.drain();
    assert_eq!(
        notes.outcomes(),
        [
            (2, vec![1, 2], Outcome::Refused),
            (3, vec![0xff; 3], Outcome::Refused),
            // One by one, as some of the region's windows are not the handler's.
            (1, vec![1], Outcome::Handled),
            (1, vec![2], Outcome::Handled),
            (1, vec![3], Outcome::Handled),
            (3, vec![9; 3], Outcome::Doorbell),
            (1, vec![0x77], Outcome::Forwarded),
            (1, vec![4], Outcome::Gone),
            (5, vec![0xff; 5], Outcome::Unclaimed),
            (1, vec![9], Outcome::Coalesced),
        ]
    );
    drop(ours);
}

#[test]
fn an_access_across_regions_is_told_part_by_part() {
    let (registry, notes) = (Registry::builder().build(), notes());
    let _low = registry.map(Region::mmio(0x1000, 4, "low", "r", Recorder::new())).unwrap();
    let _high = registry.map(Region::mmio(0x1006, 4, "high", "r", Recorder::new())).unwrap();
    let _watching = registry.watch(Watch::new().everything(), notes.clone()).unwrap();
    registry.handle(0).write(Space::Mmio, 0x1003, &[1, 2, 3, 4, 5]);
    let seen: Vec<_> = notes.take().into_iter().map(|s| (s.region, s.addr, s.data)).collect();
    let seen: Vec<_> = seen.iter().map(|(r, a, d)| (r.as_str(), *a, d.as_slice())).collect();
    let expected: [(&str, u64, &[u8]); 3] =
        [("low/r", 0x1003, &[1]), ("nobody", 0x1004, &[2, 3]), ("high/r", 0x1006, &[4, 5])];
    assert_eq!(seen, expected);
}

#[test]
fn every_observer_has_regions_of_its_own() {
    let (registry, [first, second, all]) =
        (Registry::builder().build(), [notes(), notes(), notes()]);
    let region = |i: u64, device, name| Region::mmio(0x1000 * i, 8, device, name, Recorder::new());
    let _a = registry.map(region(1, "a", "x")).unwrap();
    let _b = registry.map(region(2, "b", "x")).unwrap();
    let first_watching = registry.watch(Watch::new().named("a/x"), first.clone()).unwrap();
    let watch = Watch::new().named("b").named("a/y").unclaimed();
    let _second = registry.watch(watch, second.clone()).unwrap();
    let _all = registry.watch(Watch::new().everything(), all.clone()).unwrap();
    // Mapped only now, and another whose name only begins like one that is watched.
    let _later = registry.map(region(3, "a", "y")).unwrap();
    let _longer = registry.map(region(4, "bb", "x")).unwrap();
    let mut handle = registry.handle(0);
    let mut touch = || {
        (1..=5).for_each(|i| handle.read(Space::Mmio, 0x1000 * i, &mut [0]));
        [&first, &second, &all].map(|notes| {
            notes.take().iter().map(|seen| seen.region.clone()).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(touch(), ["a/x", "b/x a/y nobody", "a/x b/x a/y bb/x nobody"]);
    let observers = registry.stats().regions.iter().map(|r| r.observers).collect::<Vec<_>>();
    assert_eq!(observers, [2, 2, 2, 1]);
    drop(first_watching);
    assert_eq!(touch(), ["", "b/x a/y nobody", "a/x b/x a/y bb/x nobody"]);
}

#[test]
fn regions_are_found_by_name_and_known_by_id() {
    let registry = Registry::builder().build();
    let region = |i: u64, name| Region::mmio(0x1000 * i, 8, "edu0", name, Recorder::new());
    let bar = registry.map(region(2, "bar0")).unwrap();
    let config = registry.map(region(1, "config")).unwrap();
    let _other = registry.map(Region::mmio(0, 8, "edu01", "bar0", Recorder::new())).unwrap();
    assert_eq!(registry.find("edu0/config"), [config.id()]);
    assert_eq!(registry.find("edu0"), [bar.id(), config.id()]);
    for nothing in ["edu", "edu0/", "edu0/bar", "bar0", "", "edu0/bar0/"] {
        assert_eq!(registry.find(nothing), [], "{nothing}");
    }
    let stats = registry.stats();
    let ids: Vec<_> = stats.regions.iter().skip(1).map(|region| region.id).collect();
    assert_eq!(ids, [config.id(), bar.id()]);
    let gone = RegionId(u64::MAX);
    let refused = registry.watch(Watch::new().region(gone), notes()).err();
    assert_eq!(refused, Some(EditError::Unknown(gone)));
    assert!(registry.stats().regions.iter().all(|region| region.observers == 0));
}

#[test]
fn a_watched_regions_windows_come_back_from_the_source_and_go_there_again() {
    let (source, notes, device) = (Arc::new(Source::default()), notes(), Recorder::new());
    let registry = Registry::builder().offload(source.clone()).build();
    let (seen, bell) = event();
    let region = Region::mmio(0x1000, 0x100, "d", "r", device.clone()).coalesce(0..8);
    let map = registry.map(region.doorbell(0x10, 4, None, bell)).unwrap();
    let other = Region::mmio(0x2000, 8, "other", "r", Recorder::new()).coalesce(0..4);
    let _other = registry.map(other).unwrap();
    let all = source.zones.lock().clone();
    assert_eq!(all.len(), 3);
    assert!(source.guest_write(Space::Mmio, 0x1000, &[1]));

    let watching = registry.watch(Watch::new().named("d"), notes.clone()).unwrap();
    assert_eq!(*source.zones.lock(), [(Space::Mmio, 0x2000, 4, true)]);
    assert!(!source.guest_write(Space::Mmio, 0x1000, &[2]));
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1000, &[2]);
    handle.write_value(Space::Mmio, 0x1010, Size::Dword, 7);
    assert_eq!(device.take(), [("write", 0, 1, 1), ("write", 0, 1, 2)]);
    assert_eq!(rung(&seen), 1);
    let expected = [(1, vec![2], Outcome::Handled), (4, vec![7, 0, 0, 0], Outcome::Doorbell)];
    assert_eq!(notes.outcomes(), expected);

    // It moves while it is watched, and a second observer comes and goes.
    let second = registry.watch(Watch::new().region(map.id()), notes.clone()).unwrap();
    registry
        .edit(|edit| {
            edit.place(map.id(), Some(0x3000));
            Ok(())
        })
        .unwrap();
    drop(second);
    assert_eq!(source.zones.lock().len(), 1);
    handle.write_value(Space::Mmio, 0x3010, Size::Dword, 7);
    assert_eq!((rung(&seen), notes.take().len()), (1, 1));

    drop(watching);
    let mut zones = source.zones.lock().clone();
    zones.sort_unstable_by_key(|zone| zone.1);
    assert_eq!(
        zones,
        [
            (Space::Mmio, 0x2000, 4, true),
            (Space::Mmio, 0x3000, 8, true),
            (Space::Mmio, 0x3010, 4, false)
        ]
    );
    assert!(source.guest_write(Space::Mmio, 0x3000, &[3]));
    registry.drain();
    assert_eq!(device.take(), [("write", 0, 1, 3)]);
    assert_eq!(notes.take(), []);
    drop(map);
    assert_eq!(source.zones.lock().len(), 1);
}

#[test]
fn a_region_mapped_while_its_name_is_watched_is_not_offloaded() {
    let (source, notes) = (Arc::new(Source::default()), notes());
    let registry = Registry::builder().offload(source.clone()).build();
    let watching = registry.watch(Watch::new().named("d"), notes.clone()).unwrap();
    let region = Region::mmio(0x1000, 0x100, "d", "r", Recorder::new()).coalesce(0..8);
    let _map = registry.map(region).unwrap();
    assert_eq!(*source.zones.lock(), []);
    drop(watching);
    assert_eq!(*source.zones.lock(), [(Space::Mmio, 0x1000, 8, true)]);
}

/// A source that takes nothing back.
struct Stubborn(Source, Mutex<bool>);

impl Offload for Stubborn {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        if *self.1.lock() { Err("no room".to_owned()) } else { self.0.install(zone) }
    }

    fn remove(&self, zone: &Zone) {
        self.0.remove(zone);
    }
}

#[test]
fn what_the_source_does_not_take_back_the_registry_goes_on_doing() {
    let source = Arc::new(Stubborn(Source::default(), Mutex::new(false)));
    let registry = Registry::builder().offload(source.clone()).build();
    let (seen, bell) = event();
    let region = Region::mmio(0x1000, 0x100, "d", "r", Recorder::new());
    let _map = registry.map(region.doorbell(0x10, 4, None, bell)).unwrap();
    let watching = registry.watch(Watch::new().everything(), notes()).unwrap();
    *source.1.lock() = true;
    drop(watching);
    assert_eq!(*source.0.zones.lock(), []);
    registry.handle(0).write_value(Space::Mmio, 0x1010, Size::Dword, 7);
    assert_eq!(rung(&seen), 1);
    assert!(!registry.stats().regions[0].deliveries[0].1);
}

/// Names its one register after what was written to it last, and says so when it is reached.
struct Banked {
    bank: Mutex<bool>,
    says: bool,
}

impl Handler for Banked {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        if self.says {
            cx.reaches(|| self.register(offset, Direction::Write));
        }
        *self.bank.lock() = value != 0;
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some(if *self.bank.lock() { "DLL" } else { "THR" })
    }
}

#[test]
fn the_register_is_named_as_it_was_before_the_access() {
    for says in [false, true] {
        let (registry, notes) = (Registry::builder().build(), notes());
        let device = Arc::new(Banked { bank: Mutex::new(false), says });
        let map = registry.map(Region::pio(0, 1, "d", "r", device)).unwrap();
        let _watching = registry.watch(Watch::new().region(map.id()), notes.clone()).unwrap();
        let mut handle = registry.handle(0);
        handle.write(Space::Pio, 0, &[1]);
        handle.write(Space::Pio, 0, &[0]);
        handle.write_rep(0, Size::Byte, &[1, 0]);
        let names: Vec<_> = notes.take().iter().filter_map(|seen| seen.register).collect();
        assert_eq!(names, ["THR", "DLL", "THR"]);
    }
}

#[test]
fn observers_stay_with_a_region_that_moves_and_are_in_the_table() {
    let (registry, notes) = (Registry::builder().build(), notes());
    let map = registry.map(Region::mmio(0x1000, 8, "d", "r", Recorder::new())).unwrap();
    let _watching = registry.watch(Watch::new().region(map.id()), notes.clone()).unwrap();
    for base in [None, Some(0x2000)] {
        registry
            .edit(|edit| {
                edit.place(map.id(), base);
                Ok(())
            })
            .unwrap();
    }
    registry.handle(0).read_value(Space::Mmio, 0x2000, Size::Byte);
    assert_eq!(notes.take().len(), 1);
    let stats = registry.stats();
    assert_eq!(stats.regions[0].observers, 1);
    assert!(stats.to_string().contains("  1     trap"), "{stats}");
}

/// Writes down what it is written.
#[derive(Default)]
struct Log(Mutex<Vec<u64>>);

impl Handler for Log {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.0.lock().push(value);
    }
}

#[test]
fn an_ordered_watch_has_the_order_in_which_devices_saw_the_accesses() {
    let registry = Registry::builder().build();
    let (log, notes) = (Arc::new(Log::default()), notes());
    // Two regions of one device.
    let _maps: Vec<_> = [0x1000, 0x2000]
        .map(|base| registry.map(Region::mmio(base, 8, "d", "r", log.clone())).unwrap())
        .into();
    let _watching = registry.watch(Watch::new().named("d").ordered(), notes.clone()).unwrap();
    std::thread::scope(|scope| {
        for vcpu in 0..3u32 {
            let mut handle = registry.handle(vcpu);
            scope.spawn(move || {
                for i in 0..2000u64 {
                    let addr = if i % 2 == 0 { 0x1000 } else { 0x2000 };
                    handle.write_value(Space::Mmio, addr, Size::Qword, u64::from(vcpu) << 32 | i);
                }
            });
        }
    });
    let seen = notes.take();
    assert!(seen.iter().map(|seen| seen.sequence).eq(1..=6000));
    let values = seen.iter().map(|seen| u64::from_le_bytes(seen.data[..].try_into().unwrap()));
    assert!(values.eq(log.0.lock().iter().copied()));
}

/// A device that writes to another one when it is written to.
struct Chain(AddressSpace, u64);

impl Handler for Chain {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.0.write(self.1, &value.to_le_bytes()[..1]);
    }
}

#[test]
fn an_access_inside_an_access_has_the_later_number_and_is_told_earlier() {
    for watch in [Watch::new().everything(), Watch::new().everything().ordered()] {
        let (registry, notes) = (Registry::builder().build(), notes());
        let space = AddressSpace::new(&registry, Arc::new(NoRam));
        let chain = Arc::new(Chain(space, 0x2000));
        let _outer = registry.map(Region::mmio(0x1000, 8, "outer", "r", chain)).unwrap();
        let _inner = registry.map(Region::mmio(0x2000, 8, "inner", "r", Recorder::new())).unwrap();
        let _watching = registry.watch(watch, notes.clone()).unwrap();
        registry.handle(0).write(Space::Mmio, 0x1000, &[5]);
        let seen: Vec<_> = notes.take().into_iter().map(|s| (s.sequence, s.requester)).collect();
        assert_eq!(seen, [(2, Requester::Dma), (1, Requester::Vcpu(0))]);
    }
}
