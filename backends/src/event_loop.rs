//! Event loops: level-triggered epoll on a thread of its own, or polled by who owns it.

use std::io;
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;
use trapline_device::{
    Doorbell, EventHandler, EventLoop, Notifier, Readiness, Watch, WatchedEventFd, thread_builder,
};

use epoll_set::{Alarm, EpollSet, State, watched_eventfd};
use flush::Flush;

mod epoll_set;
mod flush;
mod polled;
#[cfg(test)]
mod polled_tests;
#[cfg(test)]
mod tests;

pub use polled::PolledLoop;

/// The guest's coalesced writes, which the kernel queues until somebody delivers them.
pub trait QueuedWrites: Send + Sync {
    /// Whether any write can be queued at all.
    fn possible(&self) -> bool;

    /// Delivers what is queued; says whether there may have been anything.
    fn deliver(&self) -> bool;

    /// A handler is about to be called. What this returns is dropped after the call: a recording has
    /// its turn meanwhile.
    fn begin(&self) -> Option<Box<dyn Turn + '_>> {
        None
    }

    /// How many exits the guest has made. One that goes on making some is not idle.
    fn exits(&self) -> u64;
}

/// Something that lasts until it is dropped.
pub trait Turn {}

impl<T> Turn for T {}

/// For a loop whose devices have no coalesced writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoQueuedWrites;

impl QueuedWrites for NoQueuedWrites {
    fn possible(&self) -> bool {
        false
    }

    fn deliver(&self) -> bool {
        false
    }

    fn exits(&self) -> u64 {
        0
    }
}

/// Descriptors asked of the kernel at once.
const EVENTS: usize = 32;

/// An event loop on a thread of its own. Dropping it stops it.
pub struct EpollLoop {
    set: Arc<EpollSet>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EpollLoop {
    /// Starts a loop on a thread called `name`, for devices whose coalesced writes are `writes`.
    ///
    /// # Errors
    /// The host has no thread or descriptor to spare.
    pub fn start(name: &str, writes: impl QueuedWrites + 'static) -> io::Result<Arc<Self>> {
        let set = Arc::new(EpollSet::new(writes)?);
        let (inside, alarm) = (Arc::clone(&set), Alarm::new(&set)?);
        let thread = thread_builder(name).spawn(move || run(&inside, alarm))?;
        set.state.lock().thread = Some(thread.thread().id());
        Ok(Arc::new(Self { set, thread: Mutex::new(Some(thread)) }))
    }

    /// Calls no handler until [`EpollLoop::resume`]: on return none is running, unless it is a
    /// handler that pauses its own loop. What happens meanwhile is found afterwards.
    pub fn pause(&self) {
        self.rest(|state| state.paused = true);
    }

    /// Goes on after [`EpollLoop::pause`].
    pub fn resume(&self) {
        self.set.state.lock().paused = false;
        self.set.changed.notify_all();
    }

    /// Ends the loop: on return no handler runs, and none ever will, unless it is a handler that
    /// stops its own loop.
    pub fn stop(&self) {
        self.rest(|state| state.stopped = true);
        if self.set.state.lock().on_own_thread() {
            return;
        }
        let thread = self.thread.lock().take();
        if let Some(Err(bug)) = thread.map(JoinHandle::join)
            && !thread::panicking()
        {
            panic::resume_unwind(bug);
        }
    }

    /// Has the thread look whether coalesced writes have become possible.
    pub fn look_for_writes(&self) {
        self.set.wake();
    }

    /// Changes the state and waits until the thread has come to rest.
    fn rest(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.set.state.lock();
        change(&mut state);
        self.set.wake();
        self.set.changed.notify_all();
        while !state.at_rest && !state.on_own_thread() {
            self.set.changed.wait(&mut state);
        }
    }
}

impl Drop for EpollLoop {
    fn drop(&mut self) {
        self.stop();
    }
}

impl EventLoop for EpollLoop {
    fn watch(
        &self,
        fd: Arc<dyn AsFd + Send + Sync>,
        interest: Readiness,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Box<dyn Watch>> {
        self.set.watch(fd, interest, handler)
    }

    fn notifier(&self, handler: Weak<dyn EventHandler>) -> Box<dyn Notifier> {
        self.set.notifier(handler)
    }

    fn doorbell(&self, handler: Weak<dyn EventHandler>) -> io::Result<Doorbell> {
        self.set.doorbell(handler)
    }

    fn eventfd(&self, handler: Weak<dyn EventHandler>) -> io::Result<WatchedEventFd> {
        watched_eventfd(self, handler)
    }
}

/// The thread.
fn run(set: &EpollSet, mut alarm: Alarm) {
    let mut flush = Flush::new();
    // A panic is a defect of a device or of ours. Nobody may wait for this thread then, and
    // whoever stops the loop hears of it.
    let run = panic::catch_unwind(AssertUnwindSafe(|| {
        while goes_on(set) {
            turn(set, &mut alarm, &mut flush, Instant::now);
        }
    }));
    let mut state = set.state.lock();
    state.stopped = true;
    state.at_rest = true;
    state.running = None;
    drop(state);
    set.changed.notify_all();
    if let Err(bug) = run {
        panic::resume_unwind(bug);
    }
}

/// Waits while the loop is paused; says whether it has not been stopped.
fn goes_on(set: &EpollSet) -> bool {
    let mut state = set.state.lock();
    while state.paused && !state.stopped {
        state.at_rest = true;
        set.changed.notify_all();
        set.changed.wait(&mut state);
    }
    state.at_rest = false;
    !state.stopped
}

/// Waits for something to do, does it, and looks for coalesced writes if it is time to.
fn turn(set: &EpollSet, alarm: &mut Alarm, flush: &mut Flush, now: impl Fn() -> Instant) {
    let ready = set.wait(EVENTS, || None);
    let called = set.call_all(ready);
    let now = now();
    flush.look(now, &*set.writes, called);
    alarm.set(flush.timeout(now, &*set.writes).map(|timeout| now + timeout), now);
}
