//! ICMP (RFC 792, RFC 4443): echoes of the gateway itself, and what could not be reached.

use std::net::IpAddr;

use rustix::io::Errno;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet, IpProtocol,
};

use crate::frame::Place;
use crate::outbox::Outbox;

/// Bytes of the header of every message.
const HEADER: usize = 8;
/// How much of a packet an error quotes at most: what every driver takes in one piece, less headers.
const QUOTED_MAX: usize = 512;

/// Why a packet did not get where it was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// No way to the network.
    Network,
    /// Nobody has the address.
    Host,
    /// Nobody listens on the port.
    Port,
    /// Nobody speaks the protocol.
    Protocol,
    /// The host does not let us.
    Prohibited,
}

impl Unreachable {
    /// What a socket's error says of the way to its peer, if it is about that.
    pub(crate) fn of(error: Errno) -> Option<Self> {
        Some(match error {
            Errno::CONNREFUSED => Self::Port,
            Errno::NETUNREACH | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => Self::Network,
            Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Self::Host,
            Errno::ACCESS | Errno::PERM => Self::Prohibited,
            _ => return None,
        })
    }

    fn v4(self) -> Icmpv4DstUnreachable {
        match self {
            Self::Network => Icmpv4DstUnreachable::NetUnreachable,
            Self::Host => Icmpv4DstUnreachable::HostUnreachable,
            Self::Port => Icmpv4DstUnreachable::PortUnreachable,
            Self::Protocol => Icmpv4DstUnreachable::ProtoUnreachable,
            Self::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        }
    }

    fn v6(self) -> Icmpv6DstUnreachable {
        match self {
            Self::Network => Icmpv6DstUnreachable::NoRoute,
            Self::Host | Self::Protocol => Icmpv6DstUnreachable::AddrUnreachable,
            Self::Port => Icmpv6DstUnreachable::PortUnreachable,
            Self::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        }
    }
}

/// The beginning of a packet, as an error about it quotes it.
pub(crate) fn quoted(packet: &[u8]) -> &[u8] {
    packet.get(..packet.len().min(QUOTED_MAX)).unwrap_or_default()
}

/// Tells the guest that the packet which begins like this, and was at this place, did not get there.
/// The gateway says so in the name of who was to get it.
pub(crate) fn unreachable(outbox: &mut Outbox, place: Place, packet: &[u8], why: Unreachable) {
    let mut message = [&[0; HEADER][..], quoted(packet)].concat();
    let back = place.back();
    let protocol = match (back.source, back.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let mut icmp = Icmpv4Packet::new_unchecked(&mut message);
            icmp.set_msg_type(Icmpv4Message::DstUnreachable);
            icmp.set_msg_code(why.v4().into());
            icmp.fill_checksum();
            IpProtocol::Icmp
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut icmp = Icmpv6Packet::new_unchecked(&mut message);
            icmp.set_msg_type(Icmpv6Message::DstUnreachable);
            icmp.set_msg_code(why.v6().into());
            icmp.fill_checksum(&source, &destination);
            IpProtocol::Icmpv6
        }
        _ => return,
    };
    outbox.packet(back, protocol, &message);
}

/// The identifier of an echo request.
pub(crate) fn echo_ident(protocol: IpProtocol, message: &[u8]) -> Option<u16> {
    match protocol {
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(message).ok()?;
            (icmp.msg_type() == Icmpv4Message::EchoRequest).then(|| icmp.echo_ident())
        }
        IpProtocol::Icmpv6 => {
            let icmp = Icmpv6Packet::new_checked(message).ok()?;
            (icmp.msg_type() == Icmpv6Message::EchoRequest).then(|| icmp.echo_ident())
        }
        _ => None,
    }
}

/// Sends an echo message to the guest as a reply with this identifier.
pub(crate) fn echo_reply(outbox: &mut Outbox, place: Place, ident: u16, message: &[u8]) {
    let mut message = message.to_vec();
    if message.len() < HEADER {
        return;
    }
    let protocol = match (place.source, place.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let mut icmp = Icmpv4Packet::new_unchecked(&mut message);
            icmp.set_msg_type(Icmpv4Message::EchoReply);
            icmp.set_echo_ident(ident);
            icmp.fill_checksum();
            IpProtocol::Icmp
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut icmp = Icmpv6Packet::new_unchecked(&mut message);
            icmp.set_msg_type(Icmpv6Message::EchoReply);
            icmp.set_echo_ident(ident);
            icmp.fill_checksum(&source, &destination);
            IpProtocol::Icmpv6
        }
        _ => return,
    };
    outbox.packet(place, protocol, &message);
}
