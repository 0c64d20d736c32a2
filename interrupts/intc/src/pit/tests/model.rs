//! A second opinion, pulse by pulse: how far a counter is in its sequence, and what OUT is there
//! (data sheet, "Mode definitions" and figures 15 to 20), with no thought of speed.

use proptest::prelude::*;

use super::super::regs::{BOTH, Control, LSB, MSB};
use super::super::state::Channel;

#[derive(Clone, Debug)]
struct Slow {
    mode: u8,
    bcd: bool,
    rw: u8,
    gate: bool,
    /// The count written last, as a number of clocks.
    written: Option<u64>,
    /// The count being counted, and how many clocks of it are over.
    running: Option<(u64, u64)>,
    load: bool,
    /// Modes 2 and 3: a closed gate has ended the sequence; OUT is high until it begins anew.
    raised: bool,
    half_written: Option<u8>,
    /// Mode 0: a half-written count has stopped the counting.
    stopped: bool,
    strobe: bool,
    latched: Option<u16>,
    second: bool,
}

impl Slow {
    fn new() -> Self {
        Self {
            mode: 0,
            bcd: false,
            rw: BOTH,
            gate: true,
            written: None,
            running: None,
            load: false,
            raised: false,
            half_written: None,
            stopped: false,
            strobe: false,
            latched: None,
            second: false,
        }
    }

    fn program(&mut self, rw: u8, mode: u8, bcd: bool) {
        *self = Self {
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd,
            rw,
            gate: self.gate,
            ..Self::new()
        };
    }

    fn write(&mut self, byte: u8) {
        let count = match (self.rw, self.half_written.take()) {
            (LSB, _) => u64::from(byte),
            (MSB, _) => u64::from(byte) << 8,
            (_, Some(low)) => u64::from(low) | u64::from(byte) << 8,
            (_, None) => {
                self.half_written = Some(byte);
                if self.mode == 0 {
                    self.stopped = true;
                    self.load = false;
                }
                return;
            }
        };
        let digits = |value: u64| (0..4).rev().fold(0, |sum, i| sum * 10 + (value >> (4 * i) & 15));
        let clocks = if self.bcd { digits(count) } else { count };
        let longest = if self.bcd { 10_000 } else { 65_536 };
        let first = self.written.replace(if clocks == 0 { longest } else { clocks }).is_none();
        match self.mode {
            0 => {
                self.stopped = true;
                self.load = true;
            }
            4 => self.load = true,
            2 | 3 if first => self.load = true,
            _ => {}
        }
    }

    fn set_gate(&mut self, level: bool) {
        let rising = level && !self.gate;
        self.gate = level;
        if rising && matches!(self.mode, 1 | 2 | 3 | 5) && self.written.is_some() {
            self.load = true;
        }
        self.raised |= !level;
    }

    fn tick(&mut self) {
        self.strobe = false;
        if self.load {
            self.load = false;
            self.stopped = false;
            self.raised = false;
            self.running = self.written.map(|count| (count, 0));
            return;
        }
        let held = self.stopped || (!self.gate && matches!(self.mode, 0 | 2 | 3 | 4));
        let Some((count, over)) = self.running.as_mut().filter(|_| !held) else { return };
        *over += 1;
        self.strobe = matches!(self.mode, 4 | 5) && *over == *count;
        // The end of a period, or of a half, is where a new count begins.
        let written = self.written.unwrap();
        match self.mode {
            2 if *over == *count => (*count, *over) = (written, 0),
            // The low half of the new count, if there is one.
            3 if *over == count.div_ceil(2) && written != *count => {
                (*count, *over) = (written, written.div_ceil(2));
            }
            3 if *over == *count => (*count, *over) = (written, 0),
            _ => {}
        }
    }

    fn out(&self) -> bool {
        match (self.mode, self.running) {
            (0, _) if self.stopped => false,
            (0, running) => running.is_some_and(|(count, over)| over >= count),
            (1, Some((count, over))) => over >= count,
            (2, Some((count, over))) => self.raised || !self.gate || over + 1 != count,
            (3, Some((count, over))) => self.raised || !self.gate || over < count.div_ceil(2),
            (4 | 5, _) => !self.strobe,
            _ => true,
        }
    }

