//! Names, offsets, fields and masks of the PC's small ports. No behaviour.
//!
//! Spec: IBM PC/AT Technical Reference (1984; AT below); IBM Personal System/2 Hardware Interface
//! Technical Reference (PS2); IBM Personal System/2 and Personal Computer BIOS Interface Technical
//! Reference (1991; BIOS); IEEE 1284-1994, annex D (1284); Motorola MC6845 data sheet (6845); ANSI
//! INCITS 317-1998 (ATA); QEMU, `isa-debugcon` and `isa-debug-exit`; kvmtool, `x86/ioport.c`.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{RegMap, Select, row};

/// A printer port's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printer {
    /// Data latch (1284, "SPP data register"; AT, "Serial/Parallel Adapter").
    Data,
    /// Status of the inputs (1284, "SPP status register").
    Status,
    /// Control latch (1284, "SPP control register").
    Control,
}

/// A printer port's window (1284, table of register offsets).
#[rustfmt::skip]
pub const PRINTER: RegMap<Printer> = RegMap::new(3, &[
    row(Printer::Data,    "DATA",    0, 1, ReadWrite),
    row(Printer::Status,  "STATUS",  1, 1, Read),
    row(Printer::Control, "CONTROL", 2, 1, ReadWrite),
]);

/// An open connector: the inputs are pulled up, so nACK, PE, SELECT and nERROR read 1, and BUSY,
/// which the register inverts, reads 0. Bits 0 to 2 have no input and read 1 (AT, printer status).
pub const STATUS_OPEN: u8 = 0x7f;

/// The latched bits of CONTROL: strobe, autofeed, nInit, select, interrupt enable. The others have
/// no flip-flop and read 1 (AT, printer control).
pub const CONTROL_LATCHED: u8 = 0x1f;

/// The CRT controller's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crt {
    /// Address register (6845, "Address register").
    Index,
    /// The register it selects (6845, "Internal register assignment").
    Data,
}

/// The CRT controller's window (6845, RS pin).
#[rustfmt::skip]
pub const CRT: RegMap<Crt> = RegMap::new(2, &[
    row(Crt::Index, "CRTC_INDEX", 0, 1, ReadWrite),
    row(Crt::Data,  "CRTC_DATA",  1, 1, ReadWrite),
]);

/// What the data port leads to: [`CRT_FILE`] by index.
pub const CRT_SELECT: Select =
    Select { selector: 0, width: 1, enabled: 0, mask: 0x1f, shift: 0, first: 1, len: 1 };

/// The registers by index (6845, "Internal register assignment").
#[rustfmt::skip]
pub const CRT_FILE: RegMap<()> = RegMap::new(32, &[
    row((), "Horizontal Total",        0, 1, ReadWrite),
    row((), "Horizontal Displayed",    1, 1, ReadWrite),
    row((), "H. Sync Position",        2, 1, ReadWrite),
    row((), "Sync Width",              3, 1, ReadWrite),
    row((), "Vertical Total",          4, 1, ReadWrite),
    row((), "V. Total Adjust",         5, 1, ReadWrite),
    row((), "Vertical Displayed",      6, 1, ReadWrite),
    row((), "V. Sync Position",        7, 1, ReadWrite),
    row((), "Interlace Mode and Skip", 8, 1, ReadWrite),
    row((), "Max Scan Line Address",   9, 1, ReadWrite),
    row((), "Cursor Start",           10, 1, ReadWrite),
    row((), "Cursor End",             11, 1, ReadWrite),
    row((), "Start Address (H)",      12, 1, ReadWrite),
    row((), "Start Address (L)",      13, 1, ReadWrite),
    row((), "Cursor (H)",             14, 1, ReadWrite),
    row((), "Cursor (L)",             15, 1, ReadWrite),
    row((), "Light Pen (H)",          16, 1, Read),
    row((), "Light Pen (L)",          17, 1, Read),
]);

/// The implemented bits of R0 to R15 (6845, "Internal register assignment"). R16 and R17, the light
/// pen's position, are read-only, and read 0 as no light pen has ever struck; R18 to R31 do not
/// exist and read 0.
pub const CRT_MASKS: [u8; 16] = [
    0xff, 0xff, 0xff, 0x0f, // horizontal total, displayed, sync position, sync width
    0x7f, 0x1f, 0x7f, 0x7f, // vertical total, total adjust, displayed, sync position
    0x03, 0x1f, 0x7f, 0x1f, // interlace mode, maximum scan line, cursor start, cursor end
    0x3f, 0xff, 0x3f, 0xff, // start address and cursor, high and low byte
];

/// The address register has five bits (6845, "Address register").
pub const CRT_INDEX_MASK: u8 = 0x1f;

