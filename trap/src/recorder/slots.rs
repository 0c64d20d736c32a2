//! Slots: 64-KiB pieces of regions at their places, which records name by a number of 16 bits.

use std::collections::HashMap;

use parking_lot::Mutex;
use trapline_access::{RegionId, RegionName, Space};

use crate::region::Entry;

/// Bytes of a slot: what the offset of a record can say.
const LEN: u64 = 1 << 16;
/// The number of no slot: there are too many. The record before says the address.
pub(crate) const ELSEWHERE: u16 = u16::MAX;
/// How many slots of addresses that nobody claims there can be: a guest that looks for devices
/// everywhere leaves room for those there are.
const UNCLAIMED_MAX: usize = 4096;

/// 64 KiB of a region at its place, or of addresses that nobody claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The space.
    pub space: Space,
    /// The guest address of its offset 0.
    pub base: u64,
    /// The region, if one claims it.
    pub region: Option<SlotRegion>,
}

/// The region that a slot is of, as it was when it was first accessed at that place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRegion {
    /// Its number in the registry.
    pub id: RegionId,
    /// Its names.
    pub name: RegionName,
    /// The guest address of its first byte.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The offset that its handler sees for its first byte.
    pub device_offset: u64,
}

impl Slot {
    /// The region's id and names, and the offset that its handler sees for `offset` in the slot.
    pub(crate) fn reached(&self, offset: u16) -> Option<(RegionId, &RegionName, u64)> {
        let region = self.region.as_ref()?;
        let into = self.base.wrapping_sub(region.base).wrapping_add(offset.into());
        Some((region.id, &region.name, region.device_offset.wrapping_add(into)))
    }
}

/// What tells slots apart: space, region (0 for none) and base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(Space, u64, u64);

impl Key {
    fn of(space: Space, addr: u64, entry: Option<&Entry>) -> Self {
        match entry {
            Some(entry) => {
                let into = addr.wrapping_sub(entry.base) & !(LEN - 1);
                Self(space, entry.shared.id, entry.base.wrapping_add(into))
            }
            None => Self(space, 0, addr & !(LEN - 1)),
        }
    }
}

/// All slots of a recorder, in the order of their numbers.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Table>);

#[derive(Default)]
struct Table {
    all: Vec<Slot>,
    numbers: HashMap<Key, u16>,
    unclaimed: usize,
}

impl Slots {
    /// All slots there are from number `first` on.
    pub(crate) fn since(&self, first: usize) -> Vec<Slot> {
        self.0.lock().all.get(first..).unwrap_or_default().to_vec()
    }

    /// The slot of this number.
    pub(crate) fn get(&self, number: u16) -> Option<Slot> {
        self.0.lock().all.get(usize::from(number)).cloned()
    }

    fn number(&self, key: Key, entry: Option<&Entry>) -> u16 {
        let mut table = self.0.lock();
        if let Some(number) = table.numbers.get(&key) {
            return *number;
        }
        let Key(space, _, base) = key;
        let number = u16::try_from(table.all.len()).unwrap_or(ELSEWHERE);
        let full = entry.is_none() && table.unclaimed >= UNCLAIMED_MAX;
        if number == ELSEWHERE || full {
            return ELSEWHERE;
        }
        table.unclaimed += usize::from(entry.is_none());
        table.all.push(Slot {
            space,
            base,
            region: entry.map(|entry| SlotRegion {
                id: RegionId(entry.shared.id),
                name: entry.shared.name.clone(),
                base: entry.base,
                len: entry.last - entry.base + 1,
                device_offset: entry.shared.device_offset,
            }),
        });
        table.numbers.insert(key, number);
        number
    }
}

/// The slots that one stream's last accesses were in.
pub(crate) struct SlotCache([Cached; CACHED]);

const CACHED: usize = 64;

/// A piece of a slot, at addresses that mean it in one generation of the map.
#[derive(Clone, Copy)]
struct Cached {
    /// [`NEVER`] for nothing.
    generation: u64,
    first: u64,
    /// The slot's.
    base: u64,
    /// The length less one.
    span: u16,
    number: u16,
    space: Space,
}

