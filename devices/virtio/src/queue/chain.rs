//! A request: the buffers of one descriptor chain.
//!
//! The chain is walked here, each descriptor read once: `virtio-queue`'s own iterator ends alike
//! where a chain ends and where it is broken, and does not show the descriptor that refers to an
//! indirect table.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;
use trapline_guestio::Buffers;
use trapline_guestmem::{GuestMem, Slice};
use virtio_queue::desc::split::Descriptor;
use vm_memory::ByteValued;

/// Buffers of a usual request, which need no allocation. With two more a request would be so long
/// that it is moved by calls of `memcpy`, of which there are half a dozen.
const USUAL: usize = 4;

/// The most descriptors of a chain. With an indirect table it must not be longer than its queue
/// either (2.7.5.3.1), but not every driver keeps to that.
const LONGEST: u16 = super::MAX_SIZE;

/// Length of a descriptor in a table.
const DESCRIPTOR_LEN: u32 = 16;

/// One buffer of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address of the first byte. It need not be RAM.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
}

/// Pieces of guest RAM, in order.
pub type Slices<'m> = SmallVec<[Slice<'m>; USUAL]>;

/// Why a part of a request cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The request's buffers end before.
    #[error("the request's buffers are too short")]
    TooShort,
    /// A buffer is where there is no RAM.
    #[error("a buffer of the request is not RAM")]
    NotRam,
}

/// A request that a driver has made available, and the device now owns: first buffers that the
/// device reads, then buffers that it writes. It goes back by [`crate::Serving::complete`].
#[derive(Debug)]
#[must_use = "a request that is not completed is never returned to the driver"]
pub struct Chain {
    pub(super) head: u16,
    pub(super) epoch: u64,
    buffers: SmallVec<[Buffer; USUAL]>,
    /// How many of them are the device's to read.
    readable: usize,
    /// Bytes of those.
    readable_len: u64,
    /// Bytes of the others.
    writable_len: u64,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// It can be returned: it has an end in the queue's own table.
    Returnable,
    /// Nobody knows what of the table belongs to it.
    Endless,
}

impl Chain {
    /// Its first descriptor, by which driver and device know the request.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The buffers that the device reads.
    pub fn readable(&self) -> &[Buffer] {
        self.buffers.get(..self.readable).unwrap_or_default()
    }

    /// The buffers that the device writes.
    pub fn writable(&self) -> &[Buffer] {
        self.buffers.get(self.readable..).unwrap_or_default()
    }

    /// How many bytes there are to read.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// How many bytes there are to write: no more than 32 bits can say.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// Copies from the bytes to read, from `offset` of them on.
    ///
    /// # Errors
    /// They end before `buf` is full, or are not all RAM; `buf` may be partly filled then.
    pub fn read_at(&self, mem: &GuestMem, offset: u64, buf: &mut [u8]) -> Result<(), ChainError> {
        if let Some(addr) = within_one(self.readable(), offset, buf.len()) {
            return mem.read(addr, buf).map_err(|_| ChainError::NotRam);
        }
        let mut rest = buf;
        let end = offset.checked_add(rest.len() as u64).ok_or(ChainError::TooShort)?;
        each(self.readable(), offset..end, |addr, len| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            mem.read(addr, now).map_err(|_| ChainError::NotRam)
        })
    }

    /// Copies to the bytes to write, from `offset` of them on.
    ///
    /// # Errors
    /// They end before all of `data` is in them, or are not all RAM; a part may be written then.
    pub fn write_at(&self, mem: &GuestMem, offset: u64, data: &[u8]) -> Result<(), ChainError> {
        if let Some(addr) = within_one(self.writable(), offset, data.len()) {
            return mem.write(addr, data).map_err(|_| ChainError::NotRam);
        }
        let mut rest = data;
        let end = offset.checked_add(rest.len() as u64).ok_or(ChainError::TooShort)?;
        each(self.writable(), offset..end, |addr, len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            mem.write(addr, now).map_err(|_| ChainError::NotRam)
        })
    }

    /// A part of the bytes to read, in place.
    ///
    /// # Errors
    /// They end before, or are not all RAM.
    pub fn readable_slices<'m>(
        &self,
        mem: &'m GuestMem,
        range: Range<u64>,
    ) -> Result<Slices<'m>, ChainError> {
        slices(self.readable(), mem, range)
    }

    /// A part of the bytes to write, in place.
    ///
    /// # Errors
    /// They end before, or are not all RAM.
    pub fn writable_slices<'m>(
        &self,
        mem: &'m GuestMem,
        range: Range<u64>,
    ) -> Result<Slices<'m>, ChainError> {
        slices(self.writable(), mem, range)
    }

    /// A part of the bytes to read, for files to be written from.
    ///
    /// # Errors
    /// They end before, or are not all RAM.
    pub fn readable_buffers(
        &self,
        mem: &GuestMem,
        range: Range<u64>,
    ) -> Result<Buffers, ChainError> {
        for_io(self.readable(), mem, range)
    }

    /// A part of the bytes to write, for files to be read into.
    ///
    /// # Errors
    /// They end before, or are not all RAM.
    pub fn writable_buffers(
        &self,
        mem: &GuestMem,
        range: Range<u64>,
    ) -> Result<Buffers, ChainError> {
        for_io(self.writable(), mem, range)
    }
}