/// System control port A (PS2, "System Control Port A (hex 0092)").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct PortA {
    /// Bit 0: going from 0 to 1 resets the processor.
    pub reset: bool,
    /// Bit 1: address line 20 is let through.
    pub a20: bool,
    /// Bit 2 reads 0.
    __: bool,
    /// Bit 3: locks the CMOS password until the next reset; can not be cleared by a write.
    pub security_lock: bool,
    /// Bit 4: the watchdog has fired; there is none. Bit 5 reads 0.
    #[bits(2)]
    __: u8,
    /// Bits 6 and 7: the disk activity light.
    #[bits(2)]
    pub light: u8,
}

impl PortA {
    /// A20 is on from the start: there is no firmware here that expects addresses to wrap.
    pub const POWER_ON: Self = Self::new().with_a20(true);

    /// What stays of `value` in the register.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0xcb)
    }
}

/// The coprocessor's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fpu {
    /// Clears the latched BUSY that an error left behind (AT, "Math coprocessor", port F0).
    ClearBusy,
    /// Resets an 80287 (AT, "Math coprocessor", port F1).
    Reset,
}

/// The coprocessor's window.
#[rustfmt::skip]
pub const FPU: RegMap<Fpu> = RegMap::new(2, &[
    row(Fpu::ClearBusy, "CLRBUSY", 0, 1, Write),
    row(Fpu::Reset,     "RESET",   1, 1, Write),
]);

/// Manufacturing test port, for POST codes (BIOS, "Port definitions", 0080).
pub const POST_NAMES: [&str; 1] = ["POST"];

/// A port nobody has, for waiting (Linux, `io_delay=0xed`).
pub const DELAY_NAMES: [&str; 1] = ["DELAY"];

/// DMA page registers, 0x81 to 0x8f (BIOS, "Port definitions", 0081 to 008F): address bits 16 to
/// 23 of the channels named, the spare entries of the register file (TI SN74LS612), and refresh.
#[rustfmt::skip]
pub const PAGE_NAMES: [&str; 15] = [
    "PAGE2", "PAGE3", "PAGE1", "SPARE84", "SPARE85", "SPARE86", "PAGE0", "SPARE88",
    "PAGE6", "PAGE7", "PAGE5", "SPARE8C", "SPARE8D", "SPARE8E", "REFRESH",
];

/// The registers of an ATA channel's drives (ATA, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ata {
    /// Data, 16 bits wide.
    Data,
    /// What the last command ended with.
    Error,
    /// Parameters of the next command.
    Features,
    /// How many sectors.
    SectorCount,
    /// Bits 7:0 of the first sector's number.
    SectorNumber,
    /// Bits 15:8 of it.
    CylinderLow,
    /// Bits 23:16 of it.
    CylinderHigh,
    /// Which of the two drives, and bits 27:24 of it.
    DeviceHead,
    /// Busy, ready, error; a read acknowledges the interrupt.
    Status,
    /// The next command.
    Command,
    /// Status, without acknowledging.
    AlternateStatus,
    /// Software reset and interrupt enable.
    DeviceControl,
}

/// The command block (ATA, section 7). The second half of the data register is that of one access of
/// 16 bits, not the next port.
#[rustfmt::skip]
pub const ATA_COMMAND: RegMap<Ata> = RegMap::new(8, &[
    row(Ata::Data,         "DATA",          0, 1, ReadWrite),
    row(Ata::Error,        "ERROR",         1, 1, Read),
    row(Ata::Features,     "FEATURES",      1, 1, Write),
    row(Ata::SectorCount,  "SECTOR_COUNT",  2, 1, ReadWrite),
    row(Ata::SectorNumber, "SECTOR_NUMBER", 3, 1, ReadWrite),
    row(Ata::CylinderLow,  "CYLINDER_LOW",  4, 1, ReadWrite),
    row(Ata::CylinderHigh, "CYLINDER_HIGH", 5, 1, ReadWrite),
    row(Ata::DeviceHead,   "DEVICE_HEAD",   6, 1, ReadWrite),
    row(Ata::Status,       "STATUS",        7, 1, Read),
    row(Ata::Command,      "COMMAND",       7, 1, Write),
]);

/// The control block (ATA, section 7).
#[rustfmt::skip]
pub const ATA_CONTROL: RegMap<Ata> = RegMap::new(1, &[
    row(Ata::AlternateStatus, "ALTERNATE_STATUS", 0, 1, Read),
    row(Ata::DeviceControl,   "DEVICE_CONTROL",   0, 1, Write),
]);

/// What DD15 to DD0 read with no drive on the cable: DD7 is pulled down at the host, and so BSY is
/// clear; the others float to ones.
pub const ATA_EMPTY_CHANNEL: u16 = 0xff7f;

/// What a read of the debug console returns, by which firmware knows it is there (QEMU,
/// `isa-debugcon`, property `readback`).
pub const DEBUGCON_PRESENT: u8 = 0xe9;
