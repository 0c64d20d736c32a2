//! The event loop: level-triggered epoll on a thread of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use trapline_device::{EventHandler, EventLoop, Notifier, Readiness, Watch};

#[cfg(test)]
mod tests;

/// The guest's coalesced writes, which the kernel queues until somebody delivers them.
pub trait QueuedWrites: Send + Sync {
    /// Whether any write can be queued at all.
    fn possible(&self) -> bool;

    /// Delivers what is queued; says whether there may have been anything.
    fn deliver(&self) -> bool;
}

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
}

/// How soon a write of a guest that has gone idle is delivered while there have been some. Nobody
/// tells us that the kernel queued a write, so the loop looks now and then.
const FLUSH_SOON: Duration = Duration::from_millis(5);
/// How late it can be at most.
const FLUSH_LATE: Duration = Duration::from_millis(80);

/// Descriptors asked of the kernel at once. What is ready and not among them is first in the next
/// turn.
const EVENTS: usize = 32;

/// The loop's own eventfd among the epoll keys; watches count from 1.
const WAKE: u64 = 0;

/// An event loop on a thread of its own. Dropping it stops it.
pub struct EpollLoop {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    epoll: OwnedFd,
    /// Brings the thread back from waiting.
    wake: OwnedFd,
    writes: Box<dyn QueuedWrites>,
    state: Mutex<State>,
    /// A handler has returned, the thread has paused or ended, or it is to go on.
    changed: Condvar,
}

/// No handler is called with this locked.
#[derive(Default)]
struct State {
    watches: BTreeMap<u64, Watched>,
    next_key: u64,
    /// Handlers whose notifiers were notified, the earliest first.
    notified: VecDeque<Arc<Notified>>,
    /// The watch whose handler is being called.
    running: Option<u64>,
    paused: bool,
    stopped: bool,
    /// Whether the thread calls no handler until it is told to go on, or ever.
    at_rest: bool,
    thread: Option<ThreadId>,
}

/// One watched descriptor.
struct Watched {
    fd: Arc<dyn AsFd + Send + Sync>,
    handler: Weak<dyn EventHandler>,
    interest: Readiness,
    /// Whether epoll takes this kind of descriptor; if not, it is always ready.
    pollable: bool,
    /// Whether it is in the epoll set now.
    polled: bool,
}

impl EpollLoop {
    /// Starts a loop on a thread called `name`, for devices whose coalesced writes are `writes`.
    ///
    /// # Errors
    /// The host has no thread or descriptor to spare.
    pub fn start(name: &str, writes: impl QueuedWrites + 'static) -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let state = Mutex::new(State { next_key: WAKE + 1, ..State::default() });
        let changed = Condvar::new();
        let shared = Arc::new(Shared { epoll, wake, writes: Box::new(writes), state, changed });
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || inside.run())?;
        shared.state.lock().thread = Some(thread.thread().id());
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Calls no handler until [`EpollLoop::resume`]: on return none is running, unless it is a
    /// handler that pauses its own loop. What happens meanwhile is found afterwards.
    pub fn pause(&self) {
        self.rest(|state| state.paused = true);
    }

    /// Goes on after [`EpollLoop::pause`].
    pub fn resume(&self) {
        self.shared.state.lock().paused = false;
        self.shared.changed.notify_all();
    }

