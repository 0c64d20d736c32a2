//! A DHCP client (RFC 2131) that asks once: the guest's lease outlives the guest.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
};
use trapline_machine::interface;

/// Bytes of the shortest message: BOOTP's (RFC 1542, section 2.1).
const MESSAGE_MIN: usize = 300;
/// What is asked for (RFC 2132): mask, routers, name servers.
const WANTED: [u8; 3] = [1, 3, 6];
/// How long an answer is waited for at first; twice as long the next time, and so on.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often something is asked.
const TRIES: u32 = 3;

/// What a server has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) ip: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) name_servers: Vec<Ipv4Addr>,
    server: Ipv4Addr,
}

/// Asks by the interface of this name, which is on and has no address yet.
///
/// # Errors
/// The kernel's; `TimedOut` if nobody answers, or not as the standard says.
pub(super) fn ask(name: &str, mac: [u8; 6]) -> io::Result<Lease> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DHCP_CLIENT_PORT))?;
    interface::bind_to(socket.as_fd(), name)?;
    socket.set_broadcast(true)?;
    // Any number will do that another client does not have at the same time.
    let [_, _, a, b, c, d] = mac;
    let id = u32::from_be_bytes([a, b, c, d]);
    let offer = exchange(&socket, &message(id, mac, None), |reply| {
        of_reply(reply, id, DhcpMessageType::Offer)
    })?;
    exchange(&socket, &message(id, mac, Some(&offer)), |reply| {
        of_reply(reply, id, DhcpMessageType::Ack)
    })
}

/// Asks for an offer, or for what was offered.
fn message(id: u32, mac: [u8; 6], offer: Option<&Lease>) -> Vec<u8> {
    let mac = EthernetAddress(mac);
    let repr = DhcpRepr {
        message_type: match offer {
            None => DhcpMessageType::Discover,
            Some(_) => DhcpMessageType::Request,
        },
        transaction_id: id,
        secs: 0,
        client_hardware_address: mac,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        // Nothing that is sent to an address of ours would arrive.
        broadcast: true,
        requested_ip: offer.map(|offer| offer.ip),
        client_identifier: Some(mac),
        server_identifier: offer.map(|offer| offer.server),
        parameter_request_list: Some(&WANTED),
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    let written = repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes));
    assert!(written.is_ok(), "a message of ours has room in a buffer of its length");
    bytes.resize(bytes.len().max(MESSAGE_MIN), 0);
    bytes
}

fn exchange(
    socket: &UdpSocket,
    message: &[u8],
    wanted: impl Fn(&[u8]) -> Option<Lease>,
) -> io::Result<Lease> {
    let mut buf = [0; 1500];
    for turn in 0..TRIES {
        socket.send_to(message, SocketAddr::from((Ipv4Addr::BROADCAST, DHCP_SERVER_PORT)))?;
        let until = Instant::now() + PATIENCE * 2_u32.pow(turn);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            // Not everything that comes is for us.
            let count = socket.recv(&mut buf).unwrap_or(0);
            if let Some(lease) = buf.get(..count).and_then(&wanted) {
                return Ok(lease);
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// What a reply of this kind to this client gives.
fn of_reply(reply: &[u8], id: u32, kind: DhcpMessageType) -> Option<Lease> {
    let packet = DhcpPacket::new_checked(reply).ok()?;
    let repr = DhcpRepr::parse(&packet).ok()?;
    if (repr.transaction_id, repr.message_type) != (id, kind) || repr.your_ip.is_unspecified() {
        return None;
    }
    Some(Lease {
        ip: repr.your_ip,
        mask: repr.subnet_mask?,
        router: repr.router,
        name_servers: repr.dns_servers.into_iter().flatten().collect(),
        server: repr.server_identifier?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 1, 2, 3];
    const ID: u32 = 0x0001_0203;

    /// The message as a server would answer it.
    fn answered(message: &[u8], kind: DhcpMessageType) -> Vec<u8> {
        let packet = DhcpPacket::new_checked(message).unwrap();
        let asked = DhcpRepr::parse(&packet).unwrap();
        let reply = DhcpRepr {
            message_type: kind,
            your_ip: Ipv4Addr::new(10, 0, 0, 2),
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            server_identifier: Some(Ipv4Addr::new(10, 0, 0, 1)),
            parameter_request_list: None,
            client_identifier: None,
            requested_ip: None,
            dns_servers: [Ipv4Addr::new(10, 0, 0, 3)]
                .into_iter()
                .collect::<Vec<_>>()
                .as_slice()
                .try_into()
                .ok(),
            ..asked
        };
        let mut bytes = vec![0; reply.buffer_len()];
        reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn what_is_offered_is_asked_for_and_what_is_not_for_us_is_passed_over() {
        let discover = message(ID, MAC, None);
        assert_eq!(discover.len(), MESSAGE_MIN);
        let offer = answered(&discover, DhcpMessageType::Offer);
        let lease = of_reply(&offer, ID, DhcpMessageType::Offer).unwrap();
        assert_eq!(lease.ip, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(lease.name_servers, [Ipv4Addr::new(10, 0, 0, 3)]);
        let request = message(ID, MAC, Some(&lease));
        let packet = DhcpPacket::new_checked(&request[..]).unwrap();
        let asked = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(asked.message_type, DhcpMessageType::Request);
        assert_eq!((asked.requested_ip, asked.server_identifier), (Some(lease.ip), lease.router));
        assert!(asked.broadcast);
        for (reply, id, kind) in [
            (&offer[..], ID + 1, DhcpMessageType::Offer),
            (&offer, ID, DhcpMessageType::Ack),
            (&offer[..200], ID, DhcpMessageType::Offer),
            (&discover, ID, DhcpMessageType::Discover),
        ] {
            assert_eq!(of_reply(reply, id, kind), None);
        }
    }
}
