//! The file of an image: opened, locked, and looked at.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::probe::{PROBE_LEN, Probed, probe};
use crate::{Error, Format, lock};

/// How long locks of somebody else are waited for.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// An image's file, with the locks on it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    /// As the user has it.
    pub(crate) path: PathBuf,
    pub(crate) metadata: Metadata,
    pub(crate) writable: bool,
    pub(crate) direct: bool,
}

impl Opened {
    /// Opens a regular file or a block device, and locks it against other writers.
    ///
    /// A process that is killed with requests in io_uring holds its locks a moment longer than it
    /// is there, so whoever starts again right after that waits for them, [`LOCK_WAIT`] at most.
    pub(crate) fn new(path: &Path, writable: bool, direct: bool) -> Result<Self, Error> {
        let begin = Instant::now();
        loop {
            match Self::try_new(path, writable, direct) {
                Err(Error::InUse { .. }) if begin.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                done => return done,
            }
        }
    }

    fn try_new(path: &Path, writable: bool, direct: bool) -> Result<Self, Error> {
        let failed = |reason| Error::Open { path: path.to_owned(), reason };
        // Nothing else is even opened: that can have effects, or never end.
        judge(path, &path.metadata().map_err(failed)?)?;
        let flags = libc::O_NONBLOCK | if direct { libc::O_DIRECT } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).write(writable).custom_flags(flags);
        let file = options.open(path).map_err(|reason| {
            match direct && reason.raw_os_error() == Some(libc::EINVAL) {
                true => Error::NoDirect { path: path.to_owned() },
                false => failed(reason),
            }
        })?;
        let metadata = file.metadata().map_err(failed)?;
        judge(path, &metadata)?;
        match lock::take(&file, writable) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(Error::InUse { path: path.to_owned(), writing: writable });
            }
            // Not every file system has locks, and a disk without is better than none.
            Err(error) => tracing::warn!("disk image {} cannot be locked: {error}", path.display()),
        }
        leave_access_time(&file);
        Ok(Self { file, path: path.to_owned(), metadata, writable, direct })
    }

    pub(crate) fn is_device(&self) -> bool {
        self.metadata.file_type().is_block_device()
    }

    /// What the image looks like.
    pub(crate) fn probe(&self) -> Result<Probed, Error> {
        let failed = |reason| Error::Open { path: self.path.clone(), reason };
        let mut first = [0; PROBE_LEN];
        // Without the page cache the buffer would have to be aligned; so it is read through it.
        let cached = match self.direct {
            true => Some(File::open(&self.path).map_err(failed)?),
            false => None,
        };
        let file = cached.as_ref().unwrap_or(&self.file);
        let mut len = 0;
        while let Some(rest) = first.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, len as u64) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(probe(first.get(..len).unwrap_or_default()))
    }

    /// The format the user asks for, or else the one it looks like.
    pub(crate) fn format(&self, asked: Option<Format>, probed: Probed) -> Result<Format, Error> {
        match (asked, probed) {
            (Some(format), _) | (None, Probed::Known(format)) => Ok(format),
            (None, Probed::Foreign(format)) => {
                Err(Error::Foreign { path: self.path.clone(), format })
            }
        }
    }
}

/// Has what a guest reads leave the file's time of access as it is (`O_NOATIME`), which is looked at and
/// perhaps written at each read otherwise. Only its owner may ask for that.
fn leave_access_time(file: &File) {
    let set = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::NOATIME));
    if let Err(error) = set {
        tracing::debug!("the time of access of a disk image will change: {error}");
    }
}

/// Whether it is something that can be a disk.
fn judge(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let kind = metadata.file_type();
    match kind.is_file() || kind.is_block_device() {
        true => Ok(()),
        false if kind.is_dir() => Err(Error::Directory { path: path.to_owned() }),
        false => Err(Error::NoDisk { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_leave_the_time_of_access() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        std::fs::write(&path, [0; 512]).unwrap();
        for writable in [false, true] {
            let opened = Opened::new(&path, writable, false).unwrap();
            assert!(fcntl_getfl(&opened.file).unwrap().contains(OFlags::NOATIME));
        }
    }
}