    /// Ends the loop: on return no handler runs, and none ever will, unless it is a handler that
    /// stops its own loop.
    pub fn stop(&self) {
        self.rest(|state| state.stopped = true);
        if self.shared.state.lock().on_own_thread() {
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
        self.shared.wake();
    }

    /// Changes the state and waits until the thread has come to rest.
    fn rest(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.state.lock();
        change(&mut state);
        self.shared.wake();
        self.shared.changed.notify_all();
        while !state.at_rest && !state.on_own_thread() {
            self.shared.changed.wait(&mut state);
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
        let mut state = self.shared.state.lock();
        let key = state.next_key;
        state.next_key += 1;
        let none = Readiness::NONE;
        let mut watched = Watched { fd, handler, interest: none, pollable: true, polled: false };
        watched.set_interest(&self.shared.epoll, key, interest)?;
        let always = !watched.pollable;
        state.watches.insert(key, watched);
        drop(state);
        if always {
            self.shared.wake();
        }
        Ok(Box::new(Guard { shared: Arc::clone(&self.shared), key }))
    }

    fn notifier(&self, handler: Weak<dyn EventHandler>) -> Box<dyn Notifier> {
        let notified = Arc::new(Notified { handler, pending: AtomicBool::new(false) });
        Box::new(Notify { shared: Arc::downgrade(&self.shared), notified })
    }
}

/// What [`EventLoop::watch`] returns.
struct Guard {
    shared: Arc<Shared>,
    key: u64,
}

impl Watch for Guard {
    fn set_interest(&self, interest: Readiness) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        // Without an entry the handler is gone, and the watch over.
        let Some(watched) = state.watches.get_mut(&self.key) else { return Ok(()) };
        watched.set_interest(&self.shared.epoll, self.key, interest)?;
        let always = !watched.pollable;
        drop(state);
        if always {
            self.shared.wake();
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let watched = self.shared.forget(&mut state, self.key);
        while state.running == Some(self.key) && !state.on_own_thread() {
            self.shared.changed.wait(&mut state);
        }
        drop(state);
        drop(watched);
    }
}

/// A handler and whether it waits to be called.
struct Notified {
    handler: Weak<dyn EventHandler>,
    pending: AtomicBool,
}

/// What [`EventLoop::notifier`] returns.
struct Notify {
    /// Weak, as a handler on the loop may hold its own notifier.
    shared: Weak<Shared>,
    notified: Arc<Notified>,
}

impl Notifier for Notify {
    fn notify(&self) {
        if self.notified.pending.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.state.lock().notified.push_back(Arc::clone(&self.notified));
            shared.wake();
        }
    }
}

impl Watched {
    /// Tells epoll what is watched for. What is watched for nothing leaves the set, as epoll
    /// reports hang-ups of whatever is in it.
    fn set_interest(&mut self, epoll: &OwnedFd, key: u64, interest: Readiness) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key);
        let done = match (self.polled, interest.is_none()) {
            _ if !self.pollable => Ok(()),
            (false, true) => Ok(()),
            (false, false) => epoll::add(epoll, self.fd.as_fd(), data, flags(interest)),
            (true, false) => epoll::modify(epoll, self.fd.as_fd(), data, flags(interest)),
            (true, true) => epoll::delete(epoll, self.fd.as_fd()),
        };
        match done {
            // What epoll says of regular files.
            Err(Errno::PERM) => self.pollable = false,
            done => done?,
        }
        self.polled = self.pollable && !interest.is_none();
        self.interest = interest;
        Ok(())
    }
}

fn flags(interest: Readiness) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.read);
    flags.set(epoll::EventFlags::OUT, interest.write);
    flags
}

/// What epoll reports, as far as somebody wants to know. After a hang-up or an error both
/// directions are ready, as trying says more.
fn readiness(flags: epoll::EventFlags, interest: Readiness) -> Readiness {
    let over = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
    let read = flags.contains(epoll::EventFlags::IN) || over;
    let write = flags.contains(epoll::EventFlags::OUT) || over;
    Readiness { read: read && interest.read, write: write && interest.write }
}

impl Shared {
    /// The thread.
    fn run(&self) {
        let mut flush = Flush::new();
        let mut events = Vec::with_capacity(EVENTS);
        // A panic is a defect of a device or of ours. Nobody may wait for this thread then, and
        // whoever stops the loop hears of it.
        let run = panic::catch_unwind(AssertUnwindSafe(|| {
            while self.goes_on() {
                self.turn(&mut flush, &mut events);
            }
        }));
        let mut state = self.state.lock();
        state.stopped = true;
        state.at_rest = true;
        state.running = None;
        drop(state);
        self.changed.notify_all();
        if let Err(bug) = run {
            panic::resume_unwind(bug);
        }
    }

