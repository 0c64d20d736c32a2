//! The state of one 8259A: request, in-service and mask registers, and its priorities.

use super::regs::{
    CASCADE, ICW3_AFTER_ICW1, IS_ICW1, IS_OCW3, Icw1, Icw4, Ocw2, Ocw3, POLL_INTERRUPT,
    VECTOR_BASE, Which,
};
use super::state::{Chip, Phase};

/// The bit of an input; the upper bits of `ir` do not count.
const fn bit(ir: u8) -> u8 {
    1 << (ir & 7)
}

impl Chip {
    /// Drives input `ir`.
    pub(super) fn set_line(&mut self, ir: u8, level: bool) {
        let bit = bit(ir);
        if !level {
            // An input must stay high until it is acknowledged ("Edge and level triggered modes"):
            // a request that is taken back is gone.
            self.lines &= !bit;
            self.latched &= !bit;
        } else if self.lines & bit == 0 {
            self.lines |= bit;
            self.latched |= bit;
        }
    }

    /// The interrupt request register. Inputs that are not level triggered request from a rising
    /// edge on until they are served.
    pub fn irr(&self) -> u8 {
        let level = if self.icw1.ltim() { 0xff } else { self.elcr };
        self.poll.unwrap_or((self.lines & level) | (self.latched & !level))
    }

    /// The inputs from the highest priority to the lowest.
    fn by_priority(&self) -> impl Iterator<Item = u8> + use<> {
        let lowest = self.lowest;
        (1..=8).map(move |rank| (lowest + rank) & 7)
    }

    /// What the in-service register has to say: in special mask mode, masked inputs neither
    /// inhibit others nor are ended by a non-specific EOI ("Special mask mode").
    fn in_service(&self) -> u8 {
        if self.special_mask { self.isr & !self.imr } else { self.isr }
    }

    /// The request to be served next: the most urgent one, if it is more urgent than all that are
    /// in service ("Fully nested mode").
    fn request(&self, which: Which) -> Option<u8> {
        if self.phase != Phase::Ready {
            return None;
        }
        let wanted = self.irr() & !self.imr;
        let in_service = self.in_service();
        // "Special fully nested mode": a slave in service may interrupt itself; the inputs below
        // it still have to wait.
        let nesting = if which == Which::Primary && self.icw4.sfnm() { self.slaves() } else { 0 };
        for ir in self.by_priority() {
            if wanted & bit(ir) != 0 && (in_service & bit(ir) == 0 || nesting & bit(ir) != 0) {
                return Some(ir);
            }
            if in_service & bit(ir) != 0 {
                return None;
            }
        }
        None
    }

    /// The most urgent input in service that keeps a request of `ir` waiting, if one does.
    pub fn served_before(&self, ir: u8) -> Option<u8> {
        let mut before = self.by_priority().take_while(|other| *other != ir);
        before.find(|other| self.in_service() & bit(*other) != 0)
    }

    /// The INT output.
    pub(super) fn int(&self, which: Which) -> bool {
        self.request(which).is_some()
    }

    /// Acknowledges the most urgent request, if there is one.
    pub(super) fn serve(&mut self, which: Which) -> Option<u8> {
        let request = self.request(which);
        self.poll = None;
        let ir = request?;
        self.latched &= !bit(ir);
        if !self.icw4.aeoi() {
            self.isr |= bit(ir);
        } else if self.rotate_in_aeoi {
            self.lowest = ir;
        }
        Some(ir)
    }

    /// Inputs the primary chip has slaves on.
    fn slaves(&self) -> u8 {
        if self.icw1.sngl() { 0 } else { self.icw3 }
    }

    /// Whether the primary chip leaves the vector for `ir` to a slave.
    pub(super) fn has_slave(&self, ir: u8) -> bool {
        self.slaves() & bit(ir) != 0
    }

    /// Whether the secondary chip answers as the slave on the cascade input.
    pub(super) fn is_slave(&self) -> bool {
        self.phase == Phase::Ready && !self.icw1.sngl() && self.icw3 & 7 == CASCADE
    }

    /// What the chip drives on the bus in the second acknowledge cycle for `ir`: the vector, or in
    /// MCS-80/85 mode the lower half of a call address, which an 8086 takes for the vector
    /// ("Interrupt sequence").
    pub fn vector(&self, ir: u8) -> u8 {
        let address = self.icw1.address() << 5;
        match (self.icw4.upm(), self.icw1.adi()) {
            (true, _) => (self.icw2 & VECTOR_BASE) | ir,
            (false, true) => address | ir << 2,
            (false, false) => (address & 0xc0) | ir << 3,
        }
    }

