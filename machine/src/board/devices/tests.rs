use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use trapline::{Handler, IoCx};
use trapline_device::{Device, SaveState, Size, Space, StateError};
use trapline_platform::legacy::Latches;

use super::*;

/// One latch, and a log of what is done to it.
struct Toy {
    name: &'static str,
    latch: Latches,
    log: Log,
}

type Log = Arc<Mutex<Vec<String>>>;

impl Toy {
    fn new(name: &'static str, log: &Log) -> Arc<Self> {
        Arc::new(Self { name, latch: Latches::delay(), log: Arc::clone(log) })
    }

    fn note(&self, what: &str) {
        self.log.lock().push(format!("{what} {}", self.name));
    }
}

impl Device for Toy {
    fn reset(&self) {
        self.note("reset");
        self.latch.reset();
    }
}

impl SaveState for Toy {
    fn save(&self) -> Saved {
        self.latch.save()
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        self.note("restore");
        self.latch.restore(saved)
    }
}

impl Handler for Toy {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.latch.read(cx, offset, size)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.latch.write(cx, offset, size, value);
    }
}

fn board() -> (Registry, Devices, Log) {
    let registry = Registry::builder().build();
    (
        registry.clone(),
        Devices::new(registry, Spared { writes: false, reads: false }),
        Log::default(),
    )
}

fn one(name: &'static str, base: u16, log: &Log) -> Builder {
    let mut builder = Builder::default();
    let toy = Toy::new(name, log);
    builder.device(name, toy.clone()).ports(base, 1, (name, "latch"), toy);
    builder
}

#[test]
fn controllers_come_last_whenever_they_were_added() {
    let (_, devices, log) = board();
    let mut builder = Builder::default();
    builder.controller("pic", Toy::new("pic", &log));
    let followed = Arc::clone(&log);
    let follow = move || followed.lock().push("follow".to_owned());
    builder.device("serial", Toy::new("serial", &log)).after_reset(follow);
    devices.add(builder).unwrap();
    devices.add(one("late", 0x10, &log)).unwrap();
    devices.reset();
    assert_eq!(*log.lock(), ["reset serial", "reset late", "reset pic", "follow"]);
    log.lock().clear();
    devices.restore(&devices.save()).unwrap();
    assert_eq!(*log.lock(), ["restore serial", "restore late", "restore pic", "follow"]);
}

#[test]
fn a_device_gets_the_state_of_its_name_in_whatever_order_devices_are_added() {
    let (registry, devices, log) = board();
    let (other_registry, others, _) = board();
    for (name, base) in [("a", 0x10), ("b", 0x11)] {
        devices.add(one(name, base, &log)).unwrap();
    }
    for (name, base) in [("b", 0x11), ("a", 0x10)] {
        others.add(one(name, base, &log)).unwrap();
    }
    let mut handle = registry.handle(0);
    handle.write_value(Space::Pio, 0x10, Size::Byte, 0xaa);
    handle.write_value(Space::Pio, 0x11, Size::Byte, 0xbb);
    others.restore(&devices.save()).unwrap();
    let mut handle = other_registry.handle(0);
    assert_eq!(handle.read_value(Space::Pio, 0x10, Size::Byte), 0xaa);
    assert_eq!(handle.read_value(Space::Pio, 0x11, Size::Byte), 0xbb);
}

#[test]
fn a_snapshot_of_other_devices_is_refused_by_name_and_restores_nothing() {
    let (_, devices, log) = board();
    devices.add(one("a", 0x10, &log)).unwrap();
    let mut saved = devices.save();
    let state = saved.get("a").unwrap().clone();
    saved.insert("z".to_owned(), state);
    let unknown = devices.restore(&saved).unwrap_err().to_string();
    assert_eq!(unknown, "the snapshot is of another machine: this one has no z");
    let missing = devices.restore(&BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(missing, "the snapshot is of another machine: it has no a");
    assert!(log.lock().is_empty());
}

#[test]
fn what_cannot_be_added_leaves_the_board_as_it_was() {
    let (registry, devices, log) = board();
    devices.add(one("a", 0x10, &log)).unwrap();
    let mut again = one("b", 0x20, &log);
    again.device("a", Toy::new("a", &log));
    let taken = devices.add(again).unwrap_err().to_string();
    assert_eq!(taken, "there is a device called a already");
    let mut overlaps = one("b", 0x20, &log);
    overlaps.stateless("c").ports(0x10, 1, ("c", "latch"), Toy::new("c", &log));
    assert!(matches!(devices.add(overlaps), Err(Error::Map(EditError::Overlap { .. }))));
    let names: Vec<String> = devices.save().into_keys().collect();
    assert_eq!(names, ["a"]);
    let mut handle = registry.handle(0);
    assert_eq!(handle.read_value(Space::Pio, 0x20, Size::Byte), 0xff, "nobody is there");
}

/// A device that takes its time to read.
struct Slow {
    inside: AtomicBool,
    left: AtomicU64,
}

impl Handler for Slow {
    fn read(&self, _: &IoCx<'_>, _: u64, _: Size) -> u64 {
        self.inside.store(true, Ordering::SeqCst);
        while self.left.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        self.inside.store(false, Ordering::SeqCst);
        7
    }

    fn write(&self, _: &IoCx<'_>, _: u64, _: Size, _: u64) {}
}

#[test]
fn a_removed_device_is_called_no_more_and_can_be_added_again() {
    let (registry, devices, log) = board();
    let slow = Arc::new(Slow { inside: AtomicBool::new(false), left: AtomicU64::new(0) });
    let mut builder = one("a", 0x10, &log);
    builder.stateless("slow").ports(0x20, 1, ("slow", "data"), slow.clone());
    devices.add(builder).unwrap();
    let mut handle = registry.handle(0);
    thread::scope(|scope| {
        let reader = scope.spawn(move || handle.read_value(Space::Pio, 0x20, Size::Byte));
        while !slow.inside.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let remover = scope.spawn(|| {
            assert!(devices.remove("slow"));
            assert!(!slow.inside.load(Ordering::SeqCst), "a handler still ran");
        });
        // The rest of the board can be changed meanwhile.
        assert!(devices.remove("a"));
        slow.left.store(1, Ordering::SeqCst);
        assert_eq!(reader.join().unwrap(), 7, "the access that had begun is answered");
        remover.join().unwrap();
    });
    assert!(!devices.remove("slow"));
    devices.add(one("slow", 0x20, &log)).unwrap();
    devices.reset();
    assert_eq!(*log.lock(), ["reset slow"]);
}
