//! The I/O APIC as a driver, its local APICs and its lines see it.

mod states;

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline_device::{
    Device, Direction, EoiSink, Handler, LevelRoutes, Line, Msi, MsiSink, SaveState, Saved, Size,
    StateError,
};
use trapline_testkit::{CX, TestClock, named};

use super::IoApic;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOIR: u64 = 0x40;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const ACTIVE_LOW: u32 = 1 << 13;
const LOGICAL: u32 = 1 << 11;

/// The local APICs, and whoever wants to know of level-triggered messages.
#[derive(Default)]
struct Bus {
    sent: Mutex<Vec<Msi>>,
    routes: Mutex<Vec<(u8, Option<u8>)>>,
    /// The address of the last route.
    address: Mutex<u64>,
}

impl MsiSink for Bus {
    fn send(&self, address: u64, data: u32) {
        self.sent.lock().push(Msi { address, data });
    }
}

impl LevelRoutes for Bus {
    fn set_level_route(&self, pin: u8, message: Option<Msi>) {
        *self.address.lock() = message.map_or(0, |message| message.address);
        self.routes.lock().push((pin, message.map(|message| message.data.to_le_bytes()[0])));
    }
}

struct Pc {
    ioapic: Arc<IoApic>,
    clock: TestClock,
    bus: Arc<Bus>,
    lines: Vec<Line>,
}

impl Pc {
    fn new() -> Self {
        let bus = Arc::new(Bus::default());
        let clock = TestClock::default();
        let routes = Some(Arc::clone(&bus) as _);
        let ioapic = IoApic::new(Arc::clone(&bus) as _, routes, Arc::new(clock.clone()));
        let lines = (0..24).map(|pin| Line::new(ioapic.pin(pin))).collect();
        Self { ioapic, clock, bus, lines }
    }

    fn write(&self, index: u32, value: u32) {
        self.ioapic.write(&CX, IOREGSEL, Size::Dword, u64::from(index));
        self.ioapic.write(&CX, IOWIN, Size::Dword, u64::from(value));
    }

    fn read(&self, index: u32) -> u32 {
        self.ioapic.write(&CX, IOREGSEL, Size::Dword, u64::from(index));
        u32::try_from(self.ioapic.read(&CX, IOWIN, Size::Dword)).unwrap()
    }

    /// Programs a pin to interrupt processor 1.
    fn program(&self, pin: u32, low: u32) {
        self.write(0x11 + 2 * pin, 1 << 24);
        self.write(0x10 + 2 * pin, low);
    }

    fn low(&self, pin: u32) -> u32 {
        self.read(0x10 + 2 * pin)
    }

    /// The vectors sent since last time.
    fn vectors(&self) -> Vec<u8> {
        self.bus.sent.lock().drain(..).map(|message| message.data.to_le_bytes()[0]).collect()
    }

    fn pulse(&self, pin: usize) {
        self.lines[pin].set(true);
        self.lines[pin].set(false);
    }
}

#[test]
fn after_reset_there_are_24_masked_pins() {
    let pc = Pc::new();
    assert_eq!(pc.read(1), 0x0017_0020);
    for pin in 0..24 {
        assert_eq!((pc.low(pin), pc.read(0x11 + 2 * pin)), (MASKED, 0));
    }
    (0..24).for_each(|pin| pc.pulse(pin));
    assert!(pc.vectors().is_empty());
}

#[test]
fn an_edge_is_sent_once_to_the_processor_named() {
    let pc = Pc::new();
    pc.program(4, 0x34);
    pc.lines[4].set(true);
    let sent = Msi { address: 0xfee0_1000, data: 0x4034 };
    assert_eq!(*pc.bus.sent.lock(), [sent]);
    pc.ioapic.eoi(0x34);
    pc.lines[4].set(false);
    assert_eq!(*pc.bus.sent.lock(), [sent]);
    pc.pulse(4);
    assert_eq!(pc.vectors(), [0x34, 0x34]);
}

