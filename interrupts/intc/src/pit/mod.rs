//! The 8254 interval timer.
//!
//! Spec: Intel 8254 data sheet, order number 231164-005; its sections are cited by name.
//!
//! ```text
//!   Clock, 1.193182 MHz ─┬─► counter 0 ── OUT ──► Line (the timer interrupt)
//!                        ├─► counter 1           (once refreshed the memory)
//!   gate2(), port 0x61 ──┴─► counter 2 ── OUT ──► output2(), port 0x61 and the speaker
//! ```
//!
//! CLK pulse number n falls where the machine's clock, in whole pulses since its start, reaches n;
//! so no pulse is ever early, late or lost, however long nobody looks. Counters are brought up to
//! date when somebody does.

mod channel;
mod count;
pub mod regs;
mod state;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Clock, Device, Direction, Handler, IoCx, Line, Rules, SaveState, Saved, Size, StateError,
    Timer, Wake,
};

use self::regs::{CHANNELS, Control, LATCH, MAP, PIT_HZ, READ_BACK, ReadBack, Reg};
use self::state::SavedV1;
pub use self::state::{Channel, Phase, State};

const NS_PER_SECOND: u128 = 1_000_000_000;

impl State {
    /// Lets `clocks` pulses pass. Returns whether counter 0's OUT has risen meanwhile.
    fn advance(&mut self, clocks: u64) -> bool {
        let [zero, one, two] = &mut self.channels;
        one.advance(clocks);
        two.advance(clocks);
        zero.advance(clocks)
    }

    fn read(&mut self, offset: u64) -> u8 {
        match MAP.for_read(offset).map(|row| row.reg) {
            Some(Reg::Counter(index)) => self.channels.get_mut(index).map_or(0xff, Channel::read),
            Some(Reg::Control) | None => 0xff,
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        match MAP.for_write(offset).map(|row| row.reg) {
            Some(Reg::Counter(index)) => {
                if let Some(channel) = self.channels.get_mut(index) {
                    channel.write(value);
                }
            }
            Some(Reg::Control) => self.command(value),
            None => {}
        }
    }

    fn command(&mut self, value: u8) {
        let control = Control::from_bits(value);
        if control.sc() == READ_BACK {
            return self.read_back(ReadBack::from_bits(value));
        }
        if let Some(channel) = self.channels.get_mut(usize::from(control.sc())) {
            match control.rw() {
                LATCH => channel.latch_count(),
                _ => channel.program(control),
            }
        }
    }

    /// "Read-back command" (figure 10).
    fn read_back(&mut self, command: ReadBack) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if command.counters() & 1 << index == 0 {
                continue;
            }
            if !command.no_count() {
                channel.latch_count();
            }
            if !command.no_status() {
                channel.latch_status();
            }
        }
    }

    const fn channel0(&self) -> &Channel {
        let [zero, _, _] = &self.channels;
        zero
    }

    const fn channel2(&mut self) -> &mut Channel {
        let [_, _, two] = &mut self.channels;
        two
    }
}

/// CLK pulses since the machine was started.
fn clocks_at(now_ns: u64) -> u64 {
    let clocks = u128::from(now_ns) * u128::from(PIT_HZ) / NS_PER_SECOND;
    u64::try_from(clocks).unwrap_or(u64::MAX)
}

