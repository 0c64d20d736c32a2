//! An immutable picture of all regions, cheap to copy and change.

use std::sync::Arc;

use trapline_device::Space;

use crate::guess::{NONE, PageHash, PortTable};
use crate::region::{Entry, Window};
use crate::spans::{Slot, Span, Spans};

/// Entries per chunk: an edit copies one chunk and one pointer per other chunk.
const CHUNK: usize = 32;

/// The most regions a registry can hold.
pub(crate) const REGIONS_MAX: usize = NONE as usize;

type Chunk = [Option<Entry>; CHUNK];

/// Everything a dispatch needs.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    chunks: Vec<Arc<Chunk>>,
    free: Arc<Vec<Slot>>,
    mmio: Spans,
    mmio_pages: PageHash,
    pio: Spans,
    pio_ports: PortTable,
}

impl Snapshot {
    /// The region that contains `addr`.
    #[inline]
    pub(crate) fn find(&self, space: Space, addr: u64) -> Option<&Entry> {
        match space {
            Space::Mmio => {
                for slot in self.mmio_pages.guesses(addr) {
                    if slot == NONE {
                        break;
                    }
                    let Some(entry) = self.entry(slot) else { continue };
                    if entry.base <= addr && addr <= entry.last {
                        return Some(entry);
                    }
                }
                self.search(addr)
            }
            // The port table is exact: it has every port of every region.
            Space::Pio => self.entry(self.pio_ports.guess(addr)),
        }
    }

    #[cold]
    fn search(&self, addr: u64) -> Option<&Entry> {
        self.entry(self.mmio.find(addr)?.slot)
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
        if let Some(place) = self.place(slot) {
            *place = Some(entry);
        }
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
        if let Some(place) = self.place(span.slot) {
            *place = None;
        }
        self.give_slot(span.slot);
    }

    fn spans(&self, space: Space) -> &Spans {
        match space {
            Space::Mmio => &self.mmio,
            Space::Pio => &self.pio,
        }
    }

    #[inline]
    fn entry(&self, slot: Slot) -> Option<&Entry> {
        let slot = usize::from(slot);
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    fn place(&mut self, slot: Slot) -> Option<&mut Option<Entry>> {
        let slot = usize::from(slot);
        Arc::make_mut(self.chunks.get_mut(slot / CHUNK)?).get_mut(slot % CHUNK)
    }

    fn take_slot(&mut self) -> Option<Slot> {
        if self.free.is_empty() {
            let first = self.chunks.len() * CHUNK;
            if first + CHUNK > REGIONS_MAX {
                return None;
            }
            self.chunks.push(Arc::new([const { None }; CHUNK]));
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
    /// Says which doorbells of the region at `base` are the registry's to ring.
    pub(crate) fn set_soft_doorbells(
        &mut self,
        space: Space,
        base: u64,
        doorbells: Option<Arc<[Window]>>,
    ) {
        let Some(span) = self.spans(space).find(base) else { return };
        let unchanged = doorbells.is_none()
            && self.entry(span.slot).is_some_and(|e| e.soft_doorbells.is_none());
        if !unchanged && let Some(Some(entry)) = self.place(span.slot) {
            entry.soft_doorbells = doorbells;
        }
    }
}
