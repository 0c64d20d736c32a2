//! What a guest reads of configuration space's pages instead of asking.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline_device::{
    Device, Handler, Interrupt, READS_WORTH_A_SWITCH, SaveState, Saved, Size, StateError,
};
use trapline_testkit::mirror::TestPages;
use trapline_testkit::{CX, TestClock, event_loop};

use crate::config::Pin;
use crate::regs::{COMMAND, STATUS};
use crate::tests::{Log, Places, windows};
use crate::{
    Bar, Bus, ConfigSpace, Devfn, EcamWindow, Edu, Function, FunctionBuilder, HostBridge, Identity,
    Layout, MsixLayout, PciDevice, Slot,
};

const PAGE: u64 = 4096;

struct Board {
    bus: Arc<Bus>,
    window: EcamWindow,
    guest: Option<Arc<TestPages>>,
    pins: [Interrupt; 2],
}

/// A device with a register whose reading counts, unless it is switched off.
struct Counting(Mutex<u32>);

/// Where [`Counting`] counts, and what switches it on.
const COUNT: u16 = 0xf0;

impl PciDevice for Counting {
    fn config_read(&self, config: &ConfigSpace, offset: u16, size: Size) -> u32 {
        if offset != COUNT || config.read(COUNT + 4, Size::Byte) == 0 {
            return config.read(offset, size);
        }
        let mut count = self.0.lock();
        *count += 1;
        *count
    }

    fn config_shown(&self, config: &ConfigSpace, _bytes: &mut [u8]) -> bool {
        config.read(COUNT + 4, Size::Byte) == 0
    }
}

impl Device for Counting {
    fn reset(&self) {
        *self.0.lock() = 0;
    }
}

impl SaveState for Counting {
    fn save(&self) -> Saved {
        Saved::encode(&crate::tests::PlainV1 {})
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode().map(|crate::tests::PlainV1 {}| ())
    }
}

fn counting(slot: Slot<'_>, express: bool) -> (Function, Interrupt) {
    let identity = Identity { vendor: 0x1af4, device: 1, pin: Some(Pin::A), ..Identity::default() };
    let builder = if express {
        FunctionBuilder::express(slot, &identity)
    } else {
        FunctionBuilder::new(slot, &identity).msi().power_management().function_level_reset()
    };
    let mut builder = builder.bar(0, Bar::Mem64 { len: 0x4000, prefetchable: false });
    if express {
        let msix = MsixLayout { vectors: 4, table_bar: 0, table: 0, pba_bar: 0, pba: 0x1000 };
        builder = builder.msix(msix);
    }
    builder.config().allow(COUNT + 4, &[0xff]);
    let interrupt = builder.interrupt(0);
    (builder.build(Arc::new(Counting(Mutex::default()))), interrupt)
}

impl Board {
    fn new(mirrored: bool) -> Self {
        let bus = Arc::new(Bus::new(Arc::new(Places::default()), windows()));
        let log = Arc::<Log>::default();
        let plug = |device, function| bus.insert(Devfn::new(device, 0).unwrap(), function).unwrap();
        plug(0, log.slot(0, HostBridge::function));
        let (conventional, pin) = log.slot(2, |slot| counting(slot, false));
        let (express, other_pin) = log.slot(3, |slot| counting(slot, true));
        plug(2, conventional);
        plug(3, express);
        let window = EcamWindow::new(Arc::clone(&bus), Layout::Ecam);
        let (offsets, mirror) = window.mirror().unwrap();
        assert_eq!(offsets, 0..1 << 20);
        let guest = mirrored.then(|| {
            let guest = Arc::<TestPages>::default();
            assert!(mirror.attach(guest.clone()));
            guest
        });
        Self { bus, window, guest, pins: [pin, other_pin] }
    }

    fn guest(&self) -> &TestPages {
        self.guest.as_ref().unwrap()
    }

    /// Which places of the bus the guest sees, and how many of each kind in a row.
    fn places(&self) -> Vec<(u64, u64)> {
        let pieces = self.guest().pieces().into_iter();
        pieces.map(|(offset, len)| (offset / PAGE, len / PAGE)).collect()
    }

    fn read(&self, offset: u64, size: Size) -> u32 {
        let seen = self.guest.as_ref().and_then(|guest| guest.see(offset, size));
        let value = seen.unwrap_or_else(|| self.window.read(&CX, offset, size) & size.ones());
        u32::try_from(value).unwrap()
    }

    fn write(&self, offset: u64, size: Size, value: u32) {
        self.window.write(&CX, offset, size, u64::from(value) & size.ones());
    }
}

/// Where a register of device `device` is.
fn register(device: u64, offset: u16) -> u64 {
    device << 15 | u64::from(offset)
}

#[test]
fn a_bus_is_shown_at_once_and_the_absent_share_ones() {
    let board = Board::new(true);
    assert_eq!(
        board.places(),
        [(0, 1), (1, 15), (16, 1), (17, 7), (24, 1), (25, 231)],
        "each function, and the runs between them"
    );
    let plain = Board::new(false);
    for offset in (0..1 << 20).step_by(4) {
        let seen = board.guest().see(offset, Size::Dword).unwrap();
        assert_eq!(seen, u64::from(plain.read(offset, Size::Dword)), "{offset:#x}");
    }
    let cam = EcamWindow::new(Arc::clone(&board.bus), Layout::Cam);
    assert!(cam.mirror().is_none(), "functions share pages");
}

