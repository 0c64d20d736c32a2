//! What is recorded of accesses: the last ones for reports, or all of them in one order.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use support::Source;
use trapline::{
    AccessClock, Direction, Follower, Handle, Handler, IoCx, Mode, Region, Registry, Size, Space,
    Stamp, StreamId,
};
use trapline_access::record::{Op, Outcome, Record};

/// A clock that moves on by 10 ns whenever it is asked.
#[derive(Default)]
struct Ticking(AtomicU64);

impl AccessClock for Ticking {
    fn stamp_ns(&self) -> u64 {
        self.0.fetch_add(10, Ordering::Relaxed)
    }
}

/// A clock with a counter: a count is 10 ns, and reading either is one.
struct Counted;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(100) };
}

fn count() -> u64 {
    COUNT.replace(COUNT.get() + 1)
}

impl AccessClock for Counted {
    fn stamp_ns(&self) -> u64 {
        count() * 10
    }

    fn counter(&self) -> Option<fn() -> u64> {
        Some(count)
    }
}

fn recorded(registry: Registry, mode: Mode) -> Registry {
    assert!(registry.start_recorder(Arc::<Ticking>::default(), mode));
    registry
}

fn registry() -> Registry {
    recorded(Registry::builder().build(), Mode::Flight)
}

/// Names its one register after what was written to it last, and says so when it is reached.
#[derive(Default)]
struct Banked(Mutex<bool>);

impl Handler for Banked {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        cx.reaches(|| self.register(offset, Direction::Read));
        0x1234_5678_9abc_def0 & size.ones()
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        cx.reaches(|| self.register(offset, Direction::Write));
        *self.0.lock() = value != 0;
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        (offset == 0).then(|| if *self.0.lock() { "DLL" } else { "THR" })
    }
}

/// The last access in words.
fn last(handle: &Handle) -> String {
    handle.recent().last().unwrap().to_string()
}

#[test]
fn a_report_tells_each_kind_of_access_and_names_registers_as_they_were() {
    let registry = registry();
    let _maps = [
        registry.map(Region::pio(0, 1, "d", "r", Arc::<Banked>::default())).unwrap(),
        registry
            .map(Region::pio(1, 8, "p", "r", Arc::<Banked>::default()).device_offset(8))
            .unwrap(),
    ];
    let mut handle = registry.handle(0);
    assert_eq!(handle.recent(), []);
    // The first is the first access to that region, the second takes the shortest way.
    for register in ["THR", "DLL", "DLL"] {
        handle.write_value(Space::Pio, 0, Size::Byte, 1);
        assert_eq!(last(&handle), format!("d/r {register} (pio 0x0) write 1 byte 0x1"));
    }
    handle.read_value(Space::Pio, 0, Size::Byte);
    assert_eq!(last(&handle), "d/r DLL (pio 0x0) read 1 byte 0xf0");
    handle.write_rep(0, Size::Byte, &[2, 0, 1, 7]);
    assert_eq!(last(&handle), "d/r DLL (pio 0x0) write 4 times 1 byte, first 0x2");
    handle.read_rep(1, Size::Word, &mut [0; 6]);
    assert_eq!(last(&handle), "p/r (pio 0x1) read 3 times 2 bytes, first 0xdef0");
    handle.write(Space::Pio, 0, &[0, 1, 2]);
    assert_eq!(last(&handle), "d/r DLL (pio 0x0) write 3 bytes 0x20100");
    handle.read_value(Space::Mmio, 0xfee0_0000, Size::Dword);
    assert_eq!(last(&handle), "unclaimed (mmio 0xfee00000) read 4 bytes 0xffffffff");
    handle.write_value(Space::Pio, 8, Size::Word, 0x0102);
    assert_eq!(last(&handle), "p/r (pio 0x8) write 2 bytes 0x102 mixed");
    handle.read(Space::Mmio, 0, &mut [0; 16]);
    assert!(last(&handle).starts_with("p/r"), "what no processor does is not recorded");
    assert_eq!(handle.recent().len(), 9);
    for value in 0..40 {
        handle.write_value(Space::Pio, 0x500, Size::Byte, value);
    }
    let told: Vec<_> = handle.recent().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 32, "the last ones");
    assert_eq!(told[0], "unclaimed (pio 0x500) write 1 byte 0x8");
    assert_eq!(told[31], "unclaimed (pio 0x500) write 1 byte 0x27");
    handle.forget_recent();
    assert_eq!(handle.recent(), []);
}

