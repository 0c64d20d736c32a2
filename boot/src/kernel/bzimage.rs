//! bzImage, protocol 2.06 and later.

use std::ops::Range;

use linux_loader::bootparam::{
    LOADED_HIGH, XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64, setup_header,
};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bzimage::BzImage;
use trapline_guestmem::GuestMem;
use vm_memory::{ByteValued, GuestAddress};

use super::initrd::Room;
use super::zero_page::ZeroPage;
use super::{KernelRequest, Loaded, Protocol, long_entry};
use crate::cmdline;
use crate::entry::{Entry, Gdt};
use crate::error::Error;
use crate::image::Image;

/// Where "HdrS" is (boot.rst, "The Real-Mode Kernel Header").
pub(super) const MAGIC: Range<usize> = 0x202..0x206;
/// What the header's end is counted from.
const MAGIC_OFFSET: u64 = 0x202;

/// Where the setup header begins, in the file and in the zero page.
const HEADER_OFFSET: u64 = 0x1f1;
/// The offset in the header of the byte that says where the header ends: a short jump's operand
/// at 0x201, counted from 0x202.
const HEADER_END: usize = 0x201 - 0x1f1;

/// The first protocol with `cmdline_size`.
const PROTOCOL_MIN: u16 = 0x0206;
/// The first protocol with `init_size` and `pref_address`.
const PROTOCOL_INIT_SIZE: u16 = 0x020a;
/// The first protocol with `xloadflags`.
const PROTOCOL_XLOADFLAGS: u16 = 0x020c;

const SECTOR: u64 = 512;
/// What `syssize` counts.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry is this far into the protected-mode kernel (boot.rst, "64-bit Boot Protocol").
const ENTRY_64: u64 = 0x200;

pub(super) fn load(
    mem: &GuestMem,
    image: &mut Image,
    request: &KernelRequest<'_>,
) -> Result<Loaded, Error> {
    let header = read_header(image)?;
    let payload = payload(image, &header)?;
    let kernel = footprint(&header, payload.end - payload.start);
    let start = u64::from(header.code32_start);
    if start == 0 {
        return Err(Error::RealModeOnly { name: image.name.clone() });
    }
    if start < request.layout.kernel_floor {
        let floor = request.layout.kernel_floor;
        return Err(Error::LoadAddress { name: image.name.clone(), addr: start, floor });
    }
    request.check_ram(&image.name, &kernel)?;

    let max = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    cmdline::write(mem, request.cmdline, &image.name, max, request.layout.cmdline)?;
    let room = Room { e820: request.e820, kernel: &kernel, tops: initrd_tops(&header) };
    let initrd = room.load(mem, request.initrd, &image.name)?;
    BzImage::load(mem.backend(), Some(GuestAddress(start)), &mut image.file, None)
        .map_err(|error| image.unreadable(error))?;
    ZeroPage::new(header).finish(mem, request, initrd.as_ref())?;

    let (entry, protocol) = if has_64_bit_entry(&header) {
        (long_entry(mem, start + ENTRY_64, request.layout)?, Protocol::Linux64)
    } else {
        let zero_page = crate::error::below_4g("zero page", request.layout.zero_page)?;
        let gdt = Gdt::protected(mem, request.layout.gdt)?;
        let eip = header.code32_start;
        (Entry::Protected { eip, eax: 0, ebx: 0, esi: zero_page, gdt }, Protocol::Linux32)
    };
    Ok(Loaded { entry, protocol, kernel, initrd })
}

/// The setup header, without what follows it in the file, and of a version we speak.
fn read_header(image: &Image) -> Result<setup_header, Error> {
    let mut header = setup_header::default();
    image.read_at(header.as_mut_slice(), HEADER_OFFSET)?;
    let end = header.as_slice().get(HEADER_END).copied().unwrap_or(0);
    let needed = MAGIC_OFFSET + u64::from(end);
    if image.len < needed {
        return Err(Error::Truncated { name: image.name.clone(), missing: needed - image.len });
    }
    // Bytes after the header's own end are code; a kernel that sees them takes them for fields.
    let past = header.as_mut_slice().get_mut(HEADER_END + 1 + usize::from(end)..);
    past.unwrap_or_default().fill(0);

    let name = || image.name.clone();
    let [minor, major] = header.version.to_le_bytes();
    if header.version < PROTOCOL_MIN {
        return Err(Error::OldProtocol { name: name(), major, minor });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(Error::ZImage { name: name() });
    }
    Ok(header)
}

/// Where in the file the protected-mode kernel is.
fn payload(image: &Image, header: &setup_header) -> Result<Range<u64>, Error> {
    // boot.rst, "setup_sects": 0 means 4, for old kernels.
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let start = (sectors + 1) * SECTOR;
    let end = start + u64::from(header.syssize) * PARAGRAPH;
    // The count is rounded up: a whole kernel may end anywhere in its last paragraph. A file may
    // well be longer, as a signature follows the kernel.
    if image.len + PARAGRAPH <= end || image.len <= start {
        let missing = end.max(start + 1) - image.len;
        return Err(Error::Truncated { name: image.name.clone(), missing });
    }
    Ok(start..image.len)
}

/// What the kernel uses before it has read the memory map: where we load it, and where it unpacks
/// itself to (boot.rst, "init_size").
fn footprint(header: &setup_header, payload_len: u64) -> Range<u64> {
    let start = u64::from(header.code32_start);
    let loaded = start + payload_len;
    if header.version < PROTOCOL_INIT_SIZE {
        return start..loaded;
    }
    let runtime = if header.relocatable_kernel == 0 {
        header.pref_address
    } else {
        let align = u64::from(header.kernel_alignment).max(1);
        start.max(header.pref_address).checked_next_multiple_of(align).unwrap_or(u64::MAX)
    };
    start.min(runtime)..loaded.max(runtime.saturating_add(u64::from(header.init_size)))
}

/// Ends (exclusive) of where the initrd may be, the preferred one first.
///
/// boot.rst calls `initrd_addr_max` "the maximum address that may be occupied". Linux has said
/// 2 GiB since 2007 because of faulty boot loaders; a kernel with `XLF_CAN_BE_LOADED_ABOVE_4G`
/// takes one anywhere, by the `ext_ramdisk_*` fields of the zero page.
fn initrd_tops(header: &setup_header) -> Vec<u64> {
    let mut tops = vec![u64::from(header.initrd_addr_max) + 1];
    let flags = if header.version < PROTOCOL_XLOADFLAGS { 0 } else { header.xloadflags };
    if flags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
        tops.extend([1 << 32, u64::MAX]);
    }
    tops
}

fn has_64_bit_entry(header: &setup_header) -> bool {
    header.version >= PROTOCOL_XLOADFLAGS && header.xloadflags & XLF_KERNEL_64 != 0
}
