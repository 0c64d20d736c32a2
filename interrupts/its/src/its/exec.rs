//! The commands: each with its checks in the order of the architecture's command pages.
//!
//! Spec: Arm IHI 0069, "ITS commands"; error numbers are in [`CommandError`]. Ranges are checked
//! before any table is read.

use super::core::{Core, Found, ite_address};
use crate::command::{Command, RdBase};
use crate::entry::{Dte, Ite};
use crate::error::{Blocked, CommandError};
use crate::host::{GuestMemory, LpiSink, write_u64};
use crate::ids::LPI_END;
use crate::table::TableError;
use crate::{CollectionId, DeviceId, EventId, Lpi, Target};

type Outcome = Result<(), CommandError>;

impl Core {
    /// Executes one command.
    pub(crate) fn execute(
        &mut self,
        command: &Command,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
    ) -> Outcome {
        match *command {
            Command::Mapd { device, size, itt, valid } => self.mapd(mem, device, size, itt, valid),
            Command::Mapc { collection, target, valid } => {
                self.mapc(mem, sink, collection, target, valid)
            }
            Command::Mapti { device, event, intid, collection } => {
                self.mapti(mem, sink, (device, event), intid, collection)
            }
            Command::Mapi { device, event, collection } => {
                self.mapti(mem, sink, (device, event), event.0, collection)
            }
            Command::Movi { device, event, collection } => {
                self.movi(mem, sink, (device, event), collection)
            }
            Command::Movall { from, to } => movall(sink, from, to),
            Command::Discard { device, event } => self.discard(mem, sink, (device, event)),
            Command::Int { device, event } => {
                let (found, target) = self.routed(mem, (device, event), CommandError::Int)?;
                sink.set_pending(target, found.lpi);
                Ok(())
            }
            Command::Clear { device, event } => {
                let (found, target) = self.routed(mem, (device, event), CommandError::Clear)?;
                sink.clear_pending(target, found.lpi);
                Ok(())
            }
            Command::Inv { device, event } => {
                let (found, target) = self.routed(mem, (device, event), CommandError::Inv)?;
                sink.invalidate(target, found.lpi);
                Ok(())
            }
            Command::Invall { collection } => {
                let target = self.collections.target(collection).ok_or(CommandError::Invall)?;
                sink.invalidate_all(target);
                Ok(())
            }
            // A command has taken effect before the next one is read, so there is nothing to wait
            // for; see `queue`. RDbase is not checked: a barrier of nobody is harmless.
            Command::Sync { .. } => Ok(()),
            Command::Virtual { .. } => Err(CommandError::Virtual),
            Command::Unknown { .. } => Err(CommandError::Unknown),
        }
    }

    fn routed(
        &self,
        mem: &impl GuestMemory,
        (device, event): (DeviceId, EventId),
        refusal: CommandError,
    ) -> Result<(Found, Target), CommandError> {
        self.route(mem, device, event).map_err(|blocked| match blocked {
            Blocked::Memory => CommandError::TableMemory,
            _ => refusal,
        })
    }

    /// The ITT's contents and the pending state stay: the driver owns the first and discards the
    /// second, event by event.
    fn mapd(
        &mut self,
        mem: &impl GuestMemory,
        device: DeviceId,
        size: u8,
        itt: u64,
        valid: bool,
    ) -> Outcome {
        let address = self.devices().entry(mem, device.0).map_err(|error| match error {
            TableError::OutOfRange | TableError::NoPage => CommandError::MapdDevice,
            TableError::Memory => CommandError::TableMemory,
        })?;
        let checked = valid || self.config.mapd_checks_size_always;
        if checked && size > self.config.typer.id_bits() {
            return Err(CommandError::MapdSize);
        }
        let dte = if valid {
            Dte::new().with_size(size & 0x1f).with_itt(itt >> 8).with_next(1).with_valid(true)
        } else {
            Dte::new()
        };
        self.changed();
        write_u64(mem, address, dte.into_bits()).map_err(|_| CommandError::TableMemory)
    }

