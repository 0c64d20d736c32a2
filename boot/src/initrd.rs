//! An initial RAM disk on its way into guest memory.

use std::ops::Range;
use std::path::Path;

use trapline_guestmem::GuestMem;

use crate::error::{Error, placing};
use crate::image::Image;

/// An initial RAM disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initrd<'a> {
    /// A file.
    File(&'a Path),
    /// An archive made here.
    Bytes {
        /// What errors call it.
        name: &'a str,
        /// The archive.
        bytes: &'a [u8],
    },
}

impl Initrd<'_> {
    /// Copies it to where `find` says, given its name and length.
    pub(crate) fn put(
        self,
        mem: &GuestMem,
        find: impl FnOnce(&str, u64) -> Result<Range<u64>, Error>,
    ) -> Result<Range<u64>, Error> {
        match self {
            Self::File(path) => {
                let mut image =
                    Image::open(path, |name, source| Error::OpenInitrd { name, source })?;
                let place = find(&image.name, image.len)?;
                image.load(mem, "initrd", 0, image.len, place.start)?;
                Ok(place)
            }
            Self::Bytes { name, bytes } => {
                let place = find(name, bytes.len() as u64)?;
                mem.write(place.start, bytes).map_err(placing("initrd"))?;
                Ok(place)
            }
        }
    }
}
