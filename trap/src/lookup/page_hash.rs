//! A hash table from pages to the regions on them, with what an ordinary access needs of a region in
//! the bucket itself.
//!
//! Not every region is in it: large ones are not, nor those for which a bucket has no room. So a
//! region that is not found here is searched for in the sorted [`crate::lookup::spans::Spans`]; and
//! as several pages share a bucket, whoever uses it compares the address with the region's range.

use std::sync::Arc;

use yoke::{Yoke, Yokeable};

use crate::lookup::fast_entry::{FastEntry, FastRef};
use crate::lookup::spans::{Slot, Span};

/// Buckets per leaf: an edit copies the leaves of the pages it touches, and one pointer for each
/// other leaf.
const LEAF: usize = 32;
/// log2 of the fewest buckets.
const BITS_MIN: u32 = 6;
/// Regions of more pages are found by search.
const PAGES_MAX: u64 = 32;
/// Regions in a bucket that found its places taken.
const OTHERS: usize = 2;
/// No region.
const NONE: Slot = Slot::MAX;

/// Some buckets, as accesses see them, with what they refer to.
type Leaf = Yoke<Places<'static>, Arc<Buckets>>;

/// The first hash of some buckets.
#[derive(Yokeable)]
struct Places<'a>([FastRef<'a>; LEAF]);

/// Some buckets, as edits change them. A bucket holds one region, in its place, and two neighbouring
/// buckets may use each other's; regions beyond that go to the bucket's `others`, and regions beyond
/// those are found by search.
#[derive(Clone)]
struct Buckets {
    places: [Option<FastEntry>; LEAF],
    others: [[Slot; OTHERS]; LEAF],
}

impl Default for Buckets {
    fn default() -> Self {
        Self { places: [const { None }; LEAF], others: [[NONE; OTHERS]; LEAF] }
    }
}

impl Buckets {
    /// The places that bucket `at` may use, the better one first, and its others.
    fn bucket(&mut self, at: usize) -> Option<Bucket<'_>> {
        let [even, odd] = self.places.get_mut(at & !1..)?.first_chunk_mut()?;
        let places = if at.is_multiple_of(2) { [even, odd] } else { [odd, even] };
        Some(Bucket { places, others: self.others.get_mut(at)? })
    }
}

/// A bucket that is being changed.
struct Bucket<'a> {
    places: [&'a mut Option<FastEntry>; 2],
    others: &'a mut [Slot; OTHERS],
}

fn leaf(buckets: Arc<Buckets>) -> Arc<Leaf> {
    Arc::new(Yoke::attach_to_cart(buckets, |buckets| {
        Places(buckets.places.each_ref().map(|place| FastRef::of(place.as_ref())))
    }))
}

/// A hash of the pages of one space, each of 2^`SHIFT` addresses.
#[derive(Clone)]
pub(crate) struct PageHash<const SHIFT: u32> {
    /// As many as a power of two.
    leaves: Vec<Arc<Leaf>>,
    /// The multiplier of the hash function; see [`fold`].
    fold: u64,
    /// Pages hashed, counting a page once for each region on it.
    pages: usize,
}

impl<const SHIFT: u32> Default for PageHash<SHIFT> {
    fn default() -> Self {
        Self::for_pages(0)
    }
}

impl<const SHIFT: u32> PageHash<SHIFT> {
    /// An empty hash with twice as many buckets as `pages`.
    fn for_pages(pages: usize) -> Self {
        let bits = (pages * 2).next_power_of_two().ilog2().max(BITS_MIN);
        let leaf = leaf(Arc::default());
        let leaves = (0..(1 << bits) / LEAF).map(|_| Arc::clone(&leaf)).collect();
        Self { leaves, fold: fold(bits), pages: 0 }
    }

