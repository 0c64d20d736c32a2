//! The guest RAM beside a Multiboot kernel: where its modules and its boot information can be put.

use std::ops::Range;

use crate::e820::{E820Entry, E820Kind, ram_bytes};

/// High memory; modules go there, as many kernels take what is below for themselves.
const HIGH: u64 = 1 << 20;
/// A page at address 0, where a processor in real mode has its vectors and the BIOS its data, stays
/// free of what a kernel is told.
const LOW: u64 = 0x1000;

/// RAM below 4 GiB, and what of it is taken.
pub(super) struct Room<'a> {
    e820: &'a [E820Entry],
    kernel: Range<u64>,
    /// Everything from 1 MiB to here is taken.
    next: u64,
}

impl<'a> Room<'a> {
    /// End (exclusive) of what a Multiboot kernel can be told of: pointers have 32 bits.
    pub(super) const TOP: u64 = 1 << 32;

    /// All of `e820` except for the kernel.
    pub(super) fn new(e820: &'a [E820Entry], kernel: Range<u64>) -> Self {
        let next = kernel.end.max(HIGH);
        Self { e820, kernel, next }
    }

    /// Takes the lowest place above the kernel and 1 MiB.
    pub(super) fn lowest(&mut self, len: u64, align: u64) -> Option<Range<u64>> {
        let place = self.ram().find_map(|entry| {
            let start = entry.addr.max(self.next).checked_next_multiple_of(align)?;
            let end = start.checked_add(len)?;
            (end <= entry.end().min(Self::TOP)).then_some(start..end)
        })?;
        self.next = place.end;
        Some(place)
    }

    /// Takes the highest place in conventional memory that the kernel leaves; if there is none,
    /// the lowest one above.
    pub(super) fn conventional(&mut self, len: u64, align: u64) -> Option<Range<u64>> {
        let kernel = &self.kernel;
        let below = self.ram().filter(|entry| entry.addr < HIGH).filter_map(|entry| {
            let end = entry.end().min(HIGH);
            let end = if kernel.start < end && end <= kernel.end { kernel.start } else { end };
            let start = end.checked_sub(len)? / align * align;
            let place = start..start + len;
            let free = place.end <= kernel.start || kernel.end <= place.start;
            (free && start >= entry.addr.max(LOW)).then_some(place)
        });
        let place = below.last();
        place.or_else(|| self.lowest(len, align))
    }

    /// Whether RAM above [`Self::TOP`] has `len` bytes.
    pub(super) fn has_above(&self, len: u64) -> bool {
        self.ram().any(|entry| entry.addr >= Self::TOP && entry.len >= len)
    }

    /// All RAM in bytes.
    pub(super) fn ram_bytes(&self) -> u64 {
        ram_bytes(self.e820)
    }

    fn ram(&self) -> impl Iterator<Item = &E820Entry> {
        self.e820.iter().filter(|entry| entry.kind == E820Kind::Ram)
    }
}
