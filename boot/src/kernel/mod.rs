//! Kernels: bzImage by the Linux boot protocol; ELF by PVH, by Multiboot, or by the 64-bit Linux
//! entry; anything with a Multiboot header that says where it goes.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst` ("the Linux boot protocol"); Xen
//! `public/arch-x86/hvm/start_info.h` and `docs/misc/pvh.pandoc` (PVH);
//! Multiboot Specification, version 0.6.96.

mod bios;
mod bzimage;
mod elf;
mod initrd;
mod multiboot;
mod segments;
#[cfg(test)]
pub(crate) mod testelf;
#[cfg(test)]
mod tests;
mod zero_page;

use std::ops::Range;
use std::path::Path;

use trapline_guestmem::GuestMem;

pub use crate::initrd::Initrd;
pub use bios::Bios;
pub use multiboot::module_files;
pub use zero_page::ZERO_PAGE_LEN;

pub use self::elf::START_INFO_LEN;
use crate::cmdline::CmdlinePlace;
use crate::e820::{E820Entry, E820Kind, is_ram};
use crate::entry::{Entry, write_page_tables};
use crate::error::Error;
use crate::foreign;
use crate::image::Image;

/// Where this board keeps what a kernel is told. All of it is RAM below [`Self::kernel_floor`]
/// and no two ranges overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X86Layout {
    /// Linux' zero page, [`ZERO_PAGE_LEN`] bytes.
    pub zero_page: u64,
    /// PVH's start info with its lists, [`START_INFO_LEN`] bytes, aligned to 8.
    pub start_info: u64,
    /// The command line.
    pub cmdline: CmdlinePlace,
    /// The descriptor table, [`GDT_LEN`](crate::entry::GDT_LEN) bytes, aligned to 8.
    pub gdt: u64,
    /// Page tables, [`PAGE_TABLES_LEN`](crate::entry::PAGE_TABLES_LEN) bytes, aligned to 4 KiB.
    pub page_tables: u64,
    /// Top of the stack a 64-bit kernel is given, aligned to 16.
    pub stack_top: u64,
    /// Where the BIOS would be.
    pub bios: Bios,
    /// The lowest address a kernel may be loaded at, unless it is a Multiboot kernel: 1 MiB on a PC.
    pub kernel_floor: u64,
    /// Where there are devices below 4 GiB, however much RAM the guest has.
    pub device_hole: Range<u64>,
}

/// What to load and what to tell it.
#[derive(Clone, Copy, Debug)]
pub struct KernelRequest<'a> {
    /// The kernel.
    pub path: &'a Path,
    /// Its initial RAM disk.
    pub initrd: Option<Initrd<'a>>,
    /// The whole command line, defaults included. A Multiboot kernel's begins with its file's
    /// name, which is put before this.
    pub cmdline: &'a str,
    /// The board's addresses.
    pub layout: &'a X86Layout,
    /// The memory map, from which the guest's RAM is taken too.
    pub e820: &'a [E820Entry],
    /// Guest physical address of ACPI's root pointer, if there are ACPI tables.
    pub rsdp: Option<u64>,
    /// The display that is there from the start. Told to Linux through its zero page; PVH has no
    /// words for it.
    pub framebuffer: Option<Framebuffer>,
}

impl KernelRequest<'_> {
    /// Whether the guest has RAM for all of a kernel's memory.
    fn check_ram(&self, name: &str, kernel: &Range<u64>) -> Result<(), Error> {
        let Range { start, end } = *kernel;
        if start < end && is_ram(self.e820, kernel) {
            return Ok(());
        }
        let name = name.to_owned();
        let hole = &self.layout.device_hole;
        let after = |e: &E820Entry| e.kind == E820Kind::Ram && e.addr > start;
        // More RAM is added behind what there is, and never to the hole.
        if self.e820.iter().any(after) || start < hole.end && hole.start < end {
            return Err(Error::KernelInHole { name, start, end });
        }
        Err(Error::KernelDoesNotFit { name, start, end })
    }
}

