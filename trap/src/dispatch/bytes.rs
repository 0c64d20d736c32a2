//! The data of an access: a buffer to be read into, or bytes to be written.

use trapline_access::Direction;

use crate::dispatch::width;

/// The bytes of an access or a transfer, lowest address first.
pub(crate) enum Bytes<'a> {
    /// To be filled.
    Read(&'a mut [u8]),
    /// To be taken.
    Write(&'a [u8]),
}

impl Bytes<'_> {
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Read(_) => Direction::Read,
            Self::Write(_) => Direction::Write,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Read(data) => data,
            Self::Write(data) => data,
        }
    }

    /// Fills what is to be read with the little-endian bytes of `value`.
    pub(crate) fn store(&mut self, value: u64) {
        if let Self::Read(data) = self {
            width::store(data, value);
        }
    }

    /// `len` bytes from `start` on.
    pub(crate) fn part(&mut self, start: usize, len: usize) -> Bytes<'_> {
        match self {
            Self::Read(data) => Bytes::Read(data.get_mut(start..start + len).unwrap_or_default()),
            Self::Write(data) => Bytes::Write(data.get(start..start + len).unwrap_or_default()),
        }
    }
}
