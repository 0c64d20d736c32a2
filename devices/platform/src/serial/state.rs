//! What a snapshot of the UART keeps.

use std::collections::VecDeque;

use trapline_device::{StateError, saved_form};

use super::regs::{FIFO_DEPTH, Fcr, Ier, Lcr, Lsr, Mcr, Msr};

/// A received character with the LSR bits that came with it (PE, FE, BI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The character.
    pub data: u8,
    /// Its errors, within [`Lsr::CHARACTER`]; taken over by LSR once the character is at the top.
    pub errors: u8,
}

/// Everything the chip remembers. `Default` is the state after master reset (PC16550D,
/// table I).
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

impl State {
    /// How many characters each direction holds.
    pub(super) fn depth(&self) -> usize {
        if self.fcr.enable() { FIFO_DEPTH } else { 1 }
    }

    /// The modem inputs: the terminal's, or the outputs in loopback.
    pub(super) fn modem_inputs(&self) -> Msr {
        if self.mcr.loopback() { Msr::looped(self.mcr) } else { Msr::CONNECTED }
    }

    fn check(&self) -> Result<(), StateError> {
        let Self { ier, fcr, mcr, line_errors, msr, rx, tx, .. } = self;
        let check = StateError::check::<SavedV1>;
        check(Ier::from_guest(ier.into_bits()) == *ier, "the upper half of IER is 0")?;
        check(Fcr::from_guest(fcr.into_bits()) == *fcr, "the reserved bits of FCR are 0")?;
        check(!fcr.reset_rcvr() && !fcr.reset_xmit(), "the FIFO resets clear themselves")?;
        check(Mcr::from_guest(mcr.into_bits()) == *mcr, "the upper bits of MCR are 0")?;
        check(line_errors.into_bits() & !Lsr::ERRORS == 0, "only errors are kept of LSR")?;
        let inputs = (msr.into_bits() ^ self.modem_inputs().into_bits()) & !Msr::DELTAS;
        check(inputs == 0, "the upper half of MSR are the modem inputs")?;
        check(rx.len() <= self.depth() && tx.len() <= self.depth(), "both FIFOs have their depth")?;
        let errors = |received: &Received| received.errors & !Lsr::CHARACTER == 0;
        check(rx.iter().all(errors), "a character comes with PE, FE and BI")?;
        let shown = rx.front().is_none_or(|top| top.errors == 0);
        check(shown, "the errors of the top character are in LSR")?;
        check(tx.is_empty() || !mcr.loopback(), "nothing waits to be sent in loopback")?;
        check(tx.is_empty() || !self.thre_raised, "THRE is raised by an empty FIFO")?;
        let may_time_out = fcr.enable() && !rx.is_empty();
        check(may_time_out || !self.timed_out, "characters in the FIFO time out")
    }
}

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "16550a" version 1 {
        ier: u8,
        fcr: u8,
        lcr: u8,
        mcr: u8,
        line_errors: u8,
        msr: u8,
        scr: u8,
        divisor: u16,
        rx: Vec<ReceivedV1> => list,
        rbr: u8,
        tx: Vec<u8>,
        thre_raised: bool,
        timed_out: bool,
        rx_moved_ns: u64,
    }
}

saved_form! {
    struct ReceivedV1 of Received {
        data: u8,
        errors: u8,
    }
}
