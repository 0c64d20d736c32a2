//! The I/O APIC's state: redirection table, requests and remote IRR; without the registers through
//! which software reaches it.

use trapline_device::Msi;

use super::regs::{
    Delivery, Id, Indirect, MAP, MessageAddress, MessageData, PINS, Redirection, Reg,
    SUCCESSIVE_ENDS_MAX, VERSION,
};
use super::state::State;

impl Redirection {
    /// Whether it waits for an EOI after each interrupt. The other delivery modes are edge
    /// triggered whatever the trigger mode says (82093AA section 3.2.4).
    pub(super) fn waits_for_eoi(self) -> bool {
        self.level() && matches!(self.delivery(), Delivery::Fixed | Delivery::LowestPriority)
    }

    /// What it sends; nothing for a reserved delivery mode.
    pub(super) fn message(self) -> Option<Msi> {
        let delivery = self.delivery();
        let address = MessageAddress::new()
            .with_logical(self.logical())
            .with_redirect(delivery == Delivery::LowestPriority)
            .with_extended(self.extended())
            .with_destination(self.destination());
        let data = MessageData::new()
            .with_vector(self.vector())
            .with_delivery_code(self.delivery_code())
            .with_level(self.waits_for_eoi());
        let message = Msi { address: u64::from(address.into_bits()), data: data.into_bits() };
        (delivery != Delivery::Reserved).then_some(message)
    }

    /// The message a local APIC's EOI answers to, if there will be one.
    pub(super) fn level_route(self) -> Option<Msi> {
        if self.waits_for_eoi() && (!self.mask() || self.remote_irr()) {
            self.message()
        } else {
            None
        }
    }
}

impl State {
    /// Drives input `pin`, below [`PINS`]. Returns whether that was a rising edge.
    pub(super) fn set_line(&mut self, pin: u8, level: bool) -> bool {
        let before = self.line(pin);
        let bit = 1 << pin;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if level != before {
            self.paused &= !bit;
        }
        level && !before
    }

    fn line(&self, pin: u8) -> bool {
        self.lines & 1 << pin != 0
    }

    /// A pin's entry; the reset one past the last.
    pub(super) fn entry(&self, pin: u8) -> Redirection {
        self.entries.get(usize::from(pin)).copied().unwrap_or(Redirection::RESET)
    }

    /// What `pin` has to send now, given whether it has just risen; marks it as sent.
    ///
    /// Edges on a masked pin are ignored, not kept (82093AA section 3.2.4, bit 16). A level is
    /// sent while no local APIC has it (bit 14) and the pin does not pause.
    pub(super) fn take_message(&mut self, pin: u8, rose: bool) -> Option<Msi> {
        let asserted = self.line(pin) && self.paused & 1 << pin == 0;
        let entry = self.entries.get_mut(usize::from(pin))?;
        let level = entry.waits_for_eoi();
        let due = if level { asserted && !entry.remote_irr() } else { rose };
        if entry.mask() || !due {
            return None;
        }
        if level {
            entry.set_remote_irr(true);
        }
        entry.message()
    }

    /// A local APIC has ended an interrupt with this vector (82093AA section 3.2.4, bit 14). A pin
    /// that has been asserted at too many ends in a row is to pause.
    pub(super) fn eoi(&mut self, vector: u8) {
        for ((pin, entry), ends) in (0..).zip(&mut self.entries).zip(&mut self.successive_ends) {
            if !entry.remote_irr() || entry.vector() != vector {
                continue;
            }
            entry.set_remote_irr(false);
            let again = !entry.mask() && self.lines & 1 << pin != 0;
            *ends = if again { *ends + 1 } else { 0 };
            if *ends >= SUCCESSIVE_ENDS_MAX {
                *ends = 0;
                self.paused |= 1 << pin;
            }
        }
    }

    /// The pause is over.
    pub(super) fn end_pause(&mut self) {
        self.paused = 0;
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        match MAP.for_read(offset).map(|row| row.reg) {
            Some(Reg::Select) => u32::from(self.select),
            Some(Reg::Window) => self.read_window(),
            // The EOI register is write-only; the rest of the page is reserved.
            Some(Reg::Eoi) | None => 0,
        }
    }

    fn read_window(&self) -> u32 {
        let half = |pin, shift: u32| low(self.entry(pin).into_bits() >> shift);
        match Indirect::at(self.select) {
            Some(Indirect::Id) => self.id.into_bits(),
            Some(Indirect::Version) => u32::from(VERSION) | u32::from(PINS - 1) << 16,
            Some(Indirect::Arbitration) => self.arbitration.into_bits(),
            Some(Indirect::RedirectLow(pin)) => half(pin, 0),
            Some(Indirect::RedirectHigh(pin)) => half(pin, 32),
            None => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) {
        let [byte, ..] = value.to_le_bytes();
        match MAP.for_write(offset).map(|row| row.reg) {
            Some(Reg::Select) => self.select = byte,
            Some(Reg::Window) => self.write_window(value),
            Some(Reg::Eoi) => self.eoi(byte),
            None => {}
        }
    }

    fn write_window(&mut self, value: u32) {
        match Indirect::at(self.select) {
            Some(Indirect::Id) => {
                self.id = Id::from_guest(value);
                // "The arbitration register is loaded whenever the ID register is written."
                self.arbitration = self.id;
            }
            Some(Indirect::RedirectLow(pin)) => self.write_entry(pin, value, 0),
            Some(Indirect::RedirectHigh(pin)) => self.write_entry(pin, value, 32),
            Some(Indirect::Version | Indirect::Arbitration) | None => {}
        }
    }

    fn write_entry(&mut self, pin: u8, value: u32, shift: u32) {
        self.paused &= !(1 << pin);
        if let Some(entry) = self.entries.get_mut(usize::from(pin)) {
            let kept = entry.into_bits() & !(u64::from(u32::MAX) << shift);
            *entry = entry.written(kept | u64::from(value) << shift);
            // Remote IRR means nothing for an edge (82093AA section 3.2.4, bit 14), and drivers
            // rely on a turn as an edge to clear it where there is no EOI register.
            if !entry.waits_for_eoi() {
                entry.set_remote_irr(false);
            }
        }
    }
}

/// The lower 32 bits.
fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
