//! Linux's own asynchronous I/O, `io_submit`: the oldest way to keep a disk busy with several
//! requests, and the one that all VMMs were measured with. glibc has no functions for it.
//!
//! Spec: Linux, `include/uapi/linux/aio_abi.h`.

#![expect(unsafe_code, reason = "system calls that no library has a function for")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

const PREAD: u16 = 0;
const PWRITE: u16 = 1;

/// A request, `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// What has become of one, `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    iocb: u64,
    result: i64,
    result2: i64,
}

/// Several requests at a time, each with a block of memory of its own.
pub(crate) struct Batch {
    context: u64,
    memory: Vec<u8>,
    /// Where the first whole block of `memory` begins.
    start: usize,
    block: usize,
    requests: Vec<Iocb>,
    events: Vec<Event>,
}

impl Batch {
    /// Room for `depth` requests of `block` bytes.
    pub(crate) fn new(depth: usize, block: usize) -> Result<Self> {
        let mut context = 0_u64;
        let depth_c = i64::try_from(depth).unwrap_or(i64::MAX);
        // SAFETY: io_setup writes a handle to the address it is given.
        let status = unsafe { libc::syscall(libc::SYS_io_setup, depth_c, &raw mut context) };
        check(status)?;
        let memory = vec![super::DATA; (depth + 1) * block];
        let start = memory.as_ptr().align_offset(block);
        let (requests, events) = (vec![Iocb::default(); depth], vec![Event::default(); depth]);
        Ok(Self { context, memory, start, block, requests, events })
    }

    /// Reads, or writes, a block at each of these offsets, and waits for all.
    pub(crate) fn run(&mut self, file: &File, write: bool, offsets: &[u64]) -> Result<()> {
        let base = self.memory.as_mut_ptr() as usize + self.start;
        let fd = u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX);
        for (at, (request, offset)) in self.requests.iter_mut().zip(offsets).enumerate() {
            *request = Iocb {
                opcode: if write { PWRITE } else { PREAD },
                fd,
                buffer: (base + at * self.block) as u64,
                bytes: self.block as u64,
                offset: i64::try_from(*offset).unwrap_or(i64::MAX),
                ..Iocb::default()
            };
        }
        let list: Vec<*const Iocb> =
            self.requests.iter().take(offsets.len()).map(std::ptr::from_ref).collect();
        let mut begun = 0;
        while let Some(left) = list.get(begun..)
            && !left.is_empty()
        {
            // SAFETY: the list has the addresses of as many requests as it says, whose buffers are
            // blocks of `memory`, which stays until all have completed below.
            let count = unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, left.len(), left.as_ptr())
            };
            begun += check(count)?;
        }
        let mut done = 0;
        while done < begun {
            let (wanted, events) = (begun - done, self.events.as_mut_ptr());
            let forever = std::ptr::null::<u8>();
            // SAFETY: there is room for as many events as requests were ever begun.
            let count = unsafe {
                let number = libc::SYS_io_getevents;
                libc::syscall(number, self.context, wanted, wanted, events, forever)
            };
            let count = check(count)?;
            for event in self.events.iter().take(count) {
                if usize::try_from(event.result).ok() != Some(self.block) {
                    let code = i32::try_from(event.result.wrapping_neg()).unwrap_or(libc::EIO);
                    return Err(Error::from_raw_os_error(code));
                }
            }
            done += count;
        }
        Ok(())
    }
}

fn check(status: i64) -> Result<usize> {
    usize::try_from(status).map_err(|_| Error::last_os_error())
}
