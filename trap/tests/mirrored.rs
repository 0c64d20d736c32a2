//! Mirrored windows: what the source is asked to show, when, and that nobody can tell.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline::{
    CoalescedWrite, Delivery, DoorbellTarget, EditError, Handle, Handler, IoCx, Mapping, Memory,
    Mirror, Observer, Offload, READS_WORTH_A_SWITCH, Region, RegionEdit, Regions, Registry,
    Requester, Ring, Size, Space, TraceRecord, Watch, Window, Zone,
};

const PAGE: u64 = 0x1000;
const HERE: u64 = 0xd000_0000;
const THERE: u64 = 0xe000_0000;

struct Bytes(Mutex<Vec<u8>>);

impl Memory for Bytes {
    fn len(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.0.lock()[offset as usize..][..data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock()[offset as usize..][..data.len()].copy_from_slice(data);
    }
}

/// A source with read-only pages and a queue, and a guest that uses them.
#[derive(Default)]
struct Source {
    shown: Mutex<Vec<(u64, Arc<dyn Memory>)>>,
    coalesced: Mutex<Vec<(u64, u64)>>,
    queue: Mutex<VecDeque<CoalescedWrite>>,
    has_no_pages: AtomicBool,
    refuses: AtomicBool,
}

impl Offload for Source {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        match &zone.delivery {
            Delivery::Memory { memory, offset: 0, readonly: true } => {
                if self.refuses.load(Ordering::Relaxed) {
                    return Err("no slot".to_owned());
                }
                assert_eq!((zone.space, zone.len), (Space::Mmio, memory.len()));
                let mut shown = self.shown.lock();
                let apart = |(addr, other): &(u64, Arc<dyn Memory>)| {
                    addr + other.len() <= zone.addr || zone.addr + zone.len <= *addr
                };
                assert!(shown.iter().all(apart), "{zone:?} is shown already");
                shown.push((zone.addr, Arc::clone(memory)));
            }
            Delivery::Coalesced => self.coalesced.lock().push((zone.addr, zone.len)),
            Delivery::Doorbell { .. } => return Ok(false),
            other => panic!("nobody maps {other:?} here"),
        }
        Ok(true)
    }

    fn remove(&self, zone: &Zone) {
        match &zone.delivery {
            Delivery::Memory { .. } => {
                let mut shown = self.shown.lock();
                let at = shown.iter().position(|(addr, _)| *addr == zone.addr).unwrap();
                assert_eq!(shown.remove(at).1.len(), zone.len);
            }
            _ => self.coalesced.lock().retain(|other| *other != (zone.addr, zone.len)),
        }
    }

    fn queued(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        self.queue.lock().pop_front()
    }

    fn page(&self, len: u64) -> Option<Arc<dyn Memory>> {
        let page: Arc<dyn Memory> = Arc::new(Bytes(Mutex::new(vec![0x66; len as usize])));
        (!self.has_no_pages.load(Ordering::Relaxed)).then_some(page)
    }

    fn all_ones(&self, len: u64) -> Option<Arc<dyn Memory>> {
        let page = self.page(len)?;
        page.write(0, &vec![0xff; len as usize]);
        Some(page)
    }
}

impl Source {
    /// What a guest's read of `len` bytes gives without an exit.
    fn see(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let shown = self.shown.lock();
        let inside = |(start, memory): &&(u64, Arc<dyn Memory>)| {
            *start <= addr && addr + len as u64 <= start + memory.len()
        };
        let (start, memory) = shown.iter().find(inside)?;
        let mut data = vec![0; len];
        memory.read(addr - start, &mut data);
        Some(data)
    }

    fn read(&self, handle: &mut Handle, addr: u64, len: usize) -> Vec<u8> {
        self.see(addr, len).unwrap_or_else(|| {
            let mut data = vec![0; len];
            handle.read(Space::Mmio, addr, &mut data);
            data
        })
    }

    fn write(&self, handle: &mut Handle, addr: u64, bytes: &[u8]) {
        let end = addr + bytes.len() as u64;
        let queues = |(start, len): &(u64, u64)| *start <= addr && end <= start + len;
        if bytes.len() <= 8 && self.coalesced.lock().iter().any(queues) {
            let mut data = [0; 8];
            data[..bytes.len()].copy_from_slice(bytes);
            let len = bytes.len() as u8;
            self.queue.lock().push_back(CoalescedWrite { space: Space::Mmio, addr, len, data });
        } else {
            handle.write(Space::Mmio, addr, bytes);
        }
    }
}

