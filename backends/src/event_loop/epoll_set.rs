//! What event loops with and without a thread have in common: an epoll instance, the handlers of its
//! descriptors, and the queue of handlers that were notified.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use smallvec::SmallVec;
use trapline_device::{
    Doorbell, EventFd, EventHandler, EventLoop, Notifier, Readiness, Watch, WatchedEventFd,
};

use super::{EVENTS, QueuedWrites};

/// The set's own eventfd among the epoll keys.
const WAKE: u64 = 0;
/// A loop's [`Alarm`]; watches count from here.
const ALARM: u64 = 1;

/// Descriptors and those who were notified, with their handlers.
pub(super) struct EpollSet {
    epoll: OwnedFd,
    /// Brings the thread back from waiting.
    wake: OwnedFd,
    pub(super) writes: Box<dyn QueuedWrites>,
    pub(super) state: Mutex<State>,
    /// A handler has returned, the thread has paused or ended, or it is to go on.
    pub(super) changed: Condvar,
}

/// No handler is called with this locked.
#[derive(Default)]
pub(super) struct State {
    watches: BTreeMap<u64, Watched>,
    next_key: u64,
    /// How many of them are always ready.
    unpollable: usize,
    /// Doorbells that rang while the loop was paused.
    rung: BTreeSet<u64>,
    /// Handlers whose notifiers were notified, the earliest first.
    notified: VecDeque<Arc<Notified>>,
    /// The watch whose handler is being called.
    pub(super) running: Option<u64>,
    pub(super) paused: bool,
    pub(super) stopped: bool,
    /// Whether the thread calls no handler until it is told to go on, or ever.
    pub(super) at_rest: bool,
    /// The thread that calls the handlers.
    pub(super) thread: Option<ThreadId>,
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
    trigger: Trigger,
}

/// What of a descriptor is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// That it is ready.
    Level,
    /// That it has become so, or once more so: each signal of an eventfd whose counter nobody takes,
    /// which saves a system call an event.
    Edge,
}

impl EpollSet {
    /// An empty set.
    pub(super) fn new(writes: impl QueuedWrites + 'static) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let state = Mutex::new(State { next_key: ALARM + 1, ..State::default() });
        Ok(Self { epoll, wake, writes: Box::new(writes), state, changed: Condvar::new() })
    }