    /// The region in the bucket of `addr`'s page, which most likely has `addr`. The caller compares.
    #[inline(always)]
    pub(crate) fn first(&self, addr: u64) -> Option<&FastRef<'_>> {
        let (leaf, at) = self.place(addr >> SHIFT);
        self.leaves.get(leaf)?.get().0.get(at)
    }

    /// The other regions that may have `addr`: the one in the neighbouring bucket, and the bucket's
    /// overflow, where free slots are [`NONE`].
    pub(crate) fn collisions(&self, addr: u64) -> (Option<&FastRef<'_>>, [Slot; OTHERS]) {
        let (leaf, at) = self.place(addr >> SHIFT);
        let Some(leaf) = self.leaves.get(leaf) else { return (None, [NONE; OTHERS]) };
        let others = leaf.backing_cart().others.get(at);
        (leaf.get().0.get(at ^ 1), others.copied().unwrap_or([NONE; OTHERS]))
    }

    /// Whether more than half of the buckets would be taken with another region, so that it should
    /// grow first.
    pub(crate) fn is_full_for(&self, span: Span) -> bool {
        (self.pages + pages::<SHIFT>(span).count()) * 2 > self.leaves.len() * LEAF
    }

    /// The hash of `regions`, which are in order of their addresses.
    pub(crate) fn of(regions: impl Iterator<Item = (Span, FastEntry)> + Clone) -> Self {
        let count = regions.clone().map(|(span, _)| pages::<SHIFT>(span).count()).sum();
        let mut hash = Self::for_pages(count);
        let mut editor = Editor { hash: &mut hash, open: None };
        regions.for_each(|(span, answer)| editor.insert(span, &answer));
        drop(editor);
        hash
    }

    /// Adds a region.
    pub(crate) fn insert(&mut self, span: Span, answer: &FastEntry) {
        Editor { hash: self, open: None }.insert(span, answer);
    }

    /// Replaces the entry of a region that is in the hash.
    pub(crate) fn replace(&mut self, span: Span, answer: &FastEntry) {
        let mut editor = Editor { hash: self, open: None };
        for page in pages::<SHIFT>(span) {
            let places = editor.bucket(page).into_iter().flat_map(|bucket| bucket.places);
            places
                .flatten()
                .filter(|place| place.is_of(span.slot))
                .for_each(|place| *place = answer.clone());
        }
    }

    /// Takes a region out. If its bucket has overflow, the first region of that moves into the
    /// bucket, with the entry that `answer` gives.
    pub(crate) fn remove(&mut self, span: Span, answer: impl Fn(Slot) -> Option<FastEntry>) {
        let mut editor = Editor { hash: self, open: None };
        for page in pages::<SHIFT>(span) {
            editor.hash.pages -= 1;
            let Some(Bucket { places, others }) = editor.bucket(page) else { continue };
            let mut gone = span.slot;
            let is_its = |place: &&mut Option<FastEntry>| {
                place.as_ref().is_some_and(|place| place.is_of(span.slot))
            };
            if let Some(place) = places.into_iter().find(is_its) {
                gone = others.iter().copied().find(|slot| *slot != NONE).unwrap_or(NONE);
                *place = answer(gone);
            }
            others.iter_mut().filter(|slot| **slot == gone).for_each(|slot| *slot = NONE);
        }
    }

    /// The leaf of a page, and its bucket there.
    #[inline(always)]
    fn place(&self, page: u64) -> (usize, usize) {
        let bucket = (page.wrapping_mul(self.fold) >> 32) as usize;
        ((bucket / LEAF) & self.leaves.len().wrapping_sub(1), bucket % LEAF)
    }
}

/// Changes a hash, and makes a leaf of buckets when it goes on to those of another.
struct Editor<'a, const SHIFT: u32> {
    hash: &'a mut PageHash<SHIFT>,
    /// A leaf's buckets, to be changed.
    open: Option<(usize, Arc<Buckets>)>,
}

