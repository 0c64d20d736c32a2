//! One edit, from a list of wishes to a new snapshot: judged on the result, taken to the source,
//! and undone there if anything fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use trapline_device::{EditError, RegionId, RegionName};

use crate::counters::{Books, Counts, Number};
use crate::entry::{Entry, Placement, Shared, Watch};
use crate::offload::{Offload, Zone, ZoneKind};
use crate::region::{Delivery, Region, Window};
use crate::snapshot::{REGIONS_MAX, Snapshot};

/// One wish.
pub(crate) enum Op {
    Add(RegionId, Arc<Number>, Box<Region>),
    Place(RegionId, Option<u64>),
    Remove(RegionId),
    Watch(RegionId, WatchChange),
}

impl Op {
    /// Whether this may have the source queue writes.
    pub(crate) fn coalesces(&self) -> bool {
        matches!(self, Self::Add(.., region) if region.windows.iter().any(Window::is_coalesced))
    }
}

/// Flags to be changed; `None` leaves one as it is.
#[derive(Clone, Copy, Default)]
pub(crate) struct WatchChange {
    pub(crate) trace: Option<bool>,
    pub(crate) stop: Option<bool>,
}

/// The writers' side of the registry.
#[derive(Default)]
pub(crate) struct Master {
    regions: HashMap<RegionId, Held>,
    /// Counts of regions that are gone, by name, so that statistics at exit know them.
    pub(crate) departed: BTreeMap<RegionName, Counts>,
    /// Replaced snapshots that a reader may still have.
    retired: Vec<Arc<Snapshot>>,
}

/// How many names of departed regions are told apart.
const DEPARTED_MAX: usize = 1024;

/// A region as its registry holds it, placed or not.
struct Held {
    region: Box<Region>,
    shared: Arc<Shared>,
    base: Option<u64>,
    /// Which windows the source has taken over.
    installed: Vec<bool>,
    watch: Watch,
}

/// Why an edit leads nowhere.
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

/// What an edit leaves to be dropped after the edit lock is free: destructors of devices may edit.
#[derive(Default)]
pub(crate) struct Garbage(Vec<Held>, Vec<Op>);

/// What is known about a region besides its counts per handle.
pub(crate) struct RegionInfo {
    pub(crate) shared: Arc<Shared>,
    pub(crate) base: Option<u64>,
    pub(crate) installed: Vec<bool>,
    pub(crate) watch: Watch,
}

/// Where the source comes in.
pub(crate) struct Source<'a> {
    pub(crate) offload: Option<&'a dyn Offload>,
    /// Empties the source's queue while the present regions are still known.
    pub(crate) stash: &'a dyn Fn(),
}

/// One region's part in an edit.
struct Change {
    id: RegionId,
    from: Option<u64>,
    to: Option<u64>,
    removed: bool,
    watch: Watch,
    watch_before: Watch,
}

impl Change {
    /// Nothing changes yet.
    fn none(id: RegionId, held: &Held) -> Self {
        let (base, watch) = (held.base, held.watch);
        Self { id, from: base, to: base, removed: false, watch, watch_before: watch }
    }

    fn moves(&self) -> bool {
        self.removed || self.from != self.to
    }

    /// Books one more wish about the same region.
    fn take(&mut self, wish: Wish) {
        match wish {
            Wish::Place(to) => self.to = to,
            Wish::Remove => (self.to, self.removed) = (None, true),
            Wish::Watch(change) => {
                self.watch.trace = change.trace.unwrap_or(self.watch.trace);
                self.watch.stop = change.stop.unwrap_or(self.watch.stop);
            }
        }
    }
}

/// An [`Op`] without the region it is about.
enum Wish {
    Place(Option<u64>),
    Remove,
    Watch(WatchChange),
}

impl Master {
    /// Makes the changes, all or none. On success the result is to be published.
    pub(crate) fn apply(
        &mut self,
        ops: Vec<Op>,
        current: &Snapshot,
        source: &Source<'_>,
        books: &Books,
        garbage: &mut Garbage,
    ) -> Result<Snapshot, Refused> {
        let (changes, added) = self.plan(ops, garbage)?;
        let outcome = self.attempt(&changes, current, source);
        match &outcome {
            Ok(_) => self.settle(&changes, books, garbage),
            Err(_) => {
                garbage.0.extend(added.iter().filter_map(|id| self.regions.remove(id)));
            }
        }
        outcome
    }

    /// Keeps a replaced snapshot until no reader has it any more.
    pub(crate) fn retire(&mut self, old: Arc<Snapshot>) {
        self.retired.push(old);
    }

    /// Moves the replaced snapshots that no reader has any more to `free`, to be dropped once the
    /// edit lock is free. One that a reader still has waits, so that no reader ever frees one.
    pub(crate) fn collect_retired(&mut self, free: &mut Vec<Arc<Snapshot>>) {
        free.extend(self.retired.extract_if(.., |old| Arc::strong_count(old) == 1));
    }

