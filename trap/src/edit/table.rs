//! The regions of a registry by id, placed or not: what edits change, and lookups never see.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use trapline_access::{
    Delivery, EditError, Handler, MemorySection, Region, RegionId, RegionName, Window,
};

use crate::counters::{Counts, RegionNumber};
use crate::delivery::offload::{Offload, Zone};
use crate::lookup::snapshot::{REGIONS_MAX, Snapshot};
use crate::memory::{Listeners, section};
use crate::region::{Entry, Placement, Shared};
use crate::watch::{WatcherList, Watchers};

/// All regions, and what is left of those that are gone. Behind the edit lock.
#[derive(Default)]
pub(crate) struct RegionTable {
    pub(crate) regions: HashMap<RegionId, MappedRegion>,
    /// Counts of regions that are gone, by name, so that statistics at exit know them.
    pub(crate) departed: BTreeMap<RegionName, Counts>,
    pub(crate) watchers: WatcherList,
    pub(crate) listeners: Listeners,
    /// Replaced snapshots that a reader may still have.
    retired: Vec<Arc<Snapshot>>,
}

/// How many names of departed regions are told apart.
const DEPARTED_MAX: usize = 1024;

/// A region that has been mapped.
pub(crate) struct MappedRegion {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) state: State,
}

/// What edits change about a region.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) base: Option<u64>,
    pub(crate) windows: Vec<PlacedWindow>,
    /// Who hears of accesses to it.
    pub(crate) watchers: Watchers,
}

/// A window of a region, and who delivers it.
#[derive(Clone, PartialEq)]
pub(crate) struct PlacedWindow {
    pub(crate) window: Window,
    /// The source, and not the registry.
    pub(crate) by_source: bool,
}

/// What is known about a region besides its counts per handle.
pub(crate) struct RegionInfo {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: State,
}

impl RegionTable {
    /// Keeps a replaced snapshot until no reader has it any more.
    pub(crate) fn retire(&mut self, old: Arc<Snapshot>) {
        self.retired.push(old);
    }

    /// Moves the replaced snapshots that no reader has any more to `free`, to be dropped once the
    /// edit lock is free. One that a reader still has waits, so that no reader ever frees one.
    pub(crate) fn collect_retired(&mut self, free: &mut Vec<Arc<Snapshot>>) {
        free.extend(self.retired.extract_if(.., |old| Arc::strong_count(old) == 1));
    }

    /// Whether coalesced writes to a region may be queued. `true` also for a region that an edit has
    /// unmapped already, of which the table does not know it any more.
    pub(crate) fn coalesces(&self, id: RegionId) -> bool {
        self.regions.get(&id).is_none_or(|region| region.state.coalesces())
    }

    /// All memory that is placed, in order of guest address.
    pub(crate) fn memory(&self) -> Vec<MemorySection> {
        let regions = self.regions.values();
        let sections = regions.flat_map(|region| region.state.memory(&region.shared));
        let mut sections: Vec<MemorySection> = sections.collect();
        sections.sort_by_key(|section| section.addr);
        sections
    }

    pub(crate) fn infos(&self) -> impl Iterator<Item = RegionInfo> + '_ {
        self.regions.values().map(|region| RegionInfo {
            shared: Arc::clone(&region.shared),
            state: region.state.clone(),
        })
    }

    /// The handler of a region that is there.
    pub(crate) fn handler(&self, id: RegionId) -> Option<Arc<dyn Handler>> {
        self.regions.get(&id).map(|region| Arc::clone(&region.handler))
    }

    /// Remembers what was counted of a region that is gone.
    pub(crate) fn add_departed(&mut self, name: &RegionName, counts: Counts) {
        if let Some(sum) = self.departed.get_mut(name) {
            *sum = sum.plus(counts);
        } else if counts.total() != 0 && self.departed.len() < DEPARTED_MAX {
            self.departed.insert(name.clone(), counts);
        }
    }

    /// Gives back everything the source has taken over.
    pub(crate) fn give_back_all(&mut self, offload: &dyn Offload) {
        for region in self.regions.values_mut() {
            let State { base, windows, .. } = &mut region.state;
            let Some(base) = *base else { continue };
            for placed in windows.iter_mut().filter(|placed| placed.by_source) {
                offload.remove(&Zone::new(region.shared.space, base, &placed.window));
                placed.by_source = false;
            }
        }
    }
}

