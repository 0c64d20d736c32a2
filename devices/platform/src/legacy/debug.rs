//! Ports a guest writes debug output to.
//!
//! Spec: docs/specs of QEMU for the debug console (`isa-debugcon`), which SeaBIOS and OVMF print to
//! at port 0x402; kvmtool's `hw/x86/ioport` for its debug port 0xe0.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use trapline_device::{
    CharBackend, Device, Direction, Form, Handler, IoCx, Rules, SaveState, Saved, Size, StateError,
    saved_form,
};

use super::regs::DEBUGCON_PRESENT;
use super::{WHOLE, low_byte};

/// Port 0x402: each byte written is a character. There is no way to make the guest wait, so
/// characters a full backend does not take are gone.
pub struct DebugConsole(Arc<dyn CharBackend>);

impl DebugConsole {
    /// Prints to `backend`.
    pub fn new(backend: Arc<dyn CharBackend>) -> Self {
        Self(backend)
    }
}

impl Handler for DebugConsole {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        u64::from(DEBUGCON_PRESENT)
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.0.transmit(&[low_byte(value)]);
    }

    fn write_rep(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, data: &[u8]) {
        self.0.transmit(data);
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("DEBUGCON")
    }
}

/// Port 0xe0: prints who wrote what, if somebody listens; without, it costs nothing but the trap.
/// Reads return the last byte written, 0 after power-on.
pub struct DebugPort {
    listener: Option<Arc<dyn CharBackend>>,
    last: AtomicU8,
}

impl DebugPort {
    /// Prints a line per write to `listener`.
    pub fn new(listener: Option<Arc<dyn CharBackend>>) -> Self {
        Self { listener, last: AtomicU8::new(0) }
    }
}

impl Handler for DebugPort {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        u64::from(self.last.load(Ordering::Relaxed))
    }

    fn write(&self, cx: &IoCx<'_>, _offset: u64, size: Size, value: u64) {
        self.last.store(low_byte(value), Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            let digits = 2 * size.bytes();
            let line = format!("debug port: {} wrote 0x{value:0digits$x}\n", cx.requester());
            listener.transmit(line.as_bytes());
        }
    }

    fn rules(&self) -> Rules {
        WHOLE
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("DEBUG")
    }
}

impl Device for DebugPort {
    fn reset(&self) {
        self.last.store(0, Ordering::Relaxed);
    }
}

/// What a snapshot keeps of the debug port.
#[derive(Clone)]
struct State {
    last: u8,
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State {
        last: u8,
    }
}

impl Form for SavedV1 {
    const NAME: &'static str = "debug-port";
    const VERSION: u32 = 1;
}

impl SaveState for DebugPort {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(State { last: self.last.load(Ordering::Relaxed) }))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let State { last } = State::from(saved.decode::<SavedV1>()?);
        self.last.store(last, Ordering::Relaxed);
        Ok(())
    }
}
