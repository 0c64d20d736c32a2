//! Guest RAM: one cheap handle over [`vm_memory`]'s regions.
//!
//! Devices and loaders see guest physical addresses and bounds-checked copies; nobody outside
//! [`GuestMem::regions`] sees a host address. `region.rs` maps RAM where huge pages can be shown to
//! the guest, out of what `backing.rs` makes; this crate's `unsafe` is in the former. `piece.rs` is
//! what the registry maps; `pieces.rs` is how code that is generic over [`vm_memory`]'s memory, as the
//! queues of virtio are, reaches RAM; `tap.rs` is who sees what devices do to it; `written.rs` remembers which
//! pages this process writes.

mod backing;
mod error;
mod piece;
mod pieces;
mod region;
mod tap;
#[cfg(test)]
mod tests;
mod written;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::RwLock;
use vm_memory::bitmap::BS;
use vm_memory::{
    AtomicAccess, AtomicInteger, Bytes, GuestAddress, GuestMemory, GuestMemoryBackend,
    GuestMemoryRegion, GuestRegionCollection, MemoryRegionAddress, VolatileSlice,
};

pub use backing::Backing;
pub use error::Error;
pub use piece::Piece;
pub use region::Region;
pub use tap::Tap;
pub use written::WrittenPages;

/// Bytes of guest RAM that others may change at any time: `vm_memory`'s bounds-checked access to
/// them, which marks what it writes for a log.
pub type Slice<'a> = VolatileSlice<'a, BS<'a, WrittenPages>>;

/// The `vm_memory` object behind a handle.
pub type Backend = GuestRegionCollection<Region>;

/// How guest RAM is to be made. The default is private.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where its bytes are.
    pub backing: Backing,
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

/// The file behind guest RAM, for another process to map.
#[derive(Clone, Copy, Debug)]
pub struct RamFile<'a> {
    /// The file.
    pub fd: BorrowedFd<'a>,
    /// Where in it.
    pub offset: u64,
}

/// A handle on the guest's RAM. Clones share it.
#[derive(Clone, Debug)]
pub struct GuestMem {
    /// Empty in a handle that a tap sees: so it is only where an access finds nothing that anybody asks
    /// whether there is a tap.
    inner: Arc<Backend>,
    rest: Arc<Rest>,
}

#[derive(Debug)]
struct Rest {
    /// How many have asked to keep it all. Held for reading while some goes.
    keepers: Arc<RwLock<usize>>,
    tapped: Option<Tapped>,
}

/// What is behind a handle that a tap sees.
#[derive(Debug)]
struct Tapped {
    mem: GuestMem,
    tap: Arc<dyn Tap>,
}

/// Nothing of a guest's RAM goes back to the host while any of these is there: see
/// [`GuestMem::keep`].
#[derive(Debug)]
#[must_use = "dropping it lets memory go"]
pub struct Keep(Arc<RwLock<usize>>);

impl Drop for Keep {
    fn drop(&mut self) {
        *self.0.write() -= 1;
    }
}

impl GuestMem {
    /// Maps zeroed, lazily populated private RAM at each `(guest address, length in bytes)`, in
    /// ascending order, in huge pages where the host has them to give.
    ///
    /// # Errors
    /// [`Error::Map`] when the ranges overlap or the host refuses.
    pub fn new(ranges: &[(u64, u64)]) -> Result<Self, Error> {
        Self::with_options(ranges, &Options::default())
    }

