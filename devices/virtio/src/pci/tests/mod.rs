//! A function on a bus, with a driver that finds it by its capabilities.

mod legacy;
mod registers;
mod snapshots;
mod transitional;

use std::ops::Deref;
use std::sync::Arc;

use trapline_device::{Size, Space};
use trapline_guestmem::GuestMem;
use trapline_testkit::TestLine;
use trapline_testkit::virtio::{
    Access, Driver, LegacyPciTransport, Part, PciTransport, Ring, Transport, common, status,
};

use crate::VirtioDevice;
use crate::features::{EVENT_IDX, OF_QUEUES, RING_RESET, VERSION_1};
use crate::machine::{Machine as Shared, Place, Registers};
use crate::toy::{Call, FEATURE, SIZES, Toy};

const DEVFN: u8 = Place::FIRST.devfn;
const MEMORY: u64 = Place::FIRST.memory;
const RAM: u64 = 0x10_0000;
const RINGS: [u64; 2] = [0x1_0000, 0x2_0000];
const BUFFER: u64 = 0x8_0000;
/// Where messages go, and what the first says.
const DOOR: u64 = 0xfee0_0000;

/// A machine with one function.
struct Machine {
    machine: Shared,
    line: TestLine,
}

impl Deref for Machine {
    type Target = Shared;

    fn deref(&self) -> &Self::Target {
        &self.machine
    }
}

impl Machine {
    fn with(device: Arc<dyn VirtioDevice>, registers: Registers) -> Self {
        let machine = Shared::new(registers, RAM);
        let line = machine.plug(Place::FIRST, "virtio0", device).line;
        Self { machine, line }
    }

    fn toy() -> (Self, Arc<Toy>) {
        Self::toy_for(Registers::Pci)
    }

    fn toy_for(registers: Registers) -> (Self, Arc<Toy>) {
        let toy = Arc::new(Toy::default());
        (Self::with(toy.clone(), registers), toy)
    }

    fn legacy_transport(&self) -> LegacyPciTransport<&Shared> {
        LegacyPciTransport::new(&self.machine, DEVFN, &Place::FIRST.room())
    }

    fn legacy_driver(&self) -> Driver<LegacyPciTransport<&Shared>> {
        Driver::new(self.legacy_transport())
    }

    fn driver(&self) -> Driver<PciTransport<&Shared>> {
        Driver::new(PciTransport::new(&self.machine, DEVFN, MEMORY))
    }

    fn ring(&self, queue: usize) -> Ring<GuestMem> {
        Ring::new(self.mem.clone(), RINGS[queue], SIZES[queue])
    }
}

#[test]
fn with_msix_each_event_has_the_vector_it_was_given() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    let mut rings = [machine.ring(0), machine.ring(1)];
    transport.enable_msix(&[(DOOR, 10), (DOOR, 11), (DOOR, 12)]);
    driver.negotiate(VERSION_1).unwrap();
    // There are three; any other is none.
    for (vector, kept) in [(2, 2), (3, 0xffff), (0xfffe, 0xffff), (0xffff, 0xffff), (0, 0)] {
        assert_eq!(transport.set_config_vector(vector), kept);
        assert_eq!(transport.set_queue_vector(0, vector), kept);
        assert_eq!(transport.set_queue_vector(2, vector), 0xffff, "there is no queue 2");
    }
    assert_eq!(transport.set_queue_vector(1, 2), 2);
    for (queue, ring) in (0..).zip(&rings) {
        transport.enable_queue(queue, &ring.into());
    }
    driver.ready();
    let mut ring_of = |queue: usize| {
        rings[queue].add(&[Part::Write(BUFFER, 2)]);
        transport.notify(u16::try_from(queue).unwrap());
        machine.bench.settle();
        machine.bench.messages.take()
    };
    assert_eq!(ring_of(0), [(DOOR, 10)]);
    assert_eq!(ring_of(1), [(DOOR, 12)]);
    assert_eq!(transport.set_queue_vector(1, 0xffff), 0xffff);
    assert_eq!(ring_of(1), [], "without a vector there is no interrupt at all");
    assert_eq!(transport.take_interrupts(), 0, "the status is not of queues while MSI-X is on");
    toy.set_config([9; 6]);
    assert_eq!(machine.bench.messages.take(), [(DOOR, 10)]);
    assert_eq!(transport.take_interrupts(), 2, "but of the configuration, even so");
    assert!(!machine.line.level());
    transport.disable_msix();
    rings[0].add(&[Part::Write(BUFFER, 2)]);
    transport.notify(0);
    machine.bench.settle();
    assert!(machine.line.level());
    assert_eq!((transport.take_interrupts(), machine.bench.messages.take()), (1, vec![]));
}

