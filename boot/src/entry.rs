//! The state a vCPU starts in, and the tables in guest memory that state rests on.

use trapline_guestmem::GuestMem;

use crate::error::{Error, below_4g, placing};

/// Where and how the first vCPU starts. All registers not named are 0, flags are 2 (only the bit
/// that is always set), interrupts are off and the interrupt descriptor table is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode, paging on: the 64-bit Linux boot protocol. CR0 = PE, ET, PG; CR4 = PAE;
    /// EFER = LME, LMA; segments from the table.
    Long {
        /// First instruction.
        rip: u64,
        /// The zero page.
        rsi: u64,
        /// Top of a small stack, aligned to 16 bytes. Linux does not need it.
        rsp: u64,
        /// The page tables, an identity map of the first 4 GiB.
        cr3: u64,
        /// Code and data segments.
        gdt: Gdt,
    },
    /// 32-bit protected mode, paging off: the 32-bit Linux boot protocol, PVH and Multiboot.
    /// CR0 = PE, ET; segments are flat and from the table. EBP, EDI and whichever is unused are 0.
    Protected {
        /// First instruction.
        eip: u32,
        /// Multiboot: its magic value. Others: 0.
        eax: u32,
        /// PVH: the start info. Multiboot: the boot information. Linux: 0.
        ebx: u32,
        /// Linux: the zero page. Others: 0.
        esi: u32,
        /// Code and data segments.
        gdt: Gdt,
    },
    /// Real mode with `CS.base = cs << 4`: firmware.
    Real {
        /// Code segment.
        cs: u16,
        /// First instruction, in that segment.
        ip: u16,
    },
}

/// Selector of the code segment, `__BOOT_CS` of the Linux boot protocol.
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segment for DS, ES, SS, FS and GS: `__BOOT_DS`.
pub const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task state segment, which Intel's virtualization demands.
pub const TSS_SELECTOR: u16 = 0x20;

/// Bytes of guest memory a [`Gdt`] takes.
pub const GDT_LEN: u64 = 8 * GDT_ENTRIES as u64;
const GDT_ENTRIES: usize = 6;

/// Bytes of guest memory the page tables take: one PML4, one PDPT, four page directories.
pub const PAGE_TABLES_LEN: u64 = 6 * PAGE;
const PAGE: u64 = 0x1000;

/// Flat, execute/read, accessed, present, ring 0, 32-bit.
/// (Intel SDM volume 3A, section 3.4.5, figure 3-8.)
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
/// The same with L instead of D: 64-bit.
const CODE64: u64 = 0x00af_9b00_0000_ffff;
/// Flat, read/write, accessed, present, ring 0.
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// A busy TSS at 0; in 64-bit mode the entry after it is its upper half.
const TSS: u64 = 0x0000_8b00_0000_0067;

/// A global descriptor table in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gdt {
    /// Its guest physical address.
    pub base: u64,
    /// Its length in bytes minus one, as GDTR holds it.
    pub limit: u16,
    /// What is in it.
    entries: [u64; GDT_ENTRIES],
}

impl Gdt {
    /// Writes a table with a 64-bit code segment to `base`.
    pub(crate) fn long(mem: &GuestMem, base: u64) -> Result<Self, Error> {
        Self::write(mem, base, CODE64)
    }

    /// Writes a table with a 32-bit code segment to `base`.
    pub(crate) fn protected(mem: &GuestMem, base: u64) -> Result<Self, Error> {
        Self::write(mem, base, CODE32)
    }

    fn write(mem: &GuestMem, base: u64, code: u64) -> Result<Self, Error> {
        let entries = [0, 0, code, DATA, TSS, 0];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        mem.write(base, &bytes).map_err(placing("descriptor table"))?;
        Ok(Self { base, limit: 8 * 6 - 1, entries })
    }

    /// What loading `selector` puts into a segment register; the null segment for a selector that
    /// is not in the table.
    pub fn segment(&self, selector: u16) -> Segment {
        let descriptor = self.entries.get(usize::from(selector >> 3)).copied().unwrap_or(0);
        Segment::decode(selector, descriptor)
    }
}

/// A segment register with its hidden part, in the terms of the descriptor (Intel SDM volume 3A,
/// section 3.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// First linear address.
    pub base: u32,
    /// Last valid offset, in bytes.
    pub limit: u32,
    /// The type field, 4 bits.
    pub kind: u8,
    /// S: code or data, not a system segment.
    pub code_or_data: bool,
    /// Privilege level, 0 to 3.
    pub dpl: u8,
    /// P.
    pub present: bool,
    /// L: 64-bit code.
    pub long: bool,
    /// D/B: 32-bit code or stack.
    pub wide: bool,
    /// G: the limit was in units of 4 KiB.
    pub granular: bool,
}

