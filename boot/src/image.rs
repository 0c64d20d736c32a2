//! Files to be loaded (kernels, RAM disks, firmware), which are read right into guest memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use trapline_guestmem::GuestMem;
use vm_memory::{Bytes, GuestAddress};

use crate::error::Error;

/// An opened file with the name errors call it by.
pub(crate) struct Image {
    pub(crate) file: File,
    pub(crate) name: String,
    pub(crate) len: u64,
}

impl Image {
    /// Opens `path`, which must be a file or a disk; `refused` says what could not be opened.
    pub(crate) fn open(
        path: &Path,
        refused: impl FnOnce(String, io::Error) -> Error,
    ) -> Result<Self, Error> {
        let name = path.display().to_string();
        match crate::open(path) {
            Ok((file, len)) => Ok(Self { file, name, len }),
            Err(source) => Err(refused(name, source)),
        }
    }

    /// Reads at `offset` until `buf` is full or the file ends, and returns how much that was.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        Ok(done)
    }

    /// Copies `len` bytes of the file, from `offset`, to guest address `addr`.
    pub(crate) fn load(
        &mut self,
        mem: &GuestMem,
        what: &'static str,
        offset: u64,
        len: u64,
        addr: u64,
    ) -> Result<(), Error> {
        let count = usize::try_from(len).unwrap_or(usize::MAX);
        if !mem.contains(addr, count) {
            let source = trapline_guestmem::Error::OutOfRange { addr, len: count };
            return Err(Error::Guest { what, source });
        }
        self.file.seek(SeekFrom::Start(offset)).map_err(|error| self.unreadable(error))?;
        mem.backend()
            .read_exact_volatile_from(GuestAddress(addr), &mut self.file, count)
            .map_err(|error| self.unreadable(error))
    }

    pub(crate) fn unreadable(&self, reason: impl std::fmt::Display) -> Error {
        Error::Read { name: self.name.clone(), reason: reason.to_string() }
    }
}
