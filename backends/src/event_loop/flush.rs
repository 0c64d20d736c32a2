//! The schedule by which the event loop delivers coalesced writes of a guest that makes no other
//! access.

use std::time::{Duration, Instant};

use super::QueuedWrites;

/// How soon a write of a guest that has gone idle is delivered while there have been some. Nobody
/// tells us that the kernel queued a write, so the loop looks now and then.
const FLUSH_SOON: Duration = Duration::from_millis(5);
/// How late it can be at most.
const FLUSH_LATE: Duration = Duration::from_millis(80);

/// When to look for coalesced writes of a guest that has gone idle: soon after there have been
/// some, and ever later while there are none.
pub(super) struct Flush {
    wait: Duration,
    next: Option<Instant>,
}

impl Flush {
    pub(super) const fn new() -> Self {
        Self { wait: FLUSH_SOON, next: None }
    }

    /// How long until the next look; `None` while there is nothing to look for.
    pub(super) fn timeout(&mut self, now: Instant, writes: &dyn QueuedWrites) -> Option<Duration> {
        if !writes.possible() {
            *self = Self::new();
            return None;
        }
        Some(self.next.get_or_insert(now + self.wait).saturating_duration_since(now))
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, now: Instant, writes: &dyn QueuedWrites) {
        if self.next.is_some_and(|next| next <= now) {
            self.wait = if writes.deliver() { FLUSH_SOON } else { (self.wait * 2).min(FLUSH_LATE) };
            self.next = None;
        }
    }
}
