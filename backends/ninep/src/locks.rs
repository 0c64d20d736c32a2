//! Locks on ranges of files, which a guest's processes share with those of the host and of other
//! guests.
//!
//! POSIX has them belong to a process and a file, whatever descriptors it has of the file. Linux'
//! client says whose a lock is. So each owner of locks on a file has an open file of its own for
//! them here, and they are those of that (`F_OFD_SETLK`).

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use parking_lot::Mutex;
use rustix::io::Errno;

/// Types of a lock (`P9_LOCK_TYPE_*`).
pub(crate) const READ: u8 = 0;
pub(crate) const WRITE: u8 = 1;
pub(crate) const UNLOCK: u8 = 2;

/// What becomes of a request for a lock (`P9_LOCK_*`).
pub(crate) const SUCCESS: u8 = 0;
pub(crate) const BLOCKED: u8 = 1;
pub(crate) const ERROR: u8 = 2;

/// The most owners that have locks at a time.
const OWNERS_MAX: usize = 4096;

/// The most bytes of a client's name: more than any Linux host's.
const CLIENT_MAX: usize = 256;

/// A range of a file and what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// [`READ`], [`WRITE`] or [`UNLOCK`].
    pub(crate) kind: u8,
    pub(crate) start: u64,
    /// 0 is up to the end, wherever that will be.
    pub(crate) len: u64,
    /// The process on the client.
    pub(crate) process: u32,
}

/// Whose a lock is: the file's number, and the process of a client.
type Key = (u64, u32, Vec<u8>);

/// An owner's open file, and the fids that it has locked by.
struct Owner {
    file: Arc<OwnedFd>,
    fids: HashSet<u32>,
}

/// All locks of a session.
#[derive(Default)]
pub(crate) struct Locks {
    owners: Mutex<HashMap<Key, Owner>>,
}

impl Locks {
    /// Takes or gives back a lock on the file with this number, by a fid. `open` opens the file again,
    /// if this is its owner's first lock. Returns what has become of it, as the client is told.
    ///
    /// # Errors
    /// `EINVAL` for what is no lock.
    pub(crate) fn set(
        &self,
        (file, fid): (u64, u32),
        range: &Range,
        client: &[u8],
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<u8, Errno> {
        let lock = flock(range)?;
        let key = key(file, range, client)?;
        let mut owners = self.owners.lock();
        if !owners.contains_key(&key) {
            if range.kind == UNLOCK {
                return Ok(SUCCESS);
            }
            if owners.len() >= OWNERS_MAX {
                return Ok(ERROR);
            }
            let Ok(file) = open() else { return Ok(ERROR) };
            owners.insert(key.clone(), Owner { file: Arc::new(file), fids: HashSet::new() });
        }
        let Some(owner) = owners.get_mut(&key) else { return Ok(ERROR) };
        let set = fcntl(owner.file.as_fd(), FcntlArg::F_OFD_SETLK(&lock));
        let status = match set {
            Ok(_) => SUCCESS,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => BLOCKED,
            Err(_) => ERROR,
        };
        if status == SUCCESS && range.kind != UNLOCK {
            owner.fids.insert(fid);
        }
        let all_given_back = range.kind == UNLOCK && range.start == 0 && range.len == 0;
        if owner.fids.is_empty() || all_given_back && status == SUCCESS {
            owners.remove(&key);
        }
        Ok(status)
    }

    /// Who would be in the way of a lock: the range that they have locked, of type [`UNLOCK`] if
    /// nobody is. `own` is the file that is asked by, if the owner has no lock on it yet.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for what is no lock.
    pub(crate) fn get(
        &self,
        file: u64,
        range: &Range,
        client: &[u8],
        own: &OwnedFd,
    ) -> Result<Range, Errno> {
        let mut lock = flock(range)?;
        let key = key(file, range, client)?;
        let known = self.owners.lock().get(&key).map(|owner| Arc::clone(&owner.file));
        let asked = known.as_ref().map_or(own.as_fd(), |file| file.as_fd());
        fcntl(asked, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(errno)?;
        let kind = match i32::from(lock.l_type) {
            libc::F_RDLCK => READ,
            libc::F_WRLCK => WRITE,
            _ => return Ok(Range { kind: UNLOCK, ..*range }),
        };
        Ok(Range {
            kind,
            start: lock.l_start.cast_unsigned(),
            len: lock.l_len.cast_unsigned(),
            // Locks of an open file are no process's.
            process: u32::try_from(lock.l_pid).unwrap_or(0),
        })
    }

    /// Gives back the locks of those who have locked by this fid alone.
    pub(crate) fn forget(&self, fid: u32) {
        self.owners.lock().retain(|_, owner| !owner.fids.remove(&fid) || !owner.fids.is_empty());
    }

    /// Gives all locks back.
    pub(crate) fn clear(&self) {
        self.owners.lock().clear();
    }
}

fn key(file: u64, range: &Range, client: &[u8]) -> Result<Key, Errno> {
    match client.len() <= CLIENT_MAX {
        true => Ok((file, range.process, client.to_vec())),
        false => Err(Errno::INVAL),
    }
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

fn flock(range: &Range) -> Result<libc::flock, Errno> {
    let kind = match range.kind {
        READ => libc::F_RDLCK,
        WRITE => libc::F_WRLCK,
        UNLOCK => libc::F_UNLCK,
        _ => return Err(Errno::INVAL),
    };
    let (start, len) = (i64::try_from(range.start), i64::try_from(range.len));
    let narrow = |value: i32| i16::try_from(value).map_err(|_| Errno::INVAL);
    Ok(libc::flock {
        l_type: narrow(kind)?,
        l_whence: narrow(libc::SEEK_SET)?,
        l_start: start.map_err(|_| Errno::INVAL)?,
        l_len: len.map_err(|_| Errno::INVAL)?,
        // Has to be 0.
        l_pid: 0,
    })
}
