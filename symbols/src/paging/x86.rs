//! x86-64's page tables. Source: Intel SDM, volume 3, chapter "Paging".

use super::{Hole, Mapped, entry, left_of};
use crate::Memory;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1;
/// This entry is the page's, not another table's.
const LARGE: u64 = 1 << 7;
/// Bits of an entry that are an address, of 4 KiB pages.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The control registers that say how addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct X86 {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

impl X86 {
    pub(super) fn translate(&self, memory: &dyn Memory, virt: u64) -> Result<Mapped, Hole> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(Mapped { phys: virt & 0xffff_ffff, left: left_of(virt, 12) });
        }
        if self.efer & EFER_LMA != 0 {
            return self.long(memory, virt);
        }
        let virt = virt & 0xffff_ffff;
        if self.cr4 & CR4_PAE == 0 {
            return self.two_levels(memory, virt);
        }
        // Four pointers of 8 bytes, at a multiple of 32.
        walk(memory, self.cr3 & 0xffff_ffe0, virt, 3)
    }

    fn long(&self, memory: &dyn Memory, virt: u64) -> Result<Mapped, Hole> {
        let levels = if self.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
        let bits = 12 + 9 * levels;
        // The bits above are copies of the highest one that counts.
        let above = virt >> (bits - 1);
        if above != 0 && above != u64::MAX >> (bits - 1) {
            let canonical = !(u64::MAX >> (65 - bits));
            return Err(Hole { left: canonical.wrapping_sub(virt).max(1) });
        }
        walk(memory, self.cr3 & ADDRESS, virt, levels)
    }

    /// 32-bit paging, with entries of four bytes.
    fn two_levels(&self, memory: &dyn Memory, virt: u64) -> Result<Mapped, Hole> {
        let directory = (self.cr3 & 0xffff_f000) + (virt >> 22) * 4;
        let entry = short_entry(memory, directory).filter(|entry| entry & PRESENT != 0);
        let entry = entry.ok_or(Hole { left: left_of(virt, 22) })?;
        if entry & LARGE != 0 && self.cr4 & CR4_PSE != 0 {
            // Bits 13 to 20 are bits 32 to 39 of the address.
            let base = (entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32;
            return Ok(Mapped { phys: base | virt & 0x3f_ffff, left: left_of(virt, 22) });
        }
        let table = (entry & 0xffff_f000) + (virt >> 12 & 0x3ff) * 4;
        let entry = short_entry(memory, table).filter(|entry| entry & PRESENT != 0);
        let entry = entry.ok_or(Hole { left: left_of(virt, 12) })?;
        Ok(Mapped { phys: entry & 0xffff_f000 | virt & 0xfff, left: left_of(virt, 12) })
    }
}

/// Walks `levels` tables of entries of eight bytes, the first of them at `table`.
fn walk(memory: &dyn Memory, table: u64, virt: u64, levels: u32) -> Result<Mapped, Hole> {
    let mut table = table;
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let hole = Hole { left: left_of(virt, shift) };
        let entry = entry(memory, table + (virt >> shift & 0x1ff) * 8).ok_or(hole)?;
        if entry & PRESENT == 0 {
            return Err(hole);
        }
        if level == 1 || (level <= 3 && levels > 3 || level == 2) && entry & LARGE != 0 {
            let inside = (1 << shift) - 1;
            let phys = entry & ADDRESS & !inside | virt & inside;
            return Ok(Mapped { phys, left: left_of(virt, shift) });
        }
        table = entry & ADDRESS;
    }
    Err(Hole { left: 1 })
}

