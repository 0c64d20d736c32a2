//! Raw images: regular files and block devices, byte for byte.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, fstatfs};
use rustix::io::Errno;
use trapline_guestio::{Buffers, Wait, can_secure_erase, secure_erase};

use super::topology::device_limit;
use super::{Opened, Topology, check};
use crate::probe::{PROBE_LEN, Probed, probe};
use crate::{Failure, Format, Zeroes};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `linux/magic.h`.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Zeroes are written in pieces of this many bytes, where nothing else is left.
const ZEROES_AT_ONCE: usize = 1 << 20;

/// What is done in the thread that asks for it is at most this many bytes; it serves others, too.
const AT_ONCE_MAX: u64 = 1 << 20;

/// What a raw image is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The host's memory: nothing ever waits.
    Memory,
    /// Some file system.
    File,
    /// A block device.
    Device,
}

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) file: Arc<File>,
    kind: Kind,
    /// What the page cache does for us if it is not left out: nothing of this is set then.
    direct: Option<Direct>,
    /// Whether nothing that looks like another format may get to the first sector.
    guarded: bool,
    /// Whether the file system can say that it would have to wait.
    reads_at_once: AtomicBool,
    writes_at_once: AtomicBool,
    discards: bool,
    erases: bool,
}

/// What `O_DIRECT` asks for.
#[derive(Debug)]
struct Direct {
    memory: usize,
    offset: u64,
    /// Held while part of a block is replaced, so that nobody else replaces another part.
    part_of_block: Mutex<()>,
}

impl Raw {
    pub(crate) fn new(opened: Opened, guarded: bool) -> Self {
        let topology = Topology::of(&opened);
        let magic = fstatfs(&opened.file).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
        let kind = match magic {
            _ if opened.is_device() => Kind::Device,
            Some(magic) if MEMORY_FILE_SYSTEMS.contains(&magic) => Kind::Memory,
            _ => Kind::File,
        };
        let direct = opened.direct.then(|| Direct {
            memory: usize::try_from(topology.memory_align).unwrap_or(4096),
            offset: topology.logical_block.into(),
            part_of_block: Mutex::new(()),
        });
        let discards = opened.writable && discards(&opened, kind);
        // Of a file, the host's file system may have copies.
        let device = opened.writable && kind == Kind::Device;
        let erases = device && can_secure_erase(opened.file.as_fd());
        Self {
            file: Arc::new(opened.file),
            kind,
            direct,
            guarded,
            reads_at_once: AtomicBool::new(true),
            writes_at_once: AtomicBool::new(true),
            discards,
            erases,
        }
    }