    /// What the counting element holds, if there is anything defined in it.
    fn element(&self) -> Option<u16> {
        let (count, over) = self.running?;
        let wrap = if self.bcd { 10_000 } else { 65_536 };
        let left = match self.mode {
            3 => {
                let over = if over < count.div_ceil(2) { over } else { over - count.div_ceil(2) };
                (count & !1) - 2 * over
            }
            _ => (count + wrap - over % wrap) % wrap,
        } % wrap;
        let left = if self.bcd {
            (0..4).fold(0, |bcd, i| bcd | (left / 10u64.pow(i) % 10) << (4 * i))
        } else {
            left
        };
        u16::try_from(left).ok()
    }

    fn read(&mut self) -> Option<u8> {
        let value = self.latched.or(self.element());
        let high = match self.rw {
            BOTH => {
                self.second = !self.second;
                !self.second
            }
            rw => rw == MSB,
        };
        if !self.second {
            self.latched = None;
        }
        value.map(|value| value.to_le_bytes()[usize::from(high)])
    }
}

#[derive(Clone, Debug)]
enum Op {
    Program(u8, u8, bool),
    Byte(u8),
    Gate(bool),
    Wait(u64),
    Latch,
    Read,
}

/// Bytes that are digits in either encoding. A count of 1 is illegal in modes 2 and 3.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => Just(0u8),
        4 => 2u8..10,
        1 => (0u8..10, 0u8..10).prop_map(|(high, low)| (high << 4 | low).max(2)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1u8..4, 0u8..8, any::<bool>()).prop_map(|(rw, mode, bcd)| Op::Program(rw, mode, bcd)),
        6 => byte().prop_map(Op::Byte),
        2 => any::<bool>().prop_map(Op::Gate),
        8 => (0u64..12).prop_map(Op::Wait),
        2 => (0u64..700).prop_map(Op::Wait),
        1 => (0u64..140_000).prop_map(Op::Wait),
        1 => Just(Op::Latch),
        3 => Just(Op::Read),
    ]
}

/// Waits with both; the fast one has to foretell what the slow one does.
fn wait(fast: &mut Channel, slow: &mut Slow, clocks: u64) -> Result<(), TestCaseError> {
    let foretold = fast.next_change().filter(|change| *change <= clocks);
    let (mut first, mut rose) = (None, false);
    for clock in 1..=clocks {
        let before = slow.out();
        slow.tick();
        if slow.out() != before {
            first.get_or_insert(clock);
            rose |= slow.out();
        }
    }
    prop_assert_eq!(foretold, first);
    prop_assert_eq!(fast.advance(clocks), rose);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_counter_does_in_one_step_what_the_slow_one_does_pulse_by_pulse(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let (mut fast, mut slow) = (Channel::default(), Slow::new());
        for op in ops {
            match op {
                Op::Program(rw, mode, bcd) => {
                    fast.program(Control::new().with_rw(rw).with_mode(mode).with_bcd(bcd));
                    slow.program(rw, mode, bcd);
                }
                Op::Byte(byte) => {
                    fast.write(byte);
                    slow.write(byte);
                }
                Op::Gate(level) => {
                    fast.set_gate(level);
                    slow.set_gate(level);
                }
                Op::Wait(clocks) => wait(&mut fast, &mut slow, clocks)?,
                Op::Latch => {
                    if let (None, Some(count)) = (slow.latched, slow.element()) {
                        slow.latched = Some(count);
                        fast.latch_count();
                    }
                }
                Op::Read => {
                    let (found, wanted) = (fast.read(), slow.read());
                    if let Some(wanted) = wanted {
                        prop_assert_eq!(found, wanted);
                    }
                }
            }
            prop_assert_eq!(fast.out, slow.out(), "{:?}\n{:?}", &fast, &slow);
            if let Some(element) = slow.element() {
                prop_assert_eq!(fast.element, element, "{:?}", &slow);
            }
        }
    }

    #[test]
    fn one_long_wait_is_many_short_ones(
        mode in 0u8..6, bcd in any::<bool>(), count in any::<u16>(), gate in any::<bool>(),
        again in prop::option::of(any::<u16>()),
        waits in prop::collection::vec(0u64..200_000, 1..20),
    ) {
        let mut one = Channel::default();
        one.program(Control::new().with_rw(BOTH).with_mode(mode).with_bcd(bcd));
        one.set_gate(false);
        let write = |channel: &mut Channel, count: u16| count.to_le_bytes().map(|b| channel.write(b));
        write(&mut one, count);
        one.advance(7);
        one.set_gate(gate);
        if let Some(count) = again {
            write(&mut one, count);
        }
        let mut many = one;
        let rose = waits.iter().fold(false, |rose, wait| many.advance(*wait) | rose);
        prop_assert_eq!(one.advance(waits.iter().sum()), rose);
        prop_assert_eq!(one, many);
    }
}
