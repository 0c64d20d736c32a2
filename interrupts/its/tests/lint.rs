//! What the linter says of a driver's commands and signals, and of which it says nothing.
#![allow(clippy::indexing_slicing, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::command::{Command, RdBase};
use gicv3_its::lint::{Finding, Linter};
use gicv3_its::{CollectionId, DeviceId, EventId, LPI_BASE, Lpi};
use support::{ITT, int, mapc, mapd, mapti, unmapd};

const DEVICE: DeviceId = DeviceId(1);

fn event(event: u32) -> EventId {
    EventId(event)
}

fn sync(target: u64) -> Command {
    Command::Sync { target: RdBase(target) }
}

fn unmapc(collection: u16) -> Command {
    let collection = CollectionId(collection);
    Command::Mapc { collection, target: RdBase(0), valid: false }
}

fn movi(device: u32, number: u32, collection: u16) -> Command {
    let (device, collection) = (DeviceId(device), CollectionId(collection));
    Command::Movi { device, event: event(number), collection }
}

fn discard(device: u32, number: u32) -> Command {
    Command::Discard { device: DeviceId(device), event: event(number) }
}

/// Runs `commands`, all of them good, and one more; what is said of that.
fn after(commands: &[Command], last: Command) -> Vec<Finding> {
    let mut linter = Linter::new();
    for command in commands {
        assert_eq!(linter.command(command.encode()), [], "{command:?}");
    }
    linter.command(last.encode())
}

#[test]
fn a_driver_that_does_everything_right_hears_nothing() {
    let clear = Command::Clear { device: DEVICE, event: event(0) };
    let inv = Command::Inv { device: DEVICE, event: event(0) };
    let invall = Command::Invall { collection: CollectionId(1) };
    let movall = Command::Movall { from: RdBase(0), to: RdBase(1) };
    let mapi = Command::Mapi { device: DEVICE, event: event(8195), collection: CollectionId(1) };
    let commands = [mapc(0, 0), mapc(1, 1), mapd(1, 13), mapti(1, 0, 8192, 0), mapi, sync(0)];
    let rest = [int(1, 0), inv, clear, movi(1, 0, 1), invall, movall, discard(1, 0)];
    assert_eq!(after(&[&commands[..], &rest, &[discard(1, 8195)]].concat(), unmapd(1)), []);
}

#[test]
fn what_is_not_mapped_can_not_be_used() {
    let mapped = [mapc(0, 0), mapd(1, 1), mapti(1, 0, 8192, 0)];
    for number in [1, 3] {
        let found = [Finding::UnmappedEvent(DEVICE, event(number))];
        assert_eq!(after(&mapped, int(1, number)), found);
        assert_eq!(after(&mapped, discard(1, number)), found);
        assert_eq!(after(&mapped, movi(1, number, 0)), found);
    }
    assert_eq!(after(&mapped, int(1, 4)), [Finding::EventOutOfRange(DEVICE, event(4))]);
    assert_eq!(after(&mapped, int(2, 0)), [Finding::UnmappedDevice(DeviceId(2))]);
    assert_eq!(after(&mapped, unmapd(2)), [Finding::UnmappedDevice(DeviceId(2))]);
    assert_eq!(after(&mapped, unmapc(1)), [Finding::UnmappedCollection(CollectionId(1))]);
    assert_eq!(after(&mapped, movi(1, 0, 1)), [Finding::UnmappedCollection(CollectionId(1))]);
    let invall = Command::Invall { collection: CollectionId(1) };
    assert_eq!(after(&mapped, invall), [Finding::UnmappedCollection(CollectionId(1))]);
    assert_eq!(after(&mapped, mapti(1, 1, 8191, 0)), [Finding::NotAnLpi(8191)]);
    assert_eq!(after(&mapped, mapti(1, 4, 8193, 0)), [Finding::EventOutOfRange(DEVICE, event(4))]);
    assert_eq!(after(&mapped, sync(1)), [Finding::SyncOfNobody(RdBase(1))]);
    // A discarded event is gone, and its LPI free.
    let again = [&mapped[..], &[discard(1, 0), mapti(1, 1, 8192, 0)]].concat();
    assert_eq!(after(&again, int(1, 0)), [Finding::UnmappedEvent(DEVICE, event(0))]);
}