impl<const SHIFT: u32> Editor<'_, SHIFT> {
    fn insert(&mut self, span: Span, answer: &FastEntry) {
        for page in pages::<SHIFT>(span) {
            self.hash.pages += 1;
            let Some(Bucket { places, others }) = self.bucket(page) else { continue };
            if let Some(place) = places.into_iter().find(|place| place.is_none()) {
                *place = Some(answer.clone());
            } else if let Some(other) = others.iter_mut().find(|slot| **slot == NONE) {
                *other = span.slot;
            }
        }
    }

    /// The bucket of a page.
    fn bucket(&mut self, page: u64) -> Option<Bucket<'_>> {
        let (index, at) = self.hash.place(page);
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            self.close();
            let leaf = self.hash.leaves.get(index)?;
            self.open = Some((index, Arc::clone(leaf.backing_cart())));
        }
        let (_, buckets) = self.open.as_mut()?;
        Arc::make_mut(buckets).bucket(at)
    }

    fn close(&mut self) {
        let Some((index, buckets)) = self.open.take() else { return };
        if let Some(place) = self.hash.leaves.get_mut(index) {
            *place = leaf(buckets);
        }
    }
}

impl<const SHIFT: u32> Drop for Editor<'_, SHIFT> {
    fn drop(&mut self) {
        self.close();
    }
}

/// The multiplier of the hash function: `(page * fold(bits)) >> 32` is
/// `page + (page >> bits) + (page >> 2 * bits)`, but for carries. Neighbouring pages so get
/// neighbouring buckets, and pages a power of two apart are spread over all 2^`bits` buckets.
fn fold(bits: u32) -> u64 {
    let one = 1 << 32;
    one | one >> bits | one >> (bits * 2)
}

