//! The part of a region that an ordinary access needs, small enough that those of many regions stay
//! in the cache.

use std::sync::Arc;

use trapline_access::{Direction, Handler, Size};

use crate::lookup::spans::Slot;
use crate::region::Entry;

/// What an ordinary access asks about a region before its handler runs.
#[derive(Clone, Copy, Default)]
struct FastFields {
    base: u64,
    /// Length less one; shorter than the region where that has more than 4 GiB.
    span: u32,
    slot: Slot,
    /// Sizes in bytes of aligned accesses that go to the handler as they are, with nothing else
    /// to be done, as a bit set: reads, and four bits up writes. None is longer than the region.
    sizes: u8,
    device_offset: u8,
}

/// As much of an [`Entry`] as an ordinary access needs. Accesses for which this does not say enough
/// look at the entry.
#[derive(Clone)]
pub(crate) struct FastEntry {
    fields: FastFields,
    handler: Arc<dyn Handler>,
}

impl FastEntry {
    pub(crate) fn new(entry: &Entry) -> Self {
        let slot = Slot::try_from(entry.number());
        let device_offset = u8::try_from(entry.shared.device_offset);
        let suits = slot.is_ok() && device_offset.is_ok();
        let fit = entry.whole & sizes_within(entry.last - entry.base);
        let sizes = |direction| if suits && entry.is_plain(direction) { fit } else { 0 };
        let fields = FastFields {
            base: entry.base,
            span: u32::try_from(entry.last - entry.base).unwrap_or(u32::MAX),
            slot: slot.unwrap_or_default(),
            sizes: sizes(Direction::Read) | sizes(Direction::Write) << 4,
            device_offset: device_offset.unwrap_or_default(),
        };
        Self { fields, handler: Arc::clone(&entry.handler) }
    }

    /// Whether it stands for the region in `slot`.
    pub(crate) fn is_of(&self, slot: Slot) -> bool {
        self.fields.slot == slot
    }
}

/// A [`FastEntry`] as buckets of the hash hold it, or none, two to a cache line. It refers to the
/// handler and not to its `Arc`: in an `Arc<dyn Handler>` the handler starts behind the reference
/// counts at an alignment that only the virtual table knows, so a call would load that first.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub(crate) struct FastRef<'a> {
    fields: FastFields,
    handler: Option<&'a dyn Handler>,
}

