//! Watching regions while the guest runs.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use support::{Recorder, Source};
use trapline::EditError;
use trapline::{
    Direction, Handler, IoCx, Limits, Observer, Outcome, Region, RegionId, Registry, Rules, Size,
    Space, TraceRecord, Watch,
};

/// What was observed: whether before the access, where, what, and what became of it.
type Seen = (bool, String, u64, u64, Direction, usize, Vec<u8>, Outcome);

#[derive(Default)]
struct Notes(Mutex<Vec<Seen>>);

impl Notes {
    fn note(&self, before: bool, r: &TraceRecord<'_>) {
        let (region, data) = (r.region.to_string(), r.data.to_vec());
        let seen = (before, region, r.addr, r.offset, r.direction, r.width, data, r.outcome);
        self.0.lock().push(seen);
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Observer for Notes {
    fn access(&self, record: &TraceRecord<'_>) {
        self.note(false, record);
    }

    fn stop(&self, record: &TraceRecord<'_>) {
        self.note(true, record);
    }
}

fn observed() -> (Registry, Arc<Notes>) {
    let registry = Registry::builder().handles(2).build();
    let notes = Arc::new(Notes::default());
    registry.observe(Some(notes.clone()));
    (registry, notes)
}

#[test]
fn only_what_is_traced_is_seen_and_the_device_notices_nothing() {
    let (registry, notes) = observed();
    let device = Recorder::new();
    let map = registry.map(Region::pio(0x3f8, 8, "serial0", "uart", device.clone())).unwrap();
    let _other = registry.map(Region::pio(0x70, 2, "rtc", "ports", Recorder::new())).unwrap();
    let mut handle = registry.handle(0).unwrap();
    let mut access = || {
        handle.write(Space::Pio, 0x3f9, &[7]);
        handle.read_value(Space::Pio, 0x3fa, Size::Word);
        handle.read_value(Space::Pio, 0x70, Size::Byte);
        device.take()
    };
    let plain = access();
    assert!(notes.take().is_empty());
    registry.trace(map.id(), true).unwrap();
    assert_eq!(access(), plain);
    let name = || "serial0/uart".to_owned();
    assert_eq!(
        notes.take(),
        [
            (false, name(), 0x3f9, 1, Direction::Write, 1, vec![7], Outcome::Handled),
            (false, name(), 0x3fa, 2, Direction::Read, 2, vec![2, 3], Outcome::Handled),
        ]
    );
    registry.trace(map.id(), false).unwrap();
    assert_eq!(access(), plain);
    assert!(notes.take().is_empty());
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
    registry.observe(Some(Arc::new(Gate(Mutex::new(go_rx), stopped_tx))));
    let device = Recorder::new();
    let map = registry.map(Region::mmio(0x1000, 8, "d", "r", device.clone())).unwrap();
    registry.stop_at(map.id(), true).unwrap();
    let mut handle = registry.handle(0).unwrap();
    let vcpu = std::thread::spawn(move || handle.write(Space::Mmio, 0x1000, &[5]));
    stopped.recv().unwrap();
    assert!(device.take().is_empty());
    registry.stop_at(map.id(), false).unwrap();
    go.send(()).unwrap();
    vcpu.join().unwrap();
    assert_eq!(device.take().len(), 1);
}

#[test]
fn refusals_strings_doorbells_and_late_writes_are_told_apart() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let notes = Arc::new(Notes::default());
    registry.observe(Some(notes.clone()));
    let bytes = Rules { valid: Limits::only(Size::Byte), handled: Limits::only(Size::Byte) };
    let device = Recorder::with_rules(bytes);
    let port = registry.map(Region::pio(0x10, 4, "d", "r", device.clone()).coalesce(3..4)).unwrap();
    registry.trace(port.id(), true).unwrap();
    let mut handle = registry.handle(0).unwrap();
    handle.write(Space::Pio, 0x10, &[1, 2]);
    handle.write_rep(0x10, Size::Byte, &[1, 2, 3]);
    source.guest_write(Space::Pio, 0x13, &[9]);
    handle.drain();
    let seen: Vec<_> = notes.take().into_iter().map(|seen| (seen.5, seen.6, seen.7)).collect();
    assert_eq!(
        seen,
        [
            (2, vec![1, 2], Outcome::Refused),
            (1, vec![1, 2, 3], Outcome::Handled),
            (1, vec![9], Outcome::Coalesced),
        ]
    );
    assert_eq!(registry.stats().regions[0].counts.string_writes, 3);

    let registry = Registry::builder().build();
    registry.observe(Some(notes.clone()));
    let (ours, theirs) = std::io::pipe().unwrap();
    let bell = trapline::EventFd::new(theirs.into());
    let region = Region::mmio(0x1000, 8, "d", "r", device).doorbell(4, 4, None, bell);
    let map = registry.map(region).unwrap();
    registry.trace(map.id(), true).unwrap();
    registry.handle(0).unwrap().write(Space::Mmio, 0x1004, &[1; 4]);
    assert_eq!(notes.take()[0].7, Outcome::Doorbell);
    drop(ours);
}

/// Names its one register after what was written to it last.
struct Named(Mutex<bool>);

impl Handler for Named {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        *self.0.lock() = value != 0;
    }
    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some(if *self.0.lock() { "DLL" } else { "THR" })
    }
}

#[test]
fn the_register_is_named_as_it_was_before_the_access() {
    #[derive(Default)]
    struct Names(Mutex<Vec<Option<&'static str>>>);
    impl Observer for Names {
        fn access(&self, record: &TraceRecord<'_>) {
            self.0.lock().push(record.register);
        }
    }
    let registry = Registry::builder().build();
    let names = Arc::new(Names::default());
    registry.observe(Some(names.clone()));
    let device = Arc::new(Named(Mutex::new(false)));
    let map = registry.map(Region::pio(0, 1, "d", "r", device)).unwrap();
    registry.trace(map.id(), true).unwrap();
    let mut handle = registry.handle(0).unwrap();
    handle.write(Space::Pio, 0, &[1]);
    handle.write(Space::Pio, 0, &[0]);
    assert_eq!(*names.0.lock(), [Some("THR"), Some("DLL")]);
}

#[test]
fn flags_stay_with_a_region_that_moves_and_are_in_the_table() {
    let (registry, notes) = observed();
    let region = Region::mmio(0x1000, 8, "d", "r", Recorder::new());
    let map = registry.map(region).unwrap();
    registry.trace(map.id(), true).unwrap();
    for base in [None, Some(0x2000)] {
        registry
            .edit(|edit| {
                edit.place(map.id(), base);
                Ok(())
            })
            .unwrap();
    }
    registry.handle(0).unwrap().read_value(Space::Mmio, 0x2000, Size::Byte);
    assert_eq!(notes.take().len(), 1);
    let stats = registry.stats();
    assert_eq!(stats.regions[0].watch, Watch { trace: true, stop: false });
    assert!(stats.to_string().contains(" trace "), "{stats}");
    registry.observe(None);
    registry.handle(0).unwrap().read_value(Space::Mmio, 0x2000, Size::Byte);
    assert!(notes.take().is_empty());
    let gone = RegionId(u64::MAX);
    assert_eq!(registry.trace(gone, true), Err(EditError::Unknown(gone)));
}
