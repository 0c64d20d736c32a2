//! A window with a driver of its version, and every register's rules.

use std::ops::Deref;
use std::sync::Arc;

use trapline_device::Space;
use trapline_testkit::TestLine;
use trapline_testkit::virtio::{Access, Driver, MmioTransport, Part, Ring, Transport, reg, status};

use super::*;
use crate::QueuePlace;
use crate::features::{ANY_LAYOUT, EVENT_IDX, OF_QUEUES, RING_RESET, VERSION_1};
use crate::machine::{Machine as Shared, Place, Plugged, Registers};
use crate::mmio::regs::{MAGIC, VENDOR};
use crate::toy::{Call, DEPENDENT, FEATURE, SIZES, Toy};
use crate::transport::legacy_place;

const BASE: u64 = Place::FIRST.memory;
const RAM: u64 = 0x10_0000;
const RINGS: [u64; 2] = [0x1_0000, 0x2_0000];
const BUFFER: u64 = 0x8_0000;

/// A machine with one window.
struct Machine {
    machine: Shared,
    line: TestLine,
    toy: Arc<Toy>,
    device: Arc<VirtioMmio>,
}

impl Deref for Machine {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.machine
    }
}

impl Machine {
    fn new(legacy: bool) -> Self {
        let registers = if legacy { Registers::MmioLegacy } else { Registers::Mmio };
        let (machine, toy) = (Shared::new(registers, RAM), Arc::<Toy>::default());
        let Plugged { line, window } = machine.plug(Place::FIRST, "virtio0", toy.clone());
        Self { machine, line, toy, device: window.unwrap() }
    }

    fn driver(&self) -> Driver<MmioTransport<&Shared>> {
        Driver::new(MmioTransport::new(&self.machine, BASE))
    }

    fn ring(&self, queue: usize) -> Ring<GuestMem> {
        Ring::new(self.mem.clone(), RINGS[queue], SIZES[queue])
    }
}

#[test]
fn registers_have_their_values_after_a_reset_at_32_bits_only() {
    for legacy in [false, true] {
        let machine = Machine::new(legacy);
        let transport = machine.driver().transport;
        let map = if legacy { &LEGACY } else { &MODERN };
        for row in map.rows() {
            let value = match row.reg {
                MmioReg::MagicValue => MAGIC,
                MmioReg::Version => 2 - u32::from(legacy),
                MmioReg::DeviceId => 4,
                MmioReg::VendorId => VENDOR,
                MmioReg::DeviceFeatures => {
                    let legacy = if legacy { ANY_LAYOUT } else { 0 };
                    u32::try_from((OF_QUEUES | FEATURE | DEPENDENT | legacy) & 0xffff_ffff).unwrap()
                }
                MmioReg::QueueSizeMax => 8,
                MmioReg::ShmLenLow
                | MmioReg::ShmLenHigh
                | MmioReg::ShmBaseLow
                | MmioReg::ShmBaseHigh => u32::MAX,
                _ => 0,
            };
            let offset = u64::from(row.offset);
            assert_eq!(transport.read(offset), value, "{}", row.name);
            for size in [Size::Byte, Size::Word, Size::Qword] {
                let value = machine.read(Space::Mmio, BASE + offset, size) & size.ones();
                let aligned = offset.is_multiple_of(size.bytes() as u64);
                assert!(!aligned || value == size.ones(), "{} by {size}", row.name);
                machine.write(Space::Mmio, BASE + offset, size, 1);
            }
        }
        assert_eq!(transport.status(), 0, "narrow and wide writes vanish");
        assert_eq!(transport.read(0x0f8), 0, "between registers there is nothing");
    }
}

#[test]
fn a_queue_is_stopped_by_its_ready_register_and_by_its_reset() {
    let machine = Machine::new(false);
    let driver = machine.driver();
    let transport = &driver.transport;
    let mut ring = machine.ring(0);
    driver.start(VERSION_1 | RING_RESET, &[&ring]);
    machine.bench.settle();
    machine.toy.calls();
    assert_eq!(transport.read(reg::QUEUE_READY), 1);
    transport.write(reg::QUEUE_READY, 2);
    assert_eq!(transport.read(reg::QUEUE_READY), 1);
    transport.write(reg::QUEUE_READY, 0);
    assert_eq!(transport.read(reg::QUEUE_READY), 0);
    assert_eq!(machine.toy.calls(), [Call::StopQueue(0)]);
    ring.add(&[Part::Write(BUFFER, 2)]);
    transport.notify(0);
    machine.bench.settle();
    assert_eq!(ring.used_index(), 0);
    transport.write(reg::QUEUE_RESET, 1);
    assert_eq!(transport.read(reg::QUEUE_RESET), 0);
    let mut ring = machine.ring(0);
    ring.add(&[Part::Write(BUFFER, 2)]);
    transport.enable_queue(0, &(&ring).into());
    machine.bench.settle();
    assert_eq!(ring.used_index(), 1);
}