#[test]
fn all_fields_of_an_entry_reach_the_message() {
    let pc = Pc::new();
    pc.write(0x13, 0xa55a_0000);
    pc.write(0x12, 0x41 | 1 << 8 | LOGICAL | LEVEL);
    pc.lines[1].set(true);
    let sent = Msi { address: 0xfeea_55ac, data: 0xc141 };
    assert_eq!(*pc.bus.sent.lock(), [sent], "lowest priority has the redirection hint");
}

#[test]
fn delivery_modes_other_than_the_first_two_are_edges() {
    let pc = Pc::new();
    for (mode, sent) in [(2, true), (3, false), (4, true), (5, true), (6, false), (7, true)] {
        pc.program(9, LEVEL | mode << 8);
        pc.lines[9].set(true);
        assert_eq!(pc.low(9) & REMOTE_IRR, 0);
        pc.lines[9].set(false);
        let data: Vec<u32> = pc.bus.sent.lock().drain(..).map(|message| message.data).collect();
        assert_eq!(data, if sent { vec![0x4000 | mode << 8] } else { vec![] }, "mode {mode}");
    }
}

#[test]
fn an_edge_on_a_masked_pin_is_lost_and_a_level_is_not() {
    let pc = Pc::new();
    pc.program(4, MASKED | 0x34);
    pc.program(5, MASKED | LEVEL | 0x35);
    pc.lines[4].set(true);
    pc.lines[5].set(true);
    pc.program(4, 0x34);
    pc.program(5, LEVEL | 0x35);
    assert_eq!(pc.vectors(), [0x35]);
}

#[test]
fn a_level_is_sent_again_after_the_eoi_while_it_lasts() {
    let pc = Pc::new();
    pc.program(16, LEVEL | 0x50);
    pc.lines[16].set(true);
    assert_eq!(pc.low(16), LEVEL | REMOTE_IRR | 0x50);
    pc.lines[16].set(false);
    pc.lines[16].set(true);
    assert_eq!(pc.vectors(), [0x50], "once until its end");
    pc.ioapic.eoi(0x51);
    assert!(pc.vectors().is_empty(), "that was another one's");
    pc.ioapic.eoi(0x50);
    assert_eq!(pc.vectors(), [0x50]);
    pc.lines[16].set(false);
    pc.ioapic.eoi(0x50);
    assert_eq!(pc.low(16) & REMOTE_IRR, 0);
    assert!(pc.vectors().is_empty());
}

#[test]
fn the_eoi_register_ends_all_pins_of_a_vector() {
    let pc = Pc::new();
    for pin in [16, 17] {
        pc.program(pin, LEVEL | 0x50);
        pc.lines[pin as usize].set(true);
        pc.lines[pin as usize].set(false);
    }
    pc.ioapic.write(&CX, EOIR, Size::Dword, 0x50);
    assert_eq!((pc.low(16), pc.low(17)), (LEVEL | 0x50, LEVEL | 0x50));
    assert_eq!(pc.ioapic.read(&CX, EOIR, Size::Dword), 0);
}

#[test]
fn a_turn_as_an_edge_clears_remote_irr() {
    let pc = Pc::new();
    pc.program(16, LEVEL | 0x50);
    pc.lines[16].set(true);
    pc.write(0x30, MASKED | LEVEL | 0x50);
    assert_eq!(pc.low(16) & REMOTE_IRR, REMOTE_IRR, "a mask does not");
    pc.write(0x30, MASKED | 0x50);
    pc.write(0x30, MASKED | LEVEL | 0x50);
    assert_eq!(pc.low(16) & REMOTE_IRR, 0);
    pc.vectors();
    pc.write(0x30, LEVEL | 0x50);
    assert_eq!(pc.vectors(), [0x50]);
}