/// The first nanosecond at which `clocks` pulses have happened.
fn ns_of(clocks: u64) -> u64 {
    let ns = (u128::from(clocks) * NS_PER_SECOND).div_ceil(u128::from(PIT_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// The timer on its board: four ports.
pub struct Pit {
    // Wiring.
    irq: Option<Line>,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    inner: Mutex<Inner>,
}

struct Inner {
    // Book-keeping.
    /// The pulse the state is as of.
    clocks: u64,
    /// The deadline the timer is set to.
    armed_ns: Option<u64>,
    // Everything a snapshot keeps.
    state: State,
}

impl Pit {
    /// The timer after power-on. `irq` is what counter 0's output drives; without it, nothing is
    /// ever waited for.
    pub fn new(irq: Option<Line>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = clock.timer(me.clone());
            let clocks = clocks_at(clock.now_ns());
            let inner = Inner { clocks, armed_ns: None, state: State::default() };
            Self { irq, clock, timer, inner: Mutex::new(inner) }
        })
    }

    /// Drives the gate of counter 2 (bit 0 of port 0x61). Low at power-on.
    pub fn gate2(&self, level: bool) {
        self.with(|state| state.channel2().set_gate(level));
    }

    /// The output of counter 2 (bit 5 of port 0x61).
    pub fn output2(&self) -> bool {
        self.with(|state| state.channel2().out)
    }

    /// Brings the counters up to date, does `access`, and drives the outputs.
    fn with<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.inner.lock();
        self.catch_up(&mut inner);
        let result = access(&mut inner.state);
        self.sync(&mut inner);
        result
    }

    /// Lets all the pulses happen that have happened by now.
    fn catch_up(&self, inner: &mut Inner) {
        let now = clocks_at(self.clock.now_ns()).max(inner.clocks);
        let rose = inner.state.advance(now - inner.clocks);
        inner.clocks = now;
        // Edges that came and went while nobody looked become one: that is all an interrupt
        // controller could remember of them.
        if let Some(irq) = &self.irq
            && rose
        {
            irq.set(false);
            irq.set(true);
        }
    }

    /// Derives the interrupt and the timer from the state.
    fn sync(&self, inner: &mut Inner) {
        let Some(irq) = &self.irq else { return };
        let channel = inner.state.channel0();
        irq.set(channel.out);
        let deadline_ns =
            channel.next_change().map(|clocks| ns_of(inner.clocks.saturating_add(clocks)));
        if deadline_ns != inner.armed_ns {
            inner.armed_ns = deadline_ns;
            self.timer.arm(deadline_ns);
        }
    }
}

impl Handler for Pit {
    fn read(&self, cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        u64::from(self.with(|state| {
            cx.reaches(|| register(state, offset, Direction::Read));
            state.read(offset)
        }))
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let [byte, ..] = value.to_le_bytes();
        self.with(|state| {
            cx.reaches(|| register(state, offset, Direction::Write));
            state.write(offset, byte);
        });
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        register(&self.inner.lock().state, offset, direction)
    }
}

/// The register that an access at `offset` reaches, by what is latched.
fn register(state: &State, offset: u64, direction: Direction) -> Option<&'static str> {
    let row = match direction {
        Direction::Read => MAP.for_read(offset),
        Direction::Write => MAP.for_write(offset),
    }?;
    match (row.reg, direction) {
        (Reg::Counter(index), Direction::Read) => {
            let status = state.channels.get(index)?.latched_status;
            Some(if status.is_some() { "STATUS" } else { row.name })
        }
        _ => Some(row.name),
    }
}

impl Wake for Pit {
    fn wake(&self) {
        let mut inner = self.inner.lock();
        inner.armed_ns = None;
        self.catch_up(&mut inner);
        self.sync(&mut inner);
    }
}

impl Device for Pit {
    /// The gates are inputs and stay as they are.
    fn reset(&self) {
        self.with(|state| {
            let gates: [bool; CHANNELS] = state.channels.map(|channel| channel.gate);
            *state = State::default();
            state.channels.iter_mut().zip(gates).for_each(|(channel, gate)| channel.gate = gate);
        });
    }
}

impl SaveState for Pit {
    fn save(&self) -> Saved {
        self.with(|state| Saved::encode(&SavedV1::from(&*state)))
    }

    /// Goes on counting at the next pulse of this machine's clock.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV1>()?)?;
        let mut inner = self.inner.lock();
        // What the counters did until now has never happened.
        inner.clocks = clocks_at(self.clock.now_ns());
        inner.state = restored;
        self.sync(&mut inner);
        Ok(())
    }
}

impl std::fmt::Debug for Pit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pit").field("state", &self.inner.lock().state).finish_non_exhaustive()
    }
}