#[test]
fn a_queue_that_there_is_not_reads_as_nothing_and_rings_nothing() {
    let machine = Machine::new(false);
    let driver = machine.driver();
    let transport = &driver.transport;
    driver.start(VERSION_1, &[&machine.ring(0)]);
    machine.bench.settle();
    machine.toy.calls();
    for queue in [2, 0xffff, 0x1_0000, u32::MAX] {
        transport.write(reg::QUEUE_SEL, queue);
        for offset in [reg::QUEUE_SIZE, reg::QUEUE_DESC, reg::QUEUE_READY, reg::QUEUE_RESET] {
            transport.write(offset, 1);
        }
        assert_eq!(transport.read(reg::QUEUE_SIZE_MAX), 0);
        assert_eq!(transport.read(reg::QUEUE_READY), 0);
        transport.write(reg::QUEUE_NOTIFY, queue);
    }
    machine.bench.settle();
    assert_eq!(machine.toy.calls(), []);
}

#[test]
fn the_interrupt_is_level_and_goes_with_the_bits_that_are_acknowledged() {
    let machine = Machine::new(false);
    let driver = machine.driver();
    let mut ring = machine.ring(0);
    driver.start(VERSION_1, &[&ring]);
    ring.add(&[Part::Write(BUFFER, 2)]);
    driver.transport.notify(0);
    machine.bench.settle();
    machine.toy.set_config([1; 6]);
    assert_eq!(driver.transport.read(reg::INTERRUPT_STATUS), 3);
    assert_eq!(driver.transport.read(reg::INTERRUPT_STATUS), 3, "reading clears nothing");
    driver.transport.write(reg::INTERRUPT_ACK, 1);
    assert_eq!((driver.transport.read(reg::INTERRUPT_STATUS), machine.line.level()), (2, true));
    driver.transport.write(reg::INTERRUPT_ACK, 2);
    assert!(!machine.line.level());
    machine.toy.set_config([2; 6]);
    assert!(machine.line.level());
    driver.reset();
    assert_eq!((driver.transport.read(reg::INTERRUPT_STATUS), machine.line.level()), (0, false));
}

#[test]
fn the_configuration_is_of_any_width_and_has_a_generation() {
    let machine = Machine::new(false);
    let transport = machine.driver().transport;
    assert_eq!(transport.config_read(0, Size::Qword), 0xffff_0605_0403_0201);
    assert_eq!(transport.config_read(5, Size::Byte) & 0xff, 6);
    transport.config_write(2, Size::Word, 0xbbaa);
    assert_eq!(transport.config_read(0, Size::Dword), 0xbbaa_0201);
    let generation = transport.generation();
    machine.toy.set_config([9; 6]);
    assert_ne!(transport.generation(), generation);
}

#[test]
fn a_legacy_driver_says_where_a_queue_is_by_its_page() {
    let place = legacy_place(0x1_0000, 8, 4096);
    let (driver, device) = (0x1_0080, 0x1_1000);
    let whole = QueuePlace { size: 8, descriptors: 0x1_0000, driver, device };
    assert_eq!(place, whole);
    assert_eq!(legacy_place(0x1_0000, 8, 4).device, 0x1_0098);
    // Nonsense is a place, which a queue is refused at.
    assert_eq!(legacy_place(u64::MAX, 8, 0x8000_0000).device, u64::MAX);

    let machine = Machine::new(true);
    let driver = machine.driver();
    let transport = &driver.transport;
    driver.start(EVENT_IDX, &[&machine.ring(0)]);
    assert_eq!(transport.read(reg::QUEUE_PFN), 0x10);
    transport.write(reg::QUEUE_PFN, 0);
    assert_eq!(transport.read(reg::QUEUE_PFN), 0);
    assert!(!machine.toy.queue(0).is_live());
    for (page, align, pfn) in [(0, 0, 1), (u32::MAX, u32::MAX, u32::MAX), (1, 3, 1)] {
        transport.write(reg::GUEST_PAGE_SIZE, page);
        transport.write(reg::QUEUE_ALIGN, align);
        transport.write(reg::QUEUE_PFN, pfn);
        assert_ne!(transport.status() & status::NEEDS_RESET, 0);
        transport.write(reg::QUEUE_PFN, 0);
    }
    // Features of 32 bits, nothing of version 1, and no FEATURES_OK to be had or not.
    driver.reset();
    transport.set_driver_features(!0);
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!(transport.status(), 7);
    let all = (OF_QUEUES | FEATURE | DEPENDENT | ANY_LAYOUT) & 0xffff_ffff;
    assert_eq!(machine.toy.calls().last(), Some(&Call::Activate(all)));
}

#[test]
fn what_is_saved_comes_back() {
    for legacy in [false, true] {
        let before = Machine::new(legacy);
        let driver = before.driver();
        let mut ring = before.ring(0);
        driver.start(!EVENT_IDX, &[&ring]);
        ring.add(&[Part::Write(BUFFER, 2)]);
        driver.transport.notify(0);
        before.bench.settle();
        let saved = before.device.save();
        let after = Machine::new(legacy);
        let mut ram = vec![0; usize::try_from(RAM).unwrap()];
        before.mem.read(0, &mut ram).unwrap();
        after.mem.write(0, &ram).unwrap();
        after.device.restore(&saved).unwrap();
        assert_eq!(after.device.save(), saved);
        assert!(after.line.level());
        let transport = after.driver().transport;
        assert_eq!(transport.take_interrupts(), 1);
        transport.notify(0);
        assert_eq!(after.bench.doorbells(), 1, "doorbells are switched on");
        let other = Machine::new(!legacy).device;
        let refused = other.restore(&saved);
        assert!(refused.is_err(), "of another version");
    }
}
