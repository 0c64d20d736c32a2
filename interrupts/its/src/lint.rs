//! A linter for a driver's command stream: what works here but is against the architecture, and
//! what does nothing.
//!
//! Spec: Arm IHI 0069, "ITS commands" (UNPREDICTABLE and CONSTRAINED UNPREDICTABLE cases, and the
//! use of SYNC). The linter is a debugging tool: it keeps a model of every mapping on the host,
//! at most [`LIMIT`] of them, and does not belong in the path of a guest.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use crate::command::{Command, RdBase};
use crate::{CollectionId, DeviceId, EventId, Lpi};

/// The most devices, events and collections a linter remembers, of each.
pub const LIMIT: usize = 1 << 20;

/// What is wrong with a command or a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Finding {
    /// The device has no translation table.
    UnmappedDevice(DeviceId),
    /// The EventID is beyond the device's table.
    EventOutOfRange(DeviceId, EventId),
    /// The event is not mapped: nothing to invalidate, move, clear, signal or discard.
    UnmappedEvent(DeviceId, EventId),
    /// The collection has no target.
    UnmappedCollection(CollectionId),
    /// The INTID is no LPI.
    NotAnLpi(u32),
    /// The event is mapped already: UNPREDICTABLE without DISCARD.
    Remapped(DeviceId, EventId),
    /// The LPI is another event's already.
    SharedLpi(Lpi),
    /// The device has a table and events in it that were not discarded.
    EventsLeft(DeviceId, u32),
    /// The table overlaps another device's.
    OverlappingTables(DeviceId, DeviceId),
    /// The collection is moved while events are in it, without MOVALL: pending bits stay behind.
    PendingLeftBehind(CollectionId),
    /// The collection is taken away while events are in it.
    CollectionInUse(CollectionId),
    /// A signal arrived although no SYNC followed the last change to its event.
    NoSync(DeviceId, EventId),
    /// A SYNC of a target no collection has.
    SyncOfNobody(RdBase),
    /// A MOVALL from a target to itself.
    MoveToItself(RdBase),
    /// Reserved bits are set; later architectures may give them a meaning.
    ReservedBits,
    /// A GICv4 command, or none at all.
    Opcode(u8),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnmappedDevice(device) => write!(f, "device {device} has no MAPD"),
            Self::EventOutOfRange(device, event) => {
                write!(f, "event {event} is beyond the table of device {device}")
            }
            Self::UnmappedEvent(device, event) => {
                write!(f, "event {event} of device {device} is not mapped")
            }
            Self::UnmappedCollection(id) => write!(f, "collection {id} has no MAPC"),
            Self::NotAnLpi(intid) => write!(f, "INTID {intid} is no LPI"),
            Self::Remapped(device, event) => {
                write!(f, "event {event} of device {device} is mapped again without DISCARD")
            }
            Self::SharedLpi(lpi) => write!(f, "LPI {lpi} is another event's already"),
            Self::EventsLeft(device, count) => {
                write!(f, "MAPD of device {device} with {count} events not discarded")
            }
            Self::OverlappingTables(one, other) => {
                write!(f, "the tables of devices {one} and {other} overlap")
            }
            Self::PendingLeftBehind(id) => {
                write!(f, "collection {id} gets another target: pending LPIs need MOVALL")
            }
            Self::CollectionInUse(id) => write!(f, "collection {id} goes away with events in it"),
            Self::NoSync(device, event) => {
                write!(f, "event {event} of device {device} is used before SYNC")
            }
            Self::SyncOfNobody(target) => write!(f, "SYNC of {:#x}, no collection's", target.0),
            Self::MoveToItself(target) => write!(f, "MOVALL from {:#x} to itself", target.0),
            Self::ReservedBits => f.write_str("reserved bits are set"),
            Self::Opcode(opcode) => write!(f, "opcode {opcode:#x} is not a GICv3 command"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Event {
    lpi: Lpi,
    collection: CollectionId,
    /// No SYNC since it changed.
    fresh: bool,
    /// Where it was before a MOVI: a SYNC there settles it too.
    before: Option<RdBase>,
}

#[derive(Clone, Debug)]
struct Device {
    itt: u64,
    events: u64,
    fresh: bool,
}

/// Follows a driver's commands and signals.
#[derive(Clone, Debug, Default)]
pub struct Linter {
    devices: BTreeMap<DeviceId, Device>,
    events: BTreeMap<(DeviceId, EventId), Event>,
    collections: BTreeMap<CollectionId, RdBase>,
    lpis: BTreeSet<Lpi>,
}

impl Linter {
    /// A linter of an ITS after reset.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges the four numbers of a command.
    pub fn command(&mut self, words: [u64; 4]) -> Vec<Finding> {
        let command = Command::decode(words);
        let mut findings = self.decoded(&command);
        let known = !matches!(command, Command::Unknown { .. } | Command::Virtual { .. });
        if known && command.encode() != words {
            findings.push(Finding::ReservedBits);
        }
        findings
    }

    /// Judges a command; its reserved bits are not known.
    pub fn decoded(&mut self, command: &Command) -> Vec<Finding> {
        let mut found = Vec::new();
        match *command {
            Command::Mapd { device, size, itt, valid } => {
                self.mapd(&mut found, device, size, itt, valid);
            }
            Command::Mapc { collection, target, valid } => {
                self.mapc(&mut found, collection, target, valid);
            }
            Command::Mapti { device, event, intid, collection } => {
                self.mapti(&mut found, device, event, intid, collection);
            }
            Command::Mapi { device, event, collection } => {
                self.mapti(&mut found, device, event, event.0, collection);
            }
            Command::Movi { device, event, collection } => {
                self.collection(&mut found, collection);
                if self.mapped(&mut found, device, event)
                    && let Some(entry) = self.events.get_mut(&(device, event))
                {
                    entry.before = self.collections.get(&entry.collection).copied();
                    entry.collection = collection;
                    entry.fresh = true;
                }
            }
            Command::Discard { device, event } => {
                if self.mapped(&mut found, device, event)
                    && let Some(entry) = self.events.remove(&(device, event))
                {
                    self.lpis.remove(&entry.lpi);
                }
            }
            Command::Int { device, event }
            | Command::Clear { device, event }
            | Command::Inv { device, event } => {
                self.mapped(&mut found, device, event);
            }
            Command::Invall { collection } => self.collection(&mut found, collection),
            Command::Movall { from, to } if from == to => found.push(Finding::MoveToItself(from)),
            Command::Movall { .. } => {}
            Command::Sync { target } => self.sync(&mut found, target),
            Command::Virtual { opcode, .. } | Command::Unknown { opcode } => {
                found.push(Finding::Opcode(opcode));
            }
        }
        found
    }

    /// Judges a signal.
    pub fn signal(&self, device: DeviceId, event: EventId) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.mapped(&mut found, device, event) {
            let entry = self.events.get(&(device, event));
            let fresh = self.devices.get(&device).is_some_and(|device| device.fresh);
            if fresh || entry.is_some_and(|entry| entry.fresh) {
                found.push(Finding::NoSync(device, event));
            }
            if let Some(entry) = entry {
                self.collection(&mut found, entry.collection);
            }
        }
        found
    }

    fn mapped(&self, found: &mut Vec<Finding>, device: DeviceId, event: EventId) -> bool {
        let Some(entry) = self.devices.get(&device) else {
            found.push(Finding::UnmappedDevice(device));
            return false;
        };
        if u64::from(event.0) >= entry.events {
            found.push(Finding::EventOutOfRange(device, event));
            return false;
        }
        let mapped = self.events.contains_key(&(device, event));
        if !mapped {
            found.push(Finding::UnmappedEvent(device, event));
        }
        mapped
    }

    fn collection(&self, found: &mut Vec<Finding>, collection: CollectionId) {
        if !self.collections.contains_key(&collection) {
            found.push(Finding::UnmappedCollection(collection));
        }
    }

    fn mapd(
        &mut self,
        found: &mut Vec<Finding>,
        device: DeviceId,
        size: u8,
        itt: u64,
        valid: bool,
    ) {
        let range = (device, EventId(0))..=(device, EventId(u32::MAX));
        let left = self.events.range(range.clone()).count();
        if left > 0 {
            found.push(Finding::EventsLeft(device, u32::try_from(left).unwrap_or(u32::MAX)));
        }
        if !valid && !self.devices.contains_key(&device) {
            found.push(Finding::UnmappedDevice(device));
        }
        // The events stay in the driver's memory, but their device does not lead there.
        let gone: Vec<_> = self.events.range(range).map(|(key, event)| (*key, event.lpi)).collect();
        for (key, lpi) in gone {
            self.events.remove(&key);
            self.lpis.remove(&lpi);
        }
        self.devices.remove(&device);
        if !valid || self.devices.len() >= LIMIT {
            return;
        }
        let events = 2u64 << size;
        let end = itt + events * 8;
        for (other, entry) in &self.devices {
            if itt < entry.itt + entry.events * 8 && entry.itt < end {
                found.push(Finding::OverlappingTables(device, *other));
            }
        }
        self.devices.insert(device, Device { itt, events, fresh: true });
    }

    fn mapc(
        &mut self,
        found: &mut Vec<Finding>,
        collection: CollectionId,
        target: RdBase,
        valid: bool,
    ) {
        let used = self.events.values().any(|event| event.collection == collection);
        let old = self.collections.get(&collection).copied();
        match old {
            Some(_) if !valid && used => found.push(Finding::CollectionInUse(collection)),
            Some(old) if valid && old != target && used => {
                found.push(Finding::PendingLeftBehind(collection));
            }
            None if !valid => found.push(Finding::UnmappedCollection(collection)),
            _ => {}
        }
        if valid {
            self.collections.insert(collection, target);
        } else {
            self.collections.remove(&collection);
        }
    }

    fn mapti(
        &mut self,
        found: &mut Vec<Finding>,
        device: DeviceId,
        event: EventId,
        intid: u32,
        collection: CollectionId,
    ) {
        let before = found.len();
        let mapped = self.mapped(found, device, event);
        found.retain(|finding| *finding != Finding::UnmappedEvent(device, event));
        if found.len() > before {
            return;
        }
        let Some(lpi) = Lpi::new(intid) else {
            found.push(Finding::NotAnLpi(intid));
            return;
        };
        self.collection(found, collection);
        if mapped {
            found.push(Finding::Remapped(device, event));
            if let Some(old) = self.events.remove(&(device, event)) {
                self.lpis.remove(&old.lpi);
            }
        }
        if self.events.len() >= LIMIT {
            return;
        }
        if !self.lpis.insert(lpi) {
            found.push(Finding::SharedLpi(lpi));
        }
        self.events.insert((device, event), Event { lpi, collection, fresh: true, before: None });
    }

    /// A SYNC of an event's target settles the event; one of any target settles devices.
    fn sync(&mut self, found: &mut Vec<Finding>, target: RdBase) {
        if !self.collections.values().any(|other| *other == target) {
            found.push(Finding::SyncOfNobody(target));
        }
        self.devices.values_mut().for_each(|device| device.fresh = false);
        for event in self.events.values_mut() {
            let now = self.collections.get(&event.collection).copied();
            if now == Some(target) || event.before == Some(target) {
                event.fresh = false;
            }
        }
    }
}
