//! Memory slots: the memory a guest sees without an exit, as `KVM_SET_USER_MEMORY_REGION` has it.
//!
//! KVM maps whole pages of the host only, to guest addresses that are the same distance from a page
//! border. What of a window is left at its ends is not in its slot: accesses there exit, and the
//! registry answers them from the same memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use trapline::{Delivery, DirtyBitmap, Memory, Zone};
use trapline_guestmem::Piece;

use crate::{Caps, ioctl};

/// The memory slots of a VM.
pub(crate) struct Slots {
    /// How many KVM has (`KVM_CAP_NR_MEMSLOTS`); numbers are below it.
    limit: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By number.
    used: BTreeMap<u32, Slot>,
    logged: Vec<Logged>,
}

/// A memory whose dirty pages somebody wants to know.
struct Logged {
    memory: Arc<dyn Memory>,
    /// What is known of them besides KVM's own logs, which go with their slots.
    pages: DirtyBitmap,
}

/// A slot in use.
struct Slot {
    pages: Pages,
    /// The window it is of, with what it is not the whole of: where the zone begins, and its length.
    zone: Option<(u64, u64)>,
    /// Kept mapped for as long as KVM may use it.
    memory: Arc<dyn Memory>,
    readonly: bool,
}

/// The part of a window that a slot can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    /// First guest physical address.
    guest: u64,
    /// Length in bytes.
    len: u64,
    /// Where in the memory it begins.
    offset: u64,
}

impl Slots {
    pub(crate) fn new(caps: &Caps) -> Self {
        Self { limit: caps.memory_slots, state: Mutex::default() }
    }

    /// Has the guest see what is whole pages of `zone`, which is memory. `Ok(false)`: nothing is,
    /// or it is no memory that KVM could map.
    pub(crate) fn install(&self, vm: &VmFd, zone: &Zone) -> Result<bool, String> {
        let Delivery::Memory { memory, offset, readonly } = &zone.delivery else {
            return Ok(false);
        };
        let Some(piece) = piece(&**memory) else { return Ok(false) };
        let host = piece.region().host_addr.wrapping_add(*offset);
        let Some(pages) = Pages::of(zone.addr, zone.len, host, page_size()) else {
            return Ok(false);
        };
        let pages = Pages { offset: pages.offset + offset, ..pages };
        let mut state = self.state.lock();
        let number = free_number(self.limit, state.used.keys().copied()).ok_or_else(|| {
            let limit = self.limit;
            format!("all {limit} memory slots that KVM has on this host are in use")
        })?;
        let (place, memory) = (Some((zone.addr, zone.len)), Arc::clone(memory));
        let slot = Slot { pages, zone: place, memory, readonly: *readonly };
        slot.set(vm, number, state.is_logged(&slot.memory)).map_err(|errno| errno.to_string())?;
        state.used.insert(number, slot);
        Ok(true)
    }

    /// Takes away from the guest what [`Slots::install`] gave it for `zone`.
    pub(crate) fn remove(&self, vm: &VmFd, zone: &Zone) -> Result<(), kvm_ioctls::Error> {
        let place = Some((zone.addr, zone.len));
        let State { used, logged } = &mut *self.state.lock();
        let Some((&number, slot)) = used.iter_mut().find(|(_, slot)| slot.zone == place) else {
            return Ok(());
        };
        // The guest may write until the slot is gone, and the log goes with it: so all count as
        // written. Read-only memory was not.
        let logged = logged.iter_mut().find(|logged| Arc::ptr_eq(&logged.memory, &slot.memory));
        if let Some(logged) = logged.filter(|_| !slot.readonly) {
            logged.pages.set(slot.pages.range());
        }
        // The kernel may be short of memory: what KVM does not give up stays mapped, and its number
        // is nobody else's.
        slot.zone = None;
        ioctl::delete_slot(vm, number)?;
        used.remove(&number);
        Ok(())
    }

