//! Speaks as a driver: through the two ports, with a clock that is stepped.

mod linux;
mod props;
mod ram;

use std::sync::atomic::{AtomicI64, Ordering};

use trapline_testkit::{CX, TestClock, TestLine, inb, named, outb};

use super::*;

const SECOND: u64 = 1_000_000_000;
/// Saturday 2026-11-21 06:12:10 UTC.
const START: u64 = 1_795_241_530 * SECOND;
const CONFIG: CmosConfig = CmosConfig { below_4g: 1 << 30, above_4g: 0, cpus: 1 };

const SET: u8 = 0x80;
const PIE: u8 = 0x40;
const AIE: u8 = 0x20;
const UIE: u8 = 0x10;
const SQWE: u8 = 0x08;
const DM: u8 = 0x04;
const H24: u8 = 0x02;
const DSE: u8 = 0x01;
const IRQF: u8 = 0x80;
const PF: u8 = 0x40;
const AF: u8 = 0x20;
const UF: u8 = 0x10;
const UIP: u8 = 0x80;

/// A machine with one clock chip, and a driver's way to it.
struct Pc {
    clock: TestClock,
    pin: TestLine,
    rtc: Arc<Rtc>,
}

impl Pc {
    fn new() -> Self {
        Self::starting_at(START)
    }

    fn starting_at(utc_ns: u64) -> Self {
        let (clock, pin) = (TestClock::starting_at(utc_ns), TestLine::default());
        let rtc = Rtc::new(pin.line(), Arc::new(clock.clone()), CONFIG);
        Self { clock, pin, rtc }
    }

    fn get(&self, index: u8) -> u8 {
        outb(&*self.rtc, 0, index);
        inb(&*self.rtc, 1)
    }

    fn put(&self, index: u8, value: u8) {
        outb(&*self.rtc, 0, index);
        outb(&*self.rtc, 1, value);
    }

    /// Century, year, month, day, day of week, hour, minute, second: the bytes as they are.
    fn time(&self) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| self.get(index))
    }

    fn put_time(&self, time: [u8; 8]) {
        for (index, byte) in [0x32, 9, 8, 7, 6, 4, 2, 0].into_iter().zip(time) {
            self.put(index, byte);
        }
    }

    fn put_alarm(&self, [hour, minute, second]: [u8; 3]) {
        self.put(5, hour);
        self.put(3, minute);
        self.put(1, second);
    }

    /// Waits for the interrupt the chip has set a timer for; how long that was.
    fn sleep(&self) -> u64 {
        let wait = self.clock.next_deadline_ns().unwrap() - self.clock.now_ns();
        assert!(wait > 0 && !self.pin.level());
        self.clock.step_ns(wait - 1);
        assert!(!self.pin.level(), "the line rises no earlier than the deadline");
        self.clock.step_ns(1);
        assert!(self.pin.level(), "the line rises at the deadline");
        wait
    }
}

#[test]
fn the_clock_shows_utc_in_bcd_and_24_hours_at_first() {
    let pc = Pc::new();
    assert_eq!(pc.time(), [0x20, 0x26, 0x11, 0x21, 7, 0x06, 0x12, 0x10]);
    pc.clock.step_ns(17 * 3600 * SECOND + 47 * 60 * SECOND + 50 * SECOND);
    assert_eq!(pc.time(), [0x20, 0x26, 0x11, 0x22, 1, 0, 0, 0]);
}

#[test]
fn registers_a_to_d_start_as_the_bios_leaves_them() {
    let pc = Pc::new();
    assert_eq!([0xa, 0xb, 0xc, 0xd].map(|index| pc.get(index)), [0x26, 0x02, 0x00, 0x80]);
}

#[test]
fn the_index_port_reads_back_with_the_nmi_mask_and_selects_without_it() {
    let pc = Pc::new();
    pc.put(0x40, 0x5a);
    outb(&*pc.rtc, 0, 0xc0);
    assert_eq!(inb(&*pc.rtc, 0), 0xc0);
    assert_eq!(inb(&*pc.rtc, 1), 0x5a);
    assert_eq!(inb(&*pc.rtc, 1), 0x5a, "reading the data port keeps the index");
}

