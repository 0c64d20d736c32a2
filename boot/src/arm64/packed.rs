//! Packed kernels.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use ruzstd::decoding::StreamingDecoder;

/// How a kernel is packed.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

/// The longest way back a packed kernel may refer: what `zstd -22`, which packs kernels, uses.
const ZSTD_WINDOW: u64 = 128 << 20;

impl Packing {
    /// That of a file, by its first bytes.
    pub(super) fn of_file(head: &[u8]) -> Option<Self> {
        let is = |magic: &[u8]| head.starts_with(magic);
        match () {
            () if is(&[0x1f, 0x8b]) => Some(Self::Gzip),
            () if is(&[0x28, 0xb5, 0x2f, 0xfd]) => Some(Self::Zstd),
            () => None,
        }
    }

    /// That which the header of an EFI program names.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"gzip" => Some(Self::Gzip),
            b"zstd" | b"zstd22" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The first `most` bytes of what is packed, and an error for what is not whole.
    pub(super) fn unpack(self, packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Gzip => GzDecoder::new(packed).take(most).read_to_end(&mut bytes),
            Self::Zstd => StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW)
                .map_err(io::Error::other)?
                .take(most)
                .read_to_end(&mut bytes),
        }?;
        Ok(bytes)
    }
}
