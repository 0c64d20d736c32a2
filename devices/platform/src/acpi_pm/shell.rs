//! The power management registers as a device: the chip behind a lock, with an interrupt line, a
//! clock, and the machine's power.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Clock, Device, Direction, Handler, IoCx, Limits, Line, Power, PowerEvent, Rules, SaveState,
    Saved, Size, StateError, Timer, Wake,
};

use super::state::SavedV1;
use super::{Chip, State, TimerWidth};

/// The fixed hardware's three register blocks, one region of [`super::regs::WINDOW_LEN`] bytes.
pub struct AcpiPm {
    // Wiring.
    line: Line,
    clock: Arc<dyn Clock>,
    power: Arc<dyn Power>,
    timer: Box<dyn Timer>,
    inner: Mutex<Inner>,
}

struct Inner {
    // Book-keeping.
    /// The deadline the timer is set to.
    armed_ns: Option<u64>,
    chip: Chip,
}

impl AcpiPm {
    /// The registers after power-on. `line` is the system control interrupt (FADT `SCI_INT`);
    /// poweroff is asked of `power`.
    pub fn new(
        line: Line,
        clock: Arc<dyn Clock>,
        power: Arc<dyn Power>,
        width: TimerWidth,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = clock.timer(me.clone());
            let mut chip = Chip::new(width);
            chip.reset(clock.now_ns());
            let inner = Mutex::new(Inner { armed_ns: None, chip });
            Self { line, clock, power, timer, inner }
        })
    }

    /// The user has pressed the power button: PWRBTN_STS is set, and a guest that has enabled it
    /// is interrupted to shut down in order.
    pub fn press_power_button(&self) {
        let mut inner = self.inner.lock();
        inner.chip.press_power_button();
        self.sync(&mut inner);
    }

    /// Derives the line and the timer from the chip's state.
    fn sync(&self, inner: &mut Inner) {
        self.line.set(inner.chip.interrupt());
        let deadline_ns = inner.chip.next_change_ns();
        if deadline_ns != inner.armed_ns {
            inner.armed_ns = deadline_ns;
            self.timer.arm(deadline_ns);
        }
    }
}

impl Handler for AcpiPm {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut inner = self.inner.lock();
        let word = inner.chip.read(offset & !3, self.clock.now_ns());
        self.sync(&mut inner);
        u64::from(word) >> (8 * (offset & 3)) & size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let shift = 8 * (offset & 3);
        let [value, mask] =
            [value << shift, size.ones() << shift].map(|wide| u32::try_from(wide).unwrap_or(0));
        let mut inner = self.inner.lock();
        let off = inner.chip.write(offset & !3, value, mask, self.clock.now_ns());
        self.sync(&mut inner);
        drop(inner);
        if off {
            self.power.request(PowerEvent::Off, "the power management registers");
        }
    }

    /// Bytes upward, as writing a byte of PM1_STS must not write the byte next to it; 32 bits at
    /// once, as the timer may not move between its bytes.
    fn rules(&self) -> Rules {
        let handled = Limits { min: Size::Byte, max: Size::Dword, unaligned: false };
        Rules { valid: Limits::ANY, handled }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        Chip::register(offset, direction)
    }
}

impl Wake for AcpiPm {
    fn wake(&self) {
        let mut inner = self.inner.lock();
        inner.armed_ns = None;
        inner.chip.catch_up(self.clock.now_ns());
        self.sync(&mut inner);
    }
}

impl Device for AcpiPm {
    fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.chip.reset(self.clock.now_ns());
        self.sync(&mut inner);
    }
}

impl SaveState for AcpiPm {
    fn save(&self) -> Saved {
        let mut inner = self.inner.lock();
        inner.chip.catch_up(self.clock.now_ns());
        self.sync(&mut inner);
        Saved::encode(&SavedV1::from(&inner.chip.state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = State::try_from(saved.decode::<SavedV1>()?)?;
        let mut inner = self.inner.lock();
        let now_ns = self.clock.now_ns();
        let past = state.timer_changes <= inner.chip.timer_changes(now_ns);
        StateError::check::<SavedV1>(past, "the timer has changed in the past")?;
        inner.chip.state = state;
        inner.chip.catch_up(now_ns);
        self.sync(&mut inner);
        Ok(())
    }
}

impl std::fmt::Debug for AcpiPm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcpiPm").field("chip", &self.inner.lock().chip).finish_non_exhaustive()
    }
}