impl MappedRegion {
    /// The region of an edit that maps it: nowhere yet, and without windows.
    pub(crate) fn new(id: RegionId, number: &Arc<RegionNumber>, region: &Region) -> Self {
        let shared = Shared {
            id: id.0,
            space: region.space,
            len: region.len,
            name: region.name.clone(),
            rules: region.rules,
            device_offset: region.device_offset,
            number: Arc::clone(number),
        };
        let handler = Arc::clone(&region.handler);
        Self { shared: Arc::new(shared), handler, state: State::default() }
    }

    /// Puts the region into `snapshot` at `base`.
    pub(crate) fn insert_into(&self, snapshot: &mut Snapshot, base: u64) -> Result<(), EditError> {
        let Shared { space, len, name, .. } = &*self.shared;
        let last =
            base.checked_add(len - 1).filter(|last| *last <= space.last()).ok_or_else(|| {
                EditError::PastEnd { name: name.clone(), space: *space, base, len: *len }
            })?;
        let handler = Arc::clone(&self.handler);
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
}

impl State {
    /// Whether every access is the handler's, and nobody else wants to know.
    pub(crate) fn is_plain(&self) -> bool {
        self.windows.is_empty() && self.watchers.is_none()
    }

    fn coalesces(&self) -> bool {
        self.windows.iter().any(|placed| placed.window.delivery == Delivery::Coalesced)
    }

    /// The window equal to `window`.
    pub(crate) fn find(&self, window: &Window) -> Option<&PlacedWindow> {
        self.windows.iter().find(|placed| placed.window == *window)
    }

    /// The memory in it, if it has a place.
    pub(crate) fn memory<'a>(
        &'a self,
        region: &'a Shared,
    ) -> impl Iterator<Item = MemorySection> + 'a {
        let windows = self.windows.iter().map(|placed| &placed.window);
        self.base.into_iter().flat_map(move |base| {
            windows.clone().filter_map(move |window| section(region, base, window))
        })
    }

    /// What lookups are to know of it.
    pub(crate) fn placement(&self) -> Placement {
        Placement {
            // Those the source rings never come to us.
            doorbells: self.pick(|placed| {
                !placed.by_source && matches!(placed.window.delivery, Delivery::Doorbell { .. })
            }),
            // What the source does of these may still come to us: devices' accesses, and a
            // hypervisor's that it makes on behalf of the guest.
            diverted: self.pick(|placed| {
                matches!(placed.window.delivery, Delivery::Forward { .. } | Delivery::Memory { .. })
            }),
            watchers: self.watchers.clone(),
        }
    }

    fn pick(&self, wanted: impl Fn(&PlacedWindow) -> bool) -> Option<Arc<[Window]>> {
        let picked = self.windows.iter().filter(|placed| wanted(placed));
        let picked: Vec<Window> = picked.map(|placed| placed.window.clone()).collect();
        (!picked.is_empty()).then(|| picked.into())
    }
}

/// Whether the source may deliver accesses to `window` by itself: of a watched region to nothing
/// but memory, as others have to hear of them.
pub(crate) fn may_offload(watchers: &Watchers, window: &Window) -> bool {
    watchers.is_none() || matches!(window.delivery, Delivery::Memory { .. })
}

impl RegionInfo {
    /// First and last address, if the region has a place.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        self.state.base.map(|base| (base, base + (self.shared.len - 1)))
    }
}
