#![expect(
    clippy::cast_possible_truncation,
    reason = "reads are narrower than the value they return"
)]

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use trapline_device::{
    Device, Direction, EditError, Form, Handler, Line, LineSink, Msi, MsiController, MsiSink,
    PowerEvent, RegionEdit, RegionId, Regions, SaveState, Saved, Size, StateError,
};
use trapline_testkit::{CX, TestPower, inb, outb};

use crate::config::Pin;
use crate::regs;
use crate::{
    Bar, BridgeWindow, Bus, BusError, Conf1, Devfn, EcamWindow, Function, FunctionBuilder,
    HostBridge, Identity, Layout, PciDevice, ResetPort, Slot, WindowKind,
};

/// A registry that takes everything, except at one place.
#[derive(Default)]
pub(crate) struct Places {
    next: Mutex<u64>,
    /// Every move, in order.
    pub(crate) moves: Mutex<Vec<(RegionId, Option<u64>)>>,
    /// What was taken out, in order.
    pub(crate) gone: Mutex<Vec<u64>>,
    /// How many edits there were.
    pub(crate) edits: Mutex<usize>,
}

impl Regions for Places {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        *self.edits.lock() += 1;
        let mut ids = Vec::new();
        for edit in edits {
            match edit {
                RegionEdit::Map(_) => {
                    let mut next = self.next.lock();
                    ids.push(RegionId(*next));
                    *next += 1;
                }
                RegionEdit::Unmap(id) => self.gone.lock().push(id.0),
                RegionEdit::Place(id, base) => self.moves.lock().push((id, base)),
                _ => {}
            }
        }
        Ok(ids)
    }
}

/// Memory and ports where they are on a PC.
pub(crate) fn windows() -> Vec<BridgeWindow> {
    vec![
        BridgeWindow::identity(WindowKind::Io, 0..0x1_0000),
        BridgeWindow::identity(WindowKind::Memory, 0x4000_0000..0xfec0_0000),
        BridgeWindow::identity(WindowKind::Prefetchable, 0x1_0000_0000..0x100_0000_0000),
    ]
}

/// Everything an interrupt can do.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) messages: Mutex<Vec<Msi>>,
    pub(crate) levels: Mutex<Vec<bool>>,
}

pub(crate) struct End(pub(crate) Arc<Log>);

impl LineSink for End {
    fn set_level(&self, level: bool) {
        self.0.levels.lock().push(level);
    }
}

impl MsiSink for End {
    fn send(&self, address: u64, data: u32) {
        self.0.messages.lock().push(Msi { address, data });
    }
}

impl MsiController for End {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(Self(Arc::clone(&self.0)))
    }
}

