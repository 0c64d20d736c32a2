//! Windows of mapped regions: added, removed and replaced by edits, memory among them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use support::{Recorder, Source, read};
use trapline::{
    Answer, Channel, ChannelRef, Delivery, DoorbellTarget, EditError, Forwarded, Handler, IoCx,
    Memory, NoHandler, Region, RegionEdit, RegionId, Regions, Registry, Requester, Ring, Size,
    Space, Waiter, Window,
};

/// Memory of bytes that count up.
struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn new(len: u8) -> Arc<Self> {
        Arc::new(Self(Mutex::new((0..len).collect())))
    }
}

impl Memory for Bytes {
    fn len(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.0.lock()[at..at + data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.0.lock()[at..at + data.len()].copy_from_slice(data);
    }
}

/// Remembers who rang.
#[derive(Default)]
struct Bell(Mutex<Vec<Requester>>);

impl Ring for Bell {
    fn ring(&self, cx: &IoCx<'_>) {
        self.0.lock().push(cx.requester());
    }
}

fn doorbell(bell: &Arc<Bell>, offset: u64) -> Window {
    let target = DoorbellTarget::Handler(Arc::clone(bell) as Arc<dyn Ring>);
    Window { offset, len: 2, delivery: Delivery::Doorbell { target, datamatch: None } }
}

fn memory(of: &Arc<Bytes>, at: u64, window: (u64, u64), readonly: bool) -> Window {
    let memory: Arc<dyn Memory> = Arc::clone(of) as Arc<dyn Memory>;
    let delivery = Delivery::Memory { memory, offset: at, readonly };
    Window { offset: window.0, len: window.1, delivery }
}

fn coalesced(offset: u64, len: u64) -> Window {
    Window { offset, len, delivery: Delivery::Coalesced }
}

/// Regions that a handler maps, changes and unmaps are the registry's until it is gone.
#[test]
fn an_edit_maps_changes_and_unmaps_without_guards() {
    let registry = Registry::builder().build();
    let (device, bell) = (Recorder::new(), Arc::<Bell>::default());
    let region = |base| Region::mmio(base, 0x100, "d", "r", device.clone());
    let edits = vec![RegionEdit::Map(region(0x1000)), RegionEdit::Map(region(0x2000))];
    let [one, two] = registry.regions_edit(edits)[..] else { panic!("two regions, two ids") };
    let edits = vec![
        RegionEdit::Place(one, Some(0x2000)),
        RegionEdit::Place(two, Some(0x1000)),
        RegionEdit::AddWindow(two, doorbell(&bell, 0x10)),
    ];
    assert_eq!(registry.regions_edit(edits), []);
    let mut handle = registry.handle(3);
    handle.write(Space::Mmio, 0x1010, &[1, 2]);
    handle.write(Space::Mmio, 0x2010, &[1, 2]);
    assert_eq!(*bell.0.lock(), [Requester::Vcpu(3)]);
    assert_eq!(device.take(), [("write", 0x10, 2, 0x201)]);
    registry.regions_edit(vec![RegionEdit::Unmap(one), RegionEdit::Unmap(two)]);
    assert_eq!(read(&registry, Space::Mmio, 0x1010, 2), [0xff, 0xff]);
    assert_eq!(device.take(), []);
}

/// The guard of a region whose handler has unmapped itself does so as well.
#[test]
fn unmapping_what_is_gone_is_no_mistake_but_changing_it_is() {
    let registry = Registry::builder().build();
    let region = Region::mmio(0x1000, 0x100, "d", "r", Recorder::new());
    let [id] = registry.regions_edit(vec![RegionEdit::Map(region)])[..] else { panic!("one id") };
    assert_eq!(registry.regions_edit(vec![RegionEdit::Unmap(id), RegionEdit::Unmap(id)]), []);
    assert_eq!(registry.regions_edit(vec![RegionEdit::Unmap(id)]), []);
    let placed = Regions::edit(&registry, vec![RegionEdit::Place(id, Some(0x2000))]);
    assert!(matches!(placed, Err(EditError::Unknown(unknown)) if unknown == id));
}

/// Under the rule of KVM's ioeventfds what takes writes of any length has one address only, while
/// beside a forwarded window it has eight bytes.
#[test]
fn a_doorbell_of_any_length_leaves_the_bytes_after_it_to_others_but_not_to_a_channel() {
    let registry = Registry::builder().build();
    let bell = Arc::<Bell>::default();
    let any = Window { len: 0, ..doorbell(&bell, 0x10) };
    let region = Region::mmio(0x1000, 0x100, "d", "r", Recorder::new()).window(any.clone());
    let _map = registry.map(region.window(coalesced(0x11, 4))).unwrap();
    let region = |at| {
        let region = Region::mmio(0x2000, 0x100, "e", "r", Recorder::new()).window(any.clone());
        region.forward(at..at + 8, ChannelRef::new(Arc::new(Outside)), 0, false)
    };
    assert!(matches!(registry.map(region(0x17)), Err(EditError::Delivery { .. })));
    let _forwarded = registry.map(region(0x18)).unwrap();
}

/// Somebody outside who answers nothing.
struct Outside;

impl Channel for Outside {
    fn read(&self, _access: &Forwarded, _: Option<&dyn Waiter>) -> Answer {
        Answer::Gone
    }