const _: () = assert!(size_of::<FastRef<'_>>() == 32, "two of them share a cache line");

impl<'a> FastRef<'a> {
    pub(crate) fn of(entry: Option<&'a FastEntry>) -> Self {
        let reference =
            |entry: &'a FastEntry| Self { fields: entry.fields, handler: Some(&*entry.handler) };
        entry.map(reference).unwrap_or_default()
    }

    /// The region's slot, if `addr` is in it.
    pub(crate) fn slot_if_at(&self, addr: u64) -> Option<Slot> {
        let holds = addr.wrapping_sub(self.fields.base) <= self.fields.span.into();
        (holds && self.handler.is_some()).then_some(self.fields.slot)
    }

    /// The handler, the offset it sees, and the region's number, if the access needs no more.
    #[inline(always)]
    pub(crate) fn admit(
        &self,
        addr: u64,
        size: Size,
        direction: Direction,
    ) -> Option<(&'a dyn Handler, u64, u32)> {
        let FastFields { base, span, slot, sizes, device_offset } = self.fields;
        let sizes = match direction {
            Direction::Read => sizes,
            Direction::Write => sizes >> 4,
        };
        let below = size as u8 - 1;
        let in_region = addr.wrapping_sub(base);
        let offset = in_region.wrapping_add(device_offset.into());
        // What is no longer than the region has a last place to begin at.
        if sizes & size as u8 == 0
            || in_region > span.wrapping_sub(below.into()).into()
            || offset & u64::from(below) != 0
        {
            return None;
        }
        Some((self.handler?, offset, slot.into()))
    }
}

/// The sizes in bytes, as a bit set, of at most `span` bytes and one.
fn sizes_within(span: u64) -> u8 {
    match span {
        0 => 1,
        1..3 => 1 | 2,
        3..7 => 1 | 2 | 4,
        _ => 1 | 2 | 4 | 8,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::counters::CounterSets;
    use crate::region::{Placement, Shared};
    use trapline_access::{Delivery, Limits, Memory, NoHandler, RegionName, Rules, Space, Window};

    const BASE: u64 = 0x1_0000_1000;
    const SIZES: [Size; 4] = [Size::Byte, Size::Word, Size::Dword, Size::Qword];
    const DIRECTIONS: [Direction; 2] = [Direction::Read, Direction::Write];

    fn entry(len: u64, rules: Rules, device_offset: u64, numbers: &CounterSets) -> Entry {
        let name = RegionName { device: "d".into(), region: "r".into() };
        let (space, number) = (Space::Mmio, Arc::new(numbers.open()));
        let shared = Shared { id: 1, space, len, name, rules, device_offset, number };
        Entry::new(BASE, BASE + (len - 1), Arc::new(NoHandler), Arc::new(shared))
    }

    /// The offset the handler is to see, if the access may take the shortest way.
    fn admitted(entry: &Entry, addr: u64, size: Size, direction: Direction) -> Option<u64> {
        let fast = FastEntry::new(entry);
        FastRef::of(Some(&fast)).admit(addr, size, direction).map(|(_, offset, _)| offset)
    }

    #[test]
    fn every_aligned_access_inside_a_region_takes_the_shortest_way() {
        let numbers = CounterSets::default();
        for len in 1..=17u64 {
            let entry = entry(len, Rules::ANY, 0, &numbers);
            let places = (0..len + 2).flat_map(|at| SIZES.map(|size| (at, size)));
            for (at, size) in places {
                let bytes = size.bytes() as u64;
                let expected = (at % bytes == 0 && at + bytes <= len).then_some(at);
                for direction in DIRECTIONS {
                    let offset = admitted(&entry, BASE + at, size, direction);
                    assert_eq!(offset, expected, "{direction} of {size} at {at} of {len}");
                }
            }
            assert_eq!(admitted(&entry, BASE - 1, Size::Byte, Direction::Read), None);
        }
    }

    #[test]
    fn the_handlers_rules_and_offset_bind_the_shortest_way() {
        let numbers = CounterSets::default();
        let dwords = Rules { valid: Limits::only(Size::Dword), handled: Limits::only(Size::Dword) };
        let entry = entry(0x100, dwords, 0x84, &numbers);
        for (size, direction) in SIZES.into_iter().flat_map(|size| DIRECTIONS.map(|d| (size, d))) {
            let expected = (size == Size::Dword).then_some(0x88);
            assert_eq!(admitted(&entry, BASE + 4, size, direction), expected);
        }
    }

    struct Rom;

    impl Memory for Rom {
        fn len(&self) -> u64 {
            8
        }
        fn read(&self, _offset: u64, _data: &mut [u8]) {}
        fn write(&self, _offset: u64, _data: &[u8]) {}
    }

    #[test]
    fn what_something_else_answers_does_not_take_it_and_the_other_direction_does() {
        let numbers = CounterSets::default();
        let delivery = Delivery::Memory { memory: Arc::new(Rom), offset: 0, readonly: true };
        let rom: Arc<[Window]> = [Window { offset: 0, len: 8, delivery }].into();
        let placement = Placement { diverted: Some(rom), ..Placement::default() };
        let entry = entry(8, Rules::ANY, 0, &numbers).with(placement);
        assert_eq!(admitted(&entry, BASE, Size::Byte, Direction::Read), None);
        assert_eq!(admitted(&entry, BASE, Size::Byte, Direction::Write), Some(0));
    }

    #[test]
    fn nobody_is_called_where_no_region_is() {
        let nobody = FastRef::of(None);
        assert!(nobody.admit(0, Size::Byte, Direction::Read).is_none());
        assert_eq!(nobody.slot_if_at(0), None);
    }
}
