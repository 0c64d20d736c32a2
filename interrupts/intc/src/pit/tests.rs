//! The 8254 as a driver programs it.

mod model;
mod states;

use std::sync::Arc;

use proptest::prelude::*;
use trapline_device::{Clock, Device, Direction, Handler, SaveState, Saved, Size, StateError};
use trapline_testkit::{TestClock, TestLine, inb, named, outb};

use super::regs::PIT_HZ;
use super::{Pit, ns_of};

const CONTROL: u64 = 3;
const SECOND: u64 = 1_000_000_000;

struct Pc {
    pit: Arc<Pit>,
    clock: TestClock,
    irq: TestLine,
}

impl Pc {
    fn new() -> Self {
        let (clock, irq) = (TestClock::default(), TestLine::default());
        let pit = Pit::new(Some(irq.line()), Arc::new(clock.clone()));
        Self { pit, clock, irq }
    }

    /// Both bytes of a count, in this mode.
    fn program(&self, channel: u8, mode: u8, count: u16) {
        outb(&*self.pit, CONTROL, channel << 6 | 0x30 | mode << 1);
        self.count(channel, count);
    }

    fn count(&self, channel: u8, count: u16) {
        count.to_le_bytes().into_iter().for_each(|byte| outb(&*self.pit, u64::from(channel), byte));
    }

    fn read(&self, channel: u64) -> u8 {
        inb(&*self.pit, channel)
    }

    fn read16(&self, channel: u64) -> u16 {
        u16::from_le_bytes([self.read(channel), self.read(channel)])
    }

    fn latched16(&self, channel: u8) -> u16 {
        outb(&*self.pit, CONTROL, channel << 6);
        self.read16(u64::from(channel))
    }

    fn status(&self, channel: u8) -> u8 {
        outb(&*self.pit, CONTROL, 0xe0 | 2 << channel);
        self.read(u64::from(channel))
    }

    /// Steps to the moment CLK pulse `clocks` from the machine's start has just happened.
    fn until(&self, clocks: u64) {
        self.clock.step_ns(ns_of(clocks) - self.clock.now_ns());
    }

    /// One nanosecond before that pulse.
    fn until_before(&self, clocks: u64) {
        self.clock.step_ns(ns_of(clocks) - 1 - self.clock.now_ns());
    }
}

#[test]
fn the_tick_of_a_kernel_comes_when_the_crystal_says_and_never_drifts() {
    let pc = Pc::new();
    // 1000 Hz, as nearly as the crystal can.
    pc.program(0, 2, 1193);
    assert!(pc.irq.level());
    pc.until_before(1193);
    assert!(pc.irq.level());
    pc.until(1193);
    assert!(!pc.irq.level(), "low for the last clock of the period");
    pc.until(1194);
    assert!(pc.irq.level());
    let rises = pc.irq.rises();
    for seconds in [1, 7, 100] {
        pc.clock.step_ns(seconds * SECOND - pc.clock.now_ns());
        assert_eq!(pc.irq.rises() - rises, (PIT_HZ * seconds - 1) / 1193 - 1);
    }
}

#[test]
fn a_one_shot_interrupts_once() {
    let pc = Pc::new();
    pc.program(0, 4, 100);
    let rises = pc.irq.rises();
    pc.until_before(101);
    assert!(pc.irq.level());
    pc.until(101);
    assert!(!pc.irq.level());
    pc.until(102);
    assert!(pc.irq.level());
    assert_eq!(pc.clock.next_deadline_ns(), None, "nothing is waited for any more");
    pc.clock.step_ns(SECOND);
    assert_eq!(pc.irq.rises(), rises + 1);
}

#[test]
fn a_late_look_finds_one_edge_for_many_periods() {
    let pc = Pc::new();
    let (clock, irq) = (TestClock::default(), TestLine::default());
    let pit = Pit::new(Some(irq.line()), Arc::new(clock.clone()));
    outb(&*pit, CONTROL, 0x34);
    outb(&*pit, 0, 0x10);
    outb(&*pit, 0, 0);
    let rises = irq.rises();
    // A host that comes late with its timers: here, one that has forgotten them.
    let sleepy = Sleepy(clock.clone());
    let late = Pit::new(Some(pc.irq.line()), Arc::new(sleepy));
    late.restore(&pit.save()).unwrap();
    let before = pc.irq.rises();
    clock.step_ns(SECOND);
    inb(&*late, 0);
    assert_eq!(pc.irq.rises(), before + 1);
    assert!(irq.rises() > rises + 70_000);
}

/// A clock whose timers never expire.
struct Sleepy(TestClock);

