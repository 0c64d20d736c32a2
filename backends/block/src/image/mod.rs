//! Images: the files and block devices that hold a disk's content, whatever their format.

mod format;
mod null;
mod open;
mod raw;
mod topology;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{DiskOptions, Error, Failure, Format, Request};

pub(crate) use format::Formatted;
pub(crate) use null::Null;
pub(crate) use open::Opened;
pub(crate) use raw::Raw;
pub use topology::Topology;

/// An image.
#[derive(Debug)]
pub(crate) enum Image {
    /// Byte for byte.
    Raw(Raw),
    /// In a format that knows which of its bytes is where.
    Formatted(Formatted),
    /// Not there.
    Null(Null),
}

impl Image {
    /// Opens what the user describes.
    pub(crate) fn open(options: &DiskOptions) -> Result<(Self, Topology), Error> {
        if options.format == Some(Format::Null) {
            return Ok((Self::Null(Null::new()), Topology::PLAIN));
        }
        let opened = Opened::new(&options.path, !options.read_only, options.direct)?;
        let probed = opened.probe()?;
        let format = opened.format(options.format, probed)?;
        let topology = Topology::of(&opened);
        let image = match format {
            // Whoever named the format does not have us guess the next time, either.
            Format::Raw => Self::Raw(Raw::new(opened, options.format.is_none())),
            Format::Vmdk if !options.read_only => {
                return Err(Error::ReadOnlyFormat { path: options.path.clone() });
            }
            format => Self::Formatted(Formatted::new(opened, format)?),
        };
        Ok((image, topology))
    }

    /// None.
    pub(crate) fn absent() -> Self {
        Self::Null(Null::new())
    }

    /// Bytes that a guest can have of it at present.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Raw(raw) => raw.len(),
            Self::Formatted(formatted) => Ok(formatted.len()),
            Self::Null(null) => Ok(null.len()),
        }
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, len: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.resize(len),
            Self::Formatted(formatted) => formatted.resize(len),
            Self::Null(null) => {
                null.resize(len);
                Ok(())
            }
        }
    }

    /// Whether space can be given up.
    pub(crate) fn can_discard(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.can_discard(),
            Self::Formatted(_) | Self::Null(_) => true,
        }
    }

    /// Whether it can be erased so that nobody gets at what was there.
    pub(crate) fn can_erase(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.can_erase(),
            Self::Formatted(_) => false,
            Self::Null(_) => true,
        }
    }

    /// Does what is left of a request, and waits until it is done.
    pub(crate) fn perform(
        &self,
        request: &mut Request,
        cancelled: &AtomicBool,
    ) -> Result<(), Failure> {
        match (self, request) {
            (Self::Raw(raw), Request::Read { offset, buffers }) => raw.read(offset, buffers)?,
            (Self::Raw(raw), Request::Write { offset, buffers, durable }) => {
                raw.write(offset, buffers, *durable)?;
            }
            (Self::Raw(raw), Request::Flush) => raw.sync()?,
            (Self::Raw(raw), Request::Discard(ranges)) => {
                for range in ranges {
                    raw.discard(range.clone())?;
                }
            }
            (Self::Raw(raw), Request::Erase(ranges)) => {
                for range in ranges {
                    check(cancelled)?;
                    raw.erase(range.clone())?;
                }
            }
            (Self::Raw(raw), Request::WriteZeroes(zeroes)) => {
                for zeroes in zeroes {
                    raw.write_zeroes(zeroes, cancelled)?;
                }
            }
            (Self::Formatted(formatted), request) => formatted.perform(request, cancelled)?,
            (Self::Null(_), request) => Null::perform(request),
        }
        Ok(())
    }
}

/// Whether nobody waits any more for what is being done, as an error.
fn check(cancelled: &AtomicBool) -> io::Result<()> {
    if cancelled.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}