/// Sixteen byte registers and a log at 0, whose writes do not show; then ones. Register 15 counts
/// reads while register 14 is not 0.
struct Panel {
    state: Mutex<State>,
    mirror: Arc<Mirror>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    registers: [u8; 16],
    log: Vec<u8>,
}

impl Panel {
    fn new(mirror: Arc<Mirror>) -> Arc<Self> {
        let panel = Self { state: Mutex::default(), mirror };
        panel.reflect(&panel.state.lock());
        Arc::new(panel)
    }

    fn reflect(&self, state: &State) {
        match state.registers[14] {
            0 => self.mirror.vouch(0, PAGE, &state.registers),
            _ => self.mirror.withdraw(0),
        }
    }

    fn region(self: &Arc<Self>, base: u64) -> Region {
        Region::mmio(base, PAGE, "panel", "regs", self.clone())
            .coalesce(0..1)
            .mirror(0..PAGE, Arc::clone(&self.mirror))
    }
}

impl Handler for Panel {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut state = self.state.lock();
        let mut bytes = [0xff; 8];
        for (at, byte) in (offset as usize..).zip(&mut bytes).take(size.bytes()) {
            if at == 15 && state.registers[14] != 0 {
                state.registers[15] = state.registers[15].wrapping_add(1);
            }
            *byte = state.registers.get(at).copied().unwrap_or(0xff);
        }
        self.reflect(&state);
        self.mirror.read(offset);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let mut state = self.state.lock();
        for (at, byte) in (offset as usize..).zip(value.to_le_bytes()).take(size.bytes()) {
            match state.registers.get_mut(at) {
                _ if at == 0 => state.log.push(byte),
                Some(register) => *register = byte,
                None => {}
            }
        }
        self.reflect(&state);
    }
}

struct Both {
    source: Arc<Source>,
    registry: Registry,
    handle: Handle,
    panel: Arc<Panel>,
    mapping: Option<Mapping>,
}

impl Both {
    fn new() -> Self {
        let source = Arc::<Source>::default();
        let registry = Registry::builder().offload(source.clone()).build();
        let (handle, panel) = (registry.handle(0), Panel::new(Mirror::new()));
        let mapping = Some(registry.map(panel.region(HERE)).unwrap());
        Self { source, registry, handle, panel, mapping }
    }

    fn poll(&mut self, base: u64, times: u32) {
        (0..times).for_each(|_| drop(self.source.read(&mut self.handle, base + 1, 1)));
    }

    fn place(&self, base: Option<u64>) {
        let id = self.mapping.as_ref().unwrap().id();
        Regions::place(&self.registry, &[(id, base)]).unwrap();
    }

    fn reads(&self) -> u64 {
        self.registry.stats().regions[0].counts.reads
    }
}

#[test]
fn a_page_that_is_polled_is_shown_and_costs_no_access_any_more() {
    let mut both = Both::new();
    both.poll(HERE, READS_WORTH_A_SWITCH);
    assert_eq!(both.source.see(HERE, 4), Some(vec![0; 4]));
    both.poll(HERE, 1000);
    assert_eq!(both.reads(), u64::from(READS_WORTH_A_SWITCH));
    both.source.write(&mut both.handle, HERE + 4, &[1, 2, 3]);
    assert_eq!(both.source.see(HERE + 3, 5), Some(vec![0, 1, 2, 3, 0]));
    assert_eq!(both.source.see(HERE + 12, 8), Some([[0; 4], [0xff; 4]].concat()));
    let text = both.registry.stats().to_string();
    assert!(text.contains("+0x0-0xfff mirrored, 0x1000 now, 1 times (kernel)"), "{text}");
    both.source.write(&mut both.handle, HERE + 14, &[1]);
    assert_eq!(both.source.see(HERE, 1), None, "a read would count");
    drop(both.mapping.take());
    assert_eq!(both.source.shown.lock().len(), 0);
}

