//! The pair of 8259As as a driver programs it.

mod model;
mod modes;
mod states;
mod wires;

use std::sync::Arc;

use proptest::prelude::*;
use trapline_device::{
    Device, Direction, ExtInt, Handler, Line, SaveState, Saved, Size, StateError,
};
use trapline_testkit::{CX, TestLine, inb, named, outb};

use super::Pic;

const CMD: u64 = 0;
const DATA: u64 = 1;
const CMD2: u64 = 2;
const DATA2: u64 = 3;
const ELCR: u64 = 4;
const ELCR2: u64 = 5;

/// ICW1 with ICW4 to follow.
const INIT: u8 = 0x11;
/// ICW4: 8086 mode.
const UPM: u8 = 0x01;
const AEOI: u8 = 0x02;
const SFNM: u8 = 0x10;

const EOI: u8 = 0x20;
const SPECIFIC_EOI: u8 = 0x60;
const ROTATE_AEOI: u8 = 0x80;
const ROTATE_EOI: u8 = 0xa0;
const SET_PRIORITY: u8 = 0xc0;
const ROTATE_SPECIFIC_EOI: u8 = 0xe0;
const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;
const POLL: u8 = 0x0c;
const SPECIAL_MASK: u8 = 0x68;

struct Pc {
    pic: Arc<Pic>,
    intr: TestLine,
    lines: Vec<Line>,
}

impl Pc {
    fn uninitialized() -> Self {
        let intr = TestLine::default();
        let pic = Pic::new(intr.line());
        let lines = (0..16).map(|pin| Line::new(pic.pin(pin))).collect();
        Self { pic, intr, lines }
    }

    /// As a PC's firmware leaves it, with these ICW4s and everything unmasked.
    fn with_icw4(primary: u8, secondary: u8) -> Self {
        let pc = Self::uninitialized();
        pc.init(CMD, [INIT, 0x08, 0x04, primary]);
        pc.init(CMD2, [INIT, 0x70, 0x02, secondary]);
        pc
    }

    fn new() -> Self {
        Self::with_icw4(UPM, UPM)
    }

    fn init(&self, command: u64, [icw1, icws @ ..]: [u8; 4]) {
        self.out(command, icw1);
        icws.into_iter().for_each(|icw| self.out(command + 1, icw));
    }

    fn out(&self, offset: u64, value: u8) {
        outb(&*self.pic, offset, value);
    }

    fn read(&self, offset: u64) -> u8 {
        inb(&*self.pic, offset)
    }

    fn irr(&self, command: u64) -> u8 {
        self.out(command, READ_IRR);
        self.read(command)
    }

    fn isr(&self, command: u64) -> u8 {
        self.out(command, READ_ISR);
        self.read(command)
    }

    fn raise(&self, irq: usize) {
        self.lines[irq].set(true);
    }

    fn lower(&self, irq: usize) {
        self.lines[irq].set(false);
    }

    /// What the processor does with INTR high.
    fn interrupt(&self) -> u8 {
        assert!(self.pic.pending(), "INTR is high");
        self.pic.acknowledge().unwrap()
    }

    fn quiet(&self) -> bool {
        assert_eq!(self.pic.pending(), self.intr.level());
        !self.intr.level()
    }
}

#[test]
fn nothing_is_requested_before_the_initialization_has_ended() {
    let pc = Pc::uninitialized();
    pc.raise(1);
    assert!(pc.quiet());
    for (offset, value) in [(CMD, INIT), (DATA, 0x20), (DATA, 4)] {
        pc.out(offset, value);
        pc.lower(1);
        pc.raise(1);
        assert!(pc.quiet());
    }
    pc.out(DATA, UPM);
    assert_eq!(pc.interrupt(), 0x21);
}

#[test]
fn a_request_is_served_once_and_ends_with_an_eoi() {
    let pc = Pc::new();
    pc.raise(4);
    assert_eq!(pc.irr(CMD), 1 << 4);
    assert_eq!(pc.interrupt(), 0x0c);
    assert_eq!((pc.irr(CMD), pc.isr(CMD)), (0, 1 << 4));
    assert!(pc.quiet(), "an edge is served once, though the line is still high");
    pc.out(CMD, EOI);
    assert_eq!(pc.isr(CMD), 0);
    assert!(pc.quiet());
    pc.lower(4);
    pc.raise(4);
    assert_eq!(pc.interrupt(), 0x0c);
}

#[test]
fn lower_inputs_wait_and_higher_ones_interrupt() {
    let pc = Pc::new();
    pc.raise(4);
    pc.interrupt();
    pc.raise(6);
    assert!(pc.quiet());
    pc.raise(1);
    assert_eq!(pc.interrupt(), 0x09);
    pc.out(CMD, EOI);
    assert_eq!(pc.isr(CMD), 1 << 4, "a non-specific EOI ends the most urgent one");
    assert!(pc.quiet());
    pc.out(CMD, EOI);
    assert_eq!(pc.interrupt(), 0x0e);
}

