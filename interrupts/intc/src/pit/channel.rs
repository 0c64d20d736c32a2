//! One counter of the 8254, in clocks.
//!
//! [`Channel::clock`] is what one CLK pulse does, mode by mode, in the data sheet's words. The
//! rest is about not calling it a million times a second: between two pulses that do more than
//! count there is arithmetic.

use super::count::{after, to_zero};
use super::regs::{BOTH, Control, MSB, Status};
use super::state::{Channel, Phase};

impl Channel {
    /// The mode, 0 to 5.
    pub(super) fn mode(&self) -> u8 {
        // X10 and X11 (figure 7).
        match self.control.mode() {
            6 => 2,
            7 => 3,
            mode => mode,
        }
    }

    /// A control word: the counter waits for a count, OUT goes to its initial level, and what was
    /// latched is forgotten ("Counter latch command": "or until the counter is reprogrammed").
    pub(super) fn program(&mut self, control: Control) {
        let Self { gate, element, .. } = *self;
        *self = Self { control: control.with_sc(0), gate, element, ..Self::default() };
        self.out = self.mode() != 0;
    }

    /// Writes a byte of the count.
    pub(super) fn write(&mut self, value: u8) {
        match (self.control.rw(), self.written_low.take()) {
            (BOTH, None) => {
                self.written_low = Some(value);
                if self.mode() == 0 {
                    // "Writing the first byte disables counting. OUT is set low immediately."
                    self.out = false;
                    self.load = false;
                    if self.phase != Phase::NoCount {
                        self.phase = Phase::Armed;
                    }
                }
            }
            (BOTH, Some(low)) => self.set_count(u16::from_le_bytes([low, value])),
            (MSB, _) => self.set_count(u16::from_le_bytes([0, value])),
            _ => self.set_count(u16::from(value)),
        }
    }

    /// A whole count was written.
    fn set_count(&mut self, count: u16) {
        self.register = count;
        self.null_count = true;
        match self.mode() {
            // "If a new count is written, it will be loaded on the next CLK pulse."
            0 => {
                self.out = false;
                self.phase = Phase::Armed;
                self.load = true;
            }
            4 => {
                if self.phase == Phase::NoCount {
                    self.phase = Phase::Armed;
                }
                self.load = true;
            }
            // Only the first count is loaded right away; others at the end of the cycle.
            2 | 3 if self.phase == Phase::NoCount => {
                self.phase = Phase::Armed;
                self.load = true;
            }
            // Modes 1 and 5 wait for the gate.
            _ if self.phase == Phase::NoCount => self.phase = Phase::Armed,
            _ => {}
        }
    }

    /// Drives the gate ("Gate": figure 21).
    pub(super) fn set_gate(&mut self, level: bool) {
        if self.gate == level {
            return;
        }
        self.gate = level;
        match self.mode() {
            2 | 3 if !level => self.out = true,
            1 | 2 | 3 | 5 if level && self.phase != Phase::NoCount => self.load = true,
            _ => {}
        }
    }

    /// The counting element is decremented by clocks.
    fn counts(&self) -> bool {
        let enabled = self.gate || matches!(self.mode(), 1 | 5);
        enabled && matches!(self.phase, Phase::Counting | Phase::Ended)
    }

    /// One CLK pulse.
    fn clock(&mut self) {
        if self.strobing() {
            self.out = true;
        }
        if self.load {
            return self.start();
        }
        if !self.counts() {
            return;
        }
        match self.mode() {
            2 if self.element == 1 => self.reload(),
            3 if self.element == self.last_of_half() => {
                self.out = !self.out;
                self.reload();
            }
            _ => self.count_on(1),
        }
        let at_zero = self.phase == Phase::Counting && self.element == 0;
        match self.mode() {
            0 | 1 if at_zero => {
                self.out = true;
                self.phase = Phase::Ended;
            }
            4 | 5 if at_zero => {
                self.out = false;
                self.phase = Phase::Ended;
            }
            2 => self.out = self.element != 1,
            _ => {}
        }
    }

    /// The pulse that loads a count after it was written, or after a trigger.
    fn start(&mut self) {
        self.load = false;
        self.phase = Phase::Counting;
        self.reload();
        self.out = match self.mode() {
            0 | 1 => false,
            2 => self.element != 1 || !self.gate,
            _ => true,
        };
    }