/// What those who follow read of all streams: the values of accesses, and the names of the registers.
fn followed(follower: &mut Follower) -> Vec<(u64, Option<&'static str>)> {
    let streams = follower.read();
    let each = streams.iter().flat_map(|one| one.records.iter().zip(&one.registers));
    each.map(|(record, register)| (record.value, *register)).collect()
}

#[test]
fn who_follows_reads_what_registers_were_called_when_they_were_reached() {
    let source = Arc::new(Source::default());
    let registry = recorded(Registry::builder().offload(source.clone()).build(), Mode::Flight);
    let region = Region::pio(0, 8, "d", "r", Arc::<Banked>::default()).coalesce(7..8);
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.write_value(Space::Pio, 0, Size::Byte, 0);
    let recorder = registry.recorder().unwrap();
    let [mut first, mut second] = [recorder.follow(), recorder.follow()];
    assert_eq!(followed(&mut first), [(0, None)], "nobody followed");
    handle.write_value(Space::Pio, 0, Size::Byte, 1);
    handle.write_value(Space::Pio, 0, Size::Byte, 0);
    handle.write_value(Space::Pio, 0, Size::Word, 0x1_0002);
    handle.read_value(Space::Pio, 4, Size::Byte);
    handle.write_rep(0, Size::Byte, &[2, 0, 1]);
    // Queued writes are a stream of their own, which comes first.
    assert!(source.guest_write(Space::Pio, 7, &[9]));
    handle.write(Space::Pio, 0, &[5, 0, 0]);
    let expected = [
        (9, None),
        (1, Some("THR")),
        (0, Some("DLL")),
        (2, Some("THR")),
        (0xf0, None),
        (3, Some("DLL")),
        (5, Some("DLL")),
    ];
    assert_eq!(followed(&mut first), expected);
    let before = [expected[0], (0, None)];
    assert_eq!(followed(&mut second), [&before, &expected[1..]].concat());
    // However often the ring has come round.
    for value in 1..=20_000 {
        handle.write_value(Space::Pio, 0, Size::Byte, value % 2);
        if value % 1000 == 0 {
            let expected = [(1, Some("THR")), (0, Some("DLL"))].repeat(500);
            assert_eq!(followed(&mut first), expected);
        }
    }
}

/// Names registers by their offsets, where it has not said so when they were reached.
struct Named;

impl Handler for Named {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        offset
    }
    fn write(&self, cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        cx.reaches(|| Some("STATE"));
    }
    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        (direction == Direction::Read && offset == 12).then_some("TWELVE")
    }
}

/// In the first place looked at, and in one that has to be searched for.
#[test]
fn what_was_reached_keeps_its_name_wherever_its_region_goes() {
    for len in [0x1000, 0x4000_0000] {
        let registry = registry();
        let region = |name| Region::mmio(0x4000_0000, len, name, "regs", Arc::new(Named));
        let first = registry.map(region("first").device_offset(8)).unwrap();
        let mut handle = registry.handle(0);
        handle.read_value(Space::Mmio, 0x4000_0004, Size::Dword);
        handle.write_value(Space::Mmio, 0x4000_0004, Size::Dword, 1);
        let names = |handle: &Handle| -> Vec<_> {
            handle.recent().into_iter().map(|access| access.name.unwrap()).collect()
        };
        assert_eq!(names(&handle), ["first/regs TWELVE", "first/regs STATE"]);
        // Elsewhere, with another in its place, and nowhere.
        let second = registry.edit(|edit| {
            edit.place(first.id(), Some(0x1_0000_0000));
            edit.map(region("second"))
        });
        let _second = second.unwrap();
        handle.read_value(Space::Mmio, 0x4000_000c, Size::Dword);
        let expected = ["first/regs TWELVE", "first/regs STATE", "second/regs TWELVE"];
        assert_eq!(names(&handle), expected);
        let nowhere = registry.edit(|edit| {
            edit.place(first.id(), None);
            Ok(())
        });
        nowhere.unwrap();
        assert_eq!(names(&handle), expected);
        // Gone, what the handler said is known, and what it would have said is not.
        drop(first);
        assert_eq!(names(&handle), ["first/regs", "first/regs STATE", "second/regs TWELVE"]);
    }
}

