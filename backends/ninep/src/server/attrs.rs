//! Attributes of files and of file systems.

use std::os::fd::AsFd;

use rustix::fs::{Timespec, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::{IO_HEADER, Request, Server};
use crate::attr::encode_device;
use crate::fids::What;
use crate::share::Owner;
use crate::wire::{Put, Reader};

/// What a reply to `Tgetattr` always has (`P9_STATS_BASIC`), and the time of birth.
const BASIC: u64 = 0x7ff;
const BTIME: u64 = 0x800;

/// What is to be changed (`P9_ATTR_*`).
mod set {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const CTIME: u32 = 1 << 6;
    pub(super) const ATIME_SET: u32 = 1 << 7;
    pub(super) const MTIME_SET: u32 = 1 << 8;
}

impl Server {
    /// `fid[4] request_mask[8]`.
    pub(super) fn getattr(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (fid, _wanted) = (self.fids.get(fields.u32()?)?, fields.u64()?);
        let attr = self.share.stat(fid.file()?.as_fd())?;
        let valid = if attr.btime.is_some() { BASIC | BTIME } else { BASIC };
        let room = u64::from(request.room.saturating_sub(IO_HEADER));
        let reply = &mut *request.reply;
        reply.u64(valid).qid(self.qid_of(&attr)?).u32(attr.mode).u32(attr.uid).u32(attr.gid);
        reply.u64(attr.nlink).u64(encode_device(attr.rdev)).u64(attr.size);
        reply.u64(block_size(attr.blksize, room)).u64(attr.blocks);
        let times = [attr.atime, attr.mtime, attr.ctime, attr.btime.unwrap_or_default()];
        times.into_iter().for_each(|(seconds, nanoseconds)| {
            reply.u64(seconds.cast_unsigned()).u64(nanoseconds.into());
        });
        // Neither generation nor version of the data.
        reply.u64(0).u64(0);
        Ok(())
    }

    /// `fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8] mtime_sec[8]
    /// mtime_nsec[8]`.
    pub(super) fn setattr(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (fid, valid, mode) = (self.fids.get(fields.u32()?)?, fields.u32()?, fields.u32()?);
        let (uid, gid, size) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let mut time = || Ok::<_, Errno>((fields.u64()?.cast_signed(), fields.u64()?));
        let (atime, mtime) = (time()?, time()?);
        self.writing()?;
        let has = |what| valid & what != 0;
        let file = fid.file()?.as_fd();
        // First what moves the times or clears bits of the mode.
        if has(set::SIZE) {
            let open = matches!(&fid.what, What::File(open) if open.is_writable());
            self.share.truncate(file, open, size)?;
        }
        if has(set::UID) || has(set::GID) {
            let owner = Owner {
                uid: has(set::UID).then_some(uid).filter(|uid| *uid != u32::MAX),
                gid: has(set::GID).then_some(gid).filter(|gid| *gid != u32::MAX),
            };
            self.share.set_owner(file, owner)?;
        }
        if has(set::MODE) {
            self.share.set_mode(file, mode)?;
        }
        if has(set::ATIME) || has(set::MTIME) {
            let times = [
                timespec(has(set::ATIME), has(set::ATIME_SET), atime)?,
                timespec(has(set::MTIME), has(set::MTIME_SET), mtime)?,
            ];
            return self.share.set_times(file, times);
        }
        if valid & !(set::ATIME_SET | set::MTIME_SET) == set::CTIME {
            // Any change of attributes moves it, and nothing else can.
            return self.share.set_owner(file, Owner::default());
        }
        Ok(())
    }

    /// `fid[4]`.
    pub(super) fn statfs(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let fid = self.fids.get(fields.u32()?)?;
        let stat = self.share.statfs(fid.file()?.as_fd())?;
        let small = |value: u64| u32::try_from(value).map_err(|_| Errno::OVERFLOW);
        let kind = small((stat.f_type as u64) & u64::from(u32::MAX))?;
        let size = small(stat.f_bsize.unsigned_abs())?;
        request.reply.u32(kind).u32(size);
        request.reply.u64(stat.f_blocks).u64(stat.f_bfree).u64(stat.f_bavail);
        // The number of the file system is the host's business.
        request.reply.u64(stat.f_files).u64(stat.f_ffree).u64(0);
        request.reply.u32(small(stat.f_namelen.unsigned_abs())?);
        Ok(())
    }
}

/// How much a client is to read or write at once: as many of the host's blocks as fit into a message,
/// as every message has its price.
fn block_size(host: u64, room: u64) -> u64 {
    match room.checked_div(host) {
        Some(blocks @ 1..) => blocks * host,
        _ => host,
    }
}

/// A time to set: none, the host's, or the client's.
fn timespec(
    wanted: bool,
    given: bool,
    (seconds, nanoseconds): (i64, u64),
) -> Result<Timespec, Errno> {
    let of = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    match (wanted, given) {
        (false, _) => Ok(of(0, UTIME_OMIT)),
        (true, false) => Ok(of(0, UTIME_NOW)),
        (true, true) if nanoseconds < 1_000_000_000 => Ok(of(seconds, nanoseconds.cast_signed())),
        (true, true) => Err(Errno::INVAL),
    }
}
