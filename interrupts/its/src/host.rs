//! The two traits the ITS stands on: guest memory below it, redistributors above it.

use crate::command::Executed;
use crate::{Lpi, Target};

/// A guest address (or part of the range behind it) is not RAM. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError;

/// Guest RAM as the ITS and the redistributors use it.
///
/// Both calls are all or nothing, never block on the guest, and reach RAM only: a device register
/// at the address is a [`MemoryError`], so that no guest can make its ITS write to a device. A
/// write marks its pages dirty for migration.
pub trait GuestMemory {
    /// Fills `data` from guest physical address `address`.
    ///
    /// # Errors
    /// Some of the range is not RAM.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError>;

    /// Writes `data` to guest physical address `address`.
    ///
    /// # Errors
    /// Some of the range is not RAM, or is not writable.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError>;

    /// Reads a little-endian number at `address`: an entry of a table, which every translation has
    /// two of. Worth implementing where a copy of any length costs more than one load; then a
    /// number that the guest writes meanwhile is best read as a whole, if it is aligned.
    ///
    /// # Errors
    /// Some of the range is not RAM.
    fn read_u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Writes a little-endian number.
pub(crate) fn write_u64(
    mem: &impl GuestMemory,
    address: u64,
    value: u64,
) -> Result<(), MemoryError> {
    mem.write(address, &value.to_le_bytes())
}

/// Where translated interrupts go: the redistributors.
///
/// Every call that names a target outside [`targets`](Self::targets), or a target whose
/// `GICR_CTLR.EnableLPIs` is 0, or an LPI beyond what its `GICR_PROPBASER.IDbits` admits, does
/// nothing.
pub trait LpiSink {
    /// How many targets there are; their numbers start at 0.
    fn targets(&self) -> u32;

    /// One past the largest INTID `GICR_PROPBASER.IDbits` admits (0 while it admits no LPI).
    fn lpi_end(&self) -> u32;

    /// An LPI becomes pending.
    fn set_pending(&mut self, target: Target, lpi: Lpi);

    /// An LPI is no longer pending (CLEAR, DISCARD).
    fn clear_pending(&mut self, target: Target, lpi: Lpi);

    /// The pending state of one LPI moves (MOVI), if both targets have their LPIs enabled.
    fn move_pending(&mut self, from: Target, to: Target, lpi: Lpi);

    /// All pending state moves (MOVALL), if both targets have their LPIs enabled.
    fn move_all_pending(&mut self, from: Target, to: Target);

    /// The configuration byte of one LPI must be read again before its next use (INV).
    fn invalidate(&mut self, target: Target, lpi: Lpi);

    /// All configuration bytes of a target must be read again before their next use (INVALL).
    fn invalidate_all(&mut self, target: Target);

    /// A command was executed or refused, for traces; see [`Executed`]'s `Display`.
    fn executed(&mut self, _executed: &Executed) {}
}
