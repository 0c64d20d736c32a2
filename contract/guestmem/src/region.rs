//! One piece of guest RAM: a mapping of this process, aligned as the guest sees it.
//!
//! Nested paging can give the guest a huge page only where a huge page of ours begins at the same
//! distance from a multiple of its size. So the address of the mapping is chosen, which
//! `vm_memory` does not do by itself: it is put into a piece of address space reserved before.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vm_memory::bitmap::{BS, Bitmap, NewBitmap};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{
    AtomicInteger, FileOffset, GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestMemoryResult, GuestUsize, MemoryRegionAddress, VolatileMemory, VolatileSlice,
};

use crate::written::WrittenPages;
use crate::{Backing, Error, Options};

/// Pages this large are the largest that x86-64's and arm64's tables have below half a terabyte.
const LARGEST_PAGE: u64 = 1 << 30;

/// One piece of guest RAM.
#[derive(Debug)]
pub struct Region {
    start: GuestAddress,
    /// In [`Self::_reservation`], which unmaps it.
    ram: MmapRegion<WrittenPages>,
    /// Whether its pages are not to go back to the host: they are set aside for it alone, or would
    /// not be zeroes afterwards.
    reserved: bool,
    /// Whether it is no memory but a device's registers.
    device: bool,
    _reservation: Reservation,
}

impl Region {
    pub(crate) fn new(addr: u64, len: u64, options: &Options) -> Result<Self, Error> {
        let refused = |reason: String| Error::Map { bytes: len, reason };
        let page = options.backing.huge_page()?;
        if let (Some(page), Backing::Hugetlbfs(path)) = (page, &options.backing)
            && !(addr.is_multiple_of(page) && len.is_multiple_of(page))
        {
            return Err(Error::NotWholePages { path: path.clone(), addr, len, page });
        }
        if len == 0 || addr.checked_add(len).is_none() {
            return Err(refused("the range is empty or exceeds 64 bits".to_owned()));
        }
        let file = options.backing.file(addr, len)?;
        let mapped = Reservation::new(addr, len, page)
            .and_then(|reservation| reservation.map(file, &options.backing));
        let (ram, reservation) = mapped.map_err(|reason| match (page, &options.backing) {
            (Some(page), Backing::Hugetlbfs(path)) if out_of_memory(&reason) => {
                Error::TooFewHugePages { path: path.clone(), pages: len / page, page }
            }
            _ => refused(reason.to_string()),
        })?;
        let reserved = matches!(options.backing, Backing::Hugetlbfs(_));
        Ok(Self {
            start: GuestAddress(addr),
            ram,
            reserved,
            device: false,
            _reservation: reservation,
        })
    }

    /// `len` bytes, whole pages, that are the bytes of `unit` again and again: all of it is mapped to
    /// the same pages, until somebody writes to a place, which then has a page of its own.
    pub(crate) fn repeated(len: u64, unit: &File, unit_len: usize) -> io::Result<Self> {
        let reservation = Reservation::new(0, len, None)?;
        let (ram, reservation) = reservation.map_repeatedly(unit, unit_len)?;
        let start = GuestAddress(0);
        Ok(Self { start, ram, reserved: true, device: false, _reservation: reservation })
    }

