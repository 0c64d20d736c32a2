//! Neighbor discovery (RFC 4861): the gateway says which Ethernet address it has, and which prefix and
//! name server (RFC 8106) the network has. It offers itself as a router only while the host itself
//! can reach IPv6 addresses: a guest would try them first, in vain.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use smoltcp::time::Duration;
use smoltcp::wire::{
    IPV6_LINK_LOCAL_ALL_NODES, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags,
    NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};

use crate::addresses::Addresses;
use crate::frame::{Place, checksums};
use crate::outbox::{Outbox, group_mac};

/// Who gets a packet of neighbor discovery that was forwarded drops it.
const HOP_LIMIT: u8 = 255;
/// How long the gateway is a router, if it is heard of no more, in seconds: the most that RFC 4861 has.
const LIFETIME_S: u64 = 9000;
/// How often it is to be heard of.
pub(crate) const INTERVAL_NS: u64 = 600_000_000_000;
/// The option for name servers, and its length in units of eight bytes with one of them.
const RDNSS: u8 = 25;
const RDNSS_LEN: u8 = 3;
const UNIT: usize = 8;

/// Answers one message, if it is one to answer. Whether the guest looks for routers.
pub(crate) fn answer(
    addresses: &Addresses,
    outbox: &mut Outbox,
    place: Place,
    message: &NdiscRepr<'_>,
) -> bool {
    match message {
        NdiscRepr::RouterSolicit { .. } => return true,
        NdiscRepr::NeighborSolicit { target_addr, .. }
            if addresses.is_host((*target_addr).into()) =>
        {
            // Somebody without an address asks whether it is taken.
            let unknown = place.source.is_unspecified();
            let flags = if unknown {
                NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::ROUTER
            } else {
                NdiscNeighborFlags::OVERRIDE
                    | NdiscNeighborFlags::ROUTER
                    | NdiscNeighborFlags::SOLICITED
            };
            let advert = NdiscRepr::NeighborAdvert {
                flags,
                target_addr: *target_addr,
                lladdr: Some(addresses.mac().into()),
            };
            let to = if unknown { IPV6_LINK_LOCAL_ALL_NODES.into() } else { place.source };
            send(outbox, (*target_addr, to), &advert, None);
        }
        _ => {}
    }
    false
}

/// Tells everybody of the network.
pub(crate) fn advertise(addresses: &Addresses, outbox: &mut Outbox) {
    let forever = Duration::from_secs(u32::MAX.into());
    let lifetime = if host_has_ipv6() { LIFETIME_S } else { 0 };
    let advert = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: Duration::from_secs(lifetime),
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(addresses.mac().into()),
        mtu: None,
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: 64,
            flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
            valid_lifetime: forever,
            preferred_lifetime: forever,
            prefix: addresses.prefix6(),
        }),
    };
    let everybody = IPV6_LINK_LOCAL_ALL_NODES.into();
    send(outbox, (Addresses::link_local(), everybody), &advert, Some(addresses.host6()));
}

/// Whether a packet to an address of the internet would have a way. Nothing is sent.
fn host_has_ipv6() -> bool {
    // Of those for documentation: whoever has a way there has a default route.
    let far = SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), 9);
    let socket = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    socket.is_ok_and(|socket| rustix::net::connect(socket, &far).is_ok())
}

fn send(
    outbox: &mut Outbox,
    (source, to): (Ipv6Addr, IpAddr),
    message: &NdiscRepr<'_>,
    nameserver: Option<Ipv6Addr>,
) {
    let IpAddr::V6(destination) = to else { return };
    let repr = Icmpv6Repr::Ndisc(*message);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(&mut bytes), &checksums());
    if let Some(nameserver) = nameserver {
        bytes.extend([RDNSS, RDNSS_LEN, 0, 0]);
        bytes.extend(u32::MAX.to_be_bytes());
        bytes.extend(nameserver.octets());
        debug_assert_eq!(bytes.len() % UNIT, 0, "options are whole units");
        Icmpv6Packet::new_unchecked(&mut bytes).fill_checksum(&source, &destination);
    }
    let mac = if destination.is_multicast() { group_mac(destination) } else { outbox.guest };
    let place = Place { source: source.into(), destination: to };
    outbox.packet_to(mac, place, IpProtocol::Icmpv6, (HOP_LIMIT, &bytes));
}
