//! The PS/2 keyboard and mouse controller (8042) with its two devices, and system control port B.
//!
//! ```text
//!  data, offset 0 ────► input buffer ──► argument of a command, or a byte for a device
//!  command, offset 4 ─► controller ────► output port ──► reset
//!                         │  answer
//!  data, offset 0 ◄── output buffer ◄──┬── set 2 to 1 ◄── Keyboard ◄── I8042::key
//!                     │                └──────────────── Mouse    ◄── I8042::movement
//!                     └─► IRQ 1 or IRQ 12, while full
//!  port B, offset 1: timer 2 gate and output, refresh toggle
//! ```
//!
//! Spec: see `regs.rs`. The controller's answers go into the output buffer at once; the devices'
//! bytes, the keyboard's first, wait with the device until the buffer is empty and their interface
//! is enabled.
//!
//! Deviation: commands take no time, so the input buffer never shows full, and bytes from the
//! devices follow each other as fast as they are read instead of one per millisecond.

mod controller;
mod keyboard;
mod mouse;
pub mod regs;
mod set3;
mod state;
#[cfg(test)]
mod tests;
mod translate;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Clock, Device, Direction, Handler, IoCx, Line, Power, PowerEvent, Rules, SaveState, Saved,
    Size, StateError, Timer, Wake,
};

use self::state::SavedV2;
use regs::{MAP, PortB, REFRESH_NS, Reg};
pub use set3::KeySet;
pub use state::{Keyboard, Mouse, Output, Poll, Repeat, ScanSet, State};

/// Channel 2 of the interval timer, as port B reaches it.
pub trait Timer2: Send + Sync {
    /// Drives the channel's gate.
    fn gate(&self, on: bool);

    /// The channel's output.
    fn output(&self) -> bool;
}

/// No timer: the output is always high. For machines whose interval timer is in the kernel, which
/// then answers port B itself; behind another one, port B looks as kvmtool's does (0x20), and
/// loops that wait for the timer end.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTimer2;

impl Timer2 for NoTimer2 {
    fn gate(&self, _on: bool) {}

    fn output(&self) -> bool {
        true
    }
}

/// The controller on its bus. One device for three ports: map each with the device offset
/// [`MAP`] gives it (0x60 at 0, 0x61 at 1, 0x64 at 4).
pub struct I8042 {
    // Wiring.
    keyboard_line: Line,
    aux_line: Line,
    power: Arc<dyn Power>,
    clock: Arc<dyn Clock>,
    timer2: Box<dyn Timer2>,
    /// For the key that repeats.
    timer: Box<dyn Timer>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    // Book-keeping.
    /// The deadline the timer is set to.
    armed_ns: Option<u64>,
    // Everything a snapshot keeps.
    state: State,
}

impl I8042 {
    /// A controller after power-on. `keyboard_line` is the PC's IRQ 1, `aux_line` its IRQ 12.
    pub fn new(
        keyboard_line: Line,
        aux_line: Line,
        power: Arc<dyn Power>,
        clock: Arc<dyn Clock>,
        timer2: Box<dyn Timer2>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = clock.timer(me.clone());
            let inner = Mutex::default();
            Self { keyboard_line, aux_line, power, clock, timer2, timer, inner }
        })
    }

    /// A key goes down or up: `set2` is what a keyboard in scan code set 2 sends for it, prefixes
    /// and all. Several keys may follow each other. The keyboard repeats a key that is held.
    pub fn key(&self, set2: &[u8]) {
        let mut inner = self.inner.lock();
        inner.state.keyboard.key(set2, self.clock.now_ns());
        self.sync(&mut inner);
    }

    /// The mouse moves by `dx` counts to the right and `dy` up, and its buttons are `buttons`: bit
    /// 0 left, 1 right, 2 middle.
    pub fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        let mut inner = self.inner.lock();
        inner.state.mouse.movement(dx, dy, buttons);
        self.sync(&mut inner);
    }

    /// The keyboard's LEDs: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.inner.lock().state.keyboard.leds
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> State {
        self.inner.lock().state.clone()
    }

    fn become_state(&self, state: State) {
        let mut inner = self.inner.lock();
        inner.state = state;
        self.timer2.gate(inner.state.port_b.timer2_gate());
        self.sync(&mut inner);
    }

    /// Derives the lines from the state, moves the next byte into an empty output buffer, and
    /// derives them again: a byte that follows at once is an edge of its own. Sets the timer for
    /// the key that is held.
    fn sync(&self, inner: &mut Inner) {
        let Inner { armed_ns, state } = inner;
        self.drive(state);
        if state.fill_output() {
            self.drive(state);
        }
        let deadline_ns = state.keyboard.repeat.map(|held| held.at_ns);
        if deadline_ns != *armed_ns {
            *armed_ns = deadline_ns;
            self.timer.arm(deadline_ns);
        }
    }

    fn drive(&self, state: &State) {
        self.keyboard_line.set(state.keyboard_interrupt());
        self.aux_line.set(state.aux_interrupt());
    }

    fn read_port_b(&self, state: &State) -> u8 {
        let refresh = self.clock.now_ns() / REFRESH_NS % 2 == 1;
        let port = state.port_b.with_refresh(refresh).with_timer2_output(self.timer2.output());
        port.into_bits()
    }

    fn write_port_b(&self, state: &mut State, value: u8) {
        state.port_b = PortB::from_guest(value);
        self.timer2.gate(state.port_b.timer2_gate());
    }
}

impl Handler for I8042 {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let Some(row) = MAP.for_read(offset) else { return Size::Byte.ones() };
        let mut inner = self.inner.lock();
        let value = match row.reg {
            Reg::Output => {
                let byte = inner.state.read_output();
                self.sync(&mut inner);
                byte
            }
            Reg::PortB => self.read_port_b(&inner.state),
            Reg::Status => inner.state.status(),
            Reg::Input | Reg::Command => 0xff,
        };
        u64::from(value)
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let Some(row) = MAP.for_write(offset) else { return };
        let [value, ..] = value.to_le_bytes();
        let mut inner = self.inner.lock();
        let state = &mut inner.state;
        let reset = match row.reg {
            Reg::Input => state.write_data(value),
            Reg::Command => state.write_command(value),
            Reg::PortB => {
                self.write_port_b(state, value);
                false
            }
            Reg::Output | Reg::Status => false,
        };
        self.sync(&mut inner);
        drop(inner);
        // Not under the lock: whoever hears of it may want to look at this device.
        if reset {
            self.power.request(PowerEvent::Reset, "the keyboard controller");
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => MAP.for_read(offset),
            Direction::Write => MAP.for_write(offset),
        };
        row.map(|row| row.name)
    }
}

impl Wake for I8042 {
    fn wake(&self) {
        let mut inner = self.inner.lock();
        inner.armed_ns = None;
        inner.state.keyboard.repeat(self.clock.now_ns());
        self.sync(&mut inner);
    }
}

impl Device for I8042 {
    fn reset(&self) {
        self.become_state(State::default());
    }
}

impl SaveState for I8042 {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV2::from(&self.inner.lock().state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        self.become_state(State::try_from(saved.decode::<SavedV2>()?)?);
        Ok(())
    }
}
