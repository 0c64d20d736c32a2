//! What a PC's setup program would have left in the CMOS RAM: the bytes firmware reads to learn
//! the memory size, the boot order and the number of processors.
//!
//! Spec: IBM PC/AT Technical Reference, "Real-Time Clock/CMOS RAM Information", for 0x0e to 0x33;
//! SeaBIOS `src/hw/rtc.h` and its "Memory configuration" notes for the bytes QEMU added.

use super::state::Cmos;

/// Reset code, "Shutdown status byte". Firmware looks here first; 0 is a normal power-on.
pub const SHUTDOWN_STATUS: u8 = 0x0f;
/// "Equipment byte": display, coprocessor, pointing device, floppy drives.
pub const EQUIPMENT: u8 = 0x14;
/// Third boot device in the high nibble; bit 0: do not look for a boot signature on floppies.
pub const BOOT_FLAGS_1: u8 = 0x38;
/// First boot device in the low nibble, second in the high one.
pub const BOOT_FLAGS_2: u8 = 0x3d;

const BASE_KIB: u8 = 0x15;
const EXTENDED_KIB: u8 = 0x17;
const CHECKSUM_FIRST: u8 = 0x10;
const CHECKSUM_LAST: u8 = 0x2d;
const CHECKSUM_HIGH: u8 = 0x2e;
const CHECKSUM_LOW: u8 = 0x2f;
const EXTENDED_KIB_POST: u8 = 0x30;
const ABOVE_16M: u8 = 0x34;
const ABOVE_4G: u8 = 0x5b;
const CPUS_LESS_ONE: u8 = 0x5f;

/// Coprocessor and PS/2 pointing device present; no floppy drive; display with its own ROM.
const EQUIPMENT_PC: u8 = 0x06;
/// Boot device codes (SeaBIOS: 1 floppy, 2 hard disk, 3 CD-ROM, 4 network). QEMU's order by
/// default: hard disk, floppy, CD-ROM.
const BOOT_FLOPPY: u8 = 1;
const BOOT_HARD_DISK: u8 = 2;
const BOOT_CDROM: u8 = 3;

/// What the board tells its firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmosConfig {
    /// Bytes of RAM from address 0 up to the hole below 4 GiB.
    pub below_4g: u64,
    /// Bytes of RAM from 4 GiB up.
    pub above_4g: u64,
    /// Number of vCPUs, at least 1.
    pub cpus: u8,
}

impl CmosConfig {
    /// The RAM as the setup program leaves it. Sizes too large for their field are stored as the
    /// largest it holds, as setup programs do.
    pub fn ram(&self) -> Cmos {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const BLOCK: u64 = 64 * KIB;
        let extended_kib = self.below_4g.saturating_sub(MIB) / KIB;
        let mut ram = Cmos::default();
        put(&mut ram, BASE_KIB, 2, (self.below_4g / KIB).min(640));
        put(&mut ram, EXTENDED_KIB, 2, extended_kib);
        put(&mut ram, EXTENDED_KIB_POST, 2, extended_kib);
        put(&mut ram, ABOVE_16M, 2, self.below_4g.saturating_sub(16 * MIB) / BLOCK);
        put(&mut ram, ABOVE_4G, 3, self.above_4g / BLOCK);
        ram.set(CPUS_LESS_ONE, self.cpus.saturating_sub(1));
        ram.set(EQUIPMENT, EQUIPMENT_PC);
        ram.set(BOOT_FLAGS_1, BOOT_CDROM << 4);
        ram.set(BOOT_FLAGS_2, BOOT_FLOPPY << 4 | BOOT_HARD_DISK);
        store_checksum(&mut ram);
        ram
    }
}

/// Writes the sum of 0x10 to 0x2d to its place, high byte first. The guest's software does so for
/// its own changes; this is for the board's.
pub(super) fn store_checksum(ram: &mut Cmos) {
    let sum: u16 = (CHECKSUM_FIRST..=CHECKSUM_LAST).map(|index| u16::from(ram.get(index))).sum();
    let [high, low] = sum.to_be_bytes();
    ram.set(CHECKSUM_HIGH, high);
    ram.set(CHECKSUM_LOW, low);
}

/// Stores `value`, or the largest that fits, in `len` bytes from `index`, low byte first.
fn put(ram: &mut Cmos, index: u8, len: u8, value: u64) {
    let largest = (1 << (8 * u32::from(len))) - 1;
    let bytes = value.min(largest).to_le_bytes();
    (index..index + len).zip(bytes).for_each(|(index, byte)| ram.set(index, byte));
}
