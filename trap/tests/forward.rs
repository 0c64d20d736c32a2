//! Windows whose accesses go out through a channel, in the manner of `ioregionfd`.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use support::{Recorder, Source, read};
use trapline::EditError;
use trapline::{
    Answer, Channel, ChannelRef, Delivery, EventFd, Forward, Forwarded, Limits, Offload, Region,
    Registry, Rules, Size, Space, Waiter, Zone,
};

const USER_DATA: u64 = 0x1122_3344_5566_7788;

/// The other end: remembers what it is asked, answers 0xa0 and the offset in every byte.
#[derive(Default)]
struct Far {
    log: Mutex<Vec<Command>>,
    gone: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Read(u64, usize),
    Write(u64, usize, u64, bool),
    Ring(u64),
}

impl Channel for Far {
    fn read(&self, access: &Forwarded, _: Option<&dyn Waiter>) -> Answer {
        assert_eq!((access.user_data, access.posted), (USER_DATA, false));
        self.log.lock().push(Command::Read(access.offset, access.size.unwrap().bytes()));
        let value = (0..8).fold(0, |value, i| value | (0xa0 + access.offset + i) << (8 * i));
        self.answer(value)
    }

    fn write(&self, access: &Forwarded, value: u64, _: Option<&dyn Waiter>) -> Answer {
        assert_eq!(access.user_data, USER_DATA);
        self.log.lock().push(match access.size {
            Some(size) => Command::Write(access.offset, size.bytes(), value, access.posted),
            None => Command::Ring(access.offset),
        });
        self.answer(0)
    }
}

impl Far {
    fn answer(&self, value: u64) -> Answer {
        if self.gone.load(Ordering::Relaxed) { Answer::Gone } else { Answer::Done(value) }
    }

    fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.log.lock())
    }
}

fn far() -> (Arc<Far>, ChannelRef) {
    let far = Arc::new(Far::default());
    (far.clone(), ChannelRef::new(far))
}

/// A region of 0x100 bytes at 0x1000 of which `window` is forwarded.
fn forwarded(device: &Arc<Recorder>, window: Range<u64>, to: &ChannelRef, posted: bool) -> Region {
    Region::mmio(0x1000, 0x100, "d", "r", device.clone()).forward(
        window,
        to.clone(),
        USER_DATA,
        posted,
    )
}

#[test]
fn accesses_in_the_window_go_out_with_offsets_of_the_window_and_others_do_not() {
    let (far, to) = far();
    let (registry, device) = (Registry::builder().build(), Recorder::new());
    let region = forwarded(&device, 0x10..0x20, &to, false).device_offset(0x40);
    let _map = registry.map(region).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x1014, 4), [0xa4, 0xa5, 0xa6, 0xa7]);
    let mut handle = registry.handle(0);
    for (addr, data) in [(0x1010, &[1][..]), (0x1018, &[1, 2, 3, 4, 5, 6, 7, 8])] {
        handle.write(Space::Mmio, addr, data);
    }
    handle.write(Space::Mmio, 0x1020, &[9]);
    drop(handle);
    assert_eq!(read(&registry, Space::Mmio, 0x100f, 1), [0x4f]);
    assert_eq!(
        far.take(),
        [
            Command::Read(4, 4),
            Command::Write(0, 1, 1, false),
            Command::Write(8, 8, 0x0807_0605_0403_0201, false),
        ]
    );
    assert_eq!(device.take(), [("write", 0x60, 1, 9), ("read", 0x4f, 1, 0x4f)]);
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.reads, counts.writes, counts.forwarded), (2, 3, 3));
}

#[test]
fn what_the_wire_cannot_say_is_cut_into_what_it_can() {
    let (far, to) = far();
    let (registry, device) = (Registry::builder().build(), Recorder::new());
    let _map = registry.map(forwarded(&device, 0x10..0x20, &to, false)).unwrap();
    // Seven bytes; and eight across both borders of the window.
    assert_eq!(read(&registry, Space::Mmio, 0x1011, 7), [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7]);
    let expected = [Command::Read(1, 1), Command::Read(2, 2), Command::Read(4, 4)];
    assert_eq!(far.take(), expected);
    assert_eq!(read(&registry, Space::Mmio, 0x100e, 4), [0xe, 0xf, 0xa0, 0xa1]);
    registry.handle(0).write(Space::Mmio, 0x101e, &[1, 2, 3, 4]);
    assert_eq!(far.take(), [Command::Read(0, 2), Command::Write(0xe, 2, 0x201, false)]);
    assert_eq!(device.take(), [("read", 0xe, 2, 0xf0e), ("write", 0x20, 2, 0x403)]);
}

