//! A disk's queue: requests on their way to the image and back.
//!
//! ```text
//!   submit ──► limits ──► at once, in this thread      what the page cache answers
//!                 │   ──► io_uring                     plain reads, writes and syncs
//!             wait for    ──► threads                  everything else, and where there is none
//!             the clock                │
//!                        eventfd ◄─────┘ ──► poll ──► completed
//! ```

#[cfg(test)]
mod tests;
mod witnessed;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use trapline_device::{Clock, Timer, Wake, Witness};
use trapline_guestio::{Completion, Operation, Places, Ring};

use crate::image::{Image, Null, Raw};
use crate::{Disk, Failure, Request};

/// Requests that the kernel has at most; the others wait for their turn.
const RING_ENTRIES: u32 = 128;

/// Who does what cannot be done at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the host has it, for what it can do.
    #[default]
    Ring,
    /// Threads, for everything.
    Threads,
}

/// One queue of a disk. A disk can have several, each with a thread that looks after it.
pub struct Queue {
    disk: Arc<Disk>,
    clock: Arc<dyn Clock>,
    /// Expires when the next request may pass the limits.
    timer: Box<dyn Timer>,
    ring: Option<Ring>,
    mailbox: Arc<Mailbox>,
    /// Requests that the pool's threads have.
    in_pool: usize,
    /// Requests that the ring has no room for.
    backlog: VecDeque<Tagged>,
    /// Requests that the limits hold back.
    waiting: VecDeque<Tagged>,
    /// Requests that failed and are to be made again.
    stalled: Vec<Tagged>,
    completed: VecDeque<(u64, Outcome)>,
    /// Who hears of outcomes, if anybody does.
    witness: Option<Arc<dyn Witness>>,
    /// Requests that nobody has, of a disk that stands in for one: how they end, the witness knows.
    elsewhere: BTreeMap<u64, Request>,
    /// Where the data of reads goes that are under way, if a witness wants it.
    places: BTreeMap<u64, Places>,
}

/// What has become of a request.
pub type Outcome = Result<(), Failure>;

#[derive(Debug)]
struct Tagged {
    tag: u64,
    request: Request,
}

/// Where the pool's threads put what is done.
struct Mailbox {
    /// Readable when there is something to be polled for.
    ready: Arc<OwnedFd>,
    done: Mutex<Vec<(Tagged, Outcome)>>,
    arrived: Condvar,
    /// Nobody waits any more for what is being done.
    cancelled: AtomicBool,
}

