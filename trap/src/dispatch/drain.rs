//! Delivery of coalesced writes: from the source's queue to their handlers, in order, by one thread
//! at a time.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::ReentrantMutexGuard;
use trapline_access::record::{self, Op};
use trapline_access::{ChannelRef, Direction, IoCx, QUEUED_WRITES_MAX, Requester, Size, Window};

use crate::core::Core;
use crate::counters::mark;
use crate::delivery::coalesced::Reclaimed;
use crate::delivery::forward::Forwarder;
use crate::delivery::offload::CoalescedWrite;
use crate::dispatch::Handle;
use crate::dispatch::bytes::Bytes;
use crate::dispatch::progress::Progress;
use crate::dispatch::split::Kind;
use crate::dispatch::width;
use crate::recorder::tape::{self, Track};
use crate::recorder::{Recorder, Step};
use crate::region::Entry;
use crate::watch::{Made, Outcome, Witness};

impl Handle {
    /// Delivers every coalesced write made so far, by any vCPU, in order. When this returns they
    /// have all reached their handlers, whichever thread delivered them. Waits for that thread, so
    /// the caller must hold no lock that a handler takes.
    #[inline]
    pub fn drain(&mut self) {
        if self.core.anything_queued() {
            self.drain_queue();
        }
    }

    #[cold]
    fn drain_queue(&mut self) {
        let core = Arc::clone(&self.core);
        // Before the turn to deliver: a step may deliver.
        let step = core.recorder.get().map(|recorder| recorder.step());
        let turn = core.coalesced.turn.lock();
        self.deliver_all(&core, turn, step.as_ref());
    }

    /// Delivers what is queued unless another thread is at it. For devices, which may hold a lock
    /// that the other thread is waiting for.
    pub(crate) fn drain_unless_busy(&mut self) {
        if self.core.anything_queued() {
            let core = Arc::clone(&self.core);
            // A device makes this in the middle of a step, and never has to wait for one.
            let step = core.recorder.get().map(|recorder| recorder.step());
            if let Some(turn) = core.coalesced.turn.try_lock() {
                self.deliver_all(&core, turn, step.as_ref());
            }
        }
    }

    fn deliver_all(
        &mut self,
        core: &Core,
        turn: ReentrantMutexGuard<'_, Cell<bool>>,
        step: Option<&Step<'_>>,
    ) {
        if turn.replace(true) {
            // A handler that is being delivered to makes an access itself: what is queued behind
            // its write stays behind it.
            return;
        }
        let _delivering = Delivering::new(&turn, &core.coalesced.delivering);
        // What edits took out of the source, and as much as the source can have had: not what the
        // guest goes on queueing meanwhile, which could hold us without end.
        let most = core.coalesced.queue.lock().len() + QUEUED_WRITES_MAX;
        let mut batch = Batch::new(core, step);
        for _ in 0..most {
            if !self.deliver_next(core, &mut batch) {
                break;
            }
        }
    }

    /// The oldest queued write: to the region it was made to if an edit remembered that, or to
    /// whoever has the address. Whether there was one.
    fn deliver_next(&mut self, core: &Core, batch: &mut Batch<'_>) -> bool {
        // An edit takes what was queued out of the source before it publishes, under this lock. So
        // a write that is still in the source was made to a region that is still in the snapshot,
        // and it is looked up before an edit can have the lock: after that it would be lost.
        let mut queue = core.coalesced.queue.lock();
        self.reader.look(&core.published);
        let marker = self.reader.marker();
        let (generation, snapshot) = (self.reader.generation(), self.reader.snapshot());
        let Some((write, before)) = core.next_coalesced(&mut queue) else { return false };
        // An edit may have taken it out of the map.
        let entry = before.as_ref().or_else(|| snapshot.find(write.space, write.addr));
        let generation = before.is_none().then_some(generation);
        let whole = entry.and_then(|entry| Some((entry, Way::of(entry, &write)?)));
        if let Some((entry, _)) = whole {
            marker.found(mark(entry.number()));
        }
        drop(queue);
        let Some((entry, way)) = whole else {
            drop(marker);
            // The access that comes after it may have been interrupted before.
            let progress = std::mem::take(&mut self.progress);
            self.parts(write.space, write.addr, Bytes::Write(write.bytes()), Kind::Single);
            self.progress = progress;
            // Of the access in which this is delivered nothing is known yet.
            self.register.set(None);
            self.outcome.set(None);
            batch.record(&write, None, None, None);
            return true;
        };
        self.counters.access(entry.number(), Direction::Write);
        self.counters.coalesced(entry.number());
        let register = Cell::new(None);
        let cx = IoCx::new(Requester::Coalesced, core).with_register(&register);
        match way {
            Way::Handler(size) => {
                let (offset, value) = (entry.offset_of(write.addr), width::load(write.bytes()));
                entry.handler.write(&cx, offset, size, value);
            }
            Way::Around(window) => {
                let made = made(&write);
                let witness = Witness::of_region(core, entry, &made);
                let outcome = batch.write_around(entry, window, &write, &cx);
                if matches!(outcome, Outcome::Refused | Outcome::Gone) {
                    self.counters.refused(entry.number());
                }
                witness.end(made.data, outcome, &register);
            }
        }
        batch.record(&write, generation, Some(entry), register.get());
        true
    }
}

/// How a queued write is delivered that is all in one piece of a region.
enum Way<'a> {
    /// The handler takes it as it is, and nothing else is to be done.
    Handler(Size),
    /// It is watched, of another width than the handler's, or in a window that is not the handler's.
    Around(Option<&'a Window>),
}

