//! What a snapshot of the I/O APIC keeps.

use trapline_device::{StateError, saved_form};

use super::regs::{Id, PINS, Redirection, SUCCESSIVE_ENDS_MAX};

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
    /// For each pin, how many ends of its interrupt in a row have found it still asserted.
    pub successive_ends: [u16; PINS as usize],
    /// Pins that are asserted and wait for the end of the pause, bit per pin.
    pub paused: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            select: 0,
            id: Id::new(),
            arbitration: Id::new(),
            lines: 0,
            entries: [Redirection::RESET; PINS as usize],
            successive_ends: [0; PINS as usize],
            paused: 0,
        }
    }
}

saved_form! {
    /// [`State`], version 2. When the pause ends is not kept: it begins anew.
    pub(super) struct SavedV2 of State, "ioapic" version 2 {
        select: u8,
        id: u32,
        arbitration: u32,
        lines: u32,
        entries: [u64; PINS as usize] => each,
        successive_ends: [u16; PINS as usize],
        paused: u32,
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let Self { select: _, id, arbitration, lines, entries, successive_ends, paused } = self;
        let check = StateError::check::<SavedV2>;
        let id = id.into_bits();
        check(Id::from_guest(id).into_bits() == id, "only four bits of the ID are set")?;
        check(arbitration.into_bits() == id, "the arbitration ID was loaded with the ID")?;
        check(lines >> PINS == 0, "there are 24 inputs")?;
        check(entries.iter().all(|entry| entry.is_possible()), "reserved bits are 0")?;
        check(
            entries.iter().all(|entry| entry.level() || !entry.remote_irr()),
            "only level-triggered interrupts wait for their end",
        )?;
        check(
            successive_ends.iter().all(|ends| *ends < SUCCESSIVE_ENDS_MAX),
            "too many ends in a row begin a pause",
        )?;
        check(paused & !lines == 0, "only a pin that is asserted pauses")
    }
}
