//! Properties over random accesses and times.

use proptest::prelude::*;

use super::*;
use crate::rtc::calendar::{self, Format};
use crate::rtc::regs::RegB;

#[derive(Clone, Debug)]
enum Op {
    Read(u8),
    Write(u8, u8),
    Wait(u64),
    Utc(u64),
    Reset,
}

/// Mostly the registers of the clock, now and then anything.
fn index() -> impl Strategy<Value = u8> {
    prop_oneof![8 => 0u8..0x0e, 1 => Just(0x32), 1 => any::<u8>()]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => index().prop_map(Op::Read),
        4 => (index(), any::<u8>()).prop_map(|(index, value)| Op::Write(index, value)),
        1 => (0u8..16).prop_map(|rate| Op::Write(0xa, 0x20 | rate)),
        1 => any::<u8>().prop_map(|b| Op::Write(0xb, b & !SET)),
        2 => (0..SECOND * 2).prop_map(Op::Wait),
        1 => (0..SECOND * 200_000).prop_map(Op::Wait),
        1 => any::<u64>().prop_map(Op::Utc),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    #[test]
    fn the_pin_changes_exactly_when_the_chip_said(
        start in any::<u64>(),
        ops in prop::collection::vec(op(), 1..60),
        later in 0..SECOND * 200_000,
    ) {
        let mut utc = start;
        let mut chip = Mc146818::new(&CONFIG, utc);
        for op in ops {
            match op {
                Op::Read(index) => {
                    chip.write(utc, 0, index);
                    chip.read(utc, 1);
                }
                Op::Write(index, value) => {
                    chip.write(utc, 0, index);
                    chip.write(utc, 1, value);
                }
                Op::Wait(ns) => utc = utc.saturating_add(ns),
                Op::Utc(ns) => utc = ns,
                Op::Reset => chip.reset(utc),
            }
            let out = chip.sync(utc);
            prop_assert_eq!(chip.sync(utc), out, "sync changes nothing when nothing happened");
            match out.change_in_ns {
                Some(wait) => {
                    prop_assert!(wait > 0 && !out.irq);
                    if let Some(deadline) = utc.checked_add(wait) {
                        prop_assert!(!chip.clone().sync(deadline - 1).irq);
                        prop_assert!(chip.clone().sync(deadline).irq);
                    }
                }
                None => {
                    prop_assert_eq!(chip.clone().sync(utc.saturating_add(later)).irq, out.irq);
                }
            }
        }
    }

    #[test]
    fn a_device_survives_any_driver_and_its_deadlines_lie_ahead(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let pc = Pc::new();
        for op in ops {
            match op {
                Op::Read(index) => { pc.get(index); }
                Op::Write(index, value) => pc.put(index, value),
                // A periodic interrupt nobody answers asks for one timer, so this ends soon.
                Op::Wait(ns) => pc.clock.step_ns(ns),
                Op::Utc(ns) => pc.clock.step_ns(ns % SECOND),
                Op::Reset => pc.rtc.reset(),
            }
            if let Some(deadline) = pc.clock.next_deadline_ns() {
                prop_assert!(deadline > pc.clock.now_ns() && !pc.pin.level());
            }
        }
    }

    #[test]
    fn time_passes_the_same_in_one_leap_and_in_steps(
        start in 0i64..8_000_000_000,
        steps in prop::collection::vec(-200_000_000i64..200_000_000, 1..20),
        b in any::<u8>(),
    ) {
        let format = Format::from(RegB::from_bits(b));
        let mut stepped = Cmos::default();
        calendar::set(&mut stepped, format, start);
        for step in &steps {
            calendar::advance(&mut stepped, format, *step);
        }
        let mut leapt = Cmos::default();
        calendar::set(&mut leapt, format, start + steps.iter().sum::<i64>());
        prop_assert_eq!(stepped, leapt);
    }

    #[test]
    fn the_next_alarm_is_the_one_that_counting_seconds_finds(
        now in 0i64..86_400,
        alarm in prop::array::uniform3(prop_oneof![0u8..24, Just(0xc0u8), any::<u8>()]),
        b in any::<u8>(),
    ) {
        let format = Format::from(RegB::from_bits(b));
        let mut cmos = Cmos::default();
        calendar::set(&mut cmos, format, now);
        for (index, byte) in [5, 3, 1].into_iter().zip(alarm) {
            cmos.set(index, byte);
        }
        let matches = |cmos: &Cmos| {
            [5, 3, 1].into_iter().all(|i| cmos.get(i) >= 0xc0 || cmos.get(i) == cmos.get(i - 1))
        };
        let mut counted = cmos.clone();
        let expected = (1..=86_400).find(|_| {
            calendar::advance(&mut counted, format, 1);
            matches(&counted)
        });
        prop_assert_eq!(calendar::seconds_to_alarm(&cmos, format), expected);
    }
}

