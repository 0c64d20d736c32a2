//! The chip: registers in, flags and deadlines out. It is told the time on every call.

use super::calendar::{self, Format};
use super::cmos::{self, CmosConfig};
use super::regs::{
    BEFORE_UPDATE_TICKS, CENTURY_INDEX, DATA, INDEX, MAP, NMI_MASK, RAM_NAME, Reg, RegA, RegB,
    RegC, RegD, TimeBase,
};
use super::state::State;

pub(super) const TICKS_PER_SECOND: i64 = 32_768;
const NS_PER_SECOND: i128 = 1_000_000_000;

/// What the chip drives, and when it will next drive something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// The interrupt pin is asserted.
    pub irq: bool,
    /// Nanoseconds until the pin may next change without an access, at least 1. `None` if it can
    /// not: nothing is enabled, or the pin is asserted already and only an access releases it.
    pub change_in_ns: Option<u64>,
}

/// An MC146818A with 128 bytes behind its address latch.
///
/// Time is counted in ticks of 1/32768 s of a time line that is UTC plus a phase. Every rate of the
/// chip divides a second into a power of two of them, so all edges are exact, and update cycles end
/// at whole seconds. `utc_ns` in the methods is nanoseconds since 1970; it may jump, either way, as
/// the host's clock may: the calendar follows, by whole seconds, and keeps whatever difference the
/// guest has set.
#[derive(Clone, Debug)]
pub struct Mc146818 {
    state: State,
}

impl Mc146818 {
    /// A chip whose clock shows `utc_ns` and whose RAM holds `config`.
    pub fn new(config: &CmosConfig, utc_ns: u64) -> Self {
        let mut state = State { cmos: config.ram(), ..State::default() };
        state.tick = tick_at(i128::from(utc_ns));
        let seconds = state.tick.div_euclid(TICKS_PER_SECOND);
        calendar::set(&mut state.cmos, state.b.into(), seconds);
        Self { state }
    }

    /// Everything a snapshot keeps.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Goes on from a snapshot. The calendar makes up for the time since.
    pub fn restore(&mut self, state: State) {
        self.state = state;
    }

    /// The RESET pin (data sheet, "RESET"): interrupts and square wave off, flags cleared. Clock,
    /// calendar, RAM, rates and modes have a battery and stay. The NMI mask is a latch of the board
    /// and is set, as at power-on.
    pub fn reset(&mut self, utc_ns: u64) {
        self.catch_up(utc_ns);
        self.state.b = self
            .state
            .b
            .with_periodic_enable(false)
            .with_alarm_enable(false)
            .with_update_enable(false)
            .with_square_wave(false);
        self.state.c = RegC::new();
        self.state.index |= NMI_MASK;
    }

    /// A read of the latch or of the register it selects.
    pub fn read(&mut self, utc_ns: u64, offset: u64) -> u8 {
        match offset {
            INDEX => self.state.index,
            DATA => {
                self.catch_up(utc_ns);
                self.read_selected()
            }
            _ => 0xff,
        }
    }

    /// A write of the latch or of the register it selects.
    pub fn write(&mut self, utc_ns: u64, offset: u64, value: u8) {
        match offset {
            INDEX => self.state.index = value,
            DATA => {
                self.catch_up(utc_ns);
                self.write_selected(utc_ns, value);
            }
            _ => {}
        }
    }

    /// The board's own change to the RAM, with the checksum over 0x10 to 0x2d made good. Indices
    /// of the clock's registers are ignored.
    pub fn set_ram(&mut self, index: u8, value: u8) {
        if index > 0x0d && index != CENTURY_INDEX {
            self.state.cmos.set(index, value);
            cmos::store_checksum(&mut self.state.cmos);
        }
    }

    /// Brings the chip to `utc_ns` and derives its outputs. To be called after every other method
    /// and when [`Outputs::change_in_ns`] has passed.
    pub fn sync(&mut self, utc_ns: u64) -> Outputs {
        self.catch_up(utc_ns);
        let irq = self.irqf();
        let change_in_ns = if irq {
            None
        } else {
            self.next_change().map(|tick| {
                let wait = ns_at(tick) - self.line_ns(utc_ns);
                u64::try_from(wait).unwrap_or(0).max(1)
            })
        };
        Outputs { irq, change_in_ns }
    }

    fn selected(&self) -> u8 {
        self.state.index & !NMI_MASK
    }

    fn read_selected(&mut self) -> u8 {
        let state = &mut self.state;
        let index = state.index & !NMI_MASK;
        match MAP.for_read(index.into()).map(|row| row.reg) {
            Some(Reg::A) => self.state.a.with_uip(self.uip()).into_bits(),
            Some(Reg::B) => state.b.into_bits(),
            Some(Reg::C) => {
                let flags = self.state.c.with_irq(self.irqf());
                self.state.c = RegC::new();
                flags.into_bits()
            }
            Some(Reg::D) => RegD::GOOD_BATTERY.into_bits(),
            Some(Reg::Ps2Century) => state.cmos.get(CENTURY_INDEX),
            _ => state.cmos.get(index),
        }
    }

