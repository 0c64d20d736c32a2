//! A mapping of pages the kernel shares with us, seen through atomics only, so that nothing the
//! kernel or another thread does to them at the same time is undefined here.

#![expect(unsafe_code, reason = "maps files and makes references into the mapping")]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// `len` bytes of a file, shared, readable and writable.
#[derive(Debug)]
pub(crate) struct FdMap {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached through
// atomics, which any thread may use at any time.
unsafe impl Send for FdMap {}
// SAFETY: as above.
unsafe impl Sync for FdMap {}

/// Makes one accessor: a reference to the atomic at `offset`, if it lies inside and is aligned.
macro_rules! atomic_at {
    ($name:ident, $atomic:ty) => {
        pub(crate) fn $name(&self, offset: usize) -> Option<&$atomic> {
            let size = size_of::<$atomic>();
            let end = offset.checked_add(size)?;
            if end > self.len || !offset.is_multiple_of(size) {
                return None;
            }
            // SAFETY: offset..end is inside the mapping, which lives as long as self; it is
            // aligned, because mappings start at a page; and this process reads and writes the
            // mapping through atomics only.
            Some(unsafe { <$atomic>::from_ptr(self.start.as_ptr().add(offset).cast()) })
        }
    };
}

impl FdMap {
    /// Maps `len` bytes of `fd` from `offset`, a multiple of the page size.
    pub(crate) fn new(fd: &impl AsRawFd, offset: usize, len: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no existing one.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, len })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    atomic_at!(u8_at, AtomicU8);
    atomic_at!(u16_at, AtomicU16);
    atomic_at!(u32_at, AtomicU32);
    atomic_at!(u64_at, AtomicU64);

    /// Copies from the mapping; bytes outside it read as zero.
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        for (at, chunk) in (offset..).step_by(8).zip(to.chunks_mut(8)) {
            let whole = if chunk.len() == 8 { self.u64_at(at) } else { None };
            if let Some(whole) = whole {
                chunk.copy_from_slice(&whole.load(Ordering::Relaxed).to_ne_bytes());
                continue;
            }
            for (at, byte) in (at..).zip(chunk) {
                *byte = self.u8_at(at).map_or(0, |from| from.load(Ordering::Relaxed));
            }
        }
    }

    /// Copies into the mapping; bytes outside it vanish.
    pub(crate) fn copy_in(&self, offset: usize, from: &[u8]) {
        for (at, chunk) in (offset..).step_by(8).zip(from.chunks(8)) {
            if let (Ok(bytes), Some(whole)) = (<[u8; 8]>::try_from(chunk), self.u64_at(at)) {
                whole.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
                continue;
            }
            for (at, byte) in (at..).zip(chunk) {
                if let Some(to) = self.u8_at(at) {
                    to.store(*byte, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Drop for FdMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference into it outlives self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A mapping of zeroed memory of this length.
    pub(crate) fn memory(len: usize) -> FdMap {
        let file = std::fs::File::from(
            rustix::fs::memfd_create("map", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        file.set_len(len as u64).unwrap();
        FdMap::new(&file, 0, len).unwrap()
    }

    #[test]
    fn nothing_outside_the_mapping_can_be_named() {
        let map = memory(4096);
        assert!(map.u32_at(4092).is_some());
        assert!(map.u32_at(4094).is_none());
        assert!(map.u32_at(4096).is_none());
        assert!(map.u64_at(usize::MAX - 7).is_none());
        assert!(map.u64_at(4).is_none(), "misaligned");
        map.copy_in(4090, &[7; 16]);
        let mut back = [9; 16];
        map.copy_out(4090, &mut back);
        assert_eq!(back, [7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn copies_of_every_length_and_alignment_come_back() {
        let map = memory(4096);
        let data: Vec<u8> = (0..64).collect();
        for offset in 0..16 {
            for len in 0..40 {
                map.copy_in(offset, &data[..len]);
                let mut back = vec![0xff; len];
                map.copy_out(offset, &mut back);
                assert_eq!(back, &data[..len]);
            }
        }
    }
}
