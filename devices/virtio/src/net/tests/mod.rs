//! Frames go both ways, wait where they can, and come to whom they are for; commands are answered.

mod commands;

use trapline_guestmem::GuestMem;
use trapline_net::Offloads;
use trapline_testkit::virtio::Part;

use super::regs::*;
use super::*;
use crate::alone::Alone;
use crate::wire::Wire;

const RAM: u64 = 0x40_0000;
const BUFFER: u64 = 0x30_0000;
const MAC: Mac = Mac([2, 0x15, 0x15, 0x15, 0x15, 0x15]);
/// The control queue of a card with one pair.
const CONTROL: u16 = 2;

fn setup() -> NetSetup {
    NetSetup { mac: MAC, mtu: None, speed: None }
}

/// A card on a wire, that nobody has started.
fn idle(pairs: u16) -> (Alone<Net>, Arc<Wire>) {
    let (wire, mem) = (Wire::able(pairs), GuestMem::new(&[(0, RAM)]).unwrap());
    let net = Net::new(setup(), wire.clone());
    (Alone::new(net, mem), wire)
}

/// A card in use, with all features but these.
fn without(features: u64) -> (Alone<Net>, Arc<Wire>) {
    let (mut alone, wire) = idle(1);
    alone.start((alone.device.features() | VERSION_1) & !features);
    (alone, wire)
}

fn frame(to: [u8; 6], rest: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 9, 9, 9, 9, 9, 8, 0], rest].concat()
}

#[test]
fn a_frame_goes_out_behind_its_header_however_it_is_cut() {
    for (features, header) in [(0, 12), (F_MRG_RXBUF, 12), (F_MRG_RXBUF | VERSION_1, 10)] {
        let (mut alone, wire) = without(features);
        let bytes: Vec<u8> = (0..64).collect();
        alone.mem.write(BUFFER, &vec![0; header]).unwrap();
        alone.mem.write(BUFFER + header as u64, &bytes).unwrap();
        let len = u32::try_from(header).unwrap() + 64;
        for parts in [
            &[Part::Read(BUFFER, len)][..],
            &[Part::Read(BUFFER, 3), Part::Read(BUFFER + 3, 30), Part::Read(BUFFER + 33, len - 33)],
            &[Part::Read(BUFFER, 0), Part::Read(BUFFER, len)],
        ] {
            alone.add(1, parts);
            assert_eq!(alone.used(1), Some(0));
            assert_eq!(wire.take_sent(), [(0, Header::default(), bytes.clone())]);
        }
        assert_eq!(alone.device.counts(), NetCounts { sent: 3, ..NetCounts::default() });
    }
}

#[test]
fn what_cannot_be_sent_is_dropped_and_given_back() {
    let (mut alone, wire) = without(F_HOST_TSO4);
    let segments = Header { flags: 1, gso_type: 1, gso_size: 100, ..Header::default() };
    alone.mem.write(BUFFER, &segments.bytes()).unwrap();
    for parts in [
        &[Part::Read(BUFFER, 64)][..],
        &[Part::Read(BUFFER, 11)],
        &[Part::Write(BUFFER, 64)],
        &[Part::Read(BUFFER, 12), Part::Read(RAM, 64)],
        &[Part::Read(RAM - 4, 64)],
    ] {
        alone.add(1, parts);
        assert_eq!(alone.used(1), Some(0));
    }
    assert_eq!((wire.take_sent(), alone.device.counts().send_dropped), (vec![], 5));
    alone.mem.write(BUFFER, &[0; 12]).unwrap();
    alone.device.set_plugged(false);
    alone.add(1, &[Part::Read(BUFFER, 64)]);
    assert_eq!((alone.used(1), wire.take_sent()), (Some(0), vec![]), "there is no link");
}

#[test]
fn what_the_back_end_has_no_room_for_waits_with_the_driver() {
    let (mut alone, wire) = without(0);
    wire.ends.lock().full = true;
    alone.mem.write(BUFFER + 12, b"1").unwrap();
    alone.add(1, &[Part::Read(BUFFER, 13)]);
    alone.add(1, &[Part::Read(BUFFER, 14)]);
    assert_eq!((alone.used(1), wire.take_sent().len()), (None, 0));
    wire.ends.lock().full = false;
    wire.card().room(0);
    let sent: Vec<_> = wire.take_sent().into_iter().map(|(_, _, frame)| frame).collect();
    assert_eq!(sent, [b"1".to_vec(), b"1\0".to_vec()]);
    assert_eq!((alone.used(1), alone.used(1), alone.used(1)), (Some(0), Some(0), None));
}