fn pages<const SHIFT: u32>(span: Span) -> impl Iterator<Item = u64> {
    let (first, last) = (span.base >> SHIFT, span.last >> SHIFT);
    let hashed = last - first < PAGES_MAX;
    (first..=last).take_while(move |_| hashed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;
    use crate::counters::CounterSets;
    use crate::region::{Entry, Shared};
    use trapline_access::{Handler, IoCx, RegionName, Rules, Size, Space};

    struct Nobody;

    impl Handler for Nobody {
        fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
            0
        }
        fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
    }

    /// Regions at `bases` of `pages` pages of 4 KiB, in slots from 0 on.
    fn regions(bases: impl Iterator<Item = u64>, pages: u64) -> Vec<(Span, Entry)> {
        let counter_sets = CounterSets::default();
        let region = |base: u64| {
            let number = Arc::new(counter_sets.open());
            let slot = Slot::try_from(number.get()).unwrap();
            let name = RegionName { device: "d".into(), region: "r".into() };
            let (len, rules) = (pages << 12, Rules::ANY);
            let space = Space::Mmio;
            let shared = Shared { id: 0, space, len, name, rules, device_offset: 0, number };
            let last = base + (len - 1);
            (Span { base, last, slot }, Entry::new(base, last, Arc::new(Nobody), Arc::new(shared)))
        };
        bases.map(region).collect()
    }

    fn table(all: &[(Span, Entry)]) -> PageHash<12> {
        PageHash::of(all.iter().map(|(span, entry)| (*span, FastEntry::new(entry))))
    }

    /// Whether one of the hash for `addr` is the region in `slot`.
    fn is_guessed(hash: &PageHash<12>, addr: u64, slot: Slot) -> bool {
        let (lent, others) = hash.collisions(addr);
        let mut places = hash.first(addr).into_iter().chain(lent);
        places.any(|place| place.slot_if_at(addr) == Some(slot)) || others.contains(&slot)
    }

    /// How many of `regions` are what is guessed first at their start.
    fn at_once(hash: &PageHash<12>, regions: &[(Span, Entry)]) -> usize {
        let first = |span: &Span| {
            hash.first(span.base).and_then(|q| q.slot_if_at(span.base)) == Some(span.slot)
        };
        regions.iter().filter(|(span, _)| first(span)).count()
    }

    #[test]
    fn pages_side_by_side_and_in_strides_have_a_place() {
        for stride in [1, 2, 4, 16, 64, 256, 4096] {
            for count in [8, 64, 500, 4096] {
                let regions = regions((0..count).map(|i| 0xd000_0000 + i * stride * 4096), 1);
                let found = at_once(&table(&regions), &regions);
                assert!(found * 100 >= regions.len() * 97, "{found} of {count} by {stride}");
            }
        }
    }

    #[test]
    fn there_are_two_to_four_buckets_for_each_page_and_never_less_than_64() {
        for (count, pages) in [(0, 1), (1, 1), (31, 1), (32, 1), (33, 1), (20, 5), (1000, 3)] {
            let regions = regions((0..count).map(|i| 0xd000_0000 + i * 0x10_0000), pages);
            let hash = table(&regions);
            let hashed = usize::try_from(count * pages).unwrap();
            assert_eq!(hash.pages, hashed);
            let buckets = hash.leaves.len() * LEAF;
            assert!(buckets.is_power_of_two() && buckets >= 64 && hashed * 2 <= buckets);
            assert!(buckets == 64 || buckets < hashed * 4, "{buckets} for {hashed}");
        }
    }

    #[test]
    fn a_hash_is_full_when_half_as_many_pages_as_buckets_are_in_it() {
        let all = regions((0..40).map(|i| 0x1000 + i * 0x10_0000), 4);
        let mut hash = PageHash::<12>::default();
        let mut pages = 0;
        for (span, entry) in &all {
            let full = (pages + 4) * 2 > hash.leaves.len() * LEAF;
            assert_eq!(hash.is_full_for(*span), full, "{pages} pages");
            hash.insert(*span, &FastEntry::new(entry));
            pages += 4;
        }
    }

    #[test]
    fn regions_of_more_than_32_pages_are_not_hashed() {
        for pages in [1, 31, 32, 33, 1000] {
            let regions = regions([0x10_0000].into_iter(), pages);
            let expected = if pages <= 32 { pages } else { 0 };
            assert_eq!(table(&regions).pages, usize::try_from(expected).unwrap());
        }
    }

    #[test]
    fn a_page_number_is_folded_by_its_upper_bits() {
        for bits in [6, 7, 10, 15] {
            for page in [0u64, 1, 1 << (bits - 1), 1 << bits, 1 << (2 * bits), 5 << bits] {
                let folded = page.wrapping_mul(fold(bits)) >> 32;
                assert_eq!(folded, page + (page >> bits) + (page >> (2 * bits)), "{bits} bits");
            }
        }
    }

    #[test]
    fn places_are_not_empty_while_there_are_others() {
        let mut all = regions((0..4).map(|i| 0x7000 + i), 1);
        // Four on one page, as far as the hash is concerned.
        all.iter_mut().for_each(|(span, _)| span.last = 0x7fff);
        let mut hash = table(&all);
        let quick = |slot: Slot| all.get(usize::from(slot)).map(|(_, entry)| FastEntry::new(entry));
        for (i, (span, _)) in all.iter().enumerate() {
            let (lent, others) = hash.collisions(0x7000);
            let mut places = hash.first(0x7000).into_iter().chain(lent);
            assert!(places.any(|place| place.slot_if_at(0x7fff).is_some()));
            let waiting = others.iter().filter(|slot| **slot != NONE).count();
            assert_eq!(waiting, (all.len() - i).saturating_sub(2));
            hash.remove(*span, quick);
            assert!(!is_guessed(&hash, 0x7000, span.slot));
        }
        assert_eq!(hash.pages, 0);
    }

    #[test]
    fn a_removed_region_is_never_guessed_again() {
        let all = regions((0..300).map(|i| 0x1_0000_0000 + i * i * 0x5000), 2);
        let mut hash = table(&all);
        let quick = |slot: Slot| all.get(usize::from(slot)).map(|(_, entry)| FastEntry::new(entry));
        for (i, (span, _)) in all.iter().enumerate() {
            hash.remove(*span, quick);
            for page in [span.base, span.last] {
                assert!(!is_guessed(&hash, page, span.slot));
            }
            let left = all.get(i + 1..).unwrap_or_default();
            let found = left.iter().filter(|(s, _)| is_guessed(&hash, s.base, s.slot)).count();
            assert!(found * 10 >= left.len() * 8);
        }
        assert_eq!(hash.pages, 0);
    }
}
