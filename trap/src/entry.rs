//! A region at its place, as a snapshot holds it: once with everything, and once with the little
//! that an ordinary access needs, so that many regions fit in the cache.

use std::sync::Arc;

use trapline_access::{
    Delivery, Direction, Handler, Limits, RegionName, Rules, Size, Space, Window,
};

use crate::counters::Number;
use crate::spans::Slot;

/// What stays with a region wherever it is moved.
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) space: Space,
    pub(crate) len: u64,
    pub(crate) name: RegionName,
    pub(crate) rules: Rules,
    pub(crate) device_offset: u64,
    /// Where handles count for it.
    pub(crate) number: Arc<Number>,
}

/// Which accesses the observer hears of; see [`crate::Registry::trace`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// [`crate::Observer::access`] is called after each access.
    pub trace: bool,
    /// [`crate::Observer::stop`] is called before each access.
    pub stop: bool,
}

impl Watch {
    /// Whether the observer hears of nothing.
    pub fn is_off(self) -> bool {
        !self.trace && !self.stop
    }
}

/// What differs from one placement of a region to the next, but no ordinary access asks for.
#[derive(Clone, Default)]
pub(crate) struct Placement {
    /// Doorbells the source did not take over, which the registry rings.
    pub(crate) doorbells: Option<Arc<[Window]>>,
    /// Windows that something else answers in the handler's place: a channel, or memory. All of
    /// them, as some accesses to what the source delivers still come to us.
    pub(crate) diverted: Option<Arc<[Window]>>,
    pub(crate) watch: Watch,
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
    whole: u8,
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

    /// Whether nobody but the handler wants to know of accesses in this direction.
    pub(crate) fn is_plain(&self, direction: Direction) -> bool {
        self.placement.watch.is_off() && self.is_handlers(direction)
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
            _ => true,
        })
    }

    /// The offset the handler sees for `addr`.
    pub(crate) fn offset_of(&self, addr: u64) -> u64 {
        (addr - self.base).wrapping_add(self.shared.device_offset)
    }
}

/// What an ordinary access asks about a region before its handler runs.
#[derive(Clone, Copy, Default)]
struct Facts {
    base: u64,
    /// Length less one; shorter than the region where that has more than 4 GiB.
    span: u32,
    slot: Slot,
    /// Sizes in bytes of aligned accesses that go to the handler as they are, with nothing else
    /// to be done, as a bit set: reads, and four bits up writes. None is longer than the region.
    sizes: u8,
    device_offset: u8,
}

/// As much of an [`Entry`] as an ordinary access needs. What does not fit in here takes the other
/// way, through the entry.
#[derive(Clone)]
pub(crate) struct Answer {
    facts: Facts,
    handler: Arc<dyn Handler>,
}

impl Answer {
    pub(crate) fn new(entry: &Entry) -> Self {
        let slot = Slot::try_from(entry.number());
        let device_offset = u8::try_from(entry.shared.device_offset);
        let suits = slot.is_ok() && device_offset.is_ok();
        let fit = entry.whole & sizes_within(entry.last - entry.base);
        let sizes = |direction| if suits && entry.is_plain(direction) { fit } else { 0 };
        let facts = Facts {
            base: entry.base,
            span: u32::try_from(entry.last - entry.base).unwrap_or(u32::MAX),
            slot: slot.unwrap_or_default(),
            sizes: sizes(Direction::Read) | sizes(Direction::Write) << 4,
            device_offset: device_offset.unwrap_or_default(),
        };
        Self { facts, handler: Arc::clone(&entry.handler) }
    }

    /// Whether it stands for the region in `slot`.
    pub(crate) fn is_of(&self, slot: Slot) -> bool {
        self.facts.slot == slot
    }
}

/// An [`Answer`], or none, two to a cache line. It refers to the handler itself, because from an
/// `Arc` of an unnamed type the way there leads through its virtual table, which says how far
/// behind the counts it starts.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub(crate) struct Quick<'a> {
    facts: Facts,
    handler: Option<&'a dyn Handler>,
}

const _: () = assert!(size_of::<Quick<'_>>() == 32, "two quick entries share a cache line");

impl<'a> Quick<'a> {
    pub(crate) fn of(answer: Option<&'a Answer>) -> Self {
        let quick =
            |answer: &'a Answer| Self { facts: answer.facts, handler: Some(&*answer.handler) };
        answer.map(quick).unwrap_or_default()
    }

    /// The region's slot, if `addr` is in it.
    pub(crate) fn slot_if_at(&self, addr: u64) -> Option<Slot> {
        let holds = addr.wrapping_sub(self.facts.base) <= self.facts.span.into();
        (holds && self.handler.is_some()).then_some(self.facts.slot)
    }

    /// The handler, the offset it sees, and the region's number, if the access needs no more.
    #[inline(always)]
    pub(crate) fn admit(
        &self,
        addr: u64,
        size: Size,
        direction: Direction,
    ) -> Option<(&'a dyn Handler, u64, u32)> {
        let Facts { base, span, slot, sizes, device_offset } = self.facts;
        let sizes = match direction {
            Direction::Read => sizes,
            Direction::Write => sizes >> 4,
        };
        let below = size as u8 - 1;
        let in_region = addr.wrapping_sub(base);
        let offset = in_region.wrapping_add(device_offset.into());
        // What is no longer than the region has a last place to begin at.
        if sizes & size as u8 == 0
            || in_region > span.wrapping_sub(below.into()).into()
            || offset & u64::from(below) != 0
        {
            return None;
        }
        Some((self.handler?, offset, slot.into()))
    }
}

/// The sizes in bytes, as a bit set, of at most `span` bytes and one.
fn sizes_within(span: u64) -> u8 {
    match span {
        0 => 1,
        1..3 => 1 | 2,
        3..7 => 1 | 2 | 4,
        _ => 1 | 2 | 4 | 8,
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