#[test]
fn a_frame_comes_into_one_buffer_behind_a_header() {
    for (features, header) in [(0, 12), (F_MRG_RXBUF, 12), (F_MRG_RXBUF | VERSION_1, 10)] {
        let (mut alone, wire) = without(features);
        assert!(wire.told().contains(&0));
        alone.mem.write(BUFFER, &[0xee; 64]).unwrap();
        alone.add(0, &[Part::Write(BUFFER, 5), Part::Write(BUFFER + 5, 59)]);
        let checked = Header { flags: Header::DATA_VALID, num_buffers: 9, ..Header::default() };
        wire.comes_with(checked, &frame(MAC.0, b"hello"));
        assert_eq!(alone.used(0), Some(header + 19));
        let count: &[u8] = if header == 12 { &[1, 0] } else { &[] };
        let all =
            [&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0], count, &frame(MAC.0, b"hello"), &[0xee]].concat();
        assert_eq!(alone.bytes(BUFFER, all.len()), all);
        assert_eq!(alone.device.counts().received, 1);
    }
}

#[test]
fn a_long_frame_comes_into_several_buffers_at_once_or_waits_for_them() {
    let (mut alone, wire) = without(0);
    for n in 0..3 {
        alone.add(0, &[Part::Write(BUFFER + n * 0x1000, 20)]);
    }
    wire.comes(&frame(MAC.0, &[7; 50]));
    assert_eq!((alone.used(0), *alone.events.used.lock()), (None, 0), "76 bytes do not fit");
    assert!(!wire.told().contains(&0), "there is nothing to be told");
    wire.comes(&frame(MAC.0, &[8; 4]));
    assert_eq!(wire.waiting(), 1);
    alone.add(0, &[Part::Write(BUFFER + 0x3000, 20)]);
    let used: Vec<_> = std::iter::from_fn(|| alone.used(0)).collect();
    assert_eq!((used, *alone.events.used.lock()), (vec![20, 20, 20, 16], 1));
    let parts = (0..4).map(|n| alone.bytes(BUFFER + n * 0x1000, if n == 3 { 16 } else { 20 }));
    let all = [&[0; 10][..], &[4, 0], &frame(MAC.0, &[7; 50])].concat();
    assert_eq!(parts.collect::<Vec<_>>().concat(), all);
    alone.add(0, &[Part::Write(BUFFER, 64)]);
    assert_eq!((alone.used(0), wire.waiting()), (Some(30), 0));
    assert!(wire.told().contains(&0));
}

#[test]
fn what_does_not_fit_is_dropped_and_the_buffer_stays() {
    let (mut alone, wire) = without(F_MRG_RXBUF);
    alone.add(0, &[Part::Write(BUFFER, 64)]);
    wire.comes(&frame(MAC.0, &[0; 39]));
    assert_eq!((alone.used(0), alone.device.counts().receive_dropped), (None, 1));
    wire.comes(&frame(MAC.0, &[0; 38]));
    assert_eq!(alone.used(0), Some(64));
    // All of the queue is less than the frame.
    let (mut alone, wire) = without(0);
    let size = u64::from(QUEUE_SIZE);
    (0..size).for_each(|n| alone.add(0, &[Part::Write(BUFFER + n * 16, 12)]));
    wire.comes(&frame(MAC.0, &[0; 12 * 256]));
    assert_eq!((alone.used(0), alone.device.counts().receive_dropped), (None, 1));
    wire.comes(&frame(MAC.0, &[]));
    assert_eq!((alone.used(0), alone.used(0), alone.used(0)), (Some(12), Some(12), Some(2)));
}

#[test]
fn buffers_that_are_none_go_back_empty_and_nothing_is_lost() {
    let (mut alone, wire) = without(0);
    for part in [Part::Write(RAM, 64), Part::Write(BUFFER, 11), Part::Read(BUFFER, 64)] {
        alone.add(0, &[part]);
    }
    alone.add(0, &[Part::Write(BUFFER, 20)]);
    alone.add(0, &[Part::Write(RAM - 4, 64)]);
    wire.comes(&frame(MAC.0, b"hello"));
    let used: Vec<_> = std::iter::from_fn(|| alone.used(0)).collect();
    assert_eq!(used, [0, 0, 0], "the rest was for one frame that does not fit into it");
    assert_eq!(alone.device.counts().receive_dropped, 1);
    wire.comes(&frame(MAC.0, &[])[..8]);
    assert_eq!(alone.used(0), Some(20));
}

