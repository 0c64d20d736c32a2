//! One request queue of the block device: a virtqueue on the driver's side, a queue of the disk
//! behind it.

use std::io;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_block::{self as block, Disk, Engine};
use trapline_device::{Clock, EventHandler, Readiness, Wake, Watch, Witness};

use super::request::{Parsed, Rules, status};
use super::{Background, Blk};
use crate::{Chain, Link, Queue, Serving, VirtioDevice};

/// A queue's requests on their way.
pub(super) struct Lane {
    waker: Arc<Waker>,
    /// Called by the loop when the host has completed something.
    arrivals: OnceLock<Arrivals>,
    state: Mutex<State>,
}

struct State {
    io: block::Queue,
    queue: Option<Arc<Queue>>,
    /// Requests that the disk has, by their heads.
    pending: Vec<Option<Chain>>,
    /// Requests of a snapshot that are to be made again.
    again: Vec<u16>,
    /// Whether a turn waits for everything it has begun.
    awaited: bool,
}

/// Has the queue looked at again when the disk's limits let requests go on.
struct Waker {
    index: u16,
    link: Arc<OnceLock<Link>>,
}

impl Wake for Waker {
    fn wake(&self) {
        if let Some(link) = self.link.get() {
            link.process_soon(self.index);
        }
    }
}

/// What watches the disk's queue.
struct Arrivals {
    // Dropped before what it calls.
    _watch: Box<dyn Watch>,
    _handler: Arc<Arrived>,
}

/// Called when the host has completed something.
struct Arrived {
    device: Weak<Blk>,
    lane: Weak<Lane>,
}

impl EventHandler for Arrived {
    fn event(&self, _ready: Readiness) {
        if let (Some(device), Some(lane)) = (self.device.upgrade(), self.lane.upgrade()) {
            lane.state.lock().io.poll();
            device.process(lane.waker.index);
        }
    }
}

impl Lane {
    pub(super) fn new(
        (index, size): (u16, u16),
        (disk, engine): (&Arc<Disk>, Engine),
        clock: &Arc<dyn Clock>,
        link: Arc<OnceLock<Link>>,
    ) -> io::Result<Arc<Self>> {
        let waker = Arc::new(Waker { index, link });
        let wake: Weak<Waker> = Arc::downgrade(&waker);
        let io = block::Queue::new(disk, engine, clock, wake)?;
        let pending = std::iter::repeat_with(|| None).take(size.into()).collect();
        let state = State { io, queue: None, pending, again: Vec::new(), awaited: true };
        Ok(Arc::new(Self { waker, arrivals: OnceLock::new(), state: Mutex::new(state) }))
    }

    /// Has what the host completes taken in.
    pub(super) fn watch(
        self: &Arc<Self>,
        device: Weak<Blk>,
        background: Background<'_>,
    ) -> io::Result<()> {
        let Background::Loop(event_loop) = background else { return Ok(()) };
        let handler = Arc::new(Arrived { device, lane: Arc::downgrade(self) });
        let called: Weak<Arrived> = Arc::downgrade(&handler);
        let ready = self.state.lock().io.ready();
        let watch = event_loop.watch(ready, Readiness::READ, called)?;
        self.arrivals.get_or_init(|| Arrivals { _watch: watch, _handler: handler });
        self.state.lock().awaited = false;
        Ok(())
    }

    /// Has `witness` hear of what the disk does.
    pub(super) fn set_witness(&self, witness: Arc<dyn Witness>) {
        self.state.lock().io.set_witness(witness);
    }

    pub(super) fn start(&self, queue: &Arc<Queue>) {
        self.state.lock().queue = Some(Arc::clone(queue));
    }

    /// One turn: answers what the disk is done with, and begins what the driver asks for.
    pub(super) fn process(&self, rules: Rules<'_>) {
        let state = &mut *self.state.lock();
        let Some(queue) = state.queue.clone() else { return };
        let Some(mut serving) = queue.serve() else { return };
        if !state.io.is_empty() {
            state.io.poll();
            state.answer(&mut serving);
        }
        for head in std::mem::take(&mut state.again) {
            if let Some(chain) = serving.take_back(head) {
                state.begin(chain, &mut serving, rules);
            }
        }
        while let Some(chain) = serving.pop() {
            state.begin(chain, &mut serving, rules);
        }
        state.io.kick();
        if state.awaited {
            state.io.settle();
        }
        state.answer(&mut serving);
    }

    /// Ends or waits for everything, and forgets it.
    pub(super) fn abandon(&self) {
        let state = &mut *self.state.lock();
        state.io.abandon();
        state.again.clear();
        state.pending.fill_with(|| None);
    }

    /// Waits for what is under way, without answering it. The heads of all requests that have not
    /// been answered.
    pub(super) fn settle(&self) -> Vec<u16> {
        let state = &mut *self.state.lock();
        state.io.settle();
        let pending = state.pending.iter().flatten().map(Chain::head);
        state.again.iter().copied().chain(pending).collect()
    }

    /// Whether no request is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        let state = self.state.lock();
        let nothing = state.again.is_empty() && state.pending.iter().all(Option::is_none);
        nothing && state.io.is_empty()
    }

    /// Has the requests with these heads made, which a snapshot says had begun.
    pub(super) fn make_again(&self, heads: Vec<u16>) {
        self.state.lock().again = heads;
    }

    /// Makes the requests again that have stopped the machine.
    pub(super) fn retry(&self) {
        self.state.lock().io.retry();
        self.waker.wake();
    }
}

impl State {
    /// Begins a request, and answers it if that is all it takes.
    fn begin(&mut self, chain: Chain, serving: &mut Serving<'_>, rules: Rules<'_>) {
        let head = chain.head();
        let answer = match rules.parse(&chain, serving.mem()) {
            Parsed::Status(status) => Some(status),
            Parsed::Request(request) => {
                let outcome = self.io.submit(head.into(), request);
                outcome.as_ref().map(status)
            }
        };
        match answer {
            Some(status) => complete(chain, status, serving),
            None => {
                if let Some(place) = self.pending.get_mut(usize::from(head)) {
                    *place = Some(chain);
                }
            }
        }
    }

    /// Answers everything the disk is done with.
    fn answer(&mut self, serving: &mut Serving<'_>) {
        while let Some((tag, outcome)) = self.io.completed() {
            let place = usize::try_from(tag).ok().and_then(|head| self.pending.get_mut(head));
            if let Some(chain) = place.and_then(Option::take) {
                complete(chain, status(&outcome), serving);
            }
        }
    }
}

/// Gives a request back. Its status is the last byte that there is to write.
fn complete(chain: Chain, status: u8, serving: &mut Serving<'_>) {
    let written = chain.writable_len();
    let last = written.checked_sub(1);
    // Without room for a status there is nothing to say, nor anybody who asked.
    let told = last.is_some_and(|last| chain.write_at(serving.mem(), last, &[status]).is_ok());
    let written = if told { u32::try_from(written).unwrap_or(u32::MAX) } else { 0 };
    serving.complete(chain, written);
}
