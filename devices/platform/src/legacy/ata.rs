//! An ATA channel of the ISA bus with no drive on its cable: command block and control block.
//!
//! Spec: ANSI INCITS 317-1998 (ATA/ATAPI-4), section 7 for the registers and table 2 for the
//! resistors: the host pulls DD7 down, so that what nobody drives does not look like a drive that
//! is busy.

use trapline_device::{Direction, Handler, IoCx, Rules, Size};

use super::WHOLE;
use super::regs::{ATA_COMMAND, ATA_CONTROL, ATA_EMPTY_CHANNEL};

/// One of the two register blocks of a channel without drives. Nobody drives the cable, so every
/// read is what its resistors make of it, of as many 16-bit transfers as the access has, and
/// nobody takes what is written. Firmware that waits for a channel's drives sees at once that there
/// are none, where all ones would be a drive that stays busy.
#[derive(Clone, Copy, Debug)]
pub enum EmptyAtaChannel {
    /// Data, error, addresses, status: eight ports.
    CommandBlock,
    /// Alternate status and device control: one port.
    ControlBlock,
}

impl Handler for EmptyAtaChannel {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let byte = ATA_EMPTY_CHANNEL & 0xff;
        // Only the data register is wider than a byte.
        let word = match (self, offset) {
            (Self::CommandBlock, 0) => ATA_EMPTY_CHANNEL,
            _ => byte << 8 | byte,
        };
        (u64::from(word) << 16 | u64::from(word)) & size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn rules(&self) -> Rules {
        WHOLE
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let map = match self {
            Self::CommandBlock => &ATA_COMMAND,
            Self::ControlBlock => &ATA_CONTROL,
        };
        match direction {
            Direction::Read => map.for_read(offset),
            Direction::Write => map.for_write(offset),
        }
        .map(|row| row.name)
    }
}
