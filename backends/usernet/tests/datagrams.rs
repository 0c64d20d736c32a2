//! UDP, ICMP, DHCP and the neighbours' protocols, from the guest's side.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr,
    IpEndpoint, IpProtocol, IpRepr, Ipv4Packet, UdpPacket, UdpRepr,
};
use support::{ADDRESSES, GUEST_MAC, Guest, pattern};
use trapline_usernet::DATAGRAM_FLOWS_MAX;

const CHECKSUMS: fn() -> smoltcp::phy::ChecksumCapabilities = Default::default;

impl Guest {
    fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 1 << 20]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    /// Sends a datagram, and waits for one.
    fn ask(&mut self, handle: SocketHandle, to: IpEndpoint, data: &[u8]) -> (Vec<u8>, IpEndpoint) {
        self.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(data, to).unwrap();
        self.until(|guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket.recv().ok().map(|(data, from)| (data.to_vec(), from.endpoint))
        })
    }
}

/// A socket of the host's that sends everything back.
fn echo(address: std::net::IpAddr) -> u16 {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut data = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut data) {
            socket.send_to(&data[..len], from).unwrap();
        }
    });
    port
}

/// A packet of the guest's in a frame.
fn frame(ethertype: EthernetProtocol, len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = vec![0; 14 + len];
    let repr = EthernetRepr {
        src_addr: EthernetAddress(GUEST_MAC),
        dst_addr: EthernetAddress(ADDRESSES.host_mac),
        ethertype,
    };
    repr.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    fill(&mut frame[14..]);
    frame
}

fn ip_frame(source: IpAddress, to: IpAddress, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = IpRepr::new(source, to, protocol, payload.len(), 64);
    let ethertype = match source {
        IpAddress::Ipv4(_) => EthernetProtocol::Ipv4,
        IpAddress::Ipv6(_) => EthernetProtocol::Ipv6,
    };
    frame(ethertype, repr.buffer_len(), |packet| {
        repr.emit(&mut *packet, &CHECKSUMS());
        packet[repr.header_len()..].copy_from_slice(payload);
    })
}

fn udp_payload(source: IpAddress, to: IpAddress, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: ports.0, dst_port: ports.1 };
    let mut bytes = vec![0; 8 + data.len()];
    let mut packet = UdpPacket::new_unchecked(&mut bytes);
    let fill = |room: &mut [u8]| room.copy_from_slice(data);
    repr.emit(&mut packet, &source, &to, data.len(), fill, &CHECKSUMS());
    bytes
}

fn next(guest: &Guest) -> Option<Vec<u8>> {
    let mut buf = vec![0; 65_600];
    let len = guest.net.receive(&mut buf)?;
    buf.truncate(len);
    Some(buf)
}

