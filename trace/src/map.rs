//! Which regions there are, what their registers are called, and which slots the records use.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use trapline_access::{Direction, Space};
use trapline_regs::Class;

/// What changed in the map. Each MAP chunk has one; the first has everything.
///
/// A chunk of records is preceded by the slots it uses. A change that an edit made begins for the
/// accesses at the record of the edit, whose value is the generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapChange {
    /// The generation of the registry's map that has these changes.
    pub generation: u64,
    /// Names of devices that turns, inputs and outputs can be of, after those already given: the
    /// first one ever has number 0.
    pub devices: Vec<String>,
    /// Regions that are new, or are now as given here.
    pub regions: Vec<MapRegion>,
    /// Ids of regions that are gone.
    pub gone: Vec<u64>,
    /// Slots that are new.
    pub slots: Vec<Slot>,
    /// The registers of regions, for those that have not had them.
    pub registers: Vec<Registers>,
    /// The banks of regions, for those that have not had them. In the file they are behind the rest, where
    /// the first format has nothing.
    #[serde(skip)]
    pub banks: Vec<Bank>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRegion {
    /// Its number in the registry, which it keeps wherever it goes.
    pub id: u64,
    /// Whose it is.
    pub device: String,
    /// Which of the device's it is.
    pub region: String,
    /// The space of its addresses.
    #[serde(with = "space")]
    pub space: Space,
    /// Its first address; `None` while it has no place.
    pub base: Option<u64>,
    /// Its length in bytes.
    pub len: u64,
    /// What is added to the offsets that the handler sees.
    pub device_offset: u64,
    /// Where accesses are delivered in another way than to the handler.
    pub windows: Vec<MapWindow>,
}

impl MapRegion {
    /// `device/region`, or the one name where both are the same.
    pub fn name(&self) -> String {
        if self.device == self.region {
            self.device.clone()
        } else {
            format!("{}/{}", self.device, self.region)
        }
    }
}

/// A part of a region with a delivery of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapWindow {
    /// First offset in the region.
    pub offset: u64,
    /// Its length in bytes; of a doorbell that of the write, 0 for any.
    pub len: u64,
    /// How accesses to it are delivered.
    pub delivered: Delivered,
}

/// The ways of `trapline_access::Delivery`, without whom they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivered {
    /// Writes queue up.
    Coalesced,
    /// A write rings; only of this value, if there is one.
    Doorbell(Option<u64>),
    /// Another process answers.
    Forwarded,
    /// Memory answers.
    Memory,
    /// Reads may be answered from a page that is shown.
    Mirrored,
}

/// A slot: what 16 bits in a record stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its number.
    pub number: u16,
    /// What it is of.
    pub place: Place,
}

/// 64 KiB that a slot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// Of a region.
    Region {
        /// The region's number.
        id: u64,
        /// Which 64 KiB of it, from 0.
        page: u64,
    },
    /// Of addresses that nobody has claimed.
    Unclaimed {
        /// Their space.
        #[serde(with = "space")]
        space: Space,
        /// Which 64 KiB of it, from 0.
        page: u64,
    },
}

/// The registers of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// The region's number.
    pub id: u64,
    /// Its registers, in ascending order of offset.
    pub registers: Vec<Register>,
}

/// Registers that share a place in a region: which of them is there is what another register says, an index
/// or a bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bank {
    /// The region's number.
    pub id: u64,
    /// Offset of the selecting register in the region.
    pub selector: u64,
    /// Its width in bytes, 8 at most; 0 where the registers are there whatever is written.
    pub width: u8,
    /// Bits of it that must be set for any of the registers to be there.
    pub enabled: u64,
    /// The bits that select.
    pub mask: u64,
    /// By how much those are shifted to the left.
    pub shift: u8,
    /// Offset of the shared place in the region.
    pub first: u64,
    /// Its length in bytes.
    pub len: u64,
    /// After so many bytes the registers are there once more; 0 if they are not.
    pub period: u64,
    /// The registers. Their offsets are what the selector says, so shifted, and from there on.
    pub registers: Vec<Register>,
    /// What is there where none of them is; nothing if that is the region's own register.
    pub others: String,
}

impl Bank {
    /// The value of the selector before anything is written to it, if that matters to nobody.
    pub(crate) fn unselected(&self) -> Option<u64> {
        (self.width == 0).then_some(0)
    }

    /// Where among the registers an access to `offset` of the region is, if it is in the shared place while
    /// the selector has this value.
    pub(crate) fn index(&self, selected: u64, offset: u64) -> Option<u64> {
        let inside = offset.checked_sub(self.first).filter(|inside| *inside < self.len)?;
        let inside = inside.checked_rem(self.period).unwrap_or(inside);
        let index = (selected & self.mask).checked_shl(self.shift.into()).unwrap_or(0);
        (selected & self.enabled == self.enabled).then(|| index.saturating_add(inside))
    }

    /// What the selector is after bytes were written at `offset` of the region, if any of them is its.
    pub(crate) fn written(&self, selected: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
        let width = usize::from(self.width.min(8));
        let mut now = selected.to_le_bytes();
        let mut hit = false;
        for (at, to) in (self.selector..).zip(now.iter_mut().take(width)) {
            let from = at.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = from.and_then(|from| bytes.get(from)) {
                (*to, hit) = (*byte, true);
            }
        }
        hit.then(|| u64::from_le_bytes(now))
    }
}