#[test]
fn the_regions_rules_hold_in_the_window_too() {
    let (far, to) = far();
    let valid = Limits { min: Size::Word, max: Size::Dword, unaligned: false };
    let handled = Limits { max: Size::Word, ..valid };
    let device = Recorder::with_rules(Rules { valid, handled });
    let registry = Registry::builder().build();
    let _map = registry.map(forwarded(&device, 0..0x100, &to, false)).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x1004, 1), [0xff], "too narrow");
    assert_eq!(read(&registry, Space::Mmio, 0x1001, 2), [0xff; 2], "misaligned");
    assert_eq!(far.take(), []);
    assert_eq!(read(&registry, Space::Mmio, 0x1004, 4), [0xa4, 0xa5, 0xa6, 0xa7]);
    assert_eq!(far.take(), [Command::Read(4, 2), Command::Read(6, 2)]);
    assert_eq!(registry.stats().regions[0].counts.refused, 2);
}

#[test]
fn posted_says_so_on_writes_and_never_on_reads() {
    let (far, to) = far();
    let registry = Registry::builder().build();
    let _map = registry.map(forwarded(&Recorder::new(), 0..8, &to, true)).unwrap();
    registry.handle(0).write(Space::Mmio, 0x1000, &[5, 0]);
    read(&registry, Space::Mmio, 0x1000, 1);
    assert_eq!(far.take(), [Command::Write(0, 2, 5, true), Command::Read(0, 1)]);
}

#[test]
fn a_window_of_no_length_passes_on_that_something_was_written() {
    let (far, to) = far();
    let (registry, device) = (Registry::builder().build(), Recorder::new());
    let _map = registry.map(forwarded(&device, 0x10..0x10, &to, true)).unwrap();
    let mut handle = registry.handle(0);
    for len in 1..=8 {
        handle.write(Space::Mmio, 0x1010, &vec![0xee; len]);
    }
    assert_eq!(far.take(), [Command::Ring(0); 8]);
    handle.write(Space::Mmio, 0x1011, &[1]);
    handle.read(Space::Mmio, 0x1010, &mut [0]);
    assert_eq!(device.take(), [("write", 0x11, 1, 1), ("read", 0x10, 1, 0x10)]);
    let acked = forwarded(&device, 0x40..0x40, &to, false);
    let error = Registry::builder().build().map(acked).unwrap_err();
    assert!(matches!(error, EditError::Window { .. }), "only posted writes have no length");
}

#[test]
fn strings_are_one_command_per_element() {
    let (far, to) = far();
    let registry = Registry::builder().build();
    let region = Region::pio(0x1f0, 8, "d", "r", Recorder::new());
    let _map = registry.map(region.forward(0..8, to, USER_DATA, false)).unwrap();
    let mut handle = registry.handle(0);
    handle.write_rep(0x1f0, Size::Word, &[1, 0, 2, 0, 3]);
    let mut data = [0; 4];
    handle.read_rep(0x1f2, Size::Word, &mut data);
    assert_eq!(data, [0xa2, 0xa3, 0xa2, 0xa3]);
    let (write, read) = (|value| Command::Write(0, 2, value, false), Command::Read(2, 2));
    assert_eq!(far.take(), [write(1), write(2), read, read]);
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.string_writes, counts.string_reads, counts.forwarded), (2, 2, 4));
}

#[test]
fn whoever_is_gone_reads_as_ones_and_is_not_asked_again_in_the_same_access() {
    let (far, to) = far();
    let registry = Registry::builder().build();
    let _map = registry.map(forwarded(&Recorder::new(), 0..0x10, &to, false)).unwrap();
    far.gone.store(true, Ordering::Relaxed);
    assert_eq!(read(&registry, Space::Mmio, 0x1001, 7), [0xff; 7]);
    assert_eq!(far.take(), [Command::Read(1, 1)]);
    registry.handle(0).write(Space::Mmio, 0x1000, &[1]);
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.refused, counts.forwarded), (2, 0));
}

fn event() -> EventFd {
    EventFd::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap())
}

#[test]
fn one_table_of_collisions_for_all_deliveries() {
    let (_far, to) = far();
    let with = |other: fn(Region) -> Region| {
        let region = forwarded(&Recorder::new(), 0x10..0x20, &to, true);
        Registry::builder().build().map(other(region)).map(drop)
    };
    let refused = |other| matches!(with(other), Err(EditError::Delivery { .. }));
    let acked = forwarded(&Recorder::new(), 0x10..0x20, &far().1, false).coalesce(0x1f..0x21);
    let error = Registry::builder().build().map(acked).map(drop).unwrap_err();
    assert!(matches!(error, EditError::Delivery { .. }), "what is waited for cannot be queued");
    assert!(refused(|region| region.doorbell(0x10, 4, None, event())));
    assert!(refused(|region| region.doorbell(0x1f, 1, Some(1), event())));
    assert!(refused(|region| region.doorbell(0xe, 4, None, event())), "its write reaches in");
    assert!(refused(|region| region.doorbell(0x9, 0, None, event())), "any length counts as 8");
    assert!(refused(|region| region.forward(0x1f..0x20, far().1, 0, false)), "its last byte");
    assert!(refused(|region| region.forward(0x9..0x9, far().1, 0, true)));
    for beside in [
        (|region: Region| region.coalesce(0..0x10)) as fn(Region) -> Region,
        |region| region.coalesce(0x1f..0x21),
        |region| region.coalesce(0x20..0x21),
        |region| region.doorbell(0xc, 4, None, event()),
        |region| region.doorbell(0x8, 0, None, event()),
        |region| region.forward(0x20..0x30, far().1, 0, false),
        |region| region.forward(0x8..0x8, far().1, 0, true),
    ] {
        with(beside).unwrap();
    }
}