impl Clock for Sleepy {
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }

    fn utc_ns(&self) -> u64 {
        self.0.utc_ns()
    }

    fn timer(
        &self,
        _target: std::sync::Weak<dyn trapline_device::Wake>,
    ) -> Box<dyn trapline_device::Timer> {
        struct Never;
        impl trapline_device::Timer for Never {
            fn arm(&self, _deadline_ns: Option<u64>) {}
        }
        Box::new(Never)
    }
}

#[test]
fn nothing_is_waited_for_when_nobody_listens() {
    let clock = TestClock::default();
    let pit = Pit::new(None, Arc::new(clock.clone()));
    outb(&*pit, CONTROL, 0x34);
    outb(&*pit, 0, 0x10);
    outb(&*pit, 0, 0);
    assert_eq!(clock.next_deadline_ns(), None);
    assert_eq!(Pc::new().clock.next_deadline_ns(), None, "nor before there is a count");
}

#[test]
fn a_driver_measures_time_with_counter_2_behind_its_gate() {
    let pc = Pc::new();
    pc.program(2, 0, 0x1000);
    assert!(!pc.pit.output2());
    pc.clock.step_ns(SECOND);
    assert_eq!(pc.read16(2), 0x1000, "loaded, and held by the gate");
    let start = PIT_HZ;
    pc.pit.gate2(true);
    pc.until(start + 0x1000 - 1);
    assert!(!pc.pit.output2());
    assert_eq!(pc.latched16(2), 1);
    pc.until(start + 0x1000);
    assert!(pc.pit.output2());
    pc.until(start + 0x1001);
    assert_eq!(pc.latched16(2), 0xffff, "it counts on");
}

#[test]
fn a_speaker_hears_a_square_wave_while_the_gate_is_open() {
    let pc = Pc::new();
    pc.pit.gate2(true);
    pc.program(2, 3, 5);
    let wave: Vec<bool> = (1..=10)
        .map(|clock| {
            pc.until(clock);
            pc.pit.output2()
        })
        .collect();
    let (h, l) = (true, false);
    assert_eq!(wave, [h, h, h, l, l, h, h, h, l, l], "an odd count is high one clock longer");
    pc.until(14);
    assert!(!pc.pit.output2());
    pc.pit.gate2(false);
    assert!(pc.pit.output2(), "a closed gate holds it high");
    pc.clock.step_ns(SECOND);
    assert!(pc.pit.output2());
}

#[test]
fn a_latched_count_stands_still_until_it_was_read() {
    let pc = Pc::new();
    pc.program(1, 2, 0x8000);
    pc.until(0x101);
    outb(&*pc.pit, CONTROL, 0x40);
    pc.until(0x201);
    outb(&*pc.pit, CONTROL, 0x40);
    assert_eq!(pc.read16(1), 0x7f00, "the second latch command was ignored");
    assert_eq!(pc.read16(1), 0x7e00);
}

#[test]
fn reprogramming_forgets_what_was_latched() {
    let pc = Pc::new();
    pc.program(1, 2, 0x8000);
    pc.until(0x101);
    outb(&*pc.pit, CONTROL, 0xc4);
    pc.program(1, 2, 0x4000);
    pc.until(0x102);
    assert_eq!(pc.read16(1), 0x4000);
}

/// Reading what is latched changes what is read next.
#[test]
fn an_access_keeps_the_name_it_was_made_under() {
    let pc = Pc::new();
    pc.program(0, 2, 0x300);
    let read = || named(&*pc.pit, 0, Size::Byte, None);
    assert_eq!(named(&*pc.pit, CONTROL, Size::Byte, Some(0xc2)), Some("CONTROL"));
    assert_eq!([read(), read(), read()], [Some("STATUS"), Some("COUNTER0"), Some("COUNTER0")]);
    assert_eq!(named(&*pc.pit, 2, Size::Byte, Some(1)), Some("COUNTER2"));
}

proptest! {
    #[test]
    fn every_access_keeps_the_name_it_was_made_under(
        accesses in prop::collection::vec((0u64..4, prop::option::of(0u64..0x100)), 0..50),
    ) {
        let pc = Pc::new();
        for (offset, value) in accesses {
            named(&*pc.pit, offset, Size::Byte, value);
        }
    }
}

