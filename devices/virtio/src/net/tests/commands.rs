//! What a driver can say by commands, and what comes of it.

use trapline_testkit::TestClock;

use super::*;

fn ask(alone: &mut Alone<Net>, command: &[u8]) -> u8 {
    alone.mem.write(BUFFER, command).unwrap();
    alone.mem.write(BUFFER + 0x1000, &[0xee]).unwrap();
    let (head, data) = (Part::Read(BUFFER, 2), u32::try_from(command.len() - 2).unwrap());
    alone.add(CONTROL, &[head, Part::Read(BUFFER + 2, data), Part::Write(BUFFER + 0x1000, 1)]);
    assert_eq!(alone.used(CONTROL), Some(1));
    alone.bytes(BUFFER + 0x1000, 1)[0]
}

const OURS: [u8; 6] = MAC.0;
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const ALL_CARDS: [u8; 6] = [0xff; 6];

/// Which of a few frames comes through.
fn passes(alone: &mut Alone<Net>, wire: &Wire) -> [bool; 4] {
    [OURS, OTHER, GROUP, ALL_CARDS].map(|to| gets(alone, wire, &frame(to, b"")))
}

fn gets(alone: &mut Alone<Net>, wire: &Wire, frame: &[u8]) -> bool {
    alone.empty(0);
    alone.add(0, &[Part::Write(BUFFER + 0x2000, 64)]);
    wire.comes(frame);
    alone.used(0).is_some()
}

#[test]
fn modes_of_receiving_are_set_one_by_one() {
    let (mut alone, wire) = without(0);
    assert_eq!(passes(&mut alone, &wire), [true; 4], "before anything is said");
    for (command, passed) in [
        ([RX_PROMISC, 0], [true, false, false, true]),
        ([RX_ALLMULTI, 1], [true, false, true, true]),
        ([RX_ALLUNI, 1], [true, true, true, true]),
        ([RX_NOMULTI, 1], [true, true, false, true]),
        ([RX_NOUNI, 1], [false, false, false, true]),
        ([RX_NOBCAST, 1], [false, false, false, false]),
        ([RX_PROMISC, 1], [true; 4]),
    ] {
        assert_eq!(ask(&mut alone, &[CLASS_RX, command[0], command[1]]), OK);
        assert_eq!(passes(&mut alone, &wire), passed, "{command:?}");
    }
    alone.reset();
    alone.start_with_all();
    assert_eq!(passes(&mut alone, &wire), [true; 4]);
}

#[test]
fn tables_of_addresses_are_taken_and_long_ones_are_everything() {
    let (mut alone, wire) = without(0);
    assert_eq!(ask(&mut alone, &[CLASS_RX, RX_PROMISC, 0]), OK);
    let table = |unicast: usize, multicast: usize| {
        let list = |count: usize, address: [u8; 6]| {
            [&u32::try_from(count).unwrap().to_le_bytes()[..], &address.repeat(count)].concat()
        };
        [&[CLASS_MAC, MAC_TABLE_SET][..], &list(unicast, OTHER), &list(multicast, GROUP)].concat()
    };
    for ((unicast, multicast), passed) in [
        ((0, 1), [true, false, true, true]),
        ((1, 0), [true, true, false, true]),
        ((0, 0), [true, false, false, true]),
        ((64, 64), [true, true, true, true]),
    ] {
        assert_eq!(ask(&mut alone, &table(unicast, multicast)), OK);
        assert_eq!(passes(&mut alone, &wire), passed, "{unicast}, {multicast}");
    }
    assert_eq!(ask(&mut alone, &table(0, 0)), OK);
    let mut long = table(65, 65);
    long[6..].fill(0x77);
    long[6 + 65 * 6..][..4].copy_from_slice(&65_u32.to_le_bytes());
    assert_eq!(ask(&mut alone, &long), OK);
    assert_eq!(passes(&mut alone, &wire), [true; 4], "nobody in it, but too many");
}

