//! The recorder: what was done to the devices, in rings of 16-byte records, one ring a stream.
//!
//! ```text
//!   vCPU 0's handle ──► ring ─┐
//!   vCPU 1's handle ──► ring ─┤   the last accesses, for reports     ([`Mode::Flight`])
//!   queued writes ────► ring ─┼─► or all of them, for who takes them ([`Mode::Lossless`])
//!   events ───────────► ring ─┘
//! ```
//!
//! An access is stamped once, when it begins; that is the time for the devices it reaches
//! ([`trapline_access::Stamp`]). For reports it is stamped with a counter, where that costs less than
//! the time ([`AccessClock::counter`]), and a device that asks what time it is has the time taken
//! then. In a lossless recording one step (an access, or an event from outside
//! of the guest) is made at a time and no two have the same stamp, so that the order of all streams
//! together is that of the stamps: whoever replays it needs nothing else. The one exception are
//! writes out of the source's queue, which have the stamp of the step that delivered them, and come
//! before it.

mod follow;
pub(crate) mod names;
pub(crate) mod ring;
pub(crate) mod slots;
pub(crate) mod tape;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use trapline_access::record::{Op, Record, TICK_NS};
use trapline_access::{AccessClock, Stamp};

use crate::recorder::names::Names;
use crate::recorder::ring::Ring;
use crate::recorder::slots::Slots;
use crate::recorder::tape::Track;

pub use follow::{Followed, Follower};
pub use slots::{Slot, SlotRegion};

/// What is kept of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The last 4096 of each stream, for reports.
    Flight,
    /// All of them: somebody takes them ([`Recorder::take`]), and who is faster waits.
    Lossless,
}

impl Mode {
    /// Records of one ring.
    const fn records(self) -> usize {
        match self {
            Self::Flight => 4 << 10,
            Self::Lossless => 64 << 10,
        }
    }
}

/// Whose records a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// Writes out of the source's queue, which does not say whose they are.
    Queued,
    /// What happened outside of the guest, inputs and outputs.
    Events,
    /// A vCPU's accesses, by its index.
    Vcpu(u32),
}

/// What one stream has recorded since it was last taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The stream.
    pub stream: StreamId,
    /// Machine time in nanoseconds that the first record's delta counts from.
    pub since_ns: u64,
    /// Its records and their data.
    pub words: Vec<[u64; 2]>,
}

/// The recorder of a registry: see [`crate::Registry::start_recorder`].
pub struct Recorder {
    clock: Arc<dyn AccessClock>,
    mode: Mode,
    /// What stamps are read from, if not the clock.
    counter: Option<Counter>,
    /// In a lossless recording the turn of whoever makes a step, and the last step's stamp.
    turn: ReentrantMutex<Cell<u64>>,
    slots: Slots,
    names: Names,
    /// One a vCPU, and those of [`StreamId::Events`] and [`StreamId::Queued`].
    streams: Mutex<Vec<Arc<Stream>>>,
    events: Arc<Stream>,
    /// The queue's. Whoever has the turn to deliver takes it out meanwhile.
    pub(crate) queued: Mutex<Option<Box<Track>>>,
    /// Who is to be woken when a ring is half full.
    drainer: OnceLock<Thread>,
    /// How many followers there are.
    followers: AtomicUsize,
    /// How many of them are told how long accesses took.
    timed_followers: AtomicUsize,
}

/// A counter that stamps accesses, and a moment by which its counts are told in nanoseconds.
struct Counter {
    read: fn() -> u64,
    start: u64,
    start_ns: u64,
}

impl Counter {
    fn start(clock: &dyn AccessClock, read: fn() -> u64) -> Self {
        Self { read, start: read(), start_ns: clock.stamp_ns() }
    }

