//! DHCP (RFC 2131): one address for one guest.

use std::net::Ipv4Addr;

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr,
    EthernetAddress, IpProtocol,
};

use crate::addresses::Addresses;
use crate::frame::Place;
use crate::outbox::{Outbox, udp};

/// A day: who asks again gets the same.
const LEASE_S: u32 = 86_400;
const HOP_LIMIT: u8 = 64;
/// The option for name servers (RFC 2132, section 3.8).
const DOMAIN_NAME_SERVER: u8 = 6;
/// Bytes of the shortest message: BOOTP's (RFC 1542, section 2.1).
const MESSAGE_MIN: usize = 300;

/// Answers one message.
pub(crate) fn answer(addresses: &Addresses, outbox: &mut Outbox, message: &[u8]) {
    let Ok(packet) = DhcpPacket::new_checked(message) else { return };
    let Ok(asked) = DhcpRepr::parse(&packet) else { return };
    let Some(message_type) = kind(addresses, &asked) else { return };
    let refused = message_type == DhcpMessageType::Nak;
    // Who tells us its address keeps it.
    let informs = asked.message_type == DhcpMessageType::Inform;
    let tells = !refused;
    let servers = [DhcpOption { kind: DOMAIN_NAME_SERVER, data: &addresses.host.octets() }];
    let reply = DhcpRepr {
        message_type,
        transaction_id: asked.transaction_id,
        secs: 0,
        client_hardware_address: asked.client_hardware_address,
        client_ip: if refused { Ipv4Addr::UNSPECIFIED } else { asked.client_ip },
        your_ip: if refused || informs { Ipv4Addr::UNSPECIFIED } else { addresses.guest },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: tells.then_some(addresses.host),
        subnet_mask: tells.then_some(Addresses::mask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: asked.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(addresses.host),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: (tells && !informs).then_some(LEASE_S),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if tells { &servers } else { &[] },
    };
    send(addresses, outbox, &asked, &reply);
}

/// What to answer, if anything.
fn kind(addresses: &Addresses, asked: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
    // It has chosen another server.
    if asked.server_identifier.is_some_and(|server| server != addresses.host) {
        return None;
    }
    match asked.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        DhcpMessageType::Request => {
            let known = Some(asked.client_ip).filter(|ip| !ip.is_unspecified());
            let wanted = asked.requested_ip.or(known)?;
            let ours = wanted == addresses.guest;
            Some(if ours { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        _ => None,
    }
}

/// To the client's address if it has one, else to everybody: it cannot be asked for it yet.
fn send(addresses: &Addresses, outbox: &mut Outbox, asked: &DhcpRepr<'_>, reply: &DhcpRepr<'_>) {
    let mut bytes = vec![0; reply.buffer_len()];
    if reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).is_err() {
        return;
    }
    bytes.resize(bytes.len().max(MESSAGE_MIN), 0);
    let everybody = asked.client_ip.is_unspecified() || reply.message_type == DhcpMessageType::Nak;
    let (destination, mac) = if everybody {
        (Ipv4Addr::BROADCAST, EthernetAddress::BROADCAST)
    } else {
        (asked.client_ip, asked.client_hardware_address)
    };
    let place = Place { source: addresses.host.into(), destination: destination.into() };
    let datagram = udp(place, (DHCP_SERVER_PORT, DHCP_CLIENT_PORT), &bytes);
    outbox.packet_to(mac, place, IpProtocol::Udp, (HOP_LIMIT, &datagram));
}
