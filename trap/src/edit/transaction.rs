//! One edit, from a list of changes to a new snapshot: judged on the result, taken to the source,
//! and undone there if anything fails.

use std::sync::Arc;

use trapline_access::{Delivery, EditError, Region, RegionId, Window};

use crate::counters::{CounterSets, RegionNumber};
use crate::delivery::offload::{Offload, Zone};
use crate::edit::check;
use crate::edit::table::{MappedRegion, PlacedWindow, RegionTable, State, may_offload};
use crate::lookup::snapshot::Snapshot;
use crate::memory::MemoryChange;
use crate::region::Shared;
use crate::watch::Watcher;

/// One change that an edit asks for.
pub(crate) enum Op {
    Map(RegionId, Arc<RegionNumber>, Box<Region>),
    Unmap(RegionId),
    Place(RegionId, Option<u64>),
    AddWindow(RegionId, Window),
    RemoveWindow(RegionId, Window),
    /// Changes nothing, but the region must be there.
    Touch(RegionId),
    /// Starts a watch.
    Watch(Arc<Watcher>),
    /// Ends one.
    Unwatch(Arc<Watcher>),
}

impl Op {
    /// Whether this may have the source queue writes.
    pub(crate) fn coalesces(&self) -> bool {
        let coalesces = |window: &Window| window.delivery == Delivery::Coalesced;
        match self {
            Self::Map(.., region) => region.windows.iter().any(coalesces),
            Self::AddWindow(_, window) => coalesces(window),
            _ => false,
        }
    }

    /// Whether addresses may be free after this that were not before.
    pub(crate) fn frees(&self) -> bool {
        matches!(self, Self::Place(..) | Self::Unmap(_))
    }

    /// The region it is about, unless it may be about many.
    fn id(&self) -> Option<RegionId> {
        Some(match self {
            Self::Map(id, ..)
            | Self::Unmap(id)
            | Self::Place(id, _)
            | Self::AddWindow(id, _)
            | Self::RemoveWindow(id, _)
            | Self::Touch(id) => *id,
            Self::Watch(_) | Self::Unwatch(_) => return None,
        })
    }
}

/// A refused edit: the error, and what it has changed all the same.
pub(crate) struct Refused {
    pub(crate) error: EditError,
    /// The present snapshot mended, when the source would not take back what it had.
    pub(crate) repaired: Option<Box<Snapshot>>,
}

impl From<EditError> for Refused {
    fn from(error: EditError) -> Self {
        Self { error, repaired: None }
    }
}

/// What is dropped after the edit lock is free only, as destructors of devices may edit.
#[derive(Default)]
pub(crate) struct DeferredDrop {
    regions: Vec<MappedRegion>,
    changes: Vec<Change>,
}

/// The source of a registry, as a commit asks it.
pub(crate) struct Source<'a> {
    pub(crate) offload: Option<&'a dyn Offload>,
    /// Empties the source's queue while the present regions are still known.
    pub(crate) reclaim: &'a dyn Fn(),
}

/// One region's part in an edit.
struct Change {
    id: RegionId,
    region: Arc<Shared>,
    before: State,
    after: State,
    mapped: bool,
    unmapped: bool,
}

impl RegionTable {
    /// Makes the changes, all or none. On success the result is to be published.
    pub(crate) fn apply(
        &mut self,
        ops: &[Op],
        current: &Snapshot,
        source: &Source<'_>,
        counter_sets: &CounterSets,
        deferred: &mut DeferredDrop,
    ) -> Result<Snapshot, Refused> {
        let planned = self.plan(ops, &mut deferred.changes);
        let outcome = planned
            .map_err(Refused::from)
            .and_then(|()| self.attempt(&mut deferred.changes, current, source));
        let DeferredDrop { regions, changes } = deferred;
        for change in changes {
            if (change.mapped && outcome.is_err()) || (change.unmapped && outcome.is_ok()) {
                let Some(region) = self.regions.remove(&change.id) else { continue };
                self.add_departed(&change.region.name, counter_sets.counts(&region.shared.number));
                regions.push(region);
            } else if let Some(region) = self.regions.get_mut(&change.id)
                && outcome.is_ok()
            {
                region.state = change.after.clone();
            }
        }
        outcome
    }

