//! An immutable picture of all regions as of one edit. A copy shares all but what it changes.

use std::sync::Arc;

use trapline_access::Space;

use crate::lookup::fast_entry::{FastEntry, FastRef};
use crate::lookup::page_hash::PageHash;
use crate::lookup::spans::{Slot, Span, Spans};
use crate::region::{Entry, Placement};
use crate::watch::Watchers;

/// Entries per chunk: an edit copies one chunk and one pointer per other chunk.
const CHUNK: usize = 32;

/// The most regions a registry can hold.
pub(crate) const REGIONS_MAX: usize = 1 << Slot::BITS;

type Chunk = [Option<Arc<Entry>>; CHUNK];

/// The regions of both spaces as of one edit, and who watches unclaimed accesses.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    /// Hashed by pages of 4 KiB.
    mmio: Regions<12>,
    /// Hashed by runs of 8 ports: what most ISA devices have, and have to themselves.
    pio: Regions<3>,
    /// All regions of both, each in the slot its number names.
    chunks: Vec<Arc<Chunk>>,
    /// Who hears of accesses that no region answers.
    pub(crate) unclaimed_watchers: Watchers,
}

/// The regions of one space by address: a hash that has most of them, and a sorted list of all.
#[derive(Clone, Default)]
struct Regions<const SHIFT: u32> {
    hash: PageHash<SHIFT>,
    spans: Spans,
}

impl Snapshot {
    /// The region that the hash has first for `addr`. The caller compares `addr` with its range.
    #[inline(always)]
    pub(crate) fn first(&self, space: Space, addr: u64) -> Option<&FastRef<'_>> {
        match space {
            Space::Mmio => self.mmio.hash.first(addr),
            Space::Pio => self.pio.hash.first(addr),
        }
    }

    /// The region that contains `addr`.
    pub(crate) fn find(&self, space: Space, addr: u64) -> Option<&Entry> {
        let likely = self.first(space, addr).and_then(|quick| quick.slot_if_at(addr));
        self.entry(likely.or_else(|| self.find_further(space, addr))?)
    }

    /// The lookup where the first entry of the hash is another region's: several regions have pages
    /// in one bucket, the region is too large for the hash, or nobody claims the address.
    fn find_further(&self, space: Space, addr: u64) -> Option<Slot> {
        let (lent, others) = match space {
            Space::Mmio => self.mmio.hash.collisions(addr),
            Space::Pio => self.pio.hash.collisions(addr),
        };
        let claims = |slot: &Slot| self.entry(*slot).is_some_and(|entry| entry.contains(addr));
        let hashed = lent.and_then(|quick| quick.slot_if_at(addr));
        let hashed = hashed.or_else(|| others.into_iter().find(claims));
        hashed.or_else(|| self.spans(space).find(addr).map(|span| span.slot))
    }

    /// The first address at or after `addr` that some region answers.
    pub(crate) fn next_claimed(&self, space: Space, addr: u64) -> Option<u64> {
        self.spans(space).at_or_after(addr).map(|span| span.base.max(addr))
    }

    /// Adds a region; says which one is in the way, or `None` when there are too many.
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<(), Option<Entry>> {
        let slot = Slot::try_from(entry.number()).map_err(|_| None)?;
        let span = Span { base: entry.base, last: entry.last, slot };
        let space = entry.shared.space;
        let placed = match space {
            Space::Mmio => self.mmio.spans.insert(span),
            Space::Pio => self.pio.spans.insert(span),
        };
        placed.map_err(|other| self.entry(other.slot).cloned())?;
        let answer = FastEntry::new(&entry);
        self.set(slot, Some(entry));
        let Self { mmio, pio, chunks, .. } = self;
        match space {
            Space::Mmio => mmio.hash(span, &answer, chunks),
            Space::Pio => pio.hash(span, &answer, chunks),
        }
        Ok(())
    }

    /// Takes the region at `base` out.
    pub(crate) fn remove(&mut self, space: Space, base: u64) {
        let span = self.spans(space).find(base).filter(|span| span.base == base);
        let Some(span) = span else { return };
        self.set(span.slot, None);
        let Self { mmio, pio, chunks, .. } = self;
        match space {
            Space::Mmio => mmio.remove(span, chunks),
            Space::Pio => pio.remove(span, chunks),
        }
    }

    /// Replaces the windows and observers of the region at `base`.
    pub(crate) fn place(&mut self, space: Space, base: u64, placement: Placement) {
        let Some(span) = self.spans(space).find(base) else { return };
        let Some(entry) = self.entry(span.slot).map(|entry| entry.with(placement)) else { return };
        let answer = FastEntry::new(&entry);
        match space {
            Space::Mmio => self.mmio.hash.replace(span, &answer),
            Space::Pio => self.pio.hash.replace(span, &answer),
        }
        self.set(span.slot, Some(entry));
    }

    fn spans(&self, space: Space) -> &Spans {
        match space {
            Space::Mmio => &self.mmio.spans,
            Space::Pio => &self.pio.spans,
        }
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        entry(&self.chunks, slot)
    }

    fn set(&mut self, slot: Slot, entry: Option<Entry>) {
        let (chunk, at) = (usize::from(slot) / CHUNK, usize::from(slot) % CHUNK);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || Arc::new([const { None }; CHUNK]));
        }
        let chunk = self.chunks.get_mut(chunk).map(Arc::make_mut);
        if let Some(place) = chunk.and_then(|chunk| chunk.get_mut(at)) {
            *place = entry.map(Arc::new);
        }
    }
}