#[test]
fn an_address_is_changed_until_a_reset() {
    let (mut alone, wire) = without(0);
    assert_eq!(ask(&mut alone, &[CLASS_RX, RX_PROMISC, 0]), OK);
    assert_eq!(ask(&mut alone, &[&[CLASS_MAC, MAC_ADDR_SET], &OTHER[..]].concat()), OK);
    assert_eq!(passes(&mut alone, &wire), [false, true, false, true]);
    let mut mac = [0; 6];
    alone.device.config_read(0, &mut mac);
    assert_eq!(mac, OTHER);
    for wrong in [GROUP, [0; 6]] {
        assert_eq!(ask(&mut alone, &[&[CLASS_MAC, MAC_ADDR_SET], &wrong[..]].concat()), ERR);
    }
    alone.reset();
    alone.device.config_read(0, &mut mac);
    assert_eq!(Mac(mac), MAC);
}

#[test]
fn vlans_come_when_they_were_named_or_the_driver_does_not_name_them() {
    let tagged = |kind: [u8; 2], vlan: u16| {
        let tag = [&kind[..], &(0xe000 | vlan).to_be_bytes(), &[8, 0]].concat();
        [&OURS[..], &OTHER, &tag].concat()
    };
    let (mut alone, wire) = without(0);
    assert!(!gets(&mut alone, &wire, &tagged([0x81, 0], 5)));
    assert!(gets(&mut alone, &wire, &frame(OURS, b"untagged")));
    assert_eq!(ask(&mut alone, &[CLASS_VLAN, VLAN_ADD, 5, 0]), OK);
    assert_eq!(ask(&mut alone, &[CLASS_VLAN, VLAN_ADD, 0xff, 0xf]), OK);
    for (kind, vlan, passed) in [
        ([0x81, 0], 5, true),
        ([0x88, 0xa8], 4095, true),
        ([0x81, 0], 4, false),
        ([0x81, 0], 69, false),
    ] {
        assert_eq!(gets(&mut alone, &wire, &tagged(kind, vlan)), passed, "{vlan}");
    }
    assert_eq!(ask(&mut alone, &[CLASS_VLAN, VLAN_DEL, 5, 0]), OK);
    assert!(!gets(&mut alone, &wire, &tagged([0x81, 0], 5)));
    assert_eq!(ask(&mut alone, &[CLASS_VLAN, VLAN_ADD, 0, 0x10]), ERR, "there is no 4096");
    let (mut alone, wire) = without(F_CTRL_VLAN);
    assert!(gets(&mut alone, &wire, &tagged([0x81, 0], 5)));
}

#[test]
fn offloads_change_as_far_as_they_were_accepted() {
    let (mut alone, wire) = without(F_GUEST_UFO);
    let set = |alone: &mut Alone<Net>, features: u64| {
        let bytes = features.to_le_bytes();
        ask(alone, &[&[CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET], &bytes[..]].concat())
    };
    assert_eq!(set(&mut alone, 0), OK);
    assert_eq!(wire.offloads(), Offloads::NONE);
    assert_eq!(set(&mut alone, F_GUEST_CSUM | F_GUEST_TSO6), OK);
    let now = Offloads { csum: true, tso6: true, ..Offloads::NONE };
    assert_eq!(wire.offloads(), now);
    assert_eq!(set(&mut alone, F_GUEST_CSUM | F_GUEST_UFO), ERR, "not accepted");
    assert_eq!(set(&mut alone, F_GUEST_TSO4), ERR, "without checksums");
    assert_eq!(set(&mut alone, F_GUEST_CSUM | F_MAC), ERR, "no offload");
    assert_eq!(wire.offloads(), now);
}

#[test]
fn an_announcement_is_asked_for_until_it_was_made() {
    let (mut alone, wire) = without(0);
    let status = |alone: &Alone<Net>| {
        let mut status = [0; 2];
        alone.device.config_read(6, &mut status);
        u16::from_le_bytes(status)
    };
    assert_eq!(ask(&mut alone, &[CLASS_ANNOUNCE, ANNOUNCE_ACK]), ERR, "nobody has asked");
    alone.device.announce();
    assert_eq!((status(&alone), *alone.events.configs.lock()), (3, 1));
    assert_eq!(wire.announced(), [MAC]);
    assert_eq!(ask(&mut alone, &[CLASS_ANNOUNCE, ANNOUNCE_ACK]), OK);
    assert_eq!(status(&alone), STATUS_LINK_UP);
    let (alone, wire) = without(F_GUEST_ANNOUNCE);
    alone.device.announce();
    assert_eq!((status(&alone), *alone.events.configs.lock()), (1, 0));
    assert_eq!(wire.announced(), [MAC]);
    alone.device.set_plugged(false);
    alone.device.announce();
    assert_eq!(wire.announced(), [MAC], "there is nobody to tell");
}

