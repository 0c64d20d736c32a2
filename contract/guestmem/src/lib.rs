//! Guest RAM: one cheap handle over [`vm_memory`]'s mapped regions.
//!
//! Devices and loaders see guest physical addresses and bounds-checked copies; nobody outside
//! [`GuestMem::regions`] sees a host address. Mapping is `vm_memory`'s business; this crate's only
//! `unsafe` asks for huge pages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::mm::{Advice, madvise};
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

/// Why guest memory could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host would not map that much.
    #[error("cannot map {bytes} bytes of guest RAM: {reason}")]
    Map {
        /// How much was asked for.
        bytes: u64,
        /// The reason given.
        reason: String,
    },
    /// The range is not all RAM.
    #[error("guest addresses {addr:#x}..{:#x} are not all RAM", addr.saturating_add(*len as u64))]
    OutOfRange {
        /// First address.
        addr: u64,
        /// Length in bytes.
        len: usize,
    },
}

/// One contiguous piece of guest RAM, for the source that gives it to the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// First guest physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where this process has it mapped, for as long as any [`GuestMem`] handle lives.
    pub host_addr: u64,
}

/// A handle on the guest's RAM. Clones share it.
#[derive(Clone, Debug)]
pub struct GuestMem {
    inner: Arc<GuestMemoryMmap<()>>,
}

impl GuestMem {
    /// Maps zeroed, lazily populated RAM at each `(guest address, length in bytes)`, in huge pages
    /// where the host has them to give.
    ///
    /// # Errors
    /// [`Error::Map`] when the ranges overlap or the host refuses.
    pub fn new(ranges: &[(u64, u64)]) -> Result<Self, Error> {
        let bytes = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.1));
        let refused = |reason: String| Error::Map { bytes, reason };
        let mut wanted = Vec::with_capacity(ranges.len());
        for &(addr, len) in ranges {
            let len = usize::try_from(len).map_err(|e| refused(e.to_string()))?;
            wanted.push((GuestAddress(addr), len));
        }
        let inner = GuestMemoryMmap::from_ranges(&wanted).map_err(|e| refused(e.to_string()))?;
        inner.iter().for_each(ask_for_huge_pages);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Copies from guest RAM.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM; `buf` may be partly filled then.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Error> {
        let len = buf.len();
        self.inner.read_slice(buf, GuestAddress(addr)).map_err(|_| Error::OutOfRange { addr, len })
    }

    /// The little-endian number at `addr`; at a multiple of 8 all of it is as the guest wrote it at
    /// one time, and it costs a fraction of a copy.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM.
    pub fn read_u64(&self, addr: u64) -> Result<u64, Error> {
        if let Ok(loaded) = self.inner.load::<u64>(GuestAddress(addr), Ordering::Relaxed) {
            return Ok(u64::from_le(loaded));
        }
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Copies to guest RAM.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM; nothing is written then.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        if !self.contains(addr, data.len()) {
            return Err(Error::OutOfRange { addr, len: data.len() });
        }
        self.inner
            .write_slice(data, GuestAddress(addr))
            .map_err(|_| Error::OutOfRange { addr, len: data.len() })
    }

    /// Whether `len` bytes at `addr` are all RAM.
    pub fn contains(&self, addr: u64, len: usize) -> bool {
        GuestMemory::check_range(
            &*self.inner,
            GuestAddress(addr),
            len,
            vm_memory::Permissions::ReadWrite,
        )
    }

    /// Total RAM in bytes.
    pub fn len(&self) -> u64 {
        self.inner.iter().map(GuestMemoryRegion::len).sum()
    }

    /// Whether there is no RAM at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in ascending order of guest address.
    pub fn regions(&self) -> Vec<RamRegion> {
        self.inner
            .iter()
            .map(|region| RamRegion {
                guest_addr: region.start_addr().0,
                len: region.len(),
                host_addr: region.as_ptr() as u64,
            })
            .collect()
    }

    /// The `vm_memory` object, for loaders that take one.
    pub fn backend(&self) -> &GuestMemoryMmap<()> {
        &self.inner
    }
}

/// Many hosts give huge pages only to who asks. With small ones, a guest's every miss in its TLB,
/// and ours, walks one level more of the host's page tables, and the tables are five hundred times
/// as many.
#[expect(unsafe_code, reason = "advice is given by address")]
fn ask_for_huge_pages(region: &GuestRegionMmap<()>) {
    let len = usize::try_from(region.len()).unwrap_or(0);
    // SAFETY: the range is a live mapping of that length, and this advice changes neither what is
    // in it nor whether it can be reached.
    let asked = unsafe { madvise(region.as_ptr().cast(), len, Advice::LinuxHugepage) };
    // A host without them has none.
    let _not_given = asked;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_checked_against_the_map() {
        let mem = GuestMem::new(&[(0, 0x1000), (0x10000, 0x1000)]).unwrap();
        mem.write(0xffc, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        mem.read(0xffc, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert!(matches!(mem.write(0xffe, &[9; 4]), Err(Error::OutOfRange { .. })));
        mem.read(0xffc, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4], "a refused write leaves nothing behind");
        mem.write(0x108, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        assert_eq!(mem.read_u64(0x108).unwrap(), 0x0807_0605_0403_0201);
        assert_eq!(mem.read_u64(0x10a).unwrap(), 0x0000_0807_0605_0403, "no multiple of 8");
        assert!(mem.read_u64(0xffa).is_err() && mem.read_u64(0x1000).is_err());
        assert_eq!(mem.len(), 0x2000);
        assert_eq!(mem.regions()[1].guest_addr, 0x10000);
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        assert!(matches!(GuestMem::new(&[(0, 0x2000), (0x1000, 0x1000)]), Err(Error::Map { .. })));
    }
}
