//! The ring of coalesced writes: one page per VM, which KVM fills and we empty.
//!
//! `struct kvm_coalesced_mmio_ring` of Linux `include/uapi/linux/kvm.h`: `u32 first, last`, then
//! as many entries as the page holds. KVM puts a write at `last` and steps it; we take from
//! `first` and step that; `first == last` means empty. A full ring makes KVM exit with the write
//! instead, so how many entries it uses is its business: kernels up to 6.1 report full at half.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use trapline::CoalescedWrite;
use trapline_device::Space;

use crate::map::FdMap;

const FIRST: usize = offset_of!(kvm_coalesced_mmio_ring, first);
const LAST: usize = offset_of!(kvm_coalesced_mmio_ring, last);
const ENTRIES: usize = size_of::<kvm_coalesced_mmio_ring>();
const STRIDE: usize = size_of::<kvm_coalesced_mmio>();
const ADDR: usize = offset_of!(kvm_coalesced_mmio, phys_addr);
const LEN: usize = offset_of!(kvm_coalesced_mmio, len);
const PIO: usize = offset_of!(kvm_coalesced_mmio, __bindgen_anon_1);
const DATA: usize = offset_of!(kvm_coalesced_mmio, data);

/// Our end of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    page: FdMap,
    /// How many entries the page holds (170 of 4096 bytes).
    entries: u32,
}

impl Ring {
    /// The ring in `page`.
    pub(crate) fn new(page: FdMap) -> Self {
        let entries = u32::try_from((page.len().saturating_sub(ENTRIES)) / STRIDE).unwrap_or(0);
        Self { page, entries }
    }

    /// Whether anything is in the ring. The loads acquire what [`Ring::pop`] released, so a thread
    /// that finds the ring empty after another took the last entry also sees that other thread's
    /// flag that it is delivering.
    pub(crate) fn queued(&self) -> bool {
        self.index(FIRST, Ordering::Acquire) != self.index(LAST, Ordering::Acquire)
    }

    /// Takes the oldest write. One caller at a time, which the registry promises
    /// ([`trapline::Offload::pop`]): KVM has one ring for all vCPUs, and two that took at once
    /// would both get the same write.
    pub(crate) fn pop(&self) -> Option<CoalescedWrite> {
        // Pairs with KVM's write barrier between filling an entry and stepping `last`.
        let last = self.index(LAST, Ordering::Acquire)?;
        // Only we write `first`, but it sits in the same shared page. An index that is none is
        // put right by taking the ring for empty.
        let Some(first) = self.index(FIRST, Ordering::Relaxed) else {
            self.page.u32_at(FIRST)?.store(last, Ordering::Release);
            return None;
        };
        if first == last {
            return None;
        }
        let write = self.entry(first);
        // KVM may fill the entry again from here on.
        let next = if first + 1 < self.entries { first + 1 } else { 0 };
        self.page.u32_at(FIRST)?.store(next, Ordering::Release);
        write
    }

    /// One of the two indices, if it is one.
    fn index(&self, at: usize, order: Ordering) -> Option<u32> {
        Some(self.page.u32_at(at)?.load(order)).filter(|index| *index < self.entries)
    }

    fn entry(&self, index: u32) -> Option<CoalescedWrite> {
        let at = ENTRIES + usize::try_from(index).ok()? * STRIDE;
        let load = |offset| Some(self.page.u32_at(at + offset)?.load(Ordering::Relaxed));
        let addr = self.page.u64_at(at + ADDR)?.load(Ordering::Relaxed);
        let space = if load(PIO)? == 1 { Space::Pio } else { Space::Mmio };
        let len = u8::try_from(load(LEN)?.clamp(1, 8)).ok()?;
        let data = self.page.u64_at(at + DATA)?.load(Ordering::Relaxed).to_ne_bytes();
        Some(CoalescedWrite { space, addr, len, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::tests::memory;

    /// KVM's end (Linux `virt/kvm/coalesced_mmio.c`): false when there is no room.
    fn push(ring: &Ring, addr: u64, len: u32, pio: u32, data: [u8; 8]) -> bool {
        let at = |offset| ring.page.u32_at(offset).unwrap();
        let last = at(LAST).load(Ordering::Relaxed);
        let next = (last + 1) % ring.entries;
        if next == at(FIRST).load(Ordering::Relaxed) {
            return false;
        }
        let entry = ENTRIES + last as usize * STRIDE;
        ring.page.u64_at(entry + ADDR).unwrap().store(addr, Ordering::Relaxed);
        at(entry + LEN).store(len, Ordering::Relaxed);
        at(entry + PIO).store(pio, Ordering::Relaxed);
        ring.page.copy_in(entry + DATA, &data);
        at(LAST).store(next, Ordering::Release);
        true
    }

    #[test]
    fn writes_come_out_in_order_across_the_wrap() {
        let ring = Ring::new(memory(4096));
        assert_eq!(ring.entries, 170);
        let mut seen = 0u64;
        let mut made = 0u64;
        while seen < 1000 {
            while push(&ring, made, 4, 0, made.to_le_bytes()) {
                made += 1;
            }
            assert_eq!(made - seen, 169, "one entry stays free");
            for _ in 0..=seen % 100 {
                let write = ring.pop().unwrap();
                assert_eq!((write.space, write.addr, write.len), (Space::Mmio, seen, 4));
                assert_eq!(write.data, seen.to_le_bytes());
                seen += 1;
            }
        }
        while ring.pop().is_some() {
            seen += 1;
        }
        assert_eq!(seen, made);
        assert!(!ring.queued());
    }

    #[test]
    fn ports_and_addresses_are_told_apart() {
        let ring = Ring::new(memory(4096));
        push(&ring, 0x70, 1, 1, [0x0b; 8]);
        push(&ring, 0x70, 1, 0, [0x0c; 8]);
        assert_eq!(ring.pop().unwrap().space, Space::Pio);
        assert_eq!(ring.pop().unwrap().space, Space::Mmio);
    }

    proptest::proptest! {
        #[test]
        fn no_content_of_the_page_leads_outside_it(
            first: u32, last: u32, len: u32, pio: u32,
        ) {
            let ring = Ring::new(memory(4096));
            for first in [first, first % 170] {
                for last in [last, last % 170] {
                    ring.page.u32_at(FIRST).unwrap().store(first, Ordering::Relaxed);
                    ring.page.u32_at(LAST).unwrap().store(last, Ordering::Relaxed);
                    let entry = ENTRIES + (first % 170) as usize * STRIDE;
                    ring.page.u32_at(entry + LEN).unwrap().store(len, Ordering::Relaxed);
                    ring.page.u32_at(entry + PIO).unwrap().store(pio, Ordering::Relaxed);
                    let mut taken = 0;
                    while let Some(write) = ring.pop() {
                        assert!((1..=8).contains(&write.len));
                        taken += 1;
                        assert!(taken < 170);
                    }
                }
            }
        }
    }
}
