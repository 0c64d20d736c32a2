//! Descriptors that this process was started with, and those that programs get which it starts.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

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

/// Has no program that is started from here on find any descriptor of this process's but standard input,
/// output and error, whoever has opened it, and be it whoever started this process.
///
/// # Errors
/// The kernel's, where it is older than 5.11.
pub fn keep_from_children() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: descriptors stay open; what they do at an exec is nobody's to count on.
    #[expect(unsafe_code, reason = "descriptors by their numbers")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the program that `command` starts find this descriptor under the number that is returned, and no other
/// program that is started meanwhile. It is open here for as long as `command` is.
pub fn hand_down(command: &mut Command, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    let keep = move || Ok(rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?);
    // SAFETY: between fork and exec there is one system call, which allocates nothing and takes no lock.
    #[expect(unsafe_code, reason = "something is done between fork and exec")]
    unsafe {
        command.pre_exec(keep);
    }
    number
}
