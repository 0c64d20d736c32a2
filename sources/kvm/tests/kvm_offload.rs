//! What the kernel takes off the registry's hands, and that nobody can tell but by the exits.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;

use support::{Asm, HOLE, MMIO, MMIO_SEGMENT, Machine, Recorder, Seen, eventfd, rung, until};
use trapline::Region;
use trapline_kvm::{ExitKind, ExitStats, Stop};

/// Runs `code` to its halt; the exits it made.
fn exits(machine: &mut Machine, code: &Asm) -> ExitStats {
    let running = machine.start(&code.clone().hlt());
    assert_eq!(running.wait(), Stop::Halted);
    let vcpus = running.set.stop().unwrap();
    machine.give_back(vcpus);
    running.set.stats()[0]
}

#[test]
fn coalesced_writes_arrive_before_any_access_that_comes_after_them() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.map(Region::pio(0x3f8, 8, "d", "pio", device.clone()).coalesce(0..1));
    machine.map(Region::mmio(MMIO, 0x1000, "d", "mmio", device.clone()).coalesce(0x100..0x200));
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .outb(0x3f8, 1)
        .mov_ax(0x0202)
        .store_ax(0x100)
        .outb(0x3f8, 3)
        .outb(0x3ff, 4) // an ordinary one: the three before it come first
        .mov_eax(0x0505_0505)
        .store_eax(0x1fc)
        .load_al(0x100) // a read, also of the zone itself
        .outb(0x3f8, 6);
    let stats = exits(&mut machine, &code);
    assert_eq!(
        device.seen(),
        [
            Seen::Write(0, 1, 1),
            Seen::Write(0x100, 2, 0x0202),
            Seen::Write(0, 1, 3),
            Seen::Write(7, 1, 4),
            Seen::Write(0x1fc, 4, 0x0505_0505),
            Seen::Read(0x100, 1),
            Seen::Write(0, 1, 6),
        ]
    );
    assert_eq!(stats.get(ExitKind::PortWrite), 1, "the others stayed in the kernel");
    assert_eq!(stats.get(ExitKind::MmioWrite), 0);
    assert_eq!(stats.get(ExitKind::MmioRead), 1);
}

#[test]
fn more_writes_than_the_ring_holds_all_arrive_in_order() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.map(Region::pio(0x3f8, 8, "d", "pio", device.clone()).coalesce(0..8));
    // out dx, ax with AX counting down from 1000
    let body = Asm::new().bytes(&[0x89, 0xc8]).out_ax();
    let stats = exits(&mut machine, &Asm::new().mov_dx(0x3f8).repeat(1000, body));
    assert_eq!(device.written(), (1..=1000).rev().collect::<Vec<u64>>());
    let made = stats.get(ExitKind::PortWrite);
    assert!((1..100).contains(&made), "{made} exits for 1000 writes");
}

#[test]
fn a_guest_that_makes_no_more_accesses_still_has_its_writes_delivered_on_stop() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.map(Region::pio(0x3f8, 8, "d", "pio", device.clone()).coalesce(0..8));
    let code = Asm::new().outb(0x3f8, 1).outb(0x3f8, 2).mov_eax(0x1234).keep_eax(0x300).spin();
    let running = machine.start(&code);
    until("the flag", || machine.read(0x300) == [0x34, 0x12, 0, 0]);
    running.set.stop().unwrap();
    assert_eq!(device.written(), [1, 2]);
}

#[test]
fn a_region_that_goes_takes_its_zone_and_loses_no_write() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.map(Region::pio(0x3f8, 8, "d", "pio", device.clone()).coalesce(0..8));
    let code = Asm::new().outb(0x3f8, 1).outb(0x3f8, 2).mov_eax(0x1234).keep_eax(0x300).spin();
    let running = machine.start(&code);
    until("the flag", || machine.read(0x300) == [0x34, 0x12, 0, 0]);
    drop(machine.mappings.pop());
    machine.registry.drain();
    assert_eq!(device.written(), [1, 2], "made before the region went, so it has them");
    machine.give_back(running.set.stop().unwrap());
    // A vCPU's counters go on when it is started again.
    let before = running.set.stats()[0].get(ExitKind::PortWrite);
    let stats = exits(&mut machine, &Asm::new().outb(0x3f8, 3));
    assert_eq!(stats.get(ExitKind::PortWrite), before + 1, "the kernel has no zone any more");
    assert_eq!(device.written(), [1, 2], "nobody has the port any more");
}

