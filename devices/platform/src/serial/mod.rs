//! The PC's serial port: a National Semiconductor PC16550D (NS16550A) UART.
//!
//! Spec: National Semiconductor PC16550D data sheet, June 1995 (TL/C/8652); the sections cited
//! are its sections.
//!
//! ```text
//!   guest ──THR──► tx FIFO ──┬─────────────► CharBackend::transmit
//!                            │ loopback
//!   guest ◄──RBR── rx FIFO ◄─┴─────────────◄ CharBackend::receive
//!                    │
//!      IIR priority ─┴─ INTR ── OUT2 and not loopback ──► Line
//! ```
//!
//! [`Uart`] is the chip: registers and FIFOs, nothing else. [`Serial`] wires it to a backend, a
//! line and a clock.
//!
//! Deviations, all of them because nothing here is a wire with a bit rate:
//!
//! * A character leaves as soon as it is written (section 8.11 would delay the THRE indication by
//!   a character time). While the backend is full, characters stay in the transmitter FIFO, and
//!   THRE and TEMT stay 0. The shift register takes no time, so THRE and TEMT move together.
//! * Characters from the backend are taken only when the receiver has room, as if the other end
//!   honoured flow control, so a slow guest loses no input. An overrun happens in loopback only.
//! * Characters travel with eight bits whatever the word length; loopback does cut them.
//! * The modem inputs are those of a connected terminal: CTS, DSR and DCD on, RI off.
//! * FIFOs are 16 deep as in the data sheet. kvmtool has 64, which a driver that finds a 16550A
//!   can not make use of: it fills and sets trigger levels for 16.

pub mod regs;
mod shell;
mod state;

#[cfg(test)]
mod tests;

use trapline_device::{Clock, Direction};
use trapline_regs::RegMap;

use self::regs::{
    CLOCK_HZ, Fcr, IIR_FIFOS_ENABLED, Ier, Lcr, Lsr, MAP, MAP_DLAB, Mcr, Msr, Reg, Source,
};
pub use self::shell::{PAGE_LEN, REGISTERS_LEN, Serial};
pub use self::state::{Received, State};

/// How long no character must have moved for the timeout interrupt, in character times (section
/// 8.11).
const TIMEOUT_CHARACTERS: u64 = 4;

/// The chip. Master reset is [`Uart::default`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uart {
    state: State,
}

fn map(lcr: Lcr) -> &'static RegMap<Reg> {
    if lcr.dlab() { &MAP_DLAB } else { &MAP }
}

impl Uart {
    /// A chip that goes on from `state`.
    pub const fn from_state(state: State) -> Self {
        Self { state }
    }

    /// Everything a snapshot keeps.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Answers a read of one byte at `offset`; all ones where there is no register.
    pub fn read(&mut self, offset: u64, clock: &dyn Clock) -> u8 {
        let Some(row) = self.map().for_read(offset) else {
            return 0xff;
        };
        match row.reg {
            Reg::Rbr => self.read_rbr(clock),
            Reg::Ier => self.state.ier.into_bits(),
            Reg::Iir => self.read_iir(),
            Reg::Lcr => self.state.lcr.into_bits(),
            Reg::Mcr => self.state.mcr.into_bits(),
            Reg::Lsr => self.read_lsr(),
            Reg::Msr => self.read_msr(),
            Reg::Scr => self.state.scr,
            Reg::Dll => self.state.divisor.to_le_bytes()[0],
            Reg::Dlm => self.state.divisor.to_le_bytes()[1],
            Reg::Thr | Reg::Fcr => 0xff,
        }
    }

    /// Takes a write of one byte at `offset`; ignored where there is no register.
    pub fn write(&mut self, offset: u64, value: u8, clock: &dyn Clock) {
        let Some(row) = self.map().for_write(offset) else {
            return;
        };
        let [dll, dlm] = self.state.divisor.to_le_bytes();
        match row.reg {
            Reg::Thr => self.write_thr(value, clock),
            Reg::Ier => self.write_ier(Ier::from_guest(value)),
            Reg::Fcr => self.write_fcr(Fcr::from_guest(value)),
            Reg::Lcr => self.state.lcr = Lcr::from_bits(value),
            Reg::Mcr => self.write_mcr(Mcr::from_guest(value), clock),
            Reg::Scr => self.state.scr = value,
            Reg::Dll => self.state.divisor = u16::from_le_bytes([value, dlm]),
            Reg::Dlm => self.state.divisor = u16::from_le_bytes([dll, value]),
            Reg::Rbr | Reg::Iir | Reg::Lsr | Reg::Msr => {}
        }
    }