#[test]
fn queued_writes_are_told_of_before_the_access_that_delivered_them() {
    told_in_order(Arc::<Ticking>::default());
    told_in_order(Arc::new(Counted));
}

fn told_in_order(clock: Arc<dyn AccessClock>) {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    assert!(registry.start_recorder(clock, Mode::Flight));
    let region = Region::pio(0, 8, "d", "r", Arc::<Banked>::default()).coalesce(0..1);
    let _map = registry.map(region).unwrap();
    let [mut first, mut second] = [registry.handle(0), registry.handle(1)];
    first.read_value(Space::Pio, 5, Size::Byte);
    assert!(source.guest_write(Space::Pio, 0, &[0x41]));
    first.read_value(Space::Pio, 6, Size::Byte);
    assert!(source.guest_write(Space::Pio, 0, &[0x42]));
    registry.drain();
    second.read_value(Space::Pio, 7, Size::Byte);
    let told =
        |handle: &Handle| -> Vec<_> { handle.recent().iter().map(ToString::to_string).collect() };
    let queued = [
        "d/r THR (pio 0x0) write 1 byte 0x41 coalesced",
        "d/r DLL (pio 0x0) write 1 byte 0x42 coalesced",
    ];
    let read = |port| format!("d/r (pio {port:#x}) read 1 byte 0xf0");
    assert_eq!(told(&first), [&read(5), queued[0], &read(6), queued[1]]);
    assert_eq!(told(&second), [queued[0], queued[1], &read(7)]);
    first.forget_recent();
    assert_eq!(told(&first), Vec::<String>::new());
}

/// Reads as the stamp in force, and panics when written to.
struct Stamped;

impl Handler for Stamped {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        Stamp::in_force().unwrap()
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        panic!("the device is lost");
    }
}

#[test]
fn the_stamp_of_a_record_is_the_time_the_device_had() {
    for mode in [Mode::Flight, Mode::Lossless] {
        let registry = recorded(Registry::builder().build(), mode);
        let _map = registry.map(Region::mmio(0, 8, "d", "r", Arc::new(Stamped))).unwrap();
        let mut handle = registry.handle(0);
        for _ in 0..5 {
            let now = handle.read_value(Space::Mmio, 0, Size::Qword);
            let recent = handle.recent();
            assert_eq!(recent.last().unwrap().at_ns, now);
            assert_eq!(now % 16, 0);
        }
        assert_eq!(Stamp::in_force(), None);
        let died = catch_unwind(AssertUnwindSafe(|| {
            handle.write_value(Space::Mmio, 0, Size::Qword, 0);
        }));
        assert!(died.is_err());
        assert_eq!(Stamp::in_force(), None);
        assert_eq!(handle.recent().len(), 5, "what came before is not lost");
        handle.read_value(Space::Mmio, 0, Size::Qword);
        assert_eq!(handle.recent().len(), 6);
    }
}

/// Reads as how long an access takes by the clock of the devices, and as when it began.
struct Asking;