#[test]
fn the_secondary_chip_interrupts_through_the_cascade() {
    let pc = Pc::new();
    pc.raise(8);
    assert_eq!(pc.interrupt(), 0x70);
    assert_eq!((pc.isr(CMD), pc.isr(CMD2)), (1 << 2, 1));
    pc.raise(15);
    pc.raise(3);
    assert!(pc.quiet(), "both are less urgent");
    pc.out(CMD2, EOI);
    assert!(pc.quiet(), "the cascade is still in service");
    pc.out(CMD, EOI);
    assert_eq!(pc.interrupt(), 0x77, "the cascade is more urgent than IRQ 3");
}

#[test]
fn a_masked_request_is_kept_until_it_is_unmasked() {
    let pc = Pc::new();
    pc.out(DATA, 0xff);
    pc.raise(5);
    assert!(pc.quiet());
    assert_eq!(pc.irr(CMD), 1 << 5);
    pc.out(DATA, !(1 << 5));
    assert_eq!(pc.read(DATA), !(1 << 5));
    assert_eq!(pc.interrupt(), 0x0d);
}

#[test]
fn a_request_that_is_taken_back_is_not_answered() {
    let pc = Pc::new();
    for irq in [3, 11] {
        pc.raise(irq);
        assert!(pc.pic.pending());
        pc.lower(irq);
        assert_eq!((pc.irr(CMD), pc.irr(CMD2)), (0, 0));
        assert!(pc.quiet());
        assert_eq!(pc.pic.acknowledge(), None, "neither the default IR7");
        assert_eq!((pc.isr(CMD), pc.isr(CMD2)), (0, 0));
    }
    pc.raise(3);
    pc.interrupt();
    pc.raise(4);
    assert_eq!(pc.pic.acknowledge(), None, "a less urgent request waits");
    pc.out(CMD, EOI);
    assert_eq!(pc.interrupt(), 0x0c);
}

#[test]
fn a_spurious_irq_15_leaves_the_cascade_in_service() {
    let pc = Pc::new();
    // The primary chip is stuck with its frozen poll, so that it takes the cascade's request that
    // the secondary has dropped.
    pc.raise(11);
    pc.out(CMD, POLL);
    pc.lower(11);
    assert_eq!(pc.pic.acknowledge(), Some(0x77));
    assert_eq!((pc.isr(CMD), pc.isr(CMD2)), (1 << 2, 0));
}

#[test]
fn the_board_makes_lines_level_triggered_as_firmware_does() {
    let pc = Pc::new();
    pc.out(ELCR, 0x40);
    pc.pic.set_level_triggered(0x0e20 | 0x2107);
    assert_eq!((pc.read(ELCR), pc.read(ELCR2)), (0x20, 0x0e));
}

#[test]
fn a_level_triggered_line_asks_again_after_the_eoi() {
    let pc = Pc::new();
    pc.out(ELCR2, 0xff);
    assert_eq!(pc.read(ELCR2), 0xde, "IRQ 8 and 13 are always edge triggered");
    pc.out(ELCR, 0xff);
    assert_eq!(pc.read(ELCR), 0xf8, "so are IRQ 0, 1 and 2");
    for irq in [5, 10] {
        pc.raise(irq);
        let vector = pc.interrupt();
        assert!(pc.quiet());
        pc.out(CMD2, EOI);
        pc.out(CMD, EOI);
        assert_eq!(pc.interrupt(), vector);
        pc.lower(irq);
        pc.out(CMD2, EOI);
        pc.out(CMD, EOI);
        assert!(pc.quiet());
    }
}

#[test]
fn icw1_can_make_all_inputs_level_triggered() {
    let pc = Pc::new();
    pc.raise(0);
    pc.init(CMD, [INIT | 0x08, 0x08, 0x04, UPM]);
    assert_eq!(pc.interrupt(), 0x08, "no edge is needed");
    pc.out(CMD, EOI);
    assert_eq!(pc.interrupt(), 0x08);
}

#[test]
fn icw1_forgets_edges_masks_and_what_is_in_service() {
    let pc = Pc::new();
    pc.raise(1);
    pc.interrupt();
    pc.raise(0);
    pc.out(DATA, 0xf0);
    pc.out(CMD, SET_PRIORITY | 3);
    pc.out(CMD, SPECIAL_MASK);
    pc.out(CMD, READ_ISR);
    pc.init(CMD, [INIT, 0x30, 0x04, UPM]);
    assert_eq!(pc.read(CMD), 0, "IRR is what is read; the edge has to come again");
    assert_eq!((pc.isr(CMD), pc.read(DATA)), (0, 0));
    pc.lower(0);
    pc.raise(0);
    pc.raise(5);
    assert_eq!(pc.interrupt(), 0x30, "IR0 is the most urgent again");
}

#[test]
fn only_bytes_reach_the_chips() {
    let rules = Pc::new().pic.rules();
    for len in 2..=8 {
        assert!(!rules.valid.admit(0, len));
    }
    assert!((0..6).all(|offset| rules.valid.admit(offset, 1)));
}

