//! The pieces of a kernel file that go into memory.

use std::ops::Range;

use elf::abi::PT_LOAD;
use elf::segment::ProgramHeader;
use trapline_guestmem::GuestMem;

use super::elf::damaged;
use crate::error::{Error, placing};
use crate::image::Image;

/// What to load where, by physical addresses.
pub(super) struct Segments {
    /// Each is of type PT_LOAD and not empty in memory, and none is longer in the file.
    pub(super) loads: Vec<ProgramHeader>,
    /// From the lowest to the highest address of them.
    pub(super) footprint: Range<u64>,
}

impl Segments {
    /// Those of `headers` that are to be loaded.
    pub(super) fn new(image: &Image, headers: Vec<ProgramHeader>) -> Result<Self, Error> {
        let loads: Vec<ProgramHeader> =
            headers.into_iter().filter(|s| s.p_type == PT_LOAD && s.p_memsz > 0).collect();
        let start = loads.iter().map(|s| s.p_paddr).min().unwrap_or(0);
        let mut end = start;
        for segment in &loads {
            let past = segment.p_paddr.checked_add(segment.p_memsz);
            let past = past.filter(|_| segment.p_filesz <= segment.p_memsz);
            let past = past.ok_or("a segment's sizes make no sense").map_err(damaged(image))?;
            end = end.max(past);
        }
        Ok(Self { loads, footprint: start..end })
    }

    /// The file has all of what is to be loaded.
    pub(super) fn check_file(&self, image: &Image) -> Result<(), Error> {
        let file_end = |s: &ProgramHeader| s.p_offset.saturating_add(s.p_filesz);
        let needed = self.loads.iter().map(file_end).max().unwrap_or(0);
        if image.len < needed {
            let name = image.name.clone();
            return Err(Error::Truncated { name, missing: needed - image.len });
        }
        Ok(())
    }

    /// Puts them into memory, zeros where the file has nothing.
    pub(super) fn load(&self, mem: &GuestMem, image: &mut Image) -> Result<(), Error> {
        for segment in &self.loads {
            image.load(mem, "kernel", segment.p_offset, segment.p_filesz, segment.p_paddr)?;
            let tail = segment.p_paddr + segment.p_filesz;
            clear(mem, tail, segment.p_memsz - segment.p_filesz)?;
        }
        Ok(())
    }
}

/// Clears what a segment has in memory and not in the file; after a reset it may not be zero.
fn clear(mem: &GuestMem, mut addr: u64, mut len: u64) -> Result<(), Error> {
    let zeros = [0; 0x1000];
    while len > 0 {
        let count = len.min(zeros.len() as u64);
        let piece = usize::try_from(count).ok().and_then(|count| zeros.get(..count));
        mem.write(addr, piece.unwrap_or_default()).map_err(placing("kernel"))?;
        addr += count;
        len -= count;
    }
    Ok(())
}