    /// What reading each of the eight registers gives, while reading none of them changes anything,
    /// and while characters that are yet to be written to the transmitter change nothing of it either
    /// if they leave at once.
    pub fn steady(&self) -> Option<[u8; 8]> {
        let State { ier, fcr, lcr, mcr, line_errors, msr, scr, rx, rbr, tx, .. } = &self.state;
        // RBR, LSR and MSR. In the divisor's place and in loopback the transmitter's register is
        // another's, too.
        let nothing_waits = rx.is_empty()
            && line_errors.into_bits() == 0
            && msr.into_bits() & Msr::DELTAS == 0
            && !lcr.dlab()
            && !mcr.loopback();
        // A character that leaves is a cause of an interrupt then.
        let transmitter_is_silent = tx.is_empty() && !ier.etbei();
        let fifos = if fcr.enable() { IIR_FIFOS_ENABLED } else { 0 };
        let last = if fcr.enable() { 0 } else { *rbr };
        let lsr = Lsr::new().with_thr_empty(true).with_transmitter_empty(true);
        (nothing_waits && transmitter_is_silent && self.source() == Source::None).then(|| {
            let iir = fifos | Source::None as u8;
            let (ier, lcr, mcr) = (ier.into_bits(), lcr.into_bits(), mcr.into_bits());
            [last, ier, iir, lcr, mcr, lsr.into_bits(), msr.into_bits(), *scr]
        })
    }