/// kvmtool defect B4: unregistering a port zone took the memory zone at the same number away.
#[test]
fn a_port_zone_that_goes_leaves_the_memory_zone_of_the_same_number() {
    let (mut machine, ports, memory) = (Machine::new(), Recorder::new(), Recorder::new());
    let hole = u64::from(HOLE);
    machine.map(Region::mmio(hole, 0x100, "m", "mmio", memory.clone()).coalesce(0..0x100));
    machine.map(Region::pio(HOLE, 0x100, "p", "pio", ports.clone()).coalesce(0..0x100));
    let code = Asm::new().outb(HOLE, 1).store_al(HOLE).store_al(HOLE + 0xff);
    let before = exits(&mut machine, &code);
    assert_eq!(before.get(ExitKind::PortWrite) + before.get(ExitKind::MmioWrite), 0);
    drop(machine.mappings.pop());
    let after = exits(&mut machine, &code);
    assert_eq!(after.get(ExitKind::MmioWrite), 0, "the memory zone is alive, all of it");
    assert_eq!(after.get(ExitKind::PortWrite), 1, "the port zone is gone");
    assert_eq!(ports.written(), [1]);
    assert_eq!(memory.written(), [1; 4]);
    // And the other way round.
    machine.map(Region::pio(HOLE, 0x100, "p", "pio", ports.clone()).coalesce(0..0x100));
    drop(machine.mappings.remove(0));
    let last = exits(&mut machine, &code);
    assert_eq!(last.get(ExitKind::MmioWrite), 2, "gone, all of it");
    assert_eq!(last.get(ExitKind::PortWrite), 1, "alive: no exit more than before");
    assert_eq!(ports.written(), [1, 1]);
}

#[test]
fn doorbells_ring_in_the_kernel_and_other_writes_reach_the_device() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    let [seven, any_value, any_length, port] = std::array::from_fn(|_| eventfd());
    machine.map(
        Region::mmio(MMIO, 0x1000, "d", "mmio", Arc::<Recorder>::clone(&device))
            .doorbell(0x10, 2, Some(7), seven.clone())
            .doorbell(0x20, 4, None, any_value.clone())
            .doorbell(0x30, 0, None, any_length.clone()),
    );
    machine.map(Region::pio(0x3f8, 8, "d", "pio", device.clone()).doorbell(
        0,
        1,
        Some(9),
        port.clone(),
    ));
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .mov_eax(7)
        .store_ax(0x10) // rings
        .store_eax(0x10) // wrong length
        .store_al(0x11) // wrong address
        .mov_eax(8)
        .store_ax(0x10) // wrong value
        .store_eax(0x20) // rings
        .store_ax(0x20) // wrong length
        .store_al(0x30) // these three ring
        .store_ax(0x30)
        .store_eax(0x30)
        .load_eax(0x20) // reads never ring
        .outb(0x3f8, 9) // rings
        .outb(0x3f8, 8); // wrong value
    let stats = exits(&mut machine, &code);
    assert_eq!([&seven, &any_value, &any_length, &port].map(rung), [1, 1, 3, 1]);
    assert_eq!(
        device.seen(),
        [
            Seen::Write(0x10, 4, 7),
            Seen::Write(0x11, 1, 7),
            Seen::Write(0x10, 2, 8),
            Seen::Write(0x20, 2, 8),
            Seen::Read(0x20, 4),
            Seen::Write(0, 1, 8),
        ]
    );
    assert_eq!(stats.get(ExitKind::MmioWrite), 4, "ringing made no exit");
    assert_eq!(stats.get(ExitKind::PortWrite), 1);
    machine.mappings.clear();
    exits(&mut machine, &code);
    assert_eq!([&seven, &any_value, &any_length, &port].map(rung), [0; 4], "gone with the guard");
}

/// KVM has room for a thousand zones per bus.
#[test]
fn zones_the_kernel_has_no_room_for_work_all_the_same() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    let region = Region::pio(0x1000, 0x800, "d", "pio", device.clone());
    machine.map((0..1100).fold(region, |region, port| region.coalesce(port..port + 1)));
    let stats = exits(&mut machine, &Asm::new().outb(0x1000, 1).outb(0x1000 + 1099, 2));
    assert_eq!(device.seen(), [Seen::Write(0, 1, 1), Seen::Write(1099, 1, 2)]);
    assert_eq!(stats.get(ExitKind::PortWrite), 1, "the last one came to us");
}
