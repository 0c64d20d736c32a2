//! Delivery of coalesced writes: from the source's queue to their handlers, in order, by one thread
//! at a time.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::ReentrantMutexGuard;
use trapline_access::record::{self, Op};
use trapline_access::{ChannelRef, Direction, IoCx, QUEUED_WRITES_MAX, Requester, Size};

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
use crate::recorder::{Step, tape};
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
        let mut batch = Batch::default();
        for _ in 0..most {
            if !self.deliver_next(core, step, &mut batch) {
                break;
            }
        }
    }

    /// The oldest queued write: to the region it was made to if an edit remembered that, or to
    /// whoever has the address. Whether there was one.
    fn deliver_next(&mut self, core: &Core, step: Option<&Step<'_>>, batch: &mut Batch) -> bool {
        // An edit takes what was queued out of the source before it publishes, under this lock. So
        // a write that is still in the source was made to a region that is still in the snapshot,
        // and it is looked up before an edit can have the lock: after that it would be lost.
        let mut queue = core.coalesced.queue.lock();
        self.reader.look(&core.published);
        let marker = self.reader.marker();
        let snapshot = self.reader.snapshot();
        let Some((write, before)) = core.next_coalesced(&mut queue) else { return false };
        let entry = before.as_ref().or_else(|| snapshot.find(write.space, write.addr));
        let covered = entry.filter(|entry| {
            let (last, _) = entry.diverted_at(write.addr, Direction::Write);
            last - write.addr >= u64::from(write.len.max(1)) - 1
        });
        if let Some(entry) = covered {
            marker.found(mark(entry.number()));
        }
        drop(queue);
        let Some(entry) = covered else {
            drop(marker);
            // The access that comes after it may have been interrupted before.
            let progress = std::mem::take(&mut self.progress);
            self.parts(write.space, write.addr, Bytes::Write(write.bytes()), Kind::Single);
            self.progress = progress;
            // Of the access in which this is delivered nothing is known yet.
            self.register.set(None);
            self.outcome.set(None);
            record(core, step, &write, None, None);
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
        let outcome = match batch.forward(entry, write.addr, &cx, data) {
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
        record(core, step, &write, Some(entry), register.get());
        true
    }
}

/// The channel that has queued writes go to it one after the other, and may keep them back until the
/// last of them.
#[derive(Default)]
struct Batch(Option<ChannelRef>);

impl Batch {
    /// Passes a write on that is all in a forwarded window, if it is in one.
    fn forward(&mut self, entry: &Entry, addr: u64, cx: &IoCx<'_>, data: &[u8]) -> Option<Outcome> {
        let (_, window) = entry.diverted_at(addr, Direction::Write);
        let mut progress = Progress::default();
        let forwarder = Forwarder::new(window?, entry.shared.device_offset, &mut progress)?;
        let channel = forwarder.channel();
        if self.0.as_ref() != Some(channel) {
            self.flush();
            self.0 = Some(channel.clone());
        }
        let (rules, offset) = (entry.shared.rules, entry.offset_of(addr));
        Some(match forwarder.with_more().make(rules, cx, offset, &mut Bytes::Write(data)) {
            Outcome::Forwarded => Outcome::Coalesced,
            other => other,
        })
    }

    fn flush(&self) {
        if let Some(channel) = &self.0 {
            channel.get().flush();
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Records a queued write that has been delivered.
fn record(
    core: &Core,
    step: Option<&Step<'_>>,
    write: &CoalescedWrite,
    entry: Option<&Entry>,
    register: Option<&'static str>,
) {
    let (Some(recorder), Some(step)) = (core.recorder.get(), step) else { return };
    let CoalescedWrite { space, addr, .. } = *write;
    let (direction, outcome, data) = (Direction::Write, record::Outcome::Coalesced, write.bytes());
    let op = match (Size::new(data.len()), record::OddLen::new(data.len())) {
        (Some(size), _) => Op::Access(record::Access { direction, size, space, outcome }),
        (None, Some(len)) => Op::Odd { direction, len, space, outcome },
        // A write of nothing.
        (None, None) => return,
    };
    let value = width::load(data);
    let access = tape::Access { op, space, addr, value, data: &[], entry, register };
    recorder.queued.lock().access(recorder, step, &access);
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
