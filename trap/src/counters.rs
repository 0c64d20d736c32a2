//! Counting without sharing: every handle counts in blocks of its own, where each region has a
//! number.
//!
//! A region keeps its number wherever it is moved. The number is used again when no snapshot that
//! anybody can still read knows the region, so that a late access is never counted for another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
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

/// Regions per block.
const BLOCK: usize = 256;

/// One handle's counters of [`BLOCK`] regions: written by that handle only, read by anybody, so a
/// load and a store do where a shared counter would need a locked add. Aligned so that no two
/// handles write to one cache line, nor to two that the processor fetches together.
#[repr(align(128))]
struct Block {
    /// What most accesses count: four regions to a cache line.
    hot: [Hot; BLOCK],
    rare: [Rare; BLOCK],
}

#[derive(Default)]
struct Hot {
    reads: AtomicU64,
    writes: AtomicU64,
}

#[derive(Default)]
struct Rare {
    string_reads: AtomicU64,
    string_writes: AtomicU64,
    refused: AtomicU64,
    coalesced: AtomicU64,
    doorbells: AtomicU64,
}

impl Default for Block {
    fn default() -> Self {
        Self {
            hot: std::array::from_fn(|_| Hot::default()),
            rare: std::array::from_fn(|_| Rare::default()),
        }
    }
}

type Blocks = Vec<Arc<Block>>;

/// The block of a region, and its place there.
#[inline]
fn split(number: u32) -> (usize, usize) {
    let [at, rest @ ..] = number.to_le_bytes();
    let [a, b, c] = rest;
    (usize::try_from(u32::from_le_bytes([a, b, c, 0])).unwrap_or(usize::MAX), at.into())
}

fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// One set of counters, as everybody sees it. Only one [`Tally`] at a time writes to it.
#[derive(Default)]
pub(crate) struct CounterSet(Mutex<Blocks>);

impl CounterSet {
    /// What was counted for region `number`.
    pub(crate) fn get(&self, number: u32) -> Counts {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let counts = self.with(number, |hot, rare| Counts {
            reads: load(&hot.reads),
            writes: load(&hot.writes),
            string_reads: load(&rare.string_reads),
            string_writes: load(&rare.string_writes),
            refused: load(&rare.refused),
            coalesced: load(&rare.coalesced),
            doorbells: load(&rare.doorbells),
        });
        counts.unwrap_or_default()
    }

    /// Starts region `number` over. Nobody counts for it now.
    pub(crate) fn clear(&self, number: u32) {
        self.with(number, |Hot { reads, writes }, rare| {
            let Rare { string_reads, string_writes, refused, coalesced, doorbells } = rare;
            [reads, writes, string_reads, string_writes, refused, coalesced, doorbells]
                .into_iter()
                .for_each(|cell| cell.store(0, Ordering::Relaxed));
        });
    }

    fn with<R>(&self, number: u32, f: impl FnOnce(&Hot, &Rare) -> R) -> Option<R> {
        let blocks = self.0.lock();
        let (block, at) = split(number);
        let block = blocks.get(block)?;
        Some(f(block.hot.get(at)?, block.rare.get(at)?))
    }
}

/// One set of counters, as its only writer sees it.
pub(crate) struct Tally {
    set: Arc<CounterSet>,
    blocks: Blocks,
}

impl Tally {
    pub(crate) fn new(set: Arc<CounterSet>) -> Self {
        let blocks = set.0.lock().clone();
        Self { set, blocks }
    }

    /// Counts one access.
    pub(crate) fn access(&mut self, number: u32, direction: Direction) {
        if !self.access_if_known(number, direction) {
            self.grow(split(number).0);
            self.access_if_known(number, direction);
        }
    }

    /// Counts one access if there is a place for it already; whether there is.
    #[inline]
    pub(crate) fn access_if_known(&self, number: u32, direction: Direction) -> bool {
        let (block, at) = split(number);
        let hot = self.blocks.get(block).and_then(|block| block.hot.get(at));
        match (hot, direction) {
            (None, _) => return false,
            (Some(hot), Direction::Read) => add(&hot.reads, 1),
            (Some(hot), Direction::Write) => add(&hot.writes, 1),
        }
        true
    }

    /// Counts the elements of a string access.
    pub(crate) fn string(&mut self, number: u32, direction: Direction, elements: u64) {
        self.rare(number, elements, |rare| match direction {
            Direction::Read => &rare.string_reads,
            Direction::Write => &rare.string_writes,
        });
    }

    /// Counts an access the region did not take, which is also counted as an access.
    pub(crate) fn refused(&mut self, number: u32) {
        self.rare(number, 1, |rare| &rare.refused);
    }

    /// Counts a write that came late, which is also counted as a write.
    pub(crate) fn coalesced(&mut self, number: u32) {
        self.rare(number, 1, |rare| &rare.coalesced);
    }

    /// Counts a doorbell rung, which is also counted as a write.
    pub(crate) fn doorbell(&mut self, number: u32) {
        self.rare(number, 1, |rare| &rare.doorbells);
    }

    fn rare(&mut self, number: u32, n: u64, cell: impl FnOnce(&Rare) -> &AtomicU64) {
        let (block, at) = split(number);
        self.grow(block);
        if let Some(rare) = self.blocks.get(block).and_then(|block| block.rare.get(at)) {
            add(cell(rare), n);
        }
    }

    /// Sees to it that there is a block number `block`.
    #[cold]
    fn grow(&mut self, block: usize) {
        if self.blocks.len() <= block {
            let mut blocks = self.set.0.lock();
            blocks.resize_with(block + 1, Arc::default);
            self.blocks.clone_from(&blocks);
        }
    }
}

/// Gives regions their numbers in counter sets.
#[derive(Default)]
struct Numbers(Mutex<Free>);

#[derive(Default)]
struct Free {
    first_unused: u32,
    returned: Vec<u32>,
}

/// A region's number; returned when the last that could count for it is gone.
pub(crate) struct Number {
    number: u32,
    numbers: Arc<Numbers>,
}

/// All counter sets of a registry, and the numbers of its regions in them.
#[derive(Default)]
pub(crate) struct Books {
    numbers: Arc<Numbers>,
    sets: Mutex<Vec<Arc<CounterSet>>>,
}

impl Books {
    /// A new set to count in.
    pub(crate) fn new_set(&self) -> Arc<CounterSet> {
        let set = Arc::<CounterSet>::default();
        self.sets.lock().push(Arc::clone(&set));
        set
    }

    /// A number for a new region, with nothing counted yet.
    pub(crate) fn open(&self) -> Number {
        let number = self.numbers.take();
        self.sets.lock().iter().for_each(|set| set.clear(number.get()));
        number
    }

    /// What all handles together counted for region `number`.
    pub(crate) fn counts(&self, number: &Number) -> Counts {
        let sets = self.sets.lock();
        sets.iter().map(|set| set.get(number.get())).fold(Counts::default(), Counts::plus)
    }
}

impl Numbers {
    fn take(self: &Arc<Self>) -> Number {
        let mut free = self.0.lock();
        let number = free.returned.pop().unwrap_or_else(|| {
            free.first_unused += 1;
            free.first_unused - 1
        });
        Number { number, numbers: Arc::clone(self) }
    }
}

impl Number {
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

impl Drop for Number {
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
