//! Frames that wait for the guest.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, IpRepr,
    Ipv6FragmentHeader, Ipv6FragmentRepr, UdpPacket, UdpRepr,
};

use crate::frame::{ETHERNET, Place, checksums};

/// Bytes from which on nothing more is fetched for the guest.
const SOFT_LIMIT: usize = 512 << 10;
/// Bytes from which on answers to the guest are dropped, as on any wire.
const HARD_LIMIT: usize = 1 << 20;

/// What every driver takes of an IP packet: Ethernet's.
pub(crate) const PACKET_MAX: usize = 1500;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// The queue, in the order in which they were made.
pub(crate) struct Outbox {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The gateway's address, and that which the guest was heard with last.
    pub(crate) host: EthernetAddress,
    pub(crate) guest: EthernetAddress,
    /// Names the fragments of one packet.
    ident: u16,
}

impl Outbox {
    pub(crate) fn new(host: EthernetAddress) -> Self {
        let guest = EthernetAddress::BROADCAST;
        Self { frames: VecDeque::new(), bytes: 0, host, guest, ident: 0 }
    }

    /// Whether there is room for what can wait elsewhere.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < SOFT_LIMIT
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Copies the next frame into `buf`, and says how long it is. One that does not fit is lost.
    pub(crate) fn pop(&mut self, buf: &mut [u8]) -> Option<usize> {
        loop {
            let frame = self.frames.pop_front()?;
            self.bytes -= frame.len();
            if let Some(room) = buf.get_mut(..frame.len()) {
                room.copy_from_slice(&frame);
                return Some(frame.len());
            }
        }
    }

    /// A frame of `len` bytes behind its Ethernet header, to `to`, which `fill` writes.
    pub(crate) fn frame<R>(
        &mut self,
        to: EthernetAddress,
        ethertype: EthernetProtocol,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let mut frame = vec![0; ETHERNET + len];
        let repr = EthernetRepr { src_addr: self.host, dst_addr: to, ethertype };
        repr.emit(&mut EthernetFrame::new_unchecked(&mut frame));
        let done = fill(frame.get_mut(ETHERNET..).unwrap_or_default());
        if self.bytes + frame.len() <= HARD_LIMIT {
            self.bytes += frame.len();
            self.frames.push_back(frame);
        }
        done
    }

    /// An IP packet of `len` bytes that somebody else makes, to the guest.
    pub(crate) fn whole_packet<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let to = self.guest;
        let done = self.frame(to, EthernetProtocol::Ipv4, len, fill);
        // By the version in its first byte.
        if let Some(frame) = self.frames.back_mut()
            && frame.get(ETHERNET).is_some_and(|first| first >> 4 == 6)
        {
            EthernetFrame::new_unchecked(frame).set_ethertype(EthernetProtocol::Ipv6);
        }
        done
    }

    /// A packet with this in it, in as many pieces as every driver takes.
    pub(crate) fn packet(&mut self, place: Place, protocol: IpProtocol, payload: &[u8]) {
        self.packet_to(self.guest, place, protocol, (HOP_LIMIT, payload));
    }

    /// The same, to this Ethernet address and with this hop limit.
    pub(crate) fn packet_to(
        &mut self,
        to: EthernetAddress,
        place: Place,
        protocol: IpProtocol,
        (hop_limit, payload): (u8, &[u8]),
    ) {
        let headers = match place.source {
            IpAddr::V4(_) => IPV4_HEADER,
            IpAddr::V6(_) => IPV6_HEADER,
        };
        if headers + payload.len() <= PACKET_MAX {
            return self.piece(to, place, protocol, hop_limit, payload, None);
        }
        self.ident = self.ident.wrapping_add(1);
        let (mut offset, extra) = (0, if headers == IPV6_HEADER { FRAGMENT_HEADER } else { 0 });
        // Offsets count eight bytes.
        let most = (PACKET_MAX - headers - extra) & !7;
        for piece in payload.chunks(most) {
            let more = offset + piece.len() < payload.len();
            let fragment = u16::try_from(offset).ok().map(|offset| (offset, more));
            // There is no packet of more bytes.
            let Some(fragment) = fragment else { return };
            self.piece(to, place, protocol, hop_limit, piece, Some(fragment));
            offset += piece.len();
        }
    }

    /// A packet, or a fragment of one with its offset in bytes and whether there are more.
    fn piece(
        &mut self,
        to: EthernetAddress,
        Place { source, destination }: Place,
        protocol: IpProtocol,
        hop_limit: u8,
        payload: &[u8],
        fragment: Option<(u16, bool)>,
    ) {
        let is_v6 = source.is_ipv6();
        let split6 = fragment.filter(|_| is_v6);
        let extra = if split6.is_some() { FRAGMENT_HEADER } else { 0 };
        let next = if split6.is_some() { IpProtocol::Ipv6Frag } else { protocol };
        let (from, at): (IpAddress, IpAddress) = (source.into(), destination.into());
        let repr = IpRepr::new(from, at, next, extra + payload.len(), hop_limit);
        let ethertype = if is_v6 { EthernetProtocol::Ipv6 } else { EthernetProtocol::Ipv4 };
        let ident = self.ident;
        self.frame(to, ethertype, repr.buffer_len(), |packet| {
            let (head, body) = packet.split_at_mut(repr.header_len());
            repr.emit(&mut *head, &checksums());
            if let (Some((offset, more)), false) = (fragment, is_v6) {
                let mut head = smoltcp::wire::Ipv4Packet::new_unchecked(head);
                head.set_ident(ident);
                head.set_dont_frag(false);
                head.set_frag_offset(offset);
                head.set_more_frags(more);
                head.fill_checksum();
            }
            let (extra, body) = body.split_at_mut(extra);
            if let Some((offset, more)) = split6 {
                fragment_header(extra, protocol, (offset, more), ident);
            }
            body.copy_from_slice(payload);
        });
    }

    /// A datagram of UDP with this in it.
    pub(crate) fn udp(&mut self, place: Place, (from, to): (u16, u16), payload: &[u8]) {
        let datagram = udp(place, (from, to), payload);
        self.packet(place, IpProtocol::Udp, &datagram);
    }
}

/// A datagram of UDP.
pub(crate) fn udp(place: Place, (from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: from, dst_port: to };
    let mut datagram = vec![0; repr.header_len() + payload.len()];
    let (source, destination) = (place.source.into(), place.destination.into());
    let fill = |room: &mut [u8]| room.copy_from_slice(payload);
    let mut packet = UdpPacket::new_unchecked(&mut datagram);
    repr.emit(&mut packet, &source, &destination, payload.len(), fill, &checksums());
    datagram
}

/// RFC 8200, section 4.5.
fn fragment_header(buf: &mut [u8], protocol: IpProtocol, fragment: (u16, bool), ident: u16) {
    let (offset, more) = fragment;
    if let [next, reserved, rest @ ..] = &mut *buf {
        (*next, *reserved) = (protocol.into(), 0);
        let repr =
            Ipv6FragmentRepr { frag_offset: offset / 8, more_frags: more, ident: ident.into() };
        debug_assert_eq!(rest.len(), repr.buffer_len(), "what follows the first two bytes");
        repr.emit(&mut Ipv6FragmentHeader::new_unchecked(rest));
    }
}

/// The Ethernet address of an IPv6 group (RFC 2464, section 7).
pub(crate) fn group_mac(group: Ipv6Addr) -> EthernetAddress {
    let [.., a, b, c, d] = group.octets();
    EthernetAddress([0x33, 0x33, a, b, c, d])
}