#[test]
fn the_time_can_be_set_in_every_mode_and_rolls_over_the_millennium() {
    let cases = [
        (H24, [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59], [0x20, 0, 1, 1, 7, 0, 0, 0]),
        (0, [0x19, 0x99, 0x12, 0x31, 6, 0x91, 0x59, 0x59], [0x20, 0, 1, 1, 7, 0x12, 0, 0]),
        (DM | H24, [19, 99, 12, 31, 6, 23, 59, 59], [20, 0, 1, 1, 7, 0, 0, 0]),
        (DM, [19, 99, 12, 31, 6, 0x8b, 59, 59], [20, 0, 1, 1, 7, 12, 0, 0]),
    ];
    for (mode, before, after) in cases {
        let pc = Pc::new();
        pc.put(0xb, SET | mode);
        pc.put_time(before);
        pc.put(0xb, mode);
        assert_eq!(pc.time(), before, "mode {mode:#x}");
        pc.clock.step_ns(SECOND);
        assert_eq!(pc.time(), after, "mode {mode:#x}");
    }
}

#[test]
fn twelve_hour_mode_counts_noon_and_midnight_as_twelve() {
    let pc = Pc::new();
    pc.put(0xb, 0);
    pc.put_time([0x20, 0x26, 1, 1, 5, 0x12, 0, 0]);
    let hours: Vec<u8> = (0..24)
        .map(|_| {
            let hour = pc.get(4);
            pc.clock.step_ns(3600 * SECOND);
            hour
        })
        .collect();
    let morning = [0x12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x10, 0x11];
    assert_eq!(hours[..12], morning);
    assert_eq!(hours[12..], morning.map(|hour| hour | 0x80));
}

#[test]
fn months_have_their_lengths_and_leap_years_their_day() {
    let day_after = |time: [u8; 4]| {
        let pc = Pc::new();
        let [century, year, month, day] = time;
        pc.put_time([century, year, month, day, 1, 0x23, 0x59, 0x59]);
        pc.clock.step_ns(SECOND);
        [0x32, 9, 8, 7].map(|index| pc.get(index))
    };
    assert_eq!(day_after([0x20, 0x24, 2, 0x28]), [0x20, 0x24, 2, 0x29]);
    assert_eq!(day_after([0x20, 0x25, 2, 0x28]), [0x20, 0x25, 3, 1]);
    assert_eq!(day_after([0x20, 0x00, 2, 0x28]), [0x20, 0x00, 2, 0x29]);
    assert_eq!(day_after([0x20, 0x00, 2, 0x29]), [0x20, 0x00, 3, 1]);
    assert_eq!(day_after([0x21, 0x00, 2, 0x28]), [0x21, 0x00, 3, 1]);
    assert_eq!(day_after([0x20, 0x26, 4, 0x30]), [0x20, 0x26, 5, 1]);
    assert_eq!(day_after([0x20, 0x26, 12, 0x31]), [0x20, 0x27, 1, 1]);
    assert_eq!(day_after([0x99, 0x99, 0x12, 0x31]), [0, 0, 1, 1]);
}

#[test]
fn a_time_written_without_set_counts_on() {
    let pc = Pc::new();
    pc.clock.step_ns(SECOND / 4);
    pc.put(4, 0x15);
    pc.put(0, 0x30);
    pc.clock.step_ns(SECOND);
    assert_eq!(pc.time(), [0x20, 0x26, 0x11, 0x21, 7, 0x15, 0x12, 0x31]);
}

#[test]
fn set_holds_the_time_and_the_update_flag_but_not_the_divider() {
    let pc = Pc::new();
    pc.get(0xc);
    pc.put(0xb, SET | H24);
    let time = pc.time();
    pc.clock.step_ns(100 * SECOND + SECOND / 4);
    assert_eq!(pc.time(), time);
    assert_eq!(pc.get(0xc) & (UF | PF), PF);
    pc.put(0xb, H24);
    pc.clock.step_ns(SECOND * 3 / 4 - 1);
    assert_eq!(pc.time(), time);
    pc.clock.step_ns(1);
    assert_eq!(pc.get(0), 0x11, "the divider's phase was kept");
}

#[test]
fn set_going_high_clears_the_update_interrupt_enable() {
    let pc = Pc::new();
    pc.put(0xb, UIE | H24);
    pc.put(0xb, SET | UIE | AIE | H24);
    assert_eq!(pc.get(0xb), SET | AIE | H24);
}

