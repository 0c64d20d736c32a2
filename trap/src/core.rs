//! The state of one registry, which its handles and guards share: the published snapshot, the table
//! of regions behind the edit lock, the queue of coalesced writes, and the counters.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, ReentrantMutex};
use trapline_access::{
    Direction, DirtyLog, EditError, EditListener, Memory, MemoryListener, PlacedRegion,
    QUEUED_WRITES_MAX, RegionEdit, RegionId, RegionName, Regions, Space,
};

use crate::counters::{CounterSets, Counts, HandleCounters, RegionNumber, UnclaimedCounts};
use crate::delivery::coalesced::Coalesced;
use crate::delivery::mirrored::Mirroring;
use crate::delivery::offload::Offload;
use crate::edit::check;
use crate::edit::table::{RegionInfo, RegionTable};
use crate::edit::transaction::{DeferredDrop, Op, Source};
use crate::lookup::publish::Published;
use crate::lookup::snapshot::Snapshot;
use crate::memory::{DirtyLogs, Listening};
use crate::recorder::Recorder;
use crate::watch::Watcher;

/// One registry's state. The registry, its handles, its watches and its guards refer to it.
pub(crate) struct Core {
    /// Itself, for guards that it gives out.
    pub(crate) this: Weak<Self>,
    pub(crate) published: Published<Snapshot>,
    pub(crate) offload: Option<Arc<dyn Offload>>,
    /// The same, as edits see it.
    pub(crate) mirroring: Option<Mirroring>,
    pub(crate) coalesced: Coalesced,
    /// The edit lock: writers take turns. No device and no reader is ever waited for inside.
    pub(crate) table: Mutex<RegionTable>,
    pub(crate) next_id: AtomicU64,
    pub(crate) counter_sets: CounterSets,
    /// Who hears of edits that free addresses. A leaf lock.
    pub(crate) listeners: Mutex<Vec<Weak<dyn EditListener>>>,
    /// What handles count in: as many as there were ever handles at once.
    pub(crate) handles: Mutex<Vec<Arc<HandleStats>>>,
    /// Accesses by devices that were too deep in each other; see [`crate::AddressSpace`].
    pub(crate) too_deep: AtomicU64,
    pub(crate) dirty_logs: DirtyLogs,
    /// How many watched accesses have begun.
    pub(crate) sequence: AtomicU64,
    /// Held while an access is made that an ordered watch covers.
    pub(crate) order: ReentrantMutex<()>,
    /// What records accesses, once somebody has started it.
    pub(crate) recorder: OnceLock<Arc<Recorder>>,
}

/// What a handle keeps besides per-region counters.
pub(crate) struct HandleStats {
    pub(crate) unclaimed: Mutex<UnclaimedCounts>,
    pub(crate) counters: Arc<HandleCounters>,
    taken: AtomicBool,
}

impl Core {
    /// An id and a place among the counters for a region that is to be mapped.
    pub(crate) fn new_region(&self) -> (RegionId, Arc<RegionNumber>) {
        let id = RegionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        (id, Arc::new(self.counter_sets.open()))
    }

    /// Makes a list of changes, all or none.
    pub(crate) fn commit(&self, ops: Vec<Op>) -> Result<(), EditError> {
        // Dropped last, without the lock: a device's destructor may edit.
        let mut deferred = DeferredDrop::default();
        let mut free = Vec::new();
        if self.offload.is_some() && ops.iter().any(Op::coalesces) {
            self.coalesced.in_use.store(true, Ordering::SeqCst);
        }
        let mut table = self.table.lock();
        let current = self.published.latest();
        let source = Source {
            offload: self.mirroring.as_ref().map(|source| source as &dyn Offload),
            reclaim: &|| self.reclaim(&current),
        };
        let outcome = table.apply(&ops, &current, &source, &self.counter_sets, &mut deferred);
        let (next, outcome) = match outcome {
            Ok(next) => (Some(next), Ok(())),
            Err(refused) => (refused.repaired.map(|mended| *mended), Err(refused.error)),
        };
        drop(current);
        if let Some(next) = next {
            let old = self.published.publish(Arc::new(next));
            table.retire(old);
            table.collect_retired(&mut free);
        }
        drop(table);
        if outcome.is_ok() && ops.iter().any(Op::frees) {
            self.tell_listeners();
        }
        outcome
    }

    /// Ends what [`Regions::listen`] began.
    pub(crate) fn unlisten(&self, listener: &Arc<dyn MemoryListener>) {
        let mut table = self.table.lock();
        let sections = table.memory();
        table.listeners.remove(listener, sections);
    }

    fn tell_listeners(&self) {
        let listeners: Vec<_> = self.listeners.lock().iter().filter_map(Weak::upgrade).collect();
        listeners.iter().for_each(|listener| listener.freed());
    }

    /// Starts a watch.
    pub(crate) fn watch(
        &self,
        watcher: &Arc<Watcher>,
        regions: &[RegionId],
    ) -> Result<(), EditError> {
        let touched = regions.iter().map(|id| Op::Touch(*id));
        self.commit(touched.chain([Op::Watch(Arc::clone(watcher))]).collect())
    }

    /// Ends a watch.
    pub(crate) fn unwatch(&self, watcher: &Arc<Watcher>) {
        // What the source does not take back the registry goes on doing, so this cannot fail.
        let _ = self.commit(vec![Op::Unwatch(Arc::clone(watcher))]);
    }

    pub(crate) fn coalesces(&self, id: RegionId) -> bool {
        self.table.lock().coalesces(id)
    }

