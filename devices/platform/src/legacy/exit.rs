//! The exit port of test guests.
//!
//! Spec: QEMU's `isa-debug-exit` device: writing `v` ends the machine with status `(v << 1) | 1`,
//! so that 0 stays what only an orderly poweroff gives.

use std::sync::Arc;

use trapline_device::{Direction, Handler, IoCx, Power, PowerEvent, Rules, Size};

use super::{WHOLE, low_byte};

/// A port that ends the machine. `outb`, `outw` and `outl` do the same; a process's exit status
/// has eight bits, so the others are cut off, as the host's `exit` does. Reads are 0.
pub struct ExitPort(Arc<dyn Power>);

impl ExitPort {
    /// The end is asked of `power`.
    pub fn new(power: Arc<dyn Power>) -> Self {
        Self(power)
    }
}

impl Handler for ExitPort {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        if offset == 0 {
            let status = (low_byte(value) << 1) | 1;
            self.0.request(PowerEvent::Exit(status), "the exit port");
        }
    }

    fn rules(&self) -> Rules {
        WHOLE
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("EXIT")
    }
}