/// A linear frame buffer of 32 bits a pixel: blue in the lowest byte, then green, then red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Guest physical address.
    pub base: u32,
    /// Bytes of memory there, at least the picture's.
    pub len: u32,
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// Bytes from one line to the next.
    pub stride: u16,
}

/// How a kernel was recognised, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// bzImage entered at its 64-bit entry.
    Linux64,
    /// bzImage entered at its 32-bit entry.
    Linux32,
    /// ELF with a PVH note.
    Pvh,
    /// `vmlinux` without a PVH note, entered at its 64-bit entry.
    Vmlinux64,
    /// A Multiboot kernel.
    Multiboot,
}

/// What a kernel wants to be told, which decides what a command line and an initial RAM disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux, as a bzImage or as `vmlinux` without a PVH note.
    Linux,
    /// An ELF file with a PVH note; most are Linux.
    Pvh,
    /// A Multiboot kernel: its initial RAM disk is a list of modules, see [`module_files`].
    Multiboot,
}

impl Format {
    /// The format of the kernel at `path`.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is no kernel.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let image = Image::open(path, |name, source| Error::OpenKernel { name, source })?;
        match Container::of(&image)? {
            Container::Elf => elf::format(&image),
            Container::BzImage => Ok(Self::Linux),
            Container::Multiboot(_) => Ok(Self::Multiboot),
        }
    }
}

/// What kind of file a kernel is in.
enum Container {
    Elf,
    BzImage,
    /// Nothing we know but for its Multiboot header.
    Multiboot(multiboot::Header),
}

impl Container {
    fn of(image: &Image) -> Result<Self, Error> {
        let mut head = [0; foreign::HEAD];
        if image.read_at(&mut head, 0)? == 0 {
            return Err(Error::Empty { name: image.name.clone() });
        }
        if head.starts_with(b"\x7fELF\x01\x01") || head.starts_with(b"\x7fELF\x02\x01") {
            return Ok(Self::Elf);
        }
        // A bzImage may begin with "MZ" (it is an EFI program too), so only its own magic counts.
        if head.get(bzimage::MAGIC) == Some(b"HdrS") {
            return Ok(Self::BzImage);
        }
        if let Some(header) = multiboot::Header::find(image)? {
            return Ok(Self::Multiboot(header));
        }
        let name = image.name.clone();
        Err(match foreign::on_x86(&head) {
            Some((found, wanted)) => Error::ForeignKernel { name, found, wanted },
            None => Error::NotKernel { name },
        })
    }
}

/// A kernel in memory, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Where the first vCPU starts.
    pub entry: Entry,
    /// How it was recognised.
    pub protocol: Protocol,
    /// The memory it needs until it has read the memory map.
    pub kernel: Range<u64>,
    /// Where its initrd is; a Multiboot kernel has modules instead.
    pub initrd: Option<Range<u64>>,
}

/// Loads a kernel, its initrd and its command line, and writes everything its boot protocol wants
/// to find. Loading again after a reset starts from any state of the memory.
///
/// # Errors
/// A file cannot be opened or read, is no kernel, is truncated, or does not fit; the command line
/// is too long. Each error's text is one sentence for the user.
pub fn load_kernel(mem: &GuestMem, request: &KernelRequest<'_>) -> Result<Loaded, Error> {
    let mut image = Image::open(request.path, |name, source| Error::OpenKernel { name, source })?;
    let container = Container::of(&image)?;
    // First, as a kernel may be loaded over it.
    request.layout.bios.write(mem, request.e820)?;
    match container {
        Container::Elf => elf::load(mem, &mut image, request),
        Container::BzImage => bzimage::load(mem, &mut image, request),
        Container::Multiboot(header) => multiboot::load(mem, &mut image, request, &header),
    }
}

/// The state at a 64-bit Linux entry, with its tables written.
fn long_entry(mem: &GuestMem, rip: u64, layout: &X86Layout) -> Result<Entry, Error> {
    Ok(Entry::Long {
        rip,
        rsi: layout.zero_page,
        rsp: layout.stack_top,
        cr3: write_page_tables(mem, layout.page_tables)?,
        gdt: crate::entry::Gdt::long(mem, layout.gdt)?,
    })
}