#[test]
fn a_page_goes_where_its_region_goes_and_comes_back_when_it_is_read() {
    let mut both = Both::new();
    both.poll(HERE, READS_WORTH_A_SWITCH);
    both.place(Some(THERE));
    assert_eq!((both.source.see(HERE, 1), both.source.see(THERE, 1)), (None, None));
    both.poll(THERE, READS_WORTH_A_SWITCH);
    assert!(both.source.see(THERE, 1).is_some());
    both.place(None);
    assert_eq!(both.source.see(THERE, 1), None);
    both.place(Some(HERE));
    both.poll(HERE, READS_WORTH_A_SWITCH);
    assert!(both.source.see(HERE, 1).is_some());
    // Two regions that swap: the page's place is somebody else's in the same edit.
    let other = Region::mmio(THERE, PAGE, "other", "regs", both.panel.clone());
    let other = both.registry.map(other).unwrap();
    let id = both.mapping.as_ref().unwrap().id();
    let swap = both.registry.edit(|edit| {
        edit.place(id, Some(THERE));
        edit.place(other.id(), Some(HERE));
        Ok(())
    });
    swap.unwrap();
    assert_eq!((both.source.see(HERE, 1), both.source.see(THERE, 1)), (None, None));
    let clash = both.registry.edit(|edit| {
        edit.place(id, Some(HERE));
        Ok(())
    });
    assert!(matches!(clash, Err(EditError::Overlap { .. })));
    both.poll(THERE, READS_WORTH_A_SWITCH);
    assert!(both.source.see(THERE, 1).is_some(), "a refused edit has not happened");
    drop((both.mapping.take(), other));
    assert!(both.source.shown.lock().is_empty() && both.source.coalesced.lock().is_empty());
}

/// Counts what it hears of.
#[derive(Default)]
struct Counter(AtomicU64);

