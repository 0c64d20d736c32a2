//! Spec: Intel 8259A Programmable Interrupt Controller data sheet, order number 231468-003,
//! "Programming the 8259A" and figures 7 and 8. The ELCR is of Intel's 82371FB/SB (PIIX/PIIX3)
//! data sheet, order number 290550-002, registers ELCR1 and ELCR2.
//!
//! Two chips and their edge/level control registers make one device. It has three regions on a
//! PC; each is mapped with the device offset of its first register: 0x20 at [`PRIMARY_OFFSET`],
//! 0xa0 at [`SECONDARY_OFFSET`], 0x4d0 at [`ELCR_OFFSET`].

use bitfield_struct::bitfield;
use trapline_regs::Access::ReadWrite;
use trapline_regs::{RegMap, row};

/// Length of the window in bytes.
pub const WINDOW_LEN: u32 = 6;

/// Device offset of the primary chip's two ports.
pub const PRIMARY_OFFSET: u64 = 0;
/// Device offset of the secondary chip's two ports.
pub const SECONDARY_OFFSET: u64 = 2;
/// Device offset of the two edge/level control registers.
pub const ELCR_OFFSET: u64 = 4;

/// The input of the primary chip that the secondary chip's INT output drives.
pub const CASCADE: u8 = 2;

/// Which of the two chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// IRQ 0 to 7; drives the processor.
    Primary,
    /// IRQ 8 to 15; drives the primary chip's IR2.
    Secondary,
}

/// The ports. What a port holds depends on what was written before ("Programming the 8259A").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// A0 = 0: writes are ICW1, OCW2 and OCW3, told apart by bits 4 and 3; reads are IRR, ISR or
    /// the poll word (figures 7 and 8, "Reading the 8259A status", "Poll command").
    Command(Which),
    /// A0 = 1: writes are ICW2 to ICW4 while the chip waits for them, else OCW1; reads are IMR
    /// (figures 7 and 8, "Reading the 8259A status").
    Data(Which),
    /// Edge/level control (290550, ELCR1 and ELCR2).
    Elcr(Which),
}

/// The window.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Command(Which::Primary),   "PIC1_CMD",  0, 1, ReadWrite).prompt(),
    row(Reg::Data(Which::Primary),      "PIC1_DATA", 1, 1, ReadWrite).prompt(),
    row(Reg::Command(Which::Secondary), "PIC2_CMD",  2, 1, ReadWrite).prompt(),
    row(Reg::Data(Which::Secondary),    "PIC2_DATA", 3, 1, ReadWrite).prompt(),
    row(Reg::Elcr(Which::Primary),      "ELCR1",     4, 1, ReadWrite).prompt(),
    row(Reg::Elcr(Which::Secondary),    "ELCR2",     5, 1, ReadWrite).prompt(),
]);

impl Which {
    /// The bits of the edge/level control register that can be set: all but the timer's (IRQ 0),
    /// the keyboard's (1), the cascade's (2), the clock's (8) and the coprocessor's (13), which
    /// are always edge triggered (290550, ELCR1 and ELCR2).
    pub const fn elcr_mask(self) -> u8 {
        match self {
            Self::Primary => 0xf8,
            Self::Secondary => 0xde,
        }
    }
}

/// Initialization command word 1 (figure 7): starts the initialization.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Icw1 {
    /// IC4: ICW4 follows.
    pub ic4: bool,
    /// SNGL: the only 8259A; no ICW3 follows.
    pub sngl: bool,
    /// ADI: call addresses 4 bytes apart, not 8 (8080 mode).
    pub adi: bool,
    /// LTIM: all inputs are level triggered.
    pub ltim: bool,
    /// Always 1: this is what makes it an ICW1.
    pub one: bool,
    /// A7 to A5 of the call address (8080 mode).
    #[bits(3)]
    pub address: u8,
}

/// Initialization command word 4 (figure 7).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Icw4 {
    /// uPM: 8086 mode, not MCS-80/85 mode.
    pub upm: bool,
    /// AEOI: the end of the acknowledge is the end of the interrupt.
    pub aeoi: bool,
    /// M/S: which of the two a buffered chip is. Kept; the wiring says the same.
    pub ms: bool,
    /// BUF: SP/EN enables bus buffers. Kept; there are none.
    pub buf: bool,
    /// SFNM: special fully nested mode.
    pub sfnm: bool,
    #[bits(3)]
    __: u8,
}

impl Icw4 {
    /// What the chip keeps of what a guest wrote.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x1f)
    }
}

/// Operation command word 2 (figure 8): end of interrupt and rotation.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Ocw2 {
    /// L2 to L0: the level SL speaks of.
    #[bits(3)]
    pub level: u8,
    #[bits(2)]
    __: u8,
    /// EOI.
    pub eoi: bool,
    /// SL: the level is given.
    pub sl: bool,
    /// R: rotate.
    pub r: bool,
}

/// Operation command word 3 (figure 8): special mask mode, poll, register to read.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Ocw3 {
    /// RIS: reads of A0 = 0 are ISR, not IRR. Counts if RR.
    pub ris: bool,
    /// RR: RIS counts.
    pub rr: bool,
    /// P: the next read is an acknowledge.
    pub p: bool,
    /// Always 1 in an OCW3.
    pub one: bool,
    __: bool,
    /// SMM: special mask mode. Counts if ESMM.
    pub smm: bool,
    /// ESMM: SMM counts.
    pub esmm: bool,
    __: bool,
}

/// Bit 4 of a write to A0 = 0: it is an ICW1.
pub const IS_ICW1: u8 = 1 << 4;
/// Bit 3 of a write to A0 = 0 that is no ICW1: it is an OCW3, not an OCW2.
pub const IS_OCW3: u8 = 1 << 3;

/// The bits of ICW2 that are the vector's in 8086 mode, T7 to T3.
pub const VECTOR_BASE: u8 = 0xf8;

/// Bit 7 of the poll word: there was an interrupt ("Poll command").
pub const POLL_INTERRUPT: u8 = 1 << 7;

/// The slave address, and so ICW3, after ICW1 ("Initialization command words", item d).
pub const ICW3_AFTER_ICW1: u8 = 7;