fn entry(chunks: &[Arc<Chunk>], slot: Slot) -> Option<&Entry> {
    let slot = usize::from(slot);
    chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_deref()
}

impl<const SHIFT: u32> Regions<SHIFT> {
    /// Adds a region to the hash, which grows when it gets crowded.
    fn hash(&mut self, span: Span, answer: &FastEntry, chunks: &[Arc<Chunk>]) {
        if self.hash.is_full_for(span) {
            let all = self.spans.iter();
            let answered = |span: Span| Some((span, FastEntry::new(entry(chunks, span.slot)?)));
            self.hash = PageHash::of(all.filter_map(answered));
        } else {
            self.hash.insert(span, answer);
        }
    }

    fn remove(&mut self, span: Span, chunks: &[Arc<Chunk>]) {
        self.spans.remove(span.base);
        self.hash.remove(span, |slot| entry(chunks, slot).map(FastEntry::new));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::counters::CounterSets;
    use crate::region::Shared;
    use trapline_access::{NoHandler, RegionName, Rules};

    #[test]
    fn there_is_room_for_65536_regions() {
        assert_eq!(REGIONS_MAX, 65_536);
        let numbers = CounterSets::default();
        let all: Vec<_> = (0..=REGIONS_MAX).map(|_| Arc::new(numbers.open())).collect();
        let mut snapshot = Snapshot::default();
        for (number, base) in all.into_iter().rev().zip([0x1000, 0x2000]) {
            let fits = number.get() < 65_536;
            let name = RegionName { device: "d".into(), region: "r".into() };
            let (space, len, rules) = (Space::Mmio, 8, Rules::ANY);
            let shared = Shared { id: 0, space, len, name, rules, device_offset: 0, number };
            let entry = Entry::new(base, base + 7, Arc::new(NoHandler), Arc::new(shared));
            assert_eq!(snapshot.insert(entry).is_ok(), fits);
            assert_eq!(snapshot.find(Space::Mmio, base).is_some(), fits);
        }
    }

    #[test]
    fn a_region_with_a_page_to_itself_is_guessed_at_once() {
        let numbers = CounterSets::default();
        let mut snapshot = Snapshot::default();
        let regions = [(Space::Mmio, 0xfee0_0000), (Space::Pio, 0x60), (Space::Mmio, 0x1000)];
        for (slot, (space, base)) in (0..).zip(regions) {
            let number = Arc::new(numbers.open());
            let name = RegionName { device: "d".into(), region: "r".into() };
            let (len, rules) = (8, Rules::ANY);
            let shared = Shared { id: 0, space, len, name, rules, device_offset: 0, number };
            let entry = Entry::new(base, base + 7, Arc::new(NoHandler), Arc::new(shared));
            assert!(snapshot.insert(entry).is_ok());
            let first = snapshot.first(space, base + 3);
            assert_eq!(first.and_then(|quick| quick.slot_if_at(base + 3)), Some(slot));
        }
        let elsewhere = snapshot.first(Space::Pio, 0x1000);
        assert_eq!(elsewhere.and_then(|quick| quick.slot_if_at(0x1000)), None);
    }
}
