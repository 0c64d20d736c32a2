//! Spec: JEDEC JESD68.01, "Common Flash Interface (CFI)", and JEP137, its ID codes; Intel 297846
//! (AP-646), "Common Flash Interface and Command Sets"; Intel 290667 (28F128J3A) for the Intel
//! command set itself.
//!
//! Commands, status bits, and the parts that boards have, with their query tables. No behaviour.

use bitfield_struct::bitfield;

/// A kind of chip, and how many of them are side by side on the bus.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Chips side by side on the bus: 1 or 2.
    pub chips: usize,
    /// Bytes of one word of a chip: 1 of a x8 chip, 2 of a x16 one.
    pub word: u64,
    /// Bytes of an erase block, over all chips.
    pub block: u64,
    /// The most a device has, in bytes over all chips.
    pub len_max: u64,
    /// Whether its length is a power of two, and not only a multiple of a block.
    pub power_of_two: bool,
    /// Whether a block can be locked.
    pub locks: bool,
    /// Whether SR.7 is clear from when the status register has been cleared until the next
    /// operation, and reads are the array again then. No data sheet has that, but QEMU does, and
    /// OVMF takes flash for ROM without it.
    pub cleared_is_busy: bool,
    /// Identifier codes by word address: manufacturer, then device (290667, "Identifier codes").
    pub identifiers: [u16; 2],
    /// Bytes of the write buffer of one chip, as a power of two.
    buffer_log2: u8,
    /// Query table, 0x1f to 0x26. Powers of two: typical times of word and buffer program (us), of
    /// erase (ms) and of erasing the whole chip, and by what factor they can be longer.
    times: [u8; 8],
    /// Query table, 0x28: what bus the chip is for. 1 is x16, 2 is x8 and x16.
    interface: u8,
    /// Query table, from 0x36: Intel's own, from the features on.
    extended: [u8; 10],
}

/// Two x16 chips on a bus of 32 bits: kvmtool's, with identifiers that are nobody's.
pub const PAIR_OF_X16: Part = Part {
    chips: 2,
    word: 2,
    block: 0x1_0000,
    len_max: 16 << 20,
    power_of_two: true,
    locks: true,
    cleared_is_busy: false,
    identifiers: [0x0000, 0xffff],
    buffer_log2: 6,
    // No erase of the whole chip.
    times: [1, 1, 1, 0, 0, 0, 0, 0],
    interface: 1,
    // Each block's lock bit can be set and cleared at once.
    extended: [0x20, 0, 0, 0, 0, 1, 0, 0x50, 0, 0],
};

