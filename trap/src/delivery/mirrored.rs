//! Mirrored windows: reads that the source answers from read-only memory, one window at a time.
//!
//! A mirrored window changes nothing about how the registry delivers accesses: what comes to it goes
//! to the handler. So showing and hiding pages is no edit, publishes nothing, and takes no lock but
//! the mirror's own. Edits only attach mirrors to windows that have come to a place, and detach them
//! from those that leave it or that somebody watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trapline_access::{
    Delivery, DirtyBitmap, Memory, Mirror, MirrorHost, READS_WORTH_A_SWITCH, Showing, Space,
};

use crate::delivery::offload::{CoalescedWrite, Offload, Zone};

/// Pages can be shown so many times at once, when they have not been for long.
const BURST: u32 = 64;

/// How long it takes until they can be shown one more time. A guest that has pages shown and withdrawn
/// for no good all the time so costs this many times what it takes to show one and to withdraw it
/// (some hundred microseconds) in a second, which is a few milliseconds.
const INTERVAL: Duration = Duration::from_millis(25);

/// The source as edits see it: it takes mirrored windows over, whatever it can do about them.
pub(crate) struct Mirroring {
    source: Arc<dyn Offload>,
    budget: Arc<Mutex<Budget>>,
}

/// How many times pages may be shown just now.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// When it last grew, or could have.
    since: Instant,
}

/// A mirrored window at its place.
struct Place {
    source: Arc<dyn Offload>,
    budget: Arc<Mutex<Budget>>,
    base: u64,
}

impl Mirroring {
    pub(crate) fn new(source: Arc<dyn Offload>) -> Self {
        Self { source, budget: Arc::new(Mutex::new(Budget::new(Instant::now()))) }
    }

    fn attach(&self, mirror: &Mirror, base: u64) -> bool {
        let (source, budget) = (Arc::clone(&self.source), Arc::clone(&self.budget));
        mirror.attach(Arc::new(Place { source, budget, base }))
    }
}

impl Offload for Mirroring {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        match &zone.delivery {
            Delivery::Mirrored { mirror } => Ok(self.attach(mirror, zone.addr)),
            _ => self.source.install(zone),
        }
    }

    fn remove(&self, zone: &Zone) {
        match &zone.delivery {
            Delivery::Mirrored { mirror } => mirror.detach(),
            _ => self.source.remove(zone),
        }
    }

    fn queued(&self) -> bool {
        self.source.queued()
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        self.source.pop()
    }

    fn log_dirty(&self, memory: &Arc<dyn Memory>, on: bool) -> Result<(), String> {
        self.source.log_dirty(memory, on)
    }

    fn take_dirty(&self, memory: &Arc<dyn Memory>, dirty: &mut DirtyBitmap) {
        self.source.take_dirty(memory, dirty);
    }

    fn page(&self, len: u64) -> Option<Arc<dyn Memory>> {
        self.source.page(len)
    }

    fn all_ones(&self, len: u64) -> Option<Arc<dyn Memory>> {
        self.source.all_ones(len)
    }
}

impl Place {
    fn zone(&self, offset: u64, memory: Arc<dyn Memory>) -> Zone {
        let (addr, len) = (self.base + offset, memory.len());
        let delivery = Delivery::Memory { memory, offset: 0, readonly: true };
        Zone { space: Space::Mmio, addr, len, delivery }
    }
}

impl MirrorHost for Place {
    fn memory(&self, len: u64, all_ones: bool) -> Option<Arc<dyn Memory>> {
        if all_ones { self.source.all_ones(len) } else { self.source.page(len) }
    }

    fn show(&self, offset: u64, memory: &Arc<dyn Memory>, free: bool) -> Showing {
        if !free && !self.budget.lock().take(Instant::now()) {
            return Showing::NotNow;
        }
        match self.source.install(&self.zone(offset, Arc::clone(memory))) {
            Ok(true) => Showing::Shown,
            // Without it, reads come to the device, which nobody but a clock can tell.
            Ok(false) | Err(_) => Showing::Never,
        }
    }

    fn hide(&self, offset: u64, memory: &Arc<dyn Memory>) {
        self.source.remove(&self.zone(offset, Arc::clone(memory)));
    }
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Takes one, if there is any.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_nanos() / INTERVAL.as_nanos();
        let grown = u32::try_from(passed).unwrap_or(u32::MAX).min(BURST);
        if grown > 0 {
            self.left = self.left.saturating_add(grown).min(BURST);
            self.since = if self.left == BURST { now } else { self.since + INTERVAL * grown };
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

const _: () = assert!(READS_WORTH_A_SWITCH > 1, "a page is not shown for one read");

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lasts_for_a_burst_and_grows_again_to_no_more_than_one() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let taken = |budget: &mut Budget, now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, start), 64);
        assert_eq!(taken(&mut budget, start + INTERVAL / 2), 0);
        assert_eq!(taken(&mut budget, start + INTERVAL * 3 / 2), 1);
        assert_eq!(taken(&mut budget, start + INTERVAL * 2), 1, "what was left of the time counts");
        assert_eq!(taken(&mut budget, start + INTERVAL * 12), 10);
        assert_eq!(taken(&mut budget, start + INTERVAL * 100_000), 64);
        assert_eq!(taken(&mut budget, start), 0, "a clock that went back");
    }
}
