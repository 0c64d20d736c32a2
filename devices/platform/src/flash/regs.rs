//! Spec: JEDEC JESD68.01, "Common Flash Interface (CFI)", and JEP137, its ID codes; Intel 297846
//! (AP-646), "Common Flash Interface and Command Sets"; Intel 290667 (28F128J3A) for the Intel
//! command set itself.
//!
//! Commands, status bits and the query table of one chip. No behaviour.

use bitfield_struct::bitfield;

/// Chips side by side on the bus.
pub const CHIPS: usize = 2;
/// Bytes of one word of a chip: it is a x16 chip.
pub const WORD: u64 = 2;
/// Bytes of the bus: a word of every chip.
pub const BUS: u64 = WORD * CHIPS as u64;
/// Bytes of an erase block, over all chips.
pub const BLOCK: u64 = 0x1_0000;
/// Words of an erase block in one chip.
pub const BLOCK_WORDS: u32 = 0x4000;
/// The most a device has, over all chips (kvmtool's limit).
pub const LEN_MAX: u64 = 16 << 20;
/// Blocks of the largest device.
pub const BLOCKS_MAX: usize = 256;
/// Words of the write buffer of one chip.
pub const BUFFER_WORDS: usize = 1 << BUFFER_LOG2 >> 1;
/// Bytes of it, as a power of two.
const BUFFER_LOG2: u8 = 6;

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

/// Identifier codes (290667, "Identifier codes"), by word address: manufacturer, then device. These
/// are nobody's, as kvmtool's are.
pub const IDENTIFIERS: [u16; 2] = [0x0000, 0xffff];
/// The lock bit of a block, from the block's first word; bit 0.
pub const BLOCK_LOCK_CODE: u32 = 2;

/// First word of the query table with anything in it, and first word of the geometry.
const QUERY: usize = 0x10;

/// The query table of a chip of `blocks` erase blocks and `2^len_log2` bytes, by word address from
/// 0x10 (JESD68.01, "Query identification string", "System interface information", "Device
/// geometry definition"; AP-646, "Primary vendor-specific extended query").
pub const fn query(word: u32, len_log2: u8, blocks: u16) -> u8 {
    let [blocks_low, blocks_high] = (blocks - 1).to_le_bytes();
    let [size_low, size_high, ..] = (BLOCK_WORDS * 2 / 256).to_le_bytes();
    #[rustfmt::skip]
    let table = [
        // Which command set, and where its own table is.
        b'Q', b'R', b'Y', 0x01, 0x00, EXTENDED, 0x00, 0x00, 0x00, 0x00, 0x00,
        // Supply voltages, 4.5 V to 5.5 V, no programming voltage.
        0x45, 0x55, 0x00, 0x00,
        // Powers of two: typical times of word and buffer program (us) and erase (ms), and by
        // what factor they can be longer. No erase of the whole chip.
        0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
        // Size of the chip; x16; size of the write buffer.
        len_log2, 0x01, 0x00, BUFFER_LOG2, 0x00,
        // One region of equal blocks.
        0x01, blocks_low, blocks_high, size_low, size_high,
        // Intel's own table, version 1.0: each block's lock bit can be set and cleared at once.
        b'P', b'R', b'I', b'1', b'0', 0x20, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x50, 0x00, 0x00,
    ];
    let index = word as usize;
    if index < QUERY || index - QUERY >= table.len() { 0 } else { at(&table, index - QUERY) }
}

/// Word address of Intel's own table.
const EXTENDED: u8 = 0x31;

#[expect(clippy::indexing_slicing, reason = "const evaluation has no get(); i is below len")]
const fn at(table: &[u8], i: usize) -> u8 {
    table[i]
}
