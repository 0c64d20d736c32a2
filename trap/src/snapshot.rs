//! An immutable picture of all regions, cheap to copy and change.

use std::sync::Arc;

use trapline_device::Space;

use crate::entry::{Entry, Placement, Quick};
use crate::guess::{NONE, PageHash, PortTable};
use crate::observer::Observer;
use crate::spans::{Slot, Span, Spans};

/// Entries per chunk: an edit copies one chunk and one pointer per other chunk.
const CHUNK: usize = 32;

/// The most regions a registry can hold.
pub(crate) const REGIONS_MAX: usize = NONE as usize;

/// Entries, and what ordinary accesses need of them.
#[derive(Clone)]
struct Chunk {
    quick: [Quick; CHUNK],
    entries: [Option<Arc<Entry>>; CHUNK],
}

/// Everything a dispatch needs.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    chunks: Vec<Arc<Chunk>>,
    free: Arc<Vec<Slot>>,
    mmio: Spans,
    mmio_pages: PageHash,
    pio: Spans,
    pio_ports: PortTable,
    /// Who hears of accesses to watched regions.
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Snapshot {
    /// What most likely answers `addr`, to be asked whether it does.
    #[inline]
    pub(crate) fn guess(&self, space: Space, addr: u64) -> Option<&Quick> {
        let slot = usize::from(self.likely(space, addr));
        self.chunks.get(slot / CHUNK)?.quick.get(slot % CHUNK)
    }

    #[inline]
    fn likely(&self, space: Space, addr: u64) -> Slot {
        match space {
            Space::Mmio => self.mmio_pages.guess(addr),
            Space::Pio => self.pio_ports.guess(addr),
        }
    }

    /// The region that contains `addr`.
    pub(crate) fn find(&self, space: Space, addr: u64) -> Option<&Entry> {
        let likely = self.entry(self.likely(space, addr)).filter(|entry| entry.contains(addr));
        match likely {
            None if space == Space::Mmio => self.find_further(addr),
            // The port table is exact: it has every port of every region.
            likely => likely,
        }
    }

    /// Where the first guess was wrong: several regions have pages in one bucket, a region is too
    /// large for the hash, or nobody claims the address.
    fn find_further(&self, addr: u64) -> Option<&Entry> {
        let mut further = self.mmio_pages.further(addr).into_iter();
        further
            .find_map(|slot| self.entry(slot).filter(|entry| entry.contains(addr)))
            .or_else(|| self.entry(self.mmio.find(addr)?.slot))
    }

    /// The first address at or after `addr` that some region answers.
    pub(crate) fn next_claimed(&self, space: Space, addr: u64) -> Option<u64> {
        self.spans(space).at_or_after(addr).map(|span| span.base.max(addr))
    }

    /// Adds a region; says which one is in the way, or `None` when the slots are used up.
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<(), Option<Entry>> {
        let slot = self.take_slot().ok_or(None)?;
        let span = Span { base: entry.base, last: entry.last, slot };
        let space = entry.shared.space;
        let placed = match space {
            Space::Mmio => self.mmio.insert(span),
            Space::Pio => self.pio.insert(span),
        };
        if let Err(other) = placed {
            let other = self.entry(other.slot).cloned();
            self.give_slot(slot);
            return Err(other);
        }
        match space {
            Space::Mmio => self.mmio_pages.insert(span, self.mmio.iter()),
            Space::Pio => self.pio_ports.set(span, slot),
        }
        self.set(slot, Some(entry));
        Ok(())
    }

    /// Takes the region at `base` out.
    pub(crate) fn remove(&mut self, space: Space, base: u64) {
        let Some(span) = self.spans(space).find(base).filter(|span| span.base == base) else {
            return;
        };
        match space {
            Space::Mmio => {
                self.mmio.remove(base);
                self.mmio_pages.remove(span);
            }
            Space::Pio => {
                self.pio.remove(base);
                self.pio_ports.set(span, NONE);
            }
        }
        self.set(span.slot, None);
        self.give_slot(span.slot);
    }

    fn spans(&self, space: Space) -> &Spans {
        match space {
            Space::Mmio => &self.mmio,
            Space::Pio => &self.pio,
        }
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        let slot = usize::from(slot);
        self.chunks.get(slot / CHUNK)?.entries.get(slot % CHUNK)?.as_deref()
    }

    fn set(&mut self, slot: Slot, entry: Option<Entry>) {
        let slot = usize::from(slot);
        let Some(chunk) = self.chunks.get_mut(slot / CHUNK).map(Arc::make_mut) else { return };
        if let Some(quick) = chunk.quick.get_mut(slot % CHUNK) {
            *quick = entry.as_ref().map(Quick::new).unwrap_or_default();
        }
        if let Some(place) = chunk.entries.get_mut(slot % CHUNK) {
            *place = entry.map(Arc::new);
        }
    }

    fn take_slot(&mut self) -> Option<Slot> {
        if self.free.is_empty() {
            let first = self.chunks.len() * CHUNK;
            if first + CHUNK > REGIONS_MAX {
                return None;
            }
            self.chunks.push(Arc::new(Chunk {
                quick: std::array::from_fn(|_| Quick::default()),
                entries: [const { None }; CHUNK],
            }));
            let free = Arc::make_mut(&mut self.free);
            free.extend((first..first + CHUNK).rev().filter_map(|slot| Slot::try_from(slot).ok()));
        }
        Arc::make_mut(&mut self.free).pop()
    }

    fn give_slot(&mut self, slot: Slot) {
        Arc::make_mut(&mut self.free).push(slot);
    }
}

impl Snapshot {
    /// Changes what is special about the region at `base`.
    pub(crate) fn place(&mut self, space: Space, base: u64, placement: Placement) {
        let Some(span) = self.spans(space).find(base) else { return };
        let entry = self.entry(span.slot).map(|entry| entry.with(placement));
        self.set(span.slot, entry);
    }
}
