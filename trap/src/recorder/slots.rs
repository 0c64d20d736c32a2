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
pub(crate) struct SlotCache([Option<(Key, u16)>; CACHED]);

const CACHED: usize = 32;

impl Default for SlotCache {
    fn default() -> Self {
        Self([None; CACHED])
    }
}

impl SlotCache {
    /// The slot of an access to `addr` that `entry` answered, and the offset in it.
    #[inline]
    pub(crate) fn find(
        &mut self,
        slots: &Slots,
        space: Space,
        addr: u64,
        entry: Option<&Entry>,
    ) -> (u16, u16) {
        let key = Key::of(space, addr, entry);
        let Key(_, region, base) = key;
        #[expect(clippy::cast_possible_truncation, reason = "a hash")]
        let place = (region ^ base >> 16) as usize % CACHED;
        #[expect(clippy::cast_possible_truncation, reason = "below the length of a slot")]
        let offset = addr.wrapping_sub(base) as u16;
        let cached = self.0.get_mut(place);
        if let Some(Some((is, number))) = cached
            && *is == key
        {
            return (*number, offset);
        }
        let number = slots.number(key, entry);
        // What has no number may have one in a later recording, and is rare.
        if let Some(cached) = cached
            && number != ELSEWHERE
        {
            *cached = Some((key, number));
        }
        (number, offset)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn unclaimed_addresses_are_told_apart_and_do_not_take_all_numbers() {
        let (slots, mut cache) = (Slots::default(), SlotCache::default());
        let mut find = |space, addr| cache.find(&slots, space, addr, None);
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