#[test]
fn an_event_is_mapped_once_and_an_lpi_is_one_events() -> Result<(), &'static str> {
    let lpi = Lpi::new(LPI_BASE).ok_or("the first LPI is one")?;
    let mapped = [mapc(0, 0), mapd(1, 1), mapd(2, 1), mapti(1, 0, 8192, 0)];
    let again = mapti(1, 0, 8193, 0);
    assert_eq!(after(&mapped, again), [Finding::Remapped(DEVICE, event(0))]);
    assert_eq!(after(&mapped, mapti(2, 0, 8192, 0)), [Finding::SharedLpi(lpi)]);
    assert_eq!(after(&mapped, mapd(1, 1)), [Finding::EventsLeft(DEVICE, 1)]);
    assert_eq!(after(&mapped, unmapd(1)), [Finding::EventsLeft(DEVICE, 1)]);
    // With its device the event has gone, and its LPI is free.
    let mut linter = Linter::new();
    for command in mapped.into_iter().chain([unmapd(1)]) {
        linter.decoded(&command);
    }
    assert_eq!(linter.decoded(&int(1, 0)), [Finding::UnmappedDevice(DEVICE)]);
    assert_eq!(linter.decoded(&mapd(1, 1)), []);
    assert_eq!(linter.decoded(&int(1, 0)), [Finding::UnmappedEvent(DEVICE, event(0))]);
    assert_eq!(linter.decoded(&mapti(2, 0, 8192, 0)), []);
    Ok(())
}