/// Each write changes what the next one is, and each read of POLL what the next one reads.
#[test]
fn an_access_keeps_the_name_it_was_made_under() {
    let pc = Pc::uninitialized();
    let write =
        |offset, value: u8| named(&*pc.pic, offset, Size::Byte, Some(value.into())).unwrap();
    let read = |offset| named(&*pc.pic, offset, Size::Byte, None).unwrap();
    assert_eq!(write(CMD, INIT), "ICW1/OCW");
    let words = [0x20, 0x04, 0x01, 0xff].map(|word| write(DATA, word));
    assert_eq!(words, ["ICW2", "ICW3", "ICW4", "OCW1"]);
    assert_eq!(write(CMD, 0x0b), "ICW1/OCW");
    assert_eq!((read(CMD), read(DATA)), ("ISR", "IMR"));
    write(CMD, POLL);
    assert_eq!((read(CMD), read(CMD)), ("POLL", "ISR"));
    write(CMD, 0x0a);
    assert_eq!((read(CMD), write(ELCR, 0), read(ELCR)), ("IRR", "ELCR1", "ELCR1"));
}

proptest! {
    #[test]
    fn every_access_keeps_the_name_it_was_made_under(
        accesses in prop::collection::vec((0u64..7, prop::option::of(0u64..0x100)), 0..50),
    ) {
        let pc = Pc::uninitialized();
        for (offset, value) in accesses {
            named(&*pc.pic, offset, Size::Byte, value);
        }
    }
}

#[test]
fn registers_are_named_by_what_an_access_would_reach() {
    let pc = Pc::uninitialized();
    let name = |offset, direction| pc.pic.register(offset, direction).unwrap();
    assert_eq!(name(CMD, Direction::Read), "IRR");
    pc.out(CMD, INIT);
    assert_eq!(name(DATA, Direction::Write), "ICW2");
    pc.out(DATA, 0x20);
    assert_eq!(name(DATA, Direction::Write), "ICW3");
    assert_eq!(name(DATA2, Direction::Write), "OCW1");
    pc.out(CMD2, POLL);
    assert_eq!(name(DATA2, Direction::Read), "POLL");
    assert_eq!(name(ELCR, Direction::Read), "ELCR1");
    assert!(pc.pic.register(6, Direction::Read).is_none());
    assert_eq!(pc.pic.read(&CX, 6, Size::Byte), 0xff);
}

#[test]
fn reset_keeps_the_inputs_and_nothing_else() {
    let pc = Pc::new();
    pc.out(ELCR, 0x20);
    pc.raise(5);
    pc.raise(9);
    pc.pic.reset();
    assert!(pc.quiet());
    pc.init(CMD, [INIT, 0x08, 0x04, UPM]);
    pc.init(CMD2, [INIT, 0x70, 0x02, UPM]);
    assert!(pc.quiet(), "an edge that came before the reset is forgotten");
    pc.out(ELCR, 0x20);
    assert_eq!(pc.interrupt(), 0x0d, "a level that is still there is not");
}

#[test]
fn a_saved_pair_goes_on_where_it_was() {
    let pc = Pc::new();
    pc.raise(9);
    pc.interrupt();
    pc.raise(1);
    let saved = pc.pic.save();
    let other = Pc::uninitialized();
    other.pic.restore(&saved).unwrap();
    assert_eq!(other.pic.save(), saved);
    assert_eq!(other.interrupt(), 0x09);
    assert_eq!(other.isr(CMD2), 1 << 1);
    // The line is high in the saved pair; its device says so again, and that is no edge.
    other.out(CMD2, EOI);
    other.out(CMD, EOI);
    other.out(CMD, EOI);
    other.raise(9);
    assert!(other.quiet());
}

#[test]
fn the_saved_form_of_version_1_never_changes() {
    let pc = Pc::new();
    pc.raise(9);
    let saved = pc.pic.save();
    assert_eq!((&*saved.name, saved.version), ("i8259", 1));
    let primary = [4, 4, 0, 0, 7, 4, 0x11, 0x08, 0x04, 1, 0, 0, 0, 0, 0];
    let secondary = [2, 2, 0, 0, 7, 4, 0x11, 0x70, 0x02, 1, 0, 0, 0, 0, 0];
    assert_eq!(saved.bytes, [primary, secondary].concat());
}

#[test]
fn impossible_states_are_refused_and_change_nothing() {
    let pc = Pc::new();
    pc.raise(9);
    let good = pc.pic.save();
    // Byte by byte of the primary chip: IR2's level, a latch without its line, a ninth priority,
    // in service in the middle of an initialization, reserved bits of ICW4, a fixed ELCR bit.
    for (at, value) in [(0, 0), (1, 0xff), (4, 8), (5, 1), (9, 0xff), (14, 1)] {
        let mut bytes = good.bytes.clone();
        bytes[at] = value;
        let error = pc.pic.restore(&Saved { bytes, ..good.clone() }).unwrap_err();
        assert!(matches!(error, StateError::Inconsistent { .. }), "{at}: {error}");
        assert_eq!(pc.pic.save(), good);
    }
}
