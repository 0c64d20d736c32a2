//! What a redistributor's LPI side keeps over a migration, besides the tables in guest RAM.

use super::regs::{
    CTLR_ENABLE_LPIS, PENDBASER_WRITABLE, PROPBASER_WRITABLE, WAKER_CHILDREN_ASLEEP,
    WAKER_PROCESSOR_SLEEP,
};
use super::{Frame, Redistributors};
use crate::host::GuestMemory;
use crate::{MemoryError, RestoreError};

/// One processor's registers, as numbers of fixed width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedistributorState {
    /// `GICR_CTLR.EnableLPIs`.
    pub ctlr: u32,
    /// `GICR_WAKER`.
    pub waker: u32,
    /// `GICR_PROPBASER`.
    pub propbaser: u64,
    /// `GICR_PENDBASER`.
    pub pendbaser: u64,
}

impl Redistributors {
    /// Writes the pending tables to guest RAM and returns the registers of processor `n` for
    /// every `n` in order, in `states`, which has as many places as there are processors.
    ///
    /// # Errors
    /// A pending table is not in RAM; the others are written, and all registers returned,
    /// nevertheless.
    pub fn save(
        &self,
        mem: &impl GuestMemory,
        states: &mut [RedistributorState],
    ) -> Result<(), MemoryError> {
        let mut result = Ok(());
        for (frame, state) in self.frames.iter().zip(states) {
            let Frame { enabled, waker, propbaser, pendbaser, .. } = *frame;
            if enabled && let Err(error) = frame.lpis.store(mem, &frame.tables(&self.config)) {
                result = Err(error);
            }
            let ctlr = if enabled { CTLR_ENABLE_LPIS } else { 0 };
            *state = RedistributorState { ctlr, waker, propbaser, pendbaser };
        }
        result
    }

    /// Takes saved registers over and reads the pending tables from guest RAM.
    ///
    /// # Errors
    /// A register has a value it can not have, or there are more or fewer processors; nothing has
    /// changed then.
    pub fn restore(
        &mut self,
        states: &[RedistributorState],
        mem: &impl GuestMemory,
    ) -> Result<(), RestoreError> {
        let sane = |state: &RedistributorState| {
            state.ctlr & !CTLR_ENABLE_LPIS == 0
                && state.waker & !(WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP) == 0
                && state.propbaser & !PROPBASER_WRITABLE == 0
                && state.pendbaser & !PENDBASER_WRITABLE == 0
        };
        if states.len() != self.frames.len() || !states.iter().all(sane) {
            return Err(RestoreError::Register("a redistributor register"));
        }
        for (frame, state) in self.frames.iter_mut().zip(states) {
            let RedistributorState { ctlr, waker, propbaser, pendbaser } = *state;
            let enabled = ctlr & CTLR_ENABLE_LPIS != 0;
            *frame = Frame { enabled, waker, propbaser, pendbaser, ..Frame::new(frame.typer) };
            if enabled {
                let tables = frame.tables(&self.config);
                frame.lpis.load(mem, &tables, false);
            }
        }
        Ok(())
    }
}