#[test]
fn read_only_and_reserved_bits_stay_and_polarity_is_only_kept() {
    let pc = Pc::new();
    pc.write(0x10, u32::MAX);
    pc.write(0x11, u32::MAX);
    assert_eq!((pc.low(0), pc.read(0x11)), (0x0001_afff, 0xffff_0000));
    pc.write(1, 0);
    assert_eq!(pc.read(1), 0x0017_0020);
    for index in [3, 0x0f, 0x40, 0xff] {
        pc.write(index, u32::MAX);
        assert_eq!(pc.read(index), 0);
    }
    pc.program(3, ACTIVE_LOW | LEVEL | 0x33);
    assert!(pc.vectors().is_empty(), "a line that nobody holds asks for nothing");
    pc.lines[3].set(true);
    assert_eq!(pc.vectors(), [0x33]);
}

#[test]
fn the_arbitration_id_is_loaded_with_the_id() {
    let pc = Pc::new();
    pc.write(0, u32::MAX);
    assert_eq!((pc.read(0), pc.read(2)), (0x0f00_0000, 0x0f00_0000));
    pc.write(2, 0);
    assert_eq!(pc.read(2), 0x0f00_0000);
}

#[test]
fn whose_eois_are_waited_for_is_told_before_the_first_message_and_on_changes_only() {
    let pc = Pc::new();
    pc.lines[16].set(true);
    pc.program(16, LEVEL | 0x50);
    pc.program(16, LEVEL | 0x50);
    pc.program(4, 0x34);
    assert_eq!(*pc.bus.routes.lock(), [(16, Some(0x50))]);
    pc.write(0x30, MASKED | LEVEL | 0x50);
    assert_eq!(pc.bus.routes.lock().len(), 1, "its EOI is still to come");
    pc.ioapic.eoi(0x50);
    assert_eq!(*pc.bus.routes.lock(), [(16, Some(0x50)), (16, None)]);
}

#[test]
fn registers_are_named_by_what_is_selected() {
    let pc = Pc::new();
    let name = |offset| pc.ioapic.register(offset, Direction::Write);
    assert_eq!(name(IOREGSEL), Some("IOREGSEL"));
    pc.read(2);
    assert_eq!(name(IOWIN), Some("IOAPICARB"));
    pc.read(0x11);
    assert_eq!(name(IOWIN), Some("IOREDTBL[63:32]"));
    pc.read(0x40);
    assert_eq!(name(IOWIN), Some("IOWIN"));
    assert_eq!((name(EOIR), name(0x44)), (Some("EOIR"), None));
}

#[test]
fn an_access_keeps_the_name_it_was_made_under() {
    let pc = Pc::new();
    let select = |index| named(&*pc.ioapic, IOREGSEL, Size::Dword, Some(index));
    let window = |value| named(&*pc.ioapic, IOWIN, Size::Dword, value);
    assert_eq!(select(0x02), Some("IOREGSEL"));
    assert_eq!(window(None), Some("IOAPICARB"));
    select(0x10);
    assert_eq!(window(Some(0x31)), Some("IOREDTBL[31:0]"));
    select(0x11);
    assert_eq!(window(Some(0)), Some("IOREDTBL[63:32]"));
    select(0x40);
    assert_eq!(window(None), Some("IOWIN"));
    assert_eq!(named(&*pc.ioapic, EOIR, Size::Dword, Some(0x31)), Some("EOIR"));
}

proptest! {
    #[test]
    fn every_access_keeps_the_name_it_was_made_under(
        accesses in prop::collection::vec(
            (prop::sample::select(vec![IOREGSEL, IOWIN, EOIR, 0x20]), prop::option::of(0u64..0x60)),
            0..50,
        ),
    ) {
        let pc = Pc::new();
        for (offset, value) in accesses {
            named(&*pc.ioapic, offset, Size::Dword, value);
        }
    }
}

#[test]
fn reset_masks_everything_and_keeps_the_lines() {
    let pc = Pc::new();
    pc.program(16, LEVEL | 0x50);
    pc.lines[16].set(true);
    pc.ioapic.reset();
    assert_eq!(pc.low(16), MASKED);
    pc.vectors();
    pc.program(16, LEVEL | 0x51);
    assert_eq!(pc.vectors(), [0x51]);
}

