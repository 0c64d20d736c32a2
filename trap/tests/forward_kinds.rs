//! Forwarded windows of one value and without data, accesses that are interrupted while they wait,
//! and queued writes that go out together.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use support::{Recorder, Source};
use trapline::{
    Answer, Channel, ChannelRef, Delivery, EditError, EventFd, Forward, Forwarded, Region,
    Registry, Size, Space, Waiter, Window,
};

/// The other end: remembers what it is asked. After some answers its caller is wanted elsewhere,
/// once.
#[derive(Default)]
struct Far {
    log: Mutex<Vec<String>>,
    /// How many more it answers until then; none: any number.
    answers_left: Mutex<Option<usize>>,
    read: AtomicUsize,
}

impl Far {
    fn new() -> (Arc<Self>, ChannelRef) {
        let far = Arc::new(Self::default());
        (Arc::clone(&far), ChannelRef::new(far))
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock())
    }

    fn answer(&self, what: String, waiter: Option<&dyn Waiter>, value: u64) -> Answer {
        let mut left = self.answers_left.lock();
        if *left == Some(0) && waiter.is_some() {
            *left = None;
            return Answer::Interrupted;
        }
        *left = left.map(|left| left.saturating_sub(1));
        self.log.lock().push(what);
        Answer::Done(value)
    }
}

fn name(access: &Forwarded) -> String {
    let size = access.size.map_or("-".to_owned(), |size| size.bytes().to_string());
    let posted = if access.posted { " posted" } else { "" };
    let more = if access.more { " more" } else { "" };
    format!("{:#x}+{:#x}/{size}{posted}{more}", access.user_data, access.offset)
}

impl Channel for Far {
    fn read(&self, access: &Forwarded, waiter: Option<&dyn Waiter>) -> Answer {
        let value = 0x10 + self.read.fetch_add(1, Ordering::Relaxed) as u64;
        self.answer(format!("read {}", name(access)), waiter, value)
    }

    fn write(&self, access: &Forwarded, value: u64, waiter: Option<&dyn Waiter>) -> Answer {
        self.answer(format!("write {} {value:#x}", name(access)), waiter, 0)
    }

    fn flush(&self) {
        self.log.lock().push("flush".to_owned());
    }
}

struct Elsewhere;

impl Waiter for Elsewhere {
    fn is_wanted(&self) -> bool {
        true
    }
}

fn window(offset: u64, len: u64, forward: Forward) -> Window {
    Window { offset, len, delivery: Delivery::Forward(forward) }
}

fn of_value(to: &ChannelRef, value: u64) -> Forward {
    Forward { datamatch: Some(value), ..Forward::new(to.clone(), value) }
}

fn region(device: &Arc<Recorder>) -> Region {
    Region::mmio(0x1000, 0x100, "d", "r", device.clone())
}

#[test]
fn writes_of_one_value_fan_out_and_all_else_goes_on_to_the_next_taker() {
    let ((far, to), device) = (Far::new(), Recorder::new());
    let registry = Registry::builder().build();
    let posted = Forward { posted: true, ..of_value(&to, 1) };
    let region = region(&device)
        .window(window(0x50, 4, of_value(&to, 0)))
        .window(window(0x50, 4, posted))
        .window(window(0x50, 2, of_value(&to, 7)));
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    for value in [0, 1, 2] {
        handle.write_value(Space::Mmio, 0x1050, Size::Dword, value);
    }
    handle.write_value(Space::Mmio, 0x1050, Size::Byte, 0);
    handle.write_value(Space::Mmio, 0x1050, Size::Word, 7);
    handle.write_value(Space::Mmio, 0x1051, Size::Byte, 0);
    handle.read_value(Space::Mmio, 0x1050, Size::Dword);
    let expected = ["write 0x0+0x0/4 0x0", "write 0x1+0x0/4 posted 0x1", "write 0x7+0x0/2 0x7"];
    assert_eq!(far.take(), expected);
    assert_eq!(
        device.take(),
        [
            ("write", 0x50, 4, 2),
            ("write", 0x50, 1, 0),
            ("write", 0x51, 1, 0),
            ("read", 0x50, 4, 0x5352_5150),
        ]
    );
    let table = registry.stats().to_string();
    assert!(table.contains("+0x50-0x53 forward = 0x1 0x1 posted (registry)"), "{table}");
}

#[test]
fn a_value_is_taken_before_a_window_of_all_values_around_it() {
    let ((far, to), device) = (Far::new(), Recorder::new());
    let registry = Registry::builder().build();
    let region = region(&device)
        .window(window(0, 0x100, Forward::new(to.clone(), 0xa)))
        .window(window(0x50, 4, of_value(&to, 1)));
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.write_value(Space::Mmio, 0x1050, Size::Dword, 1);
    handle.write_value(Space::Mmio, 0x1050, Size::Dword, 2);
    assert_eq!(far.take(), ["write 0x1+0x0/4 0x1", "write 0xa+0x50/4 0x2"]);
    assert_eq!(device.take(), []);
}

