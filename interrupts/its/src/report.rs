//! The state of an ITS as a table, for a person.

use alloc::vec::Vec;
use core::fmt;

use crate::error::{Blocked, CommandError, Counters};
use crate::host::GuestMemory;
use crate::{CollectionId, DeviceId, EventId, Its, Lpi, Target};

/// A mapped device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// The device.
    pub device: DeviceId,
    /// Address of its translation table.
    pub itt: u64,
    /// How many EventIDs it has.
    pub events: u64,
    /// Those that are mapped, as far as they were looked at.
    pub mapped: Vec<(EventId, Lpi, CollectionId, Option<Target>)>,
}

/// What an ITS looks like now. Reading it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `GITS_CTLR.Enabled`.
    pub enabled: bool,
    /// `CREADR`, `CWRITER`.
    pub queue: (u64, u64),
    /// Mapped devices, in ascending order.
    pub devices: Vec<DeviceReport>,
    /// Collections commands have named.
    pub collections: Vec<(CollectionId, Option<Target>)>,
    /// What was counted.
    pub counters: Counters,
    /// Not everything was looked at.
    pub truncated: bool,
}

impl Its {
    /// Looks at up to `limit` device and event entries in guest RAM; what a guest could claim
    /// beyond that is left out, and [`Report::truncated`] says so.
    pub fn report(&self, mem: &impl GuestMemory, limit: u32) -> Report {
        let mut left = limit;
        let mut devices = Vec::new();
        let core = self.core();
        let table = core.devices();
        let (mut id, end) = (0u64, table.len());
        while id < end && left > 0 {
            left -= 1;
            let number = u32::try_from(id).unwrap_or(u32::MAX);
            match table.entry(mem, number) {
                Ok(_) => id += 1,
                Err(_) => {
                    id = table.next_page(number);
                    continue;
                }
            }
            let device = DeviceId(number);
            let Ok(dte) = core.device(mem, device) else { continue };
            let mut mapped = Vec::new();
            for event in (0..).map(EventId).take_while(|event| u64::from(event.0) < dte.events()) {
                if left == 0 {
                    break;
                }
                left -= 1;
                if let Ok(found) = core.event(mem, device, event) {
                    let collection = CollectionId(found.ite.collection());
                    let target = core.collections.target(collection);
                    mapped.push((event, found.lpi, collection, target));
                }
            }
            let (itt, events) = (dte.address(), dte.events());
            devices.push(DeviceReport { device, itt, events, mapped });
        }
        Report {
            enabled: self.enabled(),
            queue: (self.peek(0x90, 8), self.peek(0x88, 8)),
            devices,
            collections: self.collections().collect(),
            counters: self.counters().clone(),
            truncated: left == 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read, write) = self.queue;
        let enabled = if self.enabled { "enabled" } else { "disabled" };
        writeln!(f, "ITS {enabled}, CREADR {read:#x}, CWRITER {write:#x}")?;
        writeln!(f, "device      event     LPI  collection  target")?;
        for device in &self.devices {
            let DeviceReport { device, itt, events, mapped } = device;
            writeln!(f, "{device:<10}  {events} events at {itt:#x}, {} mapped", mapped.len())?;
            for (event, lpi, collection, target) in mapped {
                write!(f, "            {event:<8} {lpi:>5}  {collection:<10}  ")?;
                match target {
                    Some(target) => writeln!(f, "{target}")?,
                    None => writeln!(f, "none")?,
                }
            }
        }
        writeln!(f, "collection  target")?;
        for (collection, target) in &self.collections {
            match target {
                Some(target) => writeln!(f, "{collection:<10}  {target}")?,
                None => writeln!(f, "{collection:<10}  none")?,
            }
        }
        if self.truncated {
            writeln!(f, "(more entries than were looked at)")?;
        }
        write_counters(f, &self.counters)
    }
}

fn write_counters(f: &mut fmt::Formatter<'_>, counters: &Counters) -> fmt::Result {
    writeln!(f, "{:>10}  commands", counters.commands)?;
    for error in CommandError::ALL {
        let count = counters.refused(*error);
        if count > 0 {
            writeln!(f, "{count:>10}  refused: {error}")?;
        }
    }
    writeln!(f, "{:>10}  signals", counters.signals)?;
    for reason in Blocked::ALL {
        let count = counters.blocked(*reason);
        if count > 0 {
            writeln!(f, "{count:>10}  blocked: {reason}")?;
        }
    }
    for (count, what) in [
        (counters.bad_accesses, "accesses of a wrong width, alignment or place"),
        (counters.bad_cwriter, "CWRITER values outside the queue"),
        (counters.bad_enables, "enables without tables or queue"),
        (counters.bad_collections, "collection tables not as they must be"),
    ] {
        if count > 0 {
            writeln!(f, "{count:>10}  {what}")?;
        }
    }
    Ok(())
}
