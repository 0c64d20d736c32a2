//! arm64's page tables of EL1, stage 1. Source: Arm ARM (DDI 0487), section D8, "The AArch64 Virtual
//! Memory System Architecture".

use super::{Hole, Mapped, entry, left_of};
use crate::Memory;

const SCTLR_M: u64 = 1;
/// A page or block, or a table.
const VALID: u64 = 1;
/// Above the last level: a table. There: a page.
const TABLE: u64 = 2;
/// TCR_EL1.DS: addresses of 52 bits with granules of 4 and 16 KiB.
const DS: u64 = 1 << 59;

/// The system registers that say how addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct Arm64 {
    pub sctlr_el1: u64,
    pub tcr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
}

/// What TCR_EL1 says of one half of the addresses.
struct Half {
    /// Bits of an address that count.
    bits: u32,
    /// The two's logarithm of a page's length.
    granule: u32,
    /// Its table base register.
    ttbr: u64,
}

impl Arm64 {
    /// How many bits of an address of the kernel's count.
    pub fn kernel_bits(&self) -> u32 {
        64 - field(self.tcr_el1, 16, 6)
    }

    pub(super) fn translate(&self, memory: &dyn Memory, virt: u64) -> Result<Mapped, Hole> {
        if self.sctlr_el1 & SCTLR_M == 0 {
            return Ok(Mapped { phys: virt, left: left_of(virt, 12) });
        }
        let upper = virt >> 55 & 1 == 1;
        let half = self.half(upper).ok_or(Hole { left: left_of(virt, 55) })?;
        if !self.is_in(&half, upper, virt) {
            let upper_start = u64::MAX << half.bits;
            let left = if upper && virt < upper_start { upper_start - virt } else { 1 << 12 };
            return Err(Hole { left });
        }
        self.walk(memory, &half, virt)
    }

    /// What there is of the upper or lower half; nothing if it is switched off or makes no sense.
    fn half(&self, upper: bool) -> Option<Half> {
        let tcr = self.tcr_el1;
        let (size, off, granule, ttbr) = if upper {
            let granule = match tcr >> 30 & 3 {
                1 => Some(14),
                2 => Some(12),
                3 => Some(16),
                _ => None,
            };
            (field(tcr, 16, 6), tcr >> 23 & 1, granule, self.ttbr1_el1)
        } else {
            let granule = match tcr >> 14 & 3 {
                0 => Some(12),
                1 => Some(16),
                2 => Some(14),
                _ => None,
            };
            (field(tcr, 0, 6), tcr >> 7 & 1, granule, self.ttbr0_el1)
        };
        let (bits, granule) = (64 - size, granule?);
        (off == 0 && (granule + 4..=52).contains(&bits)).then_some(Half { bits, granule, ttbr })
    }

    /// Whether the bits that do not count are as they are to be; a tag's are not looked at.
    fn is_in(&self, half: &Half, upper: bool, virt: u64) -> bool {
        let ignore_tag = self.tcr_el1 >> (if upper { 38 } else { 37 }) & 1 == 1;
        // Sign-extended from bit 55.
        let virt = if ignore_tag { ((virt << 8).cast_signed() >> 8).cast_unsigned() } else { virt };
        virt >> half.bits == if upper { u64::MAX >> half.bits } else { 0 }
    }

    fn walk(&self, memory: &dyn Memory, half: &Half, virt: u64) -> Result<Mapped, Hole> {
        let stride = half.granule - 3;
        let levels = (half.bits - half.granule).div_ceil(stride);
        let mut table = self.base(half, stride, levels);
        for level in (0..levels).rev() {
            let shift = half.granule + stride * level;
            let hole = Hole { left: left_of(virt, shift) };
            let bits = stride.min(half.bits - shift);
            let at = table + (virt >> shift & ((1 << bits) - 1)) * 8;
            let entry = entry(memory, at).filter(|entry| entry & VALID != 0).ok_or(hole)?;
            let next = self.address(half, entry);
            if level == 0 || entry & TABLE == 0 {
                // A page without that bit is reserved, and no block is that large.
                if level == 0 && entry & TABLE == 0 || level > 2 {
                    return Err(hole);
                }
                let inside = (1 << shift) - 1;
                return Ok(Mapped { phys: next & !inside | virt & inside, left: hole.left });
            }
            table = next;
        }
        Err(Hole { left: 1 })
    }

