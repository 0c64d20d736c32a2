//! Fids: a client's numbers for files, and what they are.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::wire::open;

/// What a fid is.
#[derive(Clone)]
pub(crate) struct Fid {
    /// The user that the client attached for; -1 is nobody in particular.
    pub(crate) uid: u32,
    pub(crate) what: What,
}

/// A file, or something of a file.
#[derive(Clone)]
pub(crate) enum What {
    /// A file that is not open (`O_PATH`).
    Place(Arc<OwnedFd>),
    /// An open regular file.
    File(Arc<OpenFile>),
    /// An open folder.
    Dir(Arc<OpenDir>),
    /// The value of an extended attribute, or the list of their names.
    Value(Arc<Held>),
    /// An extended attribute on its way.
    NewValue(Arc<NewValue>),
}

/// An open regular file.
pub(crate) struct OpenFile {
    pub(crate) file: OwnedFd,
    /// What it was opened with (`P9_DOTL_*`), but for what happens once.
    pub(crate) flags: u32,
}

impl OpenFile {
    /// Whether it can be written to.
    pub(crate) fn is_writable(&self) -> bool {
        open::is_writing(self.flags)
    }
}

/// An open folder.
pub(crate) struct OpenDir {
    pub(crate) dir: OwnedFd,
    /// Held while entries are read: the position is the descriptor's.
    pub(crate) reading: Mutex<()>,
}

/// An extended attribute that is to be set when its fid is given back.
pub(crate) struct NewValue {
    /// Of which file.
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) name: Vec<u8>,
    /// `XATTR_CREATE`, `XATTR_REPLACE`.
    pub(crate) flags: u32,
    /// How long it is to be.
    pub(crate) len: usize,
    /// What has been written of it.
    pub(crate) value: Mutex<Held>,
}

/// Memory that is held for a client.
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    counted: u64,
    all: Arc<AtomicU64>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// The most bytes of extended attributes that are held at a time: what a few hundred processes
/// would be busy with.
const HELD_MAX: u64 = 4 << 20;

/// What holding anything costs besides its bytes.
const HELD_LEAST: u64 = 1024;

impl Fid {
    /// The descriptor of the file that it is.
    pub(crate) fn file(&self) -> Result<&OwnedFd, Errno> {
        match &self.what {
            What::Place(file) => Ok(file),
            What::File(open) => Ok(&open.file),
            What::Dir(open) => Ok(&open.dir),
            What::Value(_) | What::NewValue(_) => Err(Errno::BADF),
        }
    }

    /// The same file, not open.
    pub(crate) fn place(&self) -> Result<Arc<OwnedFd>, Errno> {
        match &self.what {
            What::Place(file) => Ok(Arc::clone(file)),
            _ => Ok(Arc::new(rustix::io::fcntl_dupfd_cloexec(self.file()?, 3)?)),
        }
    }
}

/// All fids of a session.
pub(crate) struct Fids {
    table: Mutex<HashMap<u32, Fid>>,
    max: usize,
    held: Arc<AtomicU64>,
}

impl Fids {
    /// None yet, and at most `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self { table: Mutex::default(), max, held: Arc::default() }
    }

    /// What this fid is.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub(crate) fn get(&self, fid: u32) -> Result<Fid, Errno> {
        self.table.lock().get(&fid).cloned().ok_or(Errno::BADF)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(u32, Fid)> {
        self.table.lock().iter().map(|(number, fid)| (*number, fid.clone())).collect()
    }

    /// A new fid.
    ///
    /// # Errors
    /// `EBADF` if there is one of that number; `ENFILE` if there are too many.
    pub(crate) fn add(&self, number: u32, fid: Fid) -> Result<(), Errno> {
        let mut table = self.table.lock();
        if table.contains_key(&number) || number == crate::wire::NOFID {
            return Err(Errno::BADF);
        }
        if table.len() >= self.max {
            return Err(Errno::NFILE);
        }
        table.insert(number, fid);
        Ok(())
    }

    /// Makes something else of a fid, unless it has been given back meanwhile.
    ///
    /// # Errors
    /// `EBADF` if it has.
    pub(crate) fn change(&self, number: u32, what: What) -> Result<(), Errno> {
        let old = {
            let mut table = self.table.lock();
            let fid = table.get_mut(&number).ok_or(Errno::BADF)?;
            std::mem::replace(&mut fid.what, what)
        };
        // A file may be closed here, which can take its time.
        drop(old);
        Ok(())
    }

    /// Gives a fid back.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub(crate) fn remove(&self, fid: u32) -> Result<Fid, Errno> {
        self.table.lock().remove(&fid).ok_or(Errno::BADF)
    }

    /// Gives all of them back.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.table.lock());
        drop(all);
    }

    /// Memory for bytes of an extended attribute, as many as `bytes` has or is to get.
    ///
    /// # Errors
    /// `ENOMEM` if too much is held already.
    pub(crate) fn hold(&self, bytes: Vec<u8>, len: usize) -> Result<Held, Errno> {
        let counted = (len as u64).max(HELD_LEAST);
        let held = Held { bytes, counted, all: Arc::clone(&self.held) };
        // If it is too much, it is given back as it is dropped.
        match self.held.fetch_add(counted, Ordering::Relaxed) + counted <= HELD_MAX {
            true => Ok(held),
            false => Err(Errno::NOMEM),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_comes_free_again() {
        let fids = Fids::new(1);
        let most = usize::try_from(HELD_MAX).unwrap();
        let all = fids.hold(Vec::new(), most).unwrap();
        assert_eq!(fids.hold(Vec::new(), 0).err(), Some(Errno::NOMEM));
        drop(all);
        let many: Vec<Held> =
            std::iter::from_fn(|| fids.hold(Vec::new(), 0).ok()).take(10_000).collect();
        assert_eq!(many.len() as u64, HELD_MAX / HELD_LEAST);
    }
}
