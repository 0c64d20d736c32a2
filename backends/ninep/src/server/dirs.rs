//! Entries of folders.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::files::READ_HEADER;
use super::{Request, Server};
use crate::attr::{DIR, LINK};
use crate::fids::{OpenDir, What};
use crate::wire::{Put, Qid, Reader};

/// Bytes of entries that are asked of the kernel at a time: any name fits.
const AT_ONCE: usize = 32 << 10;

/// Length of an entry without its name: `qid[13] offset[8] type[1] name[s]`.
const ENTRY: usize = Qid::LEN + 8 + 1 + 2;

impl Server {
    /// `fid[4] offset[8] count[4]`: entries, from the one behind an entry's `offset` on; 0 is the
    /// first. The offsets are the host's file system's, for which names that come and go do not
    /// matter.
    pub(super) fn readdir(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (fid, offset, count) = (self.fids.get(fields.u32()?)?, fields.u64()?, fields.u32()?);
        let What::Dir(open) = &fid.what else {
            let is_file = matches!(fid.what, What::File(_));
            return Err(if is_file { Errno::NOTDIR } else { Errno::BADF });
        };
        let count = count.min(request.room.saturating_sub(READ_HEADER));
        let room = usize::try_from(count).unwrap_or(usize::MAX);
        let entries = self.entries(open, offset, room)?;
        let len = u32::try_from(entries.len()).map_err(|_| Errno::INVAL)?;
        request.reply.u32(len).extend(entries);
        Ok(())
    }

    fn entries(&self, open: &OpenDir, offset: u64, room: usize) -> Result<Vec<u8>, Errno> {
        let _reading = open.reading.lock();
        let dev = self.share.stat(open.dir.as_fd())?.dev;
        let hidden = self.share.is_hidden(open.dir.as_fd())?;
        rustix::fs::seek(&open.dir, SeekFrom::Start(offset))?;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); AT_ONCE];
        let (mut entries, mut dir) = (Vec::new(), RawDir::new(&open.dir, &mut buffer));
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if hidden && !matches!(name, b"." | b"..") {
                continue;
            }
            if entries.len() + ENTRY + name.len() > room {
                // None at all would be the end of the folder.
                return if entries.is_empty() { Err(Errno::INVAL) } else { Ok(entries) };
            }
            let kind = match entry.file_type() {
                FileType::Directory => crate::qids::kind(DIR),
                FileType::Symlink => crate::qids::kind(LINK),
                _ => 0,
            };
            let path = self.qids.path(dev, entry.ino())?;
            entries.qid(Qid { kind, version: 0, path }).u64(entry.next_entry_cookie());
            entries.u8(self.entry_type(entry.file_type())).string(name);
            // Another look at the folder is the next request's.
            if dir.is_buffer_empty() {
                break;
            }
        }
        Ok(entries)
    }

    /// The type in an entry (`DT_*`).
    fn entry_type(&self, host: FileType) -> u8 {
        const UNKNOWN: u8 = 0;
        match host {
            FileType::Fifo => 1,
            FileType::CharacterDevice => 2,
            FileType::Directory => 4,
            FileType::BlockDevice => 6,
            // It may stand for anything.
            FileType::RegularFile if self.share.is_private(crate::share::PREFIX) => UNKNOWN,
            FileType::RegularFile => 8,
            FileType::Symlink => 10,
            FileType::Socket => 12,
            FileType::Unknown => UNKNOWN,
        }
    }
}