fn short_entry(memory: &dyn Memory, addr: u64) -> Option<u64> {
    let mut bytes = [0; 4];
    memory.read(addr, &mut bytes).then(|| u32::from_le_bytes(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;

    const LONG: X86 = X86 { cr0: CR0_PG, cr3: 0x1000, cr4: CR4_PAE, efer: EFER_LMA };

    #[test]
    fn four_levels_lead_to_pages_of_three_sizes() {
        let mut ram = Ram::new(0x10000);
        let virt = 0xffff_ffff_8123_4567;
        ram.put(0x1000 + 511 * 8, 0x2000 | PRESENT);
        ram.put(0x2000 + 510 * 8, 0x3000 | PRESENT);
        // 2 MiB at 8, 4 KiB at 9.
        ram.put(0x3000 + 8 * 8, 0x4000_0000 | PRESENT | LARGE | 1 << 63);
        ram.put(0x3000 + 9 * 8, 0x4000 | PRESENT);
        ram.put(0x4000 + 0x34 * 8, 0x1_2345_6000 | PRESENT | 1 << 63);
        let at = |virt| LONG.translate(&ram, virt);
        let large = 0xffff_ffff_8101_2345;
        assert_eq!(at(large), Ok(Mapped { phys: 0x4001_2345, left: 0x20_0000 - 0x1_2345 }));
        assert_eq!(at(virt), Ok(Mapped { phys: 0x1_2345_6567, left: 0x1000 - 0x567 }));
        assert_eq!(at(virt + 0x1000), Err(Hole { left: 0x1000 - 0x567 }));
        assert_eq!(at(0xffff_ffff_8140_0001), Err(Hole { left: 0x20_0000 - 1 }));
        assert_eq!(at(0), Err(Hole { left: 1 << 39 }));
        // The gap in the middle ends where the upper half begins.
        let gap = 0x8000_0000_0000;
        assert_eq!(at(gap), Err(Hole { left: 0xffff_8000_0000_0000 - gap }));
        ram.put(0x2000 + 511 * 8, 0x1_c000_0000 | PRESENT | LARGE);
        let huge = LONG.translate(&ram, 0xffff_ffff_c000_0010).unwrap();
        assert_eq!(huge, Mapped { phys: 0x1_c000_0010, left: (1 << 30) - 0x10 });
    }

    #[test]
    fn five_levels_are_one_more() {
        let mut ram = Ram::new(0x10000);
        let tables = X86 { cr4: CR4_PAE | CR4_LA57, ..LONG };
        let virt = 0xff11_2233_4455_6677_u64;
        for (table, shift) in [(1_u64, 48), (2, 39), (3, 30), (4, 21), (5, 12)] {
            let index = virt >> shift & 0x1ff;
            ram.put(table * 0x1000 + index * 8, ((table + 1) * 0x1000) | PRESENT);
        }
        let mapped = tables.translate(&ram, virt);
        assert_eq!(mapped, Ok(Mapped { phys: 0x6677, left: 0x1000 - 0x677 }));
        // With four levels the same address is not canonical.
        assert!(LONG.translate(&ram, virt).is_err());
    }

    #[test]
    fn a_table_outside_of_memory_or_one_that_is_its_own_ends() {
        let mut ram = Ram::new(0x2000);
        ram.put(0x1000, 0xffff_ffff_f000 | PRESENT);
        assert_eq!(LONG.translate(&ram, 0), Err(Hole { left: 1 << 30 }));
        ram.put(0x1000, 0x1000 | PRESENT);
        assert_eq!(LONG.translate(&ram, 0x12), Ok(Mapped { phys: 0x1012, left: 0xfee }));
    }

    #[test]
    fn the_modes_of_32_bits() {
        let mut ram = Ram::new(0x10000);
        let none = X86::default();
        let mapped = none.translate(&ram, 0x1_0000_7c00);
        assert_eq!(mapped, Ok(Mapped { phys: 0x7c00, left: 0x400 }));
        let two = X86 { cr0: CR0_PG, cr3: 0x1000, cr4: CR4_PSE, efer: 0 };
        let short = |ram: &mut Ram, addr: u64, value: u32| ram.write(addr, &value.to_le_bytes());
        short(&mut ram, 0x1000 + 3 * 4, 0x0080_0000 | 1 << 13 | 0x81);
        short(&mut ram, 0x1000 + 4 * 4, 0x2001);
        short(&mut ram, 0x2000 + 5 * 4, 0x9001);
        let large = two.translate(&ram, 3 << 22 | 0x1234).unwrap();
        assert_eq!(large, Mapped { phys: 0x1_0080_1234, left: 0x40_0000 - 0x1234 });
        let small = two.translate(&ram, 4 << 22 | 5 << 12 | 6).unwrap();
        assert_eq!(small, Mapped { phys: 0x9006, left: 0xffa });
        assert_eq!(two.translate(&ram, 4 << 22), Err(Hole { left: 0x1000 }));
        assert_eq!(two.translate(&ram, 0), Err(Hole { left: 1 << 22 }));
        let pae = X86 { cr4: CR4_PAE, cr3: 0x1020, ..two };
        ram.put(0x1020 + 3 * 8, 0x3000 | PRESENT);
        ram.put(0x3000, 0x60_0000 | PRESENT | LARGE);
        let mapped = pae.translate(&ram, 3 << 30 | 7).unwrap();
        assert_eq!(mapped, Mapped { phys: 0x60_0007, left: 0x20_0000 - 7 });
    }
}