/// The next frame that is this, and not one of another kind.
fn await_frame<R>(guest: &mut Guest, is: impl Fn(&[u8]) -> Option<R>) -> R {
    for _ in 0..20_000 {
        while let Some(frame) = next(guest) {
            if let Some(found) = is(&frame) {
                return found;
            }
        }
        if !guest.event_loop.turn() {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
    panic!("no such frame");
}

#[test]
fn datagrams_come_back_from_where_they_went() {
    let port = echo(Ipv4Addr::LOCALHOST.into());
    let mut guest = Guest::new(&[]);
    let handle = guest.udp(4000);
    let to: IpEndpoint = (ADDRESSES.host, port).into();
    for len in [0, 1, 100, 1472] {
        let data = pattern(len);
        assert_eq!(guest.ask(handle, to, &data), (data, to), "{len} bytes");
    }
    assert_eq!(guest.net.counts().flows, 1);
    // Nobody needs it any more after two minutes.
    guest.clock.step_ns(119_000_000_000);
    assert_eq!(guest.net.counts().flows, 1);
    guest.clock.step_ns(2_000_000_000);
    assert_eq!(guest.net.counts().flows, 0);
    let data = pattern(10);
    assert_eq!(guest.ask(handle, to, &data), (data, to));
}

/// What the guest cuts is put together, and what is too long for the guest is cut.
#[test]
fn long_datagrams_are_in_pieces_on_the_way() {
    let port = echo(Ipv4Addr::LOCALHOST.into());
    let guest = Guest::new(&[]);
    let (source, to) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
    let data = pattern(60_000);
    let whole = udp_payload(source, to, (4000, port), &data);
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for (number, piece) in whole.chunks(1480).enumerate() {
        let mut frame = ip_frame(source, to, IpProtocol::Udp, piece);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
        packet.set_ident(77);
        packet.set_dont_frag(false);
        packet.set_frag_offset(u16::try_from(number * 1480).unwrap());
        packet.set_more_frags((number + 1) * 1480 < whole.len());
        packet.fill_checksum();
        pieces.push(frame);
    }
    // In whatever order.
    pieces.reverse();
    pieces.iter().for_each(|frame| guest.net.send(frame));
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut answer = None;
    for _ in 0..20_000 {
        while let Some(frame) = next(&guest) {
            assert!(frame.len() <= 1514, "{} bytes", frame.len());
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            answer = pool.process_sliced_packet(&sliced, (), ()).unwrap().or(answer);
        }
        if answer.is_some() {
            break;
        }
        guest.event_loop.turn();
    }
    let answer = answer.expect("an answer").payload;
    assert!(UdpPacket::new_unchecked(&answer[..]).verify_checksum(&to, &source));
    assert!(answer[8..] == data, "the bytes");
}

#[test]
fn what_nobody_listens_for_cannot_be_reached() {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut guest = Guest::new(&[]);
    let (source, to) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
    let datagram = udp_payload(source, to, (4000, port), b"hello");
    guest.net.send(&ip_frame(source, to, IpProtocol::Udp, &datagram));
    let quoted = await_frame(&mut guest, |frame| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).ok()?;
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        match Icmpv4Repr::parse(&icmp, &CHECKSUMS()).ok()? {
            Icmpv4Repr::DstUnreachable { reason, header, data } => {
                assert_eq!(u8::from(reason), 3, "the port");
                assert_eq!((header.src_addr, header.dst_addr), (ADDRESSES.guest, ADDRESSES.host));
                Some(data.to_vec())
            }
            _ => None,
        }
    });
    assert_eq!(quoted[..8], datagram[..8]);
    // A protocol that nobody here speaks.
    guest.net.send(&ip_frame(source, to, IpProtocol::Unknown(132), &[0; 16]));
    await_frame(&mut guest, |frame| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).ok()?;
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        (icmp.msg_code() == 2).then_some(())
    });
}

#[test]
fn the_gateway_answers_echoes() {
    let mut guest = Guest::new(&[]);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(0x22b)).unwrap();
    let handle = guest.sockets.add(socket);
    let data = pattern(56);
    let repr = Icmpv4Repr::EchoRequest { ident: 0x22b, seq_no: 3, data: &data };
    let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let room = socket.send(repr.buffer_len(), ADDRESSES.host.into()).unwrap();
    repr.emit(&mut Icmpv4Packet::new_unchecked(room), &CHECKSUMS());
    let reply = guest.until(|guest| {
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
        socket.recv().ok().map(|(message, from)| (message.to_vec(), from))
    });
    assert_eq!(reply.1, ADDRESSES.host.into());
    let icmp = Icmpv4Packet::new_checked(&reply.0[..]).unwrap();
    let expected = Icmpv4Repr::EchoReply { ident: 0x22b, seq_no: 3, data: &data };
    assert_eq!(Icmpv4Repr::parse(&icmp, &CHECKSUMS()).unwrap(), expected);
}

