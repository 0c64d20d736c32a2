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
        let mut batch = Batch { channel: None, recording: Recording::begin(core, step) };
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
        if let Some((entry, size)) = entry.and_then(|entry| plain(entry, &write)) {
            marker.found(mark(entry.number()));
            drop(queue);
            if !self.counters.access_if_easy(entry.number(), Direction::Write) {
                self.counters.access(entry.number(), Direction::Write);
            }
            self.counters.coalesced(entry.number());
            let register = Cell::new(None);
            let cx = IoCx::new(Requester::Coalesced, core).with_register(&register);
            let (offset, value) = (entry.offset_of(write.addr), width::load(write.bytes()));
            entry.handler.write(&cx, offset, size, value);
            batch.record(&write, generation, Some(entry), register.get());
            return true;
        }
        let covered = entry.and_then(|entry| {
            let (last, window) = entry.diverted_at(write.addr, Direction::Write);
            let whole = last - write.addr >= u64::from(write.len.max(1)) - 1;
            whole.then_some((entry, window))
        });
        if let Some((entry, _)) = covered {
            marker.found(mark(entry.number()));
        }
        drop(queue);
        let Some((entry, window)) = covered else {
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
        let (data, offset) = (write.bytes(), entry.offset_of(write.addr));
        let made = Made {
            requester: Requester::Coalesced,
            space: write.space,
            addr: write.addr,
            direction: Direction::Write,
            width: data.len(),
            data,
        };
        let witness = Witness::of_region(core, entry, &made);
        let register = Cell::new(None);
        let cx = IoCx::new(Requester::Coalesced, core).with_register(&register);
        let outcome = match window.and_then(|window| batch.forward(entry, window, &write, &cx)) {
            Some(outcome) => outcome,
            None if width::write(&*entry.handler, entry.shared.rules, &cx, offset, data) => {
                Outcome::Coalesced
            }
            None => Outcome::Refused,
        };
        if matches!(outcome, Outcome::Refused | Outcome::Gone) {
            self.counters.refused(entry.number());
        }
        witness.end(data, outcome, &register);
        batch.record(&write, generation, Some(entry), register.get());
        true
    }
}

/// The entry and the size, if the handler takes the write as it is and nothing else is to be done.
fn plain<'a>(entry: &'a Entry, write: &CoalescedWrite) -> Option<(&'a Entry, Size)> {
    let size = Size::new(write.len.into())?;
    let plain = entry.is_plain(Direction::Write) && entry.is_whole(write.addr, size);
    plain.then_some((entry, size))
}

/// What writes that are delivered one after the other have in common.
struct Batch<'a> {
    /// The channel that they go to, which may keep them back until the last of them.
    channel: Option<ChannelRef>,
    recording: Option<Recording<'a>>,
}

impl Batch<'_> {
    /// Passes a write on that is all in a window, if that is a forwarded one.
    fn forward(
        &mut self,
        entry: &Entry,
        window: &Window,
        write: &CoalescedWrite,
        cx: &IoCx<'_>,
    ) -> Option<Outcome> {
        let mut progress = Progress::default();
        let forwarder = Forwarder::new(window, entry.shared.device_offset, &mut progress)?;
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
        if let Some(recording) = &mut self.recording {
            recording.record(write, generation, entry, register);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Records the queued writes that are delivered in one step. The stream's track is taken out of the
/// recorder meanwhile, as handlers are called, and put back at the end.
struct Recording<'a> {
    recorder: &'a Recorder,
    step: &'a Step<'a>,
    track: Option<Box<Track>>,
}

impl<'a> Recording<'a> {
    fn begin(core: &'a Core, step: Option<&'a Step<'a>>) -> Option<Self> {
        let (recorder, step) = (core.recorder.get()?, step?);
        let track = recorder.queued.lock().take();
        Some(Self { recorder, step, track })
    }

    #[inline]
    fn record(
        &mut self,
        write: &CoalescedWrite,
        generation: Option<u64>,
        entry: Option<&Entry>,
        register: Option<&'static str>,
    ) {
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
        if let Some(track) = &mut self.track {
            track.access(self.recorder, self.step, &access, generation, || entry);
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        *self.recorder.queued.lock() = self.track.take();
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
