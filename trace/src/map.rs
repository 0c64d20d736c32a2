//! Which regions there are, what their registers are called, and which slots the records use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trapline_access::{Direction, Space};

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
    pub class: Class,
    /// Whether a write to it must not be late.
    pub prompt: bool,
    /// Its bit fields.
    pub fields: Vec<Field>,
}

/// What kind of values a register has: whether two runs of one guest can be expected to agree.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Class {
    /// The same in each run.
    #[default]
    Exact,
    /// A time or a count of it.
    Time,
    /// What the guest moves through: characters, sectors, frames.
    Payload,
    /// Different each time on purpose.
    Random,
    /// Where the guest has put something in its memory.
    Address,
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

    /// The register that an access of a region reaches, as far as that does not depend on the
    /// device's state.
    pub fn register(&self, id: u64, offset: u64, direction: Direction) -> Option<&Register> {
        let registers = self.registers(id);
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
}

/// A read-only and a write-only register can share an offset, and a wide one can be beside them.
const MAX_AT_ONE_OFFSET: usize = 4;