    /// Reads A0 = 0.
    pub(super) fn read_command(&mut self, which: Which) -> u8 {
        match self.poll {
            Some(_) => self.read_poll(which),
            None if self.read_isr => self.isr,
            None => self.irr(),
        }
    }

    /// Reads A0 = 1. A poll command makes any read an acknowledge ("Poll command").
    pub(super) fn read_data(&mut self, which: Which) -> u8 {
        if self.poll.is_some() { self.read_poll(which) } else { self.imr }
    }

    fn read_poll(&mut self, which: Which) -> u8 {
        self.serve(which).map_or(0, |ir| POLL_INTERRUPT | ir)
    }

    /// Writes A0 = 0.
    pub(super) fn write_command(&mut self, value: u8) {
        if value & IS_ICW1 != 0 {
            self.initialize(Icw1::from_bits(value));
        } else if value & IS_OCW3 != 0 {
            self.write_ocw3(Ocw3::from_bits(value));
        } else {
            self.write_ocw2(Ocw2::from_bits(value));
        }
    }

    /// Writes A0 = 1: the ICW the chip waits for, or OCW1.
    pub(super) fn write_data(&mut self, value: u8) {
        match self.phase {
            Phase::Icw2 => {
                self.icw2 = value;
                self.phase = if self.icw1.sngl() { self.after_icw3() } else { Phase::Icw3 };
            }
            Phase::Icw3 => {
                self.icw3 = value;
                self.phase = self.after_icw3();
            }
            Phase::Icw4 => {
                self.icw4 = Icw4::from_guest(value);
                self.phase = Phase::Ready;
            }
            Phase::Off | Phase::Ready => self.imr = value,
        }
    }

    fn after_icw3(&self) -> Phase {
        if self.icw1.ic4() { Phase::Icw4 } else { Phase::Ready }
    }

    /// ICW1 resets all but the inputs and the register beside the chip ("Initialization command
    /// words 1 and 2", items a to f). The list leaves the in-service register out, but an
    /// interrupt in service could never be ended by a driver that knows nothing of it.
    fn initialize(&mut self, icw1: Icw1) {
        let Self { lines, elcr, .. } = *self;
        *self = Self {
            lines,
            elcr,
            icw1,
            icw3: ICW3_AFTER_ICW1,
            phase: Phase::Icw2,
            ..Self::default()
        };
    }

    /// OCW2 (figure 8).
    fn write_ocw2(&mut self, ocw2: Ocw2) {
        match (ocw2.r(), ocw2.sl(), ocw2.eoi()) {
            (rotate, true, true) => self.end(ocw2.level(), rotate),
            (rotate, false, true) => {
                let in_service = self.in_service();
                let urgent = self.by_priority().find(|ir| in_service & bit(*ir) != 0);
                if let Some(ir) = urgent {
                    self.end(ir, rotate);
                }
            }
            (true, true, false) => self.lowest = ocw2.level(),
            (rotate, false, false) => self.rotate_in_aeoi = rotate,
            // No operation.
            (false, true, false) => {}
        }
    }

    /// Ends the interrupt of `ir`, and gives it the lowest priority if it is to `rotate`.
    fn end(&mut self, ir: u8, rotate: bool) {
        self.isr &= !bit(ir);
        if rotate {
            self.lowest = ir;
        }
    }

    /// OCW3 (figure 8). Poll wins over the register select for the next read only.
    fn write_ocw3(&mut self, ocw3: Ocw3) {
        if ocw3.esmm() {
            self.special_mask = ocw3.smm();
        }
        if ocw3.rr() {
            self.read_isr = ocw3.ris();
        }
        if ocw3.p() {
            self.poll = Some(self.irr());
        }
    }

    /// What the next access to A0 = 0 or 1 reaches.
    pub(super) fn register(&self, data: bool, write: bool) -> &'static str {
        match (write, data) {
            (false, _) if self.poll.is_some() => "POLL",
            (false, true) => "IMR",
            (false, false) if self.read_isr => "ISR",
            (false, false) => "IRR",
            // The value decides which: ICW1, OCW2 or OCW3.
            (true, false) => "ICW1/OCW",
            (true, true) => match self.phase {
                Phase::Icw2 => "ICW2",
                Phase::Icw3 => "ICW3",
                Phase::Icw4 => "ICW4",
                Phase::Off | Phase::Ready => "OCW1",
            },
        }
    }
}
