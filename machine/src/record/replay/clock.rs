//! Time in a replay: what the recording says.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{AccessClock, Clock, Timer, Wake};

/// A clock that is set. Clones are the same clock.
#[derive(Clone)]
pub(super) struct ReplayClock(Arc<Mutex<Inner>>);

struct Inner {
    now_ns: u64,
    utc_start_ns: u64,
    /// In the order in which they were made.
    timers: Vec<Armed>,
}

struct Armed {
    target: Weak<dyn Wake>,
    deadline_ns: Option<u64>,
}

impl ReplayClock {
    pub(super) fn new(utc_start_ns: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner { now_ns: 0, utc_start_ns, timers: Vec::new() })))
    }

    pub(super) fn set(&self, now_ns: u64) {
        self.0.lock().now_ns = now_ns;
    }

    /// Timer `number` expires, which has to be due. Why it cannot, if it is not.
    pub(super) fn fire(&self, number: u64) -> Result<(), String> {
        let mut inner = self.0.lock();
        let now_ns = inner.now_ns;
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let timer = inner.timers.get_mut(at).ok_or_else(|| "no such timer".to_owned())?;
        match timer.deadline_ns {
            None => return Err("it not set".to_owned()),
            Some(due) if due > now_ns => return Err(format!("it set to {due} ns, later than now")),
            Some(_) => timer.deadline_ns = None,
        }
        let target = timer.target.upgrade();
        drop(inner);
        if let Some(target) = target {
            target.wake();
        }
        Ok(())
    }
}

impl Clock for ReplayClock {
    fn now_ns(&self) -> u64 {
        self.0.lock().now_ns
    }

    fn utc_ns(&self) -> u64 {
        let inner = self.0.lock();
        inner.utc_start_ns.saturating_add(inner.now_ns)
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        let mut inner = self.0.lock();
        inner.timers.push(Armed { target, deadline_ns: None });
        Box::new(ReplayTimer { clock: self.clone(), number: inner.timers.len() - 1 })
    }
}

impl AccessClock for ReplayClock {
    fn stamp_ns(&self) -> u64 {
        self.now_ns()
    }
}

struct ReplayTimer {
    clock: ReplayClock,
    number: usize,
}

impl Timer for ReplayTimer {
    fn arm(&self, deadline_ns: Option<u64>) {
        if let Some(timer) = self.clock.0.lock().timers.get_mut(self.number) {
            timer.deadline_ns = deadline_ns;
        }
    }
}

impl Drop for ReplayTimer {
    fn drop(&mut self) {
        self.arm(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Mutex<u32>);

    impl Wake for Count {
        fn wake(&self) {
            *self.0.lock() += 1;
        }
    }

    #[test]
    fn a_timer_expires_when_it_was_recorded_to_and_is_due() {
        let (clock, count) = (ReplayClock::new(7), Arc::new(Count(Mutex::new(0))));
        let target: Weak<Count> = Arc::downgrade(&count);
        let timer = clock.timer(target);
        assert_eq!(clock.fire(0), Err("it not set".to_owned()));
        assert_eq!(clock.fire(1), Err("no such timer".to_owned()));
        timer.arm(Some(100));
        clock.set(99);
        assert!(clock.fire(0).unwrap_err().contains("100 ns"));
        clock.set(100);
        assert_eq!(clock.fire(0), Ok(()));
        assert!(clock.fire(0).is_err(), "once");
        assert_eq!((*count.0.lock(), clock.utc_ns()), (1, 107));
    }
}
