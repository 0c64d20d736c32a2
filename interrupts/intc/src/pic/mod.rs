//! A pair of 8259A interrupt controllers, wired as in every PC since the AT.
//!
//! Spec: Intel 8259A data sheet, order number 231468-003; its sections are cited by name. The
//! edge/level control registers are the PIIX's.
//!
//! ```text
//!   IRQ 0 1 ─┬────────► primary ──INT──► Line (INTR of the processor) ──► ExtInt::acknowledge
//!   IRQ 3..7 ┘             ▲ IR2
//!   IRQ 8..15 ──► secondary ┘ INT
//! ```
//!
//! Deviation: in MCS-80/85 mode the chip expects three acknowledge cycles; an x86 makes two, and
//! an automatic EOI then happens at the end of the second.
//!
//! Deviation: the primary chip never answers with its default IR7. It would if a request went away
//! after the processor has looked at INTR, but the processor here looks in the acknowledge itself.

mod chip;
pub mod regs;
mod state;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Device, Direction, ExtInt, Handler, IoCx, Limits, Line, LineSink, Rules, SaveState, Saved,
    Size, StateError,
};

use self::regs::{CASCADE, ELCR_OFFSET, MAP, Reg, Which};
use self::state::SavedV1;
pub use self::state::{Chip, Phase, State};

/// Number of interrupt request inputs, the cascade's included.
pub const PINS: u8 = 16;

impl State {
    fn chip(&mut self, which: Which) -> &mut Chip {
        match which {
            Which::Primary => &mut self.primary,
            Which::Secondary => &mut self.secondary,
        }
    }

    /// The cascade wire. Called after every change of the secondary chip.
    fn sync_cascade(&mut self) {
        let int = self.secondary.int(Which::Secondary);
        self.primary.set_line(CASCADE, int);
    }

    /// The INTR wire.
    fn intr(&self) -> bool {
        self.primary.int(Which::Primary)
    }

    fn set_pin(&mut self, pin: u8, level: bool) {
        match pin {
            CASCADE => {}
            0..=7 => self.primary.set_line(pin, level),
            8..PINS => self.secondary.set_line(pin - 8, level),
            _ => {}
        }
        self.sync_cascade();
    }

    /// INTR and, if it is high, the two INTA cycles of an 8086 ("Interrupt sequence", "Cascade
    /// mode").
    fn acknowledge(&mut self) -> Option<u8> {
        if !self.intr() {
            return None;
        }
        Some(match self.primary.serve(Which::Primary)? {
            ir if !self.primary.has_slave(ir) => self.primary.vector(ir),
            CASCADE if self.secondary.is_slave() => {
                let ir = self.secondary.serve(Which::Secondary);
                self.drop_cascade();
                // Without a request it is the default IR7, with no bit set in service.
                self.secondary.vector(ir.unwrap_or(7))
            }
            // No slave has this address; nobody drives the bus.
            _ => 0xff,
        })
    }

    /// INT goes low in an acknowledge, even if there is more to ask for: a new edge for whoever
    /// looks at edges.
    fn drop_cascade(&mut self) {
        self.primary.set_line(CASCADE, false);
        self.sync_cascade();
    }

    /// Returns the byte, and whether the read was an acknowledge of the primary chip.
    fn read(&mut self, offset: u64) -> (u8, bool) {
        match MAP.for_read(offset).map(|row| row.reg) {
            Some(Reg::Elcr(which)) => (self.chip(which).elcr, false),
            Some(Reg::Command(which)) => self.read_chip(which, Chip::read_command),
            Some(Reg::Data(which)) => self.read_chip(which, Chip::read_data),
            None => (0xff, false),
        }
    }

    fn read_chip(&mut self, which: Which, read: fn(&mut Chip, Which) -> u8) -> (u8, bool) {
        let polled = self.chip(which).poll.is_some();
        let value = read(self.chip(which), which);
        if polled && which == Which::Secondary {
            self.drop_cascade();
        }
        (value, polled && which == Which::Primary)
    }

    fn write(&mut self, offset: u64, value: u8) {
        match MAP.for_write(offset).map(|row| row.reg) {
            Some(Reg::Command(which)) => self.chip(which).write_command(value),
            Some(Reg::Data(which)) => self.chip(which).write_data(value),
            Some(Reg::Elcr(which)) => self.chip(which).elcr = value & which.elcr_mask(),
            None => {}
        }
        self.sync_cascade();
    }
}

