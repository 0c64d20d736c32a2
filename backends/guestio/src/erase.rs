//! Secure erase of block devices: `BLKSECDISCARD`, after which nobody gets at what was there, nor at
//! copies that the device made of it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKSECDISCARD` of `linux/fs.h`: offset and length, in bytes.
const BLKSECDISCARD: libc::c_uint = 0x127d;

/// Whether a device that is open for writing can erase. Linux before 5.19 says so of each that can give
/// up space, and tells only when it is asked to erase ([`secure_erase`]).
pub fn can_secure_erase(device: BorrowedFd<'_>) -> bool {
    // Nothing begins or ends there. A device that can says so; one that cannot says that first.
    let refused = secure_erase(device, 1..2).map_err(|error| error.raw_os_error());
    refused == Err(Some(libc::EINVAL))
}

/// Erases a range of bytes, a multiple of the device's blocks, of it and of the page cache.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] when the device cannot; else the kernel's.
pub fn secure_erase(device: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
    // An empty one would have the kernel drop all of the page cache.
    let len = range.end.saturating_sub(range.start);
    if len == 0 {
        return Ok(());
    }
    let place = [range.start, len];
    // SAFETY: the kernel reads two numbers, which are there for as long as the call.
    #[expect(unsafe_code, reason = "an ioctl that takes the address of two numbers")]
    let done = unsafe { libc::ioctl(device.as_raw_fd(), BLKSECDISCARD.into(), place.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