/// One chip on a bus of 8 bits: what QEMU's PC has below 4 GiB (`hw/block/pflash_cfi01.c`), and
/// OVMF is written for.
pub const X8: Part = Part {
    chips: 1,
    word: 1,
    block: 0x1000,
    len_max: 16 << 20,
    power_of_two: false,
    locks: false,
    cleared_is_busy: true,
    identifiers: [0, 0],
    buffer_log2: 8,
    times: [7, 7, 10, 0, 4, 4, 4, 0],
    interface: 2,
    // No features, and one protection field.
    extended: [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
};

/// The most chips there are side by side.
pub const CHIPS_MAX: usize = 2;
/// The most blocks a device with lock bits has.
pub const LOCKS_MAX: usize = 256;
/// The most words a write buffer has.
pub const BUFFER_WORDS_MAX: usize = 256;

impl Part {
    /// Bytes of the bus: a word of every chip.
    pub const fn bus(&self) -> u64 {
        self.word * self.chips as u64
    }

    /// Words of an erase block in one chip.
    pub fn block_words(&self) -> u32 {
        u32::try_from(self.block / self.bus()).unwrap_or(u32::MAX)
    }

    /// Words of the write buffer of one chip.
    pub fn buffer_words(&self) -> usize {
        usize::try_from((1 << self.buffer_log2) / self.word).unwrap_or(0)
    }

    /// How many bytes of an image of `len` a device can have. `None` where there is not one block.
    pub fn usable_len(&self, len: u64) -> Option<u64> {
        let len = len.min(self.len_max);
        let usable = match len.checked_ilog2() {
            Some(log) if self.power_of_two => 1 << log,
            _ => len - len % self.block,
        };
        (usable >= self.block).then_some(usable)
    }

    /// The query table of a chip of a device of `len` bytes, by word address (JESD68.01, "Query
    /// identification string", "System interface information", "Device geometry definition";
    /// AP-646, "Primary vendor-specific extended query"); 0 where there is nothing in it.
    pub fn query(&self, word: u32, len: u64) -> u8 {
        let chip = |bytes: u64| bytes / self.chips as u64;
        // Of a length that is no power of two, QEMU tells the largest one that divides it.
        let len_log2 = u8::try_from(chip(len).trailing_zeros()).unwrap_or(0);
        let [blocks_low, blocks_high, ..] = (len / self.block).saturating_sub(1).to_le_bytes();
        let [size_low, size_high, ..] = (chip(self.block) / 256).to_le_bytes();
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.times;
        let [e0, e1, e2, e3, e4, e5, e6, e7, e8, e9] = self.extended;
        #[rustfmt::skip]
        let table = [
            // Which command set, and where its own table is.
            b'Q', b'R', b'Y', 0x01, 0x00, EXTENDED, 0x00, 0x00, 0x00, 0x00, 0x00,
            // Supply voltages, 4.5 V to 5.5 V, no programming voltage.
            0x45, 0x55, 0x00, 0x00,
            t0, t1, t2, t3, t4, t5, t6, t7,
            // Size of the chip; its bus; size of the write buffer.
            len_log2, self.interface, 0x00, self.buffer_log2, 0x00,
            // One region of equal blocks.
            0x01, blocks_low, blocks_high, size_low, size_high,
            // Intel's own table, version 1.0.
            b'P', b'R', b'I', b'1', b'0', e0, e1, e2, e3, e4, e5, e6, e7, e8, e9,
        ];
        let index = usize::try_from(word).ok().and_then(|word| word.checked_sub(QUERY));
        index.and_then(|index| table.get(index)).copied().unwrap_or(0)
    }
}

/// First word of the query table with anything in it.
const QUERY: usize = 0x10;
/// Word address of Intel's own table.
const EXTENDED: u8 = 0x31;

/// Intel/Sharp extended command set (JEP137, 0x0001; 290667, "Command definitions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read array.
    ReadArray,
    /// Read identifier codes.
    ReadIdentifiers,
    /// Read query.
    ReadQuery,
    /// Read status register.
    ReadStatus,
    /// Clear status register.
    ClearStatus,
    /// Word program, first cycle.
    Program,
    /// Write to buffer, first cycle.
    WriteBuffer,
    /// Block erase, first cycle.
    Erase,
    /// Set or clear a block's lock bit, first cycle.
    Lock,
    /// Suspend. Nothing ever takes long enough for it.
    Suspend,
    /// Confirm or resume, where there is nothing to confirm or resume.
    Confirm,
    /// Anything else.
    Unknown,
}

impl Command {
    /// The command in the low byte of a word; chips take no notice of the upper one.
    pub const fn of(word: u16) -> Self {
        match word & 0xff {
            0xff => Self::ReadArray,
            0x90 => Self::ReadIdentifiers,
            0x98 => Self::ReadQuery,
            0x70 => Self::ReadStatus,
            0x50 => Self::ClearStatus,
            0x40 | 0x10 => Self::Program,
            0xe8 => Self::WriteBuffer,
            0x20 => Self::Erase,
            0x60 => Self::Lock,
            0xb0 => Self::Suspend,
            CONFIRM => Self::Confirm,
            _ => Self::Unknown,
        }
    }
}

/// Second cycle of block erase, write to buffer, and clear lock bit.
pub const CONFIRM: u16 = 0xd0;
/// Second cycle of set lock bit.
pub const SET_LOCK: u16 = 0x01;

/// The status register (290667, "Status register definitions").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Status {
    __: bool,
    /// SR.1: the block is locked, and the operation was not done.
    pub block_locked: bool,
    #[bits(2)]
    __: u8,
    /// SR.4: programming, or setting a lock bit, failed.
    pub program_error: bool,
    /// SR.5: erasing, or clearing a lock bit, failed. With SR.4: the command was not one.
    pub erase_error: bool,
    __: bool,
    /// SR.7: ready.
    pub ready: bool,
}

impl Status {
    /// Ready, with nothing to complain of.
    pub const READY: Self = Self::new().with_ready(true);
    /// Bits that are always clear.
    pub const RESERVED: u8 = 0x4d;
}

/// The lock bit of a block, from the block's first word; bit 0.
pub const BLOCK_LOCK_CODE: u32 = 2;
