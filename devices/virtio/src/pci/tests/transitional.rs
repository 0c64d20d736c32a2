//! A function with both kinds of registers, by drivers of each kind, and by one that mixes them.

use trapline_device::SaveState;
use trapline_testkit::virtio::port;

use super::*;
use crate::features::ANY_LAYOUT;
use crate::toy::DEPENDENT;

fn machine() -> (Machine, Arc<Toy>) {
    Machine::toy_for(Registers::TransitionalModern)
}

const OWN: u64 = OF_QUEUES | FEATURE | DEPENDENT;
const MODERN: u64 = OWN | VERSION_1 | RING_RESET;
const LEGACY: u64 = (OWN | ANY_LAYOUT) & 0xffff_ffff;

#[test]
fn drivers_of_either_kind_are_offered_what_is_theirs_and_are_answered() {
    let (machine, toy) = machine();
    for (transport, offered) in [
        (Box::new(machine.legacy_driver().transport) as Box<dyn Transport>, LEGACY),
        (Box::new(machine.driver().transport), MODERN),
        (Box::new(machine.legacy_driver().transport), LEGACY),
    ] {
        let driver = Driver::new(transport);
        let mut ring = machine.ring(0);
        assert_eq!(driver.start(u64::MAX, &[&ring]), offered);
        machine.bench.settle();
        assert!(toy.calls().contains(&Call::Activate(offered)));
        ring.add(&[Part::Write(BUFFER, 2)]);
        driver.transport.notify(0);
        machine.bench.settle();
        assert_eq!(ring.used_index(), 1);
        assert_eq!((machine.line.level(), driver.transport.take_interrupts()), (true, 1));
        driver.reset();
    }
}

#[test]
fn one_device_is_behind_both_and_its_doorbells_ring_by_themselves() {
    let (machine, _toy) = machine();
    let driver = machine.driver();
    let legacy = machine.legacy_transport();
    driver.start(VERSION_1, &[&machine.ring(0)]);
    assert_eq!(legacy.status(), driver.transport.status());
    driver.transport.notify(0);
    legacy.notify(0);
    assert_eq!(machine.bench.doorbells(), 2);
    legacy.set_status(0);
    assert_eq!(driver.transport.status(), 0);
    driver.transport.notify(0);
    legacy.notify(0);
    assert_eq!(machine.bench.doorbells(), 2);
}

#[test]
fn mixed_registers_get_nobody_features_that_were_not_judged() {
    let (machine, toy) = machine();
    let modern = machine.driver().transport;
    let legacy = machine.legacy_transport();
    // Not offered, by the registers that can write it; started by those that ask nobody.
    modern.set_driver_features(u64::MAX);
    legacy.set_status(7);
    assert_eq!(toy.calls(), [Call::Activate(LEGACY)]);
    legacy.set_status(0);
    // FEATURES_OK is not for the legacy registers to set.
    modern.set_driver_features(u64::MAX);
    legacy.set_status(0xb);
    assert_eq!(modern.status(), 3);
    modern.set_status(0xf);
    assert_eq!((modern.status(), toy.calls()), (3, vec![Call::Reset]));
    // What was settled stays, whoever starts the device.
    modern.set_status(0);
    modern.set_driver_features(VERSION_1 | FEATURE);
    modern.set_status(0xb);
    legacy.set_driver_features(0);
    legacy.set_status(0xf);
    assert_eq!(toy.calls(), [Call::Reset, Call::Activate(VERSION_1 | FEATURE)]);
    // A size that one kind of driver chose is what the other sees.
    modern.set_status(0);
    modern.common_write(common::QUEUE_SIZE, Size::Word, 2);
    assert_eq!(legacy.read(port::QUEUE_SIZE, Size::Word), 2);
}

#[test]
fn what_is_saved_comes_back_whoever_has_started_it() {
    for modern in [false, true] {
        let (before, _toy) = machine();
        let ring = before.ring(0);
        let features = match modern {
            true => before.driver().start(u64::MAX, &[&ring]),
            false => before.legacy_driver().start(u64::MAX, &[&ring]),
        };
        let saved = before.bus.save();
        let (after, toy) = machine();
        after.bus.restore(&saved).unwrap();
        assert_eq!((after.bus.save(), toy.calls()), (saved, vec![Call::Activate(features)]));
    }
}
