//! Observers: who hears of accesses to watched regions, and what they are told.

use std::cell::Cell;
use std::fmt;

use parking_lot::ReentrantMutexGuard;
use std::sync::atomic::Ordering;
use trapline_access::{Direction, RegionId, RegionName, Requester, Space};

use crate::core::Core;
use crate::dispatch::width;
use crate::region::Entry;
use crate::watch::{Watcher, Watchers};

/// One watched access. Of an access across several regions, the part in one of them or in none.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TraceRecord<'a> {
    /// Its number among all watched accesses of the registry, in the order they began; 0 in
    /// [`Observer::stop`]. See also [`crate::Watch::ordered`].
    pub sequence: u64,
    /// Who made it.
    pub requester: Requester,
    /// The space.
    pub space: Space,
    /// The address of its first byte.
    pub addr: u64,
    /// The direction.
    pub direction: Direction,
    /// The region that answers, unless nobody claims the address.
    pub region: Option<WatchedRegion<'a>>,
    /// Width of one element in bytes; `data` holds several when the access is a string.
    pub width: usize,
    /// What was read or is written, lowest address first. All ones in [`Observer::stop`] of a
    /// read, which is not known then.
    pub data: &'a [u8],
    /// What became of it. [`Outcome::Pending`] in [`Observer::stop`].
    pub outcome: Outcome,
}

/// `vcpu 0: serial0/uart THR (pio 0x3f8) write 1 byte 0x41`, and what became of it unless the handler
/// answered.
impl fmt::Display for TraceRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.requester)?;
        match self.region {
            Some(WatchedRegion { name, register: Some(register), .. }) => {
                write!(f, "{name} {register}")?;
            }
            Some(WatchedRegion { name, register: None, .. }) => write!(f, "{name}")?,
            None => f.write_str("unclaimed")?,
        }
        let count = self.data.len().checked_div(self.width).unwrap_or(0);
        let first = width::load(self.data.get(..self.width).unwrap_or_default());
        let Self { space, addr, direction, width, .. } = *self;
        write!(f, " {}", AccessSummary { space, addr, direction, width, count, first })?;
        match self.outcome {
            Outcome::Handled | Outcome::Unclaimed => Ok(()),
            Outcome::Pending => f.write_str(" pending"),
            Outcome::Memory => f.write_str(" memory"),
            Outcome::Refused => f.write_str(" refused"),
            Outcome::Doorbell => f.write_str(" doorbell"),
            Outcome::Forwarded => f.write_str(" forwarded"),
            Outcome::Gone => f.write_str(" gone"),
            Outcome::Coalesced => f.write_str(" coalesced"),
        }
    }
}

/// An access in words, without whose it is to: `(pio 0x3f8) write 1 byte 0x41`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSummary {
    /// The space.
    pub space: Space,
    /// The address of its first byte.
    pub addr: u64,
    /// The direction.
    pub direction: Direction,
    /// Bytes of one element.
    pub width: usize,
    /// How many elements.
    pub count: usize,
    /// The first element, if it has no more than eight bytes.
    pub first: u64,
}

impl fmt::Display for AccessSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, addr, direction, width, count, first } = *self;
        let bytes = if width == 1 { "byte" } else { "bytes" };
        write!(f, "({space} {addr:#x}) {direction} ")?;
        match (count, width) {
            (2.., _) => write!(f, "{count} times {width} {bytes}, first {first:#x}"),
            (_, 0..=8) => write!(f, "{width} {bytes} {first:#x}"),
            _ => write!(f, "{width} {bytes}"),
        }
    }
}

/// The region a watched access is to.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WatchedRegion<'a> {
    /// Its id in the registry.
    pub id: RegionId,
    /// Its names.
    pub name: &'a RegionName,
    /// The offset the handler sees.
    pub offset: u64,
    /// The register the access reaches, as the handler names it.
    pub register: Option<&'static str>,
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Not made yet.
    Pending,
    /// The handler answered it.
    Handled,
    /// Memory answered it.
    Memory,
    /// The region does not take accesses of that shape.
    Refused,
    /// It rang a doorbell and reached no handler.
    Doorbell,
    /// Whoever the window is forwarded to answered it.
    Forwarded,
    /// The window is forwarded, but nobody is there any more: ones, or dropped.
    Gone,
    /// A write the source had queued; the handler got it now.
    Coalesced,
    /// No region has the address: ones, or dropped.
    Unclaimed,
}