#[test]
fn offloads_are_settled_at_the_start_and_none_are_left_by_a_reset() {
    let (alone, wire) = without(F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6);
    let taken = Offloads { ufo: false, uso4: false, uso6: false, ..Offloads::ALL };
    assert_eq!((wire.offloads(), wire.pairs()), (taken, 1));
    alone.reset();
    assert_eq!(wire.offloads(), Offloads::NONE);
    assert!(wire.told().is_empty());
    let plain = Net::new(setup(), Wire::new(Abilities::PLAIN));
    let offloads = F_CSUM | F_HOST_TSO4 | F_HOST_USO | OF_GUEST_FEATURES | F_CTRL_GUEST_OFFLOADS;
    assert_eq!(plain.features() & (offloads | F_MQ | F_MTU | F_SPEED_DUPLEX), 0);
    assert_eq!(alone.device.features() & offloads, offloads);
}

const OF_GUEST_FEATURES: u64 = offloads::OF_GUEST;

#[test]
fn features_need_each_other() {
    let (alone, _) = idle(4);
    let all = alone.device.features() | VERSION_1;
    assert!(alone.device.can_have(all) && alone.device.can_have(VERSION_1));
    for (feature, needed) in [
        (F_GUEST_TSO4, F_GUEST_CSUM),
        (F_GUEST_ECN, F_GUEST_TSO4 | F_GUEST_TSO6),
        (F_GUEST_UFO, F_GUEST_CSUM),
        (F_GUEST_USO6, F_GUEST_CSUM),
        (F_HOST_TSO6, F_CSUM),
        (F_HOST_ECN, F_HOST_TSO4 | F_HOST_TSO6),
        (F_HOST_USO, F_CSUM),
        (F_MQ, F_CTRL_VQ),
        (F_CTRL_RX, F_CTRL_VQ),
        (F_CTRL_RX_EXTRA, F_CTRL_VQ),
        (F_CTRL_VLAN, F_CTRL_VQ),
        (F_CTRL_MAC_ADDR, F_CTRL_VQ),
        (F_GUEST_ANNOUNCE, F_CTRL_VQ),
        (F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ),
    ] {
        assert!(!alone.device.can_have(all & !needed), "{feature:#x}");
        assert!(!alone.device.can_have(VERSION_1 | feature), "{feature:#x}");
    }
}

