//! The real-mode interrupt vector table, and the BIOS data areas.

use super::{Bios, PIC_VECTORS, SEGMENT, code};

/// Real mode's interrupt vector table.
pub(super) const VECTORS_AT: u64 = 0;
const VECTORS: usize = 256;
/// The BIOS data area, segment 0x40.
pub(super) const BDA_AT: u64 = 0x400;
const BDA_LEN: usize = 0x100;
/// Bytes of the extended one.
const EBDA_LEN: usize = 0x400;

/// What is in the equipment word: the coprocessor and a pointing device. Neither a floppy drive
/// nor a display adapter of before VGA, as in the CMOS RAM.
const EQUIPMENT: u16 = 1 << 1 | 1 << 2;
/// Where the numbers of serial and printer ports are in it.
const SERIAL_SHIFT: u16 = 9;
const PRINTERS_SHIFT: u16 = 14;
/// The keyboard buffer: its bounds, and where it is read and written while it is empty.
const KEYS: u16 = 0x1e;
const KEYS_END: u16 = 0x3e;
/// A keyboard with 101 keys or more.
const ENHANCED_KEYBOARD: u8 = 1 << 4;

impl Bios {
    /// The vector of each interrupt: the routine in [`code`] that answers it.
    pub(super) fn vectors(&self) -> Vec<u8> {
        let [first, second] = PIC_VECTORS.map(usize::from);
        let routine = |vector: usize| match vector {
            v if v == first => code::TICK,
            v if (first..first + 8).contains(&v) => code::EOI_FIRST,
            v if (second..second + 8).contains(&v) => code::EOI_BOTH,
            0x11 => code::EQUIPMENT,
            0x12 => code::MEMORY_SIZE,
            0x13 => code::DISK,
            0x15 => code::SYSTEM,
            0x16 => code::KEYBOARD,
            0x18 | 0x19 => code::RESET,
            0x1a => code::TIME,
            _ => code::IRET,
        };
        let vector = |n| [self.offset(routine(n)).to_le_bytes(), SEGMENT.to_le_bytes()].concat();
        (0..VECTORS).flat_map(vector).collect()
    }

    /// The BIOS data area: what is not named is 0. There is no VGA BIOS, so the fields of the
    /// display are 0, too, and no clock has been read, so that the ticks count from 0.
    pub(super) fn data_area(&self) -> Vec<u8> {
        let mut area = vec![0; BDA_LEN];
        let mut put = |at: usize, bytes: &[u8]| {
            area.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        };
        let words = |words: &[u16]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let ports = |count: usize, shift: u16| u16::try_from(count).unwrap_or(0) << shift;
        let present = self.serial.iter().filter(|base| **base != 0);
        let serial = ports(present.count(), SERIAL_SHIFT);
        let printers = ports(self.printers.len(), PRINTERS_SHIFT);
        put(0x00, &words(&self.serial));
        put(0x08, &words(&self.printers));
        put(0x0e, &words(&[u16::try_from(self.ebda >> 4).unwrap_or(0)]));
        put(0x10, &words(&[EQUIPMENT | serial | printers]));
        put(0x13, &words(&[u16::try_from(self.ebda >> 10).unwrap_or(0)]));
        put(0x1a, &words(&[KEYS, KEYS]));
        // Seconds to wait for each printer and serial port (SeaBIOS' numbers).
        put(0x78, &[0x14; 3]);
        put(0x7c, &[0x0a; 4]);
        put(0x80, &words(&[KEYS, KEYS_END]));
        put(0x96, &[ENHANCED_KEYBOARD]);
        area
    }
}

/// The extended area: its length in KiB, and nothing else.
pub(super) fn extended() -> Vec<u8> {
    let mut area = vec![0; EBDA_LEN];
    area.iter_mut().take(1).for_each(|first| *first = 1);
    area
}