/// No map is of this generation.
const NEVER: u64 = u64::MAX;

const _: () = assert!(size_of::<Cached>() == 32, "one cache line has it all");

impl Cached {
    const NOTHING: Self =
        Self { generation: NEVER, first: 0, base: 0, span: 0, number: 0, space: Space::Mmio };

    /// The slot around `addr`, as far as `entry` goes; of addresses that nobody claims this one, as
    /// the next may be claimed.
    fn new(generation: u64, space: Space, addr: u64, entry: Option<&Entry>, number: u16) -> Self {
        let Key(_, _, base) = Key::of(space, addr, entry);
        let (first, last) = entry.map_or((addr, addr), |entry| {
            (entry.base.max(base), entry.last.min(base.saturating_add(LEN - 1)))
        });
        let span = u16::try_from(last.wrapping_sub(first)).unwrap_or_default();
        Self { generation, first, base, span, number, space }
    }

    #[inline]
    fn holds(&self, generation: Option<u64>, space: Space, addr: u64) -> bool {
        Some(self.generation) == generation
            && self.space == space
            && addr.wrapping_sub(self.first) <= self.span.into()
    }
}

impl Default for SlotCache {
    fn default() -> Self {
        Self([Cached::NOTHING; CACHED])
    }
}

impl SlotCache {
    /// The slot of an access to `addr`, and the offset in it. `find` says which region answered, if
    /// that is not known from another access in the same `generation` of the map. `None` is for a
    /// region that is not there any more.
    #[inline]
    pub(crate) fn find<'a>(
        &mut self,
        slots: &Slots,
        generation: Option<u64>,
        (space, addr): (Space, u64),
        find: impl FnOnce() -> Option<&'a Entry>,
    ) -> (u16, u16) {
        // About as far from each other as devices are.
        let neighbours = match space {
            Space::Pio => addr >> 2,
            Space::Mmio => addr >> 8 ^ addr >> 16,
        };
        #[expect(clippy::cast_possible_truncation, reason = "a hash")]
        let place = neighbours as usize % CACHED;
        let cached = self.0.get_mut(place).filter(|cached| cached.holds(generation, space, addr));
        let cached = match cached {
            Some(cached) => *cached,
            None => self.search(slots, generation, (space, addr), find(), place),
        };
        #[expect(clippy::cast_possible_truncation, reason = "below the length of a slot")]
        let offset = addr.wrapping_sub(cached.base) as u16;
        (cached.number, offset)
    }

    #[cold]
    fn search(
        &mut self,
        slots: &Slots,
        generation: Option<u64>,
        (space, addr): (Space, u64),
        entry: Option<&Entry>,
        place: usize,
    ) -> Cached {
        let number = slots.number(Key::of(space, addr, entry), entry);
        let found = Cached::new(generation.unwrap_or(NEVER), space, addr, entry, number);
        // What has no number may have one in a later recording, and is rare.
        if let Some(cached) = self.0.get_mut(place)
            && number != ELSEWHERE
            && generation.is_some()
        {
            *cached = found;
        }
        found
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn unclaimed_addresses_are_told_apart_and_do_not_take_all_numbers() {
        let (slots, mut cache) = (Slots::default(), SlotCache::default());
        let mut find = |space, addr| cache.find(&slots, Some(0), (space, addr), || None);
        assert_eq!(find(Space::Pio, 0x520), (0, 0x520));
        assert_eq!(find(Space::Mmio, 0x520), (1, 0x520));
        assert_eq!(find(Space::Mmio, 0xfff_ffff), (2, 0xffff));
        assert_eq!(find(Space::Pio, 0x521), (0, 0x521));
        for page in 0..10_000 {
            find(Space::Mmio, page << 16);
        }
        assert_eq!(slots.since(0).len(), UNCLAIMED_MAX);
        assert_eq!(find(Space::Mmio, 0xffff_ffff_0000_1234), (ELSEWHERE, 0x1234));
        assert_eq!(find(Space::Pio, 1), (0, 1));
        assert_eq!(slots.since(1).first().map(|slot| slot.space), Some(Space::Mmio));
    }
}
