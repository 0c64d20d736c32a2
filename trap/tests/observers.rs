//! What observers are told, whom a watch covers, and who waits for whom meanwhile.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use support::{Recorder, Source, event, rung};
use trapline::{
    AddressSpace, Direction, Handler, IoCx, Limits, NoRam, Observer, Region, Registry, Rules, Size,
    Space, TraceRecord, Watch,
};

/// What was observed: whose it is, where, and the register's name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    region: String,
    addr: u64,
    register: Option<&'static str>,
}

#[derive(Default)]
struct Notes {
    stops: Mutex<Vec<Seen>>,
    accesses: Mutex<Vec<Seen>>,
}

impl Notes {
    fn seen(r: &TraceRecord<'_>) -> Seen {
        Seen {
            region: r.region.map_or_else(|| "nobody".to_owned(), |region| region.name.to_string()),
            addr: r.addr,
            register: r.region.and_then(|region| region.register),
        }
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.accesses.lock())
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

/// A device that says when it is being written to and waits to be let go.
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

/// Makes `access` while a vCPU is inside a device that `watch` covers, too. Never returns if the
/// one waits for the other.
fn beside_a_slow_device(watch: Watch, access: impl FnOnce(&Registry)) {
    let registry = Registry::builder().build();
    let (begun_tx, begun) = channel();
    let (go, go_rx) = channel();
    let slow = Arc::new(Gate { begun: begun_tx, go: Mutex::new(go_rx) });
    let _slow = registry.map(Region::mmio(0x1000, 8, "slow", "r", slow)).unwrap();
    let region = Region::mmio(0x2000, 8, "other", "r", Recorder::new());
    let _other = registry.map(region).unwrap();
    let notes = notes();
    let _watching = registry.watch(watch, notes.clone()).unwrap();
    let mut handle = registry.handle(0);
    let vcpu = std::thread::spawn(move || handle.write(Space::Mmio, 0x1000, &[1]));
    begun.recv().unwrap();
    access(&registry);
    assert_eq!(notes.take().len(), 1, "the other access has been made and told");
    go.send(()).unwrap();
    vcpu.join().unwrap();
    assert_eq!(notes.take().len(), 1);
}

#[test]
fn accesses_wait_for_each_other_only_if_a_watch_is_ordered() {
    beside_a_slow_device(Watch::new().everything(), |registry| {
        registry.handle(1).write(Space::Mmio, 0x2000, &[1]);
    });
}

#[test]
fn a_device_does_not_wait_for_the_turn_of_an_ordered_watch() {
    beside_a_slow_device(Watch::new().everything().ordered(), |registry| {
        AddressSpace::new(registry, Arc::new(NoRam)).write(0x2000, &[1]);
    });
}

/// A device whose one port reaches the register that was selected, which the access then changes.
#[derive(Default)]
struct Toggling(Mutex<bool>);

impl Handler for Toggling {
    fn read(&self, cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        let mut second = self.0.lock();
        cx.reaches(|| Some(if *second { "Second" } else { "First" }));
        *second = !*second;
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("Data")
    }
}

#[test]
fn a_record_has_the_register_that_the_access_reached() {
    let (registry, notes) = (Registry::builder().build(), notes());
    let _map = registry.map(Region::pio(0x70, 1, "d", "r", Arc::<Toggling>::default())).unwrap();
    let _watching = registry.watch(Watch::new().everything(), notes.clone()).unwrap();
    let mut handle = registry.handle(0);
    handle.read(Space::Pio, 0x70, &mut [0]);
    handle.read(Space::Pio, 0x70, &mut [0]);
    handle.write(Space::Pio, 0x70, &[0]);
    handle.write(Space::Pio, 0x80, &[0]);
    let stopped: Vec<_> = notes.stops.lock().iter().map(|seen| seen.register).collect();
    assert_eq!(stopped, [Some("Data"), Some("Data"), Some("Data"), None]);
    let made: Vec<_> = notes.take().into_iter().map(|seen| (seen.region, seen.register)).collect();
    let of = |register| ("d/r".to_owned(), Some(register));
    assert_eq!(made, [of("First"), of("Second"), of("Data"), ("nobody".to_owned(), None)]);
}

/// Prints what it hears.
#[derive(Default)]
struct Printer(Mutex<Vec<String>>);

impl Observer for Printer {
    fn access(&self, record: &TraceRecord<'_>) {
        self.0.lock().push(record.to_string());
    }

