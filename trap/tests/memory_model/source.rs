//! A source with memory slots, in the manner of KVM: pages of its own size, at the same distance from
//! a page's border in guest and memory, none over another; and a queue.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline::{
    CoalescedWrite, Delivery, DirtyBitmap, Memory, MemoryListener, MemorySection, Offload, Space,
    Zone,
};

use crate::PAGE;

/// Memory of bytes, which knows the pages that are written to.
pub(crate) struct Bytes {
    bytes: Mutex<Vec<u8>>,
    written: Mutex<Vec<u64>>,
}

impl Bytes {
    pub(crate) fn new(len: u64) -> Arc<Self> {
        let bytes = Mutex::new(vec![0; usize::try_from(len).unwrap()]);
        Arc::new(Self { bytes, written: Mutex::default() })
    }

    /// Past the log, as a guest does.
    fn poke(&self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.bytes.lock()[at..at + data.len()].copy_from_slice(data);
    }
}

impl Memory for Bytes {
    fn len(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.bytes.lock()[at..at + data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.poke(offset, data);
        let pages = offset / PAGE..=(offset + data.len() as u64 - 1) / PAGE;
        self.written.lock().extend(pages);
    }

    fn page_size(&self) -> u64 {
        PAGE
    }

    fn mapping(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn take_written(&self, written: &mut DirtyBitmap) {
        let pages = std::mem::take(&mut *self.written.lock());
        pages.into_iter().for_each(|page| written.set(page * PAGE..page * PAGE + 1));
    }
}

/// Guest address, length, memory, offset, whether it is read-only.
type Section = (u64, u64, Arc<dyn Memory>, u64, bool);
/// The same with the memory's number.
type Known = (u64, u64, usize, u64, bool);

fn known(sections: &[Section], which: impl Fn(&Arc<dyn Memory>) -> usize) -> Vec<Known> {
    let known =
        |(addr, len, memory, at, readonly): &Section| (*addr, *len, which(memory), *at, *readonly);
    let mut known: Vec<Known> = sections.iter().map(known).collect();
    known.sort_unstable();
    known
}

#[derive(Default)]
struct State {
    memory: Vec<Section>,
    queued: Vec<(u64, u64)>,
    queue: VecDeque<CoalescedWrite>,
    /// What is known of pages that the guest wrote, of any memory.
    dirty: Vec<(usize, u64)>,
    refuse: Option<usize>,
    refused: bool,
}

#[derive(Default)]
pub(crate) struct Slots(Mutex<State>);

impl Slots {
    /// Refuses the zone after so many; says whether one was refused since the last call.
    pub(crate) fn refuse_after(&self, count: Option<usize>) -> bool {
        let mut state = self.0.lock();
        state.refuse = count;
        std::mem::take(&mut state.refused)
    }

    pub(crate) fn slots(&self, which: impl Fn(&Arc<dyn Memory>) -> usize) -> Vec<Known> {
        known(&self.0.lock().memory, which)
    }

    /// Whether the page at `addr` is one of a slot: which, and where in its memory `addr` is.
    fn slot(&self, addr: u64) -> Option<(Section, u64)> {
        let page = addr / PAGE * PAGE;
        let state = self.0.lock();
        let whole = |(base, len, _, at, _): &&Section| {
            *base <= page && page + PAGE <= base + len && base % PAGE == at % PAGE
        };
        let found = state.memory.iter().find(whole)?;
        Some((found.clone(), found.3 + (addr - found.0)))
    }

    /// Whether the guest reads without coming to the registry. Never across a page's border.
    pub(crate) fn guest_reads(&self, addr: u64, data: &mut [u8]) -> bool {
        let slot = self.slot(addr);
        slot.map(|((_, _, memory, ..), at)| memory.read(at, data)).is_some()
    }

    /// Whether it writes so, or its write is queued.
    pub(crate) fn guest_writes(&self, addr: u64, data: &[u8]) -> bool {
        if let Some(((_, _, memory, _, readonly), at)) = self.slot(addr) {
            if !readonly {
                let bytes = memory.mapping().and_then(|any| any.downcast_ref::<Bytes>()).unwrap();
                bytes.poke(at, data);
                self.0.lock().dirty.push((Arc::as_ptr(&memory).addr(), at));
            }
            return !readonly;
        }
        let mut state = self.0.lock();
        let end = addr + data.len() as u64;
        let queued = state.queued.iter().any(|(base, len)| *base <= addr && end <= base + len);
        if queued {
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            let len = u8::try_from(data.len()).unwrap();
            let write = CoalescedWrite { space: Space::Mmio, addr, len, data: bytes };
            state.queue.push_back(write);
        }
        queued
    }
}

fn section(zone: &Zone) -> Option<Section> {
    match &zone.delivery {
        Delivery::Memory { memory, offset, readonly } => {
            Some((zone.addr, zone.len, Arc::clone(memory), *offset, *readonly))
        }
        _ => None,
    }
}

fn is(a: &Section, b: &Section) -> bool {
    (a.0, a.1, a.3, a.4) == (b.0, b.1, b.3, b.4) && Arc::ptr_eq(&a.2, &b.2)
}

impl Offload for Slots {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        let mut state = self.0.lock();
        match state.refuse {
            Some(0) => {
                (state.refuse, state.refused) = (None, true);
                return Err("No space left on device".to_owned());
            }
            Some(more) => state.refuse = Some(more - 1),
            None => {}
        }
        if let Some(new) = section(zone) {
            let apart = |old: &Section| new.0 + new.1 <= old.0 || old.0 + old.1 <= new.0;
            assert!(state.memory.iter().all(apart), "KVM refuses slots over each other");
            state.memory.push(new);
            return Ok(true);
        }
        let coalesced = zone.delivery == Delivery::Coalesced;
        if coalesced {
            state.queued.push((zone.addr, zone.len));
        }
        Ok(coalesced)
    }

    fn remove(&self, zone: &Zone) {
        let mut state = self.0.lock();
        if let Some(old) = section(zone) {
            let at = state.memory.iter().position(|other| is(other, &old)).unwrap();
            let (_, len, memory, offset, _) = state.memory.remove(at);
            let memory = Arc::as_ptr(&memory).addr();
            state.dirty.extend((offset..offset + len).map(|at| (memory, at)));
            return;
        }
        let at = state.queued.iter().position(|other| *other == (zone.addr, zone.len)).unwrap();
        state.queued.remove(at);
    }

    fn queued(&self) -> bool {
        !self.0.lock().queue.is_empty()
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        self.0.lock().queue.pop_front()
    }

    fn take_dirty(&self, memory: &Arc<dyn Memory>, dirty: &mut DirtyBitmap) {
        let memory = Arc::as_ptr(memory).addr();
        let mut state = self.0.lock();
        for (_, at) in state.dirty.extract_if(.., |(other, _)| *other == memory) {
            dirty.set(at..at + 1);
        }
    }
}

/// A listener that knows what is mapped.
#[derive(Default)]
pub(crate) struct Ear(Mutex<(Vec<Section>, Option<usize>, bool)>);

impl Ear {
    /// Refuses the section after so many; says whether one was refused since the last call.
    pub(crate) fn refuse_after(&self, count: Option<usize>) -> bool {
        let (_, refuse, refused) = &mut *self.0.lock();
        *refuse = count;
        std::mem::take(refused)
    }

    pub(crate) fn sections(&self, which: impl Fn(&Arc<dyn Memory>) -> usize) -> Vec<Known> {
        known(&self.0.lock().0, which)
    }
}

fn heard(section: &MemorySection) -> Section {
    let MemorySection { addr, len, memory, offset, readonly, .. } = section;
    (*addr, *len, Arc::clone(memory), *offset, *readonly)
}

impl MemoryListener for Ear {
    fn add(&self, section: &MemorySection) -> Result<(), String> {
        let (sections, refuse, refused) = &mut *self.0.lock();
        match refuse {
            Some(0) => {
                (*refuse, *refused) = (None, true);
                return Err("Cannot allocate memory".to_owned());
            }
            Some(more) => *more -= 1,
            None => {}
        }
        sections.push(heard(section));
        Ok(())
    }

    fn remove(&self, section: &MemorySection) {
        let sections = &mut self.0.lock().0;
        let at = sections.iter().position(|other| is(other, &heard(section))).unwrap();
        sections.remove(at);
    }
}