#[test]
fn the_saved_form_of_version_2_never_changes() {
    let pc = Pc::new();
    pc.program(0, LEVEL | 0x50);
    pc.lines[0].set(true);
    pc.storm(200);
    let saved = pc.ioapic.save();
    assert_eq!((&*saved.name, saved.version), ("ioapic", 2));
    let first = [0xd0, 0x80, 0x83, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let head = [&[0x10, 0, 0, 1][..], &first].concat();
    // The count of pin 0, those of the others, and no pause.
    let tail = [&[0xc8, 0x01][..], &[0; 24]].concat();
    assert_eq!(saved.bytes, [head, [0x80, 0x80, 0x04].repeat(23), tail].concat());
}

#[test]
fn impossible_states_are_refused_and_change_nothing() {
    let pc = Pc::new();
    let good = pc.ioapic.save();
    // An ID without its arbitration ID, a line past the last, a pending edge with remote IRR, ten
    // thousand ends in a row, a pause of a pin that is low.
    for (at, with) in [
        (1, &[0x80, 0x80, 0x80, 0x08][..]),
        (3, &[0x80, 0x80, 0x80, 0x08]),
        (4, &[0x80, 0x80, 0x05]),
        (good.bytes.len() - 2, &[0x90, 0x4e]),
        (good.bytes.len() - 1, &[0x01]),
    ] {
        let mut bytes = good.bytes.clone();
        let end = if at == 4 { at + 3 } else { at + 1 };
        bytes.splice(at..end, with.iter().copied());
        let error = pc.ioapic.restore(&Saved { bytes, ..good.clone() }).unwrap_err();
        assert!(matches!(error, StateError::Inconsistent { .. }), "{at}: {error}");
        assert_eq!(pc.ioapic.save(), good);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u32),
    Entry(u32, u32),
    Line(usize, bool),
    Eoi(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0u64..0x20, any::<u32>()).prop_map(|(dword, value)| Op::Write(dword * 4, value)),
        3 => (0u32..24, any::<u32>()).prop_map(|(pin, low)| Op::Entry(pin, low)),
        3 => (0u32..4, 0u32..4, any::<bool>(), any::<bool>()).prop_map(|(pin, vector, level, mask)| {
            Op::Entry(pin, vector | u32::from(level) << 15 | u32::from(mask) << 16)
        }),
        6 => (0usize..4, any::<bool>()).prop_map(|(pin, level)| Op::Line(pin, level)),
        1 => (0usize..24, any::<bool>()).prop_map(|(pin, level)| Op::Line(pin, level)),
        3 => (0u8..4).prop_map(Op::Eoi),
    ]
}

impl Pc {
    /// Returns the messages that were sent.
    fn run(&self, ops: &[Op]) -> Vec<Msi> {
        self.bus.sent.lock().clear();
        for op in ops {
            match *op {
                Op::Write(offset, value) => {
                    self.ioapic.write(&CX, offset, Size::Dword, u64::from(value));
                }
                Op::Entry(pin, low) => self.write(0x10 + 2 * pin, low),
                Op::Line(pin, level) => self.lines[pin].set(level),
                Op::Eoi(vector) => self.ioapic.eoi(vector),
            }
        }
        std::mem::take(&mut *self.bus.sent.lock())
    }
}