#[test]
fn uip_is_set_244_us_and_one_update_cycle_before_the_time_changes() {
    for (a, window_ticks) in [(0x20, 65 + 8), (0x10, 8 + 8), (0x00, 8 + 8)] {
        let pc = Pc::new();
        pc.put(0xa, a);
        let window = window_ticks * SECOND / 32_768;
        pc.clock.step_ns(SECOND - window - 2);
        assert_eq!(pc.get(0xa) & UIP, 0);
        pc.clock.step_ns(2);
        assert_eq!(pc.get(0xa) & UIP, UIP);
        pc.clock.step_ns(window - 1);
        assert_eq!((pc.get(0xa) & UIP, pc.get(0)), (UIP, 0x10));
        pc.clock.step_ns(1);
        assert_eq!((pc.get(0xa) & UIP, pc.get(0)), (0, 0x11));
    }
}

#[test]
fn uip_is_clear_while_set_holds_the_clock_and_cannot_be_written() {
    let pc = Pc::new();
    pc.put(0xa, 0xa6);
    assert_eq!(pc.get(0xa), 0x26);
    pc.clock.step_ns(SECOND - 1);
    assert_eq!(pc.get(0xa), 0xa6);
    pc.put(0xb, SET | H24);
    assert_eq!(pc.get(0xa), 0x26);
}

#[test]
fn the_first_update_begins_half_a_second_after_the_divider_is_released() {
    for (a, update_us) in [(0x26, 1984), (0x06, 244)] {
        let pc = Pc::new();
        pc.clock.step_ns(123_456_789);
        pc.put(0xa, 0x76);
        let time = pc.time();
        pc.clock.step_ns(1_000 * SECOND);
        assert_eq!((pc.time(), pc.get(0xa)), (time, 0x76));
        pc.put(0xa, a);
        pc.clock.step_ns(SECOND / 2 - 245_000);
        assert_eq!(pc.get(0xa) & UIP, 0);
        pc.clock.step_ns(245_000);
        assert_eq!((pc.get(0xa) & UIP, pc.get(0)), (UIP, 0x10));
        pc.clock.step_ns((update_us + 1) * 1_000);
        assert_eq!((pc.get(0xa) & UIP, pc.get(0)), (0, 0x11));
    }
}

#[test]
fn update_interrupts_come_once_a_second_and_end_with_a_read_of_c() {
    let pc = Pc::new();
    pc.clock.step_ns(SECOND / 3);
    pc.put(0xb, UIE | H24);
    assert_eq!(pc.sleep(), SECOND - SECOND / 3);
    assert_eq!(pc.clock.next_deadline_ns(), None, "only the guest can change the line now");
    assert_eq!(pc.get(0xc) & (IRQF | UF | AF), IRQF | UF);
    assert!(!pc.pin.level());
    assert_eq!(pc.get(0xc), 0);
    assert_eq!(pc.sleep(), SECOND);
    pc.put(0xb, H24);
    assert!(!pc.pin.level(), "a disabled source does not hold the line");
    pc.get(0xc);
    pc.put(0xb, UIE | H24);
    assert!(pc.clock.next_deadline_ns().is_some());
    pc.put(0xb, H24);
    assert_eq!(pc.clock.next_deadline_ns(), None, "nor does it keep its timer");
}

#[test]
fn flags_rise_without_their_enables_and_enabling_one_then_interrupts_at_once() {
    let pc = Pc::new();
    pc.put_alarm([0xff, 0xff, 0xff]);
    pc.clock.step_ns(2 * SECOND);
    assert_eq!(pc.clock.next_deadline_ns(), None, "no timer for nobody");
    pc.put(0xb, AIE | H24);
    assert!(pc.pin.level());
    assert_eq!(pc.get(0xc), IRQF | PF | AF | UF);
    assert!(!pc.pin.level());
}

#[test]
fn every_rate_of_both_time_bases_interrupts_as_often_as_the_data_sheet_says() {
    let slow: [u64; 13] = [8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2];
    for (base, fastest) in [(0x20, [256, 128]), (0x10, [32_768, 16_384]), (0, [32_768, 16_384])] {
        for (rate, hertz) in (1u8..).zip(fastest.iter().chain(&slow)) {
            let pc = Pc::new();
            pc.put(0xa, base | rate);
            pc.put(0xb, PIE | H24);
            while pc.clock.next_deadline_ns().unwrap() <= 2 * SECOND {
                pc.sleep();
                assert_eq!(pc.get(0xc) & (IRQF | PF), IRQF | PF);
            }
            assert_eq!(pc.pin.rises(), 2 * hertz, "register A {:#x}", base | rate);
        }
        let pc = Pc::new();
        pc.put(0xa, base);
        pc.put(0xb, PIE | H24);
        assert_eq!(pc.clock.next_deadline_ns(), None, "rate 0 is none");
    }
}

