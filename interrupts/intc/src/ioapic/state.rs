//! What a snapshot of the I/O APIC keeps.

use trapline_device::{StateError, saved_form};

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

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "ioapic" version 1 {
        select: u8,
        id: u32,
        arbitration: u32,
        lines: u32,
        entries: [u64; PINS as usize] => each,
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let Self { select: _, id, arbitration, lines, entries } = self;
        let check = StateError::check::<SavedV1>;
        let id = id.into_bits();
        check(Id::from_guest(id).into_bits() == id, "only four bits of the ID are set")?;
        check(arbitration.into_bits() == id, "the arbitration ID was loaded with the ID")?;
        check(lines >> PINS == 0, "there are 24 inputs")?;
        check(entries.iter().all(|entry| entry.is_possible()), "reserved bits are 0")?;
        check(
            entries.iter().all(|entry| entry.level() || !entry.remote_irr()),
            "only level-triggered interrupts wait for their end",
        )
    }
}
