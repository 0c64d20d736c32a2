//! Test doubles for the device contract: a clock that is stepped, a line that is watched, and the
//! driver's side of an access; a guest that is shown pages of registers; a virtio driver; and small guests for real processors. For tests only.

#![forbid(unsafe_code)]

pub mod mirror;

pub mod ninep;

pub mod storm;

pub mod realmode;

pub mod saved;

pub mod virtio;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_backends::NoQueuedWrites;
pub use trapline_backends::PolledLoop;
use trapline_device::{
    CharBackend, Clock, Direction, Handler, IoCx, Line, LineSink, NoRegions, Power, PowerEvent,
    Requester, Size, Timer, Wake,
};

/// An event loop that is turned by hand.
///
/// # Panics
/// When the host has no descriptor left.
pub fn event_loop() -> Arc<PolledLoop> {
    PolledLoop::new(NoQueuedWrites).unwrap_or_else(|error| panic!("no event loop: {error}"))
}

/// A clock that stands still until [`TestClock::step_ns`]. Clones are the same clock.
#[derive(Clone, Default)]
pub struct TestClock(Arc<ClockInner>);

#[derive(Default)]
struct ClockInner {
    now_ns: AtomicU64,
    utc_start_ns: AtomicU64,
    next_timer: AtomicU64,
    timers: Mutex<BTreeMap<u64, Armed>>,
}

#[derive(Clone)]
struct Armed {
    deadline_ns: Option<u64>,
    target: Weak<dyn Wake>,
}

impl TestClock {
    /// A clock that reads `utc_ns` after the epoch at machine time 0.
    pub fn starting_at(utc_ns: u64) -> Self {
        let clock = Self::default();
        clock.0.utc_start_ns.store(utc_ns, Ordering::Relaxed);
        clock
    }

    /// Moves time on, stopping at each deadline on the way to wake its target.
    pub fn step_ns(&self, ns: u64) {
        let end = self.now_ns().saturating_add(ns);
        while let Some((deadline, target)) = self.take_next(end) {
            self.0.now_ns.fetch_max(deadline, Ordering::Relaxed);
            if let Some(target) = target.upgrade() {
                target.wake();
            }
        }
        self.0.now_ns.store(end, Ordering::Relaxed);
    }

    /// The earliest armed deadline, if any.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.0.timers.lock().values().filter_map(|timer| timer.deadline_ns).min()
    }

    fn take_next(&self, end: u64) -> Option<(u64, Weak<dyn Wake>)> {
        let mut timers = self.0.timers.lock();
        let due = timers
            .values_mut()
            .filter(|timer| timer.deadline_ns.is_some_and(|deadline| deadline <= end))
            .min_by_key(|timer| timer.deadline_ns)?;
        Some((due.deadline_ns.take()?, Weak::clone(&due.target)))
    }
}

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        self.0.now_ns.load(Ordering::Relaxed)
    }

    fn utc_ns(&self) -> u64 {
        self.0.utc_start_ns.load(Ordering::Relaxed) + self.now_ns()
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        let id = self.0.next_timer.fetch_add(1, Ordering::Relaxed);
        self.0.timers.lock().insert(id, Armed { deadline_ns: None, target });
        Box::new(TestTimer { clock: self.clone(), id })
    }
}

struct TestTimer {
    clock: TestClock,
    id: u64,
}

impl Timer for TestTimer {
    fn arm(&self, deadline_ns: Option<u64>) {
        if let Some(timer) = self.clock.0.timers.lock().get_mut(&self.id) {
            timer.deadline_ns = deadline_ns;
        }
    }
}

impl Drop for TestTimer {
    fn drop(&mut self) {
        self.clock.0.timers.lock().remove(&self.id);
    }
}

/// A line a test watches. Clones watch the same line.
#[derive(Clone, Default, Debug)]
pub struct TestLine(Arc<LineInner>);

#[derive(Default, Debug)]
struct LineInner {
    level: AtomicBool,
    rises: AtomicU64,
}

impl TestLine {
    /// The end a device holds.
    pub fn line(&self) -> Line {
        Line::new(self.clone())
    }

    /// The level now.
    pub fn level(&self) -> bool {
        self.0.level.load(Ordering::Relaxed)
    }

    /// How often the line went from low to high.
    pub fn rises(&self) -> u64 {
        self.0.rises.load(Ordering::Relaxed)
    }
}

