//! The machine's time on a real host.
//!
//! All timers of a machine share one timer of the kernel's (a timerfd), which the machine's event
//! loop watches; devices run on the loop's thread when they are woken. Nothing is armed, nothing
//! runs: an idle machine's loop sleeps for good.
//!
//! Precision: a timer never expires early. How late it is, is the host's doing: the time until the
//! loop's thread gets a processor, and whatever the handlers called before it took.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use trapline_device::{
    AccessClock, Clock, EventHandler, EventLoop, Readiness, Stamp, Timer, Wake, Watch,
};

#[cfg(test)]
mod tests;

/// The host's clocks as a [`Clock`]. When it has been dropped, timers still around never expire.
pub struct HostClock {
    shared: Arc<Shared>,
    /// Once it is dropped, no device is woken any more.
    _watch: Box<dyn Watch>,
}

/// What the clock, its timers and the event loop have in common. The lock is a leaf.
struct Shared {
    time: Time,
    queue: Mutex<Queue>,
    /// The kernel's timer. Set, with the queue locked, to the queue's earliest deadline or to an
    /// earlier one, at which nothing happens then.
    timer: Arc<OwnedFd>,
    /// `waking` has become `None`.
    idle: Condvar,
}

/// Machine time: that of the host's clock that the machine was not paused for. Read at each access,
/// so without a lock; changed with the queue locked.
struct Time {
    start: Instant,
    /// How long the machine was paused, in nanoseconds.
    paused_ns: AtomicU64,
    /// At which machine time it stands still; [`RUNNING`] while it goes on, [`STOPPING`] on the way.
    stopped_ns: AtomicU64,
}

const RUNNING: u64 = u64::MAX;
const STOPPING: u64 = u64::MAX - 1;

#[derive(Default)]
struct Queue {
    /// The identity tells timers of one deadline apart.
    deadlines: BTreeMap<(u64, u64), Weak<dyn Wake>>,
    next_id: u64,
    /// The thread that wakes a device now.
    waking: Option<ThreadId>,
    /// The clock is gone.
    stopped: bool,
}

impl HostClock {
    /// A clock at machine time 0, running, whose timers wake devices on the thread of
    /// `event_loop`.
    ///
    /// # Errors
    /// The host has no timer to spare.
    pub fn new(event_loop: &dyn EventLoop) -> io::Result<Self> {
        Self::starting_at(event_loop, 0)
    }

    /// The same at another machine time, in nanoseconds: that of a machine whose clock another process
    /// has.
    ///
    /// # Errors
    /// As of [`HostClock::new`].
    pub fn starting_at(event_loop: &dyn EventLoop, now_ns: u64) -> io::Result<Self> {
        let now = Instant::now();
        let start = now.checked_sub(Duration::from_nanos(now_ns)).unwrap_or(now);
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = Arc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        let shared = Arc::new(Shared {
            time: Time { start, paused_ns: AtomicU64::new(0), stopped_ns: AtomicU64::new(RUNNING) },
            queue: Mutex::default(),
            timer: Arc::clone(&timer),
            idle: Condvar::new(),
        });
        let handler: Weak<Shared> = Arc::downgrade(&shared);
        let watch = event_loop.watch(timer, Readiness::READ, handler)?;
        Ok(Self { shared, _watch: watch })
    }

    /// Stops machine time; UTC goes on. On return no device is being woken, and none will be until
    /// [`HostClock::resume`]; when a device pauses the clock while it is woken, that one excepted.
    /// Does nothing when paused already.
    pub fn pause(&self) {
        let mut queue = self.shared.queue.lock();
        self.shared.time.pause();
        while queue.waking.is_some_and(|waking| waking != thread::current().id()) {
            self.shared.idle.wait(&mut queue);
        }
    }

    /// Lets machine time go on from where it was stopped. Does nothing when running.
    pub fn resume(&self) {
        let queue = self.shared.queue.lock();
        self.shared.time.resume();
        self.shared.set_timer(&queue);
    }
}

