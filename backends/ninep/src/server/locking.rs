//! Locks, as a client asks for them.

use std::os::fd::AsFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Request, Server};
use crate::fids::What;
use crate::locks::Range;
use crate::wire::{Put, Reader};

impl Server {
    /// `fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]`. Nobody waits here: the
    /// client asks again.
    pub(super) fn lock(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (number, kind, _flags) = (fields.u32()?, fields.u8()?, fields.u32()?);
        let fid = self.fids.get(number)?;
        let range = range(kind, fields)?;
        let client = fields.string()?;
        let What::File(open) = &fid.what else { return Err(Errno::BADF) };
        let file = self.qid(&open.file)?.path;
        let flags = if open.is_writable() { OFlags::RDWR } else { OFlags::RDONLY };
        let reopen = || {
            let file = open.file.as_fd();
            // One that was opened for writing only may be one that cannot be read.
            self.share.open_file(file, flags).or_else(|error| match open.is_writable() {
                true => self.share.open_file(file, OFlags::WRONLY),
                false => Err(error),
            })
        };
        let status = self.locks.set((file, number), &range, client, reopen)?;
        request.reply.u8(status);
        Ok(())
    }

    /// `fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]`.
    pub(super) fn getlock(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (fid, kind) = (self.fids.get(fields.u32()?)?, fields.u8()?);
        let range = range(kind, fields)?;
        let client = fields.string()?;
        let What::File(open) = &fid.what else { return Err(Errno::BADF) };
        let file = self.qid(&open.file)?.path;
        let found = self.locks.get(file, &range, client, &open.file)?;
        let reply = &mut *request.reply;
        reply.u8(found.kind).u64(found.start).u64(found.len).u32(found.process).string(client);
        Ok(())
    }
}

/// `start[8] length[8] proc_id[4]`.
fn range(kind: u8, fields: &mut Reader<'_>) -> Result<Range, Errno> {
    Ok(Range { kind, start: fields.u64()?, len: fields.u64()?, process: fields.u32()? })
}
