//! Watches: which accesses an observer hears of, and for how long.

mod observer;

use std::sync::{Arc, Weak};

use trapline_access::{EditError, RegionId, RegionName};

use crate::core::Core;
use crate::registry::Registry;

pub use observer::{AccessSummary, Observer, Outcome, TraceRecord, WatchedRegion};
pub(crate) use observer::{Made, Witness};

/// Which accesses an observer is to hear of: to regions that are mapped now or will be, and to
/// addresses that no region answers. To be given to [`Registry::watch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    everything: bool,
    ids: Vec<RegionId>,
    names: Vec<String>,
    unclaimed: bool,
    ordered: bool,
}

impl Watch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every access to whatever region, and those that no region answers.
    #[must_use]
    pub fn everything(mut self) -> Self {
        (self.everything, self.unclaimed) = (true, true);
        self
    }

    /// Accesses to one region.
    #[must_use]
    pub fn region(mut self, id: RegionId) -> Self {
        self.ids.push(id);
        self
    }

    /// Accesses to the regions of this name: `device/region`, or all of a device by its own name
    /// alone, whenever they are mapped.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Accesses that no region answers.
    #[must_use]
    pub fn unclaimed(mut self) -> Self {
        self.unclaimed = true;
        self
    }

    /// Makes watched accesses one after the other while the watch lasts, so that
    /// [`crate::TraceRecord::sequence`] is the order in which devices saw them, and records come in
    /// that order. An access by a device ([`trapline_access::Requester::Dma`]) does not wait for one
    /// that another thread is making, as that may be waiting for a lock of this device.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    fn covers(&self, id: RegionId, name: &RegionName) -> bool {
        self.everything
            || self.ids.contains(&id)
            || self.names.iter().any(|wanted| is_called(name, wanted))
    }
}

/// Whether a region goes by `wanted`: `device/region`, or `device`.
fn is_called(name: &RegionName, wanted: &str) -> bool {
    let region = wanted.strip_prefix(&*name.device);
    region.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/') == Some(&*name.region))
}

/// An observer, and what it hears of.
pub(crate) struct Watcher {
    watch: Watch,
    observer: Arc<dyn Observer>,
}

impl Watcher {
    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    pub(crate) fn is_ordered(&self) -> bool {
        self.watch.ordered
    }
}

/// The observers of one region, or of unclaimed accesses: `None` while there are none.
pub(crate) type Watchers = Option<Arc<[Arc<Watcher>]>>;

/// All observers of a registry. Behind the edit lock.
#[derive(Clone, Default)]
pub(crate) struct WatcherList(Vec<Arc<Watcher>>);

impl WatcherList {
    pub(crate) fn add(&mut self, watcher: &Arc<Watcher>) {
        self.0.push(Arc::clone(watcher));
    }

    pub(crate) fn remove(&mut self, watcher: &Arc<Watcher>) {
        self.0.retain(|other| !Arc::ptr_eq(other, watcher));
    }

    /// Those who hear of accesses to a region.
    pub(crate) fn of_region(&self, id: RegionId, name: &RegionName) -> Watchers {
        self.pick(|watch| watch.covers(id, name))
    }

    /// Those who hear of accesses that no region answers.
    pub(crate) fn of_unclaimed(&self) -> Watchers {
        self.pick(|watch| watch.unclaimed)
    }

    fn pick(&self, hears: impl Fn(&Watch) -> bool) -> Watchers {
        let picked = self.0.iter().filter(|watcher| hears(&watcher.watch));
        let picked: Vec<_> = picked.cloned().collect();
        (!picked.is_empty()).then(|| picked.into())
    }
}

/// Keeps an observer. When it is dropped nobody calls the observer any more, but for calls that
/// have begun, and what the source had delivered by itself it may deliver again.
#[must_use = "a watch ends when its guard is dropped"]
pub struct Watching {
    watcher: Arc<Watcher>,
    core: Weak<Core>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.unwatch(&self.watcher);
        }
    }
}

impl Registry {
    /// Has `observer` hear of the accesses that `watch` says. Others may be watching, too. While a
    /// region is watched the source delivers none of its accesses by itself, so that all of them
    /// come here: doorbells are rung and forwarded windows served by the registry, writes do not
    /// queue up. Memory is not taken from the guest. Regions that are not watched pay nothing for
    /// it.
    ///
    /// # Errors
    /// [`EditError::Unknown`] when one of the regions asked for by id is gone.
    pub fn watch(&self, watch: Watch, observer: Arc<dyn Observer>) -> Result<Watching, EditError> {
        let watcher = Arc::new(Watcher { watch, observer });
        self.core_arc().watch(&watcher, &watcher.watch.ids)?;
        Ok(Watching { watcher, core: Arc::downgrade(self.core_arc()) })
    }

    /// The regions of this name, in order of their names: one by `device/region`, or all of a
    /// device by its own name alone.
    pub fn find(&self, name: &str) -> Vec<RegionId> {
        let (_, regions) = self.core().region_counts();
        let mut found: Vec<_> = regions
            .iter()
            .filter(|region| is_called(&region.shared.name, name))
            .map(|region| (&region.shared.name, RegionId(region.shared.id)))
            .collect();
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }
}