    /// Whether writes to a region may be waiting: of one that an edit has unmapped already nobody
    /// knows any more, so they may.
    pub(crate) fn coalesces(&self, id: RegionId) -> bool {
        let held = self.regions.get(&id);
        held.is_none_or(|held| held.shared.windows.iter().any(Window::is_coalesced))
    }

    pub(crate) fn regions(&self) -> impl Iterator<Item = RegionInfo> + '_ {
        self.regions.values().map(|held| RegionInfo {
            shared: Arc::clone(&held.shared),
            base: held.base,
            installed: held.installed.clone(),
            watch: held.watch,
        })
    }

    /// Works out where every region that is touched comes from and goes to. New ones are held,
    /// placed nowhere, from here on.
    fn plan(
        &mut self,
        ops: Vec<Op>,
        garbage: &mut Garbage,
    ) -> Result<(Vec<Change>, Vec<RegionId>), EditError> {
        let mut changes: Vec<Change> = Vec::with_capacity(ops.len());
        let mut added = Vec::new();
        let mut ops = ops.into_iter();
        while let Some(op) = ops.next() {
            let (id, wish) = match op {
                Op::Add(id, number, region) => {
                    let to = region.base;
                    self.regions.insert(id, Held::new(id, number, region));
                    added.push(id);
                    (id, Wish::Place(to))
                }
                Op::Place(id, to) => (id, Wish::Place(to)),
                Op::Remove(id) => (id, Wish::Remove),
                Op::Watch(id, change) => (id, Wish::Watch(change)),
            };
            match (changes.iter_mut().find(|change| change.id == id), self.regions.get(&id)) {
                (Some(change), _) if !change.removed => change.take(wish),
                (None, Some(held)) => {
                    let mut change = Change::none(id, held);
                    change.take(wish);
                    changes.push(change);
                }
                // Removing what is gone is no mistake: guards do it.
                _ if matches!(wish, Wish::Remove) => {}
                _ => {
                    garbage.0.extend(added.iter().filter_map(|id| self.regions.remove(id)));
                    garbage.1.extend(ops);
                    return Err(EditError::Unknown(id));
                }
            }
        }
        Ok((changes, added))
    }

    fn attempt(
        &mut self,
        changes: &[Change],
        current: &Snapshot,
        source: &Source<'_>,
    ) -> Result<Snapshot, Refused> {
        let mut snapshot = current.clone();
        let moving = || changes.iter().filter(|change| change.moves());
        for change in moving() {
            if let (Some(held), Some(base)) = (self.regions.get(&change.id), change.from) {
                snapshot.remove(held.shared.space, base);
            }
        }
        for change in moving() {
            if let (Some(held), Some(base)) = (self.regions.get(&change.id), change.to) {
                held.insert_into(&mut snapshot, base)?;
            }
        }
        if let Some(offload) = source.offload {
            let moving: Vec<&Change> = moving().collect();
            self.take_to_source(&moving, offload, source.stash).map_err(|error| {
                let repaired = self.repair(&moving, current, offload);
                Refused { error, repaired: repaired.map(Box::new) }
            })?;
        }
        for change in changes {
            if let (Some(held), Some(base)) = (self.regions.get(&change.id), change.to) {
                let rings = change.moves() && !held.region.windows.is_empty();
                if rings || change.watch != Watch::default() || change.watch != change.watch_before
                {
                    snapshot.place(held.shared.space, base, held.placement(change.watch));
                }
            }
        }
        Ok(snapshot)
    }

    /// Gives the source's zones at the old places back and asks for those at the new ones. On an
    /// error nothing is installed for any of the regions.
    fn take_to_source(
        &mut self,
        moving: &[&Change],
        offload: &dyn Offload,
        stash: &dyn Fn(),
    ) -> Result<(), EditError> {
        let mut coalesced = false;
        for change in moving {
            if let (Some(held), Some(base)) = (self.regions.get_mut(&change.id), change.from) {
                coalesced |= held.uninstall(base, offload);
            }
        }
        if coalesced {
            stash();
        }
        for (i, change) in moving.iter().enumerate() {
            let Some(base) = change.to else { continue };
            let Some(held) = self.regions.get_mut(&change.id) else { continue };
            if let Err(error) = held.install(base, offload) {
                for earlier in moving.iter().take(i + 1).rev() {
                    if let (Some(held), Some(base)) =
                        (self.regions.get_mut(&earlier.id), earlier.to)
                    {
                        held.uninstall(base, offload);
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts the source back to how it was. What it refuses now the registry does from here on.
    fn repair(
        &mut self,
        moving: &[&Change],
        current: &Snapshot,
        offload: &dyn Offload,
    ) -> Option<Snapshot> {
        let mut repaired = None;
        for change in moving {
            let Some(base) = change.from else { continue };
            let Some(held) = self.regions.get_mut(&change.id) else { continue };
            if held.install(base, offload).is_err() {
                held.uninstall(base, offload);
            }
            repaired.get_or_insert_with(|| current.clone()).place(
                held.shared.space,
                base,
                held.placement(held.watch),
            );
        }
        repaired
    }

    /// Books what has been decided.
    fn settle(&mut self, changes: &[Change], books: &Books, garbage: &mut Garbage) {
        for change in changes {
            if !change.removed {
                if let Some(held) = self.regions.get_mut(&change.id) {
                    (held.base, held.watch) = (change.to, change.watch);
                }
            } else if let Some(held) = self.regions.remove(&change.id) {
                let counts = books.counts(&held.shared.number);
                if let Some(sum) = self.departed.get_mut(&held.shared.name) {
                    *sum = sum.plus(counts);
                } else if counts.total() != 0 && self.departed.len() < DEPARTED_MAX {
                    self.departed.insert(held.shared.name.clone(), counts);
                }
                garbage.0.push(held);
            }
        }
    }
}

impl Held {
    fn new(id: RegionId, number: Arc<Number>, region: Box<Region>) -> Self {
        let shared = Shared {
            id: id.0,
            space: region.space,
            len: region.len,
            name: region.name.clone(),
            rules: region.rules,
            device_offset: region.device_offset,
            windows: region.windows.clone().into_boxed_slice(),
            number,
        };
        let installed = vec![false; region.windows.len()];
        Self { region, shared: Arc::new(shared), base: None, installed, watch: Watch::default() }
    }

    fn insert_into(&self, snapshot: &mut Snapshot, base: u64) -> Result<(), EditError> {
        let Shared { space, len, name, .. } = &*self.shared;
        let last =
            base.checked_add(len - 1).filter(|last| *last <= space.last()).ok_or_else(|| {
                EditError::PastEnd { name: name.clone(), space: *space, base, len: *len }
            })?;
        let handler = Arc::clone(&self.region.handler);
        let entry = Entry::new(base, last, handler, Arc::clone(&self.shared));
        snapshot.insert(entry).map_err(|in_the_way| match in_the_way {
            Some(existing) => EditError::Overlap {
                space: *space,
                wanted: name.clone(),
                base,
                last,
                existing: existing.shared.name.clone(),
                existing_base: existing.base,
                existing_last: existing.last,
            },
            None => EditError::Full { name: name.clone(), limit: REGIONS_MAX },
        })
    }

    fn zones(&self, base: u64) -> impl Iterator<Item = (&Window, Zone)> {
        let space = self.shared.space;
        self.shared.windows.iter().map(move |window| (window, window.zone(space, base)))
    }

    fn install(&mut self, base: u64, offload: &dyn Offload) -> Result<(), EditError> {
        for i in 0..self.installed.len() {
            let Some((window, zone)) = self.zones(base).nth(i) else { continue };
            let taken = offload.install(&zone).map_err(|reason| EditError::Offload {
                name: self.shared.name.clone(),
                what: window.what(),
                reason,
            })?;
            if let Some(installed) = self.installed.get_mut(i) {
                *installed = taken;
            }
        }
        Ok(())
    }

    /// Gives back every zone at `base`; whether one of them was a coalesced one.
    fn uninstall(&mut self, base: u64, offload: &dyn Offload) -> bool {
        let mut coalesced = false;
        for ((_, zone), _) in self.zones(base).zip(&self.installed).filter(|(_, taken)| **taken) {
            offload.remove(&zone);
            coalesced |= matches!(zone.kind, ZoneKind::Coalesced);
        }
        self.installed.fill(false);
        coalesced
    }

    fn placement(&self, watch: Watch) -> Placement {
        Placement {
            soft_doorbells: self.windows(|window, taken| {
                !taken && matches!(window.delivery, Delivery::Doorbell { .. })
            }),
            forwards: self.windows(|window, _| matches!(window.delivery, Delivery::Forward { .. })),
            watch,
        }
    }

    /// The windows that `wanted` picks, by what they are and whether the source has taken them.
    fn windows(&self, wanted: impl Fn(&Window, bool) -> bool) -> Option<Arc<[Window]>> {
        let windows = self.shared.windows.iter().zip(&self.installed);
        let picked: Vec<Window> = windows
            .filter(|(window, taken)| wanted(window, **taken))
            .map(|(window, _)| window.clone())
            .collect();
        (!picked.is_empty()).then(|| picked.into())
    }
}

impl RegionInfo {
    /// First and last address, if the region has a place.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        self.base.map(|base| (base, base + (self.shared.len - 1)))
    }
}