#[test]
fn without_data_reads_and_writes_are_writes_of_nothing() {
    let ((far, to), device) = (Far::new(), Recorder::new());
    let registry = Registry::builder().build();
    let bell = Forward { no_data: true, ..Forward::new(to.clone(), 0xb) };
    let posted = Forward { posted: true, ..bell.clone() };
    let region =
        region(&device).window(window(0x10, 8, bell.clone())).window(window(0x40, 0, posted));
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.write_value(Space::Mmio, 0x1014, Size::Dword, 0x1234);
    assert!(!handle.take_told_nothing());
    handle.read_value(Space::Mmio, 0x1012, Size::Word);
    assert!(handle.take_told_nothing() && !handle.take_told_nothing(), "asked once");
    handle.write(Space::Mmio, 0x1011, &[1; 7]);
    handle.read_value(Space::Mmio, 0x1040, Size::Qword);
    assert!(handle.take_told_nothing());
    handle.write_value(Space::Mmio, 0x1040, Size::Byte, 1);
    let expected = [
        "write 0xb+0x4/- 0x0",
        "write 0xb+0x2/- 0x0",
        "write 0xb+0x1/- 0x0",
        "write 0xb+0x0/- posted 0x0",
        "write 0xb+0x0/- posted 0x0",
    ];
    assert_eq!(far.take(), expected);
    assert_eq!(device.take(), []);
    let ports = Region::pio(0x10, 8, "d", "r", device).window(window(0, 8, bell));
    let error = Registry::builder().build().map(ports).map(drop).unwrap_err();
    assert!(matches!(error, EditError::Window { .. }), "ports have data");
}