    /// Only the collection changes. Events keep its number, so no pointer can dangle, and pending
    /// state stays with the old target until MOVALL.
    fn mapc(
        &mut self,
        mem: &impl GuestMemory,
        sink: &impl LpiSink,
        collection: CollectionId,
        target: RdBase,
        valid: bool,
    ) -> Outcome {
        let target = match (valid, processor(sink, target)) {
            (true, None) => return Err(CommandError::MapcTarget),
            (true, target) => target,
            (false, _) => None,
        };
        // The table is in the driver's memory although this model fills it in only when it must
        // be read by somebody else: an entry the driver gave no memory to is an error now.
        let table = self.collection_table();
        let entry = table.entry(mem, collection.0.into()).map_err(|error| match error {
            TableError::OutOfRange | TableError::NoPage => CommandError::MapcCollection,
            TableError::Memory => CommandError::TableMemory,
        })?;
        mem.read_u64(entry).map_err(|_| CommandError::TableMemory)?;
        self.changed();
        self.collections.map(collection, target);
        Ok(())
    }

    /// An event that is mapped already is mapped anew (the architecture calls that
    /// UNPREDICTABLE), and the collection may be mapped later.
    fn mapti(
        &mut self,
        mem: &impl GuestMemory,
        sink: &impl LpiSink,
        (device, event): (DeviceId, EventId),
        intid: u32,
        collection: CollectionId,
    ) -> Outcome {
        let dte = self.device(mem, device).map_err(|blocked| match blocked {
            Blocked::Memory => CommandError::TableMemory,
            _ => CommandError::MaptiDevice,
        })?;
        if u64::from(event.0) >= dte.events() {
            return Err(CommandError::MaptiEvent);
        }
        let end = if self.config.check_propbaser { sink.lpi_end() } else { LPI_END };
        let lpi = Lpi::new(intid).filter(|lpi| lpi.intid() < end);
        let lpi = lpi.ok_or(CommandError::MaptiIntid)?;
        if u64::from(collection.0) >= self.collection_table().len() {
            return Err(CommandError::MaptiCollection);
        }
        let last = u64::from(event.0) + 1 == dte.events();
        let ite = Ite::new()
            .with_collection(collection.0)
            .with_intid(lpi.intid())
            .with_next(u16::from(!last));
        self.changed();
        write_u64(mem, ite_address(dte, event), ite.into_bits())
            .map_err(|_| CommandError::TableMemory)?;
        self.collections.note(collection);
        Ok(())
    }

    fn movi(
        &mut self,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
        (device, event): (DeviceId, EventId),
        collection: CollectionId,
    ) -> Outcome {
        let found = self.event(mem, device, event).map_err(|blocked| match blocked {
            Blocked::Memory => CommandError::TableMemory,
            _ => CommandError::MoviEvent,
        })?;
        let target =
            |collection| self.collections.target(collection).ok_or(CommandError::MoviCollection);
        let from = target(CollectionId(found.ite.collection()))?;
        let to = target(collection)?;
        let ite = found.ite.with_collection(collection.0);
        self.changed();
        write_u64(mem, found.address, ite.into_bits()).map_err(|_| CommandError::TableMemory)?;
        if from != to {
            sink.move_pending(from, to, found.lpi);
        }
        Ok(())
    }

    fn discard(
        &mut self,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
        source: (DeviceId, EventId),
    ) -> Outcome {
        let (found, target) = self.routed(mem, source, CommandError::Discard)?;
        self.changed();
        write_u64(mem, found.address, 0).map_err(|_| CommandError::TableMemory)?;
        sink.clear_pending(target, found.lpi);
        Ok(())
    }
}

fn movall(sink: &mut impl LpiSink, from: RdBase, to: RdBase) -> Outcome {
    let (Some(from), Some(to)) = (processor(sink, from), processor(sink, to)) else {
        return Err(CommandError::MovallTarget);
    };
    if from != to {
        sink.move_all_pending(from, to);
    }
    Ok(())
}

/// The processor an RDbase names, if there is one.
fn processor(sink: &impl LpiSink, base: RdBase) -> Option<Target> {
    u32::try_from(base.0).ok().filter(|number| *number < sink.targets()).map(Target)
}