/// Whether the host lets anybody send echoes is its administrator's choice; the guest hears of it.
#[test]
fn echoes_to_others_are_the_hosts_or_refused() {
    let mut guest = Guest::new(&[]);
    let source = IpAddress::from(ADDRESSES.guest);
    let own = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // An address of the host's that is not its loopback interface, if it has one.
    let ip = own.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| own.local_addr());
    let Some(std::net::IpAddr::V4(ip)) = ip.ok().map(|address| address.ip()) else {
        return trapline_testkit::skip("echoes", "the host has no way to any network");
    };
    let repr = Icmpv4Repr::EchoRequest { ident: 9, seq_no: 1, data: b"data" };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &CHECKSUMS());
    guest.net.send(&ip_frame(source, ip.into(), IpProtocol::Icmp, &message));
    await_frame(&mut guest, |frame| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).ok()?;
        assert_eq!(packet.src_addr(), ip);
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        match Icmpv4Repr::parse(&icmp, &CHECKSUMS()).ok()? {
            Icmpv4Repr::EchoReply { ident: 9, seq_no: 1, data: b"data" } => Some(()),
            Icmpv4Repr::DstUnreachable { reason, .. } => {
                assert_eq!(u8::from(reason), 13, "prohibited");
                Some(())
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn dhcp_gives_the_guest_its_address_and_ways() {
    let mut guest = Guest::bare(&[]);
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let (address, router, servers) = guest.until(|guest| {
        let socket = guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle);
        match socket.poll() {
            Some(dhcpv4::Event::Configured(config)) => {
                Some((config.address, config.router, config.dns_servers.to_vec()))
            }
            _ => None,
        }
    });
    assert_eq!(address.to_string(), "192.168.33.15/24");
    assert_eq!(router, Some(ADDRESSES.host));
    assert_eq!(servers, [ADDRESSES.host]);
}

fn dhcp(guest: &mut Guest, change: impl FnOnce(&mut DhcpRepr<'_>)) -> Option<DhcpMessageType> {
    let mut repr = DhcpRepr {
        message_type: DhcpMessageType::Request,
        transaction_id: 5,
        secs: 0,
        client_hardware_address: EthernetAddress(GUEST_MAC),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    change(&mut repr);
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut message)).unwrap();
    let (source, to) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
    let datagram = udp_payload(source, to, (68, 67), &message);
    guest.net.send(&ip_frame(source, to, IpProtocol::Udp, &datagram));
    let frame = next(guest)?;
    let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    let datagram = UdpPacket::new_checked(packet.payload()).unwrap();
    assert!(datagram.payload().len() >= 300);
    let reply = DhcpPacket::new_checked(datagram.payload()).unwrap();
    let reply = DhcpRepr::parse(&reply).unwrap();
    assert_eq!((reply.transaction_id, reply.server_identifier), (5, Some(ADDRESSES.host)));
    Some(reply.message_type)
}

#[test]
fn dhcp_gives_no_other_address_and_answers_for_nobody_else() {
    let mut guest = Guest::bare(&[]);
    let mut ask = |change: &dyn Fn(&mut DhcpRepr<'_>)| dhcp(&mut guest, change);
    let ours = ADDRESSES.guest;
    let other = Ipv4Addr::new(10, 0, 0, 9);
    assert_eq!(ask(&|r| r.requested_ip = Some(ours)), Some(DhcpMessageType::Ack));
    assert_eq!(ask(&|r| r.client_ip = ours), Some(DhcpMessageType::Ack));
    assert_eq!(ask(&|r| r.requested_ip = Some(other)), Some(DhcpMessageType::Nak));
    assert_eq!(ask(&|r| r.client_ip = other), Some(DhcpMessageType::Nak));
    assert_eq!(ask(&|r| r.message_type = DhcpMessageType::Discover), Some(DhcpMessageType::Offer));
    let elsewhere = |r: &mut DhcpRepr<'_>| {
        (r.requested_ip, r.server_identifier) = (Some(ours), Some(other));
    };
    assert_eq!(ask(&elsewhere), None);
    assert_eq!(ask(&|r| r.message_type = DhcpMessageType::Release), None);
    assert_eq!(ask(&|_| {}), None, "a request for nothing");
}

#[test]
fn a_forwarded_datagram_is_answered_to_who_sent_it() {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut guest = Guest::new(&[&format!("udp:{port}:53")]);
    let handle = guest.udp(53);
    let clients: Vec<_> =
        (0..3).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    for (number, client) in (0..).zip(&clients) {
        client.send_to(&[number; 9], (Ipv4Addr::LOCALHOST, port)).unwrap();
    }
    let mut asked = Vec::new();
    guest.until(|guest| {
        let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
        while let Ok((data, from)) = socket.recv() {
            assert_eq!(from.endpoint.addr, ADDRESSES.host.into());
            asked.push((data[0], from.endpoint));
        }
        (asked.len() == 3).then_some(())
    });
    // In another order than they came.
    for (number, from) in asked.into_iter().rev() {
        let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.send_slice(&[number + 100; 3], from).unwrap();
    }
    guest.rest();
    for (number, client) in (0..).zip(&clients) {
        let mut data = [0; 9];
        assert_eq!(client.recv(&mut data).unwrap(), 3);
        assert_eq!(data[0], number + 100);
    }
}

#[test]
fn flows_have_a_bound_and_the_oldest_goes() {
    let port = echo(Ipv4Addr::LOCALHOST.into());
    let guest = Guest::new(&[]);
    let (source, to) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
    for from in 1..=u16::try_from(DATAGRAM_FLOWS_MAX + 50).unwrap() {
        let datagram = udp_payload(source, to, (from, port), b"x");
        guest.net.send(&ip_frame(source, to, IpProtocol::Udp, &datagram));
        guest.clock.step_ns(1000);
    }
    assert_eq!(guest.net.counts().flows, DATAGRAM_FLOWS_MAX);
}

/// A guest that asks and does not listen has so many answers wait, and no more.
#[test]
fn answers_that_nobody_fetches_have_a_bound() {
    let guest = Guest::new(&[]);
    let (source, to) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
    let data = vec![7; 1400];
    let repr = Icmpv4Repr::EchoRequest { ident: 9, seq_no: 1, data: &data };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &CHECKSUMS());
    let frame = ip_frame(source, to, IpProtocol::Icmp, &message);
    (0..5000).for_each(|_| guest.net.send(&frame));
    let mut bytes = 0;
    while let Some(frame) = next(&guest) {
        bytes += frame.len();
    }
    assert!((1 << 19..=1 << 20).contains(&bytes), "{bytes}");
}