impl Segment {
    fn decode(selector: u16, descriptor: u64) -> Self {
        let bytes = descriptor.to_le_bytes();
        let [limit0, limit1, base0, base1, base2, access, flags, base3] = bytes;
        let raw = u32::from_le_bytes([limit0, limit1, flags & 0xf, 0]);
        let granular = flags & 0x80 != 0;
        Self {
            selector,
            base: u32::from_le_bytes([base0, base1, base2, base3]),
            limit: if granular { raw << 12 | 0xfff } else { raw },
            kind: access & 0xf,
            code_or_data: access & 0x10 != 0,
            dpl: access >> 5 & 3,
            present: access & 0x80 != 0,
            long: flags & 0x20 != 0,
            wide: flags & 0x40 != 0,
            granular,
        }
    }
}

/// Present, writable. (Intel SDM volume 3A, section 4.5.)
const TABLE: u64 = 0x3;
/// Present, writable, page size: a 2 MiB page.
const LARGE_PAGE: u64 = 0x83;

/// Writes page tables to `base` that map the first 4 GiB onto themselves in 2 MiB pages, which
/// every 64-bit processor has (1 GiB pages are optional). Returns what CR3 is to hold.
pub(crate) fn write_page_tables(mem: &GuestMem, base: u64) -> Result<u64, Error> {
    let what = "page tables";
    let last = below_4g(what, base.saturating_add(PAGE_TABLES_LEN))?;
    if !base.is_multiple_of(PAGE) {
        return Err(Error::BadAddress { what, addr: base, why: "it must be aligned to 4 KiB" });
    }
    let pdpt = base + PAGE;
    let directories = (pdpt + PAGE..u64::from(last)).step_by(0x1000);
    let mut tables = vec![pdpt | TABLE];
    tables.resize(512, 0);
    tables.extend(directories.map(|directory| directory | TABLE));
    tables.resize(1024, 0);
    tables.extend((0..4 * 512).map(|page| page << 21 | LARGE_PAGE));
    let bytes: Vec<u8> = tables.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    mem.write(base, &bytes).map_err(placing(what))?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(mem: &GuestMem, addr: u64) -> u64 {
        let mut bytes = [0; 8];
        mem.read(addr, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// The processor's walk for a 2 MiB page.
    fn translate(mem: &GuestMem, cr3: u64, linear: u64) -> u64 {
        let frame = 0x000f_ffff_ffff_f000;
        let mut table = cr3;
        for shift in [39, 30] {
            let entry = word(mem, table + 8 * (linear >> shift & 511));
            assert_eq!(entry & 0x83, 3, "{linear:#x}: present, writable, a table");
            table = entry & frame;
        }
        let entry = word(mem, table + 8 * (linear >> 21 & 511));
        assert_eq!(entry & 0x83, 0x83, "{linear:#x}: present, writable, a page");
        (entry & frame) + (linear & 0x1f_ffff)
    }

    #[test]
    fn the_first_four_gib_are_mapped_onto_themselves_and_nothing_else_is() {
        let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
        let cr3 = write_page_tables(&mem, 0x1_0000).unwrap();
        for linear in [0, 0x7000, 0x10_0000, 0x3fff_ffff, 0x4000_0000, 0xd123_4567, 0xffff_ffff] {
            assert_eq!(translate(&mem, cr3, linear), linear);
        }
        assert_eq!(word(&mem, cr3 + 8), 0);
        assert_eq!(word(&mem, cr3 + 0x1000 + 8 * 4), 0);
        assert_eq!(word(&mem, cr3 + PAGE_TABLES_LEN), 0, "nothing after the tables");
    }

    #[test]
    fn page_tables_off_a_page_boundary_are_refused() {
        let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
        assert!(write_page_tables(&mem, 0x1_0800).is_err());
        assert!(write_page_tables(&mem, 0xf_b000).is_err(), "one page too few");
    }

    #[test]
    fn segments_are_what_the_boot_protocols_ask_for() {
        let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
        let long = Gdt::long(&mem, 0x500).unwrap();
        let code = long.segment(CODE_SELECTOR);
        assert_eq!((code.base, code.limit, code.kind), (0, 0xffff_ffff, 0xb));
        assert!(code.present && code.code_or_data && code.long && !code.wide && code.granular);
        let protected = Gdt::protected(&mem, 0x600).unwrap();
        let code = protected.segment(CODE_SELECTOR);
        assert!(!code.long && code.wide);
        let data = protected.segment(DATA_SELECTOR);
        assert_eq!((data.base, data.limit, data.kind, data.dpl), (0, 0xffff_ffff, 3, 0));
        let tss = protected.segment(TSS_SELECTOR);
        assert_eq!((tss.limit, tss.kind, tss.code_or_data), (0x67, 0xb, false));
        assert!(!protected.segment(0x100).present);
        assert_eq!(u64::from(long.limit) + 1, GDT_LEN);
        assert_eq!(word(&mem, 0x510), CODE64, "the table is in guest memory");
        assert_eq!(word(&mem, 0x610), CODE32);
    }
}
