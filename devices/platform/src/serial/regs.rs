//! Spec: National Semiconductor PC16550D data sheet, June 1995 (TL/C/8652), section 8 "Registers".
//!
//! Eight bytes; two of them are banked by LCR bit 7 (DLAB), and two more name different registers
//! on reads and on writes.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{Class, Field, RegMap, Select, bit, bits, row};

/// Length of the register window in bytes.
pub const WINDOW_LEN: u32 = 8;

/// Depth of each FIFO in characters ("General description"; section 8.11).
pub const FIFO_DEPTH: usize = 16;

/// The input clock of a PC's UARTs in Hz (section 8.3, table III). The baud rate is this by
/// sixteen by the divisor.
pub const CLOCK_HZ: u64 = 1_843_200;

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Receiver buffer (section 8, table II).
    Rbr,
    /// Transmitter holding register (section 8, table II).
    Thr,
    /// Interrupt enable (section 8.7).
    Ier,
    /// Interrupt identification (section 8.6).
    Iir,
    /// FIFO control (section 8.5).
    Fcr,
    /// Line control (section 8.1).
    Lcr,
    /// Modem control (section 8.8).
    Mcr,
    /// Line status (section 8.4).
    Lsr,
    /// Modem status (section 8.9).
    Msr,
    /// Scratchpad (section 8.10).
    Scr,
    /// Divisor latch, low byte (section 8.3).
    Dll,
    /// Divisor latch, high byte (section 8.3).
    Dlm,
}

// The bits, by the data sheet's names (section 8, table II), for recordings.
const IER: &[Field] = &[bit("ERBFI", 0), bit("ETBEI", 1), bit("ELSI", 2), bit("EDSSI", 3)];
const IIR: &[Field] = &[bit("NONE", 0), bits("ID", 1, 3), bits("FIFOS", 6, 2)];
#[rustfmt::skip]
const FCR: &[Field] =
    &[bit("ENABLE", 0), bit("RCVR_RESET", 1), bit("XMIT_RESET", 2), bit("DMA_MODE", 3), bits("TRIGGER", 6, 2)];
#[rustfmt::skip]
const LCR: &[Field] = &[
    bits("WLS", 0, 2), bit("STB", 2), bit("PEN", 3), bit("EPS", 4), bit("STICK", 5), bit("BREAK", 6),
    bit("DLAB", 7),
];
#[rustfmt::skip]
const MCR: &[Field] =
    &[bit("DTR", 0), bit("RTS", 1), bit("OUT1", 2), bit("OUT2", 3), bit("LOOP", 4)];
#[rustfmt::skip]
const LSR: &[Field] = &[
    bit("DR", 0), bit("OE", 1), bit("PE", 2), bit("FE", 3), bit("BI", 4), bit("THRE", 5), bit("TEMT", 6),
    bit("FIFO_ERROR", 7),
];
#[rustfmt::skip]
const MSR: &[Field] = &[
    bit("DCTS", 0), bit("DDSR", 1), bit("TERI", 2), bit("DDCD", 3), bit("CTS", 4), bit("DSR", 5),
    bit("RI", 6), bit("DCD", 7),
];

/// The window while DLAB is 0 (section 8, table II). LSR and MSR are for reading only; the data
/// sheet keeps writes to LSR for factory testing (section 8.4, note).
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Rbr, "RBR", 0, 1, Read).class(Class::Payload),
    row(Reg::Thr, "THR", 0, 1, Write).class(Class::Payload),
    row(Reg::Ier, "IER", 1, 1, ReadWrite).prompt().fields(IER),
    row(Reg::Iir, "IIR", 2, 1, Read).fields(IIR),
    row(Reg::Fcr, "FCR", 2, 1, Write).fields(FCR),
    row(Reg::Lcr, "LCR", 3, 1, ReadWrite).fields(LCR),
    row(Reg::Mcr, "MCR", 4, 1, ReadWrite).prompt().fields(MCR),
    row(Reg::Lsr, "LSR", 5, 1, Read).fields(LSR),
    row(Reg::Msr, "MSR", 6, 1, Read).fields(MSR),
    row(Reg::Scr, "SCR", 7, 1, ReadWrite),
]);

