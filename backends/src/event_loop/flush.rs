//! The schedule by which the event loop delivers coalesced writes of a guest that makes no other
//! access.

use std::time::{Duration, Instant};

use super::QueuedWrites;

/// How soon a write is delivered that a busy guest makes before it goes idle. Nobody tells us that
/// the kernel queued a write, so the loop looks now and then.
const FLUSH_SOON: Duration = Duration::from_millis(5);
/// How late a write of a guest can be that was idle before: this part of the time it was, ...
const IDLE_PART: u32 = 10;
/// ... but no more than this.
const FLUSH_LATE: Duration = Duration::from_secs(1);

/// When to look for coalesced writes of a guest that has gone idle: ever later, while it makes
/// neither writes nor exits. So an idle guest's write is late by a
/// tenth of the time it was idle before, by a second at most, and a guest that has been idle for ten
/// seconds wakes the loop once a second.
pub(super) struct Flush {
    /// When the guest was last known not to be idle.
    active: Option<Instant>,
    /// How many exits there were at the last look.
    exits: u64,
    next: Option<Instant>,
}

impl Flush {
    pub(super) const fn new() -> Self {
        Self { active: None, exits: 0, next: None }
    }

    /// How long until the next look; `None` while there is nothing to look for.
    pub(super) fn timeout(&mut self, now: Instant, writes: &dyn QueuedWrites) -> Option<Duration> {
        if !writes.possible() {
            *self = Self::new();
            return None;
        }
        let idle = now.saturating_duration_since(*self.active.get_or_insert(now));
        let wait = (idle / IDLE_PART).clamp(FLUSH_SOON, FLUSH_LATE);
        Some(self.next.get_or_insert(now + wait).saturating_duration_since(now))
    }

    /// Looks, if it is time to. `called` says that a device has just been called for something
    /// outside of the guest, which may have woken it: so the next look comes soon.
    pub(super) fn look(&mut self, now: Instant, writes: &dyn QueuedWrites, called: bool) {
        if called {
            self.next = self.next.map(|next| next.min(now + FLUSH_SOON));
        }
        if self.next.is_some_and(|next| next <= now) {
            let exits = writes.exits();
            if writes.deliver() || exits != self.exits {
                self.active = Some(now);
            }
            self.exits = exits;
            self.next = None;
        }
    }
}
