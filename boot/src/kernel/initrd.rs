//! Where the initial RAM disk goes: as high as the kernel and the RAM allow.

use std::ops::Range;

use trapline_guestmem::GuestMem;

use crate::Initrd;
use crate::e820::{E820Entry, E820Kind, ram_bytes};
use crate::error::Error;

const MIB: u64 = 1 << 20;

/// An initrd begins on a page: Linux gives its pages back when it has unpacked them.
const ALIGN: u64 = 0x1000;

/// What is left for an initrd.
pub(super) struct Room<'a> {
    /// The guest's RAM.
    pub(super) e820: &'a [E820Entry],
    /// Taken by the kernel.
    pub(super) kernel: &'a Range<u64>,
    /// Ends (exclusive) of what the kernel can reach, in the order to try them.
    pub(super) tops: Vec<u64>,
}

impl Room<'_> {
    /// Puts the initrd of the kernel called `kernel` at the highest place that is free.
    pub(super) fn load(
        &self,
        mem: &GuestMem,
        initrd: Option<Initrd<'_>>,
        kernel: &str,
    ) -> Result<Option<Range<u64>>, Error> {
        initrd.map(|initrd| initrd.put(mem, |name, len| self.find(name, len, kernel))).transpose()
    }

    fn find(&self, name: &str, len: u64, kernel: &str) -> Result<Range<u64>, Error> {
        if len == 0 {
            return Err(Error::Empty { name: name.to_owned() });
        }
        let place = self.tops.iter().find_map(|top| self.highest(len, *top));
        place.ok_or_else(|| {
            let highest = self.tops.iter().copied().max().unwrap_or(0);
            if self.highest(len, u64::MAX).is_some() {
                Error::initrd_limit(name, len, kernel, highest)
            } else {
                // What is reserved below 1 MiB is no news to who said -m.
                Error::initrd_does_not_fit(name, len, ram_bytes(self.e820).div_ceil(MIB))
            }
        })
    }

    /// The highest free place of `len` bytes that ends at `top` or below.
    fn highest(&self, len: u64, top: u64) -> Option<Range<u64>> {
        let above_kernel =
            |entry: &&E820Entry| entry.kind == E820Kind::Ram && entry.end() > self.kernel.end;
        self.e820.iter().rev().filter(above_kernel).find_map(|entry| {
            let end = entry.end().min(top);
            let start = end.saturating_sub(len) / ALIGN * ALIGN;
            let place = start..start.checked_add(len)?;
            (start >= entry.addr.max(self.kernel.end) && place.end <= end).then_some(place)
        })
    }
}
