//! What a snapshot of the power management registers keeps.

use trapline_device::{StateError, saved_form};

use super::regs::{Pm1Control, Pm1Enable, Pm1Status};

/// Everything the chip remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// PM1 status register.
    pub status: Pm1Status,
    /// PM1 enable register.
    pub enable: Pm1Enable,
    /// PM1 control register.
    pub control: Pm1Control,
    /// How often the timer's highest bit had changed when TMR_STS was last brought up to date.
    pub timer_changes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: Pm1Status::new(),
            enable: Pm1Enable::new(),
            control: Pm1Control::new().kept(),
            timer_changes: 0,
        }
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let Self { status, enable, control, timer_changes: _ } = *self;
        let check = StateError::check::<SavedV1>;
        let events = Pm1Status::new().with_tmr(true).with_pwrbtn(true);
        check(
            status.into_bits() & !events.into_bits() == 0,
            "only the timer and the button happen",
        )?;
        let enables = Pm1Enable::from_guest(enable.into_bits()) == enable;
        check(enables, "reserved bits of PM1_EN are 0")?;
        let kept = Pm1Control::from_guest(control.into_bits()).kept() == control;
        check(kept, "SCI_EN is set, and write-only bits of PM1_CNT are not kept")
    }
}

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "acpi-pm" version 1 {
        status: u16,
        enable: u16,
        control: u16,
        timer_changes: u64,
    }
}
