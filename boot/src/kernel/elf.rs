//! ELF kernels: entered by PVH when they carry its note, by Multiboot when they carry its header,
//! else as a 64-bit Linux.

use std::fs::File;
use std::ops::Range;

use elf::ElfStream;
use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::segment::ProgramHeader;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use trapline_guestmem::GuestMem;
use vm_memory::ByteValued;

use super::initrd::Room;
use super::multiboot::{self, Header};
use super::segments::Segments;
use super::zero_page::ZeroPage;
use super::{Format, KernelRequest, Loaded, Protocol, long_entry};
use crate::cmdline;
use crate::e820::E820Entry;
use crate::entry::{Entry, Gdt};
use crate::error::{Error, below_4g, placing};
use crate::foreign;
use crate::image::Image;

/// Bytes of guest memory PVH's start info and its lists take.
pub const START_INFO_LEN: u64 = 0x1000;

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen `public/elfnote.h`).
const PHYS32_ENTRY: u64 = 18;
/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const START_VERSION: u32 = 1;
/// Where in the start info page the module list is.
const MODULES: u64 = 0x40;
/// Where in the start info page the memory map is.
const MEMORY_MAP: u64 = 0x80;
/// Memory map entries the rest of the page holds.
const MEMORY_MAP_MAX: usize = (0x1000 - 0x80) / size_of::<hvm_memmap_table_entry>();

/// The longest segment of notes that is looked at. Linux' has some hundred bytes.
const NOTES_MAX: u64 = 1 << 20;

/// What x86 Linux takes without its NUL (`COMMAND_LINE_SIZE`). An ELF file does not say; Linux
/// drops what is longer without a word.
const CMDLINE_MAX: usize = 2047;

/// End (exclusive) of where an initrd may be: Linux reads its address as 32 bits from either
/// protocol's structure.
const INITRD_TOP: u64 = 1 << 32;

/// What the headers say.
struct Kernel {
    segments: Segments,
    entry: Start,
}

enum Start {
    Pvh(u32),
    Multiboot(Header),
    Linux64(u64),
}

/// How the ELF file at hand would be entered.
pub(super) fn format(image: &Image) -> Result<Format, Error> {
    Ok(match parse(image)?.entry {
        Start::Pvh(_) => Format::Pvh,
        Start::Multiboot(_) => Format::Multiboot,
        Start::Linux64(_) => Format::Linux,
    })
}

pub(super) fn load(
    mem: &GuestMem,
    image: &mut Image,
    request: &KernelRequest<'_>,
) -> Result<Loaded, Error> {
    let Kernel { segments, entry } = parse(image)?;
    if let Start::Multiboot(header) = entry {
        return multiboot::load(mem, image, request, &header);
    }
    check(image, &segments, request)?;
    cmdline::write(mem, request.cmdline, &image.name, CMDLINE_MAX, request.layout.cmdline)?;
    let tops = vec![INITRD_TOP];
    let room = Room { e820: request.e820, kernel: &segments.footprint, tops };
    let initrd = room.load(mem, request.initrd, &image.name)?;
    segments.load(mem, image)?;
    let (entry, protocol) = match entry {
        Start::Pvh(eip) => {
            write_start_info(mem, request, initrd.as_ref())?;
            let ebx = below_4g("start info", request.layout.start_info)?;
            let gdt = Gdt::protected(mem, request.layout.gdt)?;
            (Entry::Protected { eip, eax: 0, ebx, esi: 0, gdt }, Protocol::Pvh)
        }
        Start::Multiboot(_) => unreachable!("it was loaded above"),
        Start::Linux64(rip) => {
            ZeroPage::without_header().finish(mem, request, initrd.as_ref())?;
            (long_entry(mem, rip, request.layout)?, Protocol::Vmlinux64)
        }
    };
    Ok(Loaded { entry, protocol, kernel: segments.footprint, initrd })
}

/// A PVH note comes first, as it is the newer and the richer of the two; then a Multiboot header.
fn parse(image: &Image) -> Result<Kernel, Error> {
    let file = image.file.try_clone().map_err(|error| image.unreadable(error))?;
    let mut stream = ElfStream::<LittleEndian, File>::open_stream(file).map_err(damaged(image))?;
    let headers = stream.segments().clone();
    let pvh = pvh_entry(&mut stream, &headers).map_err(damaged(image))?;
    let segments = Segments::new(image, headers)?;
    let header = &stream.ehdr;
    let entry = if let Some(entry) = pvh
        && matches!(header.e_machine, EM_386 | EM_X86_64)
    {
        Start::Pvh(entry)
    } else if let Some(header) = Header::find(image)? {
        Start::Multiboot(header)
    } else if let Some((found, wanted)) = foreign::elf_on_x86(header.e_machine) {
        return Err(Error::ForeignKernel { name: image.name.clone(), found, wanted });
    } else {
        let linux = plain_linux(header.e_machine, header.e_type, header.e_entry, &segments.loads);
        let name = || image.name.clone();
        Start::Linux64(linux.map_err(|reason| Error::NotLinuxElf { name: name(), reason })?)
    };
    Ok(Kernel { segments, entry })
}

