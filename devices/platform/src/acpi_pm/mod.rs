//! ACPI fixed hardware: poweroff, the power button and the power management timer.
//!
//! Spec: ACPI 6.5, section 4.8.3; the sections cited are its sections.
//!
//! ```text
//!   guest ──PM1_CNT── SLP_TYP = S5, SLP_EN ──► Power::request(Off)
//!   guest ◄─PM1_STS── power button, timer carry ── and PM1_EN ──► Line (SCI)
//!   guest ◄─PM_TMR─── Clock, 3.579545 MHz
//! ```
//!
//! ACPI is always enabled: SCI_EN reads 1 and there is no SMI command port, so the FADT's
//! `SMI_CMD` is 0 ("Legacy/ACPI Select and the SCI Interrupt"). Deviation: no sleep state but S5
//! exists; SLP_EN with another SLP_TYP does nothing, and the DSDT offers none.

pub mod regs;
mod shell;
mod state;

#[cfg(test)]
mod tests;

use trapline_device::Direction;

use self::regs::{MAP, PM_TMR_HZ, Pm1Control, Pm1Enable, Pm1Status, Reg, SLP_TYP_S5};
pub use self::shell::AcpiPm;
pub use self::state::State;

/// How many bits the timer has (section 4.8.2.1; FADT flag `TMR_VAL_EXT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerWidth {
    /// 24 bits; wraps every 4.7 seconds.
    Bits24,
    /// 32 bits; wraps every 20 minutes. `TMR_VAL_EXT` is to be set.
    Bits32,
}

impl TimerWidth {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits24 => 24,
            Self::Bits32 => 32,
        }
    }
}

/// The chip.
#[derive(Clone, Debug)]
struct Chip {
    // Wiring.
    width: TimerWidth,
    state: State,
}

impl Chip {
    fn new(width: TimerWidth) -> Self {
        Self { width, state: State::default() }
    }

    /// Master reset at `now_ns`. The timer is not part of it: it counts on, and changes of its
    /// highest bit that lie before the reset are forgotten.
    fn reset(&mut self, now_ns: u64) {
        self.state = State { timer_changes: self.timer_changes(now_ns), ..State::default() };
    }

    /// Reads the aligned 32 bits at `offset` (0, 4 or 8).
    fn read(&mut self, offset: u64, now_ns: u64) -> u32 {
        self.catch_up(now_ns);
        let State { status, enable, control, .. } = self.state;
        match offset {
            0 => u32::from(status.into_bits()) | u32::from(enable.into_bits()) << 16,
            4 => u32::from(control.into_bits()),
            8 => self.timer(now_ns),
            _ => u32::MAX,
        }
    }

    /// Writes the bytes of `value` that are set in `mask` to the aligned 32 bits at `offset`;
    /// returns whether that was the order to switch off.
    fn write(&mut self, offset: u64, value: u32, mask: u32, now_ns: u64) -> bool {
        self.catch_up(now_ns);
        match offset {
            0 => {
                let status = u32::from(self.state.status.into_bits()) & !(value & mask);
                let enable = u32::from(self.state.enable.into_bits()) << 16;
                let enable = (enable & !mask) | (value & mask);
                self.state.status = Pm1Status::from_bits(low_half(status));
                self.state.enable = Pm1Enable::from_guest(low_half(enable >> 16));
                false
            }
            4 => {
                let kept = u32::from(self.state.control.into_bits());
                let written = Pm1Control::from_guest(low_half((kept & !mask) | (value & mask)));
                self.state.control = written.kept();
                written.slp_en() && written.slp_typ() == SLP_TYP_S5
            }
            // The timer is read-only.
            _ => false,
        }
    }

    fn press_power_button(&mut self) {
        self.state.status.set_pwrbtn(true);
    }

    /// Sets TMR_STS if the timer's highest bit has changed since last time (section 4.8.2.1).
    fn catch_up(&mut self, now_ns: u64) {
        let changes = self.timer_changes(now_ns);
        // An access that began before another one may come after it: the timer does not go back.
        if changes > self.state.timer_changes {
            self.state.timer_changes = changes;
            self.state.status.set_tmr(true);
        }
    }

    /// The system control interrupt: a status bit whose enable bit is set (section 4.8.3.1).
    fn interrupt(&self) -> bool {
        let enabled = self.state.status.into_bits() & self.state.enable.into_bits();
        self.state.control.sci() && enabled != 0
    }

    /// When the timer's highest bit changes next, if anybody is to be interrupted by that.
    fn next_change_ns(&self) -> Option<u64> {
        let wanted = self.state.enable.tmr() && !self.state.status.tmr();
        let tick = u128::from(self.state.timer_changes + 1) << (self.width.bits() - 1);
        // Rounded up, so that the change has happened by then.
        let at_ns = (tick * 1_000_000_000).div_ceil(u128::from(PM_TMR_HZ));
        wanted.then(|| u64::try_from(at_ns).unwrap_or(u64::MAX))
    }

    fn timer(&self, now_ns: u64) -> u32 {
        let mask = u64::from(u32::MAX) >> (32 - self.width.bits());
        u32::try_from(ticks(now_ns) & mask).unwrap_or(u32::MAX)
    }

    fn timer_changes(&self, now_ns: u64) -> u64 {
        ticks(now_ns) >> (self.width.bits() - 1)
    }

    fn register(offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => MAP.for_read(offset),
            Direction::Write => MAP.for_write(offset),
        };
        row.map(|row| match row.reg {
            Reg::Pm1Sts | Reg::Pm1En | Reg::Pm1Cnt | Reg::PmTmr => row.name,
        })
    }
}

/// Timer ticks since the machine was started.
fn ticks(now_ns: u64) -> u64 {
    let (seconds, rest_ns) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
    seconds * PM_TMR_HZ + rest_ns * PM_TMR_HZ / 1_000_000_000
}

/// Bits 0 to 15.
fn low_half(value: u32) -> u16 {
    let [low, high, ..] = value.to_le_bytes();
    u16::from_le_bytes([low, high])
}