/// Hears of watched accesses, on the thread that makes them and with no lock of the registry held,
/// but for the turn of an ordered watch ([`crate::Watch::ordered`]).
///
/// While a call lasts, [`Registry::remove_sync`](crate::Registry::remove_sync) of that region waits,
/// as it would for a handler.
pub trait Observer: Send + Sync {
    /// A watched access has been made.
    fn access(&self, record: &TraceRecord<'_>) {
        let _ = record;
    }

    /// A watched access is about to be made. May block, which holds up that vCPU.
    fn stop(&self, record: &TraceRecord<'_>) {
        let _ = record;
    }
}

/// One access, or a part of one, as its observers are to hear of it; of no use if there are none.
pub(crate) struct Witness<'a>(Option<Observed<'a>>);

struct Observed<'a> {
    watchers: &'a [std::sync::Arc<Watcher>],
    record: TraceRecord<'a>,
    /// Held until the observers have heard, if one of them wants accesses in order.
    _turn: Option<ReentrantMutexGuard<'a, ()>>,
}

/// An access, or the part of it that has one answer.
pub(crate) struct Made<'a> {
    pub(crate) requester: Requester,
    pub(crate) space: Space,
    pub(crate) addr: u64,
    pub(crate) direction: Direction,
    /// Bytes of one element.
    pub(crate) width: usize,
    /// What is written, or ones.
    pub(crate) data: &'a [u8],
}

impl<'a> Witness<'a> {
    /// An access that the region of `entry` gets is about to be made.
    pub(crate) fn of_region(core: &'a Core, entry: &'a Entry, made: &Made<'_>) -> Self {
        Self::begin(core, &entry.placement.watchers, made, || {
            let offset = entry.offset_of(made.addr);
            Some(WatchedRegion {
                id: RegionId(entry.shared.id),
                name: &entry.shared.name,
                offset,
                register: entry.handler.register(offset, made.direction),
            })
        })
    }

    /// An access is about to be made that nobody claims.
    pub(crate) fn of_nobody(core: &'a Core, watchers: &'a Watchers, made: &Made<'_>) -> Self {
        Self::begin(core, watchers, made, || None)
    }

    fn begin(
        core: &'a Core,
        watchers: &'a Watchers,
        made: &Made<'_>,
        region: impl Fn() -> Option<WatchedRegion<'a>>,
    ) -> Self {
        let Some(watchers) = watchers.as_deref() else { return Self(None) };
        let &Made { requester, space, addr, direction, width, data } = made;
        let mut record = TraceRecord {
            sequence: 0,
            requester,
            space,
            addr,
            direction,
            region: region(),
            width,
            data: &[],
            outcome: Outcome::Pending,
        };
        let stopped = TraceRecord { data, ..record };
        watchers.iter().for_each(|watcher| watcher.observer().stop(&stopped));
        let ordered = watchers.iter().any(|watcher| watcher.is_ordered());
        let turn = match requester {
            _ if !ordered => None,
            Requester::Dma => core.order.try_lock(),
            _ => Some(core.order.lock()),
        };
        record.sequence = core.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        // What others did while this one was stopped or waited may have changed the name.
        record.region = region();
        Self(Some(Observed { watchers, record, _turn: turn }))
    }

    /// The access has been made; `register` is what the handler said about it itself.
    pub(crate) fn end(self, data: &[u8], outcome: Outcome, register: &Cell<Option<&'static str>>) {
        let Some(Observed { watchers, record, _turn }) = self.0 else { return };
        let said = |region: WatchedRegion<'a>| WatchedRegion {
            register: register.get().or(region.register),
            ..region
        };
        let record = TraceRecord { region: record.region.map(said), data, outcome, ..record };
        watchers.iter().for_each(|watcher| watcher.observer().access(&record));
    }
}