/// DLAB, in LCR, has the divisor latch in the place of the first two registers (section 8, table II).
pub const DLAB: Select =
    Select { selector: 3, width: 1, enabled: 0x80, mask: 0, shift: 0, first: 0, len: 2 };

/// The window while DLAB is 1.
#[rustfmt::skip]
pub const MAP_DLAB: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Dll, "DLL", 0, 1, ReadWrite),
    row(Reg::Dlm, "DLM", 1, 1, ReadWrite),
    row(Reg::Iir, "IIR", 2, 1, Read).fields(IIR),
    row(Reg::Fcr, "FCR", 2, 1, Write).fields(FCR),
    row(Reg::Lcr, "LCR", 3, 1, ReadWrite).fields(LCR),
    row(Reg::Mcr, "MCR", 4, 1, ReadWrite).prompt().fields(MCR),
    row(Reg::Lsr, "LSR", 5, 1, Read).fields(LSR),
    row(Reg::Msr, "MSR", 6, 1, Read).fields(MSR),
    row(Reg::Scr, "SCR", 7, 1, ReadWrite),
]);

/// Interrupt enable register (section 8.7). Reset value 0.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Ier {
    /// ERBFI: received data available, and in FIFO mode the character timeout.
    pub erbfi: bool,
    /// ETBEI: transmitter holding register empty.
    pub etbei: bool,
    /// ELSI: receiver line status.
    pub elsi: bool,
    /// EDSSI: modem status.
    pub edssi: bool,
    #[bits(4)]
    __: u8,
}

impl Ier {
    /// What the register holds after a guest wrote `value`: bits 4 to 7 are always 0.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x0f)
    }
}

/// FIFO control register (section 8.5), as far as it is remembered. Reset value 0.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Fcr {
    /// Bit 0: FIFOs enabled.
    pub enable: bool,
    /// Bit 1: empties the receiver FIFO; clears itself.
    pub reset_rcvr: bool,
    /// Bit 2: empties the transmitter FIFO; clears itself.
    pub reset_xmit: bool,
    /// Bit 3: DMA mode of the RXRDY and TXRDY pins, which nothing is wired to on a PC.
    pub dma_mode: bool,
    #[bits(2)]
    __: u8,
    /// Bits 6 and 7: receiver trigger level.
    #[bits(2)]
    pub trigger: u8,
}

impl Fcr {
    /// The bits a guest wrote; 4 and 5 are reserved.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0xcf)
    }

    /// How many characters make the receiver interrupt (section 8.5, bits 6 and 7).
    pub const fn trigger_level(self) -> usize {
        match self.trigger() {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }
}

/// Bits 6 and 7 of the IIR, both set while the FIFOs are enabled (section 8.6).
pub const IIR_FIFOS_ENABLED: u8 = 0xc0;

/// What the IIR identifies, in order of priority (section 8.6, table IV). The values are bits 0 to
/// 3 of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// Overrun, parity, framing error or break; cleared by reading LSR.
    LineStatus = 0b0110,
    /// Data available, or trigger level reached; cleared by reading RBR below that level.
    DataAvailable = 0b0100,
    /// Characters in the FIFO, and none moved for four character times; cleared by reading RBR.
    CharacterTimeout = 0b1100,
    /// Transmitter holding register empty; cleared by reading IIR when it says so, or writing THR.
    ThrEmpty = 0b0010,
    /// CTS, DSR, RI or DCD changed; cleared by reading MSR.
    ModemStatus = 0b0000,
    /// Nothing.
    None = 0b0001,
}

/// Line control register (section 8.1). Reset value 0.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Lcr {
    /// WLS: word length, 5 bits and up.
    #[bits(2)]
    pub word_length: u8,
    /// STB: 1 stop bit, or 2 (1.5 for five-bit words).
    pub stop_bits: bool,
    /// PEN: a parity bit is sent and checked.
    pub parity: bool,
    /// EPS: even parity.
    pub even: bool,
    /// Stick parity: the parity bit is the complement of EPS.
    pub stick: bool,
    /// Break control: SOUT is forced to spacing.
    pub set_break: bool,
    /// DLAB: offsets 0 and 1 are the divisor latch.
    pub dlab: bool,
}

