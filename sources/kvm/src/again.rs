//! A limit for a `KVM_RUN` that wants to be asked again.

use std::time::{Duration, Instant};

/// Counts `KVM_RUN`s in a row that failed with `EAGAIN` at once, to end a vCPU that would spin on
/// them for ever. A vCPU that waits for its start-up message has them now and then, after sleeping.
#[derive(Debug, Default)]
pub(crate) struct Again {
    last: Option<Instant>,
    count: u32,
}

impl Again {
    /// Failures closer together than this are in a row: the vCPU has not slept between them.
    const AT_ONCE: Duration = Duration::from_millis(1);
    /// More in a row than this end the vCPU.
    const COUNT_MAX: u32 = 10_000;

    /// Counts one more, at `now`; whether that is too many.
    pub(crate) fn is_too_often(&mut self, now: Instant) -> bool {
        let at_once = self.last.is_some_and(|last| now.duration_since(last) < Self::AT_ONCE);
        self.count = if at_once { self.count.saturating_add(1) } else { 1 };
        self.last = Some(now);
        self.count > Self::COUNT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_that_wants_to_be_asked_for_ever_is_not_and_one_that_slept_is() {
        let mut again = Again::default();
        let start = Instant::now();
        let quick = |n: u32| start + Duration::from_micros(50) * n;
        assert!((0..10_000).all(|n| !again.is_too_often(quick(n))));
        assert!(again.is_too_often(quick(10_000)));
        let mut again = Again::default();
        let slow = |n: u32| start + Duration::from_millis(2) * n;
        assert!((0..30_000).all(|n| !again.is_too_often(slow(n))));
    }
}
