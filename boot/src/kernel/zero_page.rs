//! `struct boot_params`, the page Linux reads everything from.
//!
//! Spec: Linux `Documentation/arch/x86/zero-page.rst`.

use std::ops::Range;

use linux_loader::bootparam::{
    E820_MAX_ENTRIES_ZEROPAGE, LOADED_HIGH, VIDEO_TYPE_VLFB, boot_e820_entry, boot_params,
    screen_info, setup_header,
};
use trapline_guestmem::GuestMem;
use vm_memory::ByteValued;

use super::{Framebuffer, KernelRequest};
use crate::e820::E820Entry;
use crate::error::{Error, below_4g, placing};

/// Bytes of guest memory the zero page takes.
pub const ZERO_PAGE_LEN: u64 = 0x1000;

/// "A boot loader without an assigned number" (boot.rst, "type_of_loader").
const OTHER_LOADER: u8 = 0xff;

/// A page in the making.
pub(super) struct ZeroPage {
    params: boot_params,
}

impl ZeroPage {
    /// The page for a kernel with this header.
    pub(super) fn new(header: setup_header) -> Self {
        Self { params: boot_params { hdr: header, ..boot_params::default() } }
    }

    /// The page for a `vmlinux`, which has lost its header: the fields Linux checks.
    pub(super) fn without_header() -> Self {
        Self::new(setup_header {
            boot_flag: 0xaa55,
            header: u32::from_le_bytes(*b"HdrS"),
            loadflags: LOADED_HIGH,
            kernel_alignment: 0x20_0000,
            ..setup_header::default()
        })
    }

    /// Fills in what we have to say and writes the page.
    pub(super) fn finish(
        mut self,
        mem: &GuestMem,
        request: &KernelRequest<'_>,
        initrd: Option<&Range<u64>>,
    ) -> Result<(), Error> {
        let header = &mut self.params.hdr;
        header.type_of_loader = OTHER_LOADER;
        header.cmd_line_ptr = below_4g("command line", request.layout.cmdline.addr)?;
        if let Some(initrd) = initrd {
            let (start, size) = (halves(initrd.start), halves(initrd.end - initrd.start));
            (header.ramdisk_image, self.params.ext_ramdisk_image) = start;
            (header.ramdisk_size, self.params.ext_ramdisk_size) = size;
        }
        // Linux older than protocol 2.14 does not know this field and looks for the pointer's
        // signature in the BIOS area instead.
        self.params.acpi_rsdp_addr = request.rsdp.unwrap_or(0);
        if let Some(framebuffer) = request.framebuffer {
            self.params.screen_info = screen_info_of(framebuffer);
        }
        self.memory_map(request.e820)?;
        mem.write(request.layout.zero_page, self.params.as_slice()).map_err(placing("zero page"))
    }

    fn memory_map(&mut self, map: &[E820Entry]) -> Result<(), Error> {
        let too_long = Error::MemoryMapTooLong { count: map.len(), max: E820_MAX_ENTRIES_ZEROPAGE };
        let mut table = [boot_e820_entry::default(); E820_MAX_ENTRIES_ZEROPAGE];
        let Some(used) = table.get_mut(..map.len()) else { return Err(too_long) };
        let Ok(count) = u8::try_from(map.len()) else { return Err(too_long) };
        for (slot, entry) in used.iter_mut().zip(map) {
            *slot =
                boot_e820_entry { addr: entry.addr, size: entry.len, r#type: entry.kind as u32 };
        }
        self.params.e820_table = table;
        self.params.e820_entries = count;
        Ok(())
    }
}

/// The lower and the upper 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is shifted out or cut")]
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// Units of `lfb_size` for a VESA frame buffer.
const LFB_SIZE_UNIT: u32 = 0x1_0000;

/// `struct screen_info`, as a boot loader fills it in that has set a VESA mode (Linux
/// `include/uapi/linux/screen_info.h` and `arch/x86/boot/video-vesa.c`).
fn screen_info_of(framebuffer: Framebuffer) -> screen_info {
    screen_info {
        orig_video_isVGA: VIDEO_TYPE_VLFB,
        lfb_base: framebuffer.base,
        lfb_size: framebuffer.len.div_ceil(LFB_SIZE_UNIT),
        lfb_width: framebuffer.width,
        lfb_height: framebuffer.height,
        lfb_depth: 32,
        lfb_linelength: framebuffer.stride,
        red_size: 8,
        red_pos: 16,
        green_size: 8,
        green_pos: 8,
        blue_size: 8,
        blue_pos: 0,
        rsvd_size: 8,
        rsvd_pos: 24,
        // Pictures the memory has room for; Linux pans over no more than one.
        pages: 1,
        // Bit 0 of a mode's attributes is "supported by this hardware", 3 colour, 4 graphics, 7 a
        // linear frame buffer (VESA BIOS Extension 3.0, function 01h, ModeAttributes).
        vesa_attributes: 0x0099,
        ..screen_info::default()
    }
}