/// A part of some buffers, for the kernel to read from or write to.
fn for_io(buffers: &[Buffer], mem: &GuestMem, range: Range<u64>) -> Result<Buffers, ChainError> {
    let mut pieces = Buffers::new(mem);
    each(buffers, range, |addr, len| pieces.push(addr, len).map_err(|_| ChainError::NotRam))?;
    Ok(pieces)
}

fn slices<'m>(
    buffers: &[Buffer],
    mem: &'m GuestMem,
    range: Range<u64>,
) -> Result<Slices<'m>, ChainError> {
    let mut slices = Slices::new();
    each(buffers, range, |addr, len| {
        slices.push(mem.slice(addr, len).map_err(|_| ChainError::NotRam)?);
        Ok(())
    })?;
    Ok(slices)
}

/// Where `len` bytes from `offset` of all `buffers` together are, if one of them has all: a header or a
/// status, as drivers lay them out.
fn within_one(buffers: &[Buffer], offset: u64, len: usize) -> Option<u64> {
    let mut offset = offset;
    for Buffer { addr, len: here } in buffers {
        let here = u64::from(*here);
        if offset < here {
            return (len > 0 && len as u64 <= here - offset)
                .then(|| addr.checked_add(offset))
                .flatten();
        }
        offset -= here;
    }
    None
}

/// Calls `f` with address and length of each piece of `range`, in bytes of all `buffers` together.
fn each(
    buffers: &[Buffer],
    range: Range<u64>,
    mut f: impl FnMut(u64, usize) -> Result<(), ChainError>,
) -> Result<(), ChainError> {
    let Range { mut start, end } = range;
    let mut before = 0;
    for Buffer { addr, len } in buffers {
        if start >= end {
            break;
        }
        let after = before + u64::from(*len);
        if start < after {
            let piece = after.min(end) - start;
            let addr = addr.checked_add(start - before).ok_or(ChainError::NotRam)?;
            f(addr, usize::try_from(piece).map_err(|_| ChainError::NotRam)?)?;
            start += piece;
        }
        before = after;
    }
    if start < end { Err(ChainError::TooShort) } else { Ok(()) }
}

/// What a walk has collected.
#[derive(Default)]
struct Walk {
    buffers: SmallVec<[Buffer; USUAL]>,
    readable: usize,
    readable_len: u64,
    writable_len: u64,
    returnable_defect: bool,
}

impl Walk {
    /// Takes a buffer. A defect is remembered, and the walk goes on to the chain's end.
    #[inline]
    fn take(&mut self, descriptor: &Descriptor) {
        let (addr, len) = (descriptor.addr().0, descriptor.len());
        let reads = !descriptor.is_write_only();
        // A buffer to read behind one to write is forbidden (2.7.4.2).
        self.returnable_defect |= reads && self.buffers.len() > self.readable;
        self.readable += usize::from(reads);
        // A walk is too short for the sums to overflow.
        let counted = if reads { &mut self.readable_len } else { &mut self.writable_len };
        *counted += u64::from(len);
        self.buffers.push(Buffer { addr, len });
    }

