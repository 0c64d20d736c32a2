//! A mapped region at its place, as lookups find it.

use std::sync::Arc;

use trapline_access::{
    Delivery, Direction, Forward, Handler, Limits, RegionName, Rules, Size, Space, Window,
};

use crate::counters::RegionNumber;
use crate::watch::Watchers;

/// The part of a region that no edit changes.
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) space: Space,
    pub(crate) len: u64,
    pub(crate) name: RegionName,
    pub(crate) rules: Rules,
    pub(crate) device_offset: u64,
    /// Where handles count for it.
    pub(crate) number: Arc<RegionNumber>,
}

/// The part of a region that edits change and that ordinary accesses do not look at: its windows and
/// its observers.
#[derive(Clone, Default)]
pub(crate) struct Placement {
    /// Doorbells the source did not take over, which the registry rings.
    pub(crate) doorbells: Option<Arc<[Window]>>,
    /// Windows that something else answers in the handler's place: a channel, or memory. All of
    /// them, as some accesses to what the source delivers still come to us.
    pub(crate) diverted: Option<Arc<[Window]>>,
    /// Who hears of accesses to it.
    pub(crate) watchers: Watchers,
}

/// A region at its place.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) base: u64,
    pub(crate) last: u64,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) placement: Placement,
    /// Access sizes in bytes, as a bit set, that the handler takes as they are.
    pub(crate) whole: u8,
    /// Whether those must be naturally aligned.
    aligned: bool,
}

impl Entry {
    pub(crate) fn new(
        base: u64,
        last: u64,
        handler: Arc<dyn Handler>,
        shared: Arc<Shared>,
    ) -> Self {
        let Rules { valid, handled } = shared.rules;
        Self {
            base,
            last,
            handler,
            whole: whole_sizes(shared.rules),
            aligned: !valid.unaligned || !handled.unaligned,
            shared,
            placement: Placement::default(),
        }
    }

    /// The same with another placement.
    pub(crate) fn with(&self, placement: Placement) -> Self {
        Self { placement, ..self.clone() }
    }

    /// Its number in counters and marks.
    pub(crate) fn number(&self) -> u32 {
        self.shared.number.get()
    }

    pub(crate) fn contains(&self, addr: u64) -> bool {
        self.base <= addr && addr <= self.last
    }

    /// Whether the handler takes an access at `addr`, known to start in this region, as it is.
    pub(crate) fn is_whole(&self, addr: u64, size: Size) -> bool {
        let below = size.bytes() as u64 - 1;
        let misaligned = self.aligned && self.offset_of(addr) & below != 0;
        self.whole & size as u8 != 0 && self.last - addr >= below && !misaligned
    }

    /// Whether accesses in this direction only go to the handler: none of them is watched, rings a
    /// doorbell of ours, or is answered by a channel or memory.
    pub(crate) fn is_plain(&self, direction: Direction) -> bool {
        self.placement.watchers.is_none() && self.is_handlers(direction)
    }

    /// Whether all accesses in this direction that reach us are the handler's to answer.
    pub(crate) fn is_handlers(&self, direction: Direction) -> bool {
        let rings = direction == Direction::Write && self.placement.doorbells.is_some();
        !rings && self.diverted(direction).next().is_none()
    }

    /// The windows in which something else answers accesses in this direction in the handler's
    /// place.
    pub(crate) fn diverted(&self, direction: Direction) -> impl Iterator<Item = &Window> + Clone {
        let windows = self.placement.diverted.iter().flat_map(|windows| windows.iter());
        windows.filter(move |window| match window.delivery {
            Delivery::Memory { readonly, .. } => !readonly || direction == Direction::Read,
            Delivery::Forward(Forward { datamatch: Some(_), .. }) => direction == Direction::Write,
            _ => true,
        })
    }

    /// The offset the handler sees for `addr`.
    pub(crate) fn offset_of(&self, addr: u64) -> u64 {
        (addr - self.base).wrapping_add(self.shared.device_offset)
    }
}

/// The sizes in bytes, as a bit set, that need no splitting and no widening.
fn whole_sizes(rules: Rules) -> u8 {
    let within = |limits: Limits, size: Size| limits.min <= size && size <= limits.max;
    [Size::Byte, Size::Word, Size::Dword, Size::Qword]
        .into_iter()
        .filter(|size| within(rules.valid, *size) && within(rules.handled, *size))
        .fold(0, |set, size| set | size as u8)
}