    /// Begins a step or goes on with the thread's.
    #[inline]
    fn step(&self) -> Step<'static> {
        if let Some(at) = Stamp::count() {
            return Step { at, _stamp: None, _turn: None };
        }
        let at = (self.read)();
        Step { at, _stamp: Some(Stamp::begin_deferred(at)), _turn: None }
    }

    /// The time from `count` to now.
    fn ns_since(&self, clock: &dyn AccessClock, count: u64) -> u64 {
        self.span_ns(clock, (self.read)().saturating_sub(count))
    }

    /// How long `counts` are. Of the two clocks only the rate is compared, as they are not read at the
    /// same moment.
    fn span_ns(&self, clock: &dyn AccessClock, counts: u64) -> u64 {
        let whole = u128::from((self.read)().saturating_sub(self.start).max(1));
        let whole_ns = u128::from(clock.stamp_ns().saturating_sub(self.start_ns));
        u64::try_from(u128::from(counts) * whole_ns / whole).unwrap_or(u64::MAX)
    }

    /// Machine time of `count`, on the line from the start to now: the counter does not stop where
    /// the machine is paused.
    fn ns(&self, clock: &dyn AccessClock, count: u64) -> u64 {
        let whole = (self.read)().saturating_sub(self.start).max(1);
        let whole_ns = clock.stamp_ns().saturating_sub(self.start_ns);
        let part = count.saturating_sub(self.start).min(whole);
        let part_ns = u128::from(part) * u128::from(whole_ns) / u128::from(whole);
        self.start_ns.saturating_add(u64::try_from(part_ns).unwrap_or(u64::MAX))
    }
}

/// One stream's ring.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) ring: Ring,
    /// Whether a handle writes to it.
    taken: AtomicBool,
    /// Machine time of the last record that was taken.
    taken_ns: Mutex<u64>,
    /// How long accesses took whose records have these numbers, while a follower is told.
    times: Mutex<Vec<(u64, u64)>>,
}

/// One access in so many is timed.
const TIMED: u64 = 64;
/// So many times wait for followers at most.
const TIMES_MAX: usize = 1024;

impl Stream {
    fn new(id: StreamId, mode: Mode) -> Arc<Self> {
        let records = match (id, mode) {
            // Nobody writes there: see [`Recorder::event`].
            (StreamId::Events, Mode::Flight) => 1,
            _ => mode.records(),
        };
        let ring = Ring::new(records, mode == Mode::Lossless);
        let (taken, taken_ns, times) = Default::default();
        Arc::new(Self { id, ring, taken, taken_ns, times })
    }

    /// Notes how long the access took that record `number` is of, if it is one of those that are timed.
    #[inline]
    pub(crate) fn time(&self, recorder: &Recorder, number: u64, began: u64) {
        if number.is_multiple_of(TIMED) && recorder.is_timed() {
            self.time_now(recorder, number, began);
        }
    }

    #[cold]
    fn time_now(&self, recorder: &Recorder, number: u64, began: u64) {
        let took = recorder.ns_since(began);
        let mut times = self.times.lock();
        if times.len() < TIMES_MAX {
            times.push((number, took));
        }
    }

    /// Lets another handle have it.
    pub(crate) fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

/// Something that is done to devices now: an access, or an event from outside of the guest. While it
/// lasts its stamp is the time for the devices that the thread calls, and in a lossless recording no
/// other step is made.
pub struct Step<'a> {
    /// As [`Step::at_ns`], or a count of the recorder's counter.
    at: u64,
    _stamp: Option<Stamp>,
    /// Given back last.
    _turn: Option<ReentrantMutexGuard<'a, Cell<u64>>>,
}

impl Step<'_> {
    /// In a lossless recording its stamp: nanoseconds of machine time, a multiple of [`TICK_NS`].
    pub fn at_ns(&self) -> u64 {
        self.at
    }
}

impl Recorder {
    pub(crate) fn new(clock: Arc<dyn AccessClock>, mode: Mode) -> Arc<Self> {
        let events = Stream::new(StreamId::Events, mode);
        let queued = Stream::new(StreamId::Queued, mode);
        let streams = Mutex::new(vec![Arc::clone(&queued), Arc::clone(&events)]);
        // A recording has the time that devices were told.
        let counter = clock.counter().filter(|_| mode == Mode::Flight);
        Arc::new(Self {
            counter: counter.map(|read| Counter::start(&*clock, read)),
            clock,
            mode,
            turn: ReentrantMutex::default(),
            slots: Slots::default(),
            names: Names::default(),
            streams,
            events,
            queued: Mutex::new(Some(Box::new(Track::new(queued)))),
            drainer: OnceLock::new(),
            followers: AtomicUsize::new(0),
            timed_followers: AtomicUsize::new(0),
        })
    }