    /// Frees replaced snapshots, and with them the handlers of regions that are gone, as far as
    /// no reader has them any more.
    pub(crate) fn collect_retired(&self) {
        let mut free = Vec::new();
        self.table.lock().collect_retired(&mut free);
        drop(free);
    }

    /// Takes all queued writes out of the source while the regions they were made to are known.
    fn reclaim(&self, before: &Snapshot) {
        let Some(offload) = &self.offload else { return };
        let mut queue = self.coalesced.queue.lock();
        // Said before anything is taken: who then finds the source empty must find this.
        self.coalesced.has_reclaimed.store(true, Ordering::Release);
        // The guest may go on queueing to other regions, but that is not for an edit to take.
        for write in std::iter::from_fn(|| offload.pop()).take(QUEUED_WRITES_MAX) {
            let entry = before.find(write.space, write.addr).cloned();
            queue.push_back((write, entry));
        }
        self.coalesced.has_reclaimed.store(!queue.is_empty(), Ordering::Release);
    }

    /// Whether the source was ever asked to queue writes.
    #[inline]
    pub(crate) fn is_coalescing(&self) -> bool {
        self.coalesced.in_use.load(Ordering::Relaxed)
    }

    /// Whether a coalesced write may be on its way.
    pub(crate) fn anything_queued(&self) -> bool {
        self.is_coalescing() && self.is_queued()
    }

    /// Whether one may be, once anything is coalesced at all.
    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        self.offload.as_ref().is_some_and(|offload| offload.queued())
            || self.coalesced.has_reclaimed.load(Ordering::Acquire)
            || self.coalesced.delivering.load(Ordering::Acquire)
    }

    pub(crate) fn region_counts(&self) -> (BTreeMap<RegionName, Counts>, Vec<RegionInfo>) {
        let table = self.table.lock();
        let live = table.infos().collect();
        (table.departed.clone(), live)
    }

    /// What the region's handler calls a register now, if the region is there.
    pub(crate) fn register(
        &self,
        id: RegionId,
        offset: u64,
        direction: Direction,
    ) -> Option<&'static str> {
        // A handler is asked without the lock.
        let handler = self.table.lock().handler(id)?;
        handler.register(offset, direction)
    }

    /// What a new handle counts in: what a handle that is gone has left, or something new.
    pub(crate) fn handle_stats(&self) -> Arc<HandleStats> {
        let mut handles = self.handles.lock();
        let free = handles.iter().find(|stats| stats.take()).cloned();
        free.unwrap_or_else(|| {
            let stats = HandleStats::new(&self.counter_sets);
            stats.take();
            handles.push(Arc::clone(&stats));
            stats
        })
    }
}

impl HandleStats {
    pub(crate) fn new(counter_sets: &CounterSets) -> Arc<Self> {
        Arc::new(Self {
            unclaimed: Mutex::default(),
            counters: counter_sets.new_set(),
            taken: AtomicBool::new(false),
        })
    }

    /// Takes it for a handle, unless another has it.
    pub(crate) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

impl Regions for Core {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        let mut mapped = Vec::new();
        let mut ops = Vec::with_capacity(edits.len());
        for edit in edits {
            ops.push(match edit {
                RegionEdit::Map(region) => {
                    check::region(&region)?;
                    let (id, number) = self.new_region();
                    mapped.push(id);
                    Op::Map(id, number, Box::new(region))
                }
                RegionEdit::Unmap(id) => Op::Unmap(id),
                RegionEdit::Place(id, base) => Op::Place(id, base),
                RegionEdit::AddWindow(id, window) => Op::AddWindow(id, window),
                RegionEdit::RemoveWindow(id, window) => Op::RemoveWindow(id, window),
            });
        }
        self.commit(ops)?;
        Ok(mapped)
    }

    fn region_at(&self, space: Space, addr: u64) -> Option<PlacedRegion> {
        let table = self.table.lock();
        let mut regions = table.infos();
        let info = regions.find(|info| {
            let here = |(base, last)| base <= addr && addr <= last;
            info.shared.space == space && info.range().is_some_and(here)
        })?;
        let windows = info.state.windows.iter().map(|placed| placed.window.clone());
        Some(PlacedRegion {
            id: RegionId(info.shared.id),
            name: info.shared.name.clone(),
            base: info.state.base?,
            len: info.shared.len,
            windows: windows.collect(),
        })
    }

    fn log_dirty(&self, memory: Arc<dyn Memory>) -> Result<Box<dyn DirtyLog>, EditError> {
        self.dirty_logs.open(self, memory)
    }

    fn listen(
        &self,
        listener: Arc<dyn MemoryListener>,
    ) -> Result<Box<dyn Any + Send + Sync>, EditError> {
        let mut table = self.table.lock();
        let sections = table.memory();
        table.listeners.add(&listener, sections)?;
        Ok(Box::new(Listening { listener, core: Weak::clone(&self.this) }))
    }

    fn listen_freed(&self, listener: Weak<dyn EditListener>) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(listener);
    }
}

impl Drop for Core {
    /// Gives back what the source has of regions whose guards outlive the registry, or that have
    /// none.
    fn drop(&mut self) {
        if let Some(source) = &self.mirroring {
            self.table.get_mut().give_back_all(source);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::Registry;

    #[test]
    fn a_handle_goes_on_with_the_counters_of_one_that_is_gone() {
        let registry = Registry::builder().build();
        let kept = registry.handle(0);
        (1..9).for_each(|vcpu| drop(registry.handle(vcpu)));
        assert_eq!(registry.core().handles.lock().len(), 2);
        drop(kept);
        let both = [registry.handle(1), registry.handle(2)];
        assert_eq!(registry.core().handles.lock().len(), both.len());
    }
}
