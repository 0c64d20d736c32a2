//! What goes with a frame between a card and its back end: `struct virtio_net_hdr` (virtio 1.3,
//! section 5.1.6), which Linux' taps have, too.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
};

/// Its length with the count of buffers, in bytes; that of legacy drivers without mergeable buffers
/// is without.
pub const HEADER_LEN: usize = 12;

/// The header's fields of a byte, whose values the bindings have wider.
const fn low(value: u32) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

/// A frame's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`Self::NEEDS_CSUM`], [`Self::DATA_VALID`].
    pub flags: u8,
    /// A kind of segmentation ([`Gso`]) and whether its segments have ECN's mark.
    pub gso_type: u8,
    /// Length of what each segment begins with, in bytes. A hint.
    pub hdr_len: u16,
    /// Length of what each segment has of the rest.
    pub gso_size: u16,
    /// From which byte of the frame on the checksum is to be made.
    pub csum_start: u16,
    /// Where from there it is to be put.
    pub csum_offset: u16,
    /// How many buffers a received frame is in.
    pub num_buffers: u16,
}

/// A way to cut a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// A datagram of UDP into IP fragments.
    Ufo,
    /// Datagrams of UDP into smaller ones.
    Uso,
}

/// What one end of a way of frames takes work off the other end with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// It takes frames whose checksum is not made yet.
    pub csum: bool,
    /// Long segments of TCP over IPv4.
    pub tso4: bool,
    /// Of TCP over IPv6.
    pub tso6: bool,
    /// Such segments with ECN's mark.
    pub ecn: bool,
    /// Datagrams of UDP that are to be fragments.
    pub ufo: bool,
    /// Several datagrams of UDP in one, over IPv4.
    pub uso4: bool,
    /// Over IPv6.
    pub uso6: bool,
}

impl Header {
    /// The checksum is to be made.
    pub const NEEDS_CSUM: u8 = low(VIRTIO_NET_HDR_F_NEEDS_CSUM);
    /// The checksum was found to be right.
    pub const DATA_VALID: u8 = low(VIRTIO_NET_HDR_F_DATA_VALID);
    const ECN: u8 = low(VIRTIO_NET_HDR_GSO_ECN);

    /// As it is in memory, little-endian.
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let Self { hdr_len, gso_size, csum_start, csum_offset, num_buffers, .. } = *self;
        let fields =
            [hdr_len, gso_size, csum_start, csum_offset, num_buffers].map(u16::to_le_bytes);
        for (to, from) in bytes.iter_mut().skip(2).zip(fields.as_flattened()) {
            *to = *from;
        }
        bytes
    }

    /// From memory.
    pub fn new(bytes: [u8; HEADER_LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h, i, j] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([a, b]),
            gso_size: u16::from_le_bytes([c, d]),
            csum_start: u16::from_le_bytes([e, f]),
            csum_offset: u16::from_le_bytes([g, h]),
            num_buffers: u16::from_le_bytes([i, j]),
        }
    }

    /// How the frame is to be cut, if at all.
    ///
    /// # Errors
    /// In a way that nobody knows.
    pub fn gso(&self) -> Result<Option<Gso>, UnknownGso> {
        Ok(Some(match u32::from(self.gso_type & !Self::ECN) {
            0 => return Ok(None),
            VIRTIO_NET_HDR_GSO_TCPV4 => Gso::Tcp4,
            VIRTIO_NET_HDR_GSO_TCPV6 => Gso::Tcp6,
            VIRTIO_NET_HDR_GSO_UDP => Gso::Ufo,
            VIRTIO_NET_HDR_GSO_UDP_L4 => Gso::Uso,
            _ => return Err(UnknownGso),
        }))
    }

    /// The header that goes on with a frame of `frame_len` bytes to somebody who takes these
    /// offloads. `None` when the frame asks for something else, or for what makes no sense.
    #[must_use]
    pub fn admitted(&self, taken: Offloads, frame_len: u64) -> Option<Self> {
        let mut header = Self { num_buffers: 0, ..*self };
        let needs_csum = self.flags & Self::NEEDS_CSUM != 0 && taken.csum;
        header.flags = if needs_csum { Self::NEEDS_CSUM } else { 0 };
        let sum = u64::from(self.csum_start) + u64::from(self.csum_offset);
        if needs_csum && sum + 2 > frame_len {
            return None;
        }
        if !needs_csum {
            (header.csum_start, header.csum_offset) = (0, 0);
        }
        match self.gso().ok()? {
            None => (header.gso_type, header.gso_size, header.hdr_len) = (0, 0, 0),
            Some(gso) => {
                let marked = self.gso_type & Self::ECN != 0;
                let sensible = needs_csum && self.gso_size > 0 && taken.has(gso);
                if !sensible || marked && !taken.ecn {
                    return None;
                }
                // Only a hint, and not from a friend.
                let most = u16::try_from(frame_len).unwrap_or(u16::MAX);
                header.hdr_len = self.hdr_len.min(most);
            }
        }
        Some(header)
    }
}

