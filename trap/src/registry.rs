//! The registry: how it is built and edited, and the guards of what is mapped.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, ReentrantMutex};
use trapline_access::{
    AccessClock, Delivery, Direction, DirtyLog, EditError, EditListener, Memory, MemoryListener,
    PlacedRegion, Region, RegionEdit, RegionId, Regions, Requester, Space, Window,
};

use crate::core::Core;
use crate::counters::{CounterSets, RegionNumber};
use crate::delivery::coalesced::Coalesced;
use crate::delivery::mirrored::Mirroring;
use crate::delivery::offload::Offload;
use crate::dispatch::Handle;
use crate::edit::check;
use crate::edit::transaction::Op;
use crate::lookup::publish::Published;
use crate::lookup::snapshot::Snapshot;
use crate::memory::DirtyLogs;
use crate::recorder::{Mode, Recorder};

/// One registry: two address spaces, their regions, and everything that is known about them.
/// Clones are handles on the same registry.
#[derive(Clone)]
pub struct Registry {
    core: Arc<Core>,
}

/// Sets a registry up.
#[derive(Default)]
pub struct Builder {
    offload: Option<Arc<dyn Offload>>,
}

impl Builder {
    /// The source's side of delivery. Without one the registry does everything itself.
    #[must_use]
    pub fn offload(mut self, offload: Arc<dyn Offload>) -> Self {
        self.offload = Some(offload);
        self
    }

    /// An empty registry.
    pub fn build(self) -> Registry {
        let core = Arc::new_cyclic(|this| Core {
            this: Weak::clone(this),
            published: Published::new(Snapshot::default()),
            mirroring: self.offload.clone().map(Mirroring::new),
            offload: self.offload,
            coalesced: Coalesced::default(),
            table: Mutex::default(),
            next_id: AtomicU64::new(1),
            counter_sets: CounterSets::default(),
            listeners: Mutex::default(),
            handles: Mutex::default(),
            too_deep: AtomicU64::new(0),
            dirty_logs: DirtyLogs::default(),
            sequence: AtomicU64::new(0),
            order: ReentrantMutex::default(),
            recorder: OnceLock::new(),
        });
        Registry { core }
    }
}

impl Registry {
    /// Starts a new registry.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Maps one region. The region lives as long as the returned guard.
    ///
    /// # Errors
    /// See [`EditError`]; nothing has happened then.
    pub fn map(&self, region: Region) -> Result<Mapping, EditError> {
        self.edit(|edit| edit.map(region))
    }

    /// Makes several changes at once, all or nothing. `change` only collects them; they take
    /// effect together after it returns, and overlap is judged on the result.
    ///
    /// # Errors
    /// What `change` returns, or the first reason why the result is refused.
    pub fn edit<T>(
        &self,
        change: impl FnOnce(&mut Edit<'_>) -> Result<T, EditError>,
    ) -> Result<T, EditError> {
        let mut edit = Edit { core: &self.core, ops: Vec::new() };
        let out = change(&mut edit)?;
        let ops = edit.ops;
        self.core.commit(ops)?;
        Ok(out)
    }

    /// The registry, for whom it must not be kept alive by.
    pub fn downgrade(&self) -> WeakRegistry {
        WeakRegistry(Arc::downgrade(&self.core))
    }

    /// Unmaps a region and waits until none of its handlers runs on any other thread. Waits for
    /// that region only; if writes to it are coalesced, also for what was queued before them.
    /// Must not be called from inside a handler, which would wait for itself; handlers have
    /// [`Regions::place`]. The caller must hold no lock that the region's handler takes.
    pub fn remove_sync(&self, mapping: Mapping) {
        let number = Arc::clone(&mapping.number);
        let coalesces = self.core.coalesces(mapping.id);
        drop(mapping);
        if coalesces {
            self.drain();
        }
        self.core.published.wait_for(number.mark());
        self.core.collect_retired();
    }

    /// A handle to make accesses with, on behalf of vCPU `vcpu`: one for each thread, at any time.
    /// It has counters of its own for every region, which the next handle goes on with once it is
    /// dropped. While it exists and makes no access, regions removed meanwhile may not be freed.
    pub fn handle(&self, vcpu: u32) -> Handle {
        self.handle_for(Requester::Vcpu(vcpu))
    }

    /// A handle to make accesses with, on behalf of `requester`; see [`Registry::handle`].
    pub fn handle_for(&self, requester: Requester) -> Handle {
        let stats = self.core.handle_stats();
        Handle::new(Arc::clone(&self.core), requester, stats)
    }

    /// Delivers every coalesced write that is waiting; whether there may have been any. For moments
    /// at which no access is made but state is looked at: a pause, a snapshot, an idle guest. The
    /// caller must hold no lock that a handler takes.
    pub fn drain(&self) -> bool {
        let queued = self.core.anything_queued();
        if queued {
            self.handle_for(Requester::External).drain();
        }
        queued
    }

    /// Whether the source may have queued writes: a window was ever mapped whose writes it was asked
    /// to queue.
    pub fn coalesces(&self) -> bool {
        self.core.coalesced.in_use.load(Ordering::SeqCst)
    }

    /// Records the accesses of vCPUs' handles made from now on, and queued writes, with stamps that
    /// `clock` gives, which is also the time that it tells devices meanwhile. Once for a registry:
    /// whether it had no recorder before.
    pub fn start_recorder(&self, clock: Arc<dyn AccessClock>, mode: Mode) -> bool {
        self.core.recorder.set(Recorder::new(clock, mode)).is_ok()
    }

    /// The recorder, if one was started.
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.core.recorder.get()
    }

