//! The legacy registers: every one's width, reset value and rules, and a driver that knows no others.

use trapline_device::{Device, SaveState};
use trapline_testkit::virtio::port;

use super::*;
use crate::DeviceType;
use crate::features::{ANY_LAYOUT, INDIRECT_DESC};
use crate::pci::PciInterface;
use crate::pci::identity;
use crate::pci::regs::{LEGACY, LegacyReg, legacy_device_id};
use crate::toy::{CONFIG, DEPENDENT};

fn machine() -> (Machine, Arc<Toy>) {
    Machine::toy_for(Registers::PciLegacy)
}

/// What such a driver can have of the toy's.
const OFFERED: u64 = (OF_QUEUES | FEATURE | DEPENDENT | ANY_LAYOUT) & 0xffff_ffff;

#[test]
fn the_function_says_what_it_is() {
    for registers in [Registers::PciLegacy, Registers::TransitionalLegacy] {
        let (machine, _toy) = Machine::toy_for(registers);
        assert_eq!(machine.config_read(DEVFN, 0, Size::Dword), 0x1005_1af4);
        assert_eq!(machine.config_read(DEVFN, 8, Size::Dword), 0xff00_0000, "revision 0");
        let kind = machine.config_read(DEVFN, 0x2c, Size::Dword);
        assert_eq!(kind, 0x0004_1af4, "the subsystem is the type");
    }
    let ids = [
        (DeviceType::Net, 0x1000),
        (DeviceType::Block, 0x1001),
        (DeviceType::Balloon, 0x1002),
        (DeviceType::Console, 0x1003),
        (DeviceType::Scsi, 0x1004),
        (DeviceType::Rng, 0x1005),
        (DeviceType::P9, 0x1009),
        (DeviceType::Vsock, 0x1012),
    ];
    for (kind, id) in ids {
        assert_eq!(legacy_device_id(kind), Some(id), "{kind:?}");
    }
}

#[test]
fn a_device_that_legacy_drivers_do_not_know_is_refused() {
    for (interface, refused) in [
        (PciInterface::Modern, false),
        (PciInterface::Legacy, true),
        (PciInterface::Transitional, true),
    ] {
        let found = identity(DeviceType::Fs, interface);
        assert_eq!(found.is_err(), refused, "{interface:?}");
    }
}

#[test]
fn only_ports_and_messages_are_there_and_no_structure_of_version_1() {
    let (machine, _toy) = machine();
    let bars: Vec<u32> = (0..6)
        .map(|bar| {
            machine.config_write(DEVFN, 0x10 + 4 * bar, Size::Dword, u32::MAX);
            machine.config_read(DEVFN, 0x10 + 4 * bar, Size::Dword)
        })
        .collect();
    // 24 bytes and 6 of configuration.
    assert_eq!(bars, [0xffff_ffe1, 0xffff_f000, 0, 0, 0, 0]);
    let mut at = machine.config_read(DEVFN, 0x34, Size::Byte) & 0xff;
    let mut capabilities = Vec::new();
    while at != 0 {
        let at16 = u16::try_from(at).unwrap();
        capabilities.push(machine.config_read(DEVFN, at16, Size::Byte) & 0xff);
        at = machine.config_read(DEVFN, at16 + 1, Size::Byte) & 0xff;
    }
    capabilities.sort_unstable();
    assert_eq!(capabilities, [0x11, 0x13], "MSI-X and function-level reset");
}

/// What each register is after a reset, with queue 0 selected.
fn reset_value(reg: LegacyReg) -> u64 {
    match reg {
        LegacyReg::HostFeatures => OFFERED,
        LegacyReg::QueueSize => SIZES[0].into(),
        LegacyReg::ConfigVector | LegacyReg::QueueVector => 0xffff,
        _ => 0,
    }
}

