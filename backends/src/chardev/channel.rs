//! A descriptor that is written and read without waiting, and watched while somebody would wait.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use trapline_device::{EventHandler, EventLoop, Readiness, Watch};

/// The descriptor. It does not block.
pub(super) struct Channel {
    // Dropped before what it watches.
    watch: Box<dyn Watch>,
    fd: Arc<OwnedFd>,
    interest: Mutex<Readiness>,
}

/// Nobody is at the other end any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Channel {
    /// A channel that has `handler` called when what was waited for has come.
    pub(super) fn new(
        fd: OwnedFd,
        event_loop: &dyn EventLoop,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let fd = Arc::new(fd);
        let watch = event_loop.watch(fd.clone(), Readiness::NONE, handler)?;
        Ok(Self { watch, fd, interest: Mutex::new(Readiness::NONE) })
    }

    /// Writes as much as there is room for. If that is not all, room is waited for.
    pub(super) fn write(&self, data: &[u8]) -> Result<usize, Gone> {
        let mut written = 0;
        while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.fd, rest) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.want(|interest| interest.write = true);
                    break;
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(written)
    }

    /// Reads what there is. If that is nothing, something is waited for.
    pub(super) fn read(&self, buf: &mut [u8]) -> Result<usize, Gone> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match rustix::io::read(self.fd.as_fd(), &mut *buf) {
                Ok(0) => return Err(Gone),
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.want(|interest| interest.read = true);
                    return Ok(0);
                }
                Err(_) => return Err(Gone),
            }
        }
    }

    /// What has come is waited for no longer.
    pub(super) fn came(&self, ready: Readiness) {
        self.want(|interest| {
            interest.read &= !ready.read;
            interest.write &= !ready.write;
        });
    }

    /// Nothing is waited for any more.
    pub(super) fn rest(&self) {
        self.want(|interest| *interest = Readiness::NONE);
    }

    fn want(&self, change: impl FnOnce(&mut Readiness)) {
        let mut interest = self.interest.lock();
        let before = *interest;
        change(&mut interest);
        // The watch is there already, so the host needs no more memory for it.
        if *interest != before
            && let Err(error) = self.watch.set_interest(*interest)
        {
            tracing::debug!("a character device's descriptor cannot be watched: {error}");
        }
    }
}
