//! Packets of the socket device: a header, and of some of them data behind it.
//!
//! Spec: virtio 1.3, section 5.10.6.

use super::regs::HEADER_LEN;

/// A packet's header, little-endian in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data behind it.
    pub(super) len: u32,
    /// What kind of socket it is of.
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes of buffer that its sender has for the connection.
    pub(super) buf_alloc: u32,
    /// Bytes that were taken out of that since the connection began.
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn of(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = &bytes[..];
        let mut take = |len: usize| {
            let (now, later) = rest.split_at_checked(len).unwrap_or_default();
            rest = later;
            now.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let (src_cid, dst_cid) = (take(8), take(8));
        let half = |value: u64| u16::try_from(value).unwrap_or(0);
        let word = |value: u64| u32::try_from(value).unwrap_or(0);
        Self {
            src_cid,
            dst_cid,
            src_port: word(take(4)),
            dst_port: word(take(4)),
            len: word(take(4)),
            kind: half(take(2)),
            op: half(take(2)),
            flags: word(take(4)),
            buf_alloc: word(take(4)),
            fwd_cnt: word(take(4)),
        }
    }

    pub(super) fn bytes(&self) -> [u8; HEADER_LEN] {
        let parts: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_LEN];
        bytes.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        bytes
    }
}
