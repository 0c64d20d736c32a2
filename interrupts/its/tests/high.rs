//! Tables and the queue above 2^48: physical addresses have 52 bits.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::command::Command;
use gicv3_its::redist::Redistributors;
use gicv3_its::{Config, DeviceId, EventId, GuestMemory, Its, MemoryError, Target};
use support::ram::Ram;
use support::{COLLECTIONS, CONFIG, DEVICES, ITT, PENDING, QUEUE, VALID, int, mapc, mapti};

/// Where the RAM is. An address without some of these bits is none of RAM.
const HIGH: u64 = 0x000f_5000_0000_0000;

struct HighRam(Ram);

impl GuestMemory for HighRam {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read(address.checked_sub(HIGH).ok_or(MemoryError)?, data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.0.write(address.checked_sub(HIGH).ok_or(MemoryError)?, data)
    }
}

/// A `GITS_BASER` with pages of 64 KiB: bits 51:48 of the address are in bits 15:12.
fn baser(address: u64) -> u64 {
    let address = HIGH + address;
    VALID | (address & 0xffff_ffff_0000) | (address >> 48 << 12) | 0x200
}

#[test]
fn everything_a_driver_gives_memory_to_can_be_above_48_bits() {
    for two_levels in [false, true] {
        let mut its = Its::new(Config::new()).unwrap();
        let mut redist = Redistributors::of(1);
        let ram = HighRam(Ram::default());
        ram.write(HIGH + CONFIG, &[0xa1, 0x81]).unwrap();
        ram.write(HIGH + PENDING + 1024, &[1]).unwrap();
        let registers = [(0x70, 8, HIGH + CONFIG + 15), (0x78, 8, HIGH + PENDING), (0, 4, 1)];
        for (offset, size, value) in registers {
            redist.write(Target(0), offset, size, value, &ram);
        }
        let next = redist.next(Target(0), &ram).unwrap();
        assert_eq!((next.lpi.intid(), next.priority), (8192, 0xa0), "loaded");
        let devices = if two_levels {
            let entry = VALID | (HIGH + DEVICES + 0x10_0000);
            ram.write(HIGH + DEVICES, &entry.to_le_bytes()).unwrap();
            1 << 62 | baser(DEVICES)
        } else {
            baser(DEVICES)
        };
        let (device, event) = (DeviceId(0), EventId(1));
        let commands = [
            mapc(0, 0),
            Command::Mapd { device, size: 1, itt: HIGH + ITT, valid: true },
            mapti(0, 1, 8193, 0),
            int(0, 1),
        ];
        let bytes = commands.iter().flat_map(Command::encode).flat_map(u64::to_le_bytes);
        ram.write(HIGH + QUEUE, &bytes.collect::<Vec<u8>>()).unwrap();
        let sink = &mut redist.sink(&ram);
        for (offset, value) in [
            (0x100, devices),
            (0x108, baser(COLLECTIONS)),
            (0x80, VALID | HIGH | QUEUE),
            (0, 1),
            (0x88, 0x80),
        ] {
            let size = if offset == 0 { 4 } else { 8 };
            let _progress = its.write(offset, size, value, &ram, sink);
        }
        assert_eq!(its.counters().all_refused(), 0, "two levels: {two_levels}");
        assert_eq!(its.counters().commands, 4);
        assert_eq!(its.translate(&ram, device, event).map(|(lpi, _)| lpi.intid()), Ok(8193));
        let pending: Vec<u32> =
            redist.all_pending(Target(0), &ram).iter().map(|lpi| lpi.intid()).collect();
        assert_eq!(pending, [8192, 8193], "loaded, and signalled");
        let next = redist.next(Target(0), &ram).unwrap();
        assert_eq!((next.lpi.intid(), next.priority), (8193, 0x80));
    }
}
