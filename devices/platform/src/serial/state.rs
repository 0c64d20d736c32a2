//! What a snapshot of the UART keeps.

use std::collections::VecDeque;

use super::regs::{Fcr, Ier, Lcr, Lsr, Mcr, Msr};

/// A received character with the LSR bits that came with it (PE, FE, BI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The character.
    pub data: u8,
    /// Its errors, within [`Lsr::CHARACTER`]; taken over by LSR once the character is at the top.
    pub errors: u8,
}

/// Everything the chip remembers. `Default` is the state after master reset (PC16550D section 8,
/// table II).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Interrupt enable register.
    pub ier: Ier,
    /// FIFO control register, without the bits that clear themselves.
    pub fcr: Fcr,
    /// Line control register.
    pub lcr: Lcr,
    /// Modem control register.
    pub mcr: Mcr,
    /// OE, PE, FE and BI of the line status register; the other bits follow from the FIFOs.
    pub line_errors: Lsr,
    /// Modem status register.
    pub msr: Msr,
    /// Scratchpad register.
    pub scr: u8,
    /// Divisor latch, DLL in the low byte.
    pub divisor: u16,
    /// The receiver FIFO, or the receiver buffer while FIFOs are disabled. Oldest first.
    pub rx: VecDeque<Received>,
    /// The last character that arrived while FIFOs were disabled: the receiver buffer keeps it.
    pub rbr: u8,
    /// The transmitter FIFO, or the holding register. Oldest first.
    pub tx: VecDeque<u8>,
    /// The THRE interrupt has been raised and neither identified nor answered.
    pub thre_raised: bool,
    /// The character timeout interrupt has been raised and no character been read since.
    pub timed_out: bool,
    /// When a character last went into or out of the receiver FIFO, in machine time.
    pub rx_moved_ns: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            ier: Ier::new(),
            fcr: Fcr::new(),
            lcr: Lcr::new(),
            mcr: Mcr::new(),
            line_errors: Lsr::new(),
            msr: Msr::CONNECTED,
            scr: 0,
            // Master reset leaves the latch alone, and power-on leaves it undefined; this is
            // 9600 baud, which PC firmware leaves behind.
            divisor: 12,
            rx: VecDeque::new(),
            rbr: 0,
            tx: VecDeque::new(),
            thre_raised: false,
            timed_out: false,
            rx_moved_ns: 0,
        }
    }
}