    fn write(&self, _access: &Forwarded, _value: u64, _: Option<&dyn Waiter>) -> Answer {
        Answer::Gone
    }
}

#[test]
fn writes_to_a_window_that_an_edit_adds_are_coalesced() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let map = registry.map(Region::mmio(0x1000, 0x100, "d", "r", device.clone())).unwrap();
    assert!(!registry.coalesces());
    registry
        .edit(|edit| {
            edit.add_window(map.id(), coalesced(8, 4));
            Ok(())
        })
        .unwrap();
    assert!(registry.coalesces());
    assert!(source.guest_write(Space::Mmio, 0x1008, &[1]));
    registry.handle(0).write(Space::Mmio, 0x1010, &[2]);
    assert_eq!(device.take(), [("write", 8, 1, 1), ("write", 0x10, 1, 2)]);
}

trait RegionsEdit {
    fn regions_edit(&self, edits: Vec<RegionEdit>) -> Vec<RegionId>;
}

impl RegionsEdit for Registry {
    fn regions_edit(&self, edits: Vec<RegionEdit>) -> Vec<RegionId> {
        Regions::edit(self, edits).unwrap()
    }
}

#[test]
fn a_window_that_is_removed_gives_its_offsets_back_to_the_handler() {
    let registry = Registry::builder().build();
    let (device, bell) = (Recorder::new(), Arc::<Bell>::default());
    let region = Region::mmio(0x1000, 0x100, "d", "r", device.clone());
    let map = registry.map(region.window(doorbell(&bell, 0x10))).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1010, &[1, 2]);
    registry
        .edit(|edit| {
            edit.remove_window(map.id(), doorbell(&bell, 0x10));
            edit.add_window(map.id(), doorbell(&bell, 0x20));
            Ok(())
        })
        .unwrap();
    handle.write(Space::Mmio, 0x1010, &[1, 2]);
    handle.write(Space::Mmio, 0x1020, &[1, 2]);
    assert_eq!(bell.0.lock().len(), 2);
    assert_eq!(device.take(), [("write", 0x10, 2, 0x201)]);
    let gone = vec![RegionEdit::RemoveWindow(map.id(), doorbell(&bell, 0x10))];
    let refused = Regions::edit(&registry, gone).unwrap_err();
    assert_eq!(refused.to_string(), "d/r has no such window at offset 0x10");
    let twice = vec![RegionEdit::AddWindow(map.id(), doorbell(&bell, 0x20))];
    let refused = Regions::edit(&registry, twice).unwrap_err();
    assert_eq!(refused.to_string(), "d/r: two deliveries collide at offset 0x20");
    let outside = vec![RegionEdit::AddWindow(map.id(), doorbell(&bell, 0xff))];
    assert!(matches!(Regions::edit(&registry, outside), Err(EditError::Window { .. })));
}

/// Switches its own doorbell on and off, as a virtio device does when its driver is ready.
struct Switch {
    id: Mutex<Option<RegionId>>,
    bell: Arc<Bell>,
}

impl Handler for Switch {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        if offset == 0 {
            let (id, bell) = (self.id.lock().unwrap(), doorbell(&self.bell, 0x10));
            let edit = match value {
                0 => RegionEdit::RemoveWindow(id, bell),
                _ => RegionEdit::AddWindow(id, bell),
            };
            cx.regions().edit(vec![edit]).unwrap();
        }
    }
}

#[test]
fn a_handler_switches_its_own_doorbell() {
    let registry = Registry::builder().build();
    let switch = Arc::new(Switch { id: Mutex::new(None), bell: Arc::default() });
    let map = registry.map(Region::mmio(0x1000, 0x100, "d", "r", switch.clone())).unwrap();
    *switch.id.lock() = Some(map.id());
    let mut handle = registry.handle(0);
    for (on, rung) in [(0u8, 0), (1, 1), (0, 1), (1, 2)] {
        if on == 1 || rung > 0 {
            handle.write(Space::Mmio, 0x1000, &[on]);
        }
        handle.write(Space::Mmio, 0x1010, &[0, 0]);
        assert_eq!(switch.bell.0.lock().len(), rung);
    }
}