impl Lcr {
    /// The data bits of a character of the programmed word length.
    pub const fn data_mask(self) -> u8 {
        0xff >> (3 - self.word_length())
    }

    /// The length of one character on the wire in half bits: start, data, parity and stop bits.
    pub const fn character_half_bits(self) -> u64 {
        let data = 2 * (5 + self.word_length() as u64);
        let parity = if self.parity() { 2 } else { 0 };
        let stop = match (self.stop_bits(), self.word_length()) {
            (false, _) => 2,
            (true, 0) => 3,
            (true, _) => 4,
        };
        2 + data + parity + stop
    }
}

/// Modem control register (section 8.8). Reset value 0.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Mcr {
    /// Data terminal ready.
    pub dtr: bool,
    /// Request to send.
    pub rts: bool,
    /// Auxiliary output 1.
    pub out1: bool,
    /// Auxiliary output 2; on a PC board it lets INTR through to the interrupt line.
    pub out2: bool,
    /// Loopback.
    pub loopback: bool,
    #[bits(3)]
    __: u8,
}

impl Mcr {
    /// What the register holds after a guest wrote `value`: bits 5 to 7 are always 0.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x1f)
    }
}

/// Line status register (section 8.4). Reset value 0x60.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Lsr {
    /// DR: a received character waits.
    pub data_ready: bool,
    /// OE: a character was lost because the one before had not been read.
    pub overrun: bool,
    /// PE: the character at the top of the FIFO had the wrong parity.
    pub parity: bool,
    /// FE: it had no stop bit.
    pub framing: bool,
    /// BI: it was a break.
    pub break_interrupt: bool,
    /// THRE: the holding register (the FIFO, if enabled) is empty.
    pub thr_empty: bool,
    /// TEMT: the shift register is empty too.
    pub transmitter_empty: bool,
    /// FIFO mode: at least one character in the receiver FIFO has PE, FE or BI.
    pub fifo_error: bool,
}

impl Lsr {
    /// The bits that belong to one received character: PE, FE and BI.
    pub const CHARACTER: u8 = 0x1c;
    /// The bits that make the receiver line status interrupt: OE, PE, FE and BI.
    pub const ERRORS: u8 = 0x1e;
}

/// Modem status register (section 8.9). The low half is 0 after reset, the high half follows the
/// inputs.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Msr {
    /// CTS has changed since MSR was read.
    pub delta_cts: bool,
    /// DSR has changed.
    pub delta_dsr: bool,
    /// TERI: RI has gone from on to off.
    pub trailing_ri: bool,
    /// DCD has changed.
    pub delta_dcd: bool,
    /// Clear to send; RTS in loopback.
    pub cts: bool,
    /// Data set ready; DTR in loopback.
    pub dsr: bool,
    /// Ring indicator; OUT1 in loopback.
    pub ri: bool,
    /// Data carrier detect; OUT2 in loopback.
    pub dcd: bool,
}

impl Msr {
    /// The four change bits, which reading MSR clears.
    pub const DELTAS: u8 = 0x0f;
    /// The inputs of a port with somebody at the other end: CTS, DSR and DCD on, RI off.
    pub const CONNECTED: Self = Self::new().with_cts(true).with_dsr(true).with_dcd(true);

    /// The modem inputs as `mcr` makes them in loopback (section 8.8, bit 4).
    pub const fn looped(mcr: Mcr) -> Self {
        Self::new().with_cts(mcr.rts()).with_dsr(mcr.dtr()).with_ri(mcr.out1()).with_dcd(mcr.out2())
    }

    /// This register once its inputs are `inputs`, with the changes marked.
    pub const fn follow(self, inputs: Self) -> Self {
        Self::from_bits((self.into_bits() & Self::DELTAS) | (inputs.into_bits() & !Self::DELTAS))
            .with_delta_cts(self.delta_cts() || self.cts() != inputs.cts())
            .with_delta_dsr(self.delta_dsr() || self.dsr() != inputs.dsr())
            .with_trailing_ri(self.trailing_ri() || (self.ri() && !inputs.ri()))
            .with_delta_dcd(self.delta_dcd() || self.dcd() != inputs.dcd())
    }
}