    /// Has KVM log the guest's writes to `memory`, or no longer: see [`trapline::Offload`].
    pub(crate) fn log_dirty(
        &self,
        vm: &VmFd,
        memory: &Arc<dyn Memory>,
        on: bool,
    ) -> Result<(), String> {
        let State { used, logged } = &mut *self.state.lock();
        let slots = || used.iter().filter(|(_, slot)| Arc::ptr_eq(&slot.memory, memory));
        for (&number, slot) in slots() {
            let Err(errno) = slot.set(vm, number, on) else { continue };
            // A log that nobody asks for costs time only, if this is refused, too.
            for (&number, slot) in slots() {
                let _ = slot.set(vm, number, !on);
            }
            return Err(errno.to_string());
        }
        logged.retain(|logged| !Arc::ptr_eq(&logged.memory, memory));
        if on {
            let pages = DirtyBitmap::new(memory.len(), memory.page_size());
            logged.push(Logged { memory: Arc::clone(memory), pages });
        }
        Ok(())
    }

    /// Adds the pages of `memory` that the guest has written since the last call.
    pub(crate) fn take_dirty(&self, vm: &VmFd, memory: &Arc<dyn Memory>, dirty: &mut DirtyBitmap) {
        let State { used, logged } = &mut *self.state.lock();
        if let Some(logged) = logged.iter_mut().find(|other| Arc::ptr_eq(&other.memory, memory)) {
            dirty.merge(&logged.pages.take());
        }
        let slots = used.iter().filter(|(_, slot)| Arc::ptr_eq(&slot.memory, memory));
        for (&number, slot) in slots.filter(|(_, slot)| !slot.readonly) {
            let len = usize::try_from(slot.pages.len).unwrap_or(usize::MAX);
            match vm.get_dirty_log(number, len) {
                Ok(words) => dirty.set_words(slot.pages.offset / page_size(), &words),
                Err(_) => dirty.set(slot.pages.range()),
            }
        }
    }

    /// How many slots there are now.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().used.len()
    }

    /// Copies from what the guest sees at a guest physical address, for reports; whether all of it
    /// is memory.
    pub(crate) fn peek(&self, addr: u64, to: &mut [u8]) -> bool {
        let used = &self.state.lock().used;
        (addr..).zip(to).all(|(addr, byte)| {
            let slot = used.values().find_map(|slot| Some((slot, slot.pages.offset_of(addr)?)));
            let read = |(slot, offset): (&Slot, u64)| {
                slot.memory.read(offset, std::slice::from_mut(byte));
            };
            slot.map(read).is_some()
        })
    }

    /// What the guest sees without an exit now.
    pub(crate) fn seen(&self) -> SeenMemory {
        let state = self.state.lock();
        let slots = state.used.values().filter(|slot| {
            // A device's registers are not to be read by anybody else.
            slot.zone.is_some() && piece(&*slot.memory).is_some_and(|piece| !piece.is_device())
        });
        let seen = slots.map(|slot| (slot.pages, Arc::clone(&slot.memory), slot.readonly));
        SeenMemory(seen.collect())
    }

    /// Where this process has the page that the guest sees at `addr`, a multiple of its size, and
    /// what keeps it mapped there.
    pub(crate) fn host_page(&self, addr: u64) -> Option<(u64, Arc<dyn Memory>)> {
        let used = &self.state.lock().used;
        used.values().find_map(|slot| {
            let offset = slot.pages.offset_of(addr)?;
            let host = piece(&*slot.memory)?.region().host_addr + offset;
            Some((host, Arc::clone(&slot.memory)))
        })
    }
}

impl State {
    fn is_logged(&self, memory: &Arc<dyn Memory>) -> bool {
        self.logged.iter().any(|logged| Arc::ptr_eq(&logged.memory, memory))
    }
}

impl Slot {
    /// Makes the slot, or changes whether KVM logs the guest's writes to it.
    fn set(&self, vm: &VmFd, number: u32, logged: bool) -> Result<(), kvm_ioctls::Error> {
        let Some(piece) = piece(&*self.memory) else { return Ok(()) };
        let flags = match (self.readonly, logged) {
            (true, _) => KVM_MEM_READONLY,
            (false, true) => KVM_MEM_LOG_DIRTY_PAGES,
            (false, false) => 0,
        };
        ioctl::set_slot(vm, number, flags, self.pages.guest, piece, self.pages.range())
    }
}

/// The memory that a guest saw at one moment, by guest physical address: RAM, ROM, and what devices
/// show. It stays mapped, but what is moved meanwhile is still where it was here.
#[derive(Clone)]
pub struct SeenMemory(Vec<(Pages, Arc<dyn Memory>, bool)>);