/// Pairs of ends that have gone wait for nothing, however many come after them.
#[test]
fn who_waits_for_a_guest_that_fetches_nothing_has_a_bound() {
    let port = echo(Ipv4Addr::LOCALHOST.into());
    let guest = Guest::new(&[]);
    let (source, to) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
    let send = |from, data: &[u8]| {
        let datagram = udp_payload(source, to, (from, port), data);
        guest.net.send(&ip_frame(source, to, IpProtocol::Udp, &datagram));
    };
    // As long as there is room, answers are put there.
    while guest.net.counts().stalled == 0 {
        send(999, &[7; 1400]);
        guest.event_loop.turn();
    }
    for from in 1000..1000 + 3 * u16::try_from(DATAGRAM_FLOWS_MAX).unwrap() {
        send(from, b"?");
        // The answer is there before the next.
        let before = guest.net.counts().stalled;
        for _ in 0..100 {
            guest.event_loop.turn();
            if guest.net.counts().stalled > before || before >= DATAGRAM_FLOWS_MAX {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    }
    let counts = guest.net.counts();
    assert_eq!(counts.flows, DATAGRAM_FLOWS_MAX);
    assert!((2..=DATAGRAM_FLOWS_MAX).contains(&counts.stalled), "{counts:?}");
}

#[test]
fn ipv6_guests_find_the_prefix_and_the_gateway() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return trapline_testkit::skip("IPv6", "the host has none");
    }
    let port = echo(Ipv6Addr::LOCALHOST.into());
    let mut guest = Guest::bare(&[]);
    let own = Ipv6Addr::new(0xfdc0, 0xa821, 0, 0, 0, 0, 0, 0x15);
    let link = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);
    // It asks for routers.
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let solicit = Icmpv6Repr::Ndisc(smoltcp::wire::NdiscRepr::RouterSolicit { lladdr: None });
    let mut message = vec![0; solicit.buffer_len()];
    let mut packet = Icmpv6Packet::new_unchecked(&mut message);
    solicit.emit(&link, &all_routers, &mut packet, &CHECKSUMS());
    let mut asked = ip_frame(link.into(), all_routers.into(), IpProtocol::Icmpv6, &message);
    asked[14 + 7] = 255;
    guest.net.send(&asked);
    await_frame(&mut guest, |frame| {
        let packet = smoltcp::wire::Ipv6Packet::new_checked(&frame[14..]).ok()?;
        assert_eq!(packet.hop_limit(), 255);
        let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
        let parsed =
            Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &icmp, &CHECKSUMS()).unwrap();
        let Icmpv6Repr::Ndisc(smoltcp::wire::NdiscRepr::RouterAdvert { prefix_info, .. }) = parsed
        else {
            return None;
        };
        assert_eq!(prefix_info.unwrap().prefix, ADDRESSES.prefix6());
        // The name server, at the end (RFC 8106).
        let bytes = packet.payload();
        assert_eq!(bytes[bytes.len() - 24..][..2], [25, 3]);
        assert_eq!(bytes[bytes.len() - 16..], ADDRESSES.host6().octets());
        Some(())
    });
    guest.interface.update_ip_addrs(|all| all.push(IpCidr::new(own.into(), 64)).unwrap());
    let handle = guest.udp(4000);
    let to: IpEndpoint = (ADDRESSES.host6(), port).into();
    let data = pattern(900);
    assert_eq!(guest.ask(handle, to, &data), (data, to));
}