    /// The data sheet's name of the register that an access at `offset` of a region would reach now,
    /// as its handler says it; `None` too where the region is gone.
    pub fn register_at(
        &self,
        region: RegionId,
        offset: u64,
        direction: Direction,
    ) -> Option<&'static str> {
        // A handler is asked without the lock.
        let (handler, offset) = {
            let table = self.core.table.lock();
            let region = table.regions.get(&region)?;
            let offset = region.shared.device_offset.wrapping_add(offset);
            (Arc::clone(&region.handler), offset)
        };
        handler.register(offset, direction)
    }

    /// What an access to `addr` would reach now, by name: `serial0/uart THR`, or without a register
    /// where the handler names none. `None` if nobody claims the address.
    pub fn name_at(&self, space: Space, addr: u64, direction: Direction) -> Option<String> {
        let snapshot = self.core.published.latest();
        let entry = snapshot.find(space, addr)?;
        let name = &entry.shared.name;
        let register = entry.handler.register(entry.offset_of(addr), direction);
        Some(register.map_or_else(|| name.to_string(), |register| format!("{name} {register}")))
    }

    /// Whether memory answers reads at `addr`.
    pub fn is_memory_at(&self, space: Space, addr: u64) -> bool {
        let snapshot = self.core.published.latest();
        let window = snapshot.find(space, addr).and_then(|entry| {
            let (_, window) = entry.diverted_at(addr, Direction::Read);
            window.map(|window| matches!(window.delivery, Delivery::Memory { .. }))
        });
        window.unwrap_or(false)
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn core_arc(&self) -> &Arc<Core> {
        &self.core
    }
}

/// An edit under way: see [`Registry::edit`].
pub struct Edit<'a> {
    core: &'a Arc<Core>,
    ops: Vec<Op>,
}

impl Edit<'_> {
    /// Maps a region. If the edit fails, the guard guards nothing.
    ///
    /// # Errors
    /// When the region could not be placed anywhere: empty, or with impossible deliveries.
    pub fn map(&mut self, region: Region) -> Result<Mapping, EditError> {
        check::region(&region)?;
        let (id, number) = self.core.new_region();
        self.ops.push(Op::Map(id, Arc::clone(&number), Box::new(region)));
        Ok(Mapping { id, number, core: Arc::downgrade(self.core) })
    }

    /// Moves a region to a new base, or out of its space.
    pub fn place(&mut self, id: RegionId, base: Option<u64>) {
        self.ops.push(Op::Place(id, base));
    }

    /// Delivers accesses to a part of a region in another way from now on.
    pub fn add_window(&mut self, id: RegionId, window: Window) {
        self.ops.push(Op::AddWindow(id, window));
    }

    /// Takes a window away that the region was mapped with, or that was added.
    pub fn remove_window(&mut self, id: RegionId, window: Window) {
        self.ops.push(Op::RemoveWindow(id, window));
    }

    /// Unmaps a region as part of this edit; its guard then guards nothing.
    pub fn unmap(&mut self, mapping: &Mapping) {
        self.ops.push(Op::Unmap(mapping.id));
    }
}

/// Keeps a region mapped. Dropping it takes the region out, with everything it had installed in
/// the source. A handler that is running then runs on; [`Registry::remove_sync`] waits for it.
#[must_use = "a region is unmapped when its guard is dropped"]
pub struct Mapping {
    id: RegionId,
    /// Kept so that it means this region as long as somebody may ask for it.
    number: Arc<RegionNumber>,
    core: Weak<Core>,
}

impl Mapping {
    /// The region's name for [`Regions::place`] and [`Edit::place`].
    pub fn id(&self) -> RegionId {
        self.id
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            // The only error is that the region is gone already.
            let _ = core.commit(vec![Op::Unmap(self.id)]);
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Mapping").field(&self.id.0).finish()
    }
}

impl Regions for Registry {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        Regions::edit(&*self.core, edits)
    }

    fn region_at(&self, space: Space, addr: u64) -> Option<PlacedRegion> {
        self.core.region_at(space, addr)
    }

    fn log_dirty(&self, memory: Arc<dyn Memory>) -> Result<Box<dyn DirtyLog>, EditError> {
        self.core.log_dirty(memory)
    }

    fn listen(
        &self,
        listener: Arc<dyn MemoryListener>,
    ) -> Result<Box<dyn Any + Send + Sync>, EditError> {
        self.core.listen(listener)
    }

    fn listen_freed(&self, listener: Weak<dyn EditListener>) {
        self.core.listen_freed(listener);
    }
}

/// A registry that may be gone: what a device in a region holds to edit with, since a [`Registry`]
/// would keep the registry alive through its own region.
#[derive(Clone)]
pub struct WeakRegistry(Weak<Core>);

impl Regions for WeakRegistry {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        let core = self.0.upgrade().ok_or(EditError::NoRegistry)?;
        Regions::edit(&*core, edits)
    }

    fn region_at(&self, space: Space, addr: u64) -> Option<PlacedRegion> {
        self.0.upgrade()?.region_at(space, addr)
    }

    fn log_dirty(&self, memory: Arc<dyn Memory>) -> Result<Box<dyn DirtyLog>, EditError> {
        let core = self.0.upgrade().ok_or(EditError::NoRegistry)?;
        core.log_dirty(memory)
    }

    fn listen(
        &self,
        listener: Arc<dyn MemoryListener>,
    ) -> Result<Box<dyn Any + Send + Sync>, EditError> {
        let core = self.0.upgrade().ok_or(EditError::NoRegistry)?;
        core.listen(listener)
    }

    fn listen_freed(&self, listener: Weak<dyn EditListener>) {
        if let Some(core) = self.0.upgrade() {
            core.listen_freed(listener);
        }
    }
}