impl SeenMemory {
    /// Copies the bytes at `addr` to `buf`; `false` unless all of them are memory.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let Some((memory, offset, left, _)) = self.find(at) else { return false };
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (piece, others) = std::mem::take(&mut rest).split_at_mut(len);
            memory.read(offset, piece);
            (at, rest) = (at.saturating_add(left), others);
        }
        true
    }

    /// Writes `data` at `addr`; `false`, and nothing is written, unless all of it goes to memory that
    /// the guest could write, too.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        let mut pieces = Vec::new();
        let (mut at, mut rest) = (addr, data);
        while !rest.is_empty() {
            let Some((memory, offset, left, false)) = self.find(at) else { return false };
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (piece, others) = rest.split_at(len);
            pieces.push((memory, offset, piece));
            (at, rest) = (at.saturating_add(left), others);
        }
        pieces.into_iter().for_each(|(memory, offset, piece)| memory.write(offset, piece));
        true
    }

    /// The memory at `addr`, where in it, how many bytes it goes on, and whether it is read only.
    fn find(&self, addr: u64) -> Option<(&dyn Memory, u64, u64, bool)> {
        self.0.iter().find_map(|(pages, memory, readonly)| {
            let offset = pages.offset_of(addr)?;
            let left = pages.offset + pages.len - offset;
            Some((&**memory, offset, left, *readonly))
        })
    }
}

impl Pages {
    /// What is whole pages of the `len` bytes that the guest is to see at `guest` and this process
    /// has at `host`; the offset is counted from `host`.
    fn of(guest: u64, len: u64, host: u64, page: u64) -> Option<Self> {
        let before = guest.wrapping_neg() % page;
        let len = len.checked_sub(before)? / page * page;
        let aligned = guest % page == host % page;
        let pages = Self { guest: guest.checked_add(before)?, len, offset: before };
        (aligned && len > 0).then_some(pages)
    }

    /// Where in the memory it is.
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }

    /// Where in the memory the byte is that the guest sees at `addr`.
    fn offset_of(&self, addr: u64) -> Option<u64> {
        let at = addr.checked_sub(self.guest).filter(|at| *at < self.len)?;
        Some(self.offset + at)
    }
}

/// The lowest number below `limit` that is not among those used, which come in order.
fn free_number(limit: u32, used: impl Iterator<Item = u32>) -> Option<u32> {
    let free = used.zip(0..).take_while(|(used, number)| used == number).count();
    u32::try_from(free).ok().filter(|number| *number < limit)
}

/// What of a memory is known to KVM's source: guest memory of ours, whose addresses can be trusted.
fn piece(memory: &dyn Memory) -> Option<&Piece> {
    memory.mapping()?.downcast_ref()
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_the_whole_pages_of_a_window_and_no_others() {
        let pages = |guest, len, host| Pages::of(guest, len, host, 0x1000);
        let whole = |guest, len, offset| Some(Pages { guest, len, offset });
        assert_eq!(pages(0x1000, 0x2000, 0x7000), whole(0x1000, 0x2000, 0));
        assert_eq!(pages(0x1800, 0x2000, 0x7800), whole(0x2000, 0x1000, 0x800));
        assert_eq!(pages(0x1800, 0x27ff, 0x7800), whole(0x2000, 0x1000, 0x800));
        assert_eq!(pages(0x1800, 0x17ff, 0x7800), None, "no page is whole");
        assert_eq!(pages(0x1000, 0xfff, 0x7000), None);
        assert_eq!(pages(0x1800, 0x2000, 0x7000), None, "pages begin elsewhere");
        let last = u64::MAX - 0xfff;
        assert_eq!(pages(last, 0x1000, 0x7000), whole(last, 0x1000, 0), "the last page there is");
        assert_eq!(pages(last + 1, 0xfff, 0x7001), None);
        assert_eq!(Pages::of(0x1_0000, 0x2_0000, 0x7_1000, 0x1_0000), None, "on larger pages");
    }

    #[test]
    fn the_lowest_number_that_is_free_is_taken_until_none_is() {
        let free = |used: &[u32]| free_number(4, used.iter().copied());
        assert_eq!(free(&[]), Some(0));
        assert_eq!(free(&[0, 1, 3]), Some(2));
        assert_eq!(free(&[1]), Some(0));
        assert_eq!(free(&[0, 1, 2]), Some(3));
        assert_eq!(free(&[0, 1, 2, 3]), None);
    }
}
