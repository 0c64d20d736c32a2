//! Descriptors that this process was started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A descriptor of our own for the one with this number, which a user has named: whoever started this
/// process has put it there. It stays open besides.
///
/// # Errors
/// There is none with that number, or there are no more to be had.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel looks whether there is such a descriptor, and changes nothing of it.
    #[expect(unsafe_code, reason = "a number in place of a descriptor")]
    let ours = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if ours < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, for us alone.
    #[expect(unsafe_code, reason = "the kernel has given us a number")]
    let ours = unsafe { OwnedFd::from_raw_fd(ours) };
    Ok(ours)
}
