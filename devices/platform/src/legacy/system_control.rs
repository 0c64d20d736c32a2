//! System control port A, port 0x92: fast A20 and fast reset.
//!
//! Spec: IBM Personal System/2 Hardware Interface Technical Reference, "System Control Port A
//! (hex 0092)".

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Device, Direction, Handler, IoCx, Power, PowerEvent, Rules, SaveState, Saved, Size, StateError,
    saved_form,
};

use super::regs::PortA;

/// Port 0x92.
///
/// Deviation: bit 1 reads back as written, but address line 20 is always let through. A vCPU has
/// no A20 gate, and nothing since the 80286 needs addresses to wrap.
pub struct SystemControl {
    power: Arc<dyn Power>,
    port: Mutex<PortA>,
}

impl SystemControl {
    /// The port after power-on; a reset is asked of `power`.
    pub fn new(power: Arc<dyn Power>) -> Self {
        Self { power, port: Mutex::new(PortA::POWER_ON) }
    }
}

impl Handler for SystemControl {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        u64::from(self.port.lock().into_bits())
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        let new = PortA::from_guest(super::low_byte(value));
        let mut port = self.port.lock();
        let old = std::mem::replace(&mut *port, new);
        port.set_security_lock(old.security_lock() || new.security_lock());
        drop(port);
        if new.reset() && !old.reset() {
            self.power.request(PowerEvent::Reset, "port 92");
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("PORTA")
    }
}

impl Device for SystemControl {
    fn reset(&self) {
        *self.port.lock() = PortA::POWER_ON;
    }
}

/// What a snapshot keeps.
#[derive(Clone)]
struct State {
    port: PortA,
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let fits = PortA::from_guest(self.port.into_bits()) == self.port;
        StateError::check::<SavedV1>(fits, "bits that read 0 are 0")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "port92" version 1 {
        port: u8,
    }
}

impl SaveState for SystemControl {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&State { port: *self.port.lock() }))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let State { port } = State::try_from(saved.decode::<SavedV1>()?)?;
        *self.port.lock() = port;
        Ok(())
    }
}
