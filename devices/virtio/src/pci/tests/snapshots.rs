//! What is saved comes back, in another machine, and what cannot be is refused.

use trapline_device::{SaveState, StateError};

use super::*;

/// A started device with a request in flight and one in the ring.
fn busy() -> (Machine, Arc<Toy>, Ring<GuestMem>) {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    driver.transport.enable_msix(&[(DOOR, 1), (DOOR, 2), (DOOR, 3)]);
    let mut ring = machine.ring(0);
    driver.negotiate(VERSION_1 | EVENT_IDX).unwrap();
    driver.transport.set_queue_vector(0, 2);
    driver.transport.enable_queue(0, &(&ring).into());
    driver.ready();
    for _ in 0..3 {
        ring.add(&[Part::Write(BUFFER, 2)]);
    }
    driver.transport.notify(0);
    machine.bench.settle();
    ring.set_used_event(3);
    *toy.keeps.lock() = true;
    ring.add(&[Part::Write(BUFFER, 2)]);
    driver.transport.notify(0);
    machine.bench.settle();
    ring.add(&[Part::Write(BUFFER, 2)]);
    toy.set_config([7; 6]);
    machine.bench.messages.take();
    (machine, toy, ring)
}

#[test]
fn a_device_goes_on_in_another_machine() {
    let (before, _toy, mut ring) = busy();
    let saved = before.bus.save();
    let mut ram = vec![0; usize::try_from(RAM).unwrap()];
    before.mem.read(0, &mut ram).unwrap();

    let (after, toy) = Machine::toy();
    after.mem.write(0, &ram).unwrap();
    after.bus.restore(&saved).unwrap();
    assert_eq!(after.bus.save(), saved);
    assert_eq!(toy.calls(), [Call::Activate(VERSION_1 | EVENT_IDX)]);
    let head = toy.queue(0).position().unwrap().requests[0].0;
    let kept = toy.queue(0).serve().unwrap().take_back(head).unwrap();
    assert!(toy.queue(0).serve().unwrap().take_back(head + 1).is_none(), "not the device's");
    // The request in the ring needs no notification.
    after.bench.settle();
    assert_eq!(toy.calls(), [Call::Process(0)]);
    toy.queue(0).serve().unwrap().complete(kept, 2);
    let mut there = Vec::new();
    after.mem.read(0, &mut ram).unwrap();
    before.mem.write(0, &ram).unwrap();
    while let Some((head, written)) = ring.take_used() {
        there.push((head, written));
    }
    assert_eq!(there.len(), 5, "{there:?}");
    assert_eq!(after.bench.messages.take(), [(DOOR, 3)]);
    // Its doorbells are switched on.
    let at = PciTransport::new(&after.machine, DEVFN, MEMORY).doorbell(0);
    after.write(Space::Mmio, at, Size::Word, 0);
    assert!(after.bench.event_loop.turn());
}

#[test]
fn a_state_that_can_not_be_is_refused_and_changes_nothing() {
    let (before, _toy, _ring) = busy();
    let saved = before.bus.save();
    let clock = Arc::new(trapline_testkit::TestClock::default());
    let rng = crate::rng::Rng::new(crate::rng::HostEntropy, clock);
    let plain = Machine::with(rng, Registers::Pci);
    let is = plain.bus.save();
    let refused = plain.bus.restore(&saved).unwrap_err();
    assert!(matches!(refused, StateError::Inconsistent { .. }), "{refused}");
    assert_eq!(plain.bus.save(), is);
}
