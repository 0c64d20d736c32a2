//! The event loop without a thread: epoll, asked by whoever owns the loop.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use trapline_device::{
    Doorbell, EventHandler, EventLoop, Notifier, Readiness, Watch, WatchedEventFd,
};

use super::QueuedWrites;
use super::epoll_set::{EpollSet, watched_eventfd};

/// An event loop without a thread, for machines whose accesses come one by one, from a qtest client
/// or a recording: handlers are called when its owner says so, between two accesses. What the guest
/// sees then depends on its accesses alone, as long as no descriptor of the host's is watched.
pub struct PolledLoop {
    set: Arc<EpollSet>,
}

impl PolledLoop {
    /// A loop for devices whose coalesced writes are `writes`.
    ///
    /// # Errors
    /// The host has no descriptor to spare.
    pub fn new(writes: impl QueuedWrites + 'static) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { set: Arc::new(EpollSet::new(writes)?) }))
    }

    /// Calls whoever has something to do now, once each and without waiting: watches in the order in
    /// which they were made, then notified handlers in the order in which they were notified. Says
    /// whether there was anybody. One thread calls at a time; a handler that comes back here calls
    /// nobody.
    pub fn turn(&self) -> bool {
        let Some(turn) = Turn::begin(&self.set) else { return false };
        let most = turn.0.state.lock().watched() + 1;
        let ready = turn.0.wait(most, || Some(Duration::ZERO)).sorted();
        turn.0.call_all(ready)
    }

    /// Turns until there is nothing more to do, but no more than `turns` times, as there are
    /// handlers that always find something: one whose descriptor stays ready, say.
    pub fn settle(&self, turns: u32) {
        let _ = (0..turns).find(|_| !self.turn());
    }
}

impl EventLoop for PolledLoop {
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
        Ok(Doorbell::by_call(self, handler))
    }

    fn eventfd(&self, handler: Weak<dyn EventHandler>) -> io::Result<WatchedEventFd> {
        watched_eventfd(self, handler)
    }
}

/// The calling thread is the loop's for the time of one turn.
struct Turn<'a>(&'a EpollSet);

impl<'a> Turn<'a> {
    /// `None` in a handler of the loop's.
    fn begin(set: &'a EpollSet) -> Option<Self> {
        let mut state = set.state.lock();
        while state.thread.is_some() {
            if state.on_own_thread() {
                return None;
            }
            set.changed.wait(&mut state);
        }
        state.thread = Some(thread::current().id());
        Some(Self(set))
    }
}

impl Drop for Turn<'_> {
    /// Also when a handler has panicked.
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.thread = None;
        state.running = None;
        drop(state);
        self.0.changed.notify_all();
    }
}