proptest! {
    #[test]
    fn a_level_is_never_sent_twice_without_an_end_and_never_forgotten(
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let pc = Pc::new();
        for op in &ops {
            let before: Vec<u32> = (0..24).map(|pin| pc.low(pin)).collect();
            let sent = pc.run(std::slice::from_ref(op));
            for (pin, before) in (0..24).zip(before) {
                let now = pc.low(pin);
                let level = now & LEVEL != 0 && now & 0x600 == 0;
                let held = pc.lines[pin as usize].level();
                prop_assert!(level || now & REMOTE_IRR == 0);
                if level && held && now & MASKED == 0 {
                    prop_assert!(now & REMOTE_IRR != 0, "pin {} waits for nothing", pin);
                }
                if before & REMOTE_IRR == 0 && now & REMOTE_IRR != 0 {
                    let data = 0xc000 | now & 0x1ff | (now & 0x600);
                    prop_assert!(sent.iter().any(|message| message.data == data));
                }
            }
            prop_assert!(sent.len() <= 4 || matches!(op, Op::Eoi(_)));
        }
    }

    #[test]
    fn any_driver_is_survived_and_a_saved_chip_behaves_the_same(
        before in prop::collection::vec(op(), 0..60),
        after in prop::collection::vec(op(), 0..60),
    ) {
        let (pc, other) = (Pc::new(), Pc::new());
        pc.run(&before);
        other.ioapic.restore(&pc.ioapic.save()).unwrap();
        prop_assert!(other.bus.sent.lock().is_empty(), "nothing is sent twice");
        for (line, twin) in pc.lines.iter().zip(&other.lines) {
            twin.set(line.level());
        }
        prop_assert_eq!(pc.run(&after), other.run(&after));
        prop_assert_eq!(pc.ioapic.save(), other.ioapic.save());
    }

    #[test]
    fn whatever_is_restored_is_refused_or_kept(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let pc = Pc::new();
        let before = pc.ioapic.save();
        let refused = pc.ioapic.restore(&Saved { bytes, ..before.clone() }).is_err();
        prop_assert!(!refused || pc.ioapic.save() == before);
    }
}

#[test]
fn a_pin_turned_to_another_processor_still_hears_of_the_end_at_the_first() {
    let pc = Pc::new();
    pc.program(16, LEVEL | 0x50);
    pc.lines[16].set(true);
    pc.lines[16].set(false);
    pc.write(0x31, 2 << 24);
    assert_eq!(*pc.bus.address.lock(), 0xfee0_1000, "processor 1 has the interrupt");
    pc.ioapic.eoi(0x50);
    assert_eq!(pc.low(16) & REMOTE_IRR, 0);
    assert_eq!(*pc.bus.address.lock(), 0xfee0_2000, "processor 2 will have the next");
    pc.lines[16].set(true);
    pc.write(0x30, LEVEL | 0x51);
    assert_eq!(pc.bus.routes.lock().last(), Some(&(16, Some(0x51))), "nobody waits for 0x50");
}

/// 10 ms.
const PAUSE_NS: u64 = 10_000_000;

impl Pc {
    /// A level-triggered pin with vector 0x50 that stays asserted, and has paused.
    fn paused(pin: u8) -> Self {
        let pc = Self::new();
        pc.program(pin.into(), LEVEL | 0x50);
        pc.lines[usize::from(pin)].set(true);
        assert_eq!(pc.storm(12_000), 10_000, "once when it rises, 9,999 times at ends");
        pc
    }

    /// Ends the interrupt so often, whether there is one or not. Returns how many messages came.
    fn storm(&self, ends: u32) -> usize {
        (0..ends).for_each(|_| self.ioapic.eoi(0x50));
        self.vectors().len()
    }
}

#[test]
fn a_line_that_is_never_cleared_pauses_for_10_ms_after_10_000_ends() {
    let pc = Pc::paused(16);
    assert_eq!(pc.low(16) & REMOTE_IRR, 0);
    pc.clock.step_ns(PAUSE_NS - 1);
    assert_eq!(pc.storm(5), 0);
    pc.clock.step_ns(1);
    assert_eq!(pc.storm(12_000), 10_000, "it counts from the beginning");
    pc.clock.step_ns(PAUSE_NS);
    assert_eq!(pc.vectors(), [0x50]);
    pc.clock.step_ns(10 * PAUSE_NS);
    assert!(pc.vectors().is_empty(), "a processor has it");
}

