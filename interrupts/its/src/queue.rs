//! The command queue: one ring, one owner.
//!
//! # Why two vCPUs can not both process it
//!
//! The ring's registers are private to this module. Taking a command out needs a `Drain`, a
//! `Drain` holds the only `&mut` of its `Queue`, the queue is a field of the ITS, and the ITS
//! hands out nothing but `&mut self` methods for it. So whoever executes a command has the whole
//! ITS to itself: the compiler refuses any other program. A VMM shares an ITS between vCPUs behind
//! a mutex, and that mutex is the "command queue lock": `CBASER`, `CREADR`, `CWRITER` and
//! `CTLR.Enabled` are read and written inside it and nowhere else, the test of Enabled included.
//!
//! # Why no wake-up is lost
//!
//! There is no "somebody else is processing" state, which a second writer could read wrongly.
//! Whether work is left is computed from the registers (`CREADR != CWRITER`, enabled, valid, not
//! stalled) each time, under the same `&mut`. A vCPU that writes `CWRITER` while another one
//! drains waits for the mutex for at most one slice of `budget` commands, then sets its value and
//! drains what is left, whoever queued it. A slice that ends early returns
//! [`Progress::More`](crate::Progress) to its caller, and every read of `CREADR` or `CTLR` runs
//! another slice, so a driver that polls needs no help from any thread.
//!
//! `CREADR` moves past a command after its effects, inside the same `&mut`. Hence a driver that
//! sees `CREADR` pass a SYNC sees everything before it done, and SYNC itself has nothing to do.

use crate::command::{COMMAND_BYTES, words};
use crate::host::{GuestMemory, MemoryError};
use crate::regs::{Cbaser, QUEUE_OFFSET};

/// The ring's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    base: Cbaser,
    read: u32,
    write: u32,
    stalled: bool,
}

impl Queue {
    /// The ring of saved registers; `None` if an offset is not one of the ring.
    pub(crate) fn restore(base: Cbaser, read: u32, write: u32, stalled: bool) -> Option<Self> {
        let queue = Self { base, read, write, stalled };
        (queue.holds(read) && queue.holds(write)).then_some(queue)
    }

    fn holds(&self, offset: u32) -> bool {
        offset.is_multiple_of(COMMAND_BYTES) && offset < self.bytes()
    }

    fn bytes(&self) -> u32 {
        (u32::from(self.base.size()) + 1) * 0x1000
    }

    /// `CBASER`.
    pub(crate) const fn base(&self) -> Cbaser {
        self.base
    }

    /// Offset of the next command to execute.
    pub(crate) const fn read(&self) -> u32 {
        self.read
    }

    /// Offset past the last command.
    pub(crate) const fn write(&self) -> u32 {
        self.write
    }

    /// Whether the command at `read` stopped the queue.
    pub(crate) const fn stalled(&self) -> bool {
        self.stalled
    }

    /// Gives the ring other memory; it is empty then. (`CREADR` becomes 0 by the architecture;
    /// `CWRITER` would be UNKNOWN, and anything but 0 would execute stale slots.)
    pub(crate) fn set_base(&mut self, base: Cbaser) {
        *self = Self { base, ..Self::default() };
    }

    /// Announces commands up to `cwriter`; false if that is not an offset in the ring.
    pub(crate) fn announce(&mut self, cwriter: u64) -> bool {
        match u32::try_from(cwriter & QUEUE_OFFSET) {
            Ok(offset) if self.holds(offset) => {
                self.write = offset;
                true
            }
            _ => false,
        }
    }

    /// The stalled command may be tried again.
    pub(crate) fn retry(&mut self) {
        self.stalled = false;
    }

    /// Whether a command can be taken out now.
    pub(crate) fn has_work(&self) -> bool {
        self.base.valid() && !self.stalled && self.read != self.write
    }

    /// The right to take commands out.
    pub(crate) fn drain(&mut self) -> Drain<'_> {
        Drain { queue: self }
    }
}

/// The only way to take commands out of a [`Queue`], and by its `&mut` the only one there is.
pub(crate) struct Drain<'a> {
    queue: &'a mut Queue,
}

impl Drain<'_> {
    /// The command at `CREADR`: its offset, and its numbers if they could be read. `None` when
    /// there is nothing to do. The queue has not moved yet.
    pub(crate) fn front(
        &self,
        mem: &impl GuestMemory,
    ) -> Option<(u32, Result<[u64; 4], MemoryError>)> {
        if !self.queue.has_work() {
            return None;
        }
        let mut bytes = [0; COMMAND_BYTES as usize];
        let address = (self.queue.base.page() << 12) + u64::from(self.queue.read);
        let command = mem.read(address, &mut bytes).map(|()| words(&bytes));
        Some((self.queue.read, command))
    }

    /// The command at `CREADR` is done with.
    pub(crate) fn pop(self) {
        let next = self.queue.read + COMMAND_BYTES;
        self.queue.read = if next == self.queue.bytes() { 0 } else { next };
    }

    /// The queue stops at the command at `CREADR`.
    pub(crate) fn stall(self) {
        self.queue.stalled = true;
    }
}
