//! One piece of guest memory behind a window of a registry's region.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use trapline_access::{DirtyBitmap, Memory};
use vm_memory::AtomicAccess;

use crate::{Error, GuestMem, RamFile, RamRegion};

/// One contiguous piece of memory, which stays mapped as long as this lives: what
/// `Delivery::Memory` has of a [`GuestMem`]. Offsets count from its first byte.
///
/// Its [`Memory::mapping`] is itself, from which a source takes [`Piece::region`].
#[derive(Clone, Debug)]
pub struct Piece {
    mem: GuestMem,
    region: RamRegion,
}

impl Piece {
    /// Where it is mapped. Nobody but a [`GuestMem`] makes a [`Piece`], so the addresses can be
    /// trusted.
    pub fn region(&self) -> RamRegion {
        self.region
    }

    /// Whether it is no memory but a device's registers ([`GuestMem::of_device`]).
    pub fn is_device(&self) -> bool {
        self.mem.find(self.region.guest_addr).is_some_and(|(region, _)| region.is_device())
    }

    /// Keeps the guest's RAM from going back to the host ([`GuestMem::keep`]).
    pub fn keep(&self) -> crate::Keep {
        self.mem.keep()
    }

    fn load<T: AtomicAccess>(&self, addr: u64, data: &mut [u8]) -> Result<(), Error> {
        let number: T = self.mem.load(addr, Ordering::Relaxed)?;
        data.copy_from_slice(number.as_slice());
        Ok(())
    }

    fn store<T: AtomicAccess>(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        let mut number = T::zeroed();
        number.as_mut_slice().copy_from_slice(data);
        self.mem.store(number, addr, Ordering::Relaxed)
    }
}

impl GuestMem {
    /// The pieces, in ascending order of guest address, for a registry to map.
    pub fn pieces(&self) -> Vec<Piece> {
        let piece = |region| Piece { mem: self.without_tap(), region };
        self.regions().into_iter().map(piece).collect()
    }
}

impl Memory for Piece {
    fn len(&self) -> u64 {
        self.region.len
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let addr = self.region.guest_addr.saturating_add(offset);
        let at_once = match data.len() {
            1 => self.load::<u8>(addr, data),
            2 => self.load::<u16>(addr, data),
            4 => self.load::<u32>(addr, data),
            8 => self.load::<u64>(addr, data),
            len => Err(Error::Unaligned { addr, len }),
        };
        // What is beyond the end is not asked for.
        let _whole = at_once.or_else(|_| self.mem.read(addr, data));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let addr = self.region.guest_addr.saturating_add(offset);
        let at_once = match data.len() {
            1 => self.store::<u8>(addr, data),
            2 => self.store::<u16>(addr, data),
            4 => self.store::<u32>(addr, data),
            8 => self.store::<u64>(addr, data),
            len => Err(Error::Unaligned { addr, len }),
        };
        let _whole = at_once.or_else(|_| self.mem.write(addr, data));
    }

    fn mapping(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let RamFile { fd, offset } = self.mem.file(self.region.guest_addr)?;
        Some((fd, offset))
    }

    fn page_size(&self) -> u64 {
        rustix::param::page_size() as u64
    }

    fn log_writes(&self, on: bool) {
        if let Some(written) = self.mem.written(self.region.guest_addr) {
            written.remember(on);
        }
    }

    fn take_written(&self, written: &mut DirtyBitmap) {
        if let Some(pages) = self.mem.written(self.region.guest_addr) {
            written.set_words(0, &pages.take());
        }
    }
}