/// A register, as far as it does not depend on the device's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Its name in the data sheet.
    pub name: String,
    /// Offset of its first byte in the region.
    pub offset: u64,
    /// Width in bytes.
    pub width: u32,
    /// Whether reads reach it.
    pub read: bool,
    /// Whether writes reach it.
    pub write: bool,
    /// What kind of values it has.
    #[serde(with = "class")]
    pub class: Class,
    /// Whether a write to it must not be late.
    pub prompt: bool,
    /// Its bit fields.
    pub fields: Vec<Field>,
}

/// Some bits of a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Their name in the data sheet.
    pub name: String,
    /// The lowest of them.
    pub bit: u8,
    /// How many there are.
    pub bits: u8,
}

mod class {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use trapline_regs::Class;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(class: &Class, to: S) -> Result<S::Ok, S::Error> {
        (*class as u8).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Class, D::Error> {
        let number = u8::deserialize(from)?;
        let class = Class::ALL.into_iter().find(|class| *class as u8 == number);
        class.ok_or_else(|| D::Error::custom("there is no such class of values"))
    }
}

mod space {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use trapline_access::Space;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(space: &Space, to: S) -> Result<S::Ok, S::Error> {
        matches!(space, Space::Pio).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Space, D::Error> {
        let pio = bool::deserialize(from)?;
        Ok(if pio { Space::Pio } else { Space::Mmio })
    }
}

/// The map of a recording, all changes applied.
///
/// A region that is gone stays, as records name it; where it was at a time is asked by generation.
#[derive(Clone, Debug, Default)]
pub struct Map {
    devices: Vec<String>,
    regions: BTreeMap<u64, MapRegion>,
    slots: BTreeMap<u16, Place>,
    registers: BTreeMap<u64, Vec<Register>>,
    banks: Vec<Bank>,
    /// Which of them a region has.
    banks_of: HashMap<u64, Vec<usize>>,
    /// Where each region has been: generation and base, ascending.
    places: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    /// The generation of the first change.
    first: Option<u64>,
}

impl Map {
    /// Applies a change. Those of a recording are applied in the order of the file.
    pub fn apply(&mut self, change: MapChange) {
        self.first.get_or_insert(change.generation);
        self.devices.extend(change.devices);
        for region in change.regions {
            self.placed(region.id, change.generation, region.base);
            self.regions.insert(region.id, region);
        }
        for id in change.gone {
            self.placed(id, change.generation, None);
        }
        self.slots.extend(change.slots.into_iter().map(|slot| (slot.number, slot.place)));
        for Registers { id, mut registers } in change.registers {
            registers.sort_by_key(|register| register.offset);
            self.registers.insert(id, registers);
        }
        for mut bank in change.banks {
            let of_region = self.banks_of.entry(bank.id).or_default();
            if of_region.len() < MAX_BANKS {
                of_region.push(self.banks.len());
                bank.registers.sort_by_key(|register| register.offset);
                self.banks.push(bank);
            }
        }
    }

    fn placed(&mut self, id: u64, generation: u64, base: Option<u64>) {
        let places = self.places.entry(id).or_default();
        if places.last().is_none_or(|(_, last)| *last != base) {
            places.push((generation, base));
        }
    }

    /// The devices that turns, inputs and outputs are of, by number.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// All regions there have been, in the order of their ids.
    pub fn regions(&self) -> impl Iterator<Item = &MapRegion> {
        self.regions.values()
    }

    /// A region that is or was there.
    pub fn region(&self, id: u64) -> Option<&MapRegion> {
        self.regions.get(&id)
    }

    /// What a slot is of.
    pub fn slot(&self, number: u16) -> Option<Place> {
        self.slots.get(&number).copied()
    }

    /// All slots, in the order of their numbers.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().map(|(&number, &place)| Slot { number, place })
    }

    /// Where a region was in the map of `generation`.
    pub fn base(&self, id: u64, generation: u64) -> Option<u64> {
        let places = self.places.get(&id)?;
        let (_, base) = places.iter().rev().find(|(since, _)| *since <= generation)?;
        *base
    }

    /// The generation of the first map.
    pub fn first_generation(&self) -> u64 {
        self.first.unwrap_or(0)
    }

    /// The registers of a region, in ascending order of offset.
    pub fn registers(&self, id: u64) -> &[Register] {
        self.registers.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The banks of all regions. Of one region there are 16 at most, further ones are left out.
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// The numbers of a region's banks among [`Map::banks`].
    pub(crate) fn banks_of(&self, id: u64) -> &[usize] {
        self.banks_of.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The register that an access of a region reaches, as far as that does not depend on the
    /// device's state.
    pub fn register(&self, id: u64, offset: u64, direction: Direction) -> Option<&Register> {
        register_of(self.registers(id), offset, direction)
    }
}

/// The one of these, in ascending order, that an access reaches.
pub(crate) fn register_of(
    registers: &[Register],
    offset: u64,
    direction: Direction,
) -> Option<&Register> {
    let end = registers.partition_point(|register| register.offset <= offset);
    let before = registers.get(..end)?;
    // A register that begins before others and goes on behind them is none that there is.
    before.iter().rev().take(MAX_AT_ONE_OFFSET).find(|register| {
        offset - register.offset < u64::from(register.width)
            && match direction {
                Direction::Read => register.read,
                Direction::Write => register.write,
            }
    })
}

/// How many banks a region has at most: each access looks through them.
const MAX_BANKS: usize = 16;

/// A read-only and a write-only register can share an offset, and a wide one can be beside them.
const MAX_AT_ONE_OFFSET: usize = 4;
