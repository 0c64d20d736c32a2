//! What is in a frame of the guest's.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket};
use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// Checksums are made for the guest. Its own are not looked at: nothing between it and here loses a
/// bit, and they are often not made yet.
pub(crate) fn checksums() -> ChecksumCapabilities {
    let mut caps = ChecksumCapabilities::ignored();
    caps.ipv4 = Checksum::Tx;
    caps.udp = Checksum::Tx;
    caps.tcp = Checksum::Tx;
    caps.icmpv4 = Checksum::Tx;
    caps.icmpv6 = Checksum::Tx;
    caps
}

/// Where an IP packet comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Place {
    /// The way back.
    pub(crate) fn back(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// What is in a frame, by its kind.
pub(crate) enum Frame<'a> {
    Arp(&'a [u8]),
    Ip(&'a [u8]),
}

/// An IP packet, or what was put together of its fragments.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) place: Place,
    pub(crate) protocol: IpProtocol,
    /// Behind the headers of IP.
    pub(crate) payload: &'a [u8],
    /// All of it; of fragments the last.
    pub(crate) whole: &'a [u8],
}

/// Who sent a frame, and what is in it, if anything that is known here.
pub(crate) fn parse(frame: &[u8]) -> Option<(EthernetAddress, Frame<'_>)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let content = frame.get(ETHERNET..)?;
    let inside = match ethernet.ethertype() {
        EthernetProtocol::Arp => Frame::Arp(content),
        EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => Frame::Ip(content),
        EthernetProtocol::Unknown(_) => return None,
    };
    let sender = ethernet.src_addr();
    sender.is_unicast().then_some((sender, inside))
}

impl<'a> Packet<'a> {
    /// A packet that is whole; `None` for a fragment.
    pub(crate) fn new(sliced: &SlicedPacket<'a>, whole: &'a [u8]) -> Option<Self> {
        let payload = match sliced.net.as_ref()? {
            NetSlice::Ipv4(ip) => ip.payload(),
            NetSlice::Ipv6(ip) => ip.payload(),
            NetSlice::Arp(_) => return None,
        };
        let (place, protocol) = (place(sliced)?, IpProtocol::from(payload.ip_number.0));
        (!payload.fragmented).then_some(Self { place, protocol, payload: payload.payload, whole })
    }
}

/// Where a packet comes from and goes to.
pub(crate) fn place(sliced: &SlicedPacket<'_>) -> Option<Place> {
    Some(match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => Place {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
        },
        NetSlice::Ipv6(ip) => Place {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
        },
        NetSlice::Arp(_) => return None,
    })
}
