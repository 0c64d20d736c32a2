//! Where the initial RAM disk goes: as high as the kernel and the RAM allow.

use std::ops::Range;

use trapline_guestmem::GuestMem;

use crate::Initrd;
use crate::e820::{E820Entry, E820Kind, ram_bytes};
use crate::error::Error;

/// An initrd begins on a page: Linux gives its pages back when it has unpacked them.
const ALIGN: u64 = 0x1000;

/// What is left for an initrd.
pub(super) struct Room<'a> {
    /// The guest's RAM.
    pub(super) e820: &'a [E820Entry],
    /// Taken by the kernel.
    pub(super) kernel: &'a Range<u64>,
    /// End (exclusive) of what the kernel can reach.
    pub(super) top: u64,
}

impl Room<'_> {
    /// Puts the initrd at the highest place that is free.
    pub(super) fn load(
        &self,
        mem: &GuestMem,
        initrd: Option<Initrd<'_>>,
    ) -> Result<Option<Range<u64>>, Error> {
        initrd.map(|initrd| initrd.put(mem, |name, len| self.find(name, len))).transpose()
    }

    fn find(&self, name: &str, len: u64) -> Result<Range<u64>, Error> {
        const MIB: u64 = 1 << 20;
        if len == 0 {
            return Err(Error::Empty { name: name.to_owned() });
        }
        let above_kernel =
            |entry: &&E820Entry| entry.kind == E820Kind::Ram && entry.end() > self.kernel.end;
        for entry in self.e820.iter().rev().filter(above_kernel) {
            let end = entry.end().min(self.top);
            let start = end.saturating_sub(len) / ALIGN * ALIGN;
            if start >= entry.addr.max(self.kernel.end) && start + len <= end {
                return Ok(start..start + len);
            }
        }
        Err(Error::InitrdDoesNotFit {
            name: name.to_owned(),
            mib: len.div_ceil(MIB),
            // What is reserved below 1 MiB is no news to who said -m.
            ram_mib: ram_bytes(self.e820).div_ceil(MIB),
        })
    }
}