#[test]
fn the_last_periodic_interrupt_before_an_update_leaves_half_a_period_until_uip() {
    for rate in 3..=15 {
        let pc = Pc::new();
        pc.put(0xa, 0x20 | rate);
        pc.put(0xb, PIE | H24);
        let uip_rise = SECOND - 73 * SECOND / 32_768;
        while pc.clock.next_deadline_ns().unwrap() < uip_rise {
            pc.sleep();
            pc.get(0xc);
        }
        let half_period = SECOND >> (17 - rate);
        assert!((uip_rise - pc.clock.now_ns()).abs_diff(half_period) <= 2, "rate {rate}");
    }
}

#[test]
fn the_alarm_comes_once_a_day() {
    let pc = Pc::new();
    pc.put_alarm([0x06, 0x12, 0x09]);
    pc.put(0xb, AIE | H24);
    assert_eq!(pc.sleep(), (24 * 3600 - 1) * SECOND);
    assert_eq!(pc.time()[5..], [0x06, 0x12, 0x09]);
    assert_eq!(pc.get(0xc) & (IRQF | AF), IRQF | AF);
    assert_eq!(pc.sleep(), 24 * 3600 * SECOND);
}

#[test]
fn alarm_bytes_from_c0_up_match_anything() {
    for any in [0xc0, 0xd7, 0xff] {
        let wait = |alarm| {
            let pc = Pc::new();
            pc.put_alarm(alarm);
            pc.put(0xb, AIE | H24);
            pc.sleep();
            pc.get(0xc);
            pc.sleep() / SECOND
        };
        assert_eq!(wait([any, any, any]), 1);
        assert_eq!(wait([any, any, 0x30]), 60);
        assert_eq!(wait([any, 0x05, 0x30]), 3600);
        assert_eq!(wait([0x23, 0x05, 0x30]), 24 * 3600);
    }
}

#[test]
fn an_afternoon_alarm_in_twelve_hour_binary_mode_is_not_a_dont_care() {
    let pc = Pc::new();
    pc.put(0xb, SET | DM);
    pc.put_time([20, 26, 11, 21, 7, 11, 59, 0]);
    pc.put_alarm([0x8c, 30, 0]);
    pc.put(0xb, AIE | DM);
    assert_eq!(pc.sleep(), 31 * 60 * SECOND);
}

#[test]
fn an_alarm_the_time_cannot_reach_never_comes() {
    for alarm in [[0x24, 0, 0], [0, 0x60, 0], [0, 0, 0x0a], [0xbf, 0, 0]] {
        let pc = Pc::new();
        pc.put_alarm(alarm);
        pc.put(0xb, AIE | H24);
        assert_eq!(pc.clock.next_deadline_ns(), None);
        pc.clock.step_ns(48 * 3600 * SECOND);
        assert_eq!(pc.get(0xc) & AF, 0);
    }
}

#[test]
fn values_the_time_cannot_have_stay_until_their_counter_moves() {
    let pc = Pc::new();
    pc.put_time([0x20, 0x26, 0x13, 0x45, 0, 0xff, 0xff, 0x7f]);
    assert_eq!(pc.time(), [0x20, 0x26, 0x13, 0x45, 0, 0xff, 0xff, 0x7f]);
    pc.clock.step_ns(SECOND);
    // 0x7f is past 59 and counts on as 59, and so on: 23:59:59 on 31 December is over.
    assert_eq!(pc.time(), [0x20, 0x27, 1, 1, 2, 0, 0, 0]);

    pc.put_time([0x20, 0x26, 2, 0x30, 1, 0x10, 0, 0]);
    pc.clock.step_ns(10 * SECOND);
    assert_eq!(pc.get(7), 0x30, "a day too many waits for midnight");
    pc.put(8, 3);
    pc.clock.step_ns(14 * 3600 * SECOND);
    assert_eq!([8, 7].map(|index| pc.get(index)), [3, 0x31]);
}

#[test]
fn registers_c_and_d_and_the_top_of_the_seconds_are_read_only() {
    let pc = Pc::new();
    pc.put(0xc, 0xff);
    pc.put(0xd, 0);
    pc.put(0, 0xd5);
    assert_eq!([0xc, 0xd, 0].map(|index| pc.get(index)), [0, 0x80, 0x55]);
}

