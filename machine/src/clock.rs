//! The machine's time on a real host.
//!
//! One thread sleeps until the earliest deadline of all timers; devices run in it when they are
//! woken. Nothing is armed, nothing runs: an idle machine's thread sleeps for good.
//!
//! Precision: a timer never expires early. How late it is, is the host's doing: its timer slack
//! (50 µs for an ordinary Linux thread), the time until the thread gets a processor, and whatever
//! the devices woken before it took.

use std::collections::BTreeMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use trapline_device::{Clock, Timer, Wake};

#[cfg(test)]
mod tests;

/// The host's clocks as a [`Clock`]. Dropping it ends its thread; timers still around then never
/// expire.
pub struct HostClock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the clock, its timers and its thread have in common. The two locks are leaves, except that
/// `time` may be taken inside `queue`.
struct Shared {
    time: RwLock<Time>,
    queue: Mutex<Queue>,
    /// The queue's earliest deadline, `time`, or `stop` has changed.
    changed: Condvar,
    /// `in_wake` has become false.
    idle: Condvar,
    /// See [`HostClock::before_waking`].
    before_waking: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Machine time: what had passed at an instant, and whether it goes on from there.
#[derive(Clone, Copy)]
struct Time {
    passed_ns: u64,
    running_since: Option<Instant>,
}

#[derive(Default)]
struct Queue {
    /// The identity tells timers of one deadline apart.
    deadlines: BTreeMap<(u64, u64), Weak<dyn Wake>>,
    next_id: u64,
    in_wake: bool,
    stop: bool,
}

impl HostClock {
    /// A clock at machine time 0, running.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            time: RwLock::new(Time { passed_ns: 0, running_since: Some(Instant::now()) }),
            queue: Mutex::default(),
            changed: Condvar::new(),
            idle: Condvar::new(),
            before_waking: OnceLock::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("clock".into()).spawn(move || theirs.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has `first` called in the clock's thread each time before a device is woken there, with no
    /// lock held: a device that interrupts the guest should have had what the guest wrote before.
    /// Only the first call counts.
    pub fn before_waking(&self, first: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.before_waking.set(Box::new(first));
    }

    /// Stops machine time; UTC goes on. On return no device is being woken, and none will be until
    /// [`HostClock::resume`]; when a device pauses the clock while it is woken, that one excepted.
    /// Does nothing when paused already.
    pub fn pause(&self) {
        {
            let mut time = self.shared.time.write();
            *time = Time { passed_ns: time.now_ns(), running_since: None };
        }
        let mut queue = self.shared.queue.lock();
        while queue.in_wake && !self.on_own_thread() {
            self.shared.idle.wait(&mut queue);
        }
    }

    /// Lets machine time go on from where it was stopped. Does nothing when running.
    pub fn resume(&self) {
        {
            let mut time = self.shared.time.write();
            time.running_since.get_or_insert_with(Instant::now);
        }
        self.shared.tell_thread(&self.shared.queue.lock());
    }

    fn on_own_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }
}

impl Clock for HostClock {
    fn now_ns(&self) -> u64 {
        self.shared.time.read().now_ns()
    }

    /// The host's wall clock; a host before 1970 counts as 1970.
    fn utc_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        let mut queue = self.shared.queue.lock();
        let id = queue.next_id;
        queue.next_id += 1;
        let shared = Arc::clone(&self.shared);
        Box::new(HostTimer { shared, id, target, deadline_ns: Mutex::new(None) })
    }
}

impl Drop for HostClock {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.stop = true;
            queue.deadlines.clear();
            self.shared.tell_thread(&queue);
        }
        // The thread itself drops the clock when it wakes a device nobody else holds any more. It
        // can not wait for itself, and ends on its return from there.
        if self.on_own_thread() {
            return;
        }
        if let Some(Err(bug)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            panic::resume_unwind(bug);
        }
    }
}

impl Shared {
    /// The thread.
    fn run(&self) {
        let mut queue = self.queue.lock();
        while !queue.stop {
            let time = *self.time.read();
            let due = queue.deadlines.first_entry().filter(|_| time.running_since.is_some());
            let Some(due) = due else {
                self.changed.wait(&mut queue);
                continue;
            };
            let wait_ns = due.key().0.saturating_sub(time.now_ns());
            if wait_ns > 0 {
                self.changed.wait_for(&mut queue, Duration::from_nanos(wait_ns));
                continue;
            }
            let target = due.remove();
            queue.in_wake = true;
            let woken = MutexGuard::unlocked(&mut queue, || {
                panic::catch_unwind(AssertUnwindSafe(|| {
                    if let Some(target) = target.upgrade() {
                        self.before_waking.get().inspect(|first| first());
                        target.wake();
                    }
                }))
            });
            queue.in_wake = false;
            self.idle.notify_all();
            if let Err(bug) = woken {
                // The machine has lost a device. Nobody may wait for this thread, and whoever ends
                // the clock hears of it.
                queue.stop = true;
                panic::resume_unwind(bug);
            }
        }
    }

    /// The thread looks again. Under the queue's lock, so that it either has not looked yet or is
    /// asleep already.
    fn tell_thread(&self, _queue: &MutexGuard<'_, Queue>) {
        self.changed.notify_one();
    }
}

impl Time {
    fn now_ns(&self) -> u64 {
        let since = self.running_since.map_or(0, |since| nanoseconds(since.elapsed()));
        self.passed_ns.saturating_add(since)
    }
}

struct HostTimer {
    shared: Arc<Shared>,
    id: u64,
    target: Weak<dyn Wake>,
    /// The deadline last set. Taken outside the queue's lock.
    deadline_ns: Mutex<Option<u64>>,
}

impl Timer for HostTimer {
    fn arm(&self, deadline_ns: Option<u64>) {
        let mut armed = self.deadline_ns.lock();
        let mut queue = self.shared.queue.lock();
        if let Some(before) = std::mem::replace(&mut *armed, deadline_ns) {
            queue.deadlines.remove(&(before, self.id));
        }
        let Some(deadline) = deadline_ns.filter(|_| !queue.stop) else { return };
        let key = (deadline, self.id);
        queue.deadlines.insert(key, Weak::clone(&self.target));
        if queue.deadlines.first_key_value().is_some_and(|(&first, _)| first == key) {
            self.shared.tell_thread(&queue);
        }
    }
}

impl Drop for HostTimer {
    fn drop(&mut self) {
        self.arm(None);
    }
}

/// A duration in nanoseconds; 584 years at most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