    /// Waits while the loop is paused; says whether it has not been stopped.
    fn goes_on(&self) -> bool {
        let mut state = self.state.lock();
        while state.paused && !state.stopped {
            state.at_rest = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        state.at_rest = false;
        !state.stopped
    }

    /// Waits for something to happen, and calls everybody concerned once.
    fn turn(&self, flush: &mut Flush, events: &mut Vec<epoll::Event>) {
        let (unpollable, notified) = {
            let state = self.state.lock();
            (state.unpollable(), !state.notified.is_empty())
        };
        let timeout = if notified || !unpollable.is_empty() {
            Some(Duration::ZERO)
        } else {
            flush.timeout(Instant::now(), &*self.writes)
        };
        events.clear();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An interrupted wait is one for nothing.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref());
        for event in events.iter() {
            match event.data.u64() {
                WAKE => {
                    let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                }
                key => self.call_watch(key, event.flags),
            }
        }
        let both = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        unpollable.into_iter().for_each(|key| self.call_watch(key, both));
        self.call_notified();
        flush.look(Instant::now(), &*self.writes);
    }

    /// Calls the handler of a watch. A pause or the watch's end may have come first.
    fn call_watch(&self, key: u64, flags: epoll::EventFlags) {
        let mut state = self.state.lock();
        if state.paused || state.stopped {
            return;
        }
        let Some(watched) = state.watches.get(&key) else { return };
        let ready = readiness(flags, watched.interest);
        let Some(handler) = watched.handler.upgrade() else {
            let watched = self.forget(&mut state, key);
            drop(state);
            drop(watched);
            return;
        };
        if ready.is_none() {
            return;
        }
        state.running = Some(key);
        MutexGuard::unlocked(&mut state, || self.call(&*handler, ready));
        state.running = None;
        drop(state);
        self.changed.notify_all();
        // Perhaps the last holder, whose destructor may come back here.
        drop(handler);
    }

    /// Calls the handlers that were notified until now, once each.
    fn call_notified(&self) {
        let count = self.state.lock().notified.len();
        for _ in 0..count {
            let mut state = self.state.lock();
            if state.paused || state.stopped {
                return;
            }
            let Some(notified) = state.notified.pop_front() else { return };
            drop(state);
            notified.pending.store(false, Ordering::SeqCst);
            if let Some(handler) = notified.handler.upgrade() {
                self.call(&*handler, Readiness::NONE);
            }
        }
    }

    fn call(&self, handler: &dyn EventHandler, ready: Readiness) {
        self.writes.deliver();
        handler.event(ready);
    }

    /// Takes a watch out. It is returned to be dropped without the lock, as its descriptor's
    /// destructor may come back here.
    fn forget(&self, state: &mut State, key: u64) -> Option<Watched> {
        let watched = state.watches.remove(&key)?;
        if watched.polled {
            let _ = epoll::delete(&self.epoll, watched.fd.as_fd());
        }
        Some(watched)
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl State {
    fn on_own_thread(&self) -> bool {
        self.thread == Some(thread::current().id())
    }

    /// The watches that are always ready, and wanted.
    fn unpollable(&self) -> Vec<u64> {
        let always = |watched: &Watched| !watched.pollable && !watched.interest.is_none();
        self.watches.iter().filter(|(_, watched)| always(watched)).map(|(key, _)| *key).collect()
    }
}

/// When to look for coalesced writes of a guest that has gone idle: soon after there have been
/// some, and ever later while there are none.
struct Flush {
    wait: Duration,
    next: Option<Instant>,
}

impl Flush {
    const fn new() -> Self {
        Self { wait: FLUSH_SOON, next: None }
    }

    /// How long until the next look; `None` while there is nothing to look for.
    fn timeout(&mut self, now: Instant, writes: &dyn QueuedWrites) -> Option<Duration> {
        if !writes.possible() {
            *self = Self::new();
            return None;
        }
        Some(self.next.get_or_insert(now + self.wait).saturating_duration_since(now))
    }

    /// Looks, if it is time to.
    fn look(&mut self, now: Instant, writes: &dyn QueuedWrites) {
        if self.next.is_some_and(|next| next <= now) {
            self.wait = if writes.deliver() { FLUSH_SOON } else { (self.wait * 2).min(FLUSH_LATE) };
            self.next = None;
        }
    }
}
