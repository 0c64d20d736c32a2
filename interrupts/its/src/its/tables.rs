//! The tables as a whole: collections between host and guest RAM, and the walk over devices and
//! events that saving and restoring make.
//!
//! Spec: Linux, `Documentation/virt/kvm/devices/arm-vgic-its.rst`. While the ITS is enabled the
//! collection table lives on the host; clearing Enabled writes it to RAM, setting Enabled reads
//! it. Device and translation tables live in RAM always.

use super::collections::Collections;
use super::core::{Core, ite_address};
use super::state::RestoreError;
use crate::entry::{CTE_UNMAPPED, Cte, Dte, ENTRY, Ite};
use crate::error::bump;
use crate::host::{GuestMemory, write_u64};
use crate::table::TableError;
use crate::{CollectionId, EventId, Lpi, Target};

/// The most entries a walk looks at: a hostile guest can claim 2^36, all in the same memory.
pub(crate) const WALK_LIMIT: u64 = 1 << 26;
/// Entries of a translation table read at once.
const CHUNK: usize = 64;
const CHUNK_BYTES: usize = CHUNK * 8;

/// What a walk does about what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Nothing may be written; anything inconsistent is an error.
    Check,
    /// After a check: entries that `next` jumps over are zeroed, for this model looks entries up
    /// by number and they must not come to life. `next` becomes what this model writes.
    Normalise,
    /// Entries that have no effect because they are inconsistent are zeroed, so that what is
    /// saved can be restored; collections that only events name are noted.
    Repair,
}

impl Core {
    /// Reads the packed collection list. The error is the first thing wrong; what came before it
    /// is in the result nevertheless.
    pub(crate) fn read_collections(
        &self,
        mem: &impl GuestMemory,
        targets: u32,
    ) -> (Collections, Result<(), RestoreError>) {
        let table = self.collection_table();
        let mut collections = Collections::default();
        for slot in 0..table.len() {
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            let entry = match table.entry(mem, slot) {
                Ok(address) => mem.read_u64(address).map_err(|_| RestoreError::Memory),
                // The list ends with the memory it has.
                Err(TableError::OutOfRange | TableError::NoPage) => break,
                Err(TableError::Memory) => Err(RestoreError::Memory),
            };
            let cte = match entry {
                Ok(entry) => Cte::from_bits(entry),
                Err(error) => return (collections, Err(error)),
            };
            if !cte.valid() {
                break;
            }
            let id = CollectionId(cte.collection());
            let target = u32::try_from(cte.target()).ok().filter(|target| *target < targets);
            if u64::from(id.0) >= table.len() {
                return (collections, Err(RestoreError::Collection(id)));
            }
            if collections.knows(id) {
                return (collections, Err(RestoreError::Duplicate(id)));
            }
            if target.is_none() && cte.target() != CTE_UNMAPPED {
                return (collections, Err(RestoreError::Target(id)));
            }
            collections.note(id);
            collections.map(id, target.map(Target));
        }
        (collections, Ok(()))
    }

    /// Writes the packed collection list. On an error some of it may be written.
    pub(crate) fn write_collections(&self, mem: &impl GuestMemory) -> Result<(), TableError> {
        let table = self.collection_table();
        let mut slot = 0;
        for (id, target) in self.collections.iter() {
            let cte = Cte::new()
                .with_collection(id.0)
                .with_target(target.map_or(CTE_UNMAPPED, |target| target.0.into()))
                .with_valid(true);
            let address = table.entry(mem, slot)?;
            write_u64(mem, address, cte.into_bits()).map_err(|_| TableError::Memory)?;
            slot += 1;
        }
        match table.entry(mem, slot) {
            Ok(address) => write_u64(mem, address, 0).map_err(|_| TableError::Memory),
            // The list ends with the memory it has.
            Err(TableError::OutOfRange | TableError::NoPage) => Ok(()),
            Err(TableError::Memory) => Err(TableError::Memory),
        }
    }

    /// Enabled becomes 1. What the driver left in the table is taken as far as it makes sense.
    pub(crate) fn load_collections(&mut self, mem: &impl GuestMemory, targets: u32) {
        let (collections, result) = self.read_collections(mem, targets);
        self.collections = collections;
        if result.is_err() {
            bump(&mut self.counters.bad_collections);
        }
    }

    /// Enabled becomes 0: the table is the driver's again.
    pub(crate) fn unload_collections(&mut self, mem: &impl GuestMemory) {
        if self.write_collections(mem).is_err() {
            bump(&mut self.counters.bad_collections);
        }
        self.collections = Collections::default();
    }

    /// Whether `next` fields are followed: in the tables of KVM, whose product number is `K`.
    /// This model writes them too, but each entry of its own stands for itself.
    fn chained(&self) -> bool {
        self.config.iidr >> 24 == 0x4b
    }

