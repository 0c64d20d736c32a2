//! Kernels and their modules packed by gzip, zstd or xz.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// How a kernel or a module is packed.
#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
    Xz,
}

/// The longest way back a packed kernel may refer: what `zstd -22`, which packs kernels, uses.
const ZSTD_WINDOW: u64 = 128 << 20;

/// What unpacking xz may take in KiB: `xz -9` takes 65 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

impl Packing {
    /// That of a kernel, by its first bytes.
    pub(crate) fn of_file(head: &[u8]) -> Option<Self> {
        let is = |magic: &[u8]| head.starts_with(magic);
        match () {
            () if is(&[0x1f, 0x8b]) => Some(Self::Gzip),
            () if is(&[0x28, 0xb5, 0x2f, 0xfd]) => Some(Self::Zstd),
            () => None,
        }
    }

    /// That of a module, by its first bytes.
    pub(crate) fn of_module(head: &[u8]) -> Option<Self> {
        let xz = head.starts_with(b"\xfd7zXZ\0");
        if xz { Some(Self::Xz) } else { Self::of_file(head) }
    }

    /// That which the header of an EFI program names.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"gzip" => Some(Self::Gzip),
            b"zstd" | b"zstd22" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The first `most` bytes of what is packed, and an error for what is not whole or not as it
    /// was packed.
    pub(crate) fn unpack(self, packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut bytes = Vec::new();
                GzDecoder::new(packed).take(most).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Self::Zstd => unpack_zstd(packed, most),
            Self::Xz => {
                let mut bytes = Vec::new();
                let reader = XzReader::new_mem_limit(packed, false, XZ_MEMORY_KIB);
                reader.take(most).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
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