    /// What is kept.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A stream for a handle of this vCPU.
    pub(crate) fn stream(&self, vcpu: u32) -> Arc<Stream> {
        let id = StreamId::Vcpu(vcpu);
        let mut streams = self.streams.lock();
        let mut own = streams.iter().filter(|stream| stream.id == id);
        let free = own.find(|stream| !stream.taken.swap(true, Ordering::AcqRel)).cloned();
        free.unwrap_or_else(|| {
            let stream = Stream::new(id, self.mode);
            stream.taken.store(true, Ordering::Relaxed);
            streams.push(Arc::clone(&stream));
            stream
        })
    }

    /// Begins a step, or, in the middle of one of this thread's, goes on with that. In a lossless
    /// recording it waits for the step that another thread is making, so the caller must hold no
    /// lock that a device takes.
    #[inline]
    pub fn step(&self) -> Step<'_> {
        match &self.counter {
            Some(counter) => counter.step(),
            None => self.timed_step(),
        }
    }

    #[inline(never)]
    fn timed_step(&self) -> Step<'_> {
        if let Some(at) = Stamp::in_force() {
            return Step { at, _stamp: None, _turn: None };
        }
        let turn = (self.mode == Mode::Lossless).then(|| self.turn.lock());
        // Upwards, so that what was due before is due.
        let mut at_ns = self.clock.stamp_ns().saturating_add(TICK_NS - 1) & !(TICK_NS - 1);
        if let Some(last) = &turn {
            at_ns = at_ns.max(last.get() + TICK_NS);
            last.set(at_ns);
        }
        Step { at: at_ns, _stamp: Some(Stamp::begin(at_ns)), _turn: turn }
    }

    /// How long ago a step began that has this stamp, in nanoseconds.
    fn ns_since(&self, at: u64) -> u64 {
        match &self.counter {
            Some(counter) => counter.ns_since(&*self.clock, at),
            None => self.clock.stamp_ns().saturating_sub(at),
        }
    }

    /// Machine time of a step's stamp, in nanoseconds.
    pub(crate) fn ns_of(&self, at: u64) -> u64 {
        self.counter.as_ref().map_or(at, |counter| counter.ns(&*self.clock, at))
    }

    /// How long so many ticks of its records are, in nanoseconds.
    pub fn ticks_to_ns(&self, ticks: u64) -> u64 {
        let count = ticks.saturating_mul(TICK_NS);
        match &self.counter {
            Some(counter) => counter.span_ns(&*self.clock, count),
            None => count,
        }
    }

    /// How long ago the last record of a stream was made, in nanoseconds; nothing, if there was none.
    pub fn quiet_ns(&self, stream: StreamId) -> Option<u64> {
        let streams = self.streams.lock();
        let own = streams.iter().filter(|one| one.id == stream);
        let last =
            own.filter(|stream| stream.ring.written() > 0).map(|one| one.ring.last_ns()).max();
        last.map(|at| self.ns_since(at))
    }

    /// Records what is no access, with the stamp of `step`, in the stream of events. In a lossless
    /// recording only.
    pub fn event(&self, step: &Step<'_>, op: Op, slot: u16, offset: u16, value: u64) {
        if self.mode == Mode::Lossless {
            // Writers take turns: this one is `step`'s.
            let _turn = self.turn.lock();
            let record = Record { op, slot, offset, delta: 0, value };
            let (_, half) = self.events.ring.push(step.at, record, &[], || self.hurry());
            if half {
                self.hurry();
            }
        }
    }

    /// The slots there are, from number `first` on.
    pub fn slots(&self, first: usize) -> Vec<Slot> {
        self.slots.since(first)
    }

    /// Has `thread` unparked when there is much to take.
    pub fn wake_when_filling(&self, thread: Thread) {
        let _ = self.drainer.set(thread);
    }

    pub(crate) fn hurry(&self) {
        if let Some(thread) = self.drainer.get() {
            thread.unpark();
        }
    }

    /// Reads records as they are written, beside whoever takes them, with how long their handlers took. Each
    /// of those times is one follower's: there should be one of this kind.
    pub fn follow(self: &Arc<Self>) -> Follower {
        Follower::new(Arc::clone(self), true)
    }

    /// Reads records as they are written, beside whoever takes them and whoever else follows.
    pub fn follow_untimed(self: &Arc<Self>) -> Follower {
        Follower::new(Arc::clone(self), false)
    }

    /// Takes what was recorded since the last call, of all streams up to one and the same moment:
    /// between two steps, or in the middle of one that waits for room. Streams without anything new are not among them, and
    /// [`StreamId::Events`] is last. One thread takes.
    pub fn take(&self) -> Vec<Taken> {
        let streams: Vec<_> = self.streams.lock().clone();
        let ends = {
            let _still = self.stand_still(&streams);
            ends(&streams)
        };
        take_up_to(&streams, &ends)
    }

    /// As [`Recorder::take`], between two steps, and then calls `look` in a step of its own: what was taken is
    /// all that happened before it. None, if there is no such moment now, as a step waits for room.
    ///
    /// Nobody makes room meanwhile: there is some for what `look` records itself, as all was taken, but not
    /// for more than a ring has.
    pub fn take_and_look<R>(&self, look: impl FnOnce(&Step<'_>) -> R) -> Option<(Vec<Taken>, R)> {
        let streams: Vec<_> = self.streams.lock().clone();
        let _still = self.stand_still(&streams)?;
        let taken = take_up_to(&streams, &ends(&streams));
        let seen = look(&self.step());
        Some((taken, seen))
    }

    /// Has nobody record anything: waits for the end of the step that is being made, unless that
    /// waits itself.
    fn stand_still(&self, streams: &[Arc<Stream>]) -> Option<ReentrantMutexGuard<'_, Cell<u64>>> {
        const NOW_AND_THEN: Duration = Duration::from_millis(1);
        loop {
            if let Some(turn) = self.turn.try_lock_for(NOW_AND_THEN) {
                return Some(turn);
            }
            if streams.iter().any(|stream| stream.ring.is_waited_for()) {
                return None;
            }
        }
    }

    /// Nobody takes any more: what comes is forgotten, and nobody waits.
    pub fn give_up(&self) {
        self.streams.lock().iter().for_each(|stream| stream.ring.overwrite());
    }

    /// How often somebody had to wait for room in a ring.
    pub fn waits(&self) -> u64 {
        self.streams.lock().iter().map(|stream| stream.ring.waits()).sum()
    }

    /// Whether somebody reads records as they are written.
    #[inline]
    pub(crate) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    /// Whether somebody is told how long accesses take.
    #[inline]
    fn is_timed(&self) -> bool {
        self.timed_followers.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn slot_table(&self) -> &Slots {
        &self.slots
    }
}

/// Where each stream ends now: how many records it has, and the last one's time.
fn ends(streams: &[Arc<Stream>]) -> Vec<(u64, u64)> {
    let end = |stream: &Arc<Stream>| (stream.ring.written(), stream.ring.last_ns());
    streams.iter().map(end).collect()
}

/// Takes what streams have up to their `ends`.
fn take_up_to(streams: &[Arc<Stream>], ends: &[(u64, u64)]) -> Vec<Taken> {
    let mut all = Vec::new();
    for (stream, &(end, end_ns)) in streams.iter().zip(ends) {
        let mut words = Vec::new();
        stream.ring.take(end, &mut words);
        let since_ns = std::mem::replace(&mut *stream.taken_ns.lock(), end_ns);
        if !words.is_empty() {
            all.push(Taken { stream: stream.id, since_ns, words });
        }
    }
    all.sort_by_key(|taken| (taken.stream == StreamId::Events, taken.stream));
    all
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("mode", &self.mode).finish_non_exhaustive()
    }
}
