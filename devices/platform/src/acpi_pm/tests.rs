//! The fixed hardware as an operating system drives it.

use std::sync::Arc;

use proptest::prelude::*;
use trapline_device::{Device, Direction, Handler, PowerEvent, Size, Wake};
use trapline_testkit::{CX, TestClock, TestLine, TestPower, inb, outb};

use super::regs::{PM_TMR_OFFSET, PM1_CNT_OFFSET, PM1_EVT_OFFSET, SLP_TYP_S5};
use super::{AcpiPm, Chip, TimerWidth};

const STS: u64 = PM1_EVT_OFFSET as u64;
const EN: u64 = STS + 2;
const CNT: u64 = PM1_CNT_OFFSET as u64;
const TMR: u64 = PM_TMR_OFFSET as u64;

const TMR_STS: u64 = 1 << 0;
const PWRBTN: u64 = 1 << 8;
const SCI_EN: u64 = 1;
const SLP_EN: u64 = 1 << 13;
const SLP_S5: u64 = (SLP_TYP_S5 as u64) << 10;
const SECOND_NS: u64 = 1_000_000_000;

struct Board {
    pm: Arc<AcpiPm>,
    line: TestLine,
    clock: TestClock,
    power: TestPower,
}

impl Board {
    fn new(width: TimerWidth) -> Self {
        let (line, clock, power) =
            (TestLine::default(), TestClock::default(), TestPower::default());
        let pm = AcpiPm::new(line.line(), Arc::new(clock.clone()), Arc::new(power.clone()), width);
        Self { pm, line, clock, power }
    }

    fn inw(&self, offset: u64) -> u64 {
        self.pm.read(&CX, offset, Size::Word)
    }

    fn outw(&self, offset: u64, value: u64) {
        self.pm.write(&CX, offset, Size::Word, value);
    }

    fn timer(&self) -> u64 {
        self.pm.read(&CX, TMR, Size::Dword)
    }
}

#[test]
fn entering_s5_switches_off_and_other_sleep_types_do_not() {
    let board = Board::new(TimerWidth::Bits32);
    board.outw(CNT, SLP_S5 | SCI_EN);
    for typ in (0..8).filter(|typ| *typ != u64::from(SLP_TYP_S5)) {
        board.outw(CNT, typ << 10 | SLP_EN);
    }
    assert!(board.power.events().is_empty());
    // As Linux does it: first the type, then the same with SLP_EN.
    board.outw(CNT, SLP_S5 | SCI_EN);
    board.outw(CNT, SLP_S5 | SLP_EN | SCI_EN);
    assert_eq!(board.power.events(), [PowerEvent::Off]);
    assert_eq!(board.inw(CNT), SLP_S5 | SCI_EN, "SLP_EN reads 0");
}

#[test]
fn a_byte_write_of_the_upper_half_switches_off_too() {
    let board = Board::new(TimerWidth::Bits32);
    outb(&*board.pm, CNT + 1, SLP_TYP_S5 << 2 | 0x20);
    assert_eq!(board.power.events(), [PowerEvent::Off]);
}

#[test]
fn acpi_is_always_enabled() {
    let board = Board::new(TimerWidth::Bits32);
    assert_eq!(board.inw(CNT), SCI_EN);
    board.outw(CNT, 0);
    assert_eq!(board.inw(CNT), SCI_EN);
    board.outw(CNT, 0xc3f8 | 0x06);
    assert_eq!(board.inw(CNT), 0x0003, "reserved and write-only bits read 0");
}

#[test]
fn the_power_button_interrupts_until_its_status_is_written_back() {
    let board = Board::new(TimerWidth::Bits32);
    board.pm.press_power_button();
    assert!(!board.line.level(), "not enabled");
    assert_eq!(board.inw(STS), PWRBTN);
    board.outw(EN, PWRBTN);
    assert!(board.line.level());
    board.outw(STS, TMR_STS);
    assert!(board.line.level(), "another bit was written");
    board.outw(STS, PWRBTN);
    assert!(!board.line.level());
    assert_eq!((board.inw(STS), board.inw(EN)), (0, PWRBTN));
    board.pm.press_power_button();
    assert_eq!(board.line.rises(), 2);
}

#[test]
fn writing_one_byte_leaves_the_other_bits_alone() {
    let board = Board::new(TimerWidth::Bits24);
    board.clock.step_ns(3 * SECOND_NS);
    board.pm.press_power_button();
    assert_eq!(board.inw(STS), PWRBTN | TMR_STS);
    outb(&*board.pm, STS, 0xff);
    assert_eq!(board.inw(STS), PWRBTN);
    outb(&*board.pm, EN + 1, 0xff);
    outb(&*board.pm, EN, 0x01);
    assert_eq!(board.inw(EN), 0x0701, "reserved bits stay 0");
    outb(&*board.pm, STS + 1, 0x01);
    assert_eq!(board.inw(STS), 0);
}

