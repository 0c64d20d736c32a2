//! The host's name server, by resolv.conf(5).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::addresses::DNS_PORT;

const FILE: &str = "/etc/resolv.conf";

/// The first of the host's name servers. Read anew each time: a host that moves has others.
pub(crate) fn nameserver() -> SocketAddr {
    let ip = fs::read_to_string(FILE).ok().and_then(|text| first(&text));
    // resolv.conf(5): "the default is to use the name server on the local machine".
    SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), DNS_PORT)
}

/// The first whose address needs no interface.
fn first(text: &str) -> Option<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    servers.filter_map(|word| word.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_server_that_can_be_had() {
        let text = "# nameserver 192.0.2.1\nsearch example\nnameserver fe80::1%eth0\n\
                    nameserver\nnameserver\t192.0.2.2 # us\nnameserver 192.0.2.3\n";
        assert_eq!(first(text), Some([192, 0, 2, 2].into()));
        assert_eq!(first("nameserver 2001:db8::1\n").unwrap().to_string(), "2001:db8::1");
        assert_eq!(first("search example\n"), None);
    }
}
