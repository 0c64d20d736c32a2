//! An I/O APIC with 24 inputs.
//!
//! Spec: Intel 82093AA data sheet, order number 290566-001, with the EOI register and the messages
//! of the I/O Controller Hubs (ICH9, order number 316972-004), whose version, 0x20, it reports.
//!
//! ```text
//!   pins 0 to 23 ──► redirection table ──► MsiSink ──► local APICs
//!                            ▲ remote IRR cleared
//!                            └── EOI register ◄── driver
//!                            └── EoiSink      ◄── local APICs
//! ```
//!
//! Pin 0 is the 8259s' INTR on a PC, for a guest that wants it there as ExtINT.
//!
//! Deviation: the polarity bit is kept and not applied. A line that is high asks for an interrupt;
//! at which voltage the wire would be then is not modelled. KVM's model does the same
//! (KVM_CAP_X86_IOAPIC_POLARITY_IGNORED).
//!
//! Deviation: a level-triggered pin that is still asserted at the end of its interrupt asks for the
//! next one at once, and a driver that does not know the cause would do nothing else any more. After
//! [`regs::SUCCESSIVE_ENDS_MAX`] times in a row the pin pauses for [`regs::PAUSE_NS`], as KVM's and
//! QEMU's models do: on a real bus the messages take time, in which the guest makes progress. A change
//! of the pin or of its entry ends the pause.
//!
//! Deviation: the 82093AA rotates its arbitration ID with each message on the APIC bus. Messages
//! here travel on the system bus, where nobody arbitrates.

mod chip;
pub mod regs;
mod state;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Clock, Device, Direction, EoiSink, Handler, IoCx, LevelRoutes, Limits, LineSink, Msi, MsiSink,
    Rules, SaveState, Saved, Size, StateError, Timer, Wake,
};

use self::regs::{Indirect, MAP, MessageData, PAUSE_NS, PINS, Reg};
use self::state::SavedV2;
pub use self::state::State;

/// The I/O APIC on its board.
pub struct IoApic {
    // Wiring.
    messages: Arc<dyn MsiSink>,
    routes: Option<Arc<dyn LevelRoutes>>,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    // Book-keeping.
    /// What `routes` was told last.
    told: [Option<Msi>; PINS as usize],
    /// When the pause ends, if a pin pauses.
    pause_ends_ns: Option<u64>,
    // Everything a snapshot keeps.
    state: State,
}

impl IoApic {
    /// The chip after reset. `messages` are the local APICs; `routes`, if they have to be told
    /// whose EOIs to report.
    pub fn new(
        messages: Arc<dyn MsiSink>,
        routes: Option<Arc<dyn LevelRoutes>>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = clock.timer(me.clone());
            Self { messages, routes, clock, timer, inner: Mutex::default() }
        })
    }

    /// What the chip is doing now.
    pub fn state(&self) -> State {
        self.inner.lock().state.clone()
    }

    /// Drives input `pin`; pins past 23 do not exist.
    pub fn set_pin(&self, pin: u8, level: bool) {
        if pin >= PINS {
            return;
        }
        let mut inner = self.inner.lock();
        let rose = if inner.state.set_line(pin, level) { 1 << pin } else { 0 };
        self.sync(&mut inner, rose);
    }

    /// The end of a line at input `pin`. Make one [`trapline_device::Line`] of it and share that,
    /// as each is a wire of its own.
    pub fn pin(self: &Arc<Self>, pin: u8) -> impl LineSink + use<> {
        Pin { ioapic: Arc::clone(self), pin }
    }

    /// Derives the outputs from the state and the pins that have just risen: first which EOIs are
    /// waited for, then the messages, and how long to pause.
    fn sync(&self, inner: &mut Inner, rose: u32) {
        self.tell_routes(inner);
        for pin in 0..PINS {
            if let Some(message) = inner.state.take_message(pin, rose & 1 << pin != 0) {
                self.messages.send(message.address, message.data);
            }
        }
        self.set_timer(inner);
    }

    /// The first pin to pause begins the pause, and all end it together.
    fn set_timer(&self, inner: &mut Inner) {
        let pauses = inner.state.paused != 0;
        if pauses != inner.pause_ends_ns.is_some() {
            let ends = self.clock.now_ns().saturating_add(PAUSE_NS);
            inner.pause_ends_ns = pauses.then_some(ends);
            self.timer.arm(inner.pause_ends_ns);
        }
    }

    /// The processor that has an interrupt ends it, wherever the guest has turned the pin since: the
    /// route it took stays until then, unless its vector is no longer the one waited for.
    fn tell_routes(&self, inner: &mut Inner) {
        let Some(routes) = &self.routes else { return };
        for ((pin, told), entry) in (0..).zip(&mut inner.told).zip(&inner.state.entries) {
            let route = entry.level_route();
            let ends = |sent: Msi| MessageData::from_bits(sent.data).vector() == entry.vector();
            let awaited = entry.remote_irr() && told.is_some_and(ends);
            if *told != route && !awaited {
                *told = route;
                routes.set_level_route(pin, route);
            }
        }
    }
}