#[test]
fn the_configuration_says_what_the_card_is() {
    let abilities = Abilities { mtu: Some(9000), pairs: 3, ..Abilities::PLAIN };
    let net = |mtu, speed| Net::new(NetSetup { mac: MAC, mtu, speed }, Wire::new(abilities));
    let config = |net: &Net| {
        let mut bytes = [0xff; 17];
        net.config_read(0, &mut bytes);
        bytes
    };
    let mac = MAC.0;
    let rest = [&mac[..], &[1, 0, 3, 0, 0x28, 0x23, 0, 0, 0, 0, 0]].concat();
    assert_eq!(config(&net(None, None)).to_vec(), rest);
    let fast = net(Some(1280), Some(10_000));
    assert_eq!(config(&fast)[10..], [0, 5, 0x10, 0x27, 0, 0, 1]);
    fast.set_plugged(false);
    assert_eq!(config(&fast)[6..], [0, 0, 3, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_ne!(fast.features() & F_SPEED_DUPLEX & F_MTU, fast.features());
    assert_eq!(fast.queue_sizes(), [256, 256, 256, 256, 256, 256, 64]);
}

#[test]
fn only_a_legacy_driver_writes_the_address_into_the_configuration() {
    let mut mac = [0; 6];
    let (mut alone, _) = without(VERSION_1);
    alone.device.config_write(4, &[1, 2, 3, 4]);
    alone.device.config_read(0, &mut mac);
    assert_eq!(mac, [2, 0x15, 0x15, 0x15, 1, 2]);
    alone.reset();
    alone.start(alone.device.features() | VERSION_1);
    alone.device.config_write(0, &[9; 6]);
    alone.device.config_read(0, &mut mac);
    assert_eq!(Mac(mac), MAC);
}

#[test]
fn a_link_that_goes_is_told_and_stops_what_comes() {
    let (mut alone, wire) = without(0);
    let status = |alone: &Alone<Net>| {
        let mut status = [0; 2];
        alone.device.config_read(6, &mut status);
        u16::from_le_bytes(status)
    };
    alone.add(0, &[Part::Write(BUFFER, 64)]);
    assert_eq!(status(&alone), STATUS_LINK_UP);
    alone.device.set_plugged(false);
    alone.device.set_plugged(false);
    alone.settle();
    assert_eq!((status(&alone), *alone.events.configs.lock()), (0, 1));
    assert!(wire.told().is_empty());
    wire.comes(&frame(MAC.0, b"x"));
    assert_eq!(alone.used(0), None);
    alone.device.set_plugged(true);
    alone.settle();
    assert_eq!((alone.used(0), status(&alone), *alone.events.configs.lock()), (Some(27), 1, 2));
    wire.ends.lock().gone = true;
    wire.card().link_changed();
    assert_eq!((status(&alone), *alone.events.configs.lock()), (0, 3));
}

#[test]
fn several_pairs_are_used_when_the_driver_says_so() {
    let (mut alone, wire) = idle(2);
    alone.start_with_all();
    let control = 4;
    alone.mem.write(BUFFER, &[0; 64]).unwrap();
    alone.add(3, &[Part::Read(BUFFER, 20)]);
    assert_eq!((alone.used(3), wire.take_sent().len()), (None, 0), "not yet");
    assert_eq!(wire.told(), [0]);
    let pairs = |alone: &mut Alone<Net>, command: &[u8]| {
        alone.mem.write(BUFFER, command).unwrap();
        let len = u32::try_from(command.len()).unwrap();
        alone.add(control, &[Part::Read(BUFFER, len), Part::Write(BUFFER + 64, 1)]);
        (alone.used(control), alone.bytes(BUFFER + 64, 1)[0])
    };
    assert_eq!(pairs(&mut alone, &[4, 0, 3, 0]), (Some(1), ERR));
    assert_eq!(pairs(&mut alone, &[4, 0, 0, 0]), (Some(1), ERR));
    assert_eq!(pairs(&mut alone, &[4, 0, 2, 0]), (Some(1), OK));
    assert_eq!((wire.pairs(), wire.told().len()), (2, 2));
    assert_eq!((alone.used(3), wire.take_sent().remove(0).0), (Some(0), 1));
    assert_eq!(pairs(&mut alone, &[4, 0, 1, 0]), (Some(1), OK));
    assert_eq!((wire.pairs(), wire.told().len()), (1, 1));
    // A driver that does not know of them has its commands behind the first pair.
    alone.reset();
    alone.start(F_CTRL_VQ | F_CTRL_RX | VERSION_1);
    alone.mem.write(BUFFER, &[0, 0, 0]).unwrap();
    alone.add(CONTROL, &[Part::Read(BUFFER, 3), Part::Write(BUFFER + 64, 1)]);
    assert_eq!(alone.used(CONTROL), Some(1));
}

#[test]
fn what_was_said_is_saved_and_goes_on_elsewhere() {
    let (mut alone, _) = without(0);
    let command = |alone: &mut Alone<Net>, command: &[u8]| {
        alone.mem.write(BUFFER, command).unwrap();
        let len = u32::try_from(command.len()).unwrap();
        alone.add(CONTROL, &[Part::Read(BUFFER, len), Part::Write(BUFFER + 64, 1)]);
        assert_eq!((alone.used(CONTROL), alone.bytes(BUFFER + 64, 1)[0]), (Some(1), OK));
    };
    command(&mut alone, &[1, 1, 2, 0, 0, 0, 0, 1]);
    command(&mut alone, &[0, 0, 0]);
    command(&mut alone, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let saved = alone.device.save();
    let (mut other, wire) = idle(1);
    other.device.restore(&saved).unwrap();
    assert_eq!(other.device.save(), saved);
    other.start(other.device.features());
    assert_eq!(wire.offloads(), Offloads { csum: true, ..Offloads::NONE });
    other.add(0, &[Part::Write(BUFFER, 64)]);
    wire.comes(&frame(MAC.0, b"x"));
    assert_eq!(other.used(0), None);
    wire.comes(&frame([2, 0, 0, 0, 0, 1], b"x"));
    assert_eq!(other.used(0), Some(27));
    let (wide, _) = idle(2);
    let state = State { pairs: 2, ..State::new(MAC) };
    let saved = Saved::encode(&SavedV1::from(&state));
    wide.device.restore(&saved).unwrap();
    assert!(other.device.restore(&saved).is_err());
    let state = State { vlans: vec![0], ..State::new(MAC) };
    assert!(other.device.restore(&Saved::encode(&SavedV1::from(&state))).is_err());
}