/// A frame is to be cut in a way that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownGso;

impl Offloads {
    /// None.
    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        ufo: false,
        uso4: false,
        uso6: false,
    };

    /// All.
    pub const ALL: Self =
        Self { csum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso4: true, uso6: true };

    fn has(self, gso: Gso) -> bool {
        match gso {
            Gso::Tcp4 => self.tso4,
            Gso::Tcp6 => self.tso6,
            Gso::Ufo => self.ufo,
            Gso::Uso => self.uso4 || self.uso6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: Header = Header {
        flags: 1,
        gso_type: 1,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 7,
    };

    #[test]
    fn a_header_is_twelve_little_endian_bytes() {
        let bytes = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 7, 0];
        assert_eq!((SEGMENTS.bytes(), Header::new(bytes)), (bytes, SEGMENTS));
    }

    #[test]
    fn what_was_not_agreed_on_does_not_go_on() {
        let sent = |header: Header, taken| header.admitted(taken, 3000);
        assert_eq!(sent(SEGMENTS, Offloads::ALL), Some(Header { num_buffers: 0, ..SEGMENTS }));
        assert_eq!(sent(SEGMENTS, Offloads { tso4: false, ..Offloads::ALL }), None);
        assert_eq!(sent(SEGMENTS, Offloads { csum: false, ..Offloads::ALL }), None);
        assert_eq!(
            sent(Header { flags: 0, ..SEGMENTS }, Offloads::ALL),
            None,
            "without a checksum to make"
        );
        assert_eq!(sent(Header { gso_size: 0, ..SEGMENTS }, Offloads::ALL), None);
        for (gso_type, without) in [
            (4, Offloads { tso6: false, ..Offloads::ALL }),
            (3, Offloads { ufo: false, ..Offloads::ALL }),
            (5, Offloads { uso4: false, uso6: false, ..Offloads::ALL }),
            (0x81, Offloads { ecn: false, ..Offloads::ALL }),
        ] {
            let header = Header { gso_type, ..SEGMENTS };
            assert!(
                sent(header, Offloads::ALL).is_some() && sent(header, without).is_none(),
                "{gso_type:#x}"
            );
        }
        assert_eq!(sent(Header { gso_type: 2, ..SEGMENTS }, Offloads::ALL), None, "unknown");
    }

    #[test]
    fn a_checksum_is_inside_of_its_frame_and_a_hint_no_more_than_that() {
        let plain = Header { flags: 3, gso_type: 0, gso_size: 9, num_buffers: 0, ..SEGMENTS };
        let sum = Header { flags: 1, gso_size: 0, hdr_len: 0, ..plain };
        assert_eq!(plain.admitted(Offloads::ALL, 52), Some(sum));
        assert_eq!(plain.admitted(Offloads::ALL, 51), None);
        assert_eq!(plain.admitted(Offloads::NONE, 51), Some(Header::default()));
        let far = Header { csum_start: u16::MAX, csum_offset: u16::MAX, ..plain };
        assert_eq!(far.admitted(Offloads::ALL, 0xffff), None);
        let hint = Header { hdr_len: u16::MAX, ..SEGMENTS }.admitted(Offloads::ALL, 100).unwrap();
        assert_eq!(hint.hdr_len, 100);
    }
}
