//! What a snapshot of the I/O APIC keeps.

use serde::{Deserialize, Serialize};
use trapline_device::{Form, StateError};

use super::regs::{Id, PINS, Redirection};

/// Everything the chip remembers. `Default` is the state after reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// IOREGSEL.
    pub select: u8,
    /// Identification register.
    pub id: Id,
    /// Arbitration register.
    pub arbitration: Id,
    /// Levels of the inputs, bit per pin.
    pub lines: u32,
    /// Redirection table.
    pub entries: [Redirection; PINS as usize],
}

impl Default for State {
    fn default() -> Self {
        Self {
            select: 0,
            id: Id::new(),
            arbitration: Id::new(),
            lines: 0,
            entries: [Redirection::RESET; PINS as usize],
        }
    }
}

/// [`State`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedV1 {
    select: u8,
    id: u32,
    arbitration: u32,
    lines: u32,
    entries: [u64; PINS as usize],
}

impl Form for SavedV1 {
    const NAME: &'static str = "ioapic";
    const VERSION: u32 = 1;
}

impl From<&State> for SavedV1 {
    fn from(state: &State) -> Self {
        let State { select, id, arbitration, lines, entries } = state;
        Self {
            select: *select,
            id: id.into_bits(),
            arbitration: arbitration.into_bits(),
            lines: *lines,
            entries: entries.map(Redirection::into_bits),
        }
    }
}

impl TryFrom<SavedV1> for State {
    type Error = StateError;

    fn try_from(saved: SavedV1) -> Result<Self, StateError> {
        let SavedV1 { select, id, arbitration, lines, entries } = saved;
        let check = StateError::check::<SavedV1>;
        check(Id::from_guest(id).into_bits() == id, "only four bits of the ID are set")?;
        check(arbitration == id, "the arbitration ID was loaded with the ID")?;
        check(lines >> PINS == 0, "there are 24 inputs")?;
        let entries = entries.map(Redirection::from_bits);
        check(entries.iter().all(|entry| entry.is_possible()), "reserved bits are 0")?;
        check(
            entries.iter().all(|entry| entry.level() || !entry.remote_irr()),
            "only level-triggered interrupts wait for their end",
        )?;
        Ok(Self {
            select,
            id: Id::from_bits(id),
            arbitration: Id::from_bits(arbitration),
            lines,
            entries,
        })
    }
}