    /// Computes the state of each region the edit touches, before and after. New regions are in the
    /// table, placed nowhere, from here on.
    fn plan(&mut self, ops: &[Op], changes: &mut Vec<Change>) -> Result<(), EditError> {
        for op in ops {
            let Some(id) = op.id() else { continue };
            if let Op::Map(_, number, region) = op {
                let new = MappedRegion::new(id, number, region);
                changes.push(Change { mapped: true, ..Change::none(id, &new) });
                self.regions.insert(id, new);
            }
            match changes.iter_mut().position(|change| change.id == id) {
                Some(at) => {
                    if let Some(change) = changes.get_mut(at) {
                        change.take(op)?;
                    }
                }
                None => match self.regions.get(&id) {
                    Some(region) => {
                        let mut change = Change::none(id, region);
                        change.take(op)?;
                        changes.push(change);
                    }
                    None if matches!(op, Op::Unmap(_)) => {}
                    None => return Err(EditError::Unknown(id)),
                },
            }
        }
        changes.iter().try_for_each(Change::check)?;
        self.plan_watches(ops, changes);
        Ok(())
    }

    /// Starts and ends watches, and computes the observers of each region and of unclaimed accesses.
    fn plan_watches(&mut self, ops: &[Op], changes: &mut Vec<Change>) {
        let mut watchers = self.watchers.clone();
        for op in ops {
            match op {
                Op::Watch(watcher) => watchers.add(watcher),
                Op::Unwatch(watcher) => watchers.remove(watcher),
                _ => {}
            }
        }
        let all = ops.iter().any(|op| matches!(op, Op::Watch(_) | Op::Unwatch(_)));
        if all {
            let touched = |id: &RegionId| changes.iter().any(|change| change.id == *id);
            let others = self.regions.iter().filter(|(id, _)| !touched(id));
            let others: Vec<_> = others.map(|(id, region)| Change::none(*id, region)).collect();
            changes.extend(others);
        }
        for change in changes.iter_mut().filter(|change| all || change.mapped) {
            change.after.watchers = watchers.of_region(change.id, &change.region.name);
        }
        self.watchers = watchers;
    }

    fn attempt(
        &mut self,
        changes: &mut [Change],
        current: &Snapshot,
        source: &Source<'_>,
    ) -> Result<Snapshot, Refused> {
        let mut snapshot = current.clone();
        snapshot.unclaimed_watchers = self.watchers.of_unclaimed();
        for change in changes.iter().filter(|change| change.moves()) {
            if let Some(base) = change.before.base {
                snapshot.remove(change.region.space, base);
            }
        }
        for change in changes.iter().filter(|change| change.moves()) {
            if let (Some(region), Some(base)) = (self.regions.get(&change.id), change.after.base) {
                region.insert_into(&mut snapshot, base)?;
            }
        }
        let mut installed = Vec::new();
        let taken = source.offload.map_or(Ok(()), |offload| {
            take_to_source(changes, offload, source.reclaim, &mut installed)
        });
        if let Err(error) = taken.and_then(|()| self.tell_listeners(changes)) {
            let repaired = source.offload.and_then(|offload| {
                installed.iter().rev().for_each(|zone| offload.remove(zone));
                self.repair(changes, current, offload).map(Box::new)
            });
            return Err(Refused { error, repaired });
        }
        for change in changes.iter() {
            let was_plain = change.moves() || change.before.is_plain();
            if let Some(base) = change.after.base
                && !(was_plain && change.after.is_plain())
            {
                snapshot.place(change.region.space, base, change.after.placement());
            }
        }
        Ok(snapshot)
    }

    /// Tells the listeners what changes about the memory that the guest sees.
    fn tell_listeners(&self, changes: &[Change]) -> Result<(), EditError> {
        if self.listeners.is_empty() {
            return Ok(());
        }
        let mut memory = MemoryChange::default();
        for change in changes {
            let [before, after] = [&change.before, &change.after]
                .map(|state| state.memory(&change.region).collect::<Vec<_>>());
            memory.come.extend(after.iter().filter(|section| !before.contains(section)).cloned());
            memory.gone.extend(before.into_iter().filter(|section| !after.contains(section)));
        }
        self.listeners.tell(&memory)
    }

    /// Puts the source back to how it was. What it refuses now the registry does from here on.
    fn repair(
        &mut self,
        changes: &[Change],
        current: &Snapshot,
        offload: &dyn Offload,
    ) -> Option<Snapshot> {
        let mut repaired = None;
        for change in changes {
            let (Some(base), Some(region)) = (change.before.base, self.regions.get_mut(&change.id))
            else {
                continue;
            };
            let space = change.region.space;
            for placed in &mut region.state.windows {
                if change.is_leaving(placed) {
                    let zone = Zone::new(space, base, &placed.window);
                    placed.by_source = offload.install(&zone).unwrap_or(false);
                }
            }
            if region.state.windows != change.before.windows {
                let snapshot = repaired.get_or_insert_with(|| current.clone());
                snapshot.place(space, base, region.state.placement());
            }
        }
        repaired
    }
}