impl Queue {
    /// A queue for this disk. `wake` is called when a request may pass the limits of
    /// `DiskOptions::limits`: time for [`Queue::poll`].
    ///
    /// # Errors
    /// The host has no descriptor to spare.
    pub fn new(
        disk: &Arc<Disk>,
        engine: Engine,
        clock: &Arc<dyn Clock>,
        wake: Weak<dyn Wake>,
    ) -> io::Result<Self> {
        let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let ring = match engine {
            // A host that has none, or keeps it from us, has threads.
            Engine::Ring if matches!(*disk.image, Image::Raw(_)) => {
                Ring::new(RING_ENTRIES, &*ready).ok()
            }
            Engine::Ring | Engine::Threads => None,
        };
        let (done, arrived) = (Mutex::default(), Condvar::new());
        let mailbox = Mailbox { ready, done, arrived, cancelled: AtomicBool::new(false) };
        Ok(Self {
            disk: Arc::clone(disk),
            clock: Arc::clone(clock),
            timer: clock.timer(wake),
            ring,
            mailbox: Arc::new(mailbox),
            in_pool: 0,
            backlog: VecDeque::new(),
            waiting: VecDeque::new(),
            stalled: Vec::new(),
            completed: VecDeque::new(),
            witness: None,
            elsewhere: BTreeMap::new(),
            places: BTreeMap::new(),
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// An eventfd that is readable when requests have completed: time for [`Queue::poll`].
    pub fn ready(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.mailbox.ready)
    }

    /// Whether no request is under way, held back, or completed and not taken.
    pub fn is_empty(&self) -> bool {
        self.is_settled()
            && self.waiting.is_empty()
            && self.stalled.is_empty()
            && self.completed.is_empty()
    }

    /// Has `witness` hear of all outcomes from now on. A disk that stands in for another
    /// ([`Disk::stand_in`]) has them from there.
    pub fn set_witness(&mut self, witness: Arc<dyn Witness>) {
        self.witness = Some(witness);
    }

    /// Begins a request, which the caller calls `tag`. What can be done at once is done on return,
    /// and its outcome returned; all else comes back from [`Queue::completed`] after a
    /// [`Queue::poll`], in any order. [`Queue::kick`] has to follow at the end of a batch.
    pub fn submit(&mut self, tag: u64, request: Request) -> Option<Outcome> {
        if !request.is_within(self.disk.capacity()) {
            return Some(Err(Failure::OutOfRange));
        }
        if request.writes() && !self.disk.is_writable() {
            return Some(Err(Failure::ReadOnly));
        }
        if !self.waiting.is_empty() || !self.may_pass(&request) {
            self.waiting.push_back(Tagged { tag, request });
            return None;
        }
        self.begin(tag, request)
    }

    /// Tells the kernel of everything that was submitted since the last time.
    pub fn kick(&mut self) {
        if let Some(ring) = &mut self.ring
            && ring.submit().is_err()
        {
            // It has no memory, or too many completions of ours. Nothing is lost, and it is tried
            // again.
            self.mailbox.wake();
        }
    }

    /// Looks after what is under way: takes in what has completed, and begins what may begin.
    pub fn poll(&mut self) {
        self.mailbox.listen_again();
        self.take_in();
        while let Some(next) = self.waiting.pop_front() {
            if !self.may_pass(&next.request) {
                self.waiting.push_front(next);
                break;
            }
            if let Some(outcome) = self.begin(next.tag, next.request) {
                self.completed.push_back((next.tag, outcome));
            }
        }
        self.kick();
    }

    /// A request that has completed since it was submitted: its tag, and what has become of it.
    pub fn completed(&mut self) -> Option<(u64, Outcome)> {
        self.completed.pop_front()
    }

    /// Makes the requests again that failed and stopped the machine.
    pub fn retry(&mut self) {
        for Tagged { tag, request } in std::mem::take(&mut self.stalled) {
            if let Some(outcome) = self.begin(tag, request) {
                self.completed.push_back((tag, outcome));
            }
        }
        self.kick();
    }

    /// Waits until nothing is under way: on return nothing is read from or written to guest memory,
    /// until the next call. What has completed is still to be had, and what the limits hold back is
    /// still held back.
    pub fn settle(&mut self) {
        loop {
            self.take_in();
            self.kick();
            if self.is_settled() || self.disk.is_stand_in() {
                return;
            }
            if self.in_pool > 0 {
                self.mailbox.wait();
            } else if let Some(ring) = &mut self.ring
                && ring.wait().is_err()
            {
                std::thread::yield_now();
            }
        }
    }

    /// Ends or waits for everything that was submitted, and forgets it: on return nothing is read
    /// from or written to guest memory, and no request completes any more.
    pub fn abandon(&mut self) {
        self.timer.arm(None);
        self.waiting.clear();
        self.stalled.clear();
        self.backlog.clear();
        self.mailbox.cancelled.store(true, Ordering::Relaxed);
        self.settle();
        self.mailbox.cancelled.store(false, Ordering::Relaxed);
        self.stalled.clear();
        self.completed.clear();
        self.elsewhere.clear();
        self.places.clear();
        self.mailbox.listen_again();
    }

    /// Whether nobody has anything of ours.
    fn is_settled(&self) -> bool {
        let ring_is_idle = self.ring.as_ref().is_none_or(Ring::is_idle);
        let nowhere = self.in_pool == 0 && self.elsewhere.is_empty();
        nowhere && ring_is_idle && self.backlog.is_empty()
    }

    /// Whether the limits let a request pass now; if not, the timer tells when.
    fn may_pass(&self, request: &Request) -> bool {
        let mut limiter = self.disk.limiter.lock();
        if limiter.is_unlimited() || matches!(request, Request::Flush) {
            return true;
        }
        match limiter.take(self.clock.now_ns(), request.bytes()) {
            Ok(()) => true,
            Err(later) => {
                self.timer.arm(Some(later));
                false
            }
        }
    }

    /// Begins a request, or makes it again, before the witness if there is one.
    fn begin(&mut self, tag: u64, request: Request) -> Option<Outcome> {
        match self.witness.clone() {
            Some(witness) => self.begin_before(&*witness, tag, request),
            None => self.begin_unseen(tag, request),
        }
    }

    /// Begins a request. What is left of it is done by whoever can.
    fn begin_unseen(&mut self, tag: u64, mut request: Request) -> Option<Outcome> {
        let done = match &*self.disk.image {
            Image::Raw(raw) => at_once(raw, &mut request),
            Image::Formatted(_) => None,
            Image::Null(_) => {
                Null::perform(&mut request);
                Some(Ok(()))
            }
        };
        match done {
            Some(Ok(())) => Some(Ok(())),
            Some(Err(error)) => self.outcome(Tagged { tag, request }, Err(error.into())),
            None => {
                self.give_away(Tagged { tag, request });
                None
            }
        }
    }

    /// Has somebody do a request who can wait.
    fn give_away(&mut self, tagged: Tagged) {
        match &*Arc::clone(&self.disk.image) {
            Image::Raw(raw) if self.ring.is_some() && is_for_ring(raw, &tagged.request) => {
                self.give_to_ring(raw, tagged);
            }
            _ => self.give_to_pool(tagged),
        }
    }

    fn give_to_ring(&mut self, raw: &Raw, Tagged { tag, request }: Tagged) {
        let Some(ring) = self.ring.as_mut() else { return };
        if !ring.has_room() {
            self.backlog.push_back(Tagged { tag, request });
            return;
        }
        let operation = match request {
            Request::Read { offset, buffers } => Operation::Read { offset, buffers },
            Request::Write { offset, buffers, durable } => {
                Operation::Write { offset, buffers, durable }
            }
            _ => Operation::Sync,
        };
        if let Err(operation) = ring.push(&raw.file, operation, tag) {
            self.backlog.push_back(Tagged { tag, request: request_of(operation) });
        }
    }

    fn give_to_pool(&mut self, mut tagged: Tagged) {
        self.in_pool += 1;
        let (image, mailbox) = (Arc::clone(&self.disk.image), Arc::clone(&self.mailbox));
        self.disk.pool.spawn(move || {
            let request = std::panic::AssertUnwindSafe(|| {
                image.perform(&mut tagged.request, &mailbox.cancelled)
            });
            // A defect of the image's reader is that request's failure.
            let outcome = std::panic::catch_unwind(request);
            let outcome = outcome
                .unwrap_or_else(|_| Err(io::Error::other("the image's reader has failed").into()));
            mailbox.put(tagged, outcome);
        });
    }

    /// Takes in what has been done, before the witness if there is one.
    fn take_in(&mut self) {
        match self.witness.clone() {
            Some(witness) => self.take_in_before(&*witness),
            None => self.take_in_unseen(),
        }
    }

    /// Takes in what the threads and the kernel have done.
    fn take_in_unseen(&mut self) {
        let done = std::mem::take(&mut *self.mailbox.done.lock());
        for (tagged, outcome) in done {
            self.in_pool -= 1;
            self.conclude(tagged, outcome);
        }
        while let Some(done) = self.ring.as_mut().and_then(Ring::completion) {
            self.after_ring(done);
        }
        while self.ring.as_ref().is_some_and(Ring::has_room) {
            let Some(next) = self.backlog.pop_front() else { break };
            if let Image::Raw(raw) = &*Arc::clone(&self.disk.image) {
                self.give_to_ring(raw, next);
            }
        }
    }

    /// Goes on with what the kernel has done all or part of.
    fn after_ring(&mut self, Completion { tag, operation, result }: Completion) {
        let mut request = request_of(operation);
        let left = match &mut request {
            Request::Read { offset, buffers } | Request::Write { offset, buffers, .. } => {
                *offset += result.as_ref().copied().unwrap_or(0);
                !buffers.is_empty()
            }
            _ => false,
        };
        let tagged = Tagged { tag, request };
        match result {
            Ok(0) if left => self.conclude(tagged, Err(end_of_file().into())),
            Ok(_) if left => {
                if let Image::Raw(raw) = &*Arc::clone(&self.disk.image) {
                    match is_for_ring(raw, &tagged.request) {
                        true => self.give_to_ring(raw, tagged),
                        false => self.give_to_pool(tagged),
                    }
                }
            }
            Ok(_) => self.conclude(tagged, Ok(())),
            Err(error) if is_no_failure(&error) => self.give_to_pool(tagged),
            Err(error) => self.conclude(tagged, Err(error.into())),
        }
    }

    fn conclude(&mut self, tagged: Tagged, outcome: Outcome) {
        let tag = tagged.tag;
        if let Some(outcome) = self.outcome(tagged, outcome) {
            self.completed.push_back((tag, outcome));
        }
    }

    /// What the driver is told, unless the machine is stopped instead.
    fn outcome(&mut self, tagged: Tagged, outcome: Outcome) -> Option<Outcome> {
        let forgotten = self.mailbox.cancelled.load(Ordering::Relaxed);
        match outcome {
            Err(failure) if !forgotten && self.disk.stop(&failure) => {
                self.stalled.push(tagged);
                None
            }
            outcome => Some(outcome),
        }
    }
}

/// Tries what never waits.
fn at_once(raw: &Raw, request: &mut Request) -> Option<io::Result<()>> {
    match request {
        Request::Read { buffers, .. } if buffers.is_empty() => Some(Ok(())),
        Request::Read { offset, buffers } => raw.read_at_once(offset, buffers),
        Request::Write { offset, buffers, durable } => match () {
            () if raw.is_guarded(*offset) => None,
            () if *durable && !raw.is_memory() => None,
            () => raw.write_at_once(offset, buffers),
        },
        Request::Flush if raw.is_memory() => Some(Ok(())),
        Request::Flush | Request::Discard(_) | Request::Erase(_) | Request::WriteZeroes(_) => None,
    }
}

/// Whether the kernel can do it as it stands.
fn is_for_ring(raw: &Raw, request: &Request) -> bool {
    match request {
        Request::Read { offset, buffers } => raw.is_aligned(*offset, buffers),
        Request::Write { offset, buffers, .. } => {
            !raw.is_guarded(*offset) && raw.is_aligned(*offset, buffers)
        }
        Request::Flush => true,
        Request::Discard(_) | Request::Erase(_) | Request::WriteZeroes(_) => false,
    }
}

fn request_of(operation: Operation) -> Request {
    match operation {
        Operation::Read { offset, buffers } => Request::Read { offset, buffers },
        Operation::Write { offset, buffers, durable } => {
            Request::Write { offset, buffers, durable }
        }
        Operation::Sync => Request::Flush,
    }
}

/// Whether the kernel only says that it has to be asked again, by somebody who can wait.
fn is_no_failure(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn end_of_file() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the image has become shorter")
}

impl Mailbox {
    fn put(&self, tagged: Tagged, outcome: Outcome) {
        self.done.lock().push((tagged, outcome));
        self.arrived.notify_all();
        self.wake();
    }

    /// Waits until something has been put in.
    fn wait(&self) {
        let mut done = self.done.lock();
        while done.is_empty() {
            self.arrived.wait(&mut done);
        }
    }

    fn wake(&self) {
        // It fails when the count is at its end, and is readable then, too.
        let _ = rustix::io::write(&*self.ready, &1u64.to_ne_bytes());
    }

    /// What comes from now on makes the eventfd readable again.
    fn listen_again(&self) {
        let _ = rustix::io::read(&*self.ready, &mut [0; 8]);
    }
}

impl Drop for Queue {
    /// The pool's threads have guest memory in hand, too.
    fn drop(&mut self) {
        self.abandon();
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("ring", &self.ring)
            .field("in_pool", &self.in_pool)
            .field("backlog", &self.backlog.len())
            .field("waiting", &self.waiting.len())
            .field("stalled", &self.stalled.len())
            .field("completed", &self.completed.len())
            .finish_non_exhaustive()
    }
}