#[test]
fn a_read_back_command_latches_status_and_count_of_several_counters() {
    let pc = Pc::new();
    pc.program(0, 2, 0x300);
    outb(&*pc.pit, CONTROL, 0x50);
    outb(&*pc.pit, 1, 0x20);
    pc.until(0x11);
    outb(&*pc.pit, CONTROL, 0xc6);
    pc.until(0x12);
    assert_eq!(pc.pit.register(0, Direction::Read), Some("STATUS"));
    assert_eq!(pc.read(0), 0xb4, "OUT high, two bytes, mode 2");
    assert_eq!(pc.pit.register(0, Direction::Read), Some("COUNTER0"));
    assert_eq!(pc.read16(0), 0x2f0);
    assert_eq!(pc.read(1), 0x10, "OUT low, one byte, mode 0");
    assert_eq!(pc.read(1), 0x10);
    assert_eq!(pc.read(1), 0x0f, "counting again after what was latched");
}

#[test]
fn the_status_tells_whether_the_count_is_being_counted() {
    let pc = Pc::new();
    outb(&*pc.pit, CONTROL, 0x7c);
    assert_eq!(pc.status(1), 0x7c | 0x80, "mode 6 as it was written; a null count; OUT high");
    pc.count(1, 10);
    assert_eq!(pc.status(1), 0xfc);
    pc.until(1);
    assert_eq!(pc.status(1), 0xbc);
    pc.count(1, 20);
    assert_eq!(pc.status(1), 0xfc, "mode 6 is mode 2, which takes it at the end of the period");
    pc.until(10);
    assert_eq!(pc.status(1), 0x7c, "the last clock is low");
    pc.until(11);
    assert_eq!(pc.status(1), 0xbc);
    assert_eq!(pc.latched16(1), 20);
}

#[test]
fn reads_and_writes_of_one_counter_keep_their_places() {
    let pc = Pc::new();
    pc.program(1, 2, 0x1234);
    pc.until(1);
    assert_eq!(pc.read(1), 0x34);
    outb(&*pc.pit, 1, 0x78);
    assert_eq!(pc.read(1), 0x12);
    outb(&*pc.pit, 1, 0x56);
    pc.until(0x1235);
    assert_eq!(pc.read16(1), 0x5678);
}

#[test]
fn the_first_byte_of_a_new_count_stops_mode_0() {
    let pc = Pc::new();
    pc.program(0, 0, 4);
    pc.until(5);
    assert!(pc.irq.level());
    outb(&*pc.pit, 0, 3);
    assert!(!pc.irq.level());
    assert_eq!(pc.clock.next_deadline_ns(), None);
    pc.until(100);
    outb(&*pc.pit, 0, 0);
    pc.until(103);
    assert!(!pc.irq.level());
    pc.until(104);
    assert!(pc.irq.level());
}

#[test]
fn decades_count_in_tens() {
    let pc = Pc::new();
    outb(&*pc.pit, CONTROL, 0x71);
    pc.count(1, 0);
    pc.until(2);
    assert_eq!(pc.latched16(1), 0x9999, "zero is ten thousand");
    pc.until(1 + 9_001);
    assert_eq!(pc.latched16(1), 0x0999);
}

#[test]
fn the_control_word_can_not_be_read() {
    let pc = Pc::new();
    assert_eq!(inb(&*pc.pit, CONTROL), 0xff);
    assert_eq!(pc.pit.register(CONTROL, Direction::Read), None);
    assert_eq!(pc.pit.register(CONTROL, Direction::Write), Some("CONTROL"));
}

#[test]
fn reset_stops_the_counters_and_leaves_the_gates() {
    let pc = Pc::new();
    pc.pit.gate2(true);
    pc.program(0, 2, 100);
    pc.pit.reset();
    assert!(!pc.irq.level());
    assert_eq!(pc.clock.next_deadline_ns(), None);
    pc.program(2, 0, 10);
    pc.until(11);
    assert!(pc.pit.output2());
}

#[test]
fn the_saved_form_of_version_1_never_changes() {
    let pc = Pc::new();
    pc.program(0, 3, 5);
    pc.until(1);
    outb(&*pc.pit, CONTROL, 0x00);
    let saved = pc.pit.save();
    assert_eq!((&*saved.name, saved.version), ("i8254", 1));
    let counting = [0x36, 1, 1, 2, 5, 4, 0, 1, 0, 0, 0, 1, 4, 0].to_vec();
    let idle = |gate| [0x30, gate, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0].to_vec();
    assert_eq!(saved.bytes, [counting, idle(1), idle(0)].concat());
}

#[test]
fn a_read_back_latches_the_counters_it_names_and_no_others() {
    for named in 0..8u8 {
        let pc = Pc::new();
        (0..3).for_each(|channel| pc.program(channel, 0, 5000));
        pc.until(10);
        let at_ten: Vec<u16> = (0..3).map(|channel| pc.read16(channel)).collect();
        outb(&*pc.pit, CONTROL, 0xd0 | named << 1);
        pc.until(60);
        let now: Vec<u16> = (0..3).map(|channel| pc.read16(channel)).collect();
        for (channel, (then, now)) in at_ten.into_iter().zip(now).enumerate() {
            let counts = channel != 2;
            let latched = named >> channel & 1 != 0;
            let passed = if counts && !latched { 50 } else { 0 };
            assert_eq!(then - now, passed, "counter {channel} of {named:#b}");
        }
    }
}