#[test]
fn a_reset_is_complete_when_the_write_returns() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let mut ring = machine.ring(0);
    driver.transport.set_config_vector(1);
    driver.transport.set_queue_vector(0, 1);
    driver.start(u64::MAX, &[&ring]);
    machine.bench.settle();
    *toy.keeps.lock() = true;
    ring.add(&[Part::Write(BUFFER, 2)]);
    driver.transport.notify(0);
    machine.bench.settle();
    toy.link().config_changed();
    assert!(machine.line.level());
    toy.calls();
    driver.reset();
    assert_eq!(toy.calls(), [Call::Reset]);
    assert!(!machine.line.level());
    assert_eq!(driver.transport.take_interrupts(), 0);
    let vectors = [common::CONFIG_MSIX_VECTOR, common::QUEUE_MSIX_VECTOR];
    assert_eq!(vectors.map(|offset| driver.transport.word(offset)), [0xffff; 2]);
    // What was in flight is completed into nothing, and notifications mean nothing.
    assert!(toy.queue(0).serve().is_none());
    driver.transport.notify(0);
    machine.bench.settle();
    assert_eq!((toy.calls(), ring.used_index()), (vec![], 0));
    toy.link().config_changed();
    toy.link().needs_reset();
    assert_eq!((driver.transport.status(), machine.line.level()), (0, false));
    // It starts again like the first time, and has forgotten the request.
    *toy.keeps.lock() = false;
    let mut ring = machine.ring(0);
    driver.start(EVENT_IDX | VERSION_1, &[&ring]);
    let kept = toy.kept.lock().pop().unwrap();
    toy.queue(0).serve().unwrap().complete(kept, 2);
    assert_eq!(ring.used_index(), 0);
    ring.add(&[Part::Write(BUFFER, 2)]);
    driver.transport.notify(0);
    machine.bench.settle();
    assert_eq!(ring.used_index(), 1);
}

#[test]
fn the_functions_own_reset_and_the_boards_are_the_devices_too() {
    use trapline_device::Device;
    let (machine, toy) = Machine::toy();
    machine.driver().start(u64::MAX, &[&machine.ring(0)]);
    toy.calls();
    machine.bus.reset();
    assert_eq!(toy.calls(), [Call::Reset]);
    let driver = machine.driver();
    assert_eq!(driver.transport.status(), 0);
    driver.start(u64::MAX, &[&machine.ring(0)]);
    machine.bench.settle();
    toy.calls();
    // Function-level reset, by the advanced features capability: the last but MSI-X.
    let flr = (0x40..0x100)
        .step_by(4)
        .find(|at| machine.config_read(DEVFN, *at, Size::Dword) & 0xff == 0x13)
        .unwrap();
    machine.config_write(DEVFN, flr + 4, Size::Byte, 1);
    assert_eq!(toy.calls(), [Call::Reset]);
    assert_eq!(machine.driver().transport.status(), 0);
}

