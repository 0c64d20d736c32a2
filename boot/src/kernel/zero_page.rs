//! `struct boot_params`, the page Linux reads everything from.
//!
//! Spec: Linux `Documentation/arch/x86/zero-page.rst`.

use std::ops::Range;

use linux_loader::bootparam::{
    E820_MAX_ENTRIES_ZEROPAGE, LOADED_HIGH, boot_e820_entry, boot_params, setup_header,
};
use trapline_guestmem::GuestMem;
use vm_memory::ByteValued;

use super::KernelRequest;
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
            header.ramdisk_image = below_4g("initrd", initrd.start)?;
            header.ramdisk_size = below_4g("initrd", initrd.end - initrd.start)?;
        }
        // Linux older than protocol 2.14 does not know this field and looks for the pointer's
        // signature in the BIOS area instead.
        self.params.acpi_rsdp_addr = request.rsdp.unwrap_or(0);
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