impl Clock for HostClock {
    /// Devices are told the stamp of the access that is being made, if one is
    /// ([`trapline_device::Stamp`]).
    fn now_ns(&self) -> u64 {
        self.shared.time.device_now_ns()
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

impl AccessClock for HostClock {
    fn stamp_ns(&self) -> u64 {
        self.shared.time.now_ns()
    }
}

impl Drop for HostClock {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.stopped = true;
        queue.deadlines.clear();
    }
}

impl EventHandler for Shared {
    /// Wakes the first device that is due. If there are more, the kernel's timer expires again at
    /// once.
    fn event(&self, _ready: Readiness) {
        let mut queue = self.queue.lock();
        let due = queue
            .deadlines
            .first_entry()
            .filter(|due| self.time.goes_on() && due.key().0 <= self.time.device_now_ns());
        let Some(due) = due else { return self.set_timer(&queue) };
        let target = due.remove();
        queue.waking = Some(thread::current().id());
        let woken = MutexGuard::unlocked(&mut queue, || {
            panic::catch_unwind(AssertUnwindSafe(|| {
                if let Some(target) = target.upgrade() {
                    target.wake();
                }
            }))
        });
        queue.waking = None;
        self.idle.notify_all();
        if let Err(bug) = woken {
            // The machine has lost a device, and the loop ends here.
            queue.stopped = true;
            drop(queue);
            panic::resume_unwind(bug);
        }
        self.set_timer(&queue);
    }
}

impl Shared {
    /// Sets the kernel's timer to the queue's earliest deadline. While time stands still there is
    /// none.
    fn set_timer(&self, queue: &Queue) {
        let first = queue.deadlines.first_key_value().filter(|_| self.time.goes_on());
        // Zero would mean never.
        let wait = first.map_or(0, |((deadline, _), _)| {
            deadline.saturating_sub(self.time.now_ns()).clamp(1, WAIT_MAX)
        });
        let it_value = Timespec::try_from(Duration::from_nanos(wait)).unwrap_or_default();
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        assert!(set.is_ok(), "a timer takes any time up to {WAIT_MAX} ns: {set:?}");
    }
}

/// The kernel's timer is set to no more than this, in nanoseconds, and then once more: 100 days.
const WAIT_MAX: u64 = 100 * 24 * 3600 * 1_000_000_000;

impl Time {
    fn now_ns(&self) -> u64 {
        loop {
            match self.stopped_ns.load(Ordering::SeqCst) {
                STOPPING => std::hint::spin_loop(),
                RUNNING => {
                    let paused_ns = self.paused_ns.load(Ordering::Relaxed);
                    let now_ns = self.host_ns().saturating_sub(paused_ns);
                    // What was read after a pause had begun may be later than the time it stops at.
                    if self.stopped_ns.load(Ordering::SeqCst) == RUNNING {
                        return now_ns;
                    }
                }
                stopped_ns => return stopped_ns,
            }
        }
    }

    /// The time for devices: that of the access under way on this thread, if there is one.
    fn device_now_ns(&self) -> u64 {
        Stamp::or_now(|| self.now_ns())
    }

    fn host_ns(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    fn goes_on(&self) -> bool {
        self.stopped_ns.load(Ordering::Relaxed) == RUNNING
    }

    fn pause(&self) {
        if self.goes_on() {
            self.stopped_ns.store(STOPPING, Ordering::SeqCst);
            let paused_ns = self.paused_ns.load(Ordering::Relaxed);
            self.stopped_ns.store(self.host_ns().saturating_sub(paused_ns), Ordering::SeqCst);
        }
    }

    fn resume(&self) {
        if !self.goes_on() {
            let paused_ns = self.host_ns().saturating_sub(self.now_ns());
            self.paused_ns.store(paused_ns, Ordering::Relaxed);
            self.stopped_ns.store(RUNNING, Ordering::SeqCst);
        }
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
        let Some(deadline) = deadline_ns.filter(|_| !queue.stopped) else { return };
        let key = (deadline, self.id);
        queue.deadlines.insert(key, Weak::clone(&self.target));
        if queue.deadlines.first_key_value().is_some_and(|(&first, _)| first == key) {
            self.shared.set_timer(&queue);
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