    fn reload(&mut self) {
        self.null_count = false;
        self.odd = self.mode() == 3 && self.register & 1 != 0;
        self.element = if self.odd { self.register - 1 } else { self.register };
    }

    /// Modes 4 and 5: OUT is low for the one clock of the strobe.
    fn strobing(&self) -> bool {
        matches!(self.mode(), 4 | 5) && !self.out
    }

    /// Mode 3: the value at which a half of the period ends. With an odd count, the high half is
    /// one clock longer.
    fn last_of_half(&self) -> u16 {
        if self.odd && self.out { 0 } else { 2 }
    }

    /// `clocks` pulses that do nothing but count.
    fn count_on(&mut self, clocks: u64) {
        if self.counts() {
            let step = if self.mode() == 3 { 2 } else { 1 };
            self.element = after(self.element, self.control.bcd(), clocks.saturating_mul(step));
        }
    }

    /// How many of the next pulses do nothing but count; `None` if all of them.
    fn quiet_clocks(&self) -> Option<u64> {
        if self.load || self.strobing() {
            return Some(0);
        }
        if !self.counts() || self.phase == Phase::Ended {
            return None;
        }
        let left = to_zero(self.element, self.control.bcd());
        Some(match self.mode() {
            // The pulse that makes it 1 lowers OUT, and the one after that reloads.
            2 => left.saturating_sub(2),
            3 => halves(self.element, self.last_of_half(), self.control.bcd()),
            _ => left - 1,
        })
    }

    /// The period, if the counter will do the same over and over until somebody interferes.
    fn period(&self) -> Option<u64> {
        let periodic = matches!(self.mode(), 2 | 3) && self.counts();
        if !periodic || self.load || self.null_count {
            return None;
        }
        let bcd = self.control.bcd();
        if self.mode() == 2 {
            return Some(to_zero(self.register, bcd));
        }
        let start = self.register & !1;
        let half = |last| halves(start, last, bcd) + 1;
        Some(half(if self.odd { 0 } else { 2 }) + half(2))
    }

    /// Lets `clocks` pulses pass. Returns whether OUT has risen meanwhile.
    pub(super) fn advance(&mut self, mut clocks: u64) -> bool {
        let mut rose = false;
        while clocks > 0 {
            let quiet = self.quiet_clocks().unwrap_or(u64::MAX).min(clocks);
            self.count_on(quiet);
            clocks -= quiet;
            if clocks == 0 {
                break;
            }
            let before = self.out;
            self.clock();
            rose |= !before && self.out;
            clocks -= 1;
            // Whole periods change nothing.
            if let Some(period) = self.period()
                && clocks >= period
            {
                clocks %= period;
                rose |= self.mode() == 3 || self.register != 1;
            }
        }
        rose
    }

    /// In how many clocks OUT changes next, if it does by itself.
    pub(super) fn next_change(&self) -> Option<u64> {
        let mut ahead = *self;
        let mut clocks = 0;
        // A load, the end of a period with the old count, the first with a new one: whatever
        // has not changed OUT after a few such pulses (a count of 1 in mode 2) never will.
        for _ in 0..4 {
            let quiet = ahead.quiet_clocks()?;
            ahead.count_on(quiet);
            ahead.clock();
            clocks += quiet + 1;
            if ahead.out != self.out {
                return Some(clocks);
            }
        }
        None
    }

    /// Counter latch command, or the count half of a read-back command. A count that is latched
    /// already stays ("Counter latch command").
    pub(super) fn latch_count(&mut self) {
        self.latched_count.get_or_insert(self.element);
    }

    /// The status half of a read-back command.
    pub(super) fn latch_status(&mut self) {
        let status = Status::new()
            .with_control(self.control.into_bits())
            .with_null_count(self.null_count)
            .with_out(self.out);
        self.latched_status.get_or_insert(status.into_bits());
    }

    /// Reads the counter: a latched status first, then a latched count, then the count as it is.
    pub(super) fn read(&mut self) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or(self.element).to_le_bytes();
        let second = match self.control.rw() {
            BOTH => {
                self.read_high = !self.read_high;
                !self.read_high
            }
            rw => rw == MSB,
        };
        if !self.read_high {
            self.latched_count = None;
        }
        if second { high } else { low }
    }
}

/// Mode 3: how many pulses take `from` down to `last` in twos.
fn halves(from: u16, last: u16, bcd: bool) -> u64 {
    if from == last { 0 } else { (to_zero(from, bcd) - u64::from(last)) / 2 }
}