impl Handler for Asking {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let now = || Stamp::or_now(|| Counted.stamp_ns());
        if offset == 0 { now() } else { now() - now() }
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

#[test]
fn with_a_counter_a_device_has_one_time_an_access_and_reports_tell_when_it_was() {
    let registry = Registry::builder().build();
    registry.start_recorder(Arc::new(Counted), Mode::Flight);
    let _map = registry.map(Region::mmio(0, 16, "d", "r", Arc::new(Asking))).unwrap();
    let mut handle = registry.handle(0);
    for _ in 0..100 {
        let before = count();
        let asked = handle.read_value(Space::Mmio, 0, Size::Qword);
        let after = count();
        assert_eq!(handle.read_value(Space::Mmio, 8, Size::Qword), 0, "time stands still");
        let recent = handle.recent();
        let [.., told, _] = recent.as_slice() else { panic!("two accesses") };
        // The line is through two moments whose count and time were not read at once.
        assert!((before - 5..=after + 5).contains(&(told.at_ns / 10)), "{told:?}");
        assert!((before * 10..after * 10).contains(&asked));
    }
}

/// What was recorded, in order of the stamps: stream, stamp, address in the first slot, value.
fn in_order(registry: &Registry) -> Vec<(u64, StreamId, u64)> {
    let mut all = Vec::new();
    for taken in registry.recorder().unwrap().take() {
        let mut now = taken.since_ns;
        for words in taken.words {
            let record = Record::decode(words).unwrap();
            now += u64::from(record.delta) * 16;
            match record.op {
                Op::Time => now = record.value,
                _ => all.push((now, taken.stream, record.value)),
            }
        }
    }
    all.sort_by_key(|(at_ns, stream, _)| (*at_ns, *stream));
    all
}

/// Counts its reads.
#[derive(Default)]
struct Counter(AtomicU64);

impl Handler for Counter {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        let count = self.0.load(Ordering::Relaxed);
        // Another thread comes in between, unless it has to wait.
        std::thread::yield_now();
        self.0.store(count + 1, Ordering::Relaxed);
        count
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

#[test]
fn a_lossless_recording_has_all_accesses_in_the_order_in_which_devices_saw_them() {
    const EACH: u64 = 3000;
    let registry = recorded(Registry::builder().build(), Mode::Lossless);
    let _map = registry.map(Region::mmio(0, 8, "d", "r", Arc::<Counter>::default())).unwrap();
    std::thread::scope(|scope| {
        for vcpu in 0..3 {
            let mut handle = registry.handle(vcpu);
            scope.spawn(move || {
                for _ in 0..EACH {
                    handle.read_value(Space::Mmio, 0, Size::Qword);
                }
            });
        }
    });
    let all = in_order(&registry);
    assert!(all.iter().map(|(_, _, value)| *value).eq(0..3 * EACH));
    assert!(all.is_sorted_by(|a, b| a.0 < b.0), "no two have the same stamp");
    assert_eq!(in_order(&registry), [], "taken once");
}

#[test]
fn what_is_taken_ends_between_two_steps_and_goes_on_from_there() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let registry = recorded(registry, Mode::Lossless);
    let region = Region::pio(0, 8, "d", "r", Arc::<Counter>::default()).coalesce(0..1);
    let _map = registry.map(region).unwrap();
    let recorder = registry.recorder().unwrap();
    let mut handle = registry.handle(2);
    let mut seen = Vec::new();
    for value in 0..10 {
        source.guest_write(Space::Pio, 0, &[value]);
        handle.read_value(Space::Pio, 5, Size::Byte);
        let step = recorder.step();
        recorder.event(&step, Op::Reset, 0, 0, value.into());
        drop(step);
        if value % 3 == 0 {
            seen.extend(in_order(&registry));
        }
    }
    assert_eq!(seen.len(), 30);
    assert!(seen.is_sorted_by(|a, b| a.0 <= b.0));
    for (value, steps) in (0..).zip(seen.chunks(3)) {
        let expected = [StreamId::Queued, StreamId::Vcpu(2), StreamId::Events];
        assert!(steps.iter().map(|(_, stream, _)| *stream).eq(expected));
        assert!(steps.iter().all(|(_, _, recorded)| *recorded == value), "{steps:?}");
        assert_eq!(steps[0].0, steps[1].0, "a queued write has the stamp of who delivers it");
        assert!(steps[1].0 < steps[2].0);
    }
    let slots = recorder.slots(0);
    assert_eq!(slots.len(), 1);
    assert_eq!(slots[0].region.as_ref().unwrap().name.to_string(), "d/r");
}

#[test]
fn who_looks_at_devices_sees_what_the_records_that_were_taken_have_led_to() {
    const EACH: u64 = 3000;
    let registry = recorded(Registry::builder().build(), Mode::Lossless);
    let device = Arc::<Counter>::default();
    let _map = registry.map(Region::mmio(0, 8, "d", "r", device.clone())).unwrap();
    let recorder = registry.recorder().unwrap();
    let (mut taken, mut last_ns) = (0, 0);
    let mut look = || {
        let look = |step: &trapline::Step<'_>| (device.0.load(Ordering::Relaxed), step.at_ns());
        let Some((all, (seen, at_ns))) = recorder.take_and_look(look) else { return };
        for taken_of in &all {
            let records = taken_of.words.iter().map(|words| Record::decode(*words).unwrap());
            taken += records.filter(|record| record.access().is_some()).count() as u64;
        }
        assert_eq!(seen, taken);
        assert!(at_ns > last_ns, "a step of its own");
        last_ns = at_ns;
    };
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|vcpu| {
            let mut handle = registry.handle(vcpu);
            scope.spawn(move || {
                for _ in 0..EACH {
                    handle.read_value(Space::Mmio, 0, Size::Qword);
                }
            })
        });
        while !threads.iter().all(|thread| thread.is_finished()) {
            look();
        }
    });
    look();
    assert_eq!(taken, 2 * EACH);
}