#[test]
fn reset_stops_interrupts_and_keeps_what_has_a_battery() {
    let pc = Pc::new();
    pc.put(0x0f, 0x0a);
    pc.put(0xa, 0x2f);
    pc.put(0xb, PIE | AIE | UIE | SQWE | DM | H24 | DSE);
    pc.put_time([20, 30, 1, 1, 1, 1, 1, 1]);
    pc.clock.step_ns(2 * SECOND);
    assert!(pc.pin.level());
    pc.rtc.reset();
    assert!(!pc.pin.level());
    assert_eq!(pc.clock.next_deadline_ns(), None);
    assert_eq!([0xa, 0xb, 0xc, 0x0f].map(|i| pc.get(i)), [0x2f, DM | H24 | DSE, 0, 0x0a]);
    assert_eq!(pc.time(), [20, 30, 1, 1, 1, 1, 1, 3]);
}

#[test]
fn every_access_keeps_the_name_it_was_made_under() {
    let pc = Pc::new();
    for index in 0..=0xff {
        let name = named(&*pc.rtc, 0, Size::Byte, Some(index));
        assert_eq!(name, Some("RTC index"));
        let read = named(&*pc.rtc, 1, Size::Byte, None);
        let written = named(&*pc.rtc, 1, Size::Byte, Some(index));
        assert!(read.is_some() && read == written, "{index:#x}");
    }
}

#[test]
fn registers_are_named_for_traces_without_touching_them() {
    let pc = Pc::new();
    let name = |index| {
        outb(&*pc.rtc, 0, index);
        pc.rtc.register(1, Direction::Read)
    };
    pc.clock.step_ns(SECOND);
    assert_eq!(name(0x80), Some("RTC seconds"));
    assert_eq!(name(0x0c), Some("Register C"));
    assert_eq!(name(0x32), Some("RTC century"));
    assert_eq!(name(0x41), Some("CMOS RAM"));
    assert_eq!(pc.rtc.register(0, Direction::Write), Some("RTC index"));
    assert_eq!(pc.get(0xc), PF | UF, "asking for the name of C has not cleared it");
}

#[test]
fn wider_accesses_are_left_to_the_registry_to_split_into_bytes() {
    let pc = Pc::new();
    assert_eq!(pc.rtc.rules(), Rules::BYTES);
    pc.rtc.write(&CX, 0, Size::Byte, 0x50);
    pc.rtc.write(&CX, 1, Size::Byte, 0x77);
    assert_eq!(pc.get(0x50), 0x77);
}

/// A machine clock whose UTC is set while it runs.
struct SetClock {
    inner: TestClock,
    offset_ns: AtomicI64,
}

impl Clock for SetClock {
    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }

    fn utc_ns(&self) -> u64 {
        self.inner.utc_ns().saturating_add_signed(self.offset_ns.load(Ordering::Relaxed))
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        self.inner.timer(target)
    }
}

#[test]
fn the_calendar_follows_the_hosts_clock_and_keeps_what_the_guest_has_set() {
    let inner = TestClock::starting_at(START);
    let clock = Arc::new(SetClock { inner: inner.clone(), offset_ns: AtomicI64::new(0) });
    let pin = TestLine::default();
    let rtc = Rtc::new(pin.line(), Arc::<SetClock>::clone(&clock), CONFIG);
    let pc = Pc { clock: inner, pin, rtc };
    pc.put(4, 0x20);
    for (offset, hour, minute) in [(3600, 0x21, 0x12), (-1800, 0x19, 0x42), (0, 0x20, 0x12)] {
        clock.offset_ns.store(offset * 1_000_000_000, Ordering::Relaxed);
        assert_eq!([4, 2].map(|index| pc.get(index)), [hour, minute]);
    }
    // Set back by a day, the next interrupt still comes within its period.
    pc.get(0xc);
    pc.put(0xb, UIE | H24);
    clock.offset_ns.store(-86_400 * 1_000_000_000, Ordering::Relaxed);
    assert_eq!(pc.sleep(), SECOND);
}

#[test]
fn a_snapshot_goes_on_where_it_was_taken_and_makes_up_for_the_time() {
    let pc = Pc::new();
    pc.put(0xb, UIE | H24);
    pc.put(4, 0x01);
    pc.clock.step_ns(2 * SECOND);
    let saved = pc.rtc.save();
    let later = Pc::starting_at(START + 3602 * SECOND);
    later.rtc.restore(&saved).unwrap();
    assert!(later.pin.level());
    assert_eq!(later.time(), [0x20, 0x26, 0x11, 0x21, 7, 0x02, 0x12, 0x12]);
}
