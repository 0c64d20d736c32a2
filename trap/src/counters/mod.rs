//! Counting without sharing: every handle counts in blocks of its own, where each region has a
//! number.
//!
//! A region keeps its number wherever it is moved. The number is used again when no snapshot that
//! anybody can still read knows the region, so that a late access is never counted for another.

pub(crate) mod rows;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use trapline_access::{Direction, Space};

use crate::counters::rows::{Low, Rare, Rest, Tables, add, carry, of, read};

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
    /// Accesses of a width or alignment the region does not accept, or forwarded to somebody who
    /// is gone.
    pub refused: u64,
    /// How many of the writes came late, out of the source's queue.
    pub coalesced: u64,
    /// Doorbells the registry rang itself; those the kernel rang are not seen here.
    pub doorbells: u64,
    /// Accesses a channel answered for the registry; those the source forwards are not seen here.
    pub forwarded: u64,
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
            forwarded: self.forwarded + other.forwarded,
        }
    }

    /// Everything that reached the region, in accesses and string elements.
    pub fn total(self) -> u64 {
        self.reads + self.writes + self.string_reads + self.string_writes
    }
}

/// One set of counters, as everybody sees it. Only one [`CounterWriter`] at a time writes to it.
#[derive(Default)]
pub(crate) struct HandleCounters(Mutex<Tables>);

impl HandleCounters {
    /// What was counted for region `number`.
    pub(crate) fn get(&self, number: u32) -> Counts {
        let Tables { low, rest } = &*self.0.lock();
        let (Some(Low(low)), Some(Rest { high, rare })) = (low.row(number), rest.row(number))
        else {
            return Counts::default();
        };
        let [string_reads, string_writes, refused, coalesced, doorbells, forwarded] =
            rare.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        let count = |direction| read(of(low, direction), of(high, direction));
        Counts {
            reads: count(Direction::Read),
            writes: count(Direction::Write),
            string_reads,
            string_writes,
            refused,
            coalesced,
            doorbells,
            forwarded,
        }
    }

    /// Starts region `number` over. Nobody counts for it now.
    pub(crate) fn clear(&self, number: u32) {
        let Tables { low, rest } = &*self.0.lock();
        for cell in low.row(number).into_iter().flat_map(|row| &row.0) {
            cell.store(0, Ordering::Relaxed);
        }
        if let Some(Rest { high, rare }) = rest.row(number) {
            let cells = high.iter().flat_map(|high| [&high.before, &high.after]);
            cells.chain(rare).for_each(|cell| cell.store(0, Ordering::Relaxed));
        }
    }
}

/// One set of counters, as its only writer sees it.
pub(crate) struct CounterWriter {
    set: Arc<HandleCounters>,
    tables: Tables,
}

impl CounterWriter {
    pub(crate) fn new(set: Arc<HandleCounters>) -> Self {
        let tables = set.0.lock().clone();
        Self { set, tables }
    }

    /// Counts one access.
    pub(crate) fn access(&mut self, number: u32, direction: Direction) {
        if self.access_if_easy(number, direction) {
            return;
        }
        if self.tables.rest.row(number).is_none() {
            self.grow(number);
        }
        let Tables { low, rest } = &self.tables;
        if let (Some(low), Some(rest)) = (low.row(number), rest.row(number)) {
            carry(of(&low.0, direction), of(&rest.high, direction));
        }
    }

    /// Counts one access if there is a place for it already, and its lower bits do not come round;
    /// whether it did.
    #[inline]
    pub(crate) fn access_if_easy(&self, number: u32, direction: Direction) -> bool {
        let Some(Low(row)) = self.tables.low.row(number) else { return false };
        let cell = of(row, direction);
        let next = cell.load(Ordering::Relaxed).wrapping_add(1);
        if next != 0 {
            cell.store(next, Ordering::Release);
        }
        next != 0
    }

    /// Counts the elements of a string access.
    pub(crate) fn string(&mut self, number: u32, direction: Direction, elements: u64) {
        let what = match direction {
            Direction::Read => Rare::StringReads,
            Direction::Write => Rare::StringWrites,
        };
        self.rare(number, what, elements);
    }

