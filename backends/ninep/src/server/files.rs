//! Open files: their data.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Request, Server};
use crate::fids::{OpenDir, OpenFile, What};
use crate::wire::{Put, Reader, open};

/// Length of a reply to `Tread` or `Treaddir` before its data.
pub(super) const READ_HEADER: u32 = 11;

impl Server {
    /// `fid[4] flags[4]`: opens a regular file or a folder.
    pub(super) fn lopen(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (number, flags) = (fields.u32()?, fields.u32()?);
        let fid = self.fids.get(number)?;
        let What::Place(place) = &fid.what else { return Err(Errno::BADF) };
        self.check_open(flags)?;
        self.fids.change(number, self.open_place(place.as_fd(), flags)?)?;
        // Any length of reads and writes that fits into a message will do.
        request.reply.qid(self.qid(place)?).u32(0);
        Ok(())
    }

    /// Opens a file or a folder.
    pub(super) fn open_place(&self, place: BorrowedFd<'_>, flags: u32) -> Result<What, Errno> {
        if !self.share.stat(place)?.is_dir() {
            let file = self.share.open_file(place, host_flags(flags)?)?;
            return Ok(What::File(Arc::new(OpenFile { file, flags: lasting(flags) })));
        }
        if open::is_writing(flags) {
            return Err(Errno::ISDIR);
        }
        let dir = self.share.open_file(place, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(What::Dir(Arc::new(OpenDir { dir, reading: Mutex::default() })))
    }

    /// `fid[4] name[s] flags[4] mode[4] gid[4]`: makes a regular file in a folder, opens it, and has
    /// the folder's fid be it.
    pub(super) fn lcreate(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (number, name) = (fields.u32()?, fields.string()?);
        let (flags, mode, gid) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let fid = self.fids.get(number)?;
        let What::Place(dir) = &fid.what else { return Err(Errno::BADF) };
        self.writing()?;
        self.check_open(flags)?;
        let exclusive = flags & open::EXCL != 0;
        let place = (dir.as_fd(), name);
        let owner = Self::owner(&fid, gid);
        let (file, attr) = self.share.create(place, host_flags(flags)?, exclusive, mode, owner)?;
        request.reply.qid(self.qid_of(&attr)?).u32(0);
        let file = OpenFile { file, flags: lasting(flags) };
        self.fids.change(number, What::File(Arc::new(file)))
    }

    /// Refuses to open a file in a way in which it must not be.
    fn check_open(&self, flags: u32) -> Result<(), Errno> {
        match open::is_writing(flags) || flags & open::TRUNC != 0 {
            true => self.writing(),
            false => Ok(()),
        }
    }

    /// `fid[4] offset[8] count[4]`.
    pub(super) fn read(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (fid, offset, count) = (self.fids.get(fields.u32()?)?, fields.u64()?, fields.u32()?);
        let count = count.min(request.room.saturating_sub(READ_HEADER));
        match &fid.what {
            What::File(open) => {
                request.data =
                    request.payload.read(open.file.as_fd(), offset, count).map_err(errno)?;
                request.reply.u32(request.data);
                Ok(())
            }
            What::Value(held) => {
                let from = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
                let rest = held.bytes.get(from..).unwrap_or_default();
                let len = rest.len().min(usize::try_from(count).unwrap_or(usize::MAX));
                let len32 = u32::try_from(len).map_err(|_| Errno::INVAL)?;
                request.reply.u32(len32).extend(rest.iter().take(len));
                Ok(())
            }
            What::Dir(_) => Err(Errno::ISDIR),
            What::Place(_) | What::NewValue(_) => Err(Errno::BADF),
        }
    }

    /// `fid[4] offset[8] count[4] data[count]`.
    pub(super) fn write(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (fid, offset, count) = (self.fids.get(fields.u32()?)?, fields.u64()?, fields.u32()?);
        let written = match &fid.what {
            What::File(open) => {
                self.writing()?;
                request.payload.write(open.file.as_fd(), offset, count).map_err(errno)?
            }
            What::NewValue(value) => {
                self.write_value(value, request.payload, offset, count)?;
                count
            }
            What::Dir(_) | What::Place(_) | What::Value(_) => return Err(Errno::BADF),
        };
        request.reply.u32(written);
        Ok(())
    }

    /// `fid[4] datasync[4]`.
    pub(super) fn fsync(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (fid, only_data) = (self.fids.get(fields.u32()?)?, fields.u32()? != 0);
        match &fid.what {
            What::File(open) if only_data => rustix::fs::fdatasync(&open.file),
            What::File(open) => rustix::fs::fsync(&open.file),
            What::Dir(open) => rustix::fs::fsync(&open.dir),
            What::Place(_) | What::Value(_) | What::NewValue(_) => Err(Errno::BADF),
        }
    }
}

/// The host's flags for a client's. Those that are the client's own business are left out, and so is
/// direct I/O, for which a client's buffers would have to be aligned as the host likes.
fn host_flags(flags: u32) -> Result<OFlags, Errno> {
    let mut host = match flags & open::ACCESS {
        0 => OFlags::RDONLY,
        open::WRONLY => OFlags::WRONLY,
        open::RDWR => OFlags::RDWR,
        _ => return Err(Errno::INVAL),
    };
    for (flag, same) in [
        (open::TRUNC, OFlags::TRUNC),
        (open::APPEND, OFlags::APPEND),
        (open::DSYNC, OFlags::DSYNC),
        (open::SYNC, OFlags::SYNC),
        (open::DIRECTORY, OFlags::DIRECTORY),
    ] {
        if flags & flag != 0 {
            host |= same;
        }
    }
    Ok(host)
}

/// Flags of an open file: without what is done when it is opened.
fn lasting(flags: u32) -> u32 {
    flags & !(open::TRUNC | open::EXCL)
}

/// The kernel's number of an error.
pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