    fn stop(&self, record: &TraceRecord<'_>) {
        self.0.lock().push(record.to_string());
    }
}

#[test]
fn an_access_in_words_says_who_what_where_and_what_came_of_it() {
    let registry = Registry::builder().build();
    let printer = Arc::<Printer>::default();
    let words = Rules { valid: Limits::only(Size::Word), handled: Limits::only(Size::Word) };
    let plain = Region::mmio(0x1000, 0x20, "d", "plain", Recorder::with_rules(words));
    let _plain = registry.map(plain.doorbell(0x10, 4, None, event().1)).unwrap();
    let region = Region::pio(0x70, 1, "d", "banked", Arc::<Toggling>::default());
    let _banked = registry.map(region).unwrap();
    let _watching = registry.watch(Watch::new().everything(), printer.clone()).unwrap();
    let mut handle = registry.handle(3);
    handle.write(Space::Mmio, 0x1002, &[0x34, 0x12]);
    handle.write(Space::Mmio, 0x1003, &[0x41]);
    handle.write(Space::Mmio, 0x1010, &[1, 0, 0, 0]);
    handle.read_rep(0x70, Size::Byte, &mut [0; 2]);
    handle.read(Space::Mmio, 0x8000, &mut [0; 8]);
    handle.read(Space::Mmio, 0x8000, &mut [0; 9]);
    let told = std::mem::take(&mut *printer.0.lock());
    let (stops, accesses): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|line| line.ends_with(" pending"));
    let expected = [
        "vcpu 3: d/plain (mmio 0x1002) write 2 bytes 0x1234",
        "vcpu 3: d/plain (mmio 0x1003) write 1 byte 0x41 refused",
        "vcpu 3: d/plain (mmio 0x1010) write 4 bytes 0x1 doorbell",
        "vcpu 3: d/banked First (pio 0x70) read 2 times 1 byte, first 0x0",
        "vcpu 3: unclaimed (mmio 0x8000) read 8 bytes 0xffffffffffffffff",
        "vcpu 3: unclaimed (mmio 0x8000) read 9 bytes",
    ];
    assert_eq!(accesses, expected);
    assert_eq!(stops.len(), expected.len());
    assert_eq!(stops[0], "vcpu 3: d/plain (mmio 0x1002) write 2 bytes 0x1234 pending");
}

#[test]
fn a_watch_by_id_and_by_name_hears_of_both() {
    let (registry, notes) = (Registry::builder().build(), notes());
    let _maps: Vec<_> = [(0x1000, "a"), (0x2000, "b"), (0x3000, "c")]
        .map(|(base, name)| registry.map(Region::mmio(base, 8, name, "r", Recorder::new())))
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let id = registry.find("a")[0];
    let watching = registry.watch(Watch::new().region(id).named("c"), notes.clone()).unwrap();
    let mut handle = registry.handle(0);
    let mut heard = || {
        [0x1000, 0x2000, 0x3000].iter().for_each(|addr| handle.write(Space::Mmio, *addr, &[1]));
        notes.take().into_iter().map(|seen| seen.addr).collect::<Vec<_>>()
    };
    assert_eq!(heard(), [0x1000, 0x3000]);
    drop(watching);
    assert_eq!(heard(), []);
}

#[test]
fn a_watch_ends_also_when_the_source_takes_nothing_back() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let notes = notes();
    let (seen, bell) = event();
    let region = Region::mmio(0x1000, 8, "d", "r", Recorder::new()).doorbell(0, 4, None, bell);
    let _map = registry.map(region).unwrap();
    assert_eq!(source.zones.lock().len(), 1);
    let watching = registry.watch(Watch::new().everything(), notes.clone()).unwrap();
    assert!(source.zones.lock().is_empty());
    *source.refuse_at.lock() = Some(0x1000);
    drop(watching);
    let mut handle = registry.handle(0);
    handle.write_value(Space::Mmio, 0x1000, Size::Dword, 1);
    assert_eq!((notes.take(), rung(&seen)), (vec![], 1), "the registry goes on ringing it");
}