#[test]
fn translation_tables_share_no_byte() {
    // Device 1 has 64 events of 8 bytes.
    let at = |device, size, itt| Command::Mapd { device: DeviceId(device), size, itt, valid: true };
    for (size, itt, overlaps) in [
        (5, ITT, true),
        (4, ITT - 0x100, false),
        (5, ITT - 0x100, true),
        (0, ITT + 0x100, true),
        (4, ITT + 0x200, false),
        (6, ITT - 0x400, false),
        (7, ITT - 0x400, true),
    ] {
        let expected = overlaps.then_some(Finding::OverlappingTables(DeviceId(2), DEVICE));
        let found = after(&[at(1, 5, ITT)], at(2, size, itt));
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{size} at {itt:#x}");
    }
    // A device that is mapped anew does not stand in its own way, nor one that has gone.
    assert_eq!(after(&[at(1, 3, ITT)], at(1, 3, ITT + 8)), []);
    assert_eq!(after(&[at(1, 3, ITT), unmapd(1)], at(2, 3, ITT)), []);
}

#[test]
fn a_collection_with_events_in_it_stays_where_it_is() {
    let used = [mapc(0, 0), mapc(1, 1), mapd(1, 1), mapti(1, 0, 8192, 0)];
    assert_eq!(after(&used, unmapc(0)), [Finding::CollectionInUse(CollectionId(0))]);
    assert_eq!(after(&used, mapc(0, 1)), [Finding::PendingLeftBehind(CollectionId(0))]);
    assert_eq!(after(&used, mapc(0, 0)), [], "where it is already");
    assert_eq!(after(&used, mapc(1, 0)), [], "without events");
    assert_eq!(after(&used, unmapc(1)), []);
    assert_eq!(
        after(&[&used[..], &[unmapc(1)]].concat(), unmapc(1)),
        [Finding::UnmappedCollection(CollectionId(1))]
    );
}

#[test]
fn a_signal_needs_a_sync_of_its_target_before_it() {
    let mut linter = Linter::new();
    let mut run = |commands: &[Command], signalled: u32| {
        commands.iter().for_each(|command| assert_eq!(linter.decoded(command), []));
        linter.signal(DEVICE, event(signalled))
    };
    let no_sync = |number| [Finding::NoSync(DEVICE, event(number))];
    let map = [mapc(0, 0), mapc(1, 1), mapd(1, 1), mapti(1, 0, 8192, 0), mapti(1, 1, 8193, 1)];
    assert_eq!(run(&map, 0), no_sync(0));
    // One of the other target settles the device, and the events there.
    assert_eq!(run(&[sync(1)], 0), no_sync(0));
    assert_eq!(run(&[], 1), []);
    assert_eq!(run(&[sync(0)], 0), []);
    // After a MOVI one of either target does.
    for target in [0, 1] {
        assert_eq!(run(&[movi(1, 0, 1)], 0), no_sync(0));
        assert_eq!(run(&[sync(target)], 0), []);
        run(&[movi(1, 0, 0), sync(0)], 0);
    }
    // A device that is mapped anew is not there for events that were settled.
    let anew = [discard(1, 0), discard(1, 1), mapd(1, 1), mapti(1, 0, 8192, 0)];
    assert_eq!(run(&anew, 0), no_sync(0));
    assert_eq!(run(&[sync(0)], 0), []);
    assert_eq!(linter.signal(DEVICE, event(1)), [Finding::UnmappedEvent(DEVICE, event(1))]);
    linter.decoded(&unmapc(0));
    let gone = [Finding::UnmappedCollection(CollectionId(0))];
    assert_eq!(linter.signal(DEVICE, event(0)), gone);
}

#[test]
fn a_device_that_is_not_settled_holds_up_events_that_are() {
    let mut linter = Linter::new();
    for command in [mapc(0, 0), mapd(1, 1), mapti(1, 0, 8192, 0), sync(0)] {
        linter.decoded(&command);
    }
    assert_eq!(linter.signal(DEVICE, event(0)), []);
    // Only the device is new, then only the event.
    for command in [mapd(1, 1), sync(0), mapti(1, 0, 8192, 0)] {
        linter.decoded(&command);
    }
    assert_eq!(linter.signal(DEVICE, event(0)), [Finding::NoSync(DEVICE, event(0))]);
}

#[test]
fn reserved_bits_and_other_architectures_commands_are_told_apart() {
    let mut words = mapc(0, 0).encode();
    assert_eq!(Linter::new().command(words), []);
    words[3] = 1;
    assert_eq!(Linter::new().command(words), [Finding::ReservedBits]);
    let movall = |to| Command::Movall { from: RdBase(3), to: RdBase(to) };
    assert_eq!(Linter::new().decoded(&movall(3)), [Finding::MoveToItself(RdBase(3))]);
    assert_eq!(Linter::new().decoded(&movall(4)), []);
    for opcode in [0x29u8, 0xfe] {
        let words = [opcode.into(), 5, 6, 7];
        assert_eq!(Linter::new().command(words), [Finding::Opcode(opcode)]);
    }
}

#[test]
fn every_finding_is_a_sentence() -> Result<(), &'static str> {
    let lpi = Lpi::new(8192).ok_or("the first LPI is one")?;
    let (event, collection) = (event(2), CollectionId(3));
    for (finding, text) in [
        (Finding::UnmappedDevice(DEVICE), "device 0x1 has no MAPD"),
        (Finding::EventOutOfRange(DEVICE, event), "event 0x2 is beyond the table of device 0x1"),
        (Finding::UnmappedEvent(DEVICE, event), "event 0x2 of device 0x1 is not mapped"),
        (Finding::UnmappedCollection(collection), "collection 0x3 has no MAPC"),
        (Finding::NotAnLpi(5), "INTID 5 is no LPI"),
        (
            Finding::Remapped(DEVICE, event),
            "event 0x2 of device 0x1 is mapped again without DISCARD",
        ),
        (Finding::SharedLpi(lpi), "LPI 8192 is another event's already"),
        (Finding::EventsLeft(DEVICE, 4), "MAPD of device 0x1 with 4 events not discarded"),
        (
            Finding::OverlappingTables(DEVICE, DeviceId(2)),
            "the tables of devices 0x1 and 0x2 overlap",
        ),
        (
            Finding::PendingLeftBehind(collection),
            "collection 0x3 gets another target: pending LPIs need MOVALL",
        ),
        (Finding::CollectionInUse(collection), "collection 0x3 goes away with events in it"),
        (Finding::NoSync(DEVICE, event), "event 0x2 of device 0x1 is used before SYNC"),
        (Finding::SyncOfNobody(RdBase(0x10)), "SYNC of 0x10, no collection's"),
        (Finding::MoveToItself(RdBase(0x10)), "MOVALL from 0x10 to itself"),
        (Finding::ReservedBits, "reserved bits are set"),
        (Finding::Opcode(0x29), "opcode 0x29 is not a GICv3 command"),
    ] {
        assert_eq!(finding.to_string(), text);
    }
    Ok(())
}
