//! Tables of a handle's counters, with a row for each region by its number. Only the handle writes to
//! them and anybody may read, so that it counts with a load and a store, where a shared counter would
//! need a locked add.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use trapline_access::Direction;

use crate::sync::relax;

/// A row for each region. Clones are the same rows.
#[derive(Default)]
pub(crate) struct Table<R>(Arc<[R]>);

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Unused bytes before the first region's row, so that no two handles write to one cache line, nor
/// to two that the processor fetches together.
const MARGIN: usize = 128;

impl<R: Row> Table<R> {
    const MARGIN: usize = MARGIN.div_ceil(size_of::<R>());

    /// What is counted of region `number`, if there is a place for it.
    #[inline]
    pub(crate) fn row(&self, number: u32) -> Option<&R> {
        self.0.get(usize::try_from(number).unwrap_or(usize::MAX).saturating_add(Self::MARGIN))
    }

    /// The same counts, with room for as many regions again as `number` needs.
    fn grown(&self, number: u32) -> Self {
        let regions = usize::try_from(number).unwrap_or(usize::MAX).saturating_add(1);
        let kept = self.0.iter().map(R::copy);
        Self(
            kept.chain(std::iter::repeat_with(R::default))
                .take(Self::MARGIN + regions * 2)
                .collect(),
        )
    }
}

/// A region's part of a [`Table`].
pub(crate) trait Row: Default {
    fn copy(&self) -> Self;
}

/// The lower bits of reads and writes, which every access counts: so few that what is counted of
/// thousands of regions stays in the cache next to the processor.
#[derive(Default)]
pub(crate) struct Low(pub(crate) [AtomicU16; 2]);

impl Row for Low {
    fn copy(&self) -> Self {
        Self(self.0.each_ref().map(|cell| AtomicU16::new(cell.load(Ordering::Relaxed))))
    }
}

/// The upper bits of a count, twice: the writer changes `before`, then the lower bits, then `after`
/// (a sequence lock). A reader that finds both equal has read lower bits that belong to them.
#[derive(Default)]
pub(crate) struct High {
    pub(crate) before: AtomicU64,
    pub(crate) after: AtomicU64,
}

impl High {
    fn copy(&self) -> Self {
        Self { before: copy(&self.before), after: copy(&self.after) }
    }
}

/// What few accesses count, and what reads and writes have beyond their lower bits.
#[derive(Default)]
pub(crate) struct Rest {
    pub(crate) high: [High; 2],
    pub(crate) rare: [AtomicU64; 6],
}

impl Row for Rest {
    fn copy(&self) -> Self {
        Self { high: self.high.each_ref().map(High::copy), rare: self.rare.each_ref().map(copy) }
    }
}

fn copy(cell: &AtomicU64) -> AtomicU64 {
    AtomicU64::new(cell.load(Ordering::Relaxed))
}

pub(crate) fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Adds one to a count. It writes `before`, the lower bits and `after` in this order, and [`read`]
/// reads them in the reverse order.
pub(crate) fn carry(low: &AtomicU16, high: &High) {
    let (next, round) = low.load(Ordering::Relaxed).overflowing_add(1);
    let rounds = high.before.load(Ordering::Relaxed) + u64::from(round);
    high.before.store(rounds, Ordering::Release);
    low.store(next, Ordering::Release);
    high.after.store(rounds, Ordering::Release);
}

/// A count, whatever its writer does meanwhile.
pub(crate) fn read(low: &AtomicU16, high: &High) -> u64 {
    let mut spins = 0;
    loop {
        let after = high.after.load(Ordering::Acquire);
        let count = low.load(Ordering::Acquire);
        if high.before.load(Ordering::Acquire) == after {
            return (after << u16::BITS) + u64::from(count);
        }
        relax(&mut spins);
    }
}

/// One handle's counters.
#[derive(Clone, Default)]
pub(crate) struct Tables {
    pub(crate) low: Table<Low>,
    pub(crate) rest: Table<Rest>,
}

impl Tables {
    pub(crate) fn grown(&self, number: u32) -> Self {
        Self { low: self.low.grown(number), rest: self.rest.grown(number) }
    }
}

/// That of a pair which is about reads, or that which is about writes.
#[inline]
pub(crate) fn of<T>([reads, writes]: &[T; 2], direction: Direction) -> &T {
    match direction {
        Direction::Read => reads,
        Direction::Write => writes,
    }
}

/// Places in a row of [`Rest::rare`].
#[derive(Clone, Copy)]
pub(crate) enum Rare {
    StringReads,
    StringWrites,
    Refused,
    Coalesced,
    Doorbells,
    Forwarded,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The number of times the lower bits of a count come round in a test.
    const ROUNDS: u64 = 3;

    #[test]
    fn a_count_goes_on_when_its_lower_bits_come_round() {
        let (low, high) = (AtomicU16::new(0), High::default());
        for n in 0..ROUNDS << u16::BITS {
            assert_eq!(read(&low, &high), n);
            carry(&low, &high);
        }
        assert_eq!(low.load(Ordering::Relaxed), 0);
        assert_eq!(read(&low, &high), ROUNDS << u16::BITS);
    }

    #[test]
    fn who_reads_while_it_comes_round_never_sees_it_go_back_or_run_ahead() {
        let (low, high) = (AtomicU16::new(u16::MAX - 2), High::default());
        let start = read(&low, &high);
        let end = start + (ROUNDS << u16::BITS);
        std::thread::scope(|scope| {
            scope.spawn(|| (start..end).for_each(|_| carry(&low, &high)));
            let mut last = start;
            while last < end {
                let now = read(&low, &high);
                assert!(last <= now && now <= end, "{last}, then {now} of {end}");
                last = now;
            }
        });
        assert_eq!(read(&low, &high), end);
    }
}
