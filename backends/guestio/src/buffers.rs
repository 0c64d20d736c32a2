//! A scatter-gather list of guest memory, and reads and writes of files with it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use smallvec::SmallVec;
use trapline_guestmem::{Error, GuestMem, Slice};

/// `UIO_MAXIOV` of `linux/uio.h`: more pieces than this are for the next call.
const PIECES_AT_ONCE: usize = 1024;

/// Pieces of a usual request, which need no allocation.
const USUAL: usize = 1;

/// Whether a read or write may wait for the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it is done.
    Yes,
    /// Not at all (`RWF_NOWAIT`): what the page cache has not got, or cannot take, is an error of
    /// kind [`io::ErrorKind::WouldBlock`], or is left over.
    No,
}

/// Pieces of guest memory in the order in which a driver has chained them, as far as they have not
/// been used yet. Each is all RAM, and stays mapped as long as this lives.
#[derive(Debug)]
pub struct Buffers {
    mem: GuestMem,
    /// What is left of each piece that is not used up.
    pieces: SmallVec<[Piece; USUAL]>,
    /// The same for the kernel.
    iovecs: SmallVec<[IoVec; USUAL]>,
    /// Pieces before this are used up.
    first: usize,
    /// Bytes left.
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    addr: u64,
    len: usize,
}

/// An address in guest RAM.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct IoVec(libc::iovec);

// SAFETY: it refers to memory that the guest's processors share anyway; nobody in this process has
// a reference to it.
#[expect(unsafe_code, reason = "an address that threads may share")]
unsafe impl Send for IoVec {}
// SAFETY: as above; and nothing in it changes through a shared reference.
#[expect(unsafe_code, reason = "an address that threads may share")]
unsafe impl Sync for IoVec {}

impl Buffers {
    /// No buffers yet, in this memory.
    pub fn new(mem: &GuestMem) -> Self {
        Self {
            mem: mem.clone(),
            pieces: SmallVec::new(),
            iovecs: SmallVec::new(),
            first: 0,
            len: 0,
        }
    }