#[test]
fn registers_have_their_values_after_a_reset_at_their_width_only() {
    let (machine, toy) = machine();
    let transport = machine.legacy_driver().transport;
    transport.enable_msix(&[]);
    let widths = [Size::Byte, Size::Word, Size::Dword];
    let check = |transport: &LegacyPciTransport<&Shared>| {
        for row in LEGACY.rows() {
            let size = Size::new(row.width as usize).unwrap();
            let offset = u64::from(row.offset);
            let value =
                if row.reg == LegacyReg::QueueNotify { size.ones() } else { reset_value(row.reg) };
            assert_eq!(transport.read(offset, size), value, "{}", row.name);
        }
    };
    check(&transport);
    for row in LEGACY.rows() {
        let offset = u64::from(row.offset);
        for size in widths.into_iter().filter(|size| size.bytes() != row.width as usize) {
            if offset.is_multiple_of(size.bytes() as u64) {
                assert_eq!(transport.read(offset, size), size.ones(), "{} by {size}", row.name);
                transport.write(offset, size, 1);
            }
        }
    }
    check(&transport);
    assert_eq!(toy.calls(), []);
    // What can be written is kept, and nothing else.
    for row in LEGACY.rows() {
        let size = Size::new(row.width as usize).unwrap();
        transport.write(row.offset.into(), size, 0x89ab_cdef & size.ones());
    }
    let kept = |reg| match reg {
        LegacyReg::HostFeatures => OFFERED,
        LegacyReg::GuestFeatures => OFFERED & 0x89ab_cdef,
        // No such queue, no such vector.
        LegacyReg::QueueSelect => 0xcdef,
        LegacyReg::ConfigVector | LegacyReg::QueueVector => 0xffff,
        LegacyReg::QueueNotify => 0xffff,
        // Without FEATURES_OK, which is nobody's here; the queue was to be where nothing is.
        LegacyReg::Status => 0x87 | u64::from(status::NEEDS_RESET),
        LegacyReg::IsrStatus => 2,
        _ => 0,
    };
    for row in LEGACY.rows() {
        let size = Size::new(row.width as usize).unwrap();
        assert_eq!(transport.read(row.offset.into(), size), kept(row.reg), "{}", row.name);
    }
    transport.set_status(0);
    check(&transport);
}

#[test]
fn a_reset_is_over_when_the_write_returns() {
    let (machine, toy) = machine();
    let driver = machine.legacy_driver();
    let mut ring = machine.ring(0);
    driver.start(INDIRECT_DESC, &[&ring]);
    machine.bench.settle();
    *toy.keeps.lock() = true;
    ring.add(&[Part::Write(BUFFER, 2)]);
    driver.transport.notify(0);
    machine.bench.settle();
    toy.link().config_changed();
    toy.calls();
    driver.transport.set_status(0);
    assert_eq!((toy.calls(), machine.line.level()), (vec![Call::Reset], false));
    assert_eq!(driver.transport.take_interrupts(), 0);
    assert_eq!(driver.transport.read(port::QUEUE_PFN, Size::Dword), 0);
    assert!(toy.queue(0).serve().is_none());
    toy.link().config_changed();
    assert!(!machine.line.level());
}

#[test]
fn a_queue_is_where_its_page_is_and_nowhere_without_one() {
    let (machine, toy) = machine();
    let driver = machine.legacy_driver();
    let transport = &driver.transport;
    let mut ring = machine.ring(1);
    driver.start::<GuestMem>(0, &[]);
    // Also once the device is in use.
    transport.enable_queue(1, &(&ring).into());
    assert_eq!(transport.read(port::QUEUE_PFN, Size::Dword), RINGS[1] / 4096);
    assert_eq!(transport.read(port::QUEUE_SIZE, Size::Word), u64::from(SIZES[1]));
    ring.add(&[Part::Write(BUFFER, 2)]);
    transport.notify(1);
    machine.bench.settle();
    assert_eq!(ring.used_index(), 1);
    toy.calls();
    transport.write(port::QUEUE_PFN, Size::Dword, 0);
    assert_eq!(toy.calls(), [Call::StopQueue(1)]);
    assert_eq!(transport.read(port::QUEUE_PFN, Size::Dword), 0);
    ring.add(&[Part::Write(BUFFER, 2)]);
    transport.notify(1);
    machine.bench.settle();
    assert_eq!(ring.used_index(), 1);
    // Past the end of RAM, and of everything.
    for page in [RAM / 4096, 0xffff_ffff] {
        driver.start::<GuestMem>(0, &[]);
        transport.select(0);
        transport.write(port::QUEUE_PFN, Size::Dword, page);
        assert_ne!(transport.status() & status::NEEDS_RESET, 0, "{page:#x}");
    }
    // Of no queue.
    driver.reset();
    transport.select(2);
    transport.write(port::QUEUE_PFN, Size::Dword, 1);
    assert_eq!(transport.read(port::QUEUE_PFN, Size::Dword), 0);
    assert_eq!(transport.queue_size_max(2), 0);
}