impl<'a> Way<'a> {
    fn of(entry: &'a Entry, write: &CoalescedWrite) -> Option<Self> {
        let size = Size::new(write.len.into()).filter(|size| entry.is_whole(write.addr, *size));
        if let Some(size) = size.filter(|_| entry.is_plain(Direction::Write)) {
            return Some(Self::Handler(size));
        }
        let (last, window) = entry.diverted_at(write.addr, Direction::Write);
        let whole = last - write.addr >= u64::from(write.len.max(1)) - 1;
        whole.then_some(Self::Around(window))
    }
}

/// What observers are told of a queued write.
fn made(write: &CoalescedWrite) -> Made<'_> {
    let data = write.bytes();
    Made {
        requester: Requester::Coalesced,
        space: write.space,
        addr: write.addr,
        direction: Direction::Write,
        width: data.len(),
        data,
    }
}

/// What writes that are delivered one after the other have in common.
struct Batch<'a> {
    /// The channel that they go to, which may keep them back until the last of them.
    channel: Option<ChannelRef>,
    /// What they are recorded with, and the step that they are delivered in.
    recorder: Option<(&'a Recorder, &'a Step<'a>)>,
    /// The recorder's, taken out of it meanwhile, as handlers are called.
    track: Option<Box<Track>>,
}

impl<'a> Batch<'a> {
    fn new(core: &'a Core, step: Option<&'a Step<'a>>) -> Self {
        let recorder = core.recorder.get().map(|recorder| &**recorder).zip(step);
        let track = recorder.and_then(|(recorder, _)| recorder.queued.lock().take());
        Self { channel: None, recorder, track }
    }

    /// Makes a write that is all in `window`, if there is one, or all the handler's.
    fn write_around(
        &mut self,
        entry: &Entry,
        window: Option<&Window>,
        write: &CoalescedWrite,
        cx: &IoCx<'_>,
    ) -> Outcome {
        if let Some(outcome) = window.and_then(|window| self.forward(entry, window, write, cx)) {
            return outcome;
        }
        let (rules, offset) = (entry.shared.rules, entry.offset_of(write.addr));
        match width::write(&*entry.handler, rules, cx, offset, write.bytes()) {
            true => Outcome::Coalesced,
            false => Outcome::Refused,
        }
    }

    /// Passes a write on that is all in a window, if that is a forwarded one.
    fn forward(
        &mut self,
        entry: &Entry,
        window: &Window,
        write: &CoalescedWrite,
        cx: &IoCx<'_>,
    ) -> Option<Outcome> {
        let mut progress = Progress::default();
        let forwarder = Forwarder::new(window, entry, &mut progress)?;
        let channel = forwarder.channel();
        if self.channel.as_ref() != Some(channel) {
            self.flush();
            self.channel = Some(channel.clone());
        }
        let (rules, offset) = (entry.shared.rules, entry.offset_of(write.addr));
        let mut data = Bytes::Write(write.bytes());
        Some(match forwarder.with_more().make(rules, cx, offset, &mut data) {
            Outcome::Forwarded => Outcome::Coalesced,
            other => other,
        })
    }

    fn flush(&self) {
        if let Some(channel) = &self.channel {
            channel.get().flush();
        }
    }

    /// Records a write that has been delivered, if that is done.
    #[inline]
    fn record(
        &mut self,
        write: &CoalescedWrite,
        generation: Option<u64>,
        entry: Option<&Entry>,
        register: Option<&'static str>,
    ) {
        let (Some((recorder, step)), Some(track)) = (self.recorder, &mut self.track) else {
            return;
        };
        let CoalescedWrite { space, addr, .. } = *write;
        let (direction, data) = (Direction::Write, write.bytes());
        let outcome = record::Outcome::Coalesced;
        let op = match (Size::new(data.len()), record::OddLen::new(data.len())) {
            (Some(size), _) => Op::Access(record::Access { direction, size, space, outcome }),
            (None, Some(len)) => Op::Odd { direction, len, space, outcome },
            // A write of nothing.
            (None, None) => return,
        };
        let value = width::load(data);
        let access = tape::Access { op, space, addr, value, data: &[], register };
        track.access(recorder, step, &access, generation, || entry);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some((recorder, _)) = self.recorder {
            *recorder.queued.lock() = self.track.take();
        }
        self.flush();
    }
}

/// Somebody is delivering queued writes, until this is dropped: also when a handler panics.
struct Delivering<'a> {
    this_thread: &'a Cell<bool>,
    anybody: &'a AtomicBool,
}

impl<'a> Delivering<'a> {
    fn new(this_thread: &'a Cell<bool>, anybody: &'a AtomicBool) -> Self {
        anybody.store(true, Ordering::SeqCst);
        Self { this_thread, anybody }
    }
}

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        self.anybody.store(false, Ordering::Release);
        self.this_thread.set(false);
    }
}

impl Core {
    /// The oldest queued write: first those an edit took out of the source, then the source's.
    fn next_coalesced(&self, queue: &mut Reclaimed) -> Option<(CoalescedWrite, Option<Entry>)> {
        if let Some(first) = queue.pop_front() {
            self.coalesced.has_reclaimed.store(!queue.is_empty(), Ordering::Release);
            return Some(first);
        }
        let write = self.offload.as_ref()?.pop()?;
        Some((write, None))
    }
}
