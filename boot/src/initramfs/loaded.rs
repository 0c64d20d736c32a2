//! What the kernel loads of a program: its file without the symbols and line numbers at its end, which
//! are most of one that was built with them.

use std::path::Path;

use elf::ElfBytes;
use elf::endian::AnyEndian;

use crate::error::Error;

/// The longest program that is taken, in bytes.
const PROGRAM_MAX: u64 = 1 << 30;

/// Where an ELF file of 64 bits has what names its sections: `e_shoff`, and from `e_shentsize` on
/// `e_shnum` and `e_shstrndx` (System V ABI, "ELF Header").
const SECTIONS_AT: std::ops::Range<usize> = 0x28..0x30;
const SECTION_COUNTS: std::ops::Range<usize> = 0x3c..0x40;

/// The part of a program's file that its segments are in, without the sections' table.
pub(super) fn part(program: &Path) -> Result<Vec<u8>, Error> {
    let refused = |reason: String| Error::Initramfs { name: program.display().to_string(), reason };
    let mut bytes =
        crate::read(program, PROGRAM_MAX).map_err(|error| refused(error.to_string()))?;
    let end = end(&bytes).map_err(|error| refused(error.to_string()))?;
    let is_64_bits = bytes.get(4) == Some(&elf::abi::ELFCLASS64);
    if let Some(end) = end.filter(|end| is_64_bits && *end < bytes.len()) {
        bytes.truncate(end);
        for place in [SECTIONS_AT, SECTION_COUNTS] {
            bytes.get_mut(place).into_iter().for_each(|place| place.fill(0));
        }
    }
    Ok(bytes)
}

/// Where the last segment ends.
fn end(bytes: &[u8]) -> Result<Option<usize>, elf::ParseError> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let Some(segments) = file.segments() else { return Ok(None) };
    let header = file
        .ehdr
        .e_phoff
        .saturating_add(u64::from(file.ehdr.e_phentsize) * u64::from(file.ehdr.e_phnum));
    let ends = segments.iter().map(|part| part.p_offset.saturating_add(part.p_filesz));
    Ok(ends.chain([header]).max().and_then(|end| usize::try_from(end).ok()))
}
