//! The addresses of a guest's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::EthernetAddress;

use crate::resolver;

/// Bits of the IPv4 network, a network of 256 as of kvmtool.
const PREFIX_LEN: u8 = 24;
/// Where DNS is answered (RFC 1035).
pub(crate) const DNS_PORT: u16 = 53;

/// Who is who on a guest's network. The IPv6 side follows from the IPv4 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The gateway: the host, as the guest sees it. Router, DHCP and name server.
    pub host: Ipv4Addr,
    /// What DHCP gives to the guest, and where forwarded ports lead.
    pub guest: Ipv4Addr,
    /// The gateway's Ethernet address.
    pub host_mac: [u8; 6],
}

impl Addresses {
    /// kvmtool's for its first card, 192.168.33.1 and 192.168.33.15, and with the next networks for the
    /// cards after it, counted from 0.
    pub const fn new(card: u8) -> Self {
        let network = 33_u8.wrapping_add(card);
        Self {
            host: Ipv4Addr::new(192, 168, network, 1),
            guest: Ipv4Addr::new(192, 168, network, 15),
            host_mac: [0x02, 0x01, 0x01, 0x01, 0x01, 0x01],
        }
    }

    /// The mask of the IPv4 network.
    pub const fn mask() -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - PREFIX_LEN))
    }

    /// Whether these are two hosts of one network.
    pub fn are_possible(&self) -> bool {
        let network = self.host & Self::mask();
        let is_host = |ip: Ipv4Addr| ip != network && ip != self.broadcast();
        let kind =
            !self.host.is_multicast() && !self.host.is_loopback() && !network.is_unspecified();
        let together = self.guest & Self::mask() == network && self.guest != self.host;
        kind && together && is_host(self.host) && is_host(self.guest)
    }

    /// The IPv6 network of 64 bits: a unique local one (RFC 4193) with the bytes of the IPv4 network,
    /// `fdc0:a821::/64` for 192.168.33.0.
    pub const fn prefix6(&self) -> Ipv6Addr {
        let [a, b, c, _] = self.host.octets();
        let first = u16::from_be_bytes([0xfd, a]);
        Ipv6Addr::new(first, u16::from_be_bytes([b, c]), 0, 0, 0, 0, 0, 0)
    }

    /// The gateway in the IPv6 network: `…::1`.
    pub const fn host6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.prefix6().to_bits() | 1)
    }

    /// The gateway's link-local address.
    pub const fn link_local() -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)
    }

    pub(crate) fn mac(&self) -> EthernetAddress {
        EthernetAddress(self.host_mac)
    }

    /// Whether the gateway has this address.
    pub(crate) fn is_host(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.host,
            IpAddr::V6(ip) => ip == self.host6() || ip == Self::link_local(),
        }
    }

    /// Where the host is to send what the guest sends there: the gateway is the host's loopback
    /// interface, but its port 53 the host's name server. Nothing leads to what is no host's
    /// address.
    pub(crate) fn outside(&self, remote: SocketAddr) -> Option<SocketAddr> {
        let ip = remote.ip();
        if self.is_host(ip) {
            if remote.port() == DNS_PORT {
                return Some(resolver::nameserver());
            }
            return Some(SocketAddr::new(loopback_like(ip), remote.port()));
        }
        let broadcast = match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip == self.broadcast() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
        };
        let nobody = ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast;
        (!nobody).then_some(remote)
    }

    /// How the guest sees a peer of the host that has come to a forwarded port: the host itself, and who
    /// has no IPv4 address, as the gateway.
    pub(crate) fn inside(&self, peer: SocketAddr) -> SocketAddr {
        let ip = match peer.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(ip) => ip.to_ipv4_mapped(),
        };
        let ip = ip.filter(|ip| !ip.is_loopback() && *ip != self.guest).unwrap_or(self.host);
        SocketAddr::new(ip.into(), peer.port())
    }

    fn broadcast(&self) -> Ipv4Addr {
        self.host | !Self::mask()
    }
}

fn loopback_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Addresses = Addresses::new(0);

    fn outside(remote: &str) -> Option<SocketAddr> {
        OURS.outside(remote.parse().unwrap())
    }

    #[test]
    fn kvmtools_addresses_and_an_ipv6_network_that_follows_from_them() {
        assert_eq!((OURS.host, OURS.guest), ([192, 168, 33, 1].into(), [192, 168, 33, 15].into()));
        assert_eq!(OURS.prefix6().to_string(), "fdc0:a821::");
        assert_eq!(OURS.host6().to_string(), "fdc0:a821::1");
        assert_eq!(Addresses::mask().to_string(), "255.255.255.0");
        assert_eq!(Addresses::new(2).guest.to_string(), "192.168.35.15");
    }

    #[test]
    fn the_gateway_is_the_host_and_nothing_leads_to_its_loopback_by_another_name() {
        assert_eq!(outside("192.168.33.1:80"), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(outside("[fdc0:a821::1]:80"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(outside("[fe80::1]:80"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(outside("192.0.2.7:80"), Some("192.0.2.7:80".parse().unwrap()));
        for nobody in [
            "127.0.0.1:1",
            "127.8.8.8:1",
            "[::1]:1",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "192.168.33.255:1",
            "169.254.169.254:80",
            "[ff02::1]:1",
            "[fe80::2]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(outside(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn only_two_hosts_of_one_network_can_be() {
        let with = |host: [u8; 4], guest: [u8; 4]| {
            Addresses { host: host.into(), guest: guest.into(), ..OURS }.are_possible()
        };
        assert!(OURS.are_possible() && with([10, 0, 2, 2], [10, 0, 2, 254]));
        for (host, guest) in [
            ([10, 0, 2, 2], [10, 0, 2, 2]),
            ([10, 0, 2, 2], [10, 0, 3, 2]),
            ([10, 0, 2, 0], [10, 0, 2, 2]),
            ([10, 0, 2, 2], [10, 0, 2, 255]),
            ([127, 0, 0, 1], [127, 0, 0, 2]),
            ([224, 0, 0, 1], [224, 0, 0, 2]),
            ([0, 0, 0, 1], [0, 0, 0, 2]),
        ] {
            assert!(!with(host, guest), "{host:?} {guest:?}");
        }
    }

    #[test]
    fn who_comes_from_the_host_is_the_gateway() {
        let inside = |peer: &str| OURS.inside(peer.parse().unwrap()).to_string();
        assert_eq!(inside("127.0.0.1:7"), "192.168.33.1:7");
        assert_eq!(inside("192.0.2.7:7"), "192.0.2.7:7");
        assert_eq!(inside("[::1]:7"), "192.168.33.1:7");
        assert_eq!(inside("[::ffff:192.0.2.7]:7"), "192.0.2.7:7");
        assert_eq!(inside("[2001:db8::1]:7"), "192.168.33.1:7");
        // The guest would take it for itself.
        assert_eq!(inside("192.168.33.15:7"), "192.168.33.1:7");
    }
}