#[test]
fn an_end_that_finds_the_line_low_or_masked_begins_the_count_anew() {
    let pc = Pc::new();
    pc.program(16, LEVEL | 0x50);
    pc.lines[16].set(true);
    assert_eq!(pc.storm(9_999), 10_000);
    pc.lines[16].set(false);
    pc.ioapic.eoi(0x50);
    pc.lines[16].set(true);
    assert_eq!(pc.storm(9_999), 10_000);
    pc.write(0x30, LEVEL | MASKED | 0x50);
    pc.ioapic.eoi(0x50);
    pc.write(0x30, LEVEL | 0x50);
    assert_eq!(pc.storm(9_999), 10_000);
    assert_eq!(pc.storm(1), 0, "the ten thousandth in a row");
}

#[test]
fn an_end_that_finds_the_line_low_is_not_one_of_a_row() {
    let pc = Pc::new();
    pc.program(16, LEVEL | 0x50);
    for masked in [false, true] {
        pc.lines[16].set(true);
        assert_eq!(pc.storm(5_000), 5_001);
        if masked {
            pc.write(0x30, LEVEL | MASKED | 0x50);
            pc.ioapic.eoi(0x50);
            pc.write(0x30, LEVEL | 0x50);
        } else {
            pc.lines[16].set(false);
            pc.ioapic.eoi(0x50);
            pc.lines[16].set(true);
        }
        assert_eq!(pc.storm(9_999), 10_000);
        pc.lines[16].set(false);
        pc.ioapic.eoi(0x50);
        assert!(pc.vectors().is_empty());
    }
}

#[test]
fn a_pin_that_is_driven_to_where_it_is_has_no_edge() {
    let pc = Pc::new();
    pc.program(4, 0x34);
    for (level, sent) in [(false, 0), (true, 1), (true, 0), (false, 0), (false, 0), (true, 1)] {
        pc.ioapic.set_pin(4, level);
        assert_eq!(pc.vectors().len(), sent);
    }
    pc.ioapic.set_pin(24, true);
    assert!(pc.vectors().is_empty());
}

#[test]
fn a_change_of_the_line_or_of_the_entry_ends_a_pause() {
    let pc = Pc::paused(16);
    pc.lines[16].set(false);
    assert!(pc.vectors().is_empty());
    pc.lines[16].set(true);
    assert_eq!(pc.vectors(), [0x50]);

    let pc = Pc::paused(16);
    pc.write(0x31, 2 << 24);
    assert_eq!(pc.vectors(), [0x50]);
    assert_eq!(pc.clock.next_deadline_ns(), None);
}

#[test]
fn a_pause_is_the_pins_own_and_all_end_together() {
    let pc = Pc::paused(16);
    pc.program(17, LEVEL | 0x51);
    pc.lines[17].set(true);
    pc.ioapic.eoi(0x51);
    assert_eq!(pc.vectors(), [0x51, 0x51]);
    pc.clock.step_ns(PAUSE_NS / 2);
    (0..10_000).for_each(|_| pc.ioapic.eoi(0x51));
    assert_eq!(pc.vectors().len(), 9_998);
    pc.clock.step_ns(PAUSE_NS / 2);
    assert_eq!(pc.vectors(), [0x50, 0x51]);
}

#[test]
fn a_pause_is_saved_begins_anew_when_restored_and_a_reset_ends_it() {
    let pc = Pc::paused(16);
    pc.clock.step_ns(PAUSE_NS - 1);
    let other = Pc::new();
    other.ioapic.restore(&pc.ioapic.save()).unwrap();
    assert!(other.vectors().is_empty());
    other.clock.step_ns(PAUSE_NS - 1);
    assert!(other.vectors().is_empty());
    other.clock.step_ns(1);
    assert_eq!(other.vectors(), [0x50]);

    // The count is saved, too.
    let counting = Pc::new();
    counting.program(16, LEVEL | 0x50);
    counting.lines[16].set(true);
    counting.storm(9_990);
    other.ioapic.restore(&counting.ioapic.save()).unwrap();
    assert_eq!(other.storm(20), 9);

    pc.ioapic.reset();
    pc.clock.step_ns(PAUSE_NS);
    assert!(pc.vectors().is_empty() && pc.clock.next_deadline_ns().is_none());
}
