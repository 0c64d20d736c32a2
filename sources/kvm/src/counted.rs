//! Stamps of accesses from the processor's own counter.

use std::sync::Arc;
use std::time::Instant;

use trapline::AccessClock;

use crate::arch;

/// A clock whose [`AccessClock::counter`] is the processor's: the time-stamp counter of x86-64, if it is
/// invariant, the generic timer's virtual counter of arm64. After each exit the caches and the TLB are
/// cold, and the time that the host tells takes three pages more than this.
#[derive(Clone)]
pub struct CountedClock<C: ?Sized>(Arc<C>);

impl<C: AccessClock + ?Sized> CountedClock<C> {
    /// `clock` with the processor's counter.
    pub fn new(clock: Arc<C>) -> Self {
        Self(clock)
    }
}

impl<C: AccessClock + ?Sized> AccessClock for CountedClock<C> {
    fn stamp_ns(&self) -> u64 {
        self.0.stamp_ns()
    }

    fn counter(&self) -> Option<fn() -> u64> {
        arch::counter()
    }
}

/// Time since a VM was made, for machines whose devices have no clock.
pub(crate) struct SinceStart(pub(crate) Instant);

impl AccessClock for SinceStart {
    fn stamp_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_counter_goes_on_alike_on_all_threads() {
        let Some(counter) = arch::counter() else { return };
        let (start, began) = (counter(), Instant::now());
        let mut last = start;
        while began.elapsed() < Duration::from_millis(5) {
            let next = std::thread::spawn(counter).join().unwrap();
            assert!(next >= last, "{next} after {last}");
            last = next;
        }
        assert!(last > start);
    }
}
