//! The registry as its manager sees it: edits, guards, statistics.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, ReentrantMutex};
use trapline_access::{
    Direction, EditError, Region, RegionEdit, RegionId, RegionName, Regions, Requester, Space,
    Window,
};

use crate::check;
use crate::counters::{Books, CounterSet, Counts, Number, UnclaimedCounts};
use crate::entry::Entry;
use crate::handle::Handle;
use crate::observer::Observer;
use crate::offload::{CoalescedWrite, Offload};
use crate::publish::Published;
use crate::snapshot::Snapshot;
use crate::table::{RegionInfo, RegionTable};
use crate::transaction::{DeferredDrop, Op, Source, WatchChange};

/// One registry: two address spaces, their regions, and everything that is known about them.
/// Clones are handles on the same registry.
#[derive(Clone)]
pub struct Registry {
    core: Arc<Core>,
}

/// What registry, handles and guards share.
pub(crate) struct Core {
    pub(crate) published: Published<Snapshot>,
    pub(crate) offload: Option<Arc<dyn Offload>>,
    pub(crate) coalesced: Coalesced,
    /// The edit lock: writers take turns. No device and no reader is ever waited for inside.
    table: Mutex<RegionTable>,
    next_id: AtomicU64,
    pub(crate) books: Books,
    /// What [`Registry::handle`] gives out.
    handles: Box<[Arc<HandleStats>]>,
    /// For the registry's own accesses: as many as were ever made at once.
    spares: Mutex<Vec<Arc<HandleStats>>>,
    /// Accesses by devices that were too deep in each other; see [`crate::AddressSpace`].
    pub(crate) too_deep: AtomicU64,
}

/// No source has more writes queued than this: KVM's ring is one page, and the largest page, of
/// 64 KiB, holds 2,730.
pub(crate) const QUEUED_MAX: usize = 4096;

/// Writes that an edit took out of the source, and whose they are.
pub(crate) type Stash = VecDeque<(CoalescedWrite, Option<Entry>)>;

/// Writes that the source queued, on their way to their handlers.
#[derive(Default)]
pub(crate) struct Coalesced {
    /// Held while queued writes are delivered: whoever has it delivers in order, whoever waits
    /// for it knows that all earlier writes have arrived. Says whether its holder is at it now.
    pub(crate) turn: ReentrantMutex<Cell<bool>>,
    /// Whether somebody is delivering.
    pub(crate) delivering: AtomicBool,
    /// Whether the source was ever asked to queue anything. Until then nobody looks.
    pub(crate) in_use: AtomicBool,
    /// Writes taken out of the source's queue by an edit, with the region they were made to. A
    /// leaf lock, which also keeps `Offload::pop` to one caller.
    pub(crate) queue: Mutex<Stash>,
    /// Whether `queue` holds anything.
    pub(crate) stashed: AtomicBool,
}

/// What a handle keeps besides per-region counters.
pub(crate) struct HandleStats {
    pub(crate) unclaimed: Mutex<UnclaimedCounts>,
    pub(crate) counters: Arc<CounterSet>,
    taken: AtomicBool,
}

/// Sets a registry up.
#[derive(Default)]
pub struct Builder {
    handles: Option<usize>,
    offload: Option<Arc<dyn Offload>>,
}

/// There is no free handle left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {limit} handles of the registry are in use")]
pub struct NoHandle {
    /// How many there are; see [`Builder::handles`].
    pub limit: usize,
}

impl Builder {
    /// How many handles can exist at once: one per vCPU and one for each other thread that makes
    /// accesses. Every region has a set of counters for each. 1 unless told otherwise.
    #[must_use]
    pub fn handles(mut self, handles: usize) -> Self {
        self.handles = Some(handles.max(1));
        self
    }

    /// The source's side of delivery. Without one the registry does everything itself.
    #[must_use]
    pub fn offload(mut self, offload: Arc<dyn Offload>) -> Self {
        self.offload = Some(offload);
        self
    }

