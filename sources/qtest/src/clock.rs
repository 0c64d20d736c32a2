//! Time that passes when a client says so.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{Clock, Timer, Wake};

/// A clock that stands still until it is told to go on. Clones are the same clock.
#[derive(Clone)]
pub struct VirtualClock(Arc<Mutex<Inner>>);

/// No device is ever called with this locked.
struct Inner {
    now_ns: u64,
    utc_start_ns: u64,
    /// The number tells timers of one deadline apart: the one made first is woken first.
    deadlines: BTreeMap<(u64, u64), Weak<dyn Wake>>,
    next_timer: u64,
}

/// How an advance of the clock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// At the time asked for, or later already.
    Done,
    /// At an earlier deadline, where the caller broke it off. Another advance goes on from there.
    BrokenOff,
}

impl VirtualClock {
    /// A clock at machine time 0, which is `utc_start_ns` after 1970-01-01 00:00 UTC.
    pub fn new(utc_start_ns: u64) -> Self {
        let deadlines = BTreeMap::new();
        Self(Arc::new(Mutex::new(Inner { now_ns: 0, utc_start_ns, deadlines, next_timer: 0 })))
    }

    /// The earliest deadline of all timers, in machine time; it may have passed already.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.0.lock().deadlines.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// It is `now_ns`, without anybody being woken: for a machine that is restored, whose devices
    /// arm their timers anew.
    pub fn set(&self, now_ns: u64) {
        self.0.lock().now_ns = now_ns;
    }

    /// Moves time on to `to_ns`, never back. Stops at every deadline on the way, in order, to wake
    /// its target at its own time, and asks `after_wake` each time whether to go on: a device may
    /// arm one deadline after the other, so only the caller can tell how many are too many.
    pub fn advance(&self, to_ns: u64, mut after_wake: impl FnMut() -> ControlFlow<()>) -> Advance {
        while let Some(target) = self.take_due(to_ns) {
            if let Some(target) = target.upgrade() {
                target.wake();
            }
            if after_wake().is_break() {
                return Advance::BrokenOff;
            }
        }
        let mut inner = self.0.lock();
        inner.now_ns = inner.now_ns.max(to_ns);
        Advance::Done
    }

    /// Takes the first deadline up to `to_ns`; it is that time now.
    fn take_due(&self, to_ns: u64) -> Option<Weak<dyn Wake>> {
        let mut inner = self.0.lock();
        let limit = inner.now_ns.max(to_ns);
        let first = inner.deadlines.first_entry().filter(|first| first.key().0 <= limit)?;
        let ((deadline, _), target) = first.remove_entry();
        inner.now_ns = inner.now_ns.max(deadline);
        Some(target)
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        self.0.lock().now_ns
    }

    fn utc_ns(&self) -> u64 {
        let inner = self.0.lock();
        inner.utc_start_ns.saturating_add(inner.now_ns)
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        let mut inner = self.0.lock();
        let id = inner.next_timer;
        inner.next_timer += 1;
        Box::new(VirtualTimer { clock: self.clone(), id, target, armed: Mutex::new(None) })
    }
}

struct VirtualTimer {
    clock: VirtualClock,
    id: u64,
    target: Weak<dyn Wake>,
    /// Taken outside the clock's lock.
    armed: Mutex<Option<u64>>,
}

impl Timer for VirtualTimer {
    /// A deadline that has passed expires with the next advance, even one by nothing: devices arm
    /// their timers with their own lock held.
    fn arm(&self, deadline_ns: Option<u64>) {
        let mut armed = self.armed.lock();
        let mut inner = self.clock.0.lock();
        if let Some(before) = std::mem::replace(&mut *armed, deadline_ns) {
            inner.deadlines.remove(&(before, self.id));
        }
        if let Some(deadline) = deadline_ns {
            inner.deadlines.insert((deadline, self.id), Weak::clone(&self.target));
        }
    }
}

impl Drop for VirtualTimer {
    fn drop(&mut self) {
        self.arm(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rearms itself every `period_ns`, and writes down when it was woken.
    struct Ticker {
        clock: VirtualClock,
        timer: Box<dyn Timer>,
        period_ns: u64,
        woken_at: Mutex<Vec<u64>>,
    }

    impl Ticker {
        fn new(clock: &VirtualClock, period_ns: u64) -> Arc<Self> {
            let ticker = Arc::new_cyclic(|me: &Weak<Self>| Self {
                clock: clock.clone(),
                timer: clock.timer(me.clone()),
                period_ns,
                woken_at: Mutex::default(),
            });
            ticker.timer.arm(Some(period_ns));
            ticker
        }
    }

    impl Wake for Ticker {
        fn wake(&self) {
            let now = self.clock.now_ns();
            self.woken_at.lock().push(now);
            self.timer.arm(Some(now + self.period_ns));
        }
    }

    fn go_on() -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_step_stops_at_each_deadline_at_its_own_time() {
        let clock = VirtualClock::new(1_000);
        let (a, b) = (Ticker::new(&clock, 10), Ticker::new(&clock, 15));
        assert_eq!(clock.advance(31, go_on), Advance::Done);
        assert_eq!(*a.woken_at.lock(), [10, 20, 30]);
        assert_eq!(*b.woken_at.lock(), [15, 30]);
        assert_eq!((clock.now_ns(), clock.utc_ns()), (31, 1_031));
        assert_eq!(clock.next_deadline_ns(), Some(40));
    }

    #[test]
    fn time_never_goes_back() {
        let clock = VirtualClock::new(0);
        clock.advance(100, go_on);
        assert_eq!(clock.advance(50, go_on), Advance::Done);
        assert_eq!(clock.now_ns(), 100);
    }

    #[test]
    fn a_step_that_is_broken_off_stays_at_the_deadline_it_reached() {
        let clock = VirtualClock::new(0);
        let ticker = Ticker::new(&clock, 10);
        let mut left = 3;
        let end = clock.advance(u64::MAX, || {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((end, clock.now_ns()), (Advance::BrokenOff, 30));
        assert_eq!(ticker.woken_at.lock().len(), 3);
    }

    #[test]
    fn timers_that_are_gone_or_cleared_wake_nobody() {
        let clock = VirtualClock::new(0);
        let gone = Ticker::new(&clock, 10);
        drop(gone);
        assert_eq!(clock.next_deadline_ns(), None);
        let cleared = Ticker::new(&clock, 10);
        cleared.timer.arm(None);
        clock.advance(100, go_on);
        assert!(cleared.woken_at.lock().is_empty());
    }
}
