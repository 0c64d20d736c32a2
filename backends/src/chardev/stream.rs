//! One descriptor for the device's life: a file, or our end of a terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::{Mode, OFlags};
use trapline_device::{CharBackend, CharDevice, EventHandler, EventLoop, Readiness};

use super::OpenOutlet;
use super::channel::{Channel, Gone};

/// A descriptor with nobody in particular at its other end.
pub(super) struct Stream {
    channel: OnceLock<Channel>,
    /// Whether there can be anything to read.
    reads: bool,
    device: OnceLock<Arc<dyn CharDevice>>,
}

impl Stream {
    pub(super) fn new(
        fd: OwnedFd,
        reads: bool,
        event_loop: &dyn EventLoop,
    ) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self { channel: OnceLock::new(), reads, device: OnceLock::new() });
        let handler: Weak<Self> = Arc::downgrade(&this);
        let channel = Channel::new(fd, event_loop, handler)?;
        this.channel.get_or_init(|| channel);
        Ok(this)
    }
}

/// A file to write to, which need not be a regular one. A pipe needs a reader already.
pub(super) fn file(path: &Path, event_loop: &Arc<dyn EventLoop>) -> io::Result<Arc<Stream>> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?;
    Stream::new(fd, false, &**event_loop)
}

impl EventHandler for Stream {
    fn event(&self, ready: Readiness) {
        if let Some(channel) = self.channel.get() {
            channel.came(ready);
        }
        if let Some(device) = self.device.get() {
            device.poll();
        }
    }
}

impl CharBackend for Stream {
    /// What a full disk does not take is lost, as is all that follows, and nothing else of the guest.
    fn transmit(&self, data: &[u8]) -> usize {
        let written = self.channel.get().map_or(Err(Gone), |channel| channel.write(data));
        written.unwrap_or(data.len())
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        let channel = self.channel.get().filter(|_| self.reads);
        channel.and_then(|channel| channel.read(buf).ok()).unwrap_or(0)
    }
}

impl OpenOutlet for Stream {
    fn attach(&self, device: Arc<dyn CharDevice>) {
        self.device.get_or_init(|| device);
    }
}