#[test]
fn a_dword_write_reaches_status_and_enable() {
    let board = Board::new(TimerWidth::Bits32);
    board.pm.press_power_button();
    board.pm.write(&CX, STS, Size::Dword, PWRBTN | PWRBTN << 16);
    assert_eq!(board.pm.read(&CX, STS, Size::Dword), PWRBTN << 16);
}

#[test]
fn the_timer_counts_at_its_frequency_and_wraps_at_its_width() {
    for (width, mask) in [(TimerWidth::Bits24, 0x00ff_ffff), (TimerWidth::Bits32, 0xffff_ffff)] {
        let board = Board::new(width);
        assert_eq!(board.timer(), 0);
        board.clock.step_ns(SECOND_NS);
        assert_eq!(board.timer(), 3_579_545);
        board.pm.write(&CX, TMR, Size::Dword, 0);
        assert_eq!(board.timer(), 3_579_545, "read-only");
        board.clock.step_ns(3_000 * SECOND_NS + 1);
        assert_eq!(board.timer(), (3_001 * 3_579_545) & mask);
    }
}

#[test]
fn a_change_of_the_highest_bit_interrupts_when_enabled() {
    let board = Board::new(TimerWidth::Bits24);
    board.outw(EN, TMR_STS);
    // 2^23 ticks take 2.3435 seconds.
    board.clock.step_ns(2_343_000_000);
    assert!(!board.line.level());
    board.clock.step_ns(1_000_000);
    assert!(board.line.level());
    assert_eq!(board.timer() >> 23, 1);
    board.outw(STS, TMR_STS);
    assert!(!board.line.level());
    board.clock.step_ns(2_344_000_000);
    assert!(board.line.level());
    board.outw(EN, 0);
    assert_eq!((board.line.level(), board.clock.next_deadline_ns()), (false, None));
}

/// Of two processors' accesses the one that began first may come last.
#[test]
fn an_access_with_an_earlier_time_is_no_change_of_the_highest_bit() {
    let mut chip = Chip::new(TimerWidth::Bits24);
    let (before, after) = (2_343_000_000, 2_344_000_000);
    chip.read(TMR, after);
    assert_eq!(chip.read(STS, after) & 1, 1);
    chip.write(STS, 1, 0xffff, after);
    chip.read(TMR, before);
    assert_eq!(chip.read(STS, after) & 1, 0);
}

#[test]
fn reset_forgets_events_but_the_timer_counts_on() {
    let board = Board::new(TimerWidth::Bits24);
    board.outw(EN, PWRBTN);
    board.pm.press_power_button();
    board.clock.step_ns(3 * SECOND_NS);
    board.pm.reset();
    assert!(!board.line.level());
    assert_eq!((board.inw(STS), board.inw(EN), board.inw(CNT)), (0, 0, SCI_EN));
    assert_ne!(board.timer(), 0);
}

#[test]
fn registers_have_their_names_and_holes_read_as_nothing() {
    let board = Board::new(TimerWidth::Bits32);
    assert_eq!(board.pm.register(3, Direction::Read), Some("PM1_EN"));
    assert_eq!(board.pm.register(8, Direction::Write), None);
    assert_eq!(inb(&*board.pm, 6), 0);
    assert_eq!(inb(&*board.pm, 12), 0xff);
}

proptest! {
    /// No panic; the line is status and enable; only the S5 order switches off; no read is wider
    /// than asked for.
    #[test]
    fn any_script_keeps_the_line_equal_to_status_and_enable(
        script in proptest::collection::vec(
            (0..16u64, any::<u64>(), 0..3usize, 0..5u8, 0..3_000_000_000u64), 0..80),
    ) {
        let board = Board::new(TimerWidth::Bits24);
        for (offset, value, size, what, step) in script {
            let size = [Size::Byte, Size::Word, Size::Dword][size];
            let offset = offset & !(size.bytes() as u64 - 1);
            match what {
                0 => prop_assert!(board.pm.read(&CX, offset, size) <= size.ones()),
                1 | 2 => board.pm.write(&CX, offset, size, value & size.ones()),
                3 => board.clock.step_ns(step),
                _ => { board.pm.press_power_button(); board.pm.wake(); }
            }
            let level = board.line.level();
            let pending = board.inw(STS) & board.inw(EN) != 0;
            prop_assert_eq!(level, pending);
            prop_assert!(board.power.events().iter().all(|event| *event == PowerEvent::Off));
        }
    }
}