    /// The chain, unless it is none that may be.
    fn end(self, head: u16, epoch: u64) -> Result<Chain, Defect> {
        let Self { buffers, readable, readable_len, writable_len, returnable_defect } = self;
        // Those longer than 32 bits can count are forbidden (2.7.5.2).
        let too_long = readable_len + writable_len > u64::from(u32::MAX)
            || buffers.len() > usize::from(LONGEST);
        if returnable_defect || too_long {
            return Err(Defect::Returnable);
        }
        Ok(Chain { head, epoch, buffers, readable, readable_len, writable_len })
    }

    /// Walks an indirect table. Whatever is in it, the chain has its end outside.
    fn indirect(&mut self, mem: &GuestMem, table: &Descriptor) {
        let entries = table.len() / DESCRIPTOR_LEN;
        let whole = table.len().is_multiple_of(DESCRIPTOR_LEN) && entries > 0;
        if !whole || table.has_next() {
            self.returnable_defect = true;
            return;
        }
        let (table, mut index) = (Table::new(mem, table.addr().0, entries), 0);
        for _ in 0..entries.min(u32::from(LONGEST) + 1) {
            let descriptor = table.read(index);
            let Some(descriptor) = descriptor.filter(|inner| !inner.refers_to_indirect_table())
            else {
                break;
            };
            self.take(&descriptor);
            if !descriptor.has_next() {
                return;
            }
            index = descriptor.next().into();
        }
        self.returnable_defect = true;
    }
}

/// A table of descriptors.
struct Table<'m> {
    mem: &'m GuestMem,
    addr: u64,
    entries: u32,
    /// All of it, two words each, where it is as tables are: one look-up for all descriptors.
    words: Option<&'m [AtomicU64]>,
}

impl<'m> Table<'m> {
    #[inline]
    fn new(mem: &'m GuestMem, addr: u64, entries: u32) -> Self {
        let words = usize::try_from(entries).ok().and_then(|count| mem.words(addr, count * 2));
        Self { mem, addr, entries, words }
    }

    /// The descriptor with this index, unless there is none, or its address is not RAM.
    #[inline]
    fn read(&self, index: u32) -> Option<Descriptor> {
        if index >= self.entries {
            return None;
        }
        let Some(words) = self.words else { return self.copy(index) };
        let at = usize::try_from(index).ok()? * 2;
        let [low, high] = words.get(at..at + 2)? else { return None };
        let [addr, rest] = [low, high].map(|word| u64::from_le(word.load(Ordering::Relaxed)));
        let [a, b, c, d, e, f, g, h] = rest.to_le_bytes();
        let (len, flags) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        Some(Descriptor::new(addr, len, flags, u16::from_le_bytes([g, h])))
    }

    #[cold]
    fn copy(&self, index: u32) -> Option<Descriptor> {
        let offset = u64::from(index) * u64::from(DESCRIPTOR_LEN);
        let mut descriptor = Descriptor::default();
        self.mem.read(self.addr.checked_add(offset)?, descriptor.as_mut_slice()).ok()?;
        Some(descriptor)
    }
}

/// Walks the chain that begins at `head` of a table of `size` descriptors.
pub(super) fn walk(
    mem: &GuestMem,
    (table, size): (u64, u16),
    indirect: bool,
    (head, epoch): (u16, u64),
) -> Result<Chain, Defect> {
    let (mut walk, mut index) = (Walk::default(), head);
    let table = Table::new(mem, table, size.into());
    for _ in 0..size {
        let descriptor = table.read(index.into()).ok_or(Defect::Endless)?;
        match descriptor.refers_to_indirect_table() {
            true if indirect => walk.indirect(mem, &descriptor),
            true => walk.returnable_defect = true,
            false => walk.take(&descriptor),
        }
        if !descriptor.has_next() {
            return walk.end(head, epoch);
        }
        index = descriptor.next();
    }
    Err(Defect::Endless)
}
