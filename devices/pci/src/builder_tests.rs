//! What a [`FunctionBuilder`] makes of its parts: whose each BAR is, what of it is a region of which
//! name, and how registers are called.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use trapline_device::{
    Clock, Delivery, Device, Direction, EditError, Form, Handler, IoCx, Region, RegionEdit,
    RegionId, RegionName, Regions, Ring, SaveState, Saved, Size, Space, StateError,
};
use trapline_testkit::{CX, TestClock, event_loop};

use crate::regs;
use crate::tests::{Log, windows};
use crate::{
    Bar, Bus, CapabilityId, Devfn, Edu, Function, FunctionBuilder, HostBridge, Identity,
    MsixLayout, PciDevice, Piix, ROM_BAR, Slot,
};

/// A device whose registers have names, if it is told to have any, and which says its BAR.
struct Named {
    named: bool,
}

impl PciDevice for Named {
    fn bar_read(&self, _cx: &IoCx<'_>, bar: usize, offset: u64, _size: Size) -> u64 {
        (bar as u64) << 16 | offset
    }

    fn bar_register(&self, bar: usize, _offset: u64, _: Direction) -> Option<&'static str> {
        ["FIRST", "SECOND"].get(bar).copied().filter(|_| self.named)
    }

    fn config_register(&self, _offset: u16) -> Option<&'static str> {
        self.named.then_some("OWN")
    }
}

/// A device with nothing but what the trait has.
pub(crate) struct Silent;

impl PciDevice for Silent {}

/// Nothing.
#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Form for Nothing {
    const NAME: &'static str = "nothing";
    const VERSION: u32 = 1;
}

macro_rules! forgetful {
    ($device:ty) => {
        impl Device for $device {
            fn reset(&self) {}
        }

        impl SaveState for $device {
            fn save(&self) -> Saved {
                Saved::encode(&Nothing {})
            }
            fn restore(&self, saved: &Saved) -> Result<(), StateError> {
                saved.decode().map(|Nothing {}| ())
            }
        }
    };
}

forgetful!(Named);
forgetful!(Silent);

struct Bell;