#[test]
fn the_source_has_exactly_the_windows_that_are_there() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let region = Region::mmio(0x1000, 0x100, "d", "r", Recorder::new());
    let map = registry.map(region.window(coalesced(0, 4)).window(coalesced(8, 4))).unwrap();
    let edit = |edits| Regions::edit(&registry, edits);
    let id = map.id();
    let zones = |offsets: &[u64]| -> Vec<_> {
        offsets.iter().map(|at| (Space::Mmio, 0x1000 + at, 4, true)).collect()
    };
    let mut replace = vec![RegionEdit::RemoveWindow(id, coalesced(0, 4))];
    replace.push(RegionEdit::AddWindow(id, coalesced(2, 4)));
    edit(replace).unwrap();
    assert_eq!(*source.zones.lock(), zones(&[8, 2]), "what stays is not touched");
    // One that goes and comes in the same edit has not changed.
    let mut nothing = vec![RegionEdit::RemoveWindow(id, coalesced(8, 4))];
    nothing.push(RegionEdit::AddWindow(id, coalesced(8, 4)));
    edit(nothing).unwrap();
    assert_eq!(*source.zones.lock(), zones(&[8, 2]));
    // The source refuses the second of two: the first goes again, and what was removed comes back.
    *source.refuse_at.lock() = Some(0x1020);
    let mut refused = vec![RegionEdit::RemoveWindow(id, coalesced(8, 4))];
    refused.push(RegionEdit::AddWindow(id, coalesced(0x10, 4)));
    refused.push(RegionEdit::AddWindow(id, coalesced(0x20, 4)));
    let error = edit(refused).unwrap_err().to_string();
    assert_eq!(error, "d/r: the kernel refused its coalesced zone: No space left on device");
    assert_eq!(*source.zones.lock(), zones(&[2, 8]));
    let windows: Vec<_> = registry.stats().regions[0].deliveries.clone();
    assert_eq!(windows, [(coalesced(2, 4), true), (coalesced(8, 4), true)]);
    drop(map);
    assert_eq!(*source.zones.lock(), []);
}

#[test]
fn what_the_source_has_leaves_with_the_registry_if_nothing_else_takes_it() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let region = Region::mmio(0x1000, 0x100, "d", "r", Recorder::new()).window(coalesced(0, 4));
    Regions::edit(&registry, vec![RegionEdit::Map(region)]).unwrap();
    let weak = registry.downgrade();
    assert_eq!(source.zones.lock().len(), 1);
    drop(registry);
    assert_eq!(*source.zones.lock(), []);
    assert_eq!(weak.edit(Vec::new()), Err(EditError::NoRegistry));
}

#[test]
fn writes_queued_before_a_coalesced_window_goes_are_delivered_before_the_next_access() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let region = Region::mmio(0x1000, 0x100, "d", "r", device.clone()).window(coalesced(0, 4));
    let map = registry.map(region).unwrap();
    assert!(source.guest_write(Space::Mmio, 0x1000, &[1]));
    let edits = vec![RegionEdit::RemoveWindow(map.id(), coalesced(0, 4))];
    Regions::edit(&registry, edits).unwrap();
    assert_eq!(source.queue.lock().len(), 0, "taken out while it was known whose they are");
    assert_eq!(device.take(), []);
    registry.handle(0).write(Space::Mmio, 0x1004, &[2]);
    assert_eq!(device.take(), [("write", 0, 1, 1), ("write", 4, 1, 2)]);
}

#[test]
fn memory_answers_accesses_of_any_shape_and_the_handler_those_beside_it() {
    let registry = Registry::builder().build();
    let (device, bytes) = (Recorder::new(), Bytes::new(0x40));
    let region = Region::mmio(0x1000, 0x100, "d", "r", device.clone());
    let map = registry.map(region.window(memory(&bytes, 0x20, (0x10, 0x10), false))).unwrap();
    let mut handle = registry.handle(0);
    assert_eq!(read(&registry, Space::Mmio, 0x1011, 5), [0x21, 0x22, 0x23, 0x24, 0x25]);
    assert_eq!(read(&registry, Space::Mmio, 0x101e, 4), [0x2e, 0x2f, 0x20, 0x21]);
    assert_eq!(device.take(), [("read", 0x20, 2, 0x2120)], "the second half of the last");
    handle.write(Space::Mmio, 0x100f, &[0xaa, 0xbb, 0xcc]);
    assert_eq!(device.take(), [("write", 0xf, 1, 0xaa)]);
    assert_eq!(bytes.0.lock()[0x1f..0x23], [0x1f, 0xbb, 0xcc, 0x22]);
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.reads, counts.writes, counts.refused), (3, 2, 0), "parts of accesses");
    drop(map);
    assert_eq!(read(&registry, Space::Mmio, 0x1011, 1), [0xff]);
}