    /// Bytes there are at present.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self.kind {
            Kind::Device => (&*self.file).seek(SeekFrom::End(0)),
            Kind::File | Kind::Memory => Ok(self.file.metadata()?.size()),
        }
    }

    pub(crate) fn resize(&self, len: u64) -> io::Result<()> {
        match self.kind {
            Kind::Device => match len.cmp(&self.len()?) {
                std::cmp::Ordering::Greater => Err(io::ErrorKind::InvalidInput.into()),
                _ => Ok(()),
            },
            Kind::File | Kind::Memory => self.file.set_len(len),
        }
    }

    pub(crate) fn can_discard(&self) -> bool {
        self.discards
    }

    pub(crate) fn can_erase(&self) -> bool {
        self.erases
    }

    /// Whether this file's `fdatasync` has nothing to do.
    pub(crate) fn is_memory(&self) -> bool {
        self.kind == Kind::Memory
    }

    /// Whether the kernel takes a request for these buffers as it is.
    pub(crate) fn is_aligned(&self, offset: u64, buffers: &Buffers) -> bool {
        self.direct.as_ref().is_none_or(|direct| {
            offset.is_multiple_of(direct.offset)
                && buffers.len().is_multiple_of(direct.offset)
                && buffers.is_aligned(direct.memory)
        })
    }

    /// Whether a write has to be looked at before it is made.
    pub(crate) fn is_guarded(&self, offset: u64) -> bool {
        self.guarded && offset < PROBE_LEN as u64
    }

    /// Reads what the page cache has. `None` leaves the rest to somebody who can wait.
    pub(crate) fn read_at_once(
        &self,
        offset: &mut u64,
        buffers: &mut Buffers,
    ) -> Option<io::Result<()>> {
        if !self.has_page_cache(buffers) || !self.reads_at_once.load(Ordering::Relaxed) {
            return None;
        }
        let read = buffers.read_at(self.file.as_fd(), *offset, self.wait());
        self.after_one_call(read, offset, buffers, &self.reads_at_once)
    }

    /// Writes what the page cache takes, as [`Self::read_at_once`].
    pub(crate) fn write_at_once(
        &self,
        offset: &mut u64,
        buffers: &mut Buffers,
    ) -> Option<io::Result<()>> {
        if !self.has_page_cache(buffers) || !self.writes_at_once.load(Ordering::Relaxed) {
            return None;
        }
        let written = buffers.write_at(self.file.as_fd(), *offset, self.wait(), false);
        self.after_one_call(written, offset, buffers, &self.writes_at_once)
    }

    fn has_page_cache(&self, buffers: &Buffers) -> bool {
        self.direct.is_none() && buffers.len() <= AT_ONCE_MAX
    }

    fn wait(&self) -> Wait {
        if self.kind == Kind::Memory { Wait::Yes } else { Wait::No }
    }

    fn after_one_call(
        &self,
        moved: io::Result<u64>,
        offset: &mut u64,
        buffers: &Buffers,
        at_once: &AtomicBool,
    ) -> Option<io::Result<()>> {
        match moved {
            // The end of the file, which whoever waits will see as well.
            Ok(0) if !buffers.is_empty() => None,
            Ok(count) => {
                *offset += count;
                buffers.is_empty().then_some(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                at_once.store(false, Ordering::Relaxed);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads all that is left.
    pub(crate) fn read(&self, offset: &mut u64, buffers: &mut Buffers) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.is_aligned(*offset, buffers)) {
            return self.read_bounced(direct, offset, buffers);
        }
        while !buffers.is_empty() {
            match buffers.read_at(self.file.as_fd(), *offset, Wait::Yes) {
                Ok(0) => return Err(truncated()),
                Ok(count) => *offset += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // The end of the file may be at no multiple of a block.
            if !self.is_aligned(*offset, buffers) {
                return self.read(offset, buffers);
            }
        }
        Ok(())
    }

    /// Writes all that is left.
    pub(crate) fn write(
        &self,
        offset: &mut u64,
        buffers: &mut Buffers,
        durable: bool,
    ) -> io::Result<()> {
        if self.is_guarded(*offset) {
            self.write_first_sector(offset, buffers)?;
        }
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.is_aligned(*offset, buffers)) {
            self.write_bounced(direct, offset, buffers)?;
        }
        while !buffers.is_empty() {
            match buffers.write_at(self.file.as_fd(), *offset, Wait::Yes, durable) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *offset += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !self.is_aligned(*offset, buffers) {
                return self.write(offset, buffers, durable);
            }
        }
        // What went before the loop was not durable by itself.
        if durable { self.sync() } else { Ok(()) }
    }

    /// Writes what goes into the first sector, unless that would have somebody take the image for
    /// one of another format. It is judged and written from a copy, as the guest could change it in
    /// between.
    fn write_first_sector(&self, offset: &mut u64, buffers: &mut Buffers) -> io::Result<()> {
        let mut sector = [0; PROBE_LEN];
        let start = usize::try_from(*offset).unwrap_or(PROBE_LEN).min(PROBE_LEN);
        let whole = Buffered { file: self, block: self.block() };
        // Drivers write whole sectors, so there is nothing left of the old one.
        if start > 0 {
            whole.read(&mut sector, 0)?;
        }
        let copied = buffers.copy_to(sector.get_mut(start..).unwrap_or_default());
        if probe(&sector) != Probed::Known(Format::Raw) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        whole.write(sector.get(start..start + copied).unwrap_or_default(), *offset)?;
        *offset += copied as u64;
        Ok(())
    }

    fn block(&self) -> u64 {
        self.direct.as_ref().map_or(1, |direct| direct.offset)
    }

    /// Reads through a buffer that is aligned.
    fn read_bounced(
        &self,
        direct: &Direct,
        offset: &mut u64,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        while !buffers.is_empty() {
            let len = buffers.len().min(ZEROES_AT_ONCE as u64);
            let mut data = vec![0; usize::try_from(len).unwrap_or(ZEROES_AT_ONCE)];
            let count = Buffered { file: self, block: direct.offset }.read(&mut data, *offset)?;
            if count == 0 {
                return Err(truncated());
            }
            buffers.fill_from(data.get(..count).unwrap_or_default());
            *offset += count as u64;
        }
        Ok(())
    }

    /// Writes through a buffer that is aligned.
    fn write_bounced(
        &self,
        direct: &Direct,
        offset: &mut u64,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        while !buffers.is_empty() {
            let len = buffers.len().min(ZEROES_AT_ONCE as u64);
            let mut data = vec![0; usize::try_from(len).unwrap_or(ZEROES_AT_ONCE)];
            let count = buffers.copy_to(&mut data);
            let data = data.get(..count).unwrap_or_default();
            Buffered { file: self, block: direct.offset }.write(data, *offset)?;
            *offset += count as u64;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives up the space of a range, as far as that is possible: it is a hint.
    pub(crate) fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let range = self.inside(range);
        if range.is_empty() {
            return Ok(());
        }
        match self.punch(&range) {
            Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Has the device erase a range: all of it, or it has failed.
    pub(crate) fn erase(&self, range: Range<u64>) -> Result<(), Failure> {
        if !self.erases {
            return Err(Failure::Unsupported);
        }
        match secure_erase(self.file.as_fd(), range) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(Failure::Unsupported),
            done => Ok(done?),
        }
    }

    /// Has a range read as zeroes.
    pub(crate) fn write_zeroes(&self, zeroes: &Zeroes, cancelled: &AtomicBool) -> io::Result<()> {
        let Range { start, end } = zeroes.range;
        let inside = self.inside(start..end);
        if inside.is_empty() {
            return self.write_literal_zeroes(start..end, cancelled);
        }
        let done = match zeroes.unmap && self.discards {
            true => self.punch(&inside),
            false => Err(Errno::OPNOTSUPP),
        };
        let done = done.or_else(|_| {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            fallocate(&*self.file, flags, inside.start, inside.end - inside.start)
        });
        match done {
            Ok(()) => {
                self.write_literal_zeroes(start..inside.start, cancelled)?;
                self.write_literal_zeroes(inside.end..end, cancelled)
            }
            // A full or failing disk is one; a file system that cannot is none.
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(errno.into()),
            Err(_) => self.write_literal_zeroes(start..end, cancelled),
        }
    }

    fn punch(&self, range: &Range<u64>) -> rustix::io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&*self.file, flags, range.start, range.end - range.start)
    }

    /// The blocks all of which are in a range: a device's are not divided.
    fn inside(&self, range: Range<u64>) -> Range<u64> {
        let block = match self.kind {
            Kind::Device => self.block().max(512),
            Kind::File | Kind::Memory => return range,
        };
        let start = range.start.checked_next_multiple_of(block).unwrap_or(range.end);
        let end = range.end / block * block;
        if start < end { start..end } else { range.end..range.end }
    }

    pub(crate) fn write_literal_zeroes(
        &self,
        range: Range<u64>,
        cancelled: &AtomicBool,
    ) -> io::Result<()> {
        let mut start = range.start;
        let len = range.end.saturating_sub(start).min(ZEROES_AT_ONCE as u64);
        let zeroes = vec![0; usize::try_from(len).unwrap_or(ZEROES_AT_ONCE)];
        while start < range.end {
            check(cancelled)?;
            let len = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(zeroes.len());
            let part = zeroes.get(..len).unwrap_or_default();
            Buffered { file: self, block: self.block() }.write(part, start)?;
            start += len as u64;
        }
        Ok(())
    }
}

/// The file by way of memory of ours, in whole blocks where it has to be.
struct Buffered<'a> {
    file: &'a Raw,
    block: u64,
}