/// A source that forwards by itself, as far as it is told to.
#[derive(Default)]
struct Forwarding {
    zones: Mutex<Vec<(u64, u64, u64, bool)>>,
    refuses: AtomicBool,
}

fn key(zone: &Zone) -> Option<(u64, u64, u64, bool)> {
    match zone.delivery {
        Delivery::Forward(Forward { user_data, posted, .. }) => {
            Some((zone.addr, zone.len, user_data, posted))
        }
        _ => None,
    }
}

impl Offload for Forwarding {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err("File exists".to_owned());
        }
        self.zones.lock().extend(key(zone));
        Ok(true)
    }

    fn remove(&self, zone: &Zone) {
        self.zones.lock().retain(|other| Some(*other) != key(zone));
    }
}

#[test]
fn a_source_that_can_forward_has_the_window_while_its_region_is_mapped() {
    let (far, to) = far();
    let source = Arc::new(Forwarding::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let map = registry.map(forwarded(&Recorder::new(), 0x10..0x20, &to, true)).unwrap();
    assert_eq!(*source.zones.lock(), [(0x1010, 0x10, USER_DATA, true)]);
    let table = registry.stats().to_string();
    assert!(table.contains("+0x10-0x1f forward 0x1122334455667788 posted (kernel)"), "{table}");
    // What the source could not forward after all, such as an access across the border, comes
    // to us and means the same.
    assert_eq!(read(&registry, Space::Mmio, 0x101f, 2), [0xaf, 0x20]);
    assert_eq!(far.take(), [Command::Read(0xf, 1)]);
    source.refuses.store(true, Ordering::Relaxed);
    let error = registry
        .edit(|edit| {
            edit.place(map.id(), Some(0x5000));
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("forwarded zone: File exists"), "{error}");
    assert_eq!(read(&registry, Space::Mmio, 0x1010, 1), [0xa0], "and where it was, we do it");
    drop(map);
    assert!(source.zones.lock().is_empty());
}

#[test]
fn queued_writes_come_before_a_forwarded_access() {
    let (far, to) = far();
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let _map = registry.map(forwarded(&device, 0x10..0x20, &to, false).coalesce(0..4)).unwrap();
    assert!(source.guest_write(Space::Mmio, 0x1000, &[7]));
    read(&registry, Space::Mmio, 0x1010, 1);
    assert_eq!(device.take(), [("write", 0, 1, 7)]);
    assert_eq!(far.take().len(), 1);
}

/// An end that says that it has been asked, and answers when it is told to.
struct Slow(Sender<()>, Mutex<Receiver<()>>);

impl Channel for Slow {
    fn read(&self, _access: &Forwarded, _: Option<&dyn Waiter>) -> Answer {
        self.0.send(()).unwrap();
        self.1.lock().recv().map_or(Answer::Gone, |()| Answer::Done(0x33))
    }

    fn write(&self, _access: &Forwarded, _value: u64, _: Option<&dyn Waiter>) -> Answer {
        Answer::Done(0)
    }
}

#[test]
fn a_removal_waits_for_the_answer_and_for_nobody_elses() {
    let ((asked_tx, asked), (go, go_rx)) = (channel(), channel());
    let to = ChannelRef::new(Arc::new(Slow(asked_tx, Mutex::new(go_rx))));
    let registry = Registry::builder().build();
    let map = registry.map(forwarded(&Recorder::new(), 0..8, &to, false)).unwrap();
    let other = Region::mmio(0x8000, 8, "other", "r", Recorder::new());
    let other = registry.map(other).unwrap();
    let mut handle = registry.handle(0);
    let vcpu = std::thread::spawn(move || handle.read_value(Space::Mmio, 0x1000, Size::Byte));
    asked.recv().unwrap();
    registry.remove_sync(other);
    let (removed_tx, removed) = channel();
    let manager = std::thread::spawn(move || {
        registry.remove_sync(map);
        removed_tx.send(()).unwrap();
    });
    assert!(removed.recv_timeout(Duration::from_millis(50)).is_err());
    go.send(()).unwrap();
    assert_eq!(vcpu.join().unwrap(), 0x33);
    removed.recv().unwrap();
    manager.join().unwrap();
}