/// The pair on its board. One device for three regions; see [`regs`] for their device offsets.
#[derive(Debug)]
pub struct Pic {
    // Wiring.
    intr: Line,
    // Everything a snapshot keeps.
    state: Mutex<State>,
}

impl Pic {
    /// The chips after power-on. `intr` is the processor's INTR pin.
    pub fn new(intr: Line) -> Arc<Self> {
        Arc::new(Self { intr, state: Mutex::default() })
    }

    /// What both chips are doing now.
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    /// Has these inputs be level triggered, bit per input, and no others: a write to both edge/level
    /// control registers.
    pub fn set_level_triggered(&self, inputs: u16) {
        let mut state = self.state.lock();
        let bytes = inputs.to_le_bytes();
        (ELCR_OFFSET..).zip(bytes).for_each(|(offset, value)| state.write(offset, value));
        self.sync(&state);
    }

    /// Drives input `pin`, 0 to 15. The cascade input 2 is not to be had, and pins past 15 do not
    /// exist: nothing happens then.
    pub fn set_pin(&self, pin: u8, level: bool) {
        let mut state = self.state.lock();
        state.set_pin(pin, level);
        self.sync(&state);
    }

    /// The end of a line at input `pin`. Make one [`Line`] of it and share that: the line does the
    /// wired-OR, a second one would be a second wire at the same pin.
    pub fn pin(self: &Arc<Self>, pin: u8) -> impl LineSink + use<> {
        Pin { pic: Arc::clone(self), pin }
    }

    /// Derives the output from the state. The lock is held, so that levels come in the order of
    /// their causes.
    fn sync(&self, state: &State) {
        self.intr.set(state.intr());
    }

    /// The same after an acknowledge, in which INT goes low.
    fn sync_acknowledged(&self, state: &State) {
        self.intr.set(false);
        self.sync(state);
    }
}

struct Pin {
    pic: Arc<Pic>,
    pin: u8,
}

impl LineSink for Pin {
    fn set_level(&self, level: bool) {
        self.pic.set_pin(self.pin, level);
    }
}

impl ExtInt for Pic {
    fn pending(&self) -> bool {
        self.intr.level()
    }

    fn acknowledge(&self) -> Option<u8> {
        let mut state = self.state.lock();
        let vector = state.acknowledge()?;
        self.sync_acknowledged(&state);
        Some(vector)
    }
}

impl Handler for Pic {
    fn read(&self, cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let mut state = self.state.lock();
        cx.reaches(|| register(&mut state, offset, Direction::Read));
        match state.read(offset) {
            (value, true) => {
                self.sync_acknowledged(&state);
                u64::from(value)
            }
            (value, false) => {
                self.sync(&state);
                u64::from(value)
            }
        }
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let [byte, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        cx.reaches(|| register(&mut state, offset, Direction::Write));
        state.write(offset, byte);
        self.sync(&state);
    }

    /// Bytes only: the chip hangs on eight data lines, and KVM's model refuses other widths too.
    fn rules(&self) -> Rules {
        Rules { valid: Limits::only(Size::Byte), handled: Limits::only(Size::Byte) }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        register(&mut self.state.lock(), offset, direction)
    }
}

/// The register that an access at `offset` reaches, by what a chip waits for or has selected.
fn register(state: &mut State, offset: u64, direction: Direction) -> Option<&'static str> {
    let write = direction == Direction::Write;
    let row = MAP.for_read(offset)?;
    Some(match row.reg {
        Reg::Elcr(_) => row.name,
        Reg::Command(which) => state.chip(which).register(false, write),
        Reg::Data(which) => state.chip(which).register(true, write),
    })
}

impl Device for Pic {
    /// The inputs are other devices' and stay as they are. A line that is high has to fall and
    /// rise again to request, as after ICW1.
    fn reset(&self) {
        let mut state = self.state.lock();
        let [primary, secondary] = [state.primary.lines & !(1 << CASCADE), state.secondary.lines];
        *state = State {
            primary: Chip { lines: primary, ..Chip::default() },
            secondary: Chip { lines: secondary, ..Chip::default() },
        };
        self.sync(&state);
    }
}

impl SaveState for Pic {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&*self.state.lock()))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV1>()?)?;
        let mut state = self.state.lock();
        *state = restored;
        self.sync(&state);
        Ok(())
    }
}