    /// `len` bytes, whole pages, of a device that shares them by its file: its registers, for a guest
    /// that drives the device itself.
    pub(crate) fn of_device(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<Self> {
        let reservation = Reservation::new(0, len, None)?;
        let (ram, reservation) = reservation.map_device(fd, offset)?;
        let start = GuestAddress(0);
        Ok(Self { start, ram, reserved: true, device: true, _reservation: reservation })
    }

    /// Puts zeroes in the place of a device's registers, so that nothing here keeps its file open.
    #[expect(unsafe_code, reason = "mmap")]
    pub(crate) fn leave_device(&self) -> io::Result<()> {
        if !self.device {
            return Ok(());
        }
        let place = self.ram.as_ptr().cast();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: all of the range is the mapping of this region, which stays one. That its bytes
        // change is what everybody has to expect of registers, to which nobody has a reference.
        unsafe { mmap_anonymous(place, self.ram.size(), prot, flags)? };
        Ok(())
    }

    pub(crate) fn is_device(&self) -> bool {
        self.device
    }

    pub(crate) fn host_addr(&self) -> u64 {
        self.ram.as_ptr().addr() as u64
    }

    /// Gives the whole pages of a part of it back to the host; how many bytes those are.
    #[expect(unsafe_code, reason = "madvise")]
    pub(crate) fn give_back(&self, offset: u64, len: u64) -> io::Result<u64> {
        let page = rustix::param::page_size() as u64;
        // Guest and host addresses differ by a multiple of a page.
        let first = (self.start.0 + offset).next_multiple_of(page) - self.start.0;
        let end = (self.start.0 + offset + len) / page * page;
        let len = end.saturating_sub(self.start.0).saturating_sub(first);
        if self.reserved || len == 0 {
            return Ok(0);
        }
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
        let (at, bytes) = (size(first)?, size(len)?);
        // They are zeroes now, which is not what they were.
        self.ram.bitmap().mark_dirty(at, bytes);
        if let Some(file) = self.ram.file_offset() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file.file(), flags, file.start() + first, len)?;
            return Ok(len);
        }
        let part = self.ram.get_slice(at, bytes).map_err(io::Error::other)?;
        let start = part.ptr_guard_mut().as_ptr().cast();
        // SAFETY: the range is RAM of the guest's, whole pages of it, and stays mapped. That it
        // changes is what everybody has to expect of such memory, which nobody has a reference to.
        unsafe { madvise(start, bytes, Advice::LinuxDontNeed)? };
        Ok(len)
    }

    /// The number at `offset`, in place, if all of it is RAM and it is aligned. Without it an access of
    /// a few bytes costs several times as much in `vm_memory`'s views, which are for any length.
    #[inline]
    pub(crate) fn number<A: AtomicInteger>(&self, offset: u64) -> Option<&A> {
        self.numbers(offset, 1)?.first()
    }

    /// `count` numbers from `offset` on, in place, if all of them are RAM and aligned.
    #[inline]
    #[expect(unsafe_code, reason = "references to atomic numbers in RAM")]
    pub(crate) fn numbers<A: AtomicInteger>(&self, offset: u64, count: usize) -> Option<&[A]> {
        let offset = usize::try_from(offset).ok()?;
        let len = count.checked_mul(size_of::<A>())?;
        if offset.checked_add(len)? > self.ram.size() {
            return None;
        }
        let host = self.ram.as_ptr().wrapping_add(offset).cast::<A>();
        // SAFETY: all of them are in the mapping, which stays for as long as the region and is no
        // longer than a slice can be, and they are aligned. An atomic number is what it is whatever
        // bytes it has, and may be changed by anybody at any time; nobody has a reference of another
        // kind to RAM.
        host.is_aligned().then(|| unsafe { std::slice::from_raw_parts(host, count) })
    }

    /// Bytes that were written past its views.
    #[inline]
    pub(crate) fn have_written(&self, offset: u64, len: usize) {
        self.ram.bitmap().mark_dirty(usize::try_from(offset).unwrap_or(usize::MAX), len);
    }

    /// Which pages this process has written.
    pub(crate) fn written(&self) -> &WrittenPages {
        self.ram.bitmap()
    }
}

fn out_of_memory(reason: &io::Error) -> bool {
    matches!(reason.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull)
}

impl GuestMemoryRegion for Region {
    type B = WrittenPages;

    fn len(&self) -> GuestUsize {
        self.ram.size() as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        self.ram.bitmap().slice_at(0)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.ram.file_offset()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, Self::B>>> {
        let offset = usize::try_from(offset.0).unwrap_or(usize::MAX);
        Ok(self.ram.get_slice(offset, count)?)
    }
}

impl GuestMemoryRegionBytes for Region {}

/// A piece of this process's address space with RAM in it, and nothing at either side of the RAM.
/// Unmapped when dropped.
#[derive(Debug)]
struct Reservation {
    /// Of all of it.
    addr: usize,
    len: usize,
    /// Where the RAM goes.
    ram: usize,
    ram_len: usize,
}

impl Reservation {
    /// Reserves room for `len` bytes at an address that differs from the guest's by a multiple of
    /// the largest page that could be in them.
    #[expect(unsafe_code, reason = "mmap")]
    fn new(guest: u64, len: u64, page: Option<u64>) -> io::Result<Self> {
        let small = rustix::param::page_size();
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory);
        let largest_fit = 1 << len.checked_ilog2().unwrap_or(0);
        let align = size(largest_fit.min(LARGEST_PAGE).max(page.unwrap_or(0)))?.max(small);
        let ram_len = size(len)?;
        // The kernel's choice is a multiple of a small page, so it misses ours by this at most.
        let len = ram_len.checked_next_multiple_of(small);
        let len = len.and_then(|len| len.checked_add(align - small));
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;