/// Gives the zones that are no more back to the source, and asks it for those that are new, which it
/// lists as far as it gets.
fn take_to_source(
    changes: &mut [Change],
    offload: &dyn Offload,
    reclaim: &dyn Fn(),
    installed: &mut Vec<Zone>,
) -> Result<(), EditError> {
    let mut coalesced = false;
    for change in changes.iter() {
        let Some(base) = change.before.base else { continue };
        for placed in change.before.windows.iter().filter(|placed| change.is_leaving(placed)) {
            offload.remove(&Zone::new(change.region.space, base, &placed.window));
            coalesced |= placed.window.delivery == Delivery::Coalesced;
        }
    }
    if coalesced {
        reclaim();
    }
    changes.iter_mut().try_for_each(|change| change.install(offload, installed))
}

impl Change {
    /// Nothing changes yet.
    fn none(id: RegionId, mapped: &MappedRegion) -> Self {
        let MappedRegion { shared, state, .. } = mapped;
        Self {
            id,
            region: Arc::clone(shared),
            before: state.clone(),
            after: state.clone(),
            mapped: false,
            unmapped: false,
        }
    }

    /// Whether the region leaves its place, for another or for good.
    fn moves(&self) -> bool {
        self.before.base != self.after.base
    }

    /// Adds one more change of the same region.
    fn take(&mut self, op: &Op) -> Result<(), EditError> {
        if self.unmapped {
            // Unmapping what is gone is no mistake: guards do it.
            let again = matches!(op, Op::Unmap(_));
            return if again { Ok(()) } else { Err(EditError::Unknown(self.id)) };
        }
        let new = |window: &Window| PlacedWindow { window: window.clone(), by_source: false };
        match op {
            Op::Map(.., region) => {
                self.after.base = region.base;
                self.after.windows = region.windows.iter().map(new).collect();
            }
            Op::Unmap(_) => (self.after.base, self.unmapped) = (None, true),
            Op::Place(_, base) => self.after.base = *base,
            Op::AddWindow(_, window) => self.after.windows.push(new(window)),
            Op::RemoveWindow(_, window) => {
                let windows = &mut self.after.windows;
                let at = windows.iter().position(|placed| placed.window == *window);
                let name = || self.region.name.clone();
                let at =
                    at.ok_or_else(|| EditError::NoWindow { name: name(), offset: window.offset })?;
                windows.remove(at);
            }
            Op::Touch(_) | Op::Watch(_) | Op::Unwatch(_) => {}
        }
        Ok(())
    }

    /// Refuses windows that the region cannot have together.
    fn check(&self) -> Result<(), EditError> {
        let Shared { name, space, len, .. } = &*self.region;
        let windows = self.after.windows.iter().map(|placed| &placed.window);
        check::windows(name, *space, *len, windows)
    }

    /// Whether the source has a window that it is to give back.
    fn is_leaving(&self, placed: &PlacedWindow) -> bool {
        let stays = !self.moves()
            && self.after.find(&placed.window).is_some()
            && may_offload(&self.after.watchers, &placed.window);
        placed.by_source && !stays
    }

    /// Asks the source for the windows it does not have yet, and lists those it has taken.
    fn install(
        &mut self,
        offload: &dyn Offload,
        installed: &mut Vec<Zone>,
    ) -> Result<(), EditError> {
        let moves = self.moves();
        let Some(base) = self.after.base else {
            self.after.windows.iter_mut().for_each(|placed| placed.by_source = false);
            return Ok(());
        };
        let State { windows, watchers, .. } = &mut self.after;
        for placed in windows {
            let kept = self.before.find(&placed.window).filter(|_| !moves);
            if !may_offload(watchers, &placed.window) {
                placed.by_source = false;
                continue;
            }
            if let Some(kept) = kept
                && may_offload(&self.before.watchers, &placed.window)
            {
                placed.by_source = kept.by_source;
                continue;
            }
            let zone = Zone::new(self.region.space, base, &placed.window);
            placed.by_source = match offload.install(&zone) {
                Ok(taken) => taken,
                // The registry has delivered it while the region was watched, and goes on.
                Err(_) if kept.is_some() => false,
                Err(reason) => {
                    let (name, what) = (self.region.name.clone(), placed.window.delivery.name());
                    return Err(EditError::Offload { name, what, reason });
                }
            };
            if placed.by_source {
                installed.push(zone);
            }
        }
        Ok(())
    }
}