    /// The name of the register an access at `offset` reaches now.
    pub fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        Self::register_of(self.state.lcr, offset, direction)
    }

    /// The same while the line control register holds `lcr`.
    pub fn register_of(lcr: Lcr, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => map(lcr).for_read(offset),
            Direction::Write => map(lcr).for_write(offset),
        };
        row.map(|row| row.name)
    }

    /// Characters ready to leave, oldest first. Empty only when there are none.
    pub fn to_send(&self) -> &[u8] {
        let (front, back) = self.state.tx.as_slices();
        if front.is_empty() { back } else { front }
    }

    /// The first `count` characters of [`Uart::to_send`] have left.
    pub fn sent(&mut self, count: usize) {
        self.state.tx.drain(..count.min(self.state.tx.len()));
        if self.state.tx.is_empty() && count > 0 {
            self.state.thre_raised = true;
        }
    }

    /// How many characters the receiver takes now. None in loopback, which disconnects SIN
    /// (section 8.8, bit 4).
    pub fn room(&self) -> usize {
        if self.state.mcr.loopback() { 0 } else { self.state.depth() - self.state.rx.len() }
    }

    /// Characters arrive on SIN; those beyond [`Uart::room`] overrun.
    pub fn receive(&mut self, data: &[u8], clock: &dyn Clock) {
        for &data in data {
            self.arrive(Received { data, errors: 0 });
        }
        if !data.is_empty() {
            self.touch_rx(clock);
        }
    }

    /// When the character timeout is due, if it is running and could be told from its not having
    /// happened: it has no effect below the trigger interrupt or without ERBFI.
    pub fn timeout_ns(&self) -> Option<u64> {
        let state = &self.state;
        let running = state.fcr.enable()
            && state.ier.erbfi()
            && !state.timed_out
            && !state.rx.is_empty()
            && state.rx.len() < self.trigger();
        running.then(|| state.rx_moved_ns.saturating_add(self.timeout_length_ns()))
    }

    /// It is `now_ns`; raises the character timeout if it is due.
    pub fn expire(&mut self, now_ns: u64) {
        if self.timeout_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.state.timed_out = true;
        }
    }

    /// The interrupt line of a PC's serial card: INTR, let through by OUT2. Loopback forces the
    /// OUT2 pin inactive (section 8.8, bit 4), and with it the line, although IIR still tells.
    pub fn interrupt(&self) -> bool {
        let mcr = self.state.mcr;
        mcr.out2() && !mcr.loopback() && self.source() != Source::None
    }

    fn map(&self) -> &'static RegMap<Reg> {
        map(self.state.lcr)
    }

    /// How many received characters make an interrupt.
    fn trigger(&self) -> usize {
        if self.state.fcr.enable() { self.state.fcr.trigger_level() } else { 1 }
    }

    /// How long the character timeout takes, rounded up to nanoseconds. The data sheet leaves a
    /// divisor of 0 undefined; it counts as 1 here.
    fn timeout_length_ns(&self) -> u64 {
        // Sixteen clocks per bit times the divisor (section 8.3), eight per half bit.
        let clocks = TIMEOUT_CHARACTERS * self.state.lcr.character_half_bits() * 8;
        (clocks * u64::from(self.state.divisor.max(1)) * 1_000_000_000).div_ceil(CLOCK_HZ)
    }

    /// The interrupt IIR identifies (section 8.6, table IV).
    fn source(&self) -> Source {
        let State { ier, line_errors, msr, rx, thre_raised, timed_out, .. } = &self.state;
        if ier.elsi() && line_errors.into_bits() & Lsr::ERRORS != 0 {
            Source::LineStatus
        } else if ier.erbfi() && rx.len() >= self.trigger() {
            Source::DataAvailable
        } else if ier.erbfi() && *timed_out {
            Source::CharacterTimeout
        } else if ier.etbei() && *thre_raised {
            Source::ThrEmpty
        } else if ier.edssi() && msr.into_bits() & Msr::DELTAS != 0 {
            Source::ModemStatus
        } else {
            Source::None
        }
    }

    /// The oldest character. Where there is none, which the data sheet leaves undefined, a 16450's
    /// buffer still holds the last one, and an empty FIFO reads 0.
    fn read_rbr(&mut self, clock: &dyn Clock) -> u8 {
        let Some(received) = self.state.rx.pop_front() else {
            return if self.state.fcr.enable() { 0 } else { self.state.rbr };
        };
        self.state.timed_out = false;
        self.show_top_errors();
        self.touch_rx(clock);
        received.data
    }

    /// Reading IIR answers the THRE interrupt, if that is what it says (section 8.6, table IV).
    fn read_iir(&mut self) -> u8 {
        let source = self.source();
        if source == Source::ThrEmpty {
            self.state.thre_raised = false;
        }
        let fifos = if self.state.fcr.enable() { IIR_FIFOS_ENABLED } else { 0 };
        fifos | source as u8
    }

    /// Reading LSR clears its error bits (section 8.4).
    fn read_lsr(&mut self) -> u8 {
        let State { line_errors, rx, tx, fcr, .. } = &mut self.state;
        let character_errors = line_errors.into_bits() & Lsr::CHARACTER != 0;
        let lsr = line_errors
            .with_data_ready(!rx.is_empty())
            .with_thr_empty(tx.is_empty())
            .with_transmitter_empty(tx.is_empty())
            .with_fifo_error(
                fcr.enable() && (character_errors || rx.iter().any(|held| held.errors != 0)),
            );
        *line_errors = Lsr::new();
        lsr.into_bits()
    }

    /// Reading MSR clears its change bits (section 8.9).
    fn read_msr(&mut self) -> u8 {
        let value = self.state.msr.into_bits();
        self.state.msr = Msr::from_bits(value & !Msr::DELTAS);
        value
    }

    /// A full FIFO ignores the character; a full holding register is overwritten. Either way the
    /// driver has not waited for THRE.
    fn write_thr(&mut self, value: u8, clock: &dyn Clock) {
        self.state.thre_raised = false;
        if self.state.tx.len() < self.state.depth() {
            self.state.tx.push_back(value);
        } else if let (false, Some(held)) = (self.state.fcr.enable(), self.state.tx.back_mut()) {
            *held = value;
        }
        self.loop_back(clock);
    }

    /// Enabling ETBEI while THR is empty raises the interrupt, which drivers use to get the first
    /// one (section 8.4, bit 5; Linux tests for it and falls back to polling where it fails).
    fn write_ier(&mut self, ier: Ier) {
        if ier.etbei() && !self.state.ier.etbei() && self.state.tx.is_empty() {
            self.state.thre_raised = true;
        }
        self.state.ier = ier;
    }

    fn write_fcr(&mut self, fcr: Fcr) {
        let state = &mut self.state;
        // Section 8.5, bit 0: changing the mode empties both FIFOs, and without bit 0 the other
        // bits are not programmed.
        let toggled = fcr.enable() != state.fcr.enable();
        if toggled || (fcr.enable() && fcr.reset_rcvr()) {
            state.rx.clear();
            state.timed_out = false;
        }
        if toggled || (fcr.enable() && fcr.reset_xmit()) {
            // Section 8.11: the transmitter interrupt after changing FCR0 is immediate.
            state.thre_raised |= toggled || !state.tx.is_empty();
            state.tx.clear();
        }
        state.fcr = if fcr.enable() {
            fcr.with_reset_rcvr(false).with_reset_xmit(false)
        } else {
            state.fcr.with_enable(false)
        };
    }

    fn write_mcr(&mut self, mcr: Mcr, clock: &dyn Clock) {
        self.state.mcr = mcr;
        self.state.msr = self.state.msr.follow(self.state.modem_inputs());
        self.loop_back(clock);
    }

    /// In loopback, what is to be sent is received (section 8.8, bit 4). A break does not change
    /// that: it acts on SOUT, which comes after the transmitter (section 8.1, bit 6).
    fn loop_back(&mut self, clock: &dyn Clock) {
        if !self.state.mcr.loopback() || self.state.tx.is_empty() {
            return;
        }
        let lcr = self.state.lcr;
        while let Some(data) = self.state.tx.pop_front() {
            self.arrive(Received { data: data & lcr.data_mask(), errors: 0 });
        }
        self.state.thre_raised = true;
        self.touch_rx(clock);
    }

    /// The receiver sees spacing for longer than a character: one zero character with BI (section
    /// 8.4, bit 4). It has no stop bit either, and its parity bit is 0, which is wrong for odd
    /// parity and for a stick bit of 1 (section 8.1, bits 4 and 5). In loopback the receiver's
    /// input is disconnected (section 8.8, bit 4).
    fn receive_break(&mut self, clock: &dyn Clock) {
        if self.state.mcr.loopback() {
            return;
        }
        let lcr = self.state.lcr;
        let errors = Lsr::new()
            .with_break_interrupt(true)
            .with_framing(true)
            .with_parity(lcr.parity() && !lcr.even());
        self.arrive(Received { data: 0, errors: errors.into_bits() });
        self.touch_rx(clock);
    }

    /// Section 8.4, bit 1: an overrun replaces the character in the buffer of a 16450, and leaves
    /// a full FIFO as it is.
    fn arrive(&mut self, received: Received) {
        if !self.state.fcr.enable() {
            self.state.rbr = received.data;
        }
        if self.state.rx.len() < self.state.depth() {
            self.state.rx.push_back(received);
        } else {
            self.state.line_errors.set_overrun(true);
            if let (false, Some(held)) = (self.state.fcr.enable(), self.state.rx.back_mut()) {
                *held = received;
            }
        }
        self.show_top_errors();
    }

    /// Section 8.4, bits 2 to 4: a character's errors are revealed when it is at the top of the
    /// FIFO.
    fn show_top_errors(&mut self) {
        if let Some(top) = self.state.rx.front_mut() {
            let errors = self.state.line_errors.into_bits() | std::mem::take(&mut top.errors);
            self.state.line_errors = Lsr::from_bits(errors);
        }
    }

    /// A character has moved: the timeout starts over. Without FIFOs there is none.
    fn touch_rx(&mut self, clock: &dyn Clock) {
        if self.state.fcr.enable() {
            self.state.rx_moved_ns = clock.now_ns();
        }
    }
}
