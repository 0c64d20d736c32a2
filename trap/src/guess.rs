//! From an address to a slot without searching: a hash of pages for MMIO, a table for ports.
//!
//! Both may only guess. Whoever uses a slot from here compares the address with the region's own
//! range, so a guess can be missing (then the sorted [`crate::spans::Spans`] are searched) but
//! never wrong.

use std::sync::Arc;

use crate::spans::{Slot, Span};

/// No slot.
pub(crate) const NONE: Slot = Slot::MAX;

/// Slots per bucket beyond the first.
const FURTHER: usize = 3;
/// Regions of more pages are found by search.
const PAGES_MAX: u64 = 16;
const PAGE_SHIFT: u32 = 12;

/// A hash from guest page to the regions on it. Buckets do not chain: what finds no way in its
/// bucket is found by search.
#[derive(Clone)]
pub(crate) struct PageHash {
    /// The first slot of each bucket, apart from the others: it is the one most accesses need.
    first: Box<[Slot]>,
    further: Box<[[Slot; FURTHER]]>,
    /// 64 - log2(buckets).
    shift: u32,
    pages: usize,
}

impl Default for PageHash {
    fn default() -> Self {
        Self::with_bits(6)
    }
}

impl PageHash {
    fn with_bits(bits: u32) -> Self {
        let first = vec![NONE; 1 << bits].into_boxed_slice();
        let further = vec![[NONE; FURTHER]; 1 << bits].into_boxed_slice();
        Self { first, further, shift: 64 - bits, pages: 0 }
    }

    /// The slot that most likely holds `addr`, or [`NONE`].
    #[inline]
    pub(crate) fn guess(&self, addr: u64) -> Slot {
        self.first.get(self.bucket(addr >> PAGE_SHIFT)).copied().unwrap_or(NONE)
    }

    /// The other slots that may hold `addr`, some of them [`NONE`].
    pub(crate) fn further(&self, addr: u64) -> [Slot; FURTHER] {
        self.further.get(self.bucket(addr >> PAGE_SHIFT)).copied().unwrap_or([NONE; FURTHER])
    }

    /// All ways of a page's bucket.
    fn ways(&mut self, page: u64) -> impl Iterator<Item = &mut Slot> {
        let at = self.bucket(page);
        let further = self.further.get_mut(at).into_iter().flatten();
        self.first.get_mut(at).into_iter().chain(further)
    }

    pub(crate) fn insert(&mut self, span: Span, all: impl Iterator<Item = Span>) {
        if (self.pages + 1) * 2 > self.first.len() {
            // Rebuilt from the sorted spans, which have the new one already.
            *self = Self::with_bits(64 - self.shift + 1);
            all.for_each(|span| self.add(span));
        } else {
            self.add(span);
        }
    }

    fn add(&mut self, span: Span) {
        for page in pages(span) {
            self.pages += 1;
            if let Some(way) = self.ways(page).find(|way| **way == NONE) {
                *way = span.slot;
            }
        }
    }

    pub(crate) fn remove(&mut self, span: Span) {
        for page in pages(span) {
            self.pages -= 1;
            if let Some(way) = self.ways(page).find(|way| **way == span.slot) {
                *way = NONE;
            }
        }
    }

    /// Fibonacci hashing: consecutive pages and power-of-two strides both spread.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "shifted down to an index")]
    fn bucket(&self, page: u64) -> usize {
        (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

fn pages(span: Span) -> impl Iterator<Item = u64> {
    let (first, last) = (span.base >> PAGE_SHIFT, span.last >> PAGE_SHIFT);
    let hashed = last - first < PAGES_MAX;
    (first..=last).take_while(move |_| hashed)
}

const PORTS_PER_LEAF: usize = 1024;
const LEAVES: usize = 64;

/// A slot for each of the 65,536 ports, in leaves that snapshots share.
#[derive(Clone)]
pub(crate) struct PortTable {
    leaves: [Arc<[Slot; PORTS_PER_LEAF]>; LEAVES],
}

impl Default for PortTable {
    fn default() -> Self {
        let empty = Arc::new([NONE; PORTS_PER_LEAF]);
        Self { leaves: std::array::from_fn(|_| Arc::clone(&empty)) }
    }
}

impl PortTable {
    /// The slot of `port`, or [`NONE`].
    #[inline]
    pub(crate) fn guess(&self, port: u64) -> Slot {
        let (leaf, at) = split(port);
        self.leaves.get(leaf).and_then(|leaf| leaf.get(at)).copied().unwrap_or(NONE)
    }

    pub(crate) fn set(&mut self, span: Span, slot: Slot) {
        let mut port = span.base;
        while port <= span.last {
            let (leaf, at) = split(port);
            let Some(shared) = self.leaves.get_mut(leaf) else { return };
            let here = (PORTS_PER_LEAF - at) as u64;
            let count = here.min(span.last - port + 1);
            let leaf = Arc::make_mut(shared);
            leaf.iter_mut().skip(at).zip(0..count).for_each(|(to, _)| *to = slot);
            port += count;
        }
    }
}

#[inline]
fn split(port: u64) -> (usize, usize) {
    let port = usize::try_from(port).unwrap_or(usize::MAX);
    (port / PORTS_PER_LEAF, port % PORTS_PER_LEAF)
}