#[test]
fn features_are_what_the_driver_wrote_of_those_offered_until_it_is_ready() {
    let (machine, toy) = machine();
    let driver = machine.legacy_driver();
    let transport = &driver.transport;
    assert_eq!(transport.device_features(), OFFERED);
    for (written, kept) in [(u64::MAX, OFFERED), (1, 0), (INDIRECT_DESC | 1, INDIRECT_DESC)] {
        driver.reset();
        transport.set_driver_features(written);
        assert_eq!(transport.read(port::GUEST_FEATURES, Size::Dword), kept);
        driver.ready();
        assert_eq!(toy.calls().last(), Some(&Call::Activate(kept)));
        transport.set_driver_features(0);
        assert_eq!(transport.read(port::GUEST_FEATURES, Size::Dword), kept);
    }
}

#[test]
fn the_configuration_moves_with_msix_and_can_be_had_before_anything_else() {
    let (machine, toy) = machine();
    let transport = machine.legacy_driver().transport;
    let bytes = |transport: &LegacyPciTransport<&Shared>| -> Vec<u64> {
        (0..6).map(|at| transport.config_read(at, Size::Byte)).collect()
    };
    let whole = CONFIG.map(u64::from).to_vec();
    assert_eq!(bytes(&transport), whole);
    assert_eq!(transport.read(port::CONFIG_VECTOR, Size::Word), 0x0201, "no vectors here");
    transport.config_write(0, Size::Word, 0x0201);
    transport.enable_msix(&[(DOOR, 1)]);
    assert_eq!(bytes(&transport), whole);
    assert_eq!(transport.read(port::CONFIG_VECTOR, Size::Word), 0xffff);
    assert_eq!(transport.set_config_vector(1), 1);
    transport.config_write(1, Size::Byte, 0xaa);
    assert_eq!(transport.config_read(0, Size::Dword), 0x0403_aa01);
    transport.disable_msix();
    assert_eq!(transport.config_read(0, Size::Dword), 0x0403_aa01);
    assert_eq!(transport.config_read(4, Size::Dword), 0xffff_0605, "it ends where it ends");
    assert_eq!(transport.read(0x1c, Size::Dword), 0xffff_ffff);
    drop(toy);
}

#[test]
fn with_msix_each_event_has_the_vector_it_was_given() {
    let (machine, toy) = machine();
    let driver = machine.legacy_driver();
    let transport = &driver.transport;
    let mut ring = machine.ring(1);
    transport.enable_msix(&[(DOOR, 10), (DOOR, 11), (DOOR, 12)]);
    driver.negotiate(0).unwrap();
    for (vector, kept) in [(2, 2), (3, 0xffff), (0xffff, 0xffff), (0, 0)] {
        assert_eq!(transport.set_config_vector(vector), kept);
        assert_eq!(transport.set_queue_vector(1, vector), kept);
        assert_eq!(transport.set_queue_vector(2, vector), 0xffff, "there is no queue 2");
    }
    assert_eq!(transport.set_queue_vector(1, 2), 2);
    transport.enable_queue(1, &(&ring).into());
    driver.ready();
    ring.add(&[Part::Write(BUFFER, 2)]);
    transport.notify(1);
    machine.bench.settle();
    assert_eq!(machine.bench.messages.take(), [(DOOR, 12)]);
    toy.set_config([9; 6]);
    assert_eq!(machine.bench.messages.take(), [(DOOR, 10)]);
    assert_eq!(transport.take_interrupts(), 2, "the configuration's is in the status, too");
    assert!(!machine.line.level());
    driver.reset();
    assert_eq!(transport.read(port::CONFIG_VECTOR, Size::Word), 0xffff);
}

#[test]
fn what_is_saved_comes_back() {
    let (before, _toy) = machine();
    let driver = before.legacy_driver();
    let mut ring = before.ring(0);
    driver.start(!EVENT_IDX, &[&ring]);
    ring.add(&[Part::Write(BUFFER, 2)]);
    driver.transport.notify(0);
    before.bench.settle();
    let saved = before.bus.save();
    let (after, toy) = machine();
    let mut ram = vec![0; usize::try_from(RAM).unwrap()];
    before.mem.read(0, &mut ram).unwrap();
    after.mem.write(0, &ram).unwrap();
    after.bus.restore(&saved).unwrap();
    assert_eq!(after.bus.save(), saved);
    assert!(after.line.level());
    assert_eq!(toy.calls(), [Call::Activate(OFFERED & !EVENT_IDX)]);
    let transport = after.legacy_driver().transport;
    assert_eq!(transport.take_interrupts(), 1);
    transport.notify(0);
    assert_eq!(after.bench.doorbells(), 1, "doorbells are switched on");
    let (other, _toy) = Machine::toy();
    assert!(other.bus.restore(&saved).is_err(), "of another interface");
    machine().0.bus.reset();
}