impl Log {
    /// A slot whose wires end here.
    pub(crate) fn slot<R>(self: &Arc<Self>, device: u8, make: impl FnOnce(Slot<'_>) -> R) -> R {
        make(Slot {
            name: &format!("function{device}"),
            devfn: Devfn::new(device, 0).unwrap(),
            pin: Some(Line::new(End(Arc::clone(self)))),
            messages: Some(&End(Arc::clone(self))),
        })
    }
}

/// A device that counts its resets, and does nothing else.
#[derive(Default)]
struct Plain(Mutex<u32>);

impl PciDevice for Plain {}

impl Device for Plain {
    fn reset(&self) {
        *self.0.lock() += 1;
    }
}

impl SaveState for Plain {
    fn save(&self) -> Saved {
        Saved::encode(&PlainV1 {})
    }
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode().map(|PlainV1 {}| ())
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PlainV1 {}

impl Form for PlainV1 {
    const NAME: &'static str = "plain";
    const VERSION: u32 = 1;
}

fn network_card(slot: Slot<'_>) -> Function {
    let identity = Identity {
        vendor: 0x1af4,
        device: 0x1041,
        revision: 1,
        class: 0x02_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x0040,
        pin: Some(Pin::A),
        multi_function: true,
    };
    FunctionBuilder::new(slot, &identity)
        .bar(0, Bar::Io { len: 0x100 })
        .bar(1, Bar::Mem32 { len: 0x1000, prefetchable: false })
        .build(Arc::<Plain>::default())
}

struct Board {
    bus: Arc<Bus>,
    conf1: Conf1,
    power: TestPower,
}

fn board() -> Board {
    let bus = Arc::new(Bus::new(Arc::<Places>::default(), windows()));
    let power = TestPower::default();
    let at = |device| Devfn::new(device, 0).unwrap();
    let log = Arc::<Log>::default();
    bus.insert(at(0), log.slot(0, HostBridge::function)).unwrap();
    bus.insert(at(3), log.slot(3, network_card)).unwrap();
    let conf1 = Conf1::new(Arc::clone(&bus), Arc::new(power.clone()));
    Board { bus, conf1, power }
}

impl Board {
    fn outl(&self, offset: u64, value: u32) {
        self.conf1.write(&CX, offset, Size::Dword, u64::from(value));
    }
    fn inl(&self, offset: u64) -> u32 {
        self.conf1.read(&CX, offset, Size::Dword) as u32
    }
    fn inw(&self, offset: u64) -> u16 {
        self.conf1.read(&CX, offset, Size::Word) as u16
    }
    fn select(&self, device: u8, register: u8) {
        self.outl(0, 0x8000_0000 | u32::from(device) << 11 | u32::from(register & 0xfc));
    }
}

#[test]
fn linux_finds_mechanism_1_and_trusts_it() {
    let b = board();
    // pci_check_type1(): a byte to 0xcfb must not disturb the address.
    outb(&b.conf1, 3, 0x01);
    let saved = b.inl(0);
    b.outl(0, 0x8000_0000);
    assert_eq!(b.inl(0), 0x8000_0000);
    // pci_sanity_check(): class host bridge on bus 0.
    b.select(0, 0x08);
    assert_eq!(b.inw(4 + 2), 0x0600);
    b.select(0, 0x00);
    assert_eq!(b.inl(4), 0x1237_8086);
    b.outl(0, saved);
    assert_eq!(b.inl(0), 0);
}

#[test]
fn mechanism_1_ends_with_its_eight_ports() {
    let b = board();
    b.select(3, 0x00);
    assert_eq!(b.conf1.read(&CX, 7, Size::Byte) & 0xff, 0x10);
    assert_eq!(b.conf1.read(&CX, 8, Size::Byte), u64::MAX);
    b.select(3, 0x10);
    outb(&b.conf1, 8, 0xff);
    assert_eq!(b.inl(4), 1, "nothing of the next register was written");
}

#[test]
fn reserved_bits_of_mechanism_1_are_not_restored() {
    let b = board();
    b.outl(0, 0xffff_ffff);
    outb(&b.conf1, 1, 0xff);
    let good = b.conf1.save();
    b.conf1.restore(&good).unwrap();
    assert_eq!(b.inl(0), 0x80ff_fffc);
    // CONFIG_ADDRESS, seven bits to a byte, and the reset control register.
    for (at, value) in [(3, 0xff), (good.bytes.len() - 1, 0xff)] {
        let mut bytes = good.bytes.clone();
        bytes[at] = value;
        let bad = b.conf1.restore(&Saved { bytes, ..good.clone() });
        assert!(matches!(bad, Err(StateError::Inconsistent { .. })), "byte {at}: {bad:?}");
        assert_eq!(b.conf1.save(), good);
    }
}

#[test]
fn the_low_bits_of_the_address_choose_a_byte_where_they_fit() {
    let b = board();
    b.outl(0, 1 << 31 | 3 << 11 | 0x2e);
    assert_eq!(b.inl(0), 1 << 31 | 3 << 11 | 0x2c, "nobody sees them");
    assert_eq!((b.inw(4), b.inw(6)), (0x0040, 0x0040));
    assert_eq!(inb(&b.conf1, 5), 0, "the byte above");
    assert_eq!(b.inl(4), 0x0040_1af4, "a dword has no other");
}

#[test]
fn config_data_honours_width_and_byte_lane() {
    let b = board();
    b.select(3, 0x2c);
    assert_eq!(b.inl(4), 0x0040_1af4);
    assert_eq!(b.inw(6), 0x0040);
    assert_eq!(inb(&b.conf1, 5), 0x1a);
    b.select(3, 0x3c);
    outb(&b.conf1, 4, 0x0b);
    assert_eq!(b.inl(4), 0x0000_010b, "interrupt line written, pin INTA#");
}

#[test]
fn a_scan_of_bus_0_finds_two_functions_and_all_ones_elsewhere() {
    let b = board();
    let found: Vec<u8> = (0..32)
        .filter(|&device| {
            b.select(device, 0);
            b.inl(4) != u32::MAX
        })
        .collect();
    assert_eq!(found, [0, 3]);
    b.outl(0, 0x8001_1800);
    assert_eq!(b.inl(4), u32::MAX, "bus 1 is empty");
    b.outl(0, 0x0000_1800);
    assert_eq!(b.inl(4), u32::MAX, "disabled");
    b.outl(0, 0x8000_1900);
    assert_eq!(b.inl(4), u32::MAX, "function 1 is absent");
}

#[test]
fn writes_to_nobody_vanish() {
    let b = board();
    for address in [0x8000_1904u32, 0x8001_1804, 0x0000_1804] {
        b.outl(0, address);
        b.outl(4, 0xffff_ffff);
    }
    b.select(3, 0x04);
    assert_eq!(b.inl(4), 0);
}

#[test]
fn only_a_dword_latches_the_address_and_reserved_bits_read_zero() {
    let b = board();
    b.outl(0, 0xffff_ffff);
    assert_eq!(b.inl(0), 0x80ff_fffc);
    b.conf1.write(&CX, 0, Size::Word, 0x1234);
    b.conf1.write(&CX, 2, Size::Word, 0x1234);
    outb(&b.conf1, 0, 0x12);
    assert_eq!(b.inl(0), 0x80ff_fffc);
    assert_eq!(b.inw(0), 0xffff);
    assert_eq!(inb(&b.conf1, 0), 0xff);
}

#[test]
fn a_rising_reset_bit_resets_once() {
    let b = board();
    outb(&b.conf1, 1, 0x02);
    assert!(b.power.events().is_empty());
    outb(&b.conf1, 1, 0x06);
    outb(&b.conf1, 1, 0x06);
    assert_eq!(b.power.events(), [PowerEvent::Reset]);
    assert_eq!(inb(&b.conf1, 1), 0x06);
    b.conf1.reset();
    outb(&b.conf1, 1, 0xff);
    assert_eq!(inb(&b.conf1, 1), 0x0e);
    assert_eq!(b.power.events().len(), 2);
    b.outl(0, 0x8000_0400);
    b.outl(0, 0x8000_0000);
    assert_eq!(b.power.events().len(), 2, "an address with bit 10 set is no reset");
}

#[test]
fn cam_and_ecam_reach_what_mechanism_1_reaches() {
    let b = board();
    for layout in [Layout::Cam, Layout::Ecam] {
        let window = EcamWindow::new(Arc::clone(&b.bus), layout);
        let function = |devfn: u64| devfn << layout.shift();
        assert_eq!(window.read(&CX, 0, Size::Dword), 0x1237_8086);
        let line = function(3 << 3) + u64::from(regs::INTERRUPT_LINE);
        window.write(&CX, line, Size::Byte, 0x0a);
        b.select(3, 0x3c);
        assert_eq!(inb(&b.conf1, 4), 0x0a);
        outb(&b.conf1, 4, 0);
        assert_eq!(window.read(&CX, function(1 << 3), Size::Word) as u16, 0xffff);
        assert_eq!(window.read(&CX, layout.bus_len(), Size::Dword) as u32, u32::MAX, "bus 1");
        assert_eq!(window.register(line, Direction::Read), Some("INTERRUPT_LINE"));
    }
    let ecam = EcamWindow::new(Arc::clone(&b.bus), Layout::Ecam);
    assert_eq!(ecam.read(&CX, 0x100, Size::Dword) as u32, u32::MAX, "no extended registers");
    assert_eq!(Layout::Cam.bus_len() * 256, 16 << 20);
    assert_eq!(Layout::Ecam.bus_len() * 256, 256 << 20);
}

#[test]
fn a_place_holds_one_function() {
    let b = board();
    let devfn = Devfn::new(3, 0).unwrap();
    let log = Arc::<Log>::default();
    let refused = b.bus.insert(devfn, log.slot(3, HostBridge::function));
    assert_eq!(refused, Err(BusError::Occupied(devfn)));
    assert_eq!(BusError::Occupied(devfn).to_string(), "PCI 00:03.0 is taken");
    assert_eq!(b.bus.occupied(), [Devfn::from_bits(0), devfn]);
    assert!(b.bus.remove(devfn).is_some());
    assert!(b.bus.remove(devfn).is_none());
    assert!(Devfn::new(32, 0).is_none() && Devfn::new(0, 8).is_none());
}

#[test]
fn firmware_opens_shadow_ram_and_locks_smram() {
    let b = board();
    b.select(0, 0x58);
    b.outl(4, 0xffff_ffff);
    assert_eq!(b.inl(4), 0x3333_3000, "PAM0's low half is reserved");
    b.select(0, 0x70);
    assert_eq!(inb(&b.conf1, 6), 0x02);
    outb(&b.conf1, 6, 0x4a);
    assert_eq!(inb(&b.conf1, 6), 0x4a);
    outb(&b.conf1, 6, 0x5a);
    assert_eq!(inb(&b.conf1, 6), 0x1a, "locking closes");
    b.outl(4, 0);
    assert_eq!(inb(&b.conf1, 6), 0x1a, "and cannot be undone");
    b.bus.reset();
    assert_eq!(inb(&b.conf1, 6), 0x02);
    b.select(0, 0x04);
    b.outl(4, 0xffff_ffff);
    assert_eq!(b.inl(4), 0x0280_0146);
}

#[test]
fn registers_have_names() {
    let b = board();
    let name = |offset| b.conf1.register(offset, Direction::Write);
    assert_eq!(name(0), Some("CONFIG_ADDRESS"));
    assert_eq!(name(1), Some("RST_CNT"));
    assert_eq!(name(4), Some("CONFIG_DATA"));
    b.select(3, 0x04);
    assert_eq!(name(4), Some("COMMAND"));
    b.select(0, 0x58);
    assert_eq!(name(5), Some("PAM0"));
}

#[test]
fn a_snapshot_brings_everything_back() {
    let b = board();
    b.select(3, 0x10);
    outb(&b.conf1, 1, 0x02);
    let saved = b.conf1.save();
    b.conf1.reset();
    assert_eq!(b.inl(0), 0);
    b.conf1.restore(&saved).unwrap();
    assert_eq!(b.inl(0), 0x8000_1810);
    assert_eq!(inb(&b.conf1, 1), 0x02);
    let log = Arc::<Log>::default();
    let bridge = log.slot(0, HostBridge::function);
    bridge.config_write(regs::PAM0, Size::Byte, 0x30);
    let copy = log.slot(0, HostBridge::function);
    copy.restore(&bridge.save()).unwrap();
    assert_eq!(copy.config_read(regs::PAM0, Size::Byte), 0x30);
}

#[test]
fn a_bus_is_restored_whole_or_not_at_all() {
    let b = board();
    let (first, second) = (Devfn::from_bits(0), Devfn::from_bits(0x18));
    b.bus.config_write(first, regs::PAM0, Size::Byte, 0x30);
    b.bus.config_write(second, regs::INTERRUPT_LINE, Size::Byte, 7);
    let saved = b.bus.save();

    let other = board();
    other.bus.restore(&saved).unwrap();
    assert_eq!(other.bus.save(), saved);

    // The last byte is the version of the second function's device.
    let mut bytes = saved.bytes.clone();
    let at = bytes.windows(5).rposition(|name| name == b"plain").unwrap() + 5;
    bytes[at] = 9;
    let fresh = board();
    let before = fresh.bus.save();
    let refused = fresh.bus.restore(&Saved { bytes, ..saved.clone() }).unwrap_err();
    assert!(matches!(refused, StateError::Version { name: "plain", .. }), "{refused}");
    assert_eq!(fresh.bus.save(), before);

    let refused =
        Bus::new(Arc::<Places>::default(), Vec::new()).restore(&saved).unwrap_err().to_string();
    assert!(refused.contains("the same functions are plugged in"), "{refused}");
}

#[test]
fn an_impossible_host_bridge_is_refused() {
    let bridge = Arc::<Log>::default().slot(0, HostBridge::function);
    let good = bridge.save();
    // The encoding is a length of two bytes and the registers.
    for (offset, value) in [(0, 0x87), (0x72, 0x52), (0x72, 0x03), (0x59, 0x01)] {
        let mut bytes = good.bytes.clone();
        bytes[2 + offset] = value;
        let refused = bridge.restore(&Saved { bytes, ..good.clone() }).unwrap_err();
        assert!(matches!(refused, StateError::Inconsistent { .. }), "{offset:#x}: {refused}");
        assert_eq!(bridge.save(), good);
    }
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![Just(Size::Byte), Just(Size::Word), Just(Size::Dword)]
}

proptest! {
    #[test]
    fn no_access_panics_and_what_is_fixed_stays(
        script in prop::collection::vec((any::<bool>(), 0u64..8, size(), any::<u32>()), 1..200),
    ) {
        let b = board();
        for (write, offset, size, value) in script {
            let offset = offset & !(size.bytes() as u64 - 1);
            // Half of the addresses name somebody.
            let value = if value & 1 == 0 { 0x8000_0000 | value & 0x1ffc } else { value };
            if write {
                b.conf1.write(&CX, offset, size, u64::from(value) & size.ones());
            } else {
                b.conf1.read(&CX, offset, size);
            }
            b.conf1.register(offset, Direction::Read);
            prop_assert_eq!(b.inl(0) & 0x7f00_0003, 0);
        }
        b.select(0, 0);
        prop_assert_eq!(b.inl(4), 0x1237_8086);
        b.select(3, 0);
        prop_assert_eq!(b.inl(4), 0x1041_1af4);
        b.select(0, 0x70);
        prop_assert_eq!(inb(&b.conf1, 6) & 0x87, 0x02);
    }
}

#[test]
fn the_reset_control_register_alone_resets_once_when_bit_2_goes_up() {
    let power = TestPower::default();
    let port = ResetPort::new(Arc::new(power.clone()));
    let written: Vec<u8> = [0x02, 0x06, 0x0e, 0xff, 0x02, 0x04]
        .into_iter()
        .map(|value| {
            outb(&port, 1, value);
            inb(&port, 1)
        })
        .collect();
    assert_eq!(written, [0x02, 0x06, 0x0e, 0x0e, 0x02, 0x04], "reserved bits stay 0");
    assert_eq!(power.events(), [PowerEvent::Reset; 2]);
    let saved = port.save();
    port.reset();
    assert_eq!(inb(&port, 1), 0);
    // Function 4 of device 0, for the mechanism that is not there.
    port.write(&CX, 0, Size::Dword, 0x8000_0400);
    assert_eq!(port.read(&CX, 0, Size::Dword) & 0xffff_ffff, 0xffff_ffff);
    assert_eq!((inb(&port, 1), power.events().len()), (0, 2));
    port.restore(&saved).unwrap();
    assert_eq!(inb(&port, 1), 0x04);
    let impossible = Saved { bytes: vec![1], ..saved };
    assert!(port.restore(&impossible).is_err());
}
