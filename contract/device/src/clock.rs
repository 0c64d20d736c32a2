//! Time as devices know it: the machine's, which may be virtual.

use std::sync::Weak;

/// The machine's time. Same accesses and same clock give the same device state, so a device may
/// ask nobody else for the time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the machine was started; never goes back.
    fn now_ns(&self) -> u64;

    /// Nanoseconds since 1970-01-01 00:00 UTC, leap seconds not counted. May jump when the host's
    /// clock is set.
    fn utc_ns(&self) -> u64;

    /// A timer that calls `target` when it expires. Not armed.
    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer>;
}

/// Somebody a timer wakes.
pub trait Wake: Send + Sync {
    /// An armed deadline has passed. Called without any lock of the clock held; may come late or
    /// once more after a re-arm, so look at the clock.
    fn wake(&self);
}

/// One deadline.
pub trait Timer: Send + Sync {
    /// Sets the deadline (in [`Clock::now_ns`] time), or clears it. Replaces the previous one; a
    /// deadline in the past expires at once.
    fn arm(&self, deadline_ns: Option<u64>);
}