#[test]
fn a_control_word_leaves_the_counting_element_alone() {
    let pc = Pc::new();
    pc.program(0, 0, 5000);
    pc.until(1001);
    assert_eq!(pc.latched16(0), 4000);
    outb(&*pc.pit, CONTROL, 0x34);
    assert_eq!(pc.latched16(0), 4000);
    pc.until(2000);
    assert_eq!(pc.latched16(0), 4000, "it counts nothing before it has a count");
}

#[test]
fn impossible_states_are_refused_and_change_nothing() {
    let pc = Pc::new();
    pc.program(0, 3, 5);
    pc.until(1);
    let good = pc.pit.save();
    // A latch command, a counter's number, a gate that is tied, an odd element in mode 3, an end
    // of a periodic mode, OUT low before the first count in mode 3.
    for (at, value) in [(0, 0x06), (0, 0x7f), (1, 0), (5, 3), (3, 3), (0, 0x32)] {
        let mut bytes = good.bytes.clone();
        bytes[at] = value;
        let result = pc.pit.restore(&Saved { bytes, ..good.clone() });
        assert!(matches!(result, Err(StateError::Inconsistent { .. })), "{at}");
        assert_eq!(pc.pit.save(), good);
    }
}

/// A byte of a two-byte count is kept until the other one comes, and by no other access.
#[test]
fn half_a_count_is_refused_where_counts_are_one_byte() {
    let pc = Pc::new();
    pc.program(0, 3, 5);
    pc.until(1);
    let mut one_byte = pc.pit.save();
    one_byte.bytes[0] = 0x16; // least significant byte only, mode 3
    pc.pit.restore(&one_byte).unwrap();
    one_byte.bytes.splice(9..10, [1, 0x12]);
    let result = pc.pit.restore(&one_byte);
    assert!(matches!(result, Err(StateError::Inconsistent { .. })), "{result:?}");
}

/// Between the count and the next clock.
#[test]
fn a_count_that_is_not_loaded_yet_can_be_saved_in_every_mode() {
    for mode in 0..6 {
        let pc = Pc::new();
        pc.program(2, mode, 5);
        pc.pit.restore(&pc.pit.save()).unwrap();
    }
}

proptest! {
    #[test]
    fn any_driver_is_survived_and_a_saved_timer_behaves_the_same(
        before in prop::collection::vec((0u64..4, any::<u8>(), any::<bool>(), 0..SECOND / 50), 0..40),
        after in prop::collection::vec((0u64..4, any::<u8>(), any::<bool>(), 0..SECOND / 50), 0..40),
        years in 0u64..50,
    ) {
        let run = |pc: &Pc, ops: &[(u64, u8, bool, u64)]| {
            let mut seen = Vec::new();
            for &(offset, value, gate, wait) in ops {
                outb(&*pc.pit, offset, value);
                pc.pit.gate2(gate);
                pc.clock.step_ns(wait);
                seen.push((pc.read(offset), pc.pit.output2(), pc.irq.level()));
                if let Some(deadline) = pc.clock.next_deadline_ns() {
                    assert!(deadline > pc.clock.now_ns());
                }
            }
            seen
        };
        let pc = Pc::new();
        run(&pc, &before);
        let other = Pc::new();
        other.clock.step_ns(pc.clock.now_ns());
        other.pit.restore(&pc.pit.save()).unwrap();
        prop_assert_eq!(other.pit.save(), pc.pit.save());
        prop_assert_eq!(run(&pc, &after), run(&other, &after));
        prop_assert_eq!(other.pit.save(), pc.pit.save());
        // However long nobody looks (and no timer runs).
        let clock = TestClock::default();
        let idle = Pit::new(None, Arc::new(clock.clone()));
        idle.restore(&pc.pit.save()).unwrap();
        clock.step_ns(years * 365 * 86_400 * SECOND);
        inb(&*idle, 0);
    }

    #[test]
    fn whatever_is_restored_is_refused_or_kept(bytes in prop::collection::vec(0u8..60, 39..44)) {
        let pc = Pc::new();
        let before = pc.pit.save();
        let saved = Saved { bytes, ..before.clone() };
        let after = if pc.pit.restore(&saved).is_ok() { saved } else { before };
        prop_assert_eq!(pc.pit.save(), after);
        pc.clock.step_ns(1_000_000);
    }
}
