//! What a snapshot of the two chips keeps.

use serde::{Deserialize, Serialize};
use trapline_device::{StateError, saved_form};

use super::regs::{CASCADE, ICW3_AFTER_ICW1, Icw1, Icw4, Which};

/// How far the initialization sequence has come (figure 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// No ICW1 since power-on.
    #[default]
    Off,
    /// Waits for ICW2.
    Icw2,
    /// Waits for ICW3.
    Icw3,
    /// Waits for ICW4.
    Icw4,
    /// Ready to accept interrupt requests.
    Ready,
}

/// One 8259A. The data sheet leaves power-on open; nothing is requested before the initialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Levels of the inputs IR0 to IR7.
    pub lines: u8,
    /// Inputs that have risen and have not been served since, nor fallen: the edge sense latches.
    pub latched: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The input with the lowest priority, 0 to 7. The one after it has the highest.
    pub lowest: u8,
    /// The initialization sequence.
    pub phase: Phase,
    /// ICW1.
    pub icw1: Icw1,
    /// ICW2.
    pub icw2: u8,
    /// ICW3: inputs with a slave on the primary chip, the slave address on the secondary.
    pub icw3: u8,
    /// ICW4.
    pub icw4: Icw4,
    /// Rotate in automatic EOI mode.
    pub rotate_in_aeoi: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Reads of A0 = 0 are ISR.
    pub read_isr: bool,
    /// A poll command was written; these are the requests as of then, frozen until the read.
    pub poll: Option<u8>,
    /// Edge/level control register: inputs that are level triggered.
    pub elcr: u8,
}

impl Default for Chip {
    fn default() -> Self {
        Self {
            lines: 0,
            latched: 0,
            imr: 0,
            isr: 0,
            lowest: 7,
            phase: Phase::Off,
            icw1: Icw1::new(),
            icw2: 0,
            icw3: ICW3_AFTER_ICW1,
            icw4: Icw4::new(),
            rotate_in_aeoi: false,
            special_mask: false,
            read_isr: false,
            poll: None,
            elcr: 0,
        }
    }
}

/// Both chips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// IRQ 0 to 7.
    pub primary: Chip,
    /// IRQ 8 to 15.
    pub secondary: Chip,
}

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "i8259" version 1 {
        primary: ChipV1,
        secondary: ChipV1,
    }
}

saved_form! {
    struct ChipV1 of Chip {
        lines: u8,
        latched: u8,
        imr: u8,
        isr: u8,
        lowest: u8,
        phase: Phase,
        icw1: u8,
        icw2: u8,
        icw3: u8,
        icw4: u8,
        rotate_in_aeoi: bool,
        special_mask: bool,
        read_isr: bool,
        poll: Option<u8>,
        elcr: u8,
    }
}

impl Chip {
    fn check(&self, which: Which) -> Result<(), StateError> {
        let Self { latched, lines, isr, phase, icw1, icw4, .. } = *self;
        let check = StateError::check::<SavedV1>;
        check(self.lowest < 8, "the input of lowest priority is one of 0 to 7")?;
        check(latched & !lines == 0, "a latched request's input is high")?;
        check(self.elcr & !which.elcr_mask() == 0, "the fixed bits of the ELCR are clear")?;
        check(icw4.into_bits() & !0x1f == 0, "the upper bits of ICW4 are clear")?;
        let ready = phase == Phase::Ready;
        check(icw1.one() == (phase != Phase::Off), "ICW1 was written before the other ICWs")?;
        check(ready || isr == 0, "nothing is in service before the initialization has ended")?;
        check(phase != Phase::Icw3 || !icw1.sngl(), "no ICW3 follows in single mode")?;
        check(phase != Phase::Icw4 || icw1.ic4(), "ICW4 is only awaited when announced")?;
        check((ready && icw1.ic4()) || icw4 == Icw4::new(), "ICW4 was only set when announced")?;
        check(!icw4.aeoi() || isr == 0, "nothing stays in service with automatic EOI")
    }
}

impl State {
    /// Refuses states no sequence of accesses leads to.
    fn check(&self) -> Result<(), StateError> {
        self.primary.check(Which::Primary)?;
        self.secondary.check(Which::Secondary)?;
        let input = self.primary.lines & 1 << CASCADE != 0;
        let output = self.secondary.int(Which::Secondary);
        StateError::check::<SavedV1>(input == output, "IR2 is at the level of the secondary's INT")
    }
}