impl Ring for Bell {
    fn ring(&self, _cx: &IoCx<'_>) {}
}

/// Answers 0x55.
struct Other;

impl Handler for Other {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0x55
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

pub(crate) const MEMORY: Bar = Bar::Mem32 { len: 0x1000, prefetchable: false };

pub(crate) fn in_slot(build: impl FnOnce(Slot<'_>) -> Function) -> Function {
    Arc::<Log>::default().slot(5, build)
}

fn edu() -> Function {
    let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
    in_slot(|slot| Edu::function(slot, &clock, &*event_loop()).unwrap())
}

pub(crate) fn builder(slot: Slot<'_>) -> FunctionBuilder<'_> {
    FunctionBuilder::new(slot, &Identity::default())
}

/// Name, offset and length of each region of a BAR.
fn regions(function: &Function, bar: usize) -> Vec<(String, u64, u64)> {
    let regions = function.bars()[bar].iter();
    regions.map(|(at, region)| (region.name.to_string(), *at, region.len)).collect()
}

#[test]
fn each_bar_is_the_devices_or_a_handlers() {
    let function = in_slot(|slot| {
        assert_eq!(format!("{slot:?}"), "function5 at 05.0");
        builder(slot)
            .bar(0, MEMORY)
            .bar_handler(1, Bar::Io { len: 8 }, Arc::new(Other))
            .bar(3, MEMORY)
            .rom(0x800)
            .build(Arc::new(Named { named: true }))
    });
    assert_eq!(function.name(), "function5");
    let whole = |name: &str, len| vec![(format!("function5/{name}"), 0, len)];
    assert_eq!(regions(&function, 0), whole("bar0", 0x1000));
    assert_eq!(regions(&function, 1), whole("bar1", 8));
    assert_eq!(regions(&function, 2), []);
    assert_eq!(regions(&function, 3), whole("bar3", 0x1000));
    assert_eq!(regions(&function, 4), []);
    assert_eq!(regions(&function, ROM_BAR), whole("rom", 0x800));
    let lens = [0, 1, 2, 3, 4, 5, ROM_BAR].map(|bar| function.bar_len(bar));
    let page = Some(0x1000);
    assert_eq!(lens, [page, Some(8), None, page, None, None, Some(0x800)]);
    let read = |bar: usize| function.bars()[bar][0].1.handler.read(&CX, 4, Size::Dword);
    assert_eq!([read(0), read(1), read(3), read(ROM_BAR)], [4, 0x55, 0x3_0004, 0x6_0004]);
    let spaces = [0, 1, ROM_BAR].map(|bar| function.bars()[bar][0].1.space);
    assert_eq!(spaces, [Space::Mmio, Space::Pio, Space::Mmio]);
}

#[test]
fn windows_are_in_the_piece_that_has_them_at_its_own_offsets() {
    let layout = MsixLayout { table: 0x100, pba: 0x800, ..MsixLayout::in_bar(1, 4) };
    let function = in_slot(|slot| {
        let bell = Arc::new(Bell);
        builder(slot)
            .bar(0, MEMORY)
            .bar(1, MEMORY)
            .msix(layout)
            .doorbell(1, 0x40, 2, bell.clone())
            .doorbell(1, 0x204, 4, bell.clone())
            .doorbell(1, 0xffc, 4, bell)
            .build(Arc::new(Silent))
    });
    let windows = |bar: usize| -> Vec<Vec<(u64, u64)>> {
        let windows = function.bars()[bar].iter().map(|(_, region)| &region.windows);
        windows.map(|all| all.iter().map(|window| (window.offset, window.len)).collect()).collect()
    };
    let name = |name: &str, at, len| (format!("function5/{name}"), at, len);
    assert_eq!(
        regions(&function, 1),
        [
            name("bar1", 0, 0x100),
            name("msix-table", 0x100, 0x40),
            name("bar1", 0x140, 0x6c0),
            name("msix-pba", 0x800, 8),
            name("bar1", 0x808, 0x7f8),
        ]
    );
    assert_eq!(windows(0), [vec![]]);
    assert_eq!(windows(1), [vec![(0x40, 2)], vec![], vec![(0xc4, 4)], vec![], vec![(0x7f4, 4)],]);
    let offsets: Vec<u64> = function.bars()[1].iter().map(|(_, part)| part.device_offset).collect();
    assert_eq!(offsets, [0, 0, 0x140, 0, 0x808], "the device sees offsets in the BAR");
    let bell = &function.bars()[1][0].1.windows[0].delivery;
    assert!(matches!(bell, Delivery::Doorbell { datamatch: None, .. }));
}

#[test]
fn a_device_that_says_nothing_reads_ones_and_has_no_names() {
    let function = in_slot(|slot| builder(slot).bar(0, MEMORY).build(Arc::new(Silent)));
    let handler = &function.bars()[0][0].1.handler;
    for size in [Size::Byte, Size::Word, Size::Dword, Size::Qword] {
        assert_eq!(handler.read(&CX, 0, size), size.ones());
        handler.write(&CX, 0, size, 0);
    }
    assert_eq!(handler.register(0, Direction::Read), None);
    assert_eq!(function.register(0x40, Direction::Read), None);
    assert_eq!(function.register(0x3c, Direction::Write), Some("INTERRUPT_LINE"));
}

#[test]
fn registers_have_the_names_their_owners_give_them() {
    let function = in_slot(|slot| {
        let layout = MsixLayout::in_bar(1, 4);
        let builder = builder(slot).bar(0, MEMORY).bar(1, MEMORY).msix(layout);
        builder.build(Arc::new(Named { named: true }))
    });
    let name = |bar: usize, piece: usize, offset| {
        function.bars()[bar][piece].1.handler.register(offset, Direction::Read)
    };
    assert_eq!(name(0, 0, 0), Some("FIRST"));
    assert_eq!(name(1, 2, 0), Some("SECOND"));
    assert_eq!(function.register(0x40, Direction::Read), Some("OWN"));
    let table = ["MSIX_ADDRESS", "MSIX_UPPER_ADDRESS", "MSIX_DATA", "MSIX_VECTOR_CONTROL"];
    for vector in 0..4 {
        for (dword, expected) in (0..).zip(table) {
            assert_eq!(name(1, 0, 16 * vector + 4 * dword), Some(expected));
        }
    }
    assert_eq!(name(1, 1, 0), Some("MSIX_PENDING"));
    let edu = edu();
    let edu = &edu.bars()[0][0].1.handler;
    assert_eq!(edu.register(0x8, Direction::Read), Some("FACTORIAL"));
    assert_eq!(edu.register(0x60, Direction::Write), Some("INTERRUPT_RAISE"));
    assert_eq!(edu.register(0x60, Direction::Read), None);
    let bridge = in_slot(Piix::isa_bridge);
    assert_eq!(bridge.register(0x60, Direction::Read), Some("PIRQRCA"));
    assert_eq!(bridge.register(0x44, Direction::Read), None);
}

/// Status bit 3 (PCI 3.0, 6.2.3) in every access that has it, and no other bit.
#[test]
fn interrupt_status_is_in_its_place_whatever_the_width() {
    let edu = edu();
    let plain = [(4, Size::Dword), (6, Size::Word), (6, Size::Byte)]
        .map(|(at, size)| edu.config_read(at, size));
    edu.bars()[0][0].1.handler.write(&CX, 0x60, Size::Dword, 1);
    let read = |offset, size| edu.config_read(offset, size);
    assert_eq!(read(4, Size::Dword), plain[0] | 1 << 19);
    assert_eq!(read(6, Size::Word), plain[1] | 1 << 3);
    assert_eq!(read(6, Size::Byte), plain[2] | 1 << 3);
    for (offset, size) in [
        (4, Size::Word),
        (4, Size::Byte),
        (5, Size::Byte),
        (7, Size::Byte),
        (0, Size::Dword),
        (2, Size::Word),
        (8, Size::Dword),
    ] {
        let quiet = self::edu().config_read(offset, size);
        assert_eq!(read(offset, size), quiet, "{size} bytes at {offset}");
    }
}

#[test]
fn the_boards_own_functions_say_what_they_are() {
    let header =
        |function: &Function| [0, 8, 0x3c].map(|offset| function.config_read(offset, Size::Dword));
    // Vendor and device; revision and class; the pin.
    assert_eq!(header(&edu()), [0x11e8_1234, 0x00ff_0010, 0x100]);
    assert_eq!(header(&in_slot(HostBridge::function)), [0x1237_8086, 0x0600_0002, 0]);
    let power = in_slot(|slot| Piix::power_management(slot, 0xb000));
    assert_eq!(header(&power), [0x7113_8086, 0x0680_0003, 0x100]);
    assert_eq!(header(&in_slot(Piix::isa_bridge)), [0x7000_8086, 0x0601_0000, 0]);
}

#[test]
fn places_are_written_device_and_function() {
    for (device, function, bits) in [(0, 0, 0), (0, 7, 7), (31, 0, 0xf8), (5, 3, 0x2b)] {
        let devfn = Devfn::new(device, function).unwrap();
        assert_eq!((devfn.device(), devfn.function(), devfn.into_bits()), (device, function, bits));
        assert_eq!(Devfn::from_bits(bits), devfn);
    }
    assert_eq!((Devfn::new(32, 0), Devfn::new(0, 8)), (None, None));
}

/// A registry that does not take a region of this name at any place, and has another kind of error
/// each time.
#[derive(Default)]
struct Refusing {
    next: Mutex<u64>,
    names: Mutex<Vec<(RegionId, Region)>>,
    placed: Mutex<Vec<(String, Option<u64>)>>,
    unmapped: Mutex<Vec<u64>>,
    refuses: Mutex<Option<(&'static str, usize)>>,
}

fn error(kind: usize, name: RegionName) -> EditError {
    let board = RegionName { device: "board".into(), region: "ram".into() };
    match kind {
        0 | 1 => {
            let (wanted, existing) = if kind == 0 { (name, board) } else { (board, name) };
            EditError::Overlap {
                space: Space::Mmio,
                wanted,
                base: 0,
                last: 0,
                existing,
                existing_base: 0,
                existing_last: 0,
            }
        }
        2 => EditError::PastEnd { name, space: Space::Mmio, base: 0, len: 1 },
        3 => EditError::Offload { name, what: "doorbell", reason: "No space left".into() },
        4 => EditError::Full { name, limit: 1 },
        _ => EditError::NoRegistry,
    }
}

/// How many kinds of errors name their region.
const NAMING: usize = 5;

impl Regions for Refusing {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        let mut ids = Vec::new();
        let mut placed = Vec::new();
        for edit in edits {
            match edit {
                RegionEdit::Map(region) => {
                    let mut next = self.next.lock();
                    let id = RegionId(*next);
                    *next += 1;
                    self.names.lock().push((id, region));
                    ids.push(id);
                }
                RegionEdit::Place(id, base) => {
                    let names = self.names.lock();
                    let name = &names.iter().find(|(other, _)| *other == id).unwrap().1.name;
                    if let Some((refused, kind)) = *self.refuses.lock()
                        && base.is_some()
                        && name.to_string() == refused
                    {
                        return Err(error(kind, name.clone()));
                    }
                    placed.push((name.to_string(), base));
                }
                RegionEdit::Unmap(id) => self.unmapped.lock().push(id.0),
                _ => {}
            }
        }
        self.placed.lock().extend(placed);
        Ok(ids)
    }
}

/// A function of two BARs of memory.
fn two_bars() -> Function {
    in_slot(|slot| builder(slot).bar(0, MEMORY).bar(1, MEMORY).build(Arc::new(Silent)))
}

fn enable(bus: &Bus, at: Devfn, bars: &[u32]) {
    for (bar, base) in (0..).zip(bars) {
        bus.config_write(at, regs::BAR0 + 4 * bar, Size::Dword, *base);
    }
    bus.config_write(at, regs::COMMAND, Size::Word, 2);
}

#[test]
fn a_bar_that_the_registry_does_not_take_stays_out_and_the_others_are_mapped() {
    let at = Devfn::new(5, 0).unwrap();
    for kind in 0..=NAMING {
        let registry = Arc::<Refusing>::default();
        *registry.refuses.lock() = Some(("function5/bar1", kind));
        let bus = Bus::new(registry.clone(), windows());
        bus.insert(at, two_bars()).unwrap();
        enable(&bus, at, &[0xd000_0000, 0xd100_0000]);
        let placed = std::mem::take(&mut *registry.placed.lock());
        let mapped = ("function5/bar0".to_owned(), Some(0xd000_0000));
        if kind == NAMING {
            assert_eq!(placed, [], "an error that names nobody leaves all where they are");
            continue;
        }
        assert_eq!(placed, [mapped], "error {kind}");
    }
}

#[test]
fn a_function_that_is_pulled_out_takes_its_regions_with_it_and_makes_room() {
    let registry = Arc::<Refusing>::default();
    let bus = Bus::new(registry.clone(), windows());
    let [first, second] = [4, 5].map(|device| Devfn::new(device, 0).unwrap());
    for at in [first, second] {
        let function = Arc::<Log>::default().slot(at.device(), |slot| {
            builder(slot).bar(0, MEMORY).bar(1, MEMORY).build(Arc::new(Silent))
        });
        bus.insert(at, function).unwrap();
        enable(&bus, at, &[0xd000_0000, 0xd100_0000 + u32::from(at.device()) * 0x1000]);
    }
    registry.placed.lock().clear();
    assert!(bus.remove(first).is_some());
    assert_eq!(*registry.unmapped.lock(), [0, 1], "its own regions, and no others");
    let room = ("function5/bar0".to_owned(), Some(0xd000_0000));
    assert_eq!(*registry.placed.lock(), [room]);
    assert!(bus.remove(first).is_none());
}

#[test]
fn ports_are_memory_where_the_bridge_has_them_there() {
    let registry = Arc::<Refusing>::default();
    let io = crate::BridgeWindow {
        kind: crate::WindowKind::Io,
        bus: 0..0x1_0000,
        space: Space::Mmio,
        cpu: 0x3eff_0000,
    };
    let bus = Bus::new(registry.clone(), [vec![io], windows()[1..].to_vec()].concat());
    let function = in_slot(|slot| {
        builder(slot).bar(0, Bar::Io { len: 8 }).bar(1, MEMORY).build(Arc::new(Silent))
    });
    bus.insert(Devfn::new(5, 0).unwrap(), function).unwrap();
    let spaces: Vec<Space> = registry.names.lock().iter().map(|(_, region)| region.space).collect();
    assert_eq!(spaces, [Space::Mmio; 2]);
    let registry = Arc::<Refusing>::default();
    let bus = Bus::new(registry.clone(), windows());
    let function = in_slot(|slot| {
        builder(slot).bar(0, Bar::Io { len: 8 }).bar(1, MEMORY).build(Arc::new(Silent))
    });
    bus.insert(Devfn::new(5, 0).unwrap(), function).unwrap();
    let spaces: Vec<Space> = registry.names.lock().iter().map(|(_, region)| region.space).collect();
    assert_eq!(spaces, [Space::Pio, Space::Mmio]);
}

#[test]
fn in_d3hot_the_pin_rests_whatever_the_device_does() {
    let log = Arc::<Log>::default();
    let (function, pin) = log.slot(5, |slot| {
        let mut builder = builder(slot).power_management();
        let pin = builder.pin();
        (builder.build(Arc::new(Silent)), pin)
    });
    let levels = || std::mem::take(&mut *log.levels.lock());
    pin.set_level(true);
    assert_eq!(levels(), [true]);
    function.config_write(0x44, Size::Word, 3);
    assert_eq!(levels(), [false]);
    pin.set_level(false);
    pin.set_level(true);
    assert_eq!(levels(), []);
}

/// A device that remembers what it was told of the table.
#[derive(Default)]
struct Listening(Mutex<Vec<usize>>);

impl PciDevice for Listening {
    fn vectors_used(&self, count: usize) {
        self.0.lock().push(count);
    }
}

forgetful!(Listening);

#[test]
fn capabilities_are_where_the_builder_was_told() {
    let log = Arc::<Log>::default();
    let (function, device) = log.slot(3, |slot| {
        let bar = Bar::Mem32 { len: 0x1000, prefetchable: false };
        let device = Arc::new(Listening::default());
        let builder = FunctionBuilder::extended(slot, &Identity::default()).bar(0, bar);
        let builder = builder.power_management_at(0xc8).function_level_reset_at(0x98);
        let mut builder = builder.msi_at(0xd0, false).msix_at(0xa0, MsixLayout::in_bar(0, 3));
        let at = builder.config().add_capability_at(0x40, CapabilityId::EXPRESS, &[0; 0x3a]);
        (builder.reset_by_express(at).build(device.clone()), device)
    });
    let byte = |at| function.config_read(at, Size::Byte) & 0xff;
    assert_eq!([0xc8, 0x98, 0xd0, 0xa0, 0x40].map(byte), [0x01, 0x13, 0x05, 0x11, 0x10]);
    assert_eq!(function.config_read(0x100, Size::Dword), 0, "4,096 bytes, and nothing in them");
    // A message of 32 bits of address has its data right behind it.
    function.config_write(0x04, Size::Word, 4);
    function.config_write(0xd4, Size::Dword, 0xfee0_1003);
    function.config_write(0xd8, Size::Dword, 0xffff_4321);
    function.config_write(0xd2, Size::Word, 1);
    assert_eq!(function.config_read(0xd0, Size::Dword) >> 16, 1, "no 64 bits");
    assert_eq!(function.config_read(0xd8, Size::Dword), 0x4321);
    assert!(device.0.lock().is_empty(), "MSI has no table");
    // A reset begun by either register leaves nothing of that.
    for (at, bit) in [(0x48, 0x8000), (0x9c, 1)] {
        function.config_write(0xd4, Size::Dword, 0xfee0_0000);
        function.config_write(at, Size::Word, bit);
        assert_eq!(function.config_read(0xd4, Size::Dword), 0, "{at:#x}");
    }
}

#[test]
fn the_device_hears_when_the_table_lets_vectors_through() {
    let log = Arc::<Log>::default();
    let (function, device) = log.slot(3, |slot| {
        let bar = Bar::Mem32 { len: 0x1000, prefetchable: false };
        let device = Arc::new(Listening::default());
        let builder = FunctionBuilder::new(slot, &Identity::default()).bar(0, bar);
        (builder.msix_at(0x40, MsixLayout::in_bar(0, 3)).build(device.clone()), device)
    });
    let regions = &function.bars()[0];
    let table = |entry: u64, word: u64, value: u64| {
        regions[0].1.handler.write(&CX, 16 * entry + 4 * word, Size::Dword, value);
    };
    let heard = || std::mem::take(&mut *device.0.lock());
    table(0, 0, 0xfee0_0000);
    table(0, 3, 0);
    function.config_write(0x04, Size::Word, 4);
    function.config_write(0x42, Size::Word, 0xc000);
    assert_eq!(heard(), [0; 0], "the function is masked");
    function.config_write(0x42, Size::Word, 0x8000);
    assert_eq!(heard(), [1]);
    table(2, 0, 0xfee0_0000);
    assert_eq!(heard(), [0; 0], "masked, so far");
    table(2, 3, 0);
    assert_eq!(heard(), [3]);
    table(2, 3, 1);
    table(2, 3, 0);
    table(2, 2, 7);
    assert_eq!(heard(), [3], "each time that one comes to be unmasked");
}