/// RFC 1122, section 4.2.3.10.
#[test]
fn segments_to_or_from_everybody_are_for_nobody() {
    let guest = Guest::new(&[]);
    let (own, host) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
    let own6 = IpAddress::from(Ipv6Addr::new(0xfdc0, 0xa821, 0, 0, 0, 0, 0, 0x15));
    let everybody6 = IpAddress::from(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    // From port 1 to port 2: one to begin, one of no connection, and one that ends.
    for flags in [0x02, 0x10, 0x11] {
        let segment = [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0];
        for (source, to) in [
            (own, IpAddress::from(Ipv4Addr::BROADCAST)),
            (own, IpAddress::from(Ipv4Addr::new(224, 0, 0, 1))),
            (own, IpAddress::from(Ipv4Addr::UNSPECIFIED)),
            (IpAddress::from(Ipv4Addr::UNSPECIFIED), host),
            (IpAddress::from(Ipv4Addr::BROADCAST), host),
            (own6, everybody6),
            (own6, IpAddress::from(Ipv6Addr::UNSPECIFIED)),
            (IpAddress::from(Ipv6Addr::UNSPECIFIED), IpAddress::from(ADDRESSES.host6())),
        ] {
            guest.net.send(&ip_frame(source, to, IpProtocol::Tcp, &segment));
            assert!(next(&guest).is_none(), "{source} to {to}");
            assert_eq!(guest.net.counts().opened, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    /// Whatever a guest sends, it is the guest's trouble.
    #[test]
    fn no_frame_is_too_strange(
        kind in 0..5_u8,
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let guest = Guest::new(&[]);
        let (source, to) = (IpAddress::from(ADDRESSES.guest), IpAddress::from(ADDRESSES.host));
        let six = (IpAddress::from(ADDRESSES.prefix6()), IpAddress::from(ADDRESSES.host6()));
        let mut frame = match kind {
            0 => bytes,
            1 => {
                bytes.resize(bytes.len().max(20), 0);
                ip_frame(source, to, IpProtocol::Tcp, &bytes)
            }
            2 => {
                let datagram = udp_payload(source, Ipv4Addr::BROADCAST.into(), (68, 67), &bytes);
                ip_frame(source, Ipv4Addr::BROADCAST.into(), IpProtocol::Udp, &datagram)
            }
            3 => ip_frame(six.0, six.1, IpProtocol::Icmpv6, &bytes),
            _ => frame(EthernetProtocol::Arp, bytes.len(), |room| room.copy_from_slice(&bytes)),
        };
        // Not the addresses: a changed one could be somebody's.
        let (v4, v6) = (14 + 12..14 + 20, 14 + 8..14 + 40);
        let kept = if kind == 3 { v6 } else { v4 };
        for (at, value) in changes {
            if !frame.is_empty() && kind != 0 {
                let at = at.index(frame.len());
                if !kept.contains(&at) {
                    frame[at] = value;
                }
            }
        }
        guest.net.send(&frame);
        guest.event_loop.turn();
        while next(&guest).is_some() {}
    }
}