    fn write_selected(&mut self, utc_ns: u64, value: u8) {
        let index = self.selected();
        let state = &mut self.state;
        match MAP.for_write(index.into()).map(|row| row.reg) {
            Some(Reg::A) => self.write_a(utc_ns, RegA::from_guest(value)),
            Some(Reg::B) => {
                let b = RegB::from_bits(value);
                let set_rises = b.set() && !state.b.set();
                state.b = b.with_update_enable(b.update_enable() && !set_rises);
            }
            Some(Reg::Seconds) => state.cmos.set(index, value & 0x7f),
            Some(Reg::Ps2Century) => state.cmos.set(CENTURY_INDEX, value),
            // Registers C and D are not in the map for writes; their bytes are never read.
            _ => state.cmos.set(index, value),
        }
    }

    /// Releasing the divider makes the first update cycle begin half a second later (data sheet,
    /// "Register A", DV): the time line is moved to say so. Setting the clock to the half second
    /// depends on it, as Linux does.
    fn write_a(&mut self, utc_ns: u64, a: RegA) {
        if let (None, Some(base)) = (self.state.a.time_base(), a.time_base()) {
            let tick = TICKS_PER_SECOND / 2 - i64::from(base.update_ticks());
            let second = i128::from(utc_ns) % NS_PER_SECOND;
            self.state.phase_ns = i64::try_from(ns_at(tick) - second).unwrap_or_default();
            self.state.tick = tick_at(self.line_ns(utc_ns));
        }
        self.state.a = a;
    }

    /// Counts what has happened since the last call.
    fn catch_up(&mut self, utc_ns: u64) {
        let now = tick_at(self.line_ns(utc_ns));
        let before = std::mem::replace(&mut self.state.tick, now);
        let Some(base) = self.state.a.time_base() else { return };
        if let Some((period, phase)) = self.periodic(base) {
            let edge = (now - phase).div_euclid(period) != (before - phase).div_euclid(period);
            self.state.c = self.state.c.with_periodic(self.state.c.periodic() || edge);
        }
        if !self.state.b.set() {
            let second = |tick: i64| tick.div_euclid(TICKS_PER_SECOND);
            self.update(second(now) - second(before));
        }
    }

    /// Update cycles have ended that bring the calendar on by so many seconds, or back when the
    /// host's clock was set back.
    fn update(&mut self, seconds: i64) {
        let State { cmos, b, c, .. } = &mut self.state;
        let format = Format::from(*b);
        if seconds != 0 {
            let alarm = calendar::seconds_to_alarm(cmos, format).is_some_and(|s| s <= seconds);
            *c = c.with_update(true).with_alarm(c.alarm() || alarm);
        }
        calendar::advance(cmos, format, seconds);
    }

    fn irqf(&self) -> bool {
        let State { b, c, .. } = &self.state;
        b.periodic_enable() && c.periodic()
            || b.alarm_enable() && c.alarm()
            || b.update_enable() && c.update()
    }

    /// The next tick at which a flag with its enable set will rise.
    fn next_change(&self) -> Option<i64> {
        let State { cmos, a, b, tick, .. } = &self.state;
        let base = a.time_base()?;
        let periodic = self
            .periodic(base)
            .filter(|_| b.periodic_enable())
            .map(|(period, phase)| ((tick - phase).div_euclid(period) + 1) * period + phase);
        let seconds = match (b.set(), b.update_enable(), b.alarm_enable()) {
            (false, true, _) => Some(1),
            (false, false, true) => calendar::seconds_to_alarm(cmos, (*b).into()),
            _ => None,
        };
        let update = seconds.map(|s| (tick.div_euclid(TICKS_PER_SECOND) + s) * TICKS_PER_SECOND);
        periodic.into_iter().chain(update).min()
    }

    /// Period and phase of the selected tap. Its edges lie half a period away from UIP's rise, so
    /// that a program woken by one has half a period and tBUC to read the time in (data sheet,
    /// "Update cycle", figure of update-ended and periodic relationship).
    fn periodic(&self, base: TimeBase) -> Option<(i64, i64)> {
        let period = i64::from(self.state.a.period_ticks(base)?);
        Some((period, uip_rise(base) + period / 2))
    }

    fn uip(&self) -> bool {
        !self.state.b.set()
            && self
                .state
                .a
                .time_base()
                .is_some_and(|base| self.state.tick.rem_euclid(TICKS_PER_SECOND) >= uip_rise(base))
    }

    /// Nanoseconds of the chip's time line.
    fn line_ns(&self, utc_ns: u64) -> i128 {
        i128::from(utc_ns) + i128::from(self.state.phase_ns)
    }
}

/// Name of the register that the address latch selects while it holds `index`.
pub(super) fn selected_name(index: u8) -> &'static str {
    MAP.for_read((index & !NMI_MASK).into()).map_or(RAM_NAME, |row| row.name)
}

/// The tick of each second at which UIP rises: tBUC and tUC before the update ends.
fn uip_rise(base: TimeBase) -> i64 {
    TICKS_PER_SECOND - i64::from(base.update_ticks() + BEFORE_UPDATE_TICKS)
}

/// The tick that has begun at `ns`. A `u64` of nanoseconds is 584 years, well within an `i64` of
/// ticks.
pub(super) fn tick_at(ns: i128) -> i64 {
    let tick = (ns * i128::from(TICKS_PER_SECOND)).div_euclid(NS_PER_SECOND);
    i64::try_from(tick).unwrap_or(i64::MAX)
}

/// The first nanosecond of a tick.
fn ns_at(tick: i64) -> i128 {
    let scaled = i128::from(tick) * NS_PER_SECOND;
    let ticks = i128::from(TICKS_PER_SECOND);
    -(-scaled).div_euclid(ticks)
}
