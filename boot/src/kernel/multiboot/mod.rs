//! Kernels by the Multiboot Specification, version 0.6.96 ("Multiboot 1").
//!
//! The header says how; what is loaded comes from its address fields or else from the ELF header
//! around it, 32-bit or 64-bit: the kernel starts in 32-bit mode either way. Modules come from the
//! initial RAM disk's place, a list of files.

mod header;
mod info;
mod modules;
mod room;
#[cfg(test)]
mod tests;

use std::fs::File;

use elf::ElfStream;
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;
use trapline_guestmem::GuestMem;

pub(super) use self::header::Header;
use self::info::Told;
pub use self::modules::module_files;
use self::room::Room;
use super::segments::Segments;
use super::{KernelRequest, Loaded, Protocol};
use crate::entry::{Entry, Gdt};
use crate::error::{Error, below_4g, placing};
use crate::image::Image;

/// EAX at the entry (section 3.2 "Machine state").
pub(super) const LOADED_BY_MULTIBOOT: u32 = 0x2bad_b002;

/// What the boot information is aligned to.
const INFO_ALIGN: u64 = 0x1000;

/// Loads `image` by its `header`.
///
/// A kernel may go anywhere there is RAM, below 1 MiB too: unlike Linux it is told nothing at a
/// fixed place, but for the descriptor table, which a kernel must not rely on, and real mode's
/// interrupt vectors.
pub(super) fn load(
    mem: &GuestMem,
    image: &mut Image,
    request: &KernelRequest<'_>,
    header: &Header,
) -> Result<Loaded, Error> {
    header.check(image, request.framebuffer.is_some())?;
    let (segments, eip) = match header.segment(image)? {
        Some((segment, entry)) => (Segments::new(image, vec![segment])?, entry),
        None => elf_segments(image)?,
    };
    segments.check_file(image)?;
    request.check_ram(&image.name, &segments.footprint)?;
    let kernel = segments.footprint.clone();
    let mut room = Room::new(request.e820, kernel.clone());
    let cmdline = cmdline(image, request.cmdline)?;

    let gdt = Gdt::protected(mem, request.layout.gdt)?;
    let eip = request.layout.bios.start(mem, eip)?;
    segments.load(mem, image)?;
    let modules = modules::load(mem, request.initrd, &mut room, &image.name)?;
    let told = Told {
        cmdline: &cmdline,
        modules: &modules,
        e820: request.e820,
        framebuffer: request.framebuffer,
    };
    let what = "boot information";
    let place = room.conventional(told.len(), INFO_ALIGN).ok_or_else(|| Error::NoRoom {
        what,
        need: told.len(),
        room: room.ram_bytes(),
    })?;
    let ebx = below_4g(what, place.start)?;
    mem.write(place.start, &told.bytes(ebx)).map_err(placing(what))?;
    let entry = Entry::Protected { eip, eax: LOADED_BY_MULTIBOOT, ebx, esi: 0, gdt };
    let initrd = modules.first().zip(modules.last());
    let initrd = initrd.map(|(first, last)| first.place.start..last.place.end);
    Ok(Loaded { entry, protocol: Protocol::Multiboot, kernel, initrd })
}

/// What the ELF header around the Multiboot header says. An entry point inside of a segment's
/// virtual addresses is that place of the segment, as kernels are linked high and loaded low.
fn elf_segments(image: &Image) -> Result<(Segments, u32), Error> {
    let bad = |reason| Error::BadMultiboot { name: image.name.clone(), reason };
    let file = image.file.try_clone().map_err(|error| image.unreadable(error))?;
    let stream = ElfStream::<LittleEndian, File>::open_stream(file)
        .map_err(|_| bad("it has no addresses and is no ELF file"))?;
    let segments = Segments::new(image, stream.segments().clone())?;
    let entry = stream.ehdr.e_entry;
    let holds = |s: &&ProgramHeader| s.p_vaddr <= entry && entry - s.p_vaddr < s.p_memsz;
    let physical = match segments.loads.iter().find(holds) {
        Some(segment) => segment.p_paddr.checked_add(entry - segment.p_vaddr),
        None => Some(entry),
    };
    let eip = physical.and_then(|entry| u32::try_from(entry).ok());
    Ok((segments, eip.ok_or(bad("its entry point is above 4 GiB"))?))
}

/// "The command line is a normal C-style zero-terminated string"; boot loaders begin it with the
/// kernel's own name, and kernels skip that word.
fn cmdline(image: &Image, arguments: &str) -> Result<Vec<u8>, Error> {
    let mut line = image.name.clone();
    if !arguments.is_empty() {
        line.push(' ');
        line.push_str(arguments);
    }
    if line.contains('\0') {
        return Err(Error::CmdlineNul);
    }
    Ok(line.into_bytes())
}