    /// One more buffer, of `len` bytes at guest address `addr`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when any byte is not RAM; it is not added then.
    pub fn push(&mut self, addr: u64, len: usize) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let host = self.mem.slice(addr, len)?.ptr_guard_mut().as_ptr();
        self.pieces.push(Piece { addr, len });
        self.iovecs.push(IoVec(libc::iovec { iov_base: host.cast(), iov_len: len }));
        self.len = self.len.saturating_add(len as u64);
        Ok(())
    }

    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether all is used up.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every piece that is left begins at a host address, and has a length, that is a
    /// multiple of `align`, a power of two: what `O_DIRECT` asks for.
    pub fn is_aligned(&self, align: usize) -> bool {
        let mask = align.wrapping_sub(1);
        self.left().iter().all(|IoVec(v)| v.iov_base.addr() & mask == 0 && v.iov_len & mask == 0)
    }

    /// Skips the first `count` bytes that are left, or all of them if they are fewer.
    pub fn consume(&mut self, count: u64) {
        if count >= self.len {
            (self.first, self.len) = (self.pieces.len(), 0);
            return;
        }
        let mut count = count;
        self.len -= count;
        while let (Some(piece), Some(IoVec(iovec))) =
            (self.pieces.get_mut(self.first), self.iovecs.get_mut(self.first))
        {
            let here = piece.len.min(usize::try_from(count).unwrap_or(usize::MAX));
            piece.addr += here as u64;
            piece.len -= here;
            iovec.iov_base = iovec.iov_base.wrapping_byte_add(here);
            iovec.iov_len = piece.len;
            count -= here as u64;
            if piece.len > 0 {
                return;
            }
            self.first += 1;
        }
    }

    /// Where what is left is, for who wants to know later what has been put there.
    pub fn places(&self) -> Places {
        let pieces = self.pieces.iter().skip(self.first).copied();
        Places { mem: self.mem.without_tap(), pieces: pieces.collect() }
    }

    /// What is left, piece by piece.
    pub fn slices(&self) -> Vec<Slice<'_>> {
        let pieces = self.pieces.iter().skip(self.first);
        pieces.filter_map(|piece| self.mem.slice(piece.addr, piece.len).ok()).collect()
    }

    /// Copies as much as `data` has into the memory, and skips it. Says how much that was.
    pub fn fill_from(&mut self, data: &[u8]) -> usize {
        let mut rest = data;
        for slice in self.slices() {
            let (now, later) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(now);
            rest = later;
        }
        let copied = data.len() - rest.len();
        self.consume(copied as u64);
        copied
    }

    /// Copies as much as `data` takes out of the memory, and skips it. Says how much that was.
    pub fn copy_to(&mut self, data: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in self.slices() {
            let Some(rest) = data.get_mut(copied..) else { break };
            let now = slice.len().min(rest.len());
            copied += rest.get_mut(..now).map_or(0, |now| slice.copy_to(now));
        }
        self.consume(copied as u64);
        copied
    }

    /// Reads from `offset` of `file` into what is left, by one `preadv2` or `pread`, and skips what was read.
    /// Returns how many bytes that was; 0 is the end of the file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_at(&mut self, file: BorrowedFd<'_>, offset: u64, wait: Wait) -> io::Result<u64> {
        let (iovecs, count) = self.for_kernel();
        let flags = wait.flags();
        let (fd, offset) = (file.as_raw_fd(), file_offset(offset)?);
        // SAFETY: the addresses are of guest RAM, which is mapped as long as we hold it, and in
        // which anybody may write at any time; the kernel checks everything else.
        #[expect(unsafe_code, reason = "preadv2 into guest memory")]
        let read = unsafe {
            match (self.left(), flags) {
                // Costs the kernel less.
                ([IoVec(one)], 0) => libc::pread(fd, one.iov_base, one.iov_len, offset),
                _ => libc::preadv2(fd, iovecs, count, offset, flags),
            }
        };
        let read = u64::try_from(read).map_err(|_| io::Error::last_os_error())?;
        self.have_read(read);
        Ok(read)
    }

    /// Writes what is left to `offset` of `file` by one `pwritev2` or `pwrite`, and skips what was written.
    /// With `durable` it is on the medium afterwards (`RWF_DSYNC`). Returns how many bytes that
    /// was.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        wait: Wait,
        durable: bool,
    ) -> io::Result<u64> {
        let (iovecs, count) = self.for_kernel();
        let flags = wait.flags() | if durable { libc::RWF_DSYNC } else { 0 };
        let (fd, offset) = (file.as_raw_fd(), file_offset(offset)?);
        // SAFETY: the addresses are of guest RAM, which is mapped as long as we hold it; the
        // kernel reads it as it reads any shared memory.
        #[expect(unsafe_code, reason = "pwritev2 from guest memory")]
        let written = unsafe {
            match (self.left(), flags) {
                // Costs the kernel less.
                ([IoVec(one)], 0) => libc::pwrite(fd, one.iov_base, one.iov_len, offset),
                _ => libc::pwritev2(fd, iovecs, count, offset, flags),
            }
        };
        let written = u64::try_from(written).map_err(|_| io::Error::last_os_error())?;
        self.consume(written);
        Ok(written)
    }

    /// Writes `head` and what is left to a descriptor, by one `writev`. What is left stays so. Returns how
    /// many bytes were written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write_behind(&self, fd: BorrowedFd<'_>, head: &[u8]) -> io::Result<usize> {
        let mut iovecs = SmallVec::<[libc::iovec; 8]>::new();
        let base = head.as_ptr().cast_mut().cast();
        iovecs.push(libc::iovec { iov_base: base, iov_len: head.len() });
        iovecs.extend(self.left().iter().map(|IoVec(iovec)| *iovec));
        let count = libc::c_int::try_from(iovecs.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the first address is of bytes that we have borrowed, which the kernel only reads; the
        // others are of guest RAM, which is mapped as long as we hold it.
        #[expect(unsafe_code, reason = "writev from guest memory")]
        let written = unsafe { libc::writev(fd.as_raw_fd(), iovecs.as_ptr(), count) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// The first `count` bytes that are left have been read into: marks them dirty and skips them.
    pub(crate) fn have_read(&mut self, count: u64) {
        let mut rest = usize::try_from(count).unwrap_or(usize::MAX);
        for piece in self.pieces.iter().skip(self.first) {
            let here = piece.len.min(rest);
            if here == 0 {
                break;
            }
            self.mem.have_written(piece.addr, here);
            rest -= here;
        }
        self.consume(count);
    }

    /// What is left, as far as one call of the kernel takes it. It is where it is for as long as
    /// this stays where it is and nothing is pushed.
    pub(crate) fn for_kernel(&self) -> (*const libc::iovec, libc::c_int) {
        let left = self.left();
        let count = left.len().min(PIECES_AT_ONCE);
        (left.as_ptr().cast(), libc::c_int::try_from(count).unwrap_or(0))
    }

    fn left(&self) -> &[IoVec] {
        self.iovecs.get(self.first..).unwrap_or_default()
    }
}

impl Wait {
    fn flags(self) -> libc::c_int {
        match self {
            Self::Yes => 0,
            Self::No => libc::RWF_NOWAIT,
        }
    }
}

/// Pieces of guest memory, in order: see [`Buffers::places`].
#[derive(Debug)]
pub struct Places {
    mem: GuestMem,
    pieces: Vec<Piece>,
}

impl Places {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len as u64))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Hands a copy of what is there to `tell`, piece by piece. However much it is, no more than a page
    /// is copied at once.
    pub fn each(&self, tell: &mut dyn FnMut(&[u8])) {
        let mut page = [0; 4096];
        for Piece { addr, len } in &self.pieces {
            for at in (0..*len).step_by(page.len()) {
                let here = (len - at).min(page.len());
                let Some(copy) = page.get_mut(..here) else { break };
                // Each was found to be RAM.
                let _ = self.mem.read(addr + at as u64, copy);
                tell(copy);
            }
        }
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
