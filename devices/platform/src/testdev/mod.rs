//! The test device of kvm-unit-tests, by which a guest that tests a virtual machine drives it.
//!
//! Spec: see [`regs`]. The exit port that belongs to it is a device of its own,
//! [`ExitPort`](crate::legacy::ExitPort).
//!
//! One device, four windows, each a [`Handler`]: the registers, the interrupt lines, the scratch
//! memory, the port that switches off.

pub mod regs;
mod state;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Direction, Handler, IoCx, Limits, Line, Power, PowerEvent, Rules, Size, device_state,
};

use self::regs::{LATCH_LEN, LINE_NAME, LINES, MAP, POWER_MAP, Reg, SCRATCH_NAME, SHUTDOWN};
use self::state::SavedV1;
pub use self::state::State;
use crate::legacy::low_byte;

/// Who makes the guest's next access to a page fault, so that a test meets the fault where it
/// wants to.
pub trait PageFlush: Send + Sync {
    /// Forgets how the page at guest physical address `addr` is mapped; its contents stay.
    fn flush(&self, addr: u64);
}

/// Forgets nothing: there is no such mapping.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFlush;

impl PageFlush for NoFlush {
    fn flush(&self, _addr: u64) {}
}

/// The device, which is also its first window.
pub struct TestDev {
    // Wiring.
    lines: [Line; LINES],
    power: Arc<dyn Power>,
    pages: Arc<dyn PageFlush>,
    state: Mutex<State>,
}

impl TestDev {
    /// The device after power-on. `lines` are the interrupt lines by number; switching off is asked
    /// of `power`.
    pub fn new(
        lines: [Line; LINES],
        power: Arc<dyn Power>,
        pages: Arc<dyn PageFlush>,
    ) -> Arc<Self> {
        Arc::new(Self { lines, power, pages, state: Mutex::default() })
    }

    /// Derives the lines from the state.
    fn sync(&self, state: &State) {
        self.lines.iter().zip(state.lines).for_each(|(line, level)| line.set(level));
    }
}

impl Handler for TestDev {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        if MAP.for_read(offset).is_none() {
            return size.ones();
        }
        let latch = u32::from_le_bytes(self.state.lock().latch);
        u64::from(latch) >> (8 * (offset % u64::from(LATCH_LEN))) & size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        match MAP.for_write(offset).map(|row| row.reg) {
            Some(Reg::Latch | Reg::ByteLatch) => {
                let mut state = self.state.lock();
                let at = usize::try_from(offset % u64::from(LATCH_LEN)).unwrap_or(0);
                let bytes = state.latch.iter_mut().skip(at).take(size.bytes());
                bytes.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
            }
            Some(Reg::Flush) if size == Size::Dword => self.pages.flush(value & !0xfff),
            Some(Reg::Flush) | None => {}
        }
    }

    /// Whole accesses of the first latch and of the flush register. The second latch makes no
    /// difference between a wide access and its bytes.
    fn rules(&self) -> Rules {
        let handled = Limits { min: Size::Byte, max: Size::Dword, unaligned: false };
        Rules { valid: Limits::ANY, handled }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        match direction {
            Direction::Read => MAP.for_read(offset),
            Direction::Write => MAP.for_write(offset),
        }
        .map(|row| row.name)
    }
}

/// The window of the interrupt lines, a port each. Reads are all ones.
pub struct IrqLines(pub Arc<TestDev>);

impl Handler for IrqLines {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let mut state = self.0.state.lock();
        if let Some(line) = usize::try_from(offset).ok().and_then(|at| state.lines.get_mut(at)) {
            *line = value != 0;
        }
        self.0.sync(&state);
    }

    /// Bytes only: a test of the suite (`x86/realmode.c`) makes wider writes, and goes wrong where
    /// they have an effect.
    fn rules(&self) -> Rules {
        let bytes = Limits::only(Size::Byte);
        Rules { valid: bytes, handled: bytes }
    }

    fn register(&self, _offset: u64, direction: Direction) -> Option<&'static str> {
        (direction == Direction::Write).then_some(LINE_NAME)
    }
}

/// The window of the scratch memory, which takes accesses of any size.
pub struct Scratch(pub Arc<TestDev>);

impl Handler for Scratch {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let state = self.0.state.lock();
        let mut bytes = [0; 8];
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = state.scratch.iter().skip(at).take(size.bytes());
        bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let mut state = self.0.state.lock();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = state.scratch.iter_mut().skip(at).take(size.bytes());
        to.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some(SCRATCH_NAME)
    }
}

/// The port that switches off when the word is written to it. Reads are all ones.
pub struct PowerPort(pub Arc<TestDev>);

impl Handler for PowerPort {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        let mut state = self.0.state.lock();
        let byte = low_byte(value);
        // A wrong byte may be the right one to begin with; no other prefix of the word recurs.
        let right = SHUTDOWN.get(state.shutdown) == Some(&byte);
        let next =
            if right { state.shutdown + 1 } else { usize::from(SHUTDOWN.starts_with(&[byte])) };
        let off = next == SHUTDOWN.len();
        state.shutdown = if off { 0 } else { next };
        drop(state);
        if off {
            self.0.power.request(PowerEvent::Off, "the test device");
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        POWER_MAP.for_write(offset).filter(|_| direction == Direction::Write).map(|row| row.name)
    }
}

device_state!(TestDev, SavedV1, state, then sync);