/// The divider chain, one tick of 1/32768 s at a time.
struct Model {
    a: u8,
    b: u8,
    /// Ticks since the last second began.
    tick: u64,
    seconds: u64,
    flags: u8,
}

impl Model {
    /// Table 5 as frequencies.
    fn period(&self) -> Option<u64> {
        let hertz = match (self.a & 0xf, self.a >> 4) {
            (0, _) => return None,
            (1, 2) => 256,
            (2, 2) => 128,
            (rate, _) => 65_536 >> rate,
        };
        Some(32_768 / hertz)
    }

    fn running(&self) -> bool {
        self.a >> 4 <= 2
    }

    fn update_ticks(&self) -> u64 {
        if self.a >> 4 == 2 { 65 } else { 8 }
    }

    fn uip_rise(&self) -> u64 {
        32_768 - self.update_ticks() - 8
    }

    fn step(&mut self) {
        if !self.running() {
            return;
        }
        self.tick += 1;
        let since_uip = 32_768 + self.tick - self.uip_rise();
        if self.period().is_some_and(|period| since_uip % period == period / 2) {
            self.flags |= PF;
        }
        if self.tick == 32_768 {
            self.tick = 0;
            if self.b & SET == 0 {
                self.seconds += 1;
                self.flags |= UF;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_chip_is_a_divider_chain_stepped_tick_by_tick(
        ops in prop::collection::vec(
            (prop_oneof![0u64..100, 0u64..40_000], 0u8..0x80, any::<bool>(), 0u8..3), 1..24,
        ),
    ) {
        // Looked at in the middle of ticks, so that nanoseconds need no rounding here.
        let half = SECOND / 65_536;
        let (mut ticks, mut extra) = (0u64, half);
        let mut chip = Mc146818::new(&CONFIG, START + half);
        let mut model = Model { a: 0x26, b: H24, tick: 0, seconds: 0, flags: 0 };
        let first = calendar::second_of_day(&chip.state().cmos, chip.state().b.into());
        for (wait, a, set, what) in ops {
            ticks += wait;
            let utc = START + ticks * SECOND / 32_768 + extra;
            (0..wait).for_each(|_| model.step());
            match what {
                0 => {
                    chip.write(utc, 0, 0xa);
                    chip.write(utc, 1, a);
                    let was_running = std::mem::replace(&mut model.a, a) >> 4 <= 2;
                    if model.running() && !was_running {
                        model.tick = 16_384 - model.update_ticks();
                        extra += half;
                    }
                }
                1 => {
                    model.b = if set { SET | H24 } else { H24 };
                    chip.write(utc, 0, 0xb);
                    chip.write(utc, 1, model.b);
                }
                _ => {
                    chip.write(utc, 0, 0xc);
                    prop_assert_eq!(chip.read(utc, 1), std::mem::take(&mut model.flags));
                }
            }
            chip.write(utc, 0, 0xa);
            let uip = chip.read(utc, 1) & UIP != 0;
            let expected = model.running() && model.b & SET == 0 && model.tick >= model.uip_rise();
            prop_assert_eq!(uip, expected);
            let second = calendar::second_of_day(&chip.state().cmos, chip.state().b.into());
            prop_assert_eq!(u64::try_from(second - first).unwrap(), model.seconds);
        }
    }
}
