//! io_uring, whose requests own their buffers until the kernel is done with them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use crate::Buffers;

/// What the kernel is to do.
#[derive(Debug)]
pub enum Operation {
    /// Read from `offset` into `buffers`.
    Read {
        /// Where in the file, in bytes.
        offset: u64,
        /// What is to be filled.
        buffers: Buffers,
    },
    /// Write `buffers` to `offset`.
    Write {
        /// Where in the file, in bytes.
        offset: u64,
        /// What is to be written.
        buffers: Buffers,
        /// Whether it has to be on the medium when it is done (`RWF_DSYNC`).
        durable: bool,
    },
    /// Everything written and done before is to be on the medium (`fdatasync`).
    Sync,
}

/// What has become of an operation.
#[derive(Debug)]
pub struct Completion {
    /// What the caller called it.
    pub tag: u64,
    /// The operation. What was transferred is skipped in its buffers.
    pub operation: Operation,
    /// How many bytes were transferred, which can be fewer than asked for; or the kernel's error.
    pub result: io::Result<u64>,
}

/// A submission and a completion queue.
pub struct Ring {
    ring: IoUring,
    /// What the kernel has, by the number it knows it by.
    in_flight: Vec<Option<InFlight>>,
    free: Vec<usize>,
}

struct InFlight {
    tag: u64,
    operation: Operation,
    /// Held open.
    _file: Arc<File>,
}

impl Ring {
    /// A ring for up to `entries` operations in flight, which writes to the eventfd `completed`
    /// whenever one has completed.
    ///
    /// # Errors
    /// The host has no io_uring, forbids it, or its is too old for one of our operations.
    pub fn new(entries: u32, completed: impl AsFd) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder().dontfork().setup_clamp().build(entries)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE];
        // Without the second, completions that the queue has no room for are lost.
        if !needed.iter().all(|&code| probe.is_supported(code))
            || !ring.params().is_feature_nodrop()
        {
            return Err(io::ErrorKind::Unsupported.into());
        }
        ring.submitter().register_eventfd(completed.as_fd().as_raw_fd())?;
        let entries = usize::try_from(ring.params().sq_entries()).unwrap_or(0);
        let in_flight = std::iter::repeat_with(|| None).take(entries).collect();
        Ok(Self { ring, in_flight, free: (0..entries).rev().collect() })
    }

    /// Whether [`Ring::push`] takes another operation.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether the kernel has nothing of ours.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.in_flight.len()
    }

    /// Puts an operation on `file` into the queue; the kernel hears of it with [`Ring::submit`].
    ///
    /// # Errors
    /// The operation itself, when there is no room.
    pub fn push(
        &mut self,
        file: &Arc<File>,
        operation: Operation,
        tag: u64,
    ) -> Result<(), Operation> {
        let Some(slot) = self.free.pop() else { return Err(operation) };
        let Some(place) = self.in_flight.get_mut(slot) else { return Err(operation) };
        // At its place first: the list of addresses is a part of the buffers.
        let placed = place.insert(InFlight { tag, operation, _file: Arc::clone(file) });
        let entry = entry(file, &placed.operation).user_data(slot as u64);
        // SAFETY: the entry refers to the file and to the buffers' addresses and list of addresses.
        // All of them stay where they are in `in_flight`, which never grows, until the kernel has
        // reported that it is done, or for good.
        #[expect(unsafe_code, reason = "the kernel is given addresses of guest memory")]
        let pushed = unsafe { self.ring.submission().push(&entry) };
        match pushed {
            Ok(()) => Ok(()),
            Err(_) => {
                self.free.push(slot);
                place.take().map_or(Ok(()), |refused| Err(refused.operation))
            }
        }
    }

    /// Tells the kernel of everything that was put into the queue.
    ///
    /// # Errors
    /// The kernel's, which has taken none or some of it. The rest is still in the queue.
    pub fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// An operation that has completed.
    pub fn completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
        let InFlight { tag, mut operation, .. } = self.in_flight.get_mut(slot)?.take()?;
        self.free.push(slot);
        let result = match u64::try_from(entry.result()) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(entry.result().wrapping_neg())),
        };
        match (&mut operation, &result) {
            (Operation::Read { buffers, .. }, Ok(count)) => buffers.have_read(*count),
            (Operation::Write { buffers, .. }, Ok(count)) => buffers.consume(*count),
            (Operation::Sync, _) | (_, Err(_)) => {}
        }
        Some(Completion { tag, operation, result })
    }

    /// Waits until at least one operation has completed, if any is in flight.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self) -> io::Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            done => done.map(drop),
        }
    }
}

fn entry(file: &File, operation: &Operation) -> squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    match operation {
        Operation::Read { offset, buffers } => {
            let (iovecs, count) = buffers.for_kernel();
            opcode::Readv::new(fd, iovecs, count.unsigned_abs()).offset(*offset).build()
        }
        Operation::Write { offset, buffers, durable } => {
            let (iovecs, count) = buffers.for_kernel();
            let flags = if *durable { libc::RWF_DSYNC } else { 0 };
            let write = opcode::Writev::new(fd, iovecs, count.unsigned_abs());
            write.offset(*offset).rw_flags(flags).build()
        }
        Operation::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
    }
}

impl Drop for Ring {
    /// Waits for what is in flight: closing a ring does not, and the kernel would go on writing
    /// into memory that is somebody else's by then.
    fn drop(&mut self) {
        while !self.is_idle() {
            if self.wait().is_err() {
                // Better a leak than that.
                std::mem::forget(std::mem::take(&mut self.in_flight));
                return;
            }
            while self.completion().is_some() {}
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.in_flight.len() - self.free.len();
        f.debug_struct("Ring").field("in_flight", &in_flight).finish_non_exhaustive()
    }
}
