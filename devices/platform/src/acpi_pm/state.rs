//! What a snapshot of the power management registers keeps.

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
