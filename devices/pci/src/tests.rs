#![expect(
    clippy::cast_possible_truncation,
    reason = "reads are narrower than the value they return"
)]

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline_device::{
    Device, Direction, Form, Handler, IoCx, PowerEvent, SaveState, Saved, Size, Space, StateError,
};
use trapline_testkit::{CX, TestPower, inb, outb};

use crate::regs;
use crate::{
    Bar, BarWindow, Bus, BusError, Conf1, ConfigSpace, ConfigState, ConfigV1, Devfn, EcamWindow,
    Function, HostBridge, Identity, Layout, Pin,
};

/// A function that is nothing but its configuration space.
struct Plain(Mutex<ConfigSpace>);

impl Function for Plain {
    fn config_read(&self, _cx: &IoCx<'_>, offset: u16, size: Size) -> u32 {
        self.0.lock().read(offset, size)
    }
    fn config_write(&self, _cx: &IoCx<'_>, offset: u16, size: Size, value: u32) {
        self.0.lock().write(offset, size, value);
    }
}

impl Device for Plain {
    fn reset(&self) {
        self.0.lock().reset();
    }
}

impl SaveState for Plain {
    fn save(&self) -> Saved {
        Saved::encode(&PlainV1(self.0.lock().state().into()))
    }
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = ConfigState::from(saved.decode::<PlainV1>()?.0);
        StateError::check::<PlainV1>(self.0.lock().can_be(&state), "hard-wired bits")?;
        self.0.lock().restore(state);
        Ok(())
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct PlainV1(ConfigV1);

impl Form for PlainV1 {
    const NAME: &'static str = "plain";
    const VERSION: u32 = 1;
}

fn network_card() -> ConfigSpace {
    ConfigSpace::new(&Identity {
        vendor: 0x1af4,
        device: 0x1041,
        revision: 1,
        class: 0x02_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x0040,
        pin: Some(Pin::A),
        multi_function: true,
    })
    .with_bar(0, Bar::Io { len: 0x100 })
    .with_bar(1, Bar::Mem32 { len: 0x1000, prefetchable: false })
    .with_bar(2, Bar::Mem64 { len: 1 << 33, prefetchable: true })
}

struct Board {
    bus: Arc<Bus>,
    conf1: Conf1,
    power: TestPower,
}

fn board() -> Board {
    let bus = Arc::new(Bus::new());
    let power = TestPower::default();
    let at = |device| Devfn::new(device, 0).unwrap();
    bus.insert(at(0), Arc::new(HostBridge::new())).unwrap();
    bus.insert(at(3), Arc::new(Plain(Mutex::new(network_card())))).unwrap();
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
fn bars_tell_their_size_and_answer_only_when_enabled() {
    let mut card = network_card();
    for bar in 0..6u16 {
        card.write(0x10 + 4 * bar, Size::Dword, u32::MAX);
    }
    let read = |card: &ConfigSpace, bar: u16| card.read(0x10 + 4 * bar, Size::Dword);
    assert_eq!(read(&card, 0), 0xffff_ff01);
    assert_eq!(read(&card, 1), 0xffff_f000);
    assert_eq!((read(&card, 2), read(&card, 3)), (0x0000_000c, 0xffff_fffe));
    assert_eq!((read(&card, 4), read(&card, 5)), (0, 0));
    assert_eq!(card.windows(), [None; 6]);

    card.write(0x10, Size::Dword, 0x6234);
    card.write(0x14, Size::Dword, 0xd200_0000);
    card.write(0x18, Size::Dword, 0);
    card.write(0x1c, Size::Dword, 0x12);
    card.write(0x04, Size::Word, 0x0001);
    let io = BarWindow { space: Space::Pio, base: 0x6200, len: 0x100 };
    assert_eq!(card.windows(), [Some(io), None, None, None, None, None]);
    card.write(0x04, Size::Byte, 0x02);
    let mem32 = BarWindow { space: Space::Mmio, base: 0xd200_0000, len: 0x1000 };
    let mem64 = BarWindow { space: Space::Mmio, base: 0x12_0000_0000, len: 1 << 33 };
    assert_eq!(card.windows(), [None, Some(mem32), Some(mem64), None, None, None]);
    card.reset();
    assert_eq!(card.windows(), [None; 6]);
}

#[test]
fn the_smallest_io_bar_sits_on_any_multiple_of_four_ports() {
    let mut space = ConfigSpace::new(&Identity::default()).with_bar(5, Bar::Io { len: 4 });
    space.write(0x24, Size::Dword, 0xffff_ffff);
    assert_eq!(space.read(0x24, Size::Dword), 0xffff_fffd);
    space.write(0x24, Size::Dword, 0x620f);
    space.write(regs::COMMAND, Size::Word, 1);
    let window = BarWindow { space: Space::Pio, base: 0x620c, len: 4 };
    assert_eq!(space.windows()[5], Some(window));
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let with =
        |index, bar| std::panic::catch_unwind(|| network_card().with_bar(index, bar)).is_err();
    assert!(with(3, Bar::Io { len: 8 }), "the upper half of BAR2");
    assert!(with(5, Bar::Mem64 { len: 16, prefetchable: false }), "no BAR6");
    assert!(with(4, Bar::Io { len: 512 }));
    assert!(with(4, Bar::Mem32 { len: 24, prefetchable: false }));
    assert!(!with(4, Bar::Mem64 { len: 16, prefetchable: false }));
}

#[test]
fn status_errors_are_cleared_by_ones_and_the_header_is_read_only() {
    let mut card = network_card();
    card.update(regs::STATUS, &0xf910u16.to_le_bytes());
    card.write(regs::STATUS, Size::Word, 0x8010);
    assert_eq!(card.read(regs::STATUS, Size::Word), 0x7910);
    card.write(regs::COMMAND, Size::Dword, 0xffff_ffff);
    assert_eq!(card.read(regs::COMMAND, Size::Dword), 0x0010_0547);
    let before = card.read(0, Size::Dword);
    card.write(0, Size::Dword, 0xdead_beef);
    assert_eq!(card.read(0, Size::Dword), before);
    assert_eq!(card.read(regs::HEADER_TYPE, Size::Byte), 0x80);
    assert_eq!(card.read(0x100, Size::Dword), u32::MAX);
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
    let refused = b.bus.insert(devfn, Arc::new(HostBridge::new()));
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
    let bridge = HostBridge::new();
    bridge.config_write(&CX, regs::PAM0, Size::Byte, 0x30);
    let copy = HostBridge::new();
    copy.restore(&bridge.save()).unwrap();
    assert_eq!(copy.config_read(&CX, regs::PAM0, Size::Byte), 0x30);
}

#[test]
fn a_bus_is_restored_whole_or_not_at_all() {
    let b = board();
    let (first, second) = (Devfn::from_bits(0), Devfn::from_bits(0x18));
    b.bus.config_write(&CX, first, regs::PAM0, Size::Byte, 0x30);
    b.bus.config_write(&CX, second, regs::INTERRUPT_LINE, Size::Byte, 7);
    let saved = b.bus.save();

    let other = board();
    other.bus.restore(&saved).unwrap();
    assert_eq!(other.bus.save(), saved);

    // The last byte is the second function's, whose last byte is hard-wired.
    let mut bytes = saved.bytes.clone();
    *bytes.last_mut().unwrap() = 1;
    let fresh = board();
    let before = fresh.bus.save();
    let refused = fresh.bus.restore(&Saved { bytes, ..saved.clone() }).unwrap_err();
    assert!(matches!(refused, StateError::Inconsistent { name: "plain", .. }), "{refused}");
    assert_eq!(fresh.bus.save(), before);

    let refused = Bus::new().restore(&saved).unwrap_err().to_string();
    assert!(refused.contains("the same functions are plugged in"), "{refused}");
}

#[test]
fn an_impossible_host_bridge_is_refused() {
    let bridge = HostBridge::new();
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

/// One bit, the naive way.
#[derive(Clone, Copy, Debug)]
enum Bit {
    Fixed,
    Writable,
    ClearedByOne,
}

fn bit() -> impl Strategy<Value = Bit> {
    prop_oneof![Just(Bit::Fixed), Just(Bit::Writable), Just(Bit::ClearedByOne)]
}

proptest! {
    #[test]
    fn masks_do_what_a_bit_by_bit_model_does(
        bits in prop::collection::vec((bit(), any::<bool>()), 8 * 64),
        script in prop::collection::vec((0x40u16..0x88, size(), any::<u32>()), 1..64),
    ) {
        let mut space = ConfigSpace::new(&Identity::default());
        let mut model = vec![(Bit::Fixed, false); 8 * 256];
        for (i, &(kind, value)) in bits.iter().enumerate() {
            let at = 8 * 0x40 + i;
            model[at] = (kind, value);
            let (byte, mask) = ((at / 8) as u16, [1 << (at % 8)]);
            match kind {
                Bit::Fixed => {}
                Bit::Writable => space.allow(byte, &mask),
                Bit::ClearedByOne => space.allow_clear(byte, &mask),
            }
            let old = space.read(byte, Size::Byte) as u8;
            space.set(byte, &[old | if value { mask[0] } else { 0 }]);
        }
        for (offset, size, value) in script {
            space.write(offset, size, value);
            for i in 0..size.bits() as usize {
                let (kind, held) = &mut model[8 * usize::from(offset) + i];
                let new = value >> i & 1 == 1;
                *held = match kind {
                    Bit::Fixed => *held,
                    Bit::Writable => new,
                    Bit::ClearedByOne => *held && !new,
                };
            }
            for byte in 0x40..0x90u16 {
                let expected = (0..8).fold(0, |sum, i| {
                    sum | u32::from(model[8 * usize::from(byte) + i].1) << i
                });
                prop_assert_eq!(space.read(byte, Size::Byte), expected);
            }
        }
    }

    #[test]
    fn any_bar_tells_its_size(log in 4u32..64, prefetchable: bool, junk: u64) {
        let len = 1u64 << log;
        let mut space = ConfigSpace::new(&Identity::default())
            .with_bar(4, Bar::Mem64 { len, prefetchable });
        let whole = |s: &ConfigSpace| {
            u64::from(s.read(0x24, Size::Dword)) << 32 | u64::from(s.read(0x20, Size::Dword))
        };
        space.write(0x20, Size::Dword, u32::MAX);
        space.write(0x24, Size::Dword, u32::MAX);
        prop_assert_eq!((!(whole(&space) & !0xf)).wrapping_add(1), len);
        space.write(0x20, Size::Dword, junk as u32);
        space.write(0x24, Size::Dword, (junk >> 32) as u32);
        space.write(0x04, Size::Word, 2);
        let window = space.windows()[4].unwrap();
        prop_assert_eq!((window.base, window.len), (junk & !(len - 1), len));
    }

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