#[test]
fn who_is_faster_than_the_one_who_takes_waits_for_it_or_is_let_go() {
    let registry = recorded(Registry::builder().build(), Mode::Lossless);
    let recorder = registry.recorder().unwrap();
    let mut handle = registry.handle(0);
    let (mut taken, mut waited) = (0, 0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for value in 0..200_000 {
                handle.write_value(Space::Pio, 0x500, Size::Dword, value);
            }
        });
        while !writer.is_finished() {
            if recorder.waits() > waited || taken == 0 {
                waited = recorder.waits();
                taken += in_order(&registry).len();
            }
        }
    });
    taken += in_order(&registry).len();
    assert_eq!(taken, 200_000);
    assert!(waited > 0);
    recorder.give_up();
    let mut handle = registry.handle(0);
    for value in 0..200_000 {
        handle.write_value(Space::Pio, 0x500, Size::Dword, value);
    }
}

#[test]
fn outcomes_are_recorded() {
    let registry = recorded(Registry::builder().build(), Mode::Lossless);
    let device = support::Recorder::with_rules(trapline::Rules {
        valid: trapline::Limits::only(Size::Dword),
        handled: trapline::Limits::only(Size::Dword),
    });
    let (rung, event) = support::event();
    let region = Region::mmio(0x1000, 0x10, "d", "r", device).doorbell(8, 4, None, event);
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.write_value(Space::Mmio, 0x1000, Size::Dword, 1);
    handle.write_value(Space::Mmio, 0x1000, Size::Byte, 1);
    handle.write_value(Space::Mmio, 0x1008, Size::Dword, 1);
    handle.write_value(Space::Mmio, 0x2000, Size::Dword, 1);
    handle.write(Space::Mmio, 0x100e, &[0; 7]);
    assert_eq!(support::rung(&rung), 1);
    let taken = registry.recorder().unwrap().take();
    let records = taken[0].words.iter().map(|words| Record::decode(*words).unwrap());
    let outcomes: Vec<_> = records.filter_map(|record| record.access()).map(|a| a.3).collect();
    let expected =
        [Outcome::Handled, Outcome::Refused, Outcome::Rang, Outcome::Unclaimed, Outcome::Mixed];
    assert_eq!(outcomes, expected);
}