    /// An empty registry.
    pub fn build(self) -> Registry {
        let books = Books::default();
        let handles = (0..self.handles.unwrap_or(1)).map(|_| HandleStats::new(&books)).collect();
        let core = Core {
            published: Published::new(Snapshot::default()),
            offload: self.offload,
            coalesced: Coalesced::default(),
            table: Mutex::default(),
            next_id: AtomicU64::new(1),
            books,
            handles,
            spares: Mutex::default(),
            too_deep: AtomicU64::new(0),
        };
        Registry { core: Arc::new(core) }
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

    /// A handle to make accesses with, on behalf of vCPU `vcpu`.
    ///
    /// # Errors
    /// [`NoHandle`] when as many as [`Builder::handles`] exist already.
    pub fn handle(&self, vcpu: u32) -> Result<Handle, NoHandle> {
        self.handle_for(Requester::Vcpu(vcpu))
    }

    /// A handle to make accesses with, on behalf of `requester`.
    ///
    /// # Errors
    /// [`NoHandle`] when as many as [`Builder::handles`] exist already.
    pub fn handle_for(&self, requester: Requester) -> Result<Handle, NoHandle> {
        let handles = &self.core.handles;
        let free = handles.iter().find(|stats| stats.take());
        let stats = Arc::clone(free.ok_or(NoHandle { limit: handles.len() })?);
        Ok(Handle::new(Arc::clone(&self.core), requester, stats))
    }

    /// Delivers every coalesced write that is waiting; whether there may have been any. For moments
    /// at which no access is made but state is looked at: a pause, a snapshot, an idle guest. The
    /// caller must hold no lock that a handler takes.
    pub fn drain(&self) -> bool {
        let queued = self.core.anything_queued();
        if queued {
            self.spare_handle(Requester::External).drain();
        }
        queued
    }

    /// Whether the source may have queued writes: a window was ever mapped whose writes it was asked
    /// to queue.
    pub fn coalesces(&self) -> bool {
        self.core.coalesced.in_use.load(Ordering::SeqCst)
    }

    /// A handle that is not one of [`Builder::handles`], for a short time: while it exists it may
    /// keep regions from being freed.
    pub(crate) fn spare_handle(&self, requester: Requester) -> Handle {
        let mut spares = self.core.spares.lock();
        let free = spares.iter().find(|stats| stats.take()).cloned();
        let stats = free.unwrap_or_else(|| {
            let stats = HandleStats::new(&self.core.books);
            stats.take();
            spares.push(Arc::clone(&stats));
            stats
        });
        drop(spares);
        Handle::new(Arc::clone(&self.core), requester, stats)
    }

    /// Starts or ends telling the observer of every access to a region, after it was made. While
    /// it is off it costs nothing.
    ///
    /// # Errors
    /// [`EditError::Unknown`] when the region is gone.
    pub fn trace(&self, id: RegionId, on: bool) -> Result<(), EditError> {
        let change = WatchChange { trace: Some(on), ..WatchChange::default() };
        self.core.commit(vec![Op::Watch(id, change)])
    }

    /// Starts or ends telling the observer of every access to a region before it is made, so that
    /// it can hold the vCPU there. While it is off it costs nothing.
    ///
    /// # Errors
    /// [`EditError::Unknown`] when the region is gone.
    pub fn stop_at(&self, id: RegionId, on: bool) -> Result<(), EditError> {
        let change = WatchChange { stop: Some(on), ..WatchChange::default() };
        self.core.commit(vec![Op::Watch(id, change)])
    }

    /// Sets who hears of accesses to watched regions from now on, or that nobody does.
    pub fn observe(&self, observer: Option<Arc<dyn Observer>>) {
        self.core.replace(|next| next.observer = observer);
    }

    /// The device, region and register that answer `addr`: `serial0/uart THR`.
    pub fn describe(&self, space: Space, addr: u64, direction: Direction) -> Option<String> {
        let snapshot = self.core.published.latest();
        let entry = snapshot.find(space, addr)?;
        let name = &entry.shared.name;
        let register = entry.handler.register(entry.offset_of(addr), direction);
        Some(register.map_or_else(|| name.to_string(), |register| format!("{name} {register}")))
    }

    pub(crate) fn core(&self) -> &Core {
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
    number: Arc<Number>,
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

impl Core {
    /// An id and a place among the counters for a region that is to be mapped.
    fn new_region(&self) -> (RegionId, Arc<Number>) {
        let id = RegionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        (id, Arc::new(self.books.open()))
    }

    /// Makes a list of changes, all or none.
    fn commit(&self, ops: Vec<Op>) -> Result<(), EditError> {
        // Dropped last, without the lock: a device's destructor may edit.
        let mut deferred = DeferredDrop::default();
        let mut free = Vec::new();
        if self.offload.is_some() && ops.iter().any(Op::coalesces) {
            self.coalesced.in_use.store(true, Ordering::SeqCst);
        }
        let mut table = self.table.lock();
        let current = self.published.latest();
        let source = Source { offload: self.offload.as_deref(), stash: &|| self.stash(&current) };
        let outcome = table.apply(&ops, &current, &source, &self.books, &mut deferred);
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
        outcome
    }

    /// Changes something in the snapshot that is no region's.
    fn replace(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut free = Vec::new();
        let mut table = self.table.lock();
        let mut next = (*self.published.latest()).clone();
        change(&mut next);
        let old = self.published.publish(Arc::new(next));
        table.retire(old);
        table.collect_retired(&mut free);
        drop(table);
    }

    fn coalesces(&self, id: RegionId) -> bool {
        self.table.lock().coalesces(id)
    }

    /// Frees replaced snapshots, and with them the handlers of regions that are gone, as far as
    /// no reader has them any more.
    fn collect_retired(&self) {
        let mut free = Vec::new();
        self.table.lock().collect_retired(&mut free);
        drop(free);
    }

    /// Takes all queued writes out of the source while the regions they were made to are known.
    fn stash(&self, before: &Snapshot) {
        let Some(offload) = &self.offload else { return };
        let mut queue = self.coalesced.queue.lock();
        // Said before anything is taken: who then finds the source empty must find this.
        self.coalesced.stashed.store(true, Ordering::Release);
        // The guest may go on queueing to other regions, but that is not for an edit to take.
        for write in std::iter::from_fn(|| offload.pop()).take(QUEUED_MAX) {
            let entry = before.find(write.space, write.addr).cloned();
            queue.push_back((write, entry));
        }
        self.coalesced.stashed.store(!queue.is_empty(), Ordering::Release);
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
            || self.coalesced.stashed.load(Ordering::Acquire)
            || self.coalesced.delivering.load(Ordering::Acquire)
    }

    pub(crate) fn region_counts(&self) -> (BTreeMap<RegionName, Counts>, Vec<RegionInfo>) {
        let table = self.table.lock();
        let live = table.infos().collect();
        (table.departed.clone(), live)
    }

    pub(crate) fn handle_stats(&self) -> Vec<Arc<HandleStats>> {
        self.handles.iter().chain(&*self.spares.lock()).cloned().collect()
    }
}

impl HandleStats {
    fn new(books: &Books) -> Arc<Self> {
        Arc::new(Self {
            unclaimed: Mutex::default(),
            counters: books.new_set(),
            taken: AtomicBool::new(false),
        })
    }

    /// Takes it for a handle, unless another has it.
    fn take(&self) -> bool {
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
}

impl Drop for Core {
    /// Gives back what the source has of regions whose guards outlive the registry, or that have
    /// none.
    fn drop(&mut self) {
        if let Some(offload) = &self.offload {
            self.table.get_mut().give_back_all(&**offload);
        }
    }
}

impl Regions for Registry {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        Regions::edit(&*self.core, edits)
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
}
