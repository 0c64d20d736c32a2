//! What a driver asks of a disk.

use std::ops::Range;

use trapline_guestio::Buffers;

/// One request. Offsets and ranges are in bytes from the disk's start.
#[derive(Debug)]
pub enum Request {
    /// Read from `offset` into `buffers`.
    Read {
        /// Where from.
        offset: u64,
        /// What is to be filled.
        buffers: Buffers,
    },
    /// Write `buffers` to `offset`.
    Write {
        /// Where to.
        offset: u64,
        /// What is to be written.
        buffers: Buffers,
        /// Whether it has to outlast a crash of the host once it is done, without a flush.
        durable: bool,
    },
    /// Everything that was done before has to outlast a crash of the host.
    Flush,
    /// Nobody needs what is in these ranges any more.
    Discard(Vec<Range<u64>>),
    /// Nobody is to get at what is in these ranges any more, by any means.
    Erase(Vec<Range<u64>>),
    /// These ranges are to read as zeroes.
    WriteZeroes(Vec<Zeroes>),
}

/// A range that is to read as zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zeroes {
    /// Which bytes.
    pub range: Range<u64>,
    /// Whether the image may give up the space they take.
    pub unmap: bool,
}

impl Request {
    /// Whether all of it is on a disk of `capacity` bytes.
    pub(crate) fn is_within(&self, capacity: u64) -> bool {
        let inside = |range: &Range<u64>| range.start <= range.end && range.end <= capacity;
        match self {
            Self::Read { offset, buffers } | Self::Write { offset, buffers, .. } => {
                offset.checked_add(buffers.len()).is_some_and(|end| end <= capacity)
            }
            Self::Flush => true,
            Self::Discard(ranges) | Self::Erase(ranges) => ranges.iter().all(inside),
            Self::WriteZeroes(zeroes) => zeroes.iter().all(|zeroes| inside(&zeroes.range)),
        }
    }

    /// Whether it changes anything.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Flush)
    }

    /// How many bytes of guest memory it moves.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Read { buffers, .. } | Self::Write { buffers, .. } => buffers.len(),
            Self::Flush | Self::Discard(_) | Self::Erase(_) | Self::WriteZeroes(_) => 0,
        }
    }
}
