//! Memory slots: the memory a guest sees without an exit, as `KVM_SET_USER_MEMORY_REGION` has it.
//!
//! KVM maps whole pages of the host only, to guest addresses that are the same distance from a page
//! border. What of a window is left at its ends is not in its slot: accesses there exit, and the
//! registry answers them from the same memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use trapline::{Delivery, Memory, Zone};
use trapline_guestmem::Piece;

use crate::{Caps, ioctl};

/// The memory slots of a VM.
pub(crate) struct Slots {
    /// How many KVM has (`KVM_CAP_NR_MEMSLOTS`); numbers are below it.
    limit: u32,
    used: Mutex<BTreeMap<u32, Slot>>,
}

/// A slot in use.
struct Slot {
    pages: Pages,
    /// The window it is of, with what it is not the whole of: where the zone begins, and its length.
    zone: Option<(u64, u64)>,
    /// Kept mapped for as long as KVM may use it.
    memory: Arc<dyn Memory>,
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
        Self { limit: caps.memory_slots, used: Mutex::default() }
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
        let mut used = self.used.lock();
        let number = free_number(self.limit, used.keys().copied()).ok_or_else(|| {
            let limit = self.limit;
            format!("all {limit} memory slots that KVM has on this host are in use")
        })?;
        let flags = if *readonly { KVM_MEM_READONLY } else { 0 };
        ioctl::set_slot(vm, number, flags, pages.guest, piece, pages.offset..pages.end())
            .map_err(|errno| errno.to_string())?;
        let zone = Some((zone.addr, zone.len));
        used.insert(number, Slot { pages, zone, memory: Arc::clone(memory) });
        Ok(true)
    }

    /// Takes away from the guest what [`Slots::install`] gave it for `zone`.
    pub(crate) fn remove(&self, vm: &VmFd, zone: &Zone) -> Result<(), kvm_ioctls::Error> {
        let place = Some((zone.addr, zone.len));
        let mut used = self.used.lock();
        let Some((&number, slot)) = used.iter_mut().find(|(_, slot)| slot.zone == place) else {
            return Ok(());
        };
        // KVM may be short of memory just now: what it does not give up stays mapped, and its
        // number is nobody else's.
        slot.zone = None;
        ioctl::delete_slot(vm, number)?;
        used.remove(&number);
        Ok(())
    }

    /// How many slots there are now.
    pub(crate) fn count(&self) -> usize {
        self.used.lock().values().filter(|slot| slot.pages.len > 0).count()
    }

    /// A number for memory that comes and goes by itself, whose pages are `memory`'s; for good.
    pub(crate) fn reserve(&self, memory: Arc<dyn Memory>) -> Option<u32> {
        let mut used = self.used.lock();
        let number = free_number(self.limit, used.keys().copied())?;
        used.insert(
            number,
            Slot { pages: Pages { guest: 0, len: 0, offset: 0 }, zone: None, memory },
        );
        Some(number)
    }

    /// Copies from what the guest sees at a guest physical address, for reports; whether all of it
    /// is memory.
    pub(crate) fn peek(&self, addr: u64, to: &mut [u8]) -> bool {
        let used = self.used.lock();
        (addr..).zip(to).all(|(addr, byte)| {
            let slot = used.values().find_map(|slot| Some((slot, slot.pages.offset_of(addr)?)));
            let read = |(slot, offset): (&Slot, u64)| {
                slot.memory.read(offset, std::slice::from_mut(byte));
            };
            slot.map(read).is_some()
        })
    }

    /// Where this process has the page that the guest sees at `addr`, a multiple of its size, and
    /// what keeps it mapped there.
    pub(crate) fn host_page(&self, addr: u64) -> Option<(u64, Arc<dyn Memory>)> {
        let used = self.used.lock();
        used.values().find_map(|slot| {
            let offset = slot.pages.offset_of(addr)?;
            let host = piece(&*slot.memory)?.region().host_addr + offset;
            Some((host, Arc::clone(&slot.memory)))
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

    fn end(&self) -> u64 {
        self.offset + self.len
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