#[test]
fn windows_of_one_value_collide_as_doorbells_do() {
    let (_far, to) = Far::new();
    let refused = |others: &[Window]| {
        let with = |region: Region, window: &Window| region.window(window.clone());
        let region = others.iter().fold(region(&Recorder::new()), with);
        match Registry::builder().build().map(region).map(drop) {
            Ok(()) => false,
            Err(EditError::Delivery { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    };
    let one = window(0x10, 4, of_value(&to, 1));
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let bell = |len, datamatch| Window {
        offset: 0x10,
        len,
        delivery: Delivery::Doorbell {
            target: EventFd::duplicate(&event).unwrap().into(),
            datamatch,
        },
    };
    let coalesced = Window { offset: 0x13, len: 1, delivery: Delivery::Coalesced };
    assert!(refused(&[one.clone(), one.clone()]));
    assert!(refused(&[one.clone(), bell(4, Some(1))]));
    assert!(refused(&[one.clone(), bell(4, None)]));
    assert!(refused(&[bell(0, None), one.clone()]));
    assert!(refused(&[one.clone(), coalesced]));
    assert!(!refused(&[one.clone(), bell(4, Some(2)), bell(2, Some(1))]));
    assert!(!refused(&[one.clone(), window(0x10, 4, of_value(&to, 2))]));
    assert!(!refused(&[one.clone(), window(0x10, 8, of_value(&to, 1))]));
    for impossible in [
        window(0x10, 3, of_value(&to, 1)),
        window(0x10, 0, of_value(&to, 1)),
        window(0x10, 4, Forward { no_data: true, ..of_value(&to, 1) }),
    ] {
        let error = Registry::builder()
            .build()
            .map(region(&Recorder::new()).window(impossible))
            .map(drop)
            .unwrap_err();
        assert!(matches!(error, EditError::Window { .. }));
    }
}

/// Every place at which an access of several commands, with a device's handler in its middle, can be
/// interrupted.
#[test]
fn an_interrupted_access_goes_on_where_it_was_and_repeats_nothing() {
    for answered in 0..4 {
        let ((far, to), device) = (Far::new(), Recorder::new());
        let registry = Registry::builder().build();
        let _map =
            registry
                .map(
                    region(&device)
                        .window(window(1, 3, Forward::new(to.clone(), 0xa)))
                        .window(window(6, 2, Forward::new(to, 0xb))),
                )
                .unwrap();
        let mut handle = registry.handle(0);
        handle.set_waiter(Arc::new(Elsewhere));
        let made = |far: &Far, device: &Recorder| (far.take(), device.take());
        let mut plain = [0; 8];
        handle.read(Space::Mmio, 0x1000, &mut plain);
        assert!(!handle.take_interrupted());
        assert_eq!(plain, [0, 0x10, 0x11, 0, 4, 5, 0x12, 0]);
        let expected = made(&far, &device);
        let counts = registry.stats().regions[0].counts;

        far.read.store(0, Ordering::Relaxed);
        *far.answers_left.lock() = Some(answered);
        let mut data = [0; 8];
        handle.read(Space::Mmio, 0x1000, &mut data);
        let interrupted = handle.take_interrupted();
        assert_eq!(interrupted, answered < 3);
        if interrupted {
            far.read.store(answered, Ordering::Relaxed);
            handle.read(Space::Mmio, 0x1000, &mut data);
            assert!(!handle.take_interrupted());
        }
        assert_eq!(data, plain);
        assert_eq!(made(&far, &device), expected);
        let twice = registry.stats().regions[0].counts;
        let sums = (twice.reads, twice.forwarded, twice.refused);
        assert_eq!(sums, (counts.reads * 2, counts.forwarded * 2, 0));
    }
}

#[test]
fn an_interrupted_string_goes_on_with_its_element() {
    let (far, to) = Far::new();
    let registry = Registry::builder().build();
    let ports = Region::pio(0x1f0, 8, "d", "r", Recorder::new());
    let _map = registry.map(ports.window(window(0, 8, Forward::new(to, 1)))).unwrap();
    let mut handle = registry.handle(0);
    handle.set_waiter(Arc::new(Elsewhere));
    *far.answers_left.lock() = Some(2);
    let data = [1, 0, 2, 0, 3, 0, 4, 0];
    handle.write_rep(0x1f0, Size::Word, &data);
    assert!(handle.take_interrupted());
    handle.write_rep(0x1f0, Size::Word, &data);
    assert!(!handle.take_interrupted());
    let expected: Vec<_> = (1..=4).map(|n| format!("write 0x1+0x0/2 {n:#x}")).collect();
    assert_eq!(far.take(), expected);
    far.read.store(0, Ordering::Relaxed);
    *far.answers_left.lock() = Some(1);
    let mut data = [0; 3];
    handle.read_rep(0x1f0, Size::Byte, &mut data);
    assert!(handle.take_interrupted());
    far.read.store(1, Ordering::Relaxed);
    handle.read_rep(0x1f0, Size::Byte, &mut data);
    assert_eq!((handle.take_interrupted(), data), (false, [0x10, 0x11, 0x12]));
}

#[test]
fn an_access_that_is_given_up_is_another_one_when_it_is_made_again() {
    let (far, to) = Far::new();
    let registry = Registry::builder().build();
    let forward = window(0, 0x100, Forward::new(to, 1));
    let _map = registry.map(region(&Recorder::new()).window(forward)).unwrap();
    let mut handle = registry.handle(0);
    handle.set_waiter(Arc::new(Elsewhere));
    *far.answers_left.lock() = Some(1);
    handle.write(Space::Mmio, 0x1001, &[1, 2, 3]);
    assert!(handle.take_interrupted());
    handle.forget_interrupted();
    handle.write(Space::Mmio, 0x1001, &[1, 2, 3]);
    assert!(!handle.take_interrupted());
    let first = "write 0x1+0x1/1 0x1";
    assert_eq!(far.take(), [first, first, "write 0x1+0x2/2 0x302"]);
}

#[test]
fn queued_writes_go_out_together_and_before_what_comes_after_them() {
    let ((far, to), (other, to_other)) = (Far::new(), Far::new());
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let posted = |to: &ChannelRef| Forward { posted: true, ..Forward::new(to.clone(), 1) };
    let region = region(&device)
        .window(window(0, 0x10, posted(&to)))
        .window(window(0x10, 0x10, posted(&to_other)))
        .coalesce(0..0x30);
    let _map = registry.map(region).unwrap();
    for (addr, value) in [(0x1000, 1), (0x1004, 2), (0x1010, 3), (0x1020, 4), (0x1000, 5)] {
        assert!(source.guest_write(Space::Mmio, addr, &[value, 0]));
    }
    assert!(source.guest_write(Space::Mmio, 0x100f, &[6, 7]), "across the border");
    registry.handle(0).read_value(Space::Mmio, 0x1000, Size::Byte);
    let write = |offset, value| format!("write 0x1+{offset:#x}/2 posted more {value:#x}");
    let last = "write 0x1+0xf/1 posted 0x6";
    let read = "read 0x1+0x0/1";
    let flush = "flush".to_owned();
    assert_eq!(far.take(), [&write(0, 1), &write(4, 2), &flush, &write(0, 5), last, &flush, read]);
    assert_eq!(other.take(), [&write(0, 3), &flush, "write 0x1+0x0/1 posted 0x7"]);
    assert_eq!(device.take(), [("write", 0x20, 2, 4)]);
    // What is in two windows is no write of one, and counted as two others.
    assert_eq!(registry.stats().regions[0].counts.coalesced, 5);
}