    /// Walks over all devices and events.
    pub(crate) fn walk(
        &self,
        mem: &impl GuestMemory,
        collections: &mut Collections,
        mode: Walk,
    ) -> Result<(), RestoreError> {
        let table = self.devices();
        let mut budget = WALK_LIMIT;
        let (mut id, mut next) = (0u64, 0u64);
        while id < table.len() {
            spend(&mut budget, 1)?;
            let number = u32::try_from(id).unwrap_or(u32::MAX);
            let address = match table.entry(mem, number) {
                Ok(address) => address,
                Err(TableError::Memory) if mode == Walk::Check => return Err(RestoreError::Memory),
                Err(_) => {
                    id = table.next_page(number);
                    continue;
                }
            };
            let Ok(entry) = mem.read_u64(address) else {
                if mode == Walk::Check {
                    return Err(RestoreError::Memory);
                }
                id = table.next_page(number);
                continue;
            };
            let dte = Dte::from_bits(entry);
            let skipped = mode != Walk::Repair && self.chained() && id < next;
            if skipped && mode == Walk::Normalise && entry != 0 {
                write_u64(mem, address, 0).map_err(|_| RestoreError::Memory)?;
            } else if !skipped && dte.valid() {
                next = after(id, dte.next());
                self.walk_device(mem, address, dte, collections, mode, &mut budget)?;
            }
            id += 1;
        }
        Ok(())
    }

    fn walk_device(
        &self,
        mem: &impl GuestMemory,
        address: u64,
        dte: Dte,
        collections: &mut Collections,
        mode: Walk,
        budget: &mut u64,
    ) -> Result<(), RestoreError> {
        if !self.admits(dte) {
            return match mode {
                Walk::Check => Err(RestoreError::Device),
                _ => write_u64(mem, address, 0).map_err(|_| RestoreError::Memory),
            };
        }
        if mode != Walk::Check && dte.next() != 1 {
            let bits = dte.with_next(1).into_bits();
            write_u64(mem, address, bits).map_err(|_| RestoreError::Memory)?;
        }
        match self.walk_events(mem, dte, collections, mode, budget) {
            // Nothing of the table can be used beyond this: take the device away.
            Err(RestoreError::Memory) if mode != Walk::Check => {
                write_u64(mem, address, 0).map_err(|_| RestoreError::Memory)
            }
            result => result,
        }
    }

    fn walk_events(
        &self,
        mem: &impl GuestMemory,
        dte: Dte,
        collections: &mut Collections,
        mode: Walk,
        budget: &mut u64,
    ) -> Result<(), RestoreError> {
        let events = dte.events();
        let (mut first, mut next) = (0u64, 0u64);
        while first < events {
            let count = usize::try_from(events - first).unwrap_or(CHUNK).min(CHUNK);
            spend(budget, count as u64)?;
            let base = ite_address(dte, EventId(u32::try_from(first).unwrap_or(u32::MAX)));
            let mut bytes = [0; CHUNK_BYTES];
            let (part, _) = bytes.split_at_mut(count * 8);
            mem.read(base, part).map_err(|_| RestoreError::Memory)?;
            let (entries, _) = part.as_chunks::<8>();
            for (event, entry) in (first..).zip(entries) {
                let found = u64::from_le_bytes(*entry);
                let skipped = mode != Walk::Repair && self.chained() && event < next;
                let wanted = if found == 0 || skipped {
                    0
                } else {
                    let ite = Ite::from_bits(found);
                    let wanted = self.judge(ite, event, events, collections, mode)?;
                    if wanted != 0 {
                        next = after(event, ite.next());
                    }
                    wanted
                };
                if mode != Walk::Check && wanted != found {
                    let address = base + (event - first) * ENTRY;
                    write_u64(mem, address, wanted).map_err(|_| RestoreError::Memory)?;
                }
            }
            first += count as u64;
        }
        Ok(())
    }

    /// What should be in an event's entry instead of `ite`: 0 for "not mapped".
    fn judge(
        &self,
        ite: Ite,
        event: u64,
        events: u64,
        collections: &mut Collections,
        mode: Walk,
    ) -> Result<u64, RestoreError> {
        if ite.intid() == 0 {
            return Ok(0);
        }
        let collection = CollectionId(ite.collection());
        // One `next` can not be right for two devices that share the entry. Where it is not
        // followed, the lower one is, which stays inside the shorter table.
        let next = u16::from(event + 1 < events);
        let next = if self.chained() { next } else { next.min(ite.next()) };
        let wanted = ite.with_next(next).into_bits();
        if mode == Walk::Repair {
            let place = u64::from(collection.0) < self.collection_table().len();
            if !place || Lpi::new(ite.intid()).is_none() {
                return Ok(0);
            }
            collections.note(collection);
            return Ok(wanted);
        }
        let error = if Lpi::new(ite.intid()).is_none() {
            Some(RestoreError::Interrupt)
        } else if event + u64::from(ite.next()) >= events {
            Some(RestoreError::Next)
        } else if !collections.knows(collection) {
            Some(RestoreError::Collection(collection))
        } else {
            None
        };
        // What was checked can only have changed because two devices share the entry.
        if let Some(error) = error.filter(|_| mode == Walk::Check) {
            return Err(error);
        }
        Ok(wanted)
    }
}

/// The first number a chain looks at after `id`.
fn after(id: u64, next: u16) -> u64 {
    if next == 0 { u64::MAX } else { id + u64::from(next) }
}

fn spend(budget: &mut u64, entries: u64) -> Result<(), RestoreError> {
    *budget = budget.checked_sub(entries).ok_or(RestoreError::TooLarge)?;
    Ok(())
}