impl Wake for IoApic {
    fn wake(&self) {
        let now = self.clock.now_ns();
        let mut inner = self.inner.lock();
        if inner.pause_ends_ns.is_some_and(|ends| ends <= now) {
            inner.state.end_pause();
            self.sync(&mut inner, 0);
        }
    }
}

struct Pin {
    ioapic: Arc<IoApic>,
    pin: u8,
}

impl LineSink for Pin {
    fn set_level(&self, level: bool) {
        self.ioapic.set_pin(self.pin, level);
    }
}

impl EoiSink for IoApic {
    fn eoi(&self, vector: u8) {
        let mut inner = self.inner.lock();
        inner.state.eoi(vector);
        self.sync(&mut inner, 0);
    }
}

impl Handler for IoApic {
    fn read(&self, cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let inner = self.inner.lock();
        cx.reaches(|| register(&inner.state, offset, Direction::Read));
        u64::from(inner.state.read(offset))
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let Ok(value) = u32::try_from(value & Size::Dword.ones()) else { return };
        let mut inner = self.inner.lock();
        cx.reaches(|| register(&inner.state, offset, Direction::Write));
        inner.state.write(offset, value);
        self.sync(&mut inner, 0);
    }

    /// Registers are 32 bits wide, and the data sheet wants IOWIN accessed as such. Narrower
    /// accesses, which it allows for IOREGSEL, change their bytes of the 32 bits; no read has a
    /// side effect. Of 64 bits the lower half counts, as in KVM's model: nothing is behind it.
    fn rules(&self) -> Rules {
        let valid = Limits { min: Size::Byte, max: Size::Qword, unaligned: false };
        Rules { valid, handled: Limits::only(Size::Dword) }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        register(&self.inner.lock().state, offset, direction)
    }
}

/// The register that an access at `offset` reaches, by what is selected.
fn register(state: &State, offset: u64, direction: Direction) -> Option<&'static str> {
    let row = match direction {
        Direction::Read => MAP.for_read(offset),
        Direction::Write => MAP.for_write(offset),
    }?;
    Some(match row.reg {
        Reg::Window => Indirect::at(state.select).map_or(row.name, |indirect| indirect.name()),
        Reg::Select | Reg::Eoi => row.name,
    })
}

impl Device for IoApic {
    /// The inputs are other devices' and stay as they are.
    fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.state = State { lines: inner.state.lines, ..State::default() };
        self.sync(&mut inner, 0);
    }
}

impl SaveState for IoApic {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV2::from(&self.inner.lock().state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV2>()?)?;
        let mut inner = self.inner.lock();
        inner.state = restored;
        inner.pause_ends_ns = None;
        self.timer.arm(None);
        self.sync(&mut inner, 0);
        Ok(())
    }
}

impl std::fmt::Debug for IoApic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoApic").field("state", &self.inner.lock().state).finish_non_exhaustive()
    }
}
