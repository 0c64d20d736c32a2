//! Counting without sharing: every handle has its own counters in every region.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use trapline_device::{Direction, Space};

/// What happened to a region. All counts are of guest accesses, not of the pieces they were cut
/// into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads, not counting string elements.
    pub reads: u64,
    /// Writes, not counting string elements.
    pub writes: u64,
    /// Elements of `rep ins`.
    pub string_reads: u64,
    /// Elements of `rep outs`.
    pub string_writes: u64,
    /// Accesses of a width or alignment the region does not accept.
    pub refused: u64,
    /// How many of the writes came late, out of the source's queue.
    pub coalesced: u64,
    /// Doorbells the registry rang itself; those the kernel rang are not seen here.
    pub doorbells: u64,
}

impl Counts {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            string_reads: self.string_reads + other.string_reads,
            string_writes: self.string_writes + other.string_writes,
            refused: self.refused + other.refused,
            coalesced: self.coalesced + other.coalesced,
            doorbells: self.doorbells + other.doorbells,
        }
    }

    /// Everything that reached the region, in accesses and string elements.
    pub fn total(self) -> u64 {
        self.reads + self.writes + self.string_reads + self.string_writes
    }
}

/// One handle's counters in one region: written by that handle only, read by anybody, so a load
/// and a store do where a shared counter would need a locked add.
#[derive(Default)]
pub(crate) struct Counters(CachePadded<Cells>);

#[derive(Default)]
struct Cells {
    reads: AtomicU64,
    writes: AtomicU64,
    string_reads: AtomicU64,
    string_writes: AtomicU64,
    refused: AtomicU64,
    coalesced: AtomicU64,
    doorbells: AtomicU64,
}

fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn read(&self) {
        add(&self.0.reads, 1);
    }

    pub(crate) fn write(&self) {
        add(&self.0.writes, 1);
    }

    pub(crate) fn access(&self, direction: Direction) {
        match direction {
            Direction::Read => self.read(),
            Direction::Write => self.write(),
        }
    }

    pub(crate) fn string(&self, direction: Direction, elements: u64) {
        match direction {
            Direction::Read => add(&self.0.string_reads, elements),
            Direction::Write => add(&self.0.string_writes, elements),
        }
    }

    pub(crate) fn refused(&self) {
        add(&self.0.refused, 1);
    }

    pub(crate) fn coalesced(&self) {
        add(&self.0.coalesced, 1);
    }

    pub(crate) fn doorbell(&self) {
        add(&self.0.doorbells, 1);
    }

    pub(crate) fn get(&self) -> Counts {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Counts {
            reads: load(&self.0.reads),
            writes: load(&self.0.writes),
            string_reads: load(&self.0.string_reads),
            string_writes: load(&self.0.string_writes),
            refused: load(&self.0.refused),
            coalesced: load(&self.0.coalesced),
            doorbells: load(&self.0.doorbells),
        }
    }
}

/// An access nobody claimed, as unclaimed accesses are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unclaimed {
    /// The space.
    pub space: Space,
    /// The first unclaimed address.
    pub addr: u64,
    /// How many bytes nobody claimed.
    pub len: u64,
    /// The direction.
    pub direction: Direction,
}

/// How many different unclaimed accesses one handle tells apart. A guest that walks the address
/// space must not make us remember all of it.
const UNCLAIMED_MAX: usize = 1024;

/// One handle's unclaimed accesses.
#[derive(Default)]
pub(crate) struct UnclaimedCounts {
    pub(crate) seen: HashMap<Unclaimed, u64>,
    /// Accesses beyond [`UNCLAIMED_MAX`] different ones.
    pub(crate) others: u64,
}

impl UnclaimedCounts {
    pub(crate) fn add(&mut self, key: Unclaimed, n: u64) {
        if let Some(count) = self.seen.get_mut(&key) {
            *count += n;
        } else if self.seen.len() < UNCLAIMED_MAX {
            self.seen.insert(key, n);
        } else {
            self.others += n;
        }
    }
}