    /// Whether physical addresses have 52 bits.
    fn is_long(&self, half: &Half) -> bool {
        let ips = field(self.tcr_el1, 32, 3);
        if half.granule == 16 { ips >= 6 } else { self.tcr_el1 & DS != 0 }
    }

    /// The first table's address.
    fn base(&self, half: &Half, stride: u32, levels: u32) -> u64 {
        let entries = 1_u64 << (half.bits - half.granule - stride * (levels - 1));
        if self.is_long(half) {
            return half.ttbr & 0xffff_ffff_ffc0 | (half.ttbr >> 2 & 0xf) << 48;
        }
        half.ttbr & 0xffff_ffff_ffff & !(entries * 8 - 1)
    }

    /// The address in an entry.
    fn address(&self, half: &Half, entry: u64) -> u64 {
        let low = entry & 0xffff_ffff_ffff & (u64::MAX << half.granule);
        match (self.is_long(half), half.granule) {
            (false, _) => low,
            (true, 16) => low | (entry >> 12 & 0xf) << 48,
            (true, _) => low | entry & 3 << 48 | (entry >> 8 & 3) << 50,
        }
    }
}

fn field(register: u64, shift: u32, bits: u32) -> u32 {
    u32::try_from(register >> shift & ((1 << bits) - 1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;

    /// 48 bits, 4 KiB, both halves, tags ignored below.
    const TCR: u64 = 16 | 16 << 16 | 2 << 30 | 5 << 32 | 1 << 37;

    fn tables(tcr_el1: u64, ttbr1_el1: u64) -> Arm64 {
        Arm64 { sctlr_el1: 1, tcr_el1, ttbr0_el1: 0x9000, ttbr1_el1 }
    }

    /// Puts a way of tables down to `virt`, from `0x1000` on, and gives the last entry's place.
    fn way(ram: &mut Ram, virt: u64, shifts: &[(u32, u32)], granule: u32) -> u64 {
        let len = 1_u64 << granule;
        let mut table = len;
        for (count, (shift, bits)) in (1..).zip(shifts) {
            let at = table + (virt >> shift & ((1 << bits) - 1)) * 8;
            if count == shifts.len() {
                return at;
            }
            table += len;
            ram.put(at, table | 3);
        }
        0
    }

    #[test]
    fn pages_of_four_kib_have_four_levels_or_three() {
        let mut ram = Ram::new(0x10000);
        let virt = 0xffff_8000_1234_5678;
        let last = way(&mut ram, virt, &[(39, 9), (30, 9), (21, 9), (12, 9)], 12);
        ram.put(last, 0x60_0000_0000_0003 | 0x4321_9000);
        let at = |tables: Arm64, virt| tables.translate(&ram, virt);
        let mapped = Ok(Mapped { phys: 0x4321_9678, left: 0x988 });
        assert_eq!(at(tables(TCR, 0x1000), virt), mapped);
        // An address space's number is above the table.
        assert_eq!(at(tables(TCR, 0x1000 | 0xaa << 48), virt), mapped);
        assert_eq!(at(tables(TCR, 0x1000), virt + 0x1000), Err(Hole { left: 0x988 }));
        assert_eq!(
            at(tables(TCR | 1 << 23, 0x1000), virt),
            Err(Hole { left: (1 << 55) - (virt & ((1 << 55) - 1)) })
        );
        // 39 bits begin at the second table.
        let short = TCR & !(0x3f << 16) | 25 << 16;
        let high = virt | 0xff << 39 | 0xffff << 48;
        assert_eq!(at(tables(short, 0x2000), high), mapped);
        assert!(at(tables(short, 0x2000), virt).is_err(), "not all ones above 39 bits");
        let off = Arm64::default().translate(&ram, 0x8000_1234);
        assert_eq!(off, Ok(Mapped { phys: 0x8000_1234, left: 0xdcc }));
    }

    #[test]
    fn blocks_are_of_two_sizes_and_the_lower_half_has_tags() {
        let mut ram = Ram::new(0x10000);
        ram.put(0x9000, 0xa003);
        ram.put(0xa000 + 8, 0x8000_0000 | 1);
        ram.put(0xa000 + 16, 0xb003);
        ram.put(0xb000 + 8, 0x4020_0000 | 1);
        let at = |virt| tables(TCR, 0).translate(&ram, virt);
        assert_eq!(at(0x4000_0010), Ok(Mapped { phys: 0x8000_0010, left: (1 << 30) - 16 }));
        assert_eq!(at(0x8020_0010), Ok(Mapped { phys: 0x4020_0010, left: (1 << 21) - 16 }));
        assert_eq!(at(0x5a00_0000_8020_0010), at(0x8020_0010));
        let untagged = tables(TCR & !(1 << 37), 0);
        assert!(untagged.translate(&ram, 0x5a00_0000_8020_0010).is_err());
        // A block of 512 GiB is none, and a page that says it is a block neither.
        ram.put(0x9000 + 8, 0x8000_0000 | 1);
        ram.put(0xb000 + 16, 0xc003);
        ram.put(0xc000, 0x4000_0001);
        let at = |virt| tables(TCR, 0).translate(&ram, virt);
        assert!(at(1 << 39).is_err());
        assert_eq!(at(0x8040_0000), Err(Hole { left: 0x1000 }));
    }

    #[test]
    fn other_granules_have_other_levels() {
        // 16 KiB, 48 bits: the first table has two entries.
        let mut ram = Ram::new(0x80000);
        let virt = 0xffff_8000_1234_5678;
        let last = way(&mut ram, virt, &[(47, 1), (36, 11), (25, 11), (14, 11)], 14);
        ram.put(last, 0x4321_c003);
        let tcr = TCR & !(3 << 30) | 1 << 30;
        let mapped = tables(tcr, 0x4000).translate(&ram, virt);
        assert_eq!(
            mapped,
            Ok(Mapped { phys: 0x4321_c000 | virt & 0x3fff, left: 0x4000 - (virt & 0x3fff) })
        );
        // 64 KiB, 52 bits of both kinds of address.
        let mut ram = Ram::new(0x80000);
        let virt = 0xfff8_0000_1234_5678;
        let last = way(&mut ram, virt, &[(42, 10), (29, 13), (16, 13)], 16);
        ram.put(last, 0x4321_0003 | 0xa << 12);
        let tcr = TCR & !(0x3f << 16 | 3 << 30 | 7 << 32) | 12 << 16 | 3 << 30 | 6 << 32;
        let mapped = tables(tcr, 0x1_0000).translate(&ram, virt).unwrap();
        assert_eq!(mapped.phys, 0xa_0000_4321_5678);
        // 4 KiB with 52 bits: five levels.
        let mut ram = Ram::new(0x10000);
        let shifts = [(48, 4), (39, 9), (30, 9), (21, 9), (12, 9)];
        let last = way(&mut ram, virt, &shifts, 12);
        ram.put(last, 0x4321_9003 | 3 << 48 | 2 << 8);
        let tcr = TCR & !(0x3f << 16) | 12 << 16 | DS;
        let mapped = tables(tcr, 0x1000).translate(&ram, virt).unwrap();
        assert_eq!(mapped.phys, 0xb_0000_4321_9678);
    }
}