/// The sentence about an ELF file the parser does not like.
pub(super) fn damaged<E: std::fmt::Display>(image: &Image) -> impl FnOnce(E) -> Error {
    let name = image.name.clone();
    move |error| Error::BadElf { name, reason: error.to_string() }
}

/// The entry point in the PVH note, in whichever of the note segments it is.
fn pvh_entry(
    stream: &mut ElfStream<LittleEndian, File>,
    segments: &[ProgramHeader],
) -> Result<Option<u32>, elf::ParseError> {
    let short = |segment: &&ProgramHeader| segment.p_filesz <= NOTES_MAX;
    let notes = segments.iter().filter(|segment| segment.p_type == PT_NOTE);
    for segment in notes.filter(short) {
        // Notes are padded to 4 bytes whatever alignment a linker script wrote down.
        let aligned = ProgramHeader { p_align: segment.p_align.max(4), ..*segment };
        for note in stream.segment_data_as_notes(&aligned)? {
            let Note::Unknown(note) = note else { continue };
            // The descriptor is an address of 4 or of 8 bytes; it must be below 4 GiB either way.
            if note.n_type == PHYS32_ENTRY && note.name.strip_suffix(b"\0") == Some(b"Xen") {
                return Ok(note.desc.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)));
            }
        }
    }
    Ok(None)
}

/// Whether this is an x86-64 `vmlinux` that can be entered with a zero page. The file does not
/// say that it is Linux, so whatever looks like a program is refused.
fn plain_linux(
    machine: u16,
    kind: u16,
    entry: u64,
    loads: &[ProgramHeader],
) -> Result<u64, &'static str> {
    let upper_half = |s: &ProgramHeader| s.p_vaddr >> 63 == 1;
    let loaded = |s: &ProgramHeader| s.p_paddr <= entry && entry - s.p_paddr < s.p_memsz;
    if machine != EM_X86_64 {
        Err("it is not for x86-64")
    } else if kind != ET_EXEC {
        Err("it is not a statically linked image")
    } else if !loads.iter().any(upper_half) {
        Err("it is linked like a program, not in the kernel's half of the addresses")
    } else if !loads.iter().any(loaded) {
        Err("its entry point is in none of its segments")
    } else {
        Ok(entry)
    }
}

/// Everything that can be known to go wrong before memory is written.
fn check(image: &Image, segments: &Segments, request: &KernelRequest<'_>) -> Result<(), Error> {
    let start = segments.footprint.start;
    let floor = request.layout.kernel_floor;
    segments.check_file(image)?;
    if start < floor {
        return Err(Error::LoadAddress { name: image.name.clone(), addr: start, floor });
    }
    request.check_ram(&image.name, &segments.footprint)
}

/// Xen `start_info.h`: the start info, at most one module, and the memory map, in one page.
fn write_start_info(
    mem: &GuestMem,
    request: &KernelRequest<'_>,
    initrd: Option<&Range<u64>>,
) -> Result<(), Error> {
    let page = request.layout.start_info;
    let count = request.e820.len();
    let too_long = || Error::MemoryMapTooLong { count, max: MEMORY_MAP_MAX };
    let entries = u32::try_from(count).map_err(|_| too_long())?;
    if count > MEMORY_MAP_MAX {
        return Err(too_long());
    }
    let mut info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        cmdline_paddr: request.layout.cmdline.addr,
        rsdp_paddr: request.rsdp.unwrap_or(0),
        memmap_paddr: page + MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    let what = "start info";
    if let Some(initrd) = initrd {
        info.nr_modules = 1;
        info.modlist_paddr = page + MODULES;
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.end - initrd.start,
            ..Default::default()
        };
        mem.write(page + MODULES, module.as_slice()).map_err(placing(what))?;
    }
    let line = |e: &E820Entry| hvm_memmap_table_entry {
        addr: e.addr,
        size: e.len,
        type_: e.kind as u32,
        reserved: 0,
    };
    let map: Vec<u8> = request.e820.iter().flat_map(|e| line(e).as_slice().to_vec()).collect();
    mem.write(page + MEMORY_MAP, &map).map_err(placing(what))?;
    mem.write(page, info.as_slice()).map_err(placing(what))
}