#[test]
fn doorbells_ring_by_themselves_while_the_device_is_in_use_wherever_the_bar_is() {
    let (machine, toy) = Machine::toy();
    let counted = |machine: &Machine| {
        let stats = machine.bench.registry().stats();
        let bar = stats.regions.iter().find(|region| region.name.region.as_ref() == "bar4");
        bar.unwrap().counts.doorbells
    };
    let driver = machine.driver();
    let ring = machine.ring(0);
    driver.transport.notify(0);
    assert_eq!(counted(&machine), 0);
    driver.start(u64::MAX, &[&ring]);
    driver.transport.notify(0);
    driver.transport.notify(1);
    assert_eq!(counted(&machine), 2);
    // Any width, as nobody looks at the value.
    let at = driver.transport.doorbell(0);
    machine.write(Space::Mmio, at, Size::Dword, 77);
    assert_eq!(counted(&machine), 3);
    machine.bench.settle();
    toy.calls();
    let moved = Driver::new(PciTransport::new(&machine.machine, DEVFN, MEMORY + 0x100_0000));
    assert_ne!(moved.transport.doorbell(0), at);
    moved.transport.notify(0);
    assert_eq!(counted(&machine), 4);
    machine.bench.settle();
    assert_eq!(toy.calls(), [Call::Process(0)]);
    moved.reset();
    moved.transport.notify(0);
    assert_eq!(counted(&machine), 4);
    assert_eq!(moved.transport.status() & status::DRIVER_OK, 0);
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_the_other_goes_on() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    let mut rings = [machine.ring(0), machine.ring(1)];
    driver.start(VERSION_1, &[&rings[0], &rings[1]]);
    machine.bench.settle();
    rings[0].offer(0xffff);
    transport.notify(0);
    machine.bench.settle();
    let working = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
    assert_eq!(transport.status(), working | status::NEEDS_RESET);
    assert_eq!(transport.take_interrupts(), 3);
    // The driver can not take that back.
    transport.set_status(working);
    assert_eq!(transport.status(), working | status::NEEDS_RESET);
    toy.calls();
    for _ in 0..3 {
        transport.notify(0);
        machine.bench.settle();
    }
    assert_eq!((toy.calls(), transport.take_interrupts()), (vec![], 0));
    rings[1].add(&[Part::Write(BUFFER, 2)]);
    transport.notify(1);
    machine.bench.settle();
    assert_eq!((rings[1].used_index(), transport.take_interrupts()), (1, 1));
    driver.reset();
    assert_eq!(transport.status(), 0);
}

#[test]
fn a_queue_that_can_not_be_where_it_is_asks_for_a_reset_when_it_is_to_start() {
    let (machine, _toy) = Machine::toy();
    let driver = machine.driver();
    let ring = machine.ring(0);
    driver.negotiate(VERSION_1).unwrap();
    let mut setup = (&ring).into();
    let trapline_testkit::virtio::QueueSetup { device, .. } = &mut setup;
    *device = RAM - 4;
    driver.transport.enable_queue(0, &setup);
    assert_eq!(driver.transport.status() & status::NEEDS_RESET, 0);
    driver.ready();
    let bits = status::NEEDS_RESET | status::DRIVER_OK;
    assert_eq!(driver.transport.status() & bits, bits);
    assert_eq!(driver.transport.take_interrupts(), 3);
}

#[test]
fn a_queue_can_be_reset_by_itself() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    let mut rings = [machine.ring(0), machine.ring(1)];
    driver.start(VERSION_1 | RING_RESET, &[&rings[0], &rings[1]]);
    machine.bench.settle();
    transport.set_queue_vector(0, 1);
    toy.calls();
    transport.reset_queue(0);
    assert_eq!(toy.calls(), [Call::StopQueue(0)]);
    assert_eq!(transport.word(common::QUEUE_RESET), 0);
    assert_eq!(transport.word(common::QUEUE_ENABLE), 0);
    assert_eq!(transport.word(common::QUEUE_MSIX_VECTOR), 0xffff);
    assert_eq!(transport.word(common::QUEUE_SIZE), SIZES[0]);
    assert_eq!(transport.common_read(common::QUEUE_DESC, Size::Dword), 0);
    rings[0].add(&[Part::Write(BUFFER, 2)]);
    rings[1].add(&[Part::Write(BUFFER, 2)]);
    transport.notify(0);
    transport.notify(1);
    machine.bench.settle();
    assert_eq!((rings[0].used_index(), rings[1].used_index()), (0, 1));
    // It is enabled again, shorter, and looked at at once.
    let mut ring = Ring::new(machine.mem.clone(), RINGS[0], 2);
    ring.add(&[Part::Write(BUFFER, 2)]);
    transport.enable_queue(0, &(&ring).into());
    machine.bench.settle();
    assert_eq!(ring.used_index(), 1);

    // Without the feature the register does nothing.
    let ring = machine.ring(0);
    driver.start(VERSION_1, &[&ring]);
    toy.calls();
    transport.reset_queue(0);
    assert_eq!((toy.calls(), transport.word(common::QUEUE_ENABLE)), (vec![], 1));
}
