//! Locks against two writers of one image, as QEMU takes them (`block/file-posix.c`), so that
//! `qemu-img` and QEMU keep away from a running guest's image and we from theirs.
//!
//! A user of an image holds a byte lock for each thing it does, and one for each thing it does not
//! suffer of others. The locks are those of the open file, so that they end with it, however the
//! process ends.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// The byte of somebody who does thing 0 (`RAW_LOCK_PERM_BASE`).
const DOES: i64 = 100;
/// The byte of somebody who does not suffer thing 0 of others (`RAW_LOCK_SHARED_BASE`).
const SUFFERS_NOT: i64 = 200;
/// To read what is in the image (`BLK_PERM_CONSISTENT_READ`, bit 0).
const READ: i64 = 0;
/// To write to it (`BLK_PERM_WRITE`, bit 1).
const WRITE: i64 = 1;

/// Takes the locks of a reader, or of a writer, who suffers no (other) writer.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] when somebody else is in the way; what the kernel says, if it
/// says anything else.
pub(crate) fn take(file: &File, writing: bool) -> io::Result<()> {
    let does: &[i64] = if writing { &[READ, WRITE] } else { &[READ] };
    let suffers_not = [WRITE];
    for thing in does {
        set(file, DOES + thing)?;
    }
    for thing in suffers_not {
        set(file, SUFFERS_NOT + thing)?;
    }
    let taken = |byte| is_others(file, byte);
    for thing in does {
        if taken(SUFFERS_NOT + thing)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
    }
    for thing in suffers_not {
        if taken(DOES + thing)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
    }
    Ok(())
}

/// Holds a byte, which others may hold as well.
fn set(file: &File, byte: i64) -> io::Result<()> {
    let lock = flock(libc::F_RDLCK, byte);
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(io::ErrorKind::ResourceBusy.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether somebody else holds a byte.
fn is_others(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, byte);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

fn flock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}
