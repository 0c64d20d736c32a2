//! Windows of memory, doorbells and queued writes, edited at random, against a naive model of bytes:
//! what a guest reads is the same with a source that has memory slots of whole pages and without,
//! the source and a listener have what is placed and nothing else, edits that fail leave no trace,
//! and no page that was written is missing in a log.
#![cfg(not(loom))]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

#[path = "memory_model/source.rs"]
mod source;

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use source::{Bytes, Ear, Slots};
use trapline::{
    Delivery, DirtyLog, DoorbellTarget, Handle, Handler, IoCx, Mapping, Memory, Region, Regions,
    Registry, Ring, Size, Space, Window,
};

/// Guest addresses.
const SPACE: u64 = 0x200;
/// Bytes of each memory, and of the pages that a source can show.
const MEMORY: u64 = 0x40;
pub(crate) const PAGE: u64 = 8;
const MEMORIES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory { which: usize, at: u64, readonly: bool },
    Coalesced,
    Doorbell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Win {
    offset: u64,
    len: u64,
    kind: Kind,
}

/// Regions and windows are meant by their number, modulo how many there are.
#[derive(Clone, Debug)]
enum Change {
    Map(Option<u64>, u64, Vec<Win>),
    Unmap(usize),
    Place(usize, Option<u64>),
    Swap(usize, usize),
    AddWindow(usize, Win),
    RemoveWindow(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refuser {
    Source,
    Listener,
}

#[derive(Clone, Debug)]
enum Step {
    /// The source, or the listener, refuses what comes after so many.
    Edit(Vec<Change>, Option<(Refuser, usize)>),
    Read(u64, usize),
    Write(u64, Vec<u8>),
    /// A device writes to memory.
    Dma(usize, u64, Vec<u8>),
    TakeLog,
    Watch(bool),
}

/// A device with a byte at each offset.
struct Device(Mutex<Vec<u8>>);

impl Handler for Device {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let (bytes, at) = (self.0.lock(), usize::try_from(offset).unwrap());
        (0..size.bytes()).fold(0, |value, i| value | u64::from(bytes[at + i]) << (8 * i))
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let at = usize::try_from(offset).unwrap();
        self.0.lock()[at..at + size.bytes()].copy_from_slice(&value.to_le_bytes()[..size.bytes()]);
    }
}

#[derive(Default)]
struct Bell;

impl Ring for Bell {
    fn ring(&self, _cx: &IoCx<'_>) {}
}

/// A region as the model has it.
#[derive(Clone)]
struct Naive {
    key: usize,
    base: Option<u64>,
    len: u64,
    windows: Vec<Win>,
    bytes: Vec<u8>,
}

impl Naive {
    fn range(&self) -> Option<Range<u64>> {
        self.base.map(|base| base..base + self.len)
    }

    fn window_at(&self, offset: u64) -> Option<&Win> {
        self.windows.iter().find(|w| w.kind != Kind::Doorbell && w.range().contains(&offset))
    }

    fn is_possible(&self) -> bool {
        self.windows.iter().enumerate().all(|(i, window)| {
            let in_memory = match window.kind {
                Kind::Memory { at, .. } => at + window.len <= MEMORY,
                Kind::Coalesced | Kind::Doorbell => true,
            };
            let free = self.windows[..i].iter().all(|other| {
                let (a, b) = (window.range(), other.range());
                let bells = (window.kind, other.kind) == (Kind::Doorbell, Kind::Doorbell);
                if bells { a != b } else { a.end <= b.start || b.end <= a.start }
            });
            window.len > 0 && window.offset + window.len <= self.len && in_memory && free
        })
    }
}

impl Win {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

#[derive(Clone, Default)]
struct Model {
    regions: Vec<Naive>,
    memories: Vec<Vec<u8>>,
}

impl Model {
    fn is_possible(&self) -> bool {
        let placed: Vec<_> = self.regions.iter().filter_map(Naive::range).collect();
        let apart = |i: usize, a: &Range<u64>| {
            placed[..i].iter().all(|b| a.end <= b.start || b.end <= a.start)
        };
        self.regions.iter().all(Naive::is_possible)
            && placed.iter().enumerate().all(|(i, a)| apart(i, a))
    }

