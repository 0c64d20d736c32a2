//! The parts of the file: its head, and the header of each chunk.
//!
//! ```text
//! file    magic "trapline" · version (4 bytes) · 0 (4 bytes) · chunks
//! chunk   kind 1 · codec 1 · stream 2 · records 4 · raw length 4 · stored length 4 ·
//!         time of the first record in ns 8 · number of the chunk 4 · CRC-32C 4 · payload
//! ```
//!
//! All numbers are little-endian. The checksum is of the header before it and of the payload. A chunk
//! of a kind that the reader does not know is skipped.

use std::fmt;

/// What the file begins with.
pub const MAGIC: [u8; 8] = *b"trapline";
/// The format that is written here.
pub const VERSION: u32 = 2;
/// The oldest format that is read here. It has no STEPS chunks.
pub const VERSION_MIN: u32 = 1;
/// Bytes of the file's head.
pub const HEAD: usize = 16;
/// Bytes of a chunk's header.
pub const HEADER: usize = 32;
/// The header's bytes that the checksum is of.
const CHECKED: usize = HEADER - 4;
/// The most records in a chunk of them.
pub const RECORDS_MAX: usize = 1 << 16;
/// The most bytes in a chunk, before it is compressed.
pub const RAW_MAX: usize = 16 << 20;
/// The most bytes of a chunk as stored: what zstd makes of bytes that it cannot compress.
pub const STORED_MAX: usize = RAW_MAX + (RAW_MAX >> 8) + 64;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was run, and how it was recorded ([`crate::Meta`]): the first chunk.
    Meta,
    /// What is different in the map of regions and slots ([`crate::MapChange`]).
    Map,
    /// Records of one stream, 16 bytes each.
    Access,
    /// Inputs, outputs and what devices read from memory: for each blob its length (4 bytes) and its
    /// bytes.
    Blob,
    /// The saved state of the machine at the chunk's time.
    State,
    /// Where the chunks are.
    Index,
    /// The recording was finished. What follows is not read.
    End,
    /// Records of all streams, in the order in which they were made.
    Steps,
    /// A kind of a later version.
    Unknown(u8),
}

impl Kind {
    /// Its number in the file.
    pub const fn number(self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::Map => 2,
            Self::Access => 3,
            Self::Blob => 4,
            Self::State => 5,
            Self::Index => 6,
            Self::End => 7,
            Self::Steps => 8,
            Self::Unknown(number) => number,
        }
    }

    /// The kind of a number in the file.
    pub const fn of(number: u8) -> Self {
        match number {
            1 => Self::Meta,
            2 => Self::Map,
            3 => Self::Access,
            4 => Self::Blob,
            5 => Self::State,
            6 => Self::Index,
            7 => Self::End,
            8 => Self::Steps,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("META"),
            Self::Map => f.write_str("MAP"),
            Self::Access => f.write_str("ACCESS"),
            Self::Blob => f.write_str("BLOB"),
            Self::State => f.write_str("STATE"),
            Self::Index => f.write_str("INDEX"),
            Self::End => f.write_str("END"),
            Self::Steps => f.write_str("STEPS"),
            Self::Unknown(number) => write!(f, "unknown ({number})"),
        }
    }
}

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One frame of zstd.
    Zstd,
    /// One of a later version.
    Unknown(u8),
}

impl Codec {
    /// Its number in the file.
    pub const fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Unknown(number) => number,
        }
    }

    /// The codec of a number in the file.
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Raw,
            1 => Self::Zstd,
            other => Self::Unknown(other),
        }
    }
}

/// The header of a chunk, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it holds.
    pub kind: Kind,
    /// How it is stored.
    pub codec: Codec,
    /// The number of the stream; 0 for chunks that are of none.
    pub stream: u16,
    /// Of ACCESS the records (places of 16 bytes), of STEPS the rows, of BLOB the blobs; 0 otherwise.
    pub records: u32,
    /// Bytes of the payload before it was compressed.
    pub raw_len: u32,
    /// Bytes of the payload in the file.
    pub stored_len: u32,
    /// The time of the first record, or of what the chunk tells, in nanoseconds of the machine's
    /// clock. The delta of the first record is contained in it.
    pub first_time_ns: u64,
    /// The number of the chunk in its file.
    pub number: u32,
}

impl Header {
    /// The header as it is in the file, in front of `payload`.
    pub fn to_bytes(self, payload: &[u8]) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 8] = [
            &[self.kind.number(), self.codec.number()],
            &self.stream.to_le_bytes(),
            &self.records.to_le_bytes(),
            &self.raw_len.to_le_bytes(),
            &self.stored_len.to_le_bytes(),
            &self.first_time_ns.to_le_bytes(),
            &self.number.to_le_bytes(),
            &[0; 4],
        ];
        bytes.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
        let checksum = checksum(&bytes, |checksum| crc32c::crc32c_append(checksum, payload));
        bytes.iter_mut().skip(CHECKED).zip(checksum.to_le_bytes()).for_each(|(to, b)| *to = b);
        bytes
    }

    /// The header out of the file, and the checksum it claims.
    pub fn from_bytes(bytes: &[u8; HEADER]) -> (Self, u32) {
        let [kind, codec, s0, s1, rest @ ..] = *bytes;
        let [r0, r1, r2, r3, w0, w1, w2, w3, t0, t1, t2, t3, rest @ ..] = rest;
        let [n0, n1, n2, n3, n4, n5, n6, n7, i0, i1, i2, i3, c0, c1, c2, c3] = rest;
        let header = Self {
            kind: Kind::of(kind),
            codec: Codec::of(codec),
            stream: u16::from_le_bytes([s0, s1]),
            records: u32::from_le_bytes([r0, r1, r2, r3]),
            raw_len: u32::from_le_bytes([w0, w1, w2, w3]),
            stored_len: u32::from_le_bytes([t0, t1, t2, t3]),
            first_time_ns: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            number: u32::from_le_bytes([i0, i1, i2, i3]),
        };
        (header, u32::from_le_bytes([c0, c1, c2, c3]))
    }

    /// Whether the lengths are ones that a writer makes.
    pub const fn plausible(&self) -> bool {
        let lengths = self.raw_len as usize <= RAW_MAX && self.stored_len as usize <= STORED_MAX;
        match self.kind {
            Kind::Access => {
                lengths
                    && self.records as usize <= RECORDS_MAX
                    && self.raw_len as usize == self.records as usize * 16
            }
            Kind::Steps => lengths && self.records as usize <= RECORDS_MAX,
            _ => lengths,
        }
    }
}

/// The checksum of a header and of the payload that `append` adds.
pub(crate) fn checksum(header: &[u8; HEADER], append: impl FnOnce(u32) -> u32) -> u32 {
    append(crc32c::crc32c(header.first_chunk::<CHECKED>().unwrap_or(&[0; CHECKED])))
}