impl Observer for Counter {
    fn access(&self, _record: &TraceRecord<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_watches_hears_of_every_read() {
    let mut both = Both::new();
    both.poll(HERE, READS_WORTH_A_SWITCH);
    let counter = Arc::<Counter>::default();
    let watching = both.registry.watch(Watch::new().named("panel"), counter.clone()).unwrap();
    both.poll(HERE, 1000);
    assert_eq!(counter.0.load(Ordering::Relaxed), 1000);
    assert_eq!(both.panel.mirror.times_shown(), 1);
    drop(watching);
    both.poll(HERE, 1000);
    assert_eq!(counter.0.load(Ordering::Relaxed), 1000);
    assert!(both.source.see(HERE, 1).is_some());
    let others = both.registry.watch(Watch::new().named("else"), counter.clone()).unwrap();
    assert!(both.source.see(HERE, 1).is_some(), "whoever watches another region");
    drop(others);
}

#[test]
fn a_source_that_shows_nothing_leaves_everything_as_it_is() {
    for what in ["no pages", "no slots", "no source"] {
        let mut both = Both::new();
        both.source.has_no_pages.store(what == "no pages", Ordering::Relaxed);
        both.source.refuses.store(what == "no slots", Ordering::Relaxed);
        if what == "no source" {
            drop(both.mapping.take());
            both.registry = Registry::builder().build();
            both.handle = both.registry.handle(0);
            both.mapping = Some(both.registry.map(both.panel.region(HERE)).unwrap());
        }
        both.poll(HERE, 1000);
        assert_eq!((both.source.see(HERE, 1), both.reads()), (None, 1000), "{what}");
    }
}

#[test]
fn a_guest_that_has_a_page_shown_and_withdrawn_all_the_time_is_left_without() {
    let mut both = Both::new();
    let (panel, start) = (Arc::clone(&both.panel), Instant::now());
    for _ in 0..1000 {
        both.poll(HERE, READS_WORTH_A_SWITCH);
        both.source.write(&mut both.handle, HERE + 14, &[1]);
        both.source.write(&mut both.handle, HERE + 14, &[0]);
    }
    let shown = u128::from(panel.mirror.times_shown());
    // A burst at once, and then forty in a second, however long that has taken.
    let most = 64 + start.elapsed().as_millis() / 25 + 1;
    assert!((64..=most.min(1000)).contains(&shown), "{shown} of 1000 times, {most} at most");
}

#[test]
fn queued_writes_and_doorbells_are_at_home_in_a_mirrored_page_and_memory_is_not() {
    struct Bell(Arc<AtomicU64>);
    impl Ring for Bell {
        fn ring(&self, _cx: &IoCx<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut both = Both::new();
    drop(both.mapping.take());
    let rung = Arc::<AtomicU64>::default();
    let bell: Arc<dyn Ring> = Arc::new(Bell(Arc::clone(&rung)));
    let region = both.panel.region(HERE).doorbell(8, 4, None, DoorbellTarget::from(bell));
    both.mapping = Some(both.registry.map(region).unwrap());
    both.poll(HERE, READS_WORTH_A_SWITCH);
    both.source.write(&mut both.handle, HERE, &[0x11]);
    both.source.write(&mut both.handle, HERE + 8, &[1, 2, 3, 4]);
    assert_eq!(
        (rung.load(Ordering::Relaxed), both.panel.state.lock().log.clone()),
        (1, vec![0x11])
    );
    assert_eq!(both.source.see(HERE + 8, 4), Some(vec![0; 4]));

    let id = both.mapping.as_ref().unwrap().id();
    let add = |offset, delivery| {
        let window = Window { offset, len: PAGE, delivery };
        Regions::edit(&both.registry, vec![RegionEdit::AddWindow(id, window)])
    };
    let memory: Arc<dyn Memory> = Arc::new(Bytes(Mutex::new(vec![0; PAGE as usize])));
    let memory = add(0, Delivery::Memory { memory, offset: 0, readonly: true });
    assert!(matches!(memory, Err(EditError::Delivery { offset: 0, .. })));
    let twice = add(0, Delivery::Mirrored { mirror: Mirror::new() });
    assert!(matches!(twice, Err(EditError::Delivery { offset: 0, .. })));
    let outside = add(1, Delivery::Mirrored { mirror: Mirror::new() });
    assert!(matches!(outside, Err(EditError::Window { .. })));
    let ports = Region::pio(0x100, 8, "panel", "ports", both.panel.clone());
    let ports = both.registry.map(ports.mirror(0..8, Mirror::new()));
    assert!(matches!(ports, Err(EditError::Window { .. })), "ports have no pages");
}

#[test]
fn a_mirror_is_shown_in_one_place() {
    let both = Both::new();
    let elsewhere = both.registry.map(both.panel.region(THERE)).unwrap();
    let mut handle = both.registry.handle_for(Requester::Vcpu(1));
    (0..100).for_each(|_| drop(both.source.read(&mut handle, THERE + 1, 1)));
    assert_eq!(both.source.see(THERE, 1), None, "it would be shown for the other's reads");
    assert!(both.source.see(HERE, 1).is_some());
    drop(elsewhere);
    assert!(both.source.see(HERE, 1).is_some());
}

#[test]
fn a_registry_that_goes_takes_its_pages_with_it() {
    let mut both = Both::new();
    both.poll(HERE, READS_WORTH_A_SWITCH);
    let Both { source, registry, handle, mapping, .. } = both;
    drop((handle, registry));
    assert!(source.shown.lock().is_empty());
    drop(mapping);
}

#[derive(Clone, Debug)]
enum Op {
    Read(u64, usize),
    Poll(u64),
    Write(u64, Vec<u8>),
    Place(Option<u64>),
    Watch(bool),
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![8 => 0..20u64, 1 => PAGE - 10..PAGE + 4];
    let bytes = proptest::collection::vec(any::<u8>(), 1..9);
    prop_oneof![
        6 => (offset.clone(), 1..9usize).prop_map(|(at, len)| Op::Read(at, len)),
        3 => offset.clone().prop_map(Op::Poll),
        6 => (offset, bytes).prop_map(|(at, bytes)| Op::Write(at, bytes)),
        3 => Just(Op::Write(14, vec![0])),
        1 => prop_oneof![Just(None), Just(Some(HERE)), Just(Some(THERE))].prop_map(Op::Place),
        1 => any::<bool>().prop_map(Op::Watch),
        1 => Just(Op::Drain),
    ]
}

/// Makes the accesses, to both places that the panel can be at; what was read.
fn run(both: &mut Both, script: &[Op]) -> Vec<Vec<u8>> {
    let (mut values, mut watching) = (Vec::new(), None);
    for op in script {
        for base in [HERE, THERE] {
            match op {
                Op::Read(at, len) => {
                    values.push(both.source.read(&mut both.handle, base + at, *len));
                }
                Op::Poll(at) => values.extend(
                    (0..READS_WORTH_A_SWITCH)
                        .map(|_| both.source.read(&mut both.handle, base + at, 1)),
                ),
                Op::Write(at, bytes) => both.source.write(&mut both.handle, base + at, bytes),
                Op::Place(base) => both.place(*base),
                Op::Watch(true) => {
                    let everything = Watch::new().everything();
                    watching = both.registry.watch(everything, Arc::<Counter>::default()).ok();
                }
                Op::Watch(false) => watching = None,
                Op::Drain => drop(both.registry.drain()),
            }
        }
    }
    drop(watching);
    both.registry.drain();
    values
}

proptest! {
    /// The same accesses with pages and without: same values, same state of the device.
    #[test]
    fn pages_make_no_difference(script in proptest::collection::vec(op(), 0..60)) {
        let (mut with, mut without) = (Both::new(), Both::new());
        without.source.has_no_pages.store(true, Ordering::Relaxed);
        prop_assert_eq!(run(&mut with, &script), run(&mut without, &script));
        let (with, without) = (with.panel.state.lock(), without.panel.state.lock());
        prop_assert_eq!(&*with, &*without);
    }
}