    /// Where the byte at `addr` is, if anywhere: for reads, or for writes.
    fn byte(&mut self, addr: u64, write: bool) -> Option<(&mut u8, Option<(usize, u64)>)> {
        let Self { regions, memories } = self;
        let region = regions.iter_mut().find(|r| r.range().is_some_and(|r| r.contains(&addr)))?;
        let offset = addr - region.base.unwrap();
        if let Some(Win { offset: start, kind: Kind::Memory { which, at, readonly }, .. }) =
            region.window_at(offset).copied()
            && !(write && readonly)
        {
            let at = at + (offset - start);
            return Some((&mut memories[which][index(at)], Some((which, at))));
        }
        Some((&mut region.bytes[index(offset)], None))
    }

    /// Whether a write rings instead of going anywhere: as a whole, or the part of it at a border of
    /// pages, which is as much of it as a processor sends at once.
    fn rings(&self, addr: u64, len: u64) -> bool {
        self.regions.iter().any(|region| {
            let bells = region.windows.iter().filter(|window| window.kind == Kind::Doorbell);
            region.base.is_some_and(|base| {
                bells.clone().any(|bell| base + bell.offset == addr && bell.len == len)
            })
        })
    }

    /// Guest address, length, which memory and where, of each window of memory that is placed.
    fn sections(&self) -> Vec<(u64, u64, usize, u64, bool)> {
        let sections = self.regions.iter().flat_map(|region| {
            region.windows.iter().filter_map(|window| match window.kind {
                Kind::Memory { which, at, readonly } => {
                    Some((region.base? + window.offset, window.len, which, at, readonly))
                }
                _ => None,
            })
        });
        let mut sections: Vec<_> = sections.collect();
        sections.sort_unstable();
        sections
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

/// The registry, its source and listener, and the model.
struct Both {
    registry: Registry,
    handle: Handle,
    source: Option<Arc<Slots>>,
    ear: Arc<Ear>,
    memories: Vec<Arc<Bytes>>,
    log: Box<dyn DirtyLog>,
    /// Pages of the first memory written since the log was taken.
    written: Vec<u64>,
    live: Vec<(usize, Mapping)>,
    model: Model,
    keys: usize,
    watching: Option<trapline::Watching>,
    _listening: Box<dyn std::any::Any + Send + Sync>,
}

/// An edit, worked out on the model.
struct Plan {
    model: Model,
    /// Keys of the regions that go.
    removed: Vec<usize>,
    impossible: bool,
    ops: Vec<Op>,
}

/// Something to be done in an edit, to live regions by number.
enum Op {
    Map(usize, Region),
    Unmap(usize),
    Place(usize, Option<u64>),
    AddWindow(usize, Window),
    RemoveWindow(usize, Window),
}

impl Plan {
    fn region(&mut self, key: usize) -> Option<&mut Naive> {
        self.model.regions.iter_mut().find(|region| region.key == key)
    }

    fn place(&mut self, (i, key): (usize, usize), base: Option<u64>) {
        self.impossible |= self.removed.contains(&key);
        self.region(key).into_iter().for_each(|region| region.base = base);
        self.ops.push(Op::Place(i, base));
    }
}

struct Nobody;

impl trapline::Observer for Nobody {}

impl Both {
    fn new(offload: bool) -> Self {
        let source = offload.then(Arc::<Slots>::default);
        let builder = Registry::builder();
        let registry = match &source {
            Some(source) => builder.offload(source.clone()).build(),
            None => builder.build(),
        };
        let memories: Vec<_> = (0..MEMORIES).map(|_| Bytes::new(MEMORY)).collect();
        let log = registry.log_dirty(memories[0].clone()).unwrap();
        let ear = Arc::<Ear>::default();
        let model = Model { memories: vec![vec![0; index(MEMORY)]; MEMORIES], ..Model::default() };
        Self {
            handle: registry.handle(0),
            _listening: registry.listen(ear.clone()).unwrap(),
            registry,
            source,
            ear,
            memories,
            log,
            written: Vec::new(),
            live: Vec::new(),
            model,
            keys: 0,
            watching: None,
        }
    }

    fn window(&self, win: &Win) -> Window {
        let delivery = match win.kind {
            Kind::Memory { which, at, readonly } => {
                Delivery::Memory { memory: self.memories[which].clone(), offset: at, readonly }
            }
            Kind::Coalesced => Delivery::Coalesced,
            Kind::Doorbell => {
                let target = DoorbellTarget::Handler(Arc::new(Bell));
                Delivery::Doorbell { target, datamatch: None }
            }
        };
        Window { offset: win.offset, len: win.len, delivery }
    }

    /// What the changes lead to in the model, and what is to be done to the registry.
    fn plan(&mut self, changes: &[Change]) -> Plan {
        let model = self.model.clone();
        let mut plan = Plan { model, removed: Vec::new(), impossible: false, ops: Vec::new() };
        for change in changes {
            if let Change::Map(base, len, windows) = change {
                self.map(&mut plan, *base, *len, windows);
            } else if !self.live.is_empty() {
                self.change(&mut plan, change);
            }
        }
        plan
    }

    fn map(&mut self, plan: &mut Plan, base: Option<u64>, len: u64, windows: &[Win]) {
        let key = self.keys;
        self.keys += 1;
        let bytes: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        let device = Arc::new(Device(Mutex::new(bytes.clone())));
        let region = Region::new(Space::Mmio, base, len, ("r", "m"), device);
        let region = windows.iter().map(|win| self.window(win)).fold(region, Region::window);
        plan.model.regions.push(Naive { key, base, len, windows: windows.to_vec(), bytes });
        plan.ops.push(Op::Map(key, region));
    }

    /// A change of regions that are there.
    fn change(&self, plan: &mut Plan, change: &Change) {
        let pick = |i: &usize| i % self.live.len();
        let key = |i: usize| self.live[i].0;
        match change {
            Change::Map(..) => {}
            Change::Unmap(i) => {
                // What it had before it went is judged, too.
                plan.impossible |= plan.region(key(pick(i))).is_some_and(|r| !r.is_possible());
                plan.removed.push(key(pick(i)));
                plan.model.regions.retain(|region| region.key != key(pick(i)));
                plan.ops.push(Op::Unmap(pick(i)));
            }
            Change::Place(i, base) => plan.place((pick(i), key(pick(i))), *base),
            Change::Swap(a, b) => {
                let [a, b] = [pick(a), pick(b)].map(|i| (i, key(i)));
                let [at_a, at_b] = [a, b].map(|(_, key)| plan.region(key).and_then(|r| r.base));
                plan.place(a, at_b);
                plan.place(b, at_a);
            }
            Change::AddWindow(i, win) => {
                plan.impossible |= plan.removed.contains(&key(pick(i)));
                let region = plan.region(key(pick(i)));
                region.into_iter().for_each(|region| region.windows.push(*win));
                plan.ops.push(Op::AddWindow(pick(i), self.window(win)));
            }
            Change::RemoveWindow(i, at) => {
                let Some(region) = plan.region(key(pick(i))) else { return };
                // A doorbell that is made anew is not the one that is there.
                let mut wins = region.windows.iter().filter(|win| win.kind != Kind::Doorbell);
                let count = wins.clone().count();
                let Some(win) = wins.nth(at % count.max(1)).copied() else { return };
                let at = region.windows.iter().position(|other| *other == win).unwrap();
                region.windows.remove(at);
                plan.ops.push(Op::RemoveWindow(pick(i), self.window(&win)));
            }
        }
    }

    fn edit(&mut self, changes: &[Change], refuse: Option<(Refuser, usize)>) {
        let Plan { model, removed, impossible, ops } = self.plan(changes);
        let refuses = |who| refuse.filter(|(refuser, _)| *refuser == who).map(|(_, after)| after);
        if let Some(source) = &self.source {
            source.refuse_after(refuses(Refuser::Source));
        }
        self.ear.refuse_after(refuses(Refuser::Listener));
        let id = |i: usize| self.live[i].1.id();
        let done = self.registry.edit(|edit| {
            let mut mapped = Vec::new();
            for op in ops {
                match op {
                    Op::Map(key, region) => mapped.push((key, edit.map(region)?)),
                    Op::Unmap(i) => edit.unmap(&self.live[i].1),
                    Op::Place(i, base) => edit.place(id(i), base),
                    Op::AddWindow(i, window) => edit.add_window(id(i), window),
                    Op::RemoveWindow(i, window) => edit.remove_window(id(i), window),
                }
            }
            Ok(mapped)
        });
        let possible = model.is_possible() && !impossible;
        let refused = self.ear.refuse_after(None)
            | self.source.as_ref().is_some_and(|source| source.refuse_after(None));
        match done {
            Ok(mapped) => {
                assert!(possible && !refused);
                self.model = model;
                self.live.retain(|(key, _)| !removed.contains(key));
                self.live.extend(mapped);
            }
            Err(error) => assert!(!possible || refused, "{error}"),
        }
    }

    /// What the guest does: page by page, past the source's slots and queue if it has any.
    fn access(
        &mut self,
        addr: u64,
        len: usize,
        mut part: impl FnMut(&mut Self, u64, Range<usize>),
    ) {
        let mut done = 0;
        while done < len {
            let at = addr + done as u64;
            let more = (index(PAGE - at % PAGE)).min(len - done);
            part(self, at, done..done + more);
            done += more;
        }
    }

    fn read(&mut self, addr: u64, len: usize) {
        let mut found = vec![0; len];
        self.access(addr, len, |both, at, part| {
            let data = &mut found[part];
            if !both.source.as_ref().is_some_and(|source| source.guest_reads(at, data)) {
                both.handle.read(Space::Mmio, at, data);
            }
        });
        // What is queued arrives before anybody looks.
        self.registry.drain();
        for (at, found) in (addr..).zip(found) {
            let expected = self.model.byte(at, false).map_or(0xff, |(byte, _)| *byte);
            assert_eq!(found, expected, "at {at:#x}");
        }
    }

    fn write(&mut self, addr: u64, data: &[u8]) {
        self.access(addr, data.len(), |both, at, part| {
            let data = &data[part];
            if !both.source.as_ref().is_some_and(|source| source.guest_writes(at, data)) {
                both.handle.write(Space::Mmio, at, data);
            }
            if both.model.rings(at, data.len() as u64) {
                return;
            }
            for (at, new) in (at..).zip(data) {
                let Some((byte, place)) = both.model.byte(at, true) else { continue };
                *byte = *new;
                if let Some((0, at)) = place {
                    both.written.push(at / PAGE);
                }
            }
        });
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Edit(changes, refuse) => self.edit(changes, *refuse),
            Step::Read(addr, len) => self.read(*addr, *len),
            Step::Write(addr, data) => self.write(*addr, data),
            Step::Dma(which, at, data) => {
                let len = data.len().min(index(MEMORY - at));
                self.memories[*which].write(*at, &data[..len]);
                let to = &mut self.model.memories[*which][index(*at)..][..len];
                to.copy_from_slice(&data[..len]);
                if *which == 0 {
                    self.written.extend((*at..*at + len as u64).map(|at| at / PAGE));
                }
            }
            Step::TakeLog => {
                let log = self.log.take();
                for page in self.written.drain(..) {
                    assert!(log.is_dirty(page * PAGE..page * PAGE + 1), "page {page} in {log:?}");
                }
            }
            Step::Watch(on) => {
                self.watching = on.then(|| {
                    let watch = trapline::Watch::new().everything();
                    self.registry.watch(watch, Arc::new(Nobody)).unwrap()
                });
            }
        }
        let which = |memory: &Arc<dyn Memory>| {
            let at =
                |bytes: &Arc<Bytes>| std::ptr::addr_eq(Arc::as_ptr(bytes), Arc::as_ptr(memory));
            self.memories.iter().position(at).unwrap()
        };
        let sections = self.model.sections();
        assert_eq!(self.ear.sections(which), sections);
        if let Some(source) = &self.source {
            assert_eq!(source.slots(which), sections);
        }
    }
}

fn win() -> impl Strategy<Value = Win> {
    let memory = (0..MEMORIES, 0..MEMORY, any::<bool>())
        .prop_map(|(which, at, readonly)| Kind::Memory { which, at, readonly });
    let page = (0..MEMORIES, 0..MEMORY / PAGE, any::<bool>())
        .prop_map(|(which, at, readonly)| Kind::Memory { which, at: at * PAGE, readonly });
    let kind = prop_oneof![
        3 => memory,
        5 => page,
        1 => Just(Kind::Coalesced),
        1 => Just(Kind::Doorbell)
    ];
    (0..0x20u64, 1..0x20u64, kind).prop_map(|(offset, len, kind)| {
        let len = if kind == Kind::Doorbell { 1 << (len % 4) } else { len };
        Win { offset, len, kind }
    })
}

fn base() -> impl Strategy<Value = Option<u64>> {
    prop::option::weighted(
        0.85,
        prop_oneof![3 => (0..SPACE / PAGE).prop_map(|n| n * PAGE), 1 => 0..SPACE],
    )
}

fn change() -> impl Strategy<Value = Change> {
    let i = || 0..16usize;
    prop_oneof![
        6 => (base(), 1..0x30u64, prop::collection::vec(win(), 0..3))
            .prop_map(|(base, len, windows)| Change::Map(base, len, windows)),
        1 => i().prop_map(Change::Unmap),
        4 => (i(), base()).prop_map(|(i, base)| Change::Place(i, base)),
        2 => (i(), i()).prop_map(|(a, b)| Change::Swap(a, b)),
        4 => (i(), win()).prop_map(|(i, win)| Change::AddWindow(i, win)),
        3 => (i(), i()).prop_map(|(i, at)| Change::RemoveWindow(i, at)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..=8);
    let refuser = prop::sample::select(vec![Refuser::Source, Refuser::Listener]);
    let refuse = prop::option::weighted(0.3, (refuser, 0..3usize));
    prop_oneof![
        6 => (prop::collection::vec(change(), 1..4), refuse)
            .prop_map(|(changes, refuse)| Step::Edit(changes, refuse)),
        6 => (0..SPACE, 1..=8usize).prop_map(|(addr, len)| Step::Read(addr, len)),
        6 => (0..SPACE, bytes()).prop_map(|(addr, data)| Step::Write(addr, data)),
        1 => (0..MEMORIES, 0..MEMORY, bytes()).prop_map(|(m, at, data)| Step::Dma(m, at, data)),
        1 => Just(Step::TakeLog),
        1 => any::<bool>().prop_map(Step::Watch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_a_guest_reads_is_what_a_naive_model_says(
        steps in prop::collection::vec(step(), 1..80),
        offload: bool,
    ) {
        let mut both = Both::new(offload);
        for step in &steps {
            both.step(step);
        }
        (0..SPACE).step_by(8).for_each(|addr| both.read(addr, 8));
        both.live.clear();
        both.model.regions.clear();
        both.step(&Step::TakeLog);
    }
}
