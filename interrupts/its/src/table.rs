//! Finding an entry of a flat or two-level table in guest RAM.
//!
//! Spec: Arm IHI 0069, `GITS_BASER<n>` and "The ITS tables". Only the first level of a two-level
//! table has an architectural layout. The driver writes it and may change it at any time, so it
//! is read anew for every lookup.

use crate::host::GuestMemory;
use crate::regs::Baser;

/// Why a table has no entry for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableError {
    /// The table is not valid, too short for the number, or the number has too many bits.
    OutOfRange,
    /// The first level has no page for it.
    NoPage,
    /// The first level is not in RAM.
    Memory,
}

/// A table: where `GITS_BASER<n>` says it is, and how many numbers its kind can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    baser: Baser,
    bits: u32,
}

impl Table {
    /// The table of `baser`, for numbers of `bits` bits.
    pub(crate) const fn new(baser: Baser, bits: u32) -> Self {
        Self { baser, bits }
    }

    fn page_bytes(self) -> u64 {
        match self.baser.page_size() {
            0 => 0x1000,
            1 => 0x4000,
            _ => 0x1_0000,
        }
    }

    fn base(self) -> u64 {
        let address = self.baser.page() << 12;
        if self.page_bytes() == 0x1_0000 {
            (address & 0xffff_ffff_0000) | ((address & 0xf000) << 36)
        } else {
            address & !(self.page_bytes() - 1)
        }
    }

    fn entry_bytes(self) -> u64 {
        u64::from(self.baser.entry_size()) + 1
    }

    fn bytes(self) -> u64 {
        (u64::from(self.baser.size()) + 1) * self.page_bytes()
    }

    /// How many numbers the table can hold an entry for, present or not.
    pub(crate) fn len(self) -> u64 {
        if !self.baser.valid() {
            return 0;
        }
        let entries = if self.baser.indirect() {
            self.bytes() / 8 * (self.page_bytes() / self.entry_bytes())
        } else {
            self.bytes() / self.entry_bytes()
        };
        entries.min(1 << self.bits)
    }

    /// Address of the entry of number `id`.
    pub(crate) fn entry(self, mem: &impl GuestMemory, id: u32) -> Result<u64, TableError> {
        let id = u64::from(id);
        if id >= self.len() {
            return Err(TableError::OutOfRange);
        }
        if !self.baser.indirect() {
            return Ok(self.base() + id * self.entry_bytes());
        }
        let per_page = self.page_bytes() / self.entry_bytes();
        let level1 =
            mem.read_u64(self.base() + id / per_page * 8).map_err(|_| TableError::Memory)?;
        if level1 >> 63 == 0 {
            return Err(TableError::NoPage);
        }
        let page = level1 & 0x000f_ffff_ffff_ffff & !(self.page_bytes() - 1);
        Ok(page + id % per_page * self.entry_bytes())
    }

    /// The first number after `id` that can have an entry when `id` has none for want of a page.
    pub(crate) fn next_page(self, id: u32) -> u64 {
        let per_page = self.page_bytes() / self.entry_bytes();
        (u64::from(id) / per_page + 1) * per_page
    }
}
