//! Hooks: who hears of accesses to regions that are traced or stopped at.

use trapline_access::{Direction, RegionId, RegionName, Requester, Space};

use crate::region::{Entry, Watch};

/// One access to a watched region. Of an access across several regions, the part in this one.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TraceRecord<'a> {
    /// Who made it.
    pub requester: Requester,
    /// The space.
    pub space: Space,
    /// The address of its first byte.
    pub addr: u64,
    /// The direction.
    pub direction: Direction,
    /// The region's name in the registry.
    pub id: RegionId,
    /// The region's names.
    pub region: &'a RegionName,
    /// The offset the handler sees for `addr`.
    pub offset: u64,
    /// The register at that offset before the access, as the handler names it.
    pub register: Option<&'static str>,
    /// Width of one element in bytes; `data` holds several when the access is a string.
    pub width: usize,
    /// What was read or is written, lowest address first. All ones in [`Observer::stop`] of a
    /// read, which is not known then.
    pub data: &'a [u8],
    /// What became of it. [`Outcome::Pending`] in [`Observer::stop`].
    pub outcome: Outcome,
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
}

/// Hears of accesses to watched regions, on the thread that makes them and with no lock of the
/// registry held. Regions that are not watched pay nothing for it.
///
/// While a call lasts, [`crate::Registry::remove_sync`] of that region waits, as it would for a
/// handler.
pub trait Observer: Send + Sync {
    /// An access to a region whose [`crate::Watch::trace`] is set has been made.
    fn access(&self, record: &TraceRecord<'_>) {
        let _ = record;
    }

    /// An access to a region whose [`crate::Watch::stop`] is set is about to be made. May block,
    /// which holds up that vCPU.
    fn stop(&self, record: &TraceRecord<'_>) {
        let _ = record;
    }
}

/// An access to a region, and the observer if it wants to hear of it.
pub(crate) struct ObservedAccess<'a>(Option<Watched<'a>>);

struct Watched<'a> {
    observer: &'a dyn Observer,
    watch: Watch,
    record: TraceRecord<'a>,
}

impl<'a> ObservedAccess<'a> {
    /// `(addr, direction, width)` is the access, or the part of it, that `entry` gets.
    pub(crate) fn new(
        observer: Option<&'a dyn Observer>,
        entry: &'a Entry,
        requester: Requester,
        (addr, direction, width): (u64, Direction, usize),
    ) -> Self {
        let watch = entry.placement.watch;
        let observer = observer.filter(|_| !watch.is_off());
        Self(observer.map(|observer| {
            let offset = entry.offset_of(addr);
            let record = TraceRecord {
                requester,
                space: entry.shared.space,
                addr,
                direction,
                id: RegionId(entry.shared.id),
                region: &entry.shared.name,
                offset,
                register: entry.handler.register(offset, direction),
                width,
                data: &[],
                outcome: Outcome::Pending,
            };
            Watched { observer, watch, record }
        }))
    }

    /// The access is about to be made.
    pub(crate) fn before(&self, data: &[u8]) {
        if let Some(Watched { observer, watch, record }) = &self.0
            && watch.stop
        {
            observer.stop(&TraceRecord { data, ..*record });
        }
    }

    /// The access has been made.
    pub(crate) fn after(&self, data: &[u8], outcome: Outcome) {
        if let Some(Watched { observer, watch, record }) = &self.0
            && watch.trace
        {
            observer.access(&TraceRecord { data, outcome, ..*record });
        }
    }
}