#[test]
fn read_only_memory_leaves_writes_to_the_handler() {
    let registry = Registry::builder().build();
    let (device, bytes) = (Recorder::new(), Bytes::new(0x10));
    let region = Region::mmio(0x1000, 0x10, "flash", "array", device.clone());
    let _map = registry.map(region.window(memory(&bytes, 0, (0, 0x10), true))).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1004, &[0x90]);
    assert_eq!(device.take(), [("write", 4, 1, 0x90)]);
    assert_eq!(read(&registry, Space::Mmio, 0x1004, 4), [4, 5, 6, 7]);
    assert_eq!(device.take(), []);
    let mut all = [0; 4];
    all.fill_with(|| 0x77);
    handle.write(Space::Mmio, 0x1000, &all);
    assert_eq!(device.take(), [("write", 0, 4, 0x7777_7777)]);
    assert_eq!(bytes.0.lock()[..4], [0, 1, 2, 3]);
}

#[test]
fn ram_is_a_region_that_nothing_else_can_be_placed_on() {
    let registry = Registry::builder().build();
    let bytes = Bytes::new(0x80);
    let ram = Region::ram(0x1000, "memory", "ram", bytes.clone());
    let _ram = registry.map(ram).unwrap();
    let bar = Region::mmio(0x1040, 0x80, "card", "bar0", Recorder::new());
    let refused = registry.map(bar).unwrap_err();
    let text = "card/bar0 at mmio 0x1040..=0x10bf overlaps memory/ram at 0x1000..=0x107f";
    assert_eq!(refused.to_string(), text);
    registry.handle(0).write(Space::Mmio, 0x107e, &[1, 2, 3, 4]);
    assert_eq!(bytes.0.lock()[0x7d..], [0x7d, 1, 2]);
    let rom = Region::rom(0x2000, "memory", "rom", bytes.clone());
    let _rom = registry.map(rom).unwrap();
    registry.handle(0).write(Space::Mmio, 0x2000, &[9]);
    assert_eq!(read(&registry, Space::Mmio, 0x2000, 1), [0]);
}

#[test]
fn memory_windows_are_within_their_memory_and_not_among_the_ports() {
    let registry = Registry::builder().build();
    let bytes = Bytes::new(0x10);
    let at = |space, offset, len| {
        let region = Region::new(space, Some(0x100), 0x100, ("d", "r"), Arc::new(NoHandler));
        registry.map(region.window(memory(&bytes, offset, (0, len), false))).map(drop)
    };
    assert_eq!(at(Space::Mmio, 8, 8), Ok(()));
    assert!(matches!(at(Space::Mmio, 8, 9), Err(EditError::Window { .. })));
    assert!(matches!(at(Space::Mmio, u64::MAX, 1), Err(EditError::Window { .. })));
    assert!(matches!(at(Space::Mmio, 0, 0), Err(EditError::Window { .. })));
    assert!(matches!(at(Space::Pio, 0, 8), Err(EditError::Window { .. })));
}

/// Remembers who made each access.
#[derive(Default)]
struct Who(Mutex<Vec<Requester>>);

impl Handler for Who {
    fn read(&self, cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.0.lock().push(cx.requester());
        0
    }

    fn write(&self, cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        self.0.lock().push(cx.requester());
    }
}

#[test]
fn a_handler_is_told_who_makes_the_access() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let who = Arc::new(Who::default());
    let region = Region::mmio(0x1000, 0x10, "d", "r", who.clone()).coalesce(0..4);
    let _map = registry.map(region).unwrap();
    assert!(source.guest_write(Space::Mmio, 0x1000, &[1]));
    registry.handle(5).read(Space::Mmio, 0x1008, &mut [0]);
    registry.handle_for(Requester::External).read(Space::Mmio, 0x1008, &mut [0; 3]);
    trapline::AddressSpace::new(&registry, Arc::new(trapline::NoRam)).write(0x1008, &[0]);
    let external = Requester::External;
    let expected = [Requester::Coalesced, Requester::Vcpu(5), external, external, Requester::Dma];
    assert_eq!(*who.0.lock(), expected);
}
