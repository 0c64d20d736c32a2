//! Spec: Intel 8237A High Performance Programmable DMA Controller data sheet, order number
//! 231466, "Register description" and figures 5 to 7.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{RegMap, row};

/// Number of registers the chip decodes (A0 to A3).
pub const WINDOW_LEN: u32 = 16;

/// Number of channels.
pub const CHANNELS: usize = 4;

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Base and current address of a channel (0 to 3); 16 bits through the byte pointer ("Current
    /// address register", "Base address and base word count registers").
    Address(u8),
    /// Base and current word count of a channel (0 to 3); 16 bits through the byte pointer
    /// ("Current word register").
    Count(u8),
    /// Status ("Status register").
    Status,
    /// Command ("Command register").
    Command,
    /// Sets or resets one channel's software request ("Request register").
    Request,
    /// Sets or resets one mask bit ("Mask register").
    SingleMask,
    /// Mode of one channel ("Mode register").
    Mode,
    /// Clear byte pointer flip-flop ("Software commands").
    ClearPointer,
    /// The last byte a memory-to-memory transfer moved ("Temporary register").
    Temporary,
    /// Master clear: the same as a hardware reset ("Software commands").
    MasterClear,
    /// Clear mask register ("Software commands").
    ClearMask,
    /// All four mask bits ("Mask register").
    AllMasks,
}

/// The register codes (figures 5 to 7). What the figures call illegal is not listed.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Address(0),   "ADDR0",  0x0, 1, ReadWrite),
    row(Reg::Count(0),     "COUNT0", 0x1, 1, ReadWrite),
    row(Reg::Address(1),   "ADDR1",  0x2, 1, ReadWrite),
    row(Reg::Count(1),     "COUNT1", 0x3, 1, ReadWrite),
    row(Reg::Address(2),   "ADDR2",  0x4, 1, ReadWrite),
    row(Reg::Count(2),     "COUNT2", 0x5, 1, ReadWrite),
    row(Reg::Address(3),   "ADDR3",  0x6, 1, ReadWrite),
    row(Reg::Count(3),     "COUNT3", 0x7, 1, ReadWrite),
    row(Reg::Status,       "STATUS", 0x8, 1, Read),
    row(Reg::Command,      "CMD",    0x8, 1, Write),
    row(Reg::Request,      "REQ",    0x9, 1, Write),
    row(Reg::SingleMask,   "MASK1",  0xa, 1, Write),
    row(Reg::Mode,         "MODE",   0xb, 1, Write),
    row(Reg::ClearPointer, "CLRPTR", 0xc, 1, Write),
    row(Reg::Temporary,    "TEMP",   0xd, 1, Read),
    row(Reg::MasterClear,  "MCLR",   0xd, 1, Write),
    row(Reg::ClearMask,    "CLRMSK", 0xe, 1, Write),
    row(Reg::AllMasks,     "MASK4",  0xf, 1, Write),
]);

/// What a guest writes to the request and to the single mask register: one channel's bit.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ChannelBit {
    /// Bits 0 and 1: the channel.
    #[bits(2)]
    pub channel: u8,
    /// Bit 2: set the bit, or reset it.
    pub set: bool,
    #[bits(5)]
    __: u8,
}

impl ChannelBit {
    /// `bits`, one per channel, after this write.
    pub const fn apply(self, bits: u8) -> u8 {
        let bit = 1 << self.channel();
        if self.set() { bits | bit } else { bits & !bit }
    }
}

/// The mask register after reset: all channels masked.
pub const MASK_ALL: u8 = 0x0f;
