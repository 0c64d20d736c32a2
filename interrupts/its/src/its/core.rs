//! Looking things up: device, event, collection; and the translation made of them.

use super::collections::Collections;
use crate::entry::{Dte, Ite};
use crate::error::{Blocked, Counters};
use crate::host::GuestMemory;
use crate::regs::{BASERS, Baser, KIND_COLLECTION, KIND_DEVICE};
use crate::table::{Table, TableError};
use crate::{CollectionId, Config, DeviceId, EventId, Lpi, Target};

/// Everything of an ITS but its command queue.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) enabled: bool,
    pub(crate) basers: [Baser; BASERS],
    pub(crate) collections: Collections,
    /// Counts changes that can make a translation another one; see [`super::cache`].
    pub(crate) generation: u64,
    pub(crate) counters: Counters,
}

/// An event's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Where the entry is.
    pub(crate) address: u64,
    pub(crate) ite: Ite,
    pub(crate) lpi: Lpi,
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            enabled: false,
            basers: config.basers,
            collections: Collections::default(),
            generation: 0,
            counters: Counters::default(),
        }
    }

    /// Cached translations are void.
    pub(crate) fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn baser(&self, kind: u8) -> Baser {
        self.basers.get(self.config.baser_of(kind)).copied().unwrap_or_default()
    }

    /// The device table.
    pub(crate) fn devices(&self) -> Table {
        let bits = u32::from(self.config.typer.device_bits()) + 1;
        Table::new(self.baser(KIND_DEVICE), bits)
    }

    /// The collection table.
    pub(crate) fn collection_table(&self) -> Table {
        Table::new(self.baser(KIND_COLLECTION), self.config.collection_bits())
    }

    /// Whether both tables have memory.
    pub(crate) fn tables_valid(&self) -> bool {
        self.baser(KIND_DEVICE).valid() && self.baser(KIND_COLLECTION).valid()
    }

    /// A mapped device's entry.
    pub(crate) fn device(&self, mem: &impl GuestMemory, device: DeviceId) -> Result<Dte, Blocked> {
        let address = self.devices().entry(mem, device.0).map_err(|error| match error {
            TableError::OutOfRange | TableError::NoPage => Blocked::Device,
            TableError::Memory => Blocked::Memory,
        })?;
        let dte = Dte::from_bits(mem.read_u64(address).map_err(|_| Blocked::Memory)?);
        if dte.valid() && self.admits(dte) { Ok(dte) } else { Err(Blocked::Device) }
    }

    /// Whether the entry could have been written by MAPD.
    pub(crate) fn admits(&self, dte: Dte) -> bool {
        dte.size() <= self.config.typer.id_bits()
    }

    /// A mapped event's entry.
    pub(crate) fn event(
        &self,
        mem: &impl GuestMemory,
        device: DeviceId,
        event: EventId,
    ) -> Result<Found, Blocked> {
        let dte = self.device(mem, device)?;
        if u64::from(event.0) >= dte.events() {
            return Err(Blocked::Event);
        }
        let address = ite_address(dte, event);
        let ite = Ite::from_bits(mem.read_u64(address).map_err(|_| Blocked::Memory)?);
        let lpi = Lpi::new(ite.intid()).ok_or(Blocked::Interrupt)?;
        Ok(Found { address, ite, lpi })
    }

    /// A mapped event's entry and its target.
    pub(crate) fn route(
        &self,
        mem: &impl GuestMemory,
        device: DeviceId,
        event: EventId,
    ) -> Result<(Found, Target), Blocked> {
        let found = self.event(mem, device, event)?;
        let collection = CollectionId(found.ite.collection());
        let target = self.collections.target(collection).ok_or(Blocked::Collection)?;
        Ok((found, target))
    }

    /// What a signal becomes.
    pub(crate) fn translate(
        &self,
        mem: &impl GuestMemory,
        device: DeviceId,
        event: EventId,
    ) -> Result<(Lpi, Target), Blocked> {
        if !self.enabled {
            return Err(Blocked::Disabled);
        }
        self.route(mem, device, event).map(|(found, target)| (found.lpi, target))
    }
}

/// Where the entry of `event` is.
pub(crate) fn ite_address(dte: Dte, event: EventId) -> u64 {
    dte.address() + u64::from(event.0) * crate::entry::ENTRY
}