#[test]
fn announcements_are_made_in_rounds_that_can_be_ended() {
    let (alone, wire) = without(0);
    let clock = TestClock::default();
    let announcer = Announcer::new(Arc::new(clock.clone()));
    let card = || vec![Arc::downgrade(&alone.device)];
    let rounds = Rounds { rounds: 4, initial_ns: 20, step_ns: 10, max_ns: 35 };
    announcer.start(card(), rounds);
    let times: Vec<_> = (0..100)
        .filter(|_| {
            let before = wire.announced().len();
            clock.step_ns(1);
            wire.announced().len() > before
        })
        .collect();
    assert_eq!(times, [19, 49, 84], "and once at first");
    announcer.start(card(), rounds);
    announcer.start(card(), Rounds { rounds: 0, ..rounds });
    assert_eq!((wire.announced().len(), clock.next_deadline_ns()), (5, None));
    announcer.start(card(), rounds);
    drop(alone);
    clock.step_ns(1000);
    assert_eq!(wire.announced().len(), 6);
}

#[test]
fn what_is_no_command_or_not_accepted_is_refused_at_once() {
    let (mut alone, _) = without(0);
    for wrong in [
        &[CLASS_RX, 6, 1][..],
        &[CLASS_RX, RX_PROMISC, 2],
        &[CLASS_RX, RX_PROMISC],
        &[CLASS_MAC, 2, 0],
        &[CLASS_MAC, MAC_ADDR_SET, 2, 0, 0, 0, 0],
        &[CLASS_MAC, MAC_TABLE_SET, 1, 0, 0, 0, 2, 0, 0, 0, 0],
        &[CLASS_MAC, MAC_TABLE_SET, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0],
        &[CLASS_MAC, MAC_TABLE_SET, 0, 0, 0, 0],
        &[CLASS_VLAN, 2, 0, 0],
        &[CLASS_VLAN, VLAN_ADD, 0],
        &[CLASS_MQ, MQ_VQ_PAIRS_SET, 1, 0],
        &[CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET, 0],
        &[6, 0, 0],
        &[0xff, 0xff],
    ] {
        assert_eq!(ask(&mut alone, wrong), ERR, "{wrong:?}");
    }
    for (feature, command) in [
        (F_CTRL_RX, &[CLASS_RX, RX_PROMISC, 0][..]),
        (F_CTRL_RX, &[CLASS_MAC, MAC_TABLE_SET, 0, 0, 0, 0, 0, 0, 0, 0]),
        (F_CTRL_RX_EXTRA, &[CLASS_RX, RX_NOUNI, 0]),
        (F_CTRL_MAC_ADDR, &[CLASS_MAC, MAC_ADDR_SET, 2, 0, 0, 0, 0, 0]),
        (F_CTRL_VLAN, &[CLASS_VLAN, VLAN_ADD, 0, 0]),
        (F_CTRL_GUEST_OFFLOADS, &[CLASS_GUEST_OFFLOADS, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(ask(&mut alone, command), OK, "{command:?}");
        let (mut without, _) = without(feature);
        assert_eq!(ask(&mut without, command), ERR, "{command:?}");
    }
}

#[test]
fn a_command_without_room_for_an_answer_goes_back() {
    let (mut alone, _) = without(0);
    alone.mem.write(BUFFER, &[CLASS_RX, RX_PROMISC, 0]).unwrap();
    for parts in [&[Part::Read(BUFFER, 3)][..], &[Part::Read(BUFFER, 3), Part::Write(RAM, 1)]] {
        alone.add(CONTROL, parts);
        assert_eq!(alone.used(CONTROL), Some(0));
    }
    alone.add(CONTROL, &[Part::Read(RAM, 3), Part::Write(BUFFER, 1)]);
    assert_eq!((alone.used(CONTROL), alone.bytes(BUFFER, 1)[0]), (Some(1), ERR));
}