    /// See [`EventLoop::watch`].
    pub(super) fn watch(
        self: &Arc<Self>,
        fd: Arc<dyn AsFd + Send + Sync>,
        interest: Readiness,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Box<dyn Watch>> {
        self.watch_for(Trigger::Level, fd, interest, handler)
    }

    /// See [`EventLoop::doorbell`]: the handler is called for each signal of an eventfd.
    pub(super) fn doorbell(
        self: &Arc<Self>,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Doorbell> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let event = EventFd::from(fd);
        let fd = Arc::new(event.clone());
        let watch = self.watch_for(Trigger::Edge, fd, Readiness::READ, handler)?;
        Ok(Doorbell::by_event(event, watch))
    }

    fn watch_for(
        self: &Arc<Self>,
        trigger: Trigger,
        fd: Arc<dyn AsFd + Send + Sync>,
        interest: Readiness,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Box<dyn Watch>> {
        let mut state = self.state.lock();
        let key = state.next_key;
        state.next_key += 1;
        let none = Readiness::NONE;
        let mut watched =
            Watched { fd, handler, interest: none, pollable: true, polled: false, trigger };
        watched.set_interest(&self.epoll, key, interest)?;
        let always = !watched.pollable;
        state.unpollable += usize::from(always);
        state.watches.insert(key, watched);
        drop(state);
        if always {
            self.wake();
        }
        Ok(Box::new(Guard { set: Arc::clone(self), key }))
    }

    /// See [`EventLoop::notifier`].
    pub(super) fn notifier(self: &Arc<Self>, handler: Weak<dyn EventHandler>) -> Box<dyn Notifier> {
        let pending = AtomicBool::new(false);
        let notified = Arc::new(Notified { handler, pending });
        Box::new(Notify { set: Arc::downgrade(self), notified })
    }

    /// What there is to do, after waiting for it for `timeout` at most, or for good. At most
    /// `most` descriptors are asked of the kernel at once; what is ready and not among them is first
    /// the next time.
    pub(super) fn wait(&self, most: usize, timeout: impl FnOnce() -> Option<Duration>) -> Ready {
        let (known, notified) = {
            let mut state = self.state.lock();
            (state.known_to_be_ready(), !state.notified.is_empty())
        };
        let timeout = if notified || !known.is_empty() { Some(Duration::ZERO) } else { timeout() };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // Nothing is made of it in advance: each event that could be would cost a wait some instructions.
        let mut usual = [const { MaybeUninit::uninit() }; EVENTS];
        let mut long = Vec::new();
        let room = match usual.get_mut(..most) {
            Some(room) => room,
            None => {
                long.resize_with(most, MaybeUninit::uninit);
                &mut long
            }
        };
        // An interrupted wait is one for nothing.
        let waited = epoll::wait(&self.epoll, room, timeout.as_ref());
        let events: &[epoll::Event] = waited.map_or(&[], |(events, _)| events);
        let both = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        let mut ready = SmallVec::new();
        for event in events {
            match event.data.u64() {
                WAKE => {
                    let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                }
                ALARM => {}
                key => ready.push((key, event.flags)),
            }
        }
        ready.extend(known.into_iter().map(|key| (key, both)));
        Ready(ready)
    }

    /// Calls everybody concerned once; says whether there was anybody.
    pub(super) fn call_all(&self, ready: Ready) -> bool {
        let watches = ready.0.into_iter();
        let called = watches.fold(false, |any, (key, flags)| self.call_watch(key, flags) || any);
        self.call_notified() || called
    }

    /// Calls the handler of a watch. A pause or the watch's end may have come first.
    fn call_watch(&self, key: u64, flags: epoll::EventFlags) -> bool {
        // Before it is said that the handler runs: who has the turn may wait for its end, and so may the
        // device that a write is delivered to.
        let _turn = self.writes.begin();
        let mut state = self.state.lock();
        if state.may_call(key) {
            MutexGuard::unlocked(&mut state, || self.writes.deliver());
        }
        let Some(watched) = state.watches.get(&key) else { return false };
        let trigger = watched.trigger;
        if state.paused || state.stopped {
            // The kernel says so once.
            if trigger == Trigger::Edge {
                state.rung.insert(key);
            }
            return false;
        }
        let ready = readiness(flags, watched.interest);
        let Some(handler) = watched.handler.upgrade() else {
            let watched = self.forget(&mut state, key);
            drop(state);
            drop(watched);
            return false;
        };
        if ready.is_none() {
            return false;
        }
        let ready = if trigger == Trigger::Edge { Readiness::NONE } else { ready };
        state.running = Some(key);
        MutexGuard::unlocked(&mut state, || handler.event(ready));
        state.running = None;
        drop(state);
        self.changed.notify_all();
        // Perhaps the last holder, whose destructor may come back here.
        drop(handler);
        true
    }

    /// Calls the handlers that were notified until now, once each.
    fn call_notified(&self) -> bool {
        let count = self.state.lock().notified.len();
        let mut called = false;
        for _ in 0..count {
            let mut state = self.state.lock();
            if state.paused || state.stopped {
                break;
            }
            let Some(notified) = state.notified.pop_front() else { break };
            drop(state);
            let _turn = self.writes.begin();
            notified.pending.store(false, Ordering::SeqCst);
            if let Some(handler) = notified.handler.upgrade() {
                self.writes.deliver();
                handler.event(Readiness::NONE);
                called = true;
            }
        }
        called
    }

    /// Takes a watch out. It is returned to be dropped without the lock, as its descriptor's
    /// destructor may come back here.
    fn forget(&self, state: &mut State, key: u64) -> Option<Watched> {
        let watched = state.watches.remove(&key)?;
        state.unpollable -= usize::from(!watched.pollable);
        state.rung.remove(&key);
        if watched.polled {
            let _ = epoll::delete(&self.epoll, watched.fd.as_fd());
        }
        Some(watched)
    }

    /// Has a thread that waits come back.
    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl State {
    pub(super) fn on_own_thread(&self) -> bool {
        self.thread == Some(thread::current().id())
    }

    fn may_call(&self, key: u64) -> bool {
        !self.paused && !self.stopped && self.watches.contains_key(&key)
    }

    /// How many watches there are.
    pub(super) fn watched(&self) -> usize {
        self.watches.len()
    }

    /// The watches that are ready whatever epoll says: those that always are, and wanted, and
    /// doorbells that rang in a pause.
    fn known_to_be_ready(&mut self) -> Vec<u64> {
        let mut known: Vec<u64> = std::mem::take(&mut self.rung).into_iter().collect();
        if self.unpollable > 0 {
            let always = |watched: &Watched| !watched.pollable && !watched.interest.is_none();
            let always = self.watches.iter().filter(|(_, watched)| always(watched));
            known.extend(always.map(|(key, _)| *key));
        }
        known
    }
}

/// What [`EventLoop::watch`] returns.
struct Guard {
    set: Arc<EpollSet>,
    key: u64,
}

impl Watch for Guard {
    fn set_interest(&self, interest: Readiness) -> io::Result<()> {
        let mut state = self.set.state.lock();
        // Without an entry the handler is gone, and the watch over.
        let Some(watched) = state.watches.get_mut(&self.key) else { return Ok(()) };
        watched.set_interest(&self.set.epoll, self.key, interest)?;
        let always = !watched.pollable;
        drop(state);
        if always {
            self.set.wake();
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.set.state.lock();
        let watched = self.set.forget(&mut state, self.key);
        while state.running == Some(self.key) && !state.on_own_thread() {
            self.set.changed.wait(&mut state);
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
    set: Weak<EpollSet>,
    notified: Arc<Notified>,
}

impl Notifier for Notify {
    fn notify(&self) {
        if self.notified.pending.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(set) = self.set.upgrade() {
            set.state.lock().notified.push_back(Arc::clone(&self.notified));
            set.wake();
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
            (false, false) => epoll::add(epoll, self.fd.as_fd(), data, self.flags(interest)),
            (true, false) => epoll::modify(epoll, self.fd.as_fd(), data, self.flags(interest)),
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

    fn flags(&self, interest: Readiness) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, interest.read);
        flags.set(epoll::EventFlags::OUT, interest.write);
        flags.set(epoll::EventFlags::ET, self.trigger == Trigger::Edge);
        flags
    }
}

/// Brings a loop back from waiting at a time. A time for each wait would do so, too, but would be set
/// and taken back by the kernel in every turn.
pub(super) struct Alarm {
    timer: OwnedFd,
    /// When it rings, if that is to come.
    at: Option<Instant>,
}

impl Alarm {
    /// One that is not set, for the loop of this set.
    pub(super) fn new(set: &EpollSet) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // That it has rung is told once, so nobody need take it.
        let event = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set.epoll, &timer, epoll::EventData::new_u64(ALARM), event)?;
        Ok(Self { timer, at: None })
    }

    /// Has it ring at `due`, or before: when it is set to an earlier time, it stays so.
    pub(super) fn set(&mut self, due: Option<Instant>, now: Instant) {
        let Some(due) = due else { return };
        if self.at.is_some_and(|at| at > now && at <= due) {
            return;
        }
        // A time of 0 would stop it.
        let wait = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let Ok(it_value) = Timespec::try_from(wait) else { return };
        let it_interval = Timespec::default();
        let once = Itimerspec { it_interval, it_value };
        if timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_ok() {
            self.at = Some(due);
        }
    }

    #[cfg(test)]
    pub(super) fn rings_at(&self) -> Option<Instant> {
        self.at
    }
}

/// What epoll reports, as far as somebody wants to know. After a hang-up or an error both
/// directions are ready, as trying says more.
fn readiness(flags: epoll::EventFlags, interest: Readiness) -> Readiness {
    let over = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
    let read = flags.contains(epoll::EventFlags::IN) || over;
    let write = flags.contains(epoll::EventFlags::OUT) || over;
    Readiness { read: read && interest.read, write: write && interest.write }
}

/// Which descriptors are ready, by their keys.
pub(super) struct Ready(SmallVec<[(u64, epoll::EventFlags); 4]>);

impl Ready {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which they were first watched, whatever the kernel's.
    pub(super) fn sorted(mut self) -> Self {
        self.0.sort_by_key(|(key, _)| *key);
        self
    }
}

/// A new eventfd on a loop; see [`EventLoop::eventfd`].
pub(super) fn watched_eventfd(
    event_loop: &dyn EventLoop,
    handler: Weak<dyn EventHandler>,
) -> io::Result<WatchedEventFd> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    WatchedEventFd::new(event_loop, EventFd::from(fd), handler)
}
