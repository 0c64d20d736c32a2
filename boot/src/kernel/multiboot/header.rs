//! The Multiboot header in a kernel's file.
//!
//! Spec: Multiboot Specification, version 0.6.96, section 3.1 "OS image format".

use elf::abi::PT_LOAD;
use elf::segment::ProgramHeader;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::error::Error;
use crate::image::Image;

/// "Contained completely within the first 8192 bytes of the OS image."
const SEARCHED: usize = 8192;
/// "Longword (32-bit) aligned."
const ALIGN: usize = 4;
/// What the end of the data may be rounded up to.
const PAGE: u64 = 0x1000;
/// The field `magic`.
const MAGIC: u32 = 0x1bad_b002;

/// The fields that are always there.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Fixed {
    magic: U32,
    flags: U32,
    checksum: U32,
}

/// The address fields, there with [`Header::ADDRESSES`] (section 3.1.3). Physical addresses.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Addresses {
    /// Where the header itself goes, from which follows where in the file the kernel begins.
    header: U32,
    load: U32,
    /// 0: the file's end.
    load_end: U32,
    /// 0: none.
    bss_end: U32,
    entry: U32,
}

/// A kernel's Multiboot header.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Header {
    /// Where in the file it is.
    offset: u64,
    flags: u32,
    addresses: Option<Addresses>,
}

impl Header {
    /// Modules are to begin on a page.
    const PAGE_ALIGN: u32 = 1 << 0;
    /// The kernel wants to know the memory.
    const MEMORY_INFO: u32 = 1 << 1;
    /// The kernel wants to know the video mode.
    const VIDEO_MODE: u32 = 1 << 2;
    /// The address fields are valid.
    const ADDRESSES: u32 = 1 << 16;
    /// What a loader must not ignore without knowing it: "bits 0 to 15 indicate requirements".
    const REQUIREMENTS: u32 = 0xffff;

    /// The first header in `image`, if there is one.
    pub(in crate::kernel) fn find(image: &Image) -> Result<Option<Self>, Error> {
        let mut bytes = vec![0; SEARCHED];
        let count = image.read_at(&mut bytes, 0)?;
        bytes.truncate(count);
        let mut places = (0..bytes.len()).step_by(ALIGN);
        Ok(places.find_map(|offset| Self::at(&bytes, offset)))
    }

    fn at(bytes: &[u8], offset: usize) -> Option<Self> {
        let (fixed, rest) = Fixed::read_from_prefix(bytes.get(offset..)?).ok()?;
        let (magic, flags) = (fixed.magic.get(), fixed.flags.get());
        let sum = magic.wrapping_add(flags).wrapping_add(fixed.checksum.get());
        if magic != MAGIC || sum != 0 {
            return None;
        }
        let addresses = if flags & Self::ADDRESSES == 0 {
            None
        } else {
            Some(Addresses::read_from_prefix(rest).ok()?.0)
        };
        Some(Self { offset: offset as u64, flags, addresses })
    }

    /// Refuses what the kernel requires and does not get.
    pub(super) fn check(&self, image: &Image, display: bool) -> Result<(), Error> {
        let known = Self::PAGE_ALIGN | Self::MEMORY_INFO | Self::VIDEO_MODE;
        let unknown = self.flags & Self::REQUIREMENTS & !known;
        let name = || image.name.clone();
        if unknown != 0 {
            return Err(Error::MultibootFlags { name: name(), flags: unknown });
        }
        if self.flags & Self::VIDEO_MODE != 0 && !display {
            return Err(Error::MultibootVideo { name: name() });
        }
        Ok(())
    }

    /// The segment and the entry point that the address fields describe, if there are any: "the
    /// boot loader should use them instead of the fields in the actual executable header".
    pub(super) fn segment(&self, image: &Image) -> Result<Option<(ProgramHeader, u32)>, Error> {
        let Some(addresses) = self.addresses else { return Ok(None) };
        let bad = |reason| Error::BadMultiboot { name: image.name.clone(), reason };
        let [header, load, load_end, bss_end, entry] = [
            addresses.header,
            addresses.load,
            addresses.load_end,
            addresses.bss_end,
            addresses.entry,
        ]
        .map(U32::get);
        let before = header.checked_sub(load).ok_or(bad("it would be loaded after its header"))?;
        let offset = self.offset.checked_sub(before.into());
        let offset = offset.ok_or(bad("it would begin before its file does"))?;
        let there = image.len.saturating_sub(offset);
        let loaded = match load_end {
            0 => there,
            end => end.checked_sub(load).ok_or(bad("it would end before it begins"))?.into(),
        };
        let memsz = match bss_end {
            0 => loaded,
            end => u64::from(end.saturating_sub(load)).max(loaded),
        };
        // Linker scripts round the end of the data up to a page, which a flat file need not reach.
        let filesz = if loaded < there + PAGE { loaded.min(there) } else { loaded };
        let (paddr, align) = (u64::from(load), 1);
        let segment = ProgramHeader {
            p_type: PT_LOAD,
            p_offset: offset,
            p_vaddr: paddr,
            p_paddr: paddr,
            p_filesz: filesz,
            p_memsz: memsz,
            p_flags: 0,
            p_align: align,
        };
        Ok(Some((segment, entry)))
    }
}