    /// Counts an access the region did not take, which is also counted as an access.
    pub(crate) fn refused(&mut self, number: u32) {
        self.rare(number, Rare::Refused, 1);
    }

    /// Counts a write that came late, which is also counted as a write.
    pub(crate) fn coalesced(&mut self, number: u32) {
        self.rare(number, Rare::Coalesced, 1);
    }

    /// Counts a doorbell rung, which is also counted as a write.
    pub(crate) fn doorbell(&mut self, number: u32) {
        self.rare(number, Rare::Doorbells, 1);
    }

    /// Counts an access a channel answered, which is also counted as an access.
    pub(crate) fn forwarded(&mut self, number: u32) {
        self.rare(number, Rare::Forwarded, 1);
    }

    fn rare(&mut self, number: u32, what: Rare, n: u64) {
        if self.tables.rest.row(number).is_none() {
            self.grow(number);
        }
        let cell = self.tables.rest.row(number).and_then(|row| row.rare.get(what as usize));
        cell.into_iter().for_each(|cell| add(cell, n));
    }

    /// Makes a place for region `number`.
    #[cold]
    fn grow(&mut self, number: u32) {
        let mut tables = self.set.0.lock();
        *tables = tables.grown(number);
        self.tables.clone_from(&tables);
    }
}

/// Gives regions their numbers in counter sets.
#[derive(Default)]
struct RegionNumbers(Mutex<Free>);

#[derive(Default)]
struct Free {
    first_unused: u32,
    returned: Vec<u32>,
}

/// A region's number; returned when the last that could count for it is gone.
pub(crate) struct RegionNumber {
    number: u32,
    numbers: Arc<RegionNumbers>,
}

/// All counter sets of a registry, and the numbers of its regions in them.
#[derive(Default)]
pub(crate) struct CounterSets {
    numbers: Arc<RegionNumbers>,
    sets: Mutex<Vec<Arc<HandleCounters>>>,
}

impl CounterSets {
    /// A new set to count in.
    pub(crate) fn new_set(&self) -> Arc<HandleCounters> {
        let set = Arc::<HandleCounters>::default();
        self.sets.lock().push(Arc::clone(&set));
        set
    }

    /// A number for a new region, with nothing counted yet.
    pub(crate) fn open(&self) -> RegionNumber {
        let number = self.numbers.take();
        self.sets.lock().iter().for_each(|set| set.clear(number.get()));
        number
    }

    /// What all handles together counted for region `number`.
    pub(crate) fn counts(&self, number: &RegionNumber) -> Counts {
        let sets = self.sets.lock();
        sets.iter().map(|set| set.get(number.get())).fold(Counts::default(), Counts::plus)
    }
}

impl RegionNumbers {
    fn take(self: &Arc<Self>) -> RegionNumber {
        let mut free = self.0.lock();
        let number = free.returned.pop().unwrap_or_else(|| {
            free.first_unused += 1;
            free.first_unused - 1
        });
        RegionNumber { number, numbers: Arc::clone(self) }
    }
}

impl RegionNumber {
    pub(crate) fn get(&self) -> u32 {
        self.number
    }

    /// What a reader's mark says while it is inside the region.
    pub(crate) fn mark(&self) -> u64 {
        mark(self.number)
    }
}

/// The mark of region `number`; never zero, which means nobody.
#[inline]
pub(crate) fn mark(number: u32) -> u64 {
    u64::from(number) + 1
}

impl Drop for RegionNumber {
    fn drop(&mut self) {
        self.numbers.0.lock().returned.push(self.number);
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_when_nobody_has_it_and_starts_over() {
        let sets = CounterSets::default();
        let mut writer = CounterWriter::new(sets.new_set());
        let (first, second) = (sets.open(), sets.open());
        assert_eq!([first.get(), second.get()], [0, 1]);
        writer.access(first.get(), Direction::Write);
        writer.refused(first.get());
        assert_eq!(sets.counts(&first), Counts { writes: 1, refused: 1, ..Counts::default() });
        drop(first);
        let again = sets.open();
        assert_eq!(again.get(), 0);
        assert_eq!(sets.counts(&again), Counts::default());
        assert_eq!(sets.open().get(), 2);
    }
}