impl Buffered<'_> {
    /// Reads from `offset`; says how much there was, which is less only at the end of the file.
    fn read(&self, data: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut bounce = self.bounce(offset, data.len());
        let count = bounce.read(&self.file.file)?.saturating_sub(bounce.skip).min(data.len());
        let (skip, end) = (bounce.skip, bounce.skip + count);
        if let (Some(to), Some(from)) = (data.get_mut(..count), bounce.bytes().get(skip..end)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    /// Writes to `offset`. What else is in the blocks stays.
    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut bounce = self.bounce(offset, data.len());
        let (skip, end) = (bounce.skip, bounce.skip + data.len());
        let partly = skip > 0 || end < bounce.len;
        let _part =
            self.file.direct.as_ref().filter(|_| partly).map(|direct| direct.part_of_block.lock());
        if partly {
            bounce.read(&self.file.file)?;
        }
        if let Some(to) = bounce.bytes().get_mut(skip..end) {
            to.copy_from_slice(data);
        }
        // A last block that is not whole is not to become so.
        let len = self.file.len()?;
        let (start, whole) = (bounce.start, bounce.len);
        self.file.file.write_all_at(bounce.bytes(), start)?;
        if partly && self.file.kind == Kind::File && start + whole as u64 > len {
            self.file.file.set_len(len.max(offset + data.len() as u64))?;
        }
        Ok(())
    }

    fn bounce(&self, offset: u64, len: usize) -> Bounce {
        let start = offset / self.block * self.block;
        let end = (offset + len as u64).next_multiple_of(self.block);
        let size = usize::try_from(end - start).unwrap_or(usize::MAX);
        let align = usize::try_from(self.block).unwrap_or(1);
        let align = align.max(self.file.direct.as_ref().map_or(1, |direct| direct.memory));
        let storage = vec![0; size + align - 1];
        // An address tells how far it is from a multiple, whatever else it is.
        let first = storage.as_ptr().addr().wrapping_neg() & (align - 1);
        let skip = usize::try_from(offset - start).unwrap_or(0);
        Bounce { storage, first, len: size, start, skip }
    }
}

/// Whole blocks in aligned memory.
struct Bounce {
    storage: Vec<u8>,
    first: usize,
    len: usize,
    /// Where they are in the file.
    start: u64,
    /// How many bytes of the first one nobody asked for.
    skip: usize,
}

impl Bounce {
    fn bytes(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.first..self.first + self.len).unwrap_or_default()
    }

    fn read(&mut self, file: &File) -> io::Result<usize> {
        let (start, mut count) = (self.start, 0);
        while let Some(rest) = self.bytes().get_mut(count..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, start + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The end of the file was at no multiple of a block.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

/// Whether a file's space can be given up.
fn discards(opened: &Opened, kind: Kind) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match kind {
        Kind::Device => device_limit(opened, "discard_max_bytes").is_some_and(|bytes| bytes > 0),
        // There is nothing behind the end, so nothing is lost.
        Kind::File | Kind::Memory => {
            let end = opened.metadata.size().next_multiple_of(4096);
            fallocate(&opened.file, flags, end, 4096).is_ok()
        }
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the image has become shorter")
}