    /// [`GuestMem::new`] with a choice. Each piece is mapped at an address that differs from the
    /// guest's by a multiple of the largest power of two that is no longer than it, up to 1 GiB, so
    /// that every huge page of it can be one for the guest.
    ///
    /// # Errors
    /// The ranges overlap, or the host refuses; each error's text is one sentence for the user.
    pub fn with_options(ranges: &[(u64, u64)], options: &Options) -> Result<Self, Error> {
        let regions = ranges.iter().map(|&(addr, len)| Region::new(addr, len, options));
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        let inner = GuestRegionCollection::from_regions(regions).map_err(|e| Error::Map {
            bytes: ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.1)),
            reason: e.to_string(),
        })?;
        Ok(Self::untapped_of(inner))
    }

    /// `len` bytes from address 0 that are all ones, for a guest to read. However many they are, they
    /// take no more than a few pages of the host. What is written to them is kept, but takes a page
    /// of its own.
    ///
    /// # Errors
    /// [`Error::Map`] when the length is no multiple of the host's page, or the host refuses.
    pub fn all_ones(len: u64) -> Result<Self, Error> {
        // One page, so that a read of it maps one: the host maps what is around a page of a file that
        // is accessed, too, but not beyond its mapping (fault-around), and each place where a page is
        // mapped counts as memory of this process. That is 200 bytes of the kernel's for a place.
        const UNIT_PAGES: usize = 1;
        let refused = |reason: String| Error::Map { bytes: len, reason };
        let page = rustix::param::page_size();
        if len == 0 || !len.is_multiple_of(page as u64) {
            return Err(refused("all ones come in whole pages".to_owned()));
        }
        let unit = UNIT_PAGES * page;
        let region = backing::ones(unit).and_then(|ones| Region::repeated(len, &ones, unit));
        let region = region.map_err(|reason| refused(reason.to_string()))?;
        let inner = GuestRegionCollection::from_regions(vec![region]);
        Ok(Self::untapped_of(inner.map_err(|error| refused(error.to_string()))?))
    }

    /// `len` bytes of a device's registers from address 0, which its file shares from `offset` on
    /// (VFIO's regions): for a guest that drives the device itself. Both are multiples of the host's
    /// page. Registers of 1, 2, 4 and 8 bytes are reached by one access each, through a [`Piece`].
    ///
    /// # Errors
    /// [`Error::Map`] when the length is none that can be mapped, or the host refuses.
    pub fn of_device(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, Error> {
        let refused = |reason: String| Error::Map { bytes: len, reason };
        let page = rustix::param::page_size() as u64;
        if len == 0 || !len.is_multiple_of(page) || !offset.is_multiple_of(page) {
            return Err(refused("a device's registers come in whole pages".to_owned()));
        }
        let region = Region::of_device(fd, offset, len);
        let region = region.map_err(|reason| refused(reason.to_string()))?;
        let inner = GuestRegionCollection::from_regions(vec![region]);
        Ok(Self::untapped_of(inner.map_err(|error| refused(error.to_string()))?))
    }

    /// Lets go of the device of [`GuestMem::of_device`]: its file is not open here any more, and whoever
    /// still has the memory finds zeroes in it. Does nothing to other memory.
    ///
    /// # Errors
    /// [`Error::Map`] when the host refuses.
    pub fn leave_device(&self) -> Result<(), Error> {
        let left = self.backend().iter().try_for_each(Region::leave_device);
        left.map_err(|reason| Error::Map { bytes: self.len(), reason: reason.to_string() })
    }

    fn untapped_of(regions: Backend) -> Self {
        let rest = Rest { keepers: Arc::default(), tapped: None };
        Self { inner: Arc::new(regions), rest: Arc::new(rest) }
    }

    /// The same RAM, for devices whose reads and writes `tap` sees.
    #[must_use]
    pub fn with_tap(&self, tap: Arc<dyn Tap>) -> Self {
        let keepers = Arc::clone(&self.rest.keepers);
        let tapped = Some(Tapped { mem: self.without_tap(), tap });
        Self { inner: Arc::new(Backend::new()), rest: Arc::new(Rest { keepers, tapped }) }
    }

    /// The same RAM for a back end of a device, of whose accesses no tap hears.
    #[must_use]
    pub fn without_tap(&self) -> Self {
        self.untapped().clone()
    }

    fn untapped(&self) -> &Self {
        self.rest.tapped.as_ref().map_or(self, |tapped| &tapped.mem)
    }

    /// Copies from guest RAM.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM; `buf` may be partly filled then.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Error> {
        // A descriptor or a header.
        if let Ok(both) = <&mut [u8; 16]>::try_from(&mut *buf)
            && let Some(read) = self.read_u128(addr)
        {
            *both = read.to_le_bytes();
            return Ok(());
        }
        if let Some((region, offset)) = self.find(addr)
            && let Ok(slice) = region.get_slice(offset, buf.len())
        {
            slice.copy_to(buf);
            return Ok(());
        }
        self.read_otherwise(addr, buf)
    }

    #[cold]
    fn read_otherwise(&self, addr: u64, buf: &mut [u8]) -> Result<(), Error> {
        if let Some(Tapped { mem, tap }) = &self.rest.tapped {
            mem.read(addr, buf)?;
            tap.read(addr, buf);
            return Ok(());
        }
        let len = buf.len();
        self.inner.read_slice(buf, GuestAddress(addr)).map_err(|_| Error::OutOfRange { addr, len })
    }

    /// The little-endian number at `addr`; at a multiple of 8 all of it is as the guest wrote it at
    /// one time, and it costs a fraction of a copy.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM.
    pub fn read_u64(&self, addr: u64) -> Result<u64, Error> {
        if let Ok(loaded) = self.load::<u64>(addr, Ordering::Relaxed) {
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
        // The status of a request.
        if let [byte] = data {
            return self.store(*byte, addr, Ordering::Relaxed);
        }
        if let Some((region, offset)) = self.find(addr)
            && let Ok(slice) = region.get_slice(offset, data.len())
        {
            slice.copy_from(data);
            return Ok(());
        }
        self.write_otherwise(addr, data)
    }

    #[cold]
    fn write_otherwise(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        if let Some(Tapped { mem, tap }) = &self.rest.tapped {
            mem.write(addr, data)?;
            tap.wrote(addr, data);
            return Ok(());
        }
        if !self.contains(addr, data.len()) {
            return Err(Error::OutOfRange { addr, len: data.len() });
        }
        self.inner
            .write_slice(data, GuestAddress(addr))
            .map_err(|_| Error::OutOfRange { addr, len: data.len() })
    }

    /// `len` bytes at `addr`, in place, of one piece of RAM: a buffer or a ring that a driver has
    /// handed over. Others may change them at any time.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM, or of another piece.
    pub fn slice(&self, addr: u64, len: usize) -> Result<Slice<'_>, Error> {
        match self.find(addr) {
            Some((region, offset)) => {
                region.get_slice(offset, len).map_err(|_| Error::OutOfRange { addr, len })
            }
            None => self.slice_otherwise(addr, len),
        }
    }

    #[cold]
    fn slice_otherwise(&self, addr: u64, len: usize) -> Result<Slice<'_>, Error> {
        match &self.rest.tapped {
            Some(Tapped { mem, .. }) => mem.slice(addr, len),
            None => Err(Error::OutOfRange { addr, len }),
        }
    }

    /// One atomic load, in the host's byte order: the index of a ring.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM, [`Error::Unaligned`] when the address is no
    /// multiple of the size.
    #[inline]
    pub fn load<T: AtomicAccess>(&self, addr: u64, order: Ordering) -> Result<T, Error> {
        let found = self.find(addr).and_then(|(region, offset)| region.number::<T::A>(offset.0));
        match found {
            Some(number) => Ok(number.load(order).into()),
            None => self.load_otherwise(addr, order),
        }
    }

    #[cold]
    fn load_otherwise<T: AtomicAccess>(&self, addr: u64, order: Ordering) -> Result<T, Error> {
        let Some(Tapped { mem, tap }) = &self.rest.tapped else {
            return Err(self.not_atomic(addr, size_of::<T>()));
        };
        let mut loaded: T = mem.load(addr, order)?;
        tap.read(addr, loaded.as_mut_slice());
        Ok(loaded)
    }

    /// `count` numbers of 64 bits from `addr` on, in place and in the host's byte order, if all of them
    /// are RAM of one piece and `addr` is a multiple of 8: a table that a driver has handed over. None
    /// for whom a tap sees, which could not see what is read of them.
    #[inline]
    pub fn words(&self, addr: u64, count: usize) -> Option<&[AtomicU64]> {
        let (region, MemoryRegionAddress(offset)) = self.find(addr)?;
        region.numbers(offset, count)
    }

    /// One atomic store, in the host's byte order.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM, [`Error::Unaligned`] when the address is no
    /// multiple of the size; nothing is written then.
    pub fn store<T: AtomicAccess>(
        &self,
        value: T,
        addr: u64,
        order: Ordering,
    ) -> Result<(), Error> {
        let found = self
            .find(addr)
            .and_then(|(region, offset)| Some((region, offset, region.number::<T::A>(offset.0)?)));
        let Some((region, offset, number)) = found else {
            return self.store_otherwise(value, addr, order);
        };
        number.store(value.into(), order);
        region.have_written(offset.0, size_of::<T>());
        Ok(())
    }

    #[cold]
    fn store_otherwise<T: AtomicAccess>(
        &self,
        value: T,
        addr: u64,
        order: Ordering,
    ) -> Result<(), Error> {
        let Some(Tapped { mem, tap }) = &self.rest.tapped else {
            return Err(self.not_atomic(addr, size_of::<T>()));
        };
        mem.store(value, addr, order)?;
        tap.wrote(addr, value.as_slice());
        Ok(())
    }

    /// Two atomic stores to `addr` and behind, in the host's byte order and in this order: an entry of a
    /// ring.
    ///
    /// # Errors
    /// As of [`GuestMem::store`].
    #[inline]
    pub fn store_pair(&self, values: [u32; 2], addr: u64) -> Result<(), Error> {
        let found = self.find(addr).and_then(|(region, offset)| {
            let [first, second] = region.numbers::<AtomicU32>(offset.0, 2)? else { return None };
            Some((region, offset, first, second))
        });
        let Some((region, offset, first, second)) = found else {
            return self.store_pair_otherwise(values, addr);
        };
        let [one, other] = values;
        first.store(one, Ordering::Relaxed);
        second.store(other, Ordering::Relaxed);
        region.have_written(offset.0, size_of_val(&values));
        Ok(())
    }

    #[cold]
    fn store_pair_otherwise(&self, values: [u32; 2], addr: u64) -> Result<(), Error> {
        let Some(Tapped { mem, tap }) = &self.rest.tapped else {
            return Err(self.not_atomic(addr, size_of_val(&values)));
        };
        mem.store_pair(values, addr)?;
        for (at, value) in (addr..).step_by(size_of::<u32>()).zip(values) {
            tap.wrote(at, &value.to_ne_bytes());
        }
        Ok(())
    }

    /// Marks `len` bytes at `addr` as written: for who has somebody else write there, as the kernel.
    /// What is not RAM is left out.
    pub fn have_written(&self, addr: u64, len: usize) {
        let (mut addr, mut left) = (addr, len as u64);
        while let Some((region, offset)) = self.find_unseen(addr).filter(|_| left > 0) {
            let piece = left.min(region.len() - offset.0);
            region.have_written(offset.0, usize::try_from(piece).unwrap_or(usize::MAX));
            addr = addr.wrapping_add(piece);
            left -= piece;
        }
    }

    /// Sixteen bytes at a multiple of eight, in order.
    #[inline]
    fn read_u128(&self, addr: u64) -> Option<u128> {
        let [low, high] = self.words(addr, 2)? else { return None };
        let [low, high] = [low, high].map(|half| u64::from_le(half.load(Ordering::Relaxed)));
        Some(u128::from(high) << 64 | u128::from(low))
    }

    #[cold]
    fn not_atomic(&self, addr: u64, len: usize) -> Error {
        match self.slice(addr, len) {
            Ok(_) => Error::Unaligned { addr, len },
            Err(error) => error,
        }
    }

    /// Gives the whole pages in `len` bytes at `addr` back to the host: the guest reads zeroes in
    /// them from then on, until it writes, and they cost nothing until it touches them. Says how many
    /// bytes those are.
    ///
    /// It is none while somebody [keeps](Self::keep) the memory, and none of a hugetlbfs: its pages
    /// were reserved for the guest, which could find none when it wants them again.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM; nothing has changed then. The host's
    /// ([`Error::GiveBack`]), for whom only a part may have gone.
    pub fn give_back(&self, addr: u64, len: u64) -> Result<u64, Error> {
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        if !self.contains(addr, bytes) {
            return Err(Error::OutOfRange { addr, len: bytes });
        }
        let keepers = self.rest.keepers.read();
        if *keepers > 0 {
            return Ok(0);
        }
        let (mut at, end, mut sum) = (addr, addr + len, 0);
        while let Some((region, offset)) = self.find_unseen(at).filter(|_| at < end) {
            let piece = (region.len() - offset.0).min(end - at);
            let given = region.give_back(offset.0, piece);
            sum += given.map_err(|reason| Error::GiveBack { addr: at, reason })?;
            at += piece;
        }
        Ok(sum)
    }

    /// Keeps all of it here for as long as what is returned lives: for who has the pages themselves,
    /// and would go on with those when the guest has others, as an IOMMU for a device that it lets
    /// reach them (VFIO). When this returns nothing is on its way to the host.
    pub fn keep(&self) -> Keep {
        *self.rest.keepers.write() += 1;
        Keep(Arc::clone(&self.rest.keepers))
    }

    /// Whether `len` bytes at `addr` are all RAM.
    pub fn contains(&self, addr: u64, len: usize) -> bool {
        GuestMemory::check_range(
            self.backend(),
            GuestAddress(addr),
            len,
            vm_memory::Permissions::ReadWrite,
        )
    }

    /// Total RAM in bytes.
    pub fn len(&self) -> u64 {
        self.backend().iter().map(GuestMemoryRegion::len).sum()
    }

    /// Whether there is no RAM at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in ascending order of guest address.
    pub fn regions(&self) -> Vec<RamRegion> {
        self.backend()
            .iter()
            .map(|region| RamRegion {
                guest_addr: region.start_addr().0,
                len: region.len(),
                host_addr: region.host_addr(),
            })
            .collect()
    }

    /// The file with the RAM at `addr` and what follows in the same piece, unless the memory is
    /// private or there is none.
    pub fn file(&self, addr: u64) -> Option<RamFile<'_>> {
        let (region, offset) = self.find_unseen(addr)?;
        let file = region.file_offset()?;
        Some(RamFile { fd: file.file().as_fd(), offset: file.start() + offset.0 })
    }

    /// The `vm_memory` object, for loaders and for crates that take one.
    pub fn backend(&self) -> &Backend {
        &self.untapped().inner
    }

    /// Which pages of the piece at `addr` this process has written.
    pub(crate) fn written(&self, addr: u64) -> Option<&WrittenPages> {
        self.find_unseen(addr).map(|(region, _)| region.written())
    }

    /// The region with this address, for what no tap hears of.
    #[inline]
    fn find_unseen(&self, addr: u64) -> Option<(&Region, MemoryRegionAddress)> {
        self.find(addr).or_else(|| self.untapped().find(addr))
    }

    /// The region with this address, of which there are two or three in a machine. None in a handle that a
    /// tap sees.
    #[inline]
    fn find(&self, addr: u64) -> Option<(&Region, MemoryRegionAddress)> {
        let offset = |region: &Region| addr.wrapping_sub(region.start_addr().0);
        let region = self.inner.iter().find(|region| offset(region) < region.len())?;
        Some((region, MemoryRegionAddress(offset(region))))
    }
}