        let (none, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses an address where nothing is.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, none, flags)? };
        let addr = start.expose_provenance();
        // A guest address within a page only counts by its page.
        let wanted = size(guest % align as u64)? / small * small;
        let ram = addr + (wanted.wrapping_sub(addr) & (align - 1));
        Ok(Self { addr, len, ram, ram_len })
    }

    /// Puts RAM at its place.
    #[expect(unsafe_code, reason = "mmap and madvise")]
    fn map(
        self,
        file: Option<FileOffset>,
        backing: &Backing,
    ) -> io::Result<(MmapRegion<WrittenPages>, Self)> {
        let ram = std::ptr::with_exposed_provenance_mut(self.ram);
        let (prot, len) = (ProtFlags::READ | ProtFlags::WRITE, self.ram_len);
        // Huge pages of a hugetlbfs are reserved here and now: a guest that found none later would
        // kill us by SIGBUS. Everything else may be more than the host has.
        let reserve = match backing {
            Backing::Hugetlbfs(_) => MapFlags::empty(),
            Backing::Private | Backing::Memfd => MapFlags::NORESERVE,
        };
        let fixed = MapFlags::FIXED | reserve;
        match &file {
            // SAFETY: all of the range is in our reservation, where nothing else is.
            None => unsafe { mmap_anonymous(ram, len, prot, MapFlags::PRIVATE | fixed)? },
            // SAFETY: as above.
            Some(file) => unsafe {
                mmap(ram, len, prot, MapFlags::SHARED | fixed, file.file(), file.start())?
            },
        };
        if !matches!(backing, Backing::Hugetlbfs(_)) {
            // SAFETY: the range is what has just been mapped, and this advice changes neither what
            // is in it nor whether it can be reached.
            let asked = unsafe { madvise(ram, len, Advice::LinuxHugepage) };
            // A host without huge pages has none. Most that have them give them only to who asks;
            // with small ones every miss in the guest's TLB, and ours, walks one level more.
            let _not_given = asked;
        }
        self.into_region(file)
    }

    /// Puts the first `unit_len` bytes of a file, whole pages, at its place as often as there is room.
    #[expect(unsafe_code, reason = "mmap")]
    fn map_repeatedly(
        self,
        unit: &File,
        unit_len: usize,
    ) -> io::Result<(MmapRegion<WrittenPages>, Self)> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        for start in (0..self.ram_len).step_by(unit_len) {
            let place = std::ptr::with_exposed_provenance_mut(self.ram + start);
            let len = unit_len.min(self.ram_len - start);
            // SAFETY: all of the range is in our reservation, where nothing else is.
            unsafe { mmap(place, len, prot, flags, unit, 0)? };
        }
        self.into_region(None)
    }

    /// Puts a device's pages at its place. They are no memory: the kernel would fault on advice about
    /// them, and nobody else is to map them by our file.
    #[expect(unsafe_code, reason = "mmap")]
    fn map_device(
        self,
        fd: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<(MmapRegion<WrittenPages>, Self)> {
        let place = std::ptr::with_exposed_provenance_mut(self.ram);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: all of the range is in our reservation, where nothing else is.
        unsafe { mmap(place, self.ram_len, prot, flags, fd, offset)? };
        self.into_region(None)
    }

    /// All of the place as a region, now that something is mapped there.
    #[expect(unsafe_code, reason = "a region that vm_memory did not map")]
    fn into_region(self, file: Option<FileOffset>) -> io::Result<(MmapRegion<WrittenPages>, Self)> {
        let written = WrittenPages::with_len(self.ram_len);
        let builder = MmapRegionBuilder::new_with_bitmap(self.ram_len, written);
        let builder = match file {
            Some(file) => builder.with_file_offset(file),
            None => builder,
        };
        let ram: *mut u8 = std::ptr::with_exposed_provenance_mut(self.ram);
        // SAFETY: the range is mapped, and stays so for as long as the reservation, which the
        // caller keeps beside the region.
        let builder = unsafe { builder.with_raw_mmap_pointer(ram) };
        Ok((builder.build().map_err(io::Error::other)?, self))
    }
}

impl Drop for Reservation {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        let start = std::ptr::with_exposed_provenance_mut(self.addr);
        // SAFETY: the range is what we have mapped, and whoever had a reference into it borrowed
        // the region that is being dropped.
        let unmapped = unsafe { munmap(start, self.len) };
        debug_assert!(unmapped.is_ok(), "what was mapped can be unmapped");
    }
}
