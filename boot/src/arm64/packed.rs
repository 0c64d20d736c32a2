//! Kernels packed by gzip or as EFI zboot images.

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

    /// The first `most` bytes of what is packed, and an error for what is not whole or not as it
    /// was packed.
    pub(super) fn unpack(self, packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut bytes = Vec::new();
                GzDecoder::new(packed).take(most).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Self::Zstd => unpack_zstd(packed, most),
        }
    }
}

/// Compares the checksum, too, if there is one: the decoder leaves that to who uses it.
fn unpack_zstd(packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let decoder = StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW);
    let mut decoder = decoder.map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    decoder.by_ref().take(most).read_to_end(&mut bytes)?;
    let frame = decoder.into_frame_decoder();
    let whole = frame.is_finished() && frame.can_collect() == 0;
    if let Some(stored) = frame.get_checksum_from_data().filter(|_| whole)
        && frame.get_calculated_checksum() != Some(stored)
    {
        return Err(io::Error::other("its checksum is wrong"));
    }
    Ok(bytes)
}