impl LineSink for TestLine {
    fn set_level(&self, level: bool) {
        if level && !self.0.level.swap(level, Ordering::Relaxed) {
            self.0.rises.fetch_add(1, Ordering::Relaxed);
        }
        self.0.level.store(level, Ordering::Relaxed);
    }
}

/// A terminal a test reads and types on. Clones are the same terminal.
#[derive(Clone, Debug)]
pub struct TestTerminal(Arc<Mutex<TerminalInner>>);

#[derive(Debug)]
struct TerminalInner {
    screen: Vec<u8>,
    typed: VecDeque<u8>,
    room: usize,
}

impl Default for TestTerminal {
    fn default() -> Self {
        let inner = TerminalInner { screen: Vec::new(), typed: VecDeque::new(), room: usize::MAX };
        Self(Arc::new(Mutex::new(inner)))
    }
}

impl TestTerminal {
    /// Queues characters for the device; call its `poll` afterwards, as a backend would.
    pub fn type_in(&self, keys: &[u8]) {
        self.0.lock().typed.extend(keys);
    }

    /// What was typed and not taken by the device yet.
    pub fn waiting(&self) -> Vec<u8> {
        self.0.lock().typed.iter().copied().collect()
    }

    /// Everything the device has sent.
    pub fn screen(&self) -> Vec<u8> {
        self.0.lock().screen.clone()
    }

    /// Forgets what the device has sent.
    pub fn clear(&self) {
        self.0.lock().screen.clear();
    }

    /// Accepts only `room` more characters.
    pub fn set_room(&self, room: usize) {
        self.0.lock().room = room;
    }
}

impl CharBackend for TestTerminal {
    fn transmit(&self, data: &[u8]) -> usize {
        let mut inner = self.0.lock();
        let taken = data.len().min(inner.room);
        inner.room -= taken;
        inner.screen.extend(data.iter().take(taken));
        taken
    }

    fn room(&self) -> usize {
        self.0.lock().room
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        let typed = &mut self.0.lock().typed;
        let count = buf.len().min(typed.len());
        buf.iter_mut().zip(typed.drain(..count)).for_each(|(to, from)| *to = from);
        count
    }
}

/// Remembers what the guest asked of the machine. Clones share the memory.
#[derive(Clone, Debug, Default)]
pub struct TestPower(Arc<Mutex<Vec<PowerEvent>>>);

impl TestPower {
    /// Every request so far, oldest first.
    pub fn events(&self) -> Vec<PowerEvent> {
        self.0.lock().clone()
    }
}

impl Power for TestPower {
    fn request(&self, event: PowerEvent, _device: &'static str) {
        self.0.lock().push(event);
    }
}

/// Says that a test cannot run here and why; the test then returns. The test runner lists it as
/// skipped. `name` is the test's own.
pub fn skip(name: &str, reason: &str) {
    eprintln!("SKIPPED {name}: {reason}");
}

/// The context of an access that no registry dispatched.
pub const CX: IoCx<'static> = IoCx::new(Requester::Vcpu(0), &NoRegions);

/// Makes an access, a write if there is a `value`; returns the name of its register. For devices
/// whose names depend on their state.
///
/// # Panics
/// The device does not say with the access, or says a name that is not the one that the register had
/// before: a report that is made later could name another one.
#[track_caller]
pub fn named(
    device: &dyn Handler,
    offset: u64,
    size: Size,
    value: Option<u64>,
) -> Option<&'static str> {
    let direction = if value.is_some() { Direction::Write } else { Direction::Read };
    let told = Cell::new(None);
    let cx = CX.with_register(&told);
    let name = device.register(offset, direction);
    match value {
        Some(value) => device.write(&cx, offset, size, value),
        None => _ = device.read(&cx, offset, size),
    }
    assert_eq!(told.get(), name, "{direction:?} at {offset:#x}");
    name
}

/// A guest's `inb` at `offset` of `device`.
#[expect(clippy::cast_possible_truncation, reason = "a byte access has eight bits")]
pub fn inb(device: &dyn Handler, offset: u64) -> u8 {
    device.read(&CX, offset, Size::Byte) as u8
}

/// A guest's `outb` at `offset` of `device`.
pub fn outb(device: &dyn Handler, offset: u64, value: u8) {
    device.write(&CX, offset, Size::Byte, u64::from(value));
}