#[test]
fn functions_that_come_and_go_are_seen_to() {
    let board = Board::new(true);
    let log = Arc::<Log>::default();
    let devfn = Devfn::new(2, 3).unwrap();
    let edu = log.slot(9, |slot| {
        Edu::function(slot, &(Arc::new(TestClock::default()) as _), &*event_loop()).unwrap()
    });
    board.bus.insert(devfn, edu).unwrap();
    let all = [(0, 1), (1, 15), (16, 1), (17, 2), (19, 1), (20, 4), (24, 1), (25, 231)];
    assert_eq!(board.places(), all);
    let id = board.guest().see(register(2, 3 << 12), Size::Dword);
    assert_eq!(id, Some(0x11e8_1234));
    let removed = board.bus.remove(devfn).unwrap();
    assert_eq!(board.guest().see(register(2, 3 << 12), Size::Dword), Some(u32::MAX.into()));
    assert_eq!(board.places(), [(0, 1), (1, 15), (16, 1), (17, 7), (24, 1), (25, 231)]);
    // Somebody who still has it changes nothing that is seen.
    removed.reset();
    assert_eq!(board.guest().see(register(2, 3 << 12), Size::Dword), Some(u32::MAX.into()));
    board.bus.insert(devfn, log.slot(9, HostBridge::function)).unwrap();
    assert_eq!(board.guest().see(register(2, 3 << 12), Size::Dword), Some(0x1237_8086));
}

#[test]
fn a_pin_that_moves_takes_the_page_away_as_the_status_register_tells_of_it() {
    let board = Board::new(true);
    let status = register(2, STATUS);
    let seen = || board.guest().see(status, Size::Word);
    assert_eq!(seen(), Some(0x0010));
    board.pins[0].set_level(true);
    assert_eq!(seen(), None);
    for _ in 0..READS_WORTH_A_SWITCH {
        assert_eq!(board.window.read(&CX, status, Size::Word) & 0xffff, 0x0018);
    }
    assert_eq!(seen(), Some(0x0018));
    board.write(register(2, COMMAND), Size::Word, 0x0402);
    assert_eq!(seen(), Some(0x0018), "a pin that is switched off is still in the register");
    board.pins[0].set_level(false);
    assert_eq!(seen(), None);
    assert!(board.guest().see(register(3, STATUS), Size::Word).is_some(), "others stay");
}

#[test]
fn a_function_whose_reading_changes_something_is_not_shown() {
    let board = Board::new(true);
    let seen = || board.guest().see(register(3, 0), Size::Word);
    assert_eq!(seen(), Some(0x1af4));
    board.write(register(3, COUNT + 4), Size::Byte, 1);
    assert_eq!(seen(), None);
    let read = || board.window.read(&CX, register(3, COUNT), Size::Dword);
    (1..50).for_each(|count| assert_eq!(read() & 0xffff_ffff, count));
    assert_eq!(seen(), None);
    board.bus.reset();
    assert_eq!(seen(), None, "not before it is read");
    (0..READS_WORTH_A_SWITCH).for_each(|_| assert_eq!(read() & 0xffff_ffff, 0));
    assert_eq!(seen(), Some(0x1af4));
}

#[derive(Clone, Debug)]
enum Op {
    Read(u64, Size),
    Reads(u64),
    Write(u64, Size, u32),
    Pin(usize, bool),
    Reset,
    Save,
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![Just(Size::Byte), Just(Size::Word), Just(Size::Dword)];
    let offset = prop_oneof![
        0..0x40u64,
        0x40..0x100u64,
        Just(u64::from(COUNT)),
        Just(u64::from(COUNT) + 4),
        0x100..PAGE
    ];
    let place = (prop_oneof![Just(0u64), Just(2), Just(3), Just(5)], offset, size).prop_map(
        |(device, offset, size)| {
            (register(device, 0) + (offset & !(size.bytes() as u64 - 1)), size)
        },
    );
    let value = prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)];
    prop_oneof![
        6 => place.clone().prop_map(|(at, size)| Op::Read(at, size)),
        2 => place.clone().prop_map(|(at, _)| Op::Reads(at)),
        8 => (place, value).prop_map(|((at, size), value)| Op::Write(at, size, value)),
        2 => (0..2usize, any::<bool>()).prop_map(|(pin, level)| Op::Pin(pin, level)),
        1 => Just(Op::Reset),
        1 => Just(Op::Save),
        1 => Just(Op::Restore),
    ]
}

/// Makes the accesses; what was read.
fn run(board: &Board, script: &[Op]) -> Vec<u32> {
    let (mut values, mut saved) = (Vec::new(), board.bus.save());
    for op in script {
        match *op {
            Op::Read(at, size) => values.push(board.read(at, size)),
            Op::Reads(at) => {
                values.extend((0..READS_WORTH_A_SWITCH).map(|_| board.read(at, Size::Byte)));
            }
            Op::Write(at, size, value) => board.write(at, size, value),
            Op::Pin(pin, level) => board.pins[pin].set_level(level),
            Op::Reset => board.bus.reset(),
            Op::Save => saved = board.bus.save(),
            Op::Restore => board.bus.restore(&saved).unwrap(),
        }
    }
    values
}

proptest! {
    /// A guest cannot tell whether it is shown pages, and neither can the functions.
    #[test]
    fn pages_give_what_the_functions_would(script in proptest::collection::vec(op(), 0..100)) {
        let (with, without) = (Board::new(true), Board::new(false));
        prop_assert_eq!(run(&with, &script), run(&without, &script));
        prop_assert_eq!(with.bus.save(), without.bus.save());
    }
}
