//! Frames over a stream socket, each behind its length: 4 bytes, big-endian. QEMU (`-netdev socket`
//! and `stream`) and passt speak so.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use trapline_device::{EventHandler, EventLoop, Readiness, Watch};
use trapline_guestio::Buffers;

use crate::passt::{self, Process};
use crate::{Abilities, FRAME_MAX, HEADER_LEN, Header, Mac, NetBackend, NetCard, rarp};

/// Bytes of a length.
const PREFIX: usize = 4;

/// A stream of frames. When whoever is at the other end has gone, the link is down.
pub struct FrameStream {
    // Dropped before what it calls.
    watch: OnceLock<Box<dyn Watch>>,
    fd: Arc<OwnedFd>,
    card: OnceLock<Weak<dyn NetCard>>,
    inner: Mutex<Inner>,
    _handler: OnceLock<Arc<Arrived>>,
    /// Who is at the other end, if it was started for that.
    process: Option<Process>,
    /// That it has ended.
    end: OnceLock<Box<dyn Watch>>,
    _ended: OnceLock<Arc<Ended>>,
}

struct Inner {
    interest: Readiness,
    gone: bool,
    /// What was read, from `start` on, and not used yet.
    input: Vec<u8>,
    start: usize,
    /// The frame that is being sent, from `sent` on: its length, then its bytes.
    output: Vec<u8>,
    sent: usize,
}

/// Called by the loop.
struct Arrived(Weak<FrameStream>);

impl EventHandler for Arrived {
    fn event(&self, ready: Readiness) {
        if let Some(stream) = self.0.upgrade() {
            stream.event(ready);
        }
    }
}

/// Called by the loop when the process at the other end has ended.
struct Ended(Weak<FrameStream>);

impl EventHandler for Ended {
    fn event(&self, _ready: Readiness) {
        if let Some(stream) = self.0.upgrade() {
            stream.inner.lock().gone = true;
            stream.lost();
        }
    }
}

impl FrameStream {
    /// Frames over `socket`, whoever is at its other end.
    ///
    /// # Errors
    /// The operating system's, when it watches no more descriptors.
    pub fn new(socket: OwnedFd, event_loop: &dyn EventLoop) -> io::Result<Arc<Self>> {
        Self::over(socket, event_loop, None)
    }

    /// Frames over a socket to a process that was started for that. It ends with the stream.
    pub(crate) fn of_process(
        socket: OwnedFd,
        process: Process,
        event_loop: &dyn EventLoop,
    ) -> io::Result<Arc<Self>> {
        let end = process.end()?;
        let this = Self::over(socket, event_loop, Some(process))?;
        let handler = Arc::new(Ended(Arc::downgrade(&this)));
        let called: Weak<Ended> = Arc::downgrade(&handler);
        let watch = event_loop.watch(Arc::new(end), Readiness::READ, called)?;
        this.end.get_or_init(|| watch);
        this._ended.get_or_init(|| handler);
        Ok(this)
    }

    fn over(
        socket: OwnedFd,
        event_loop: &dyn EventLoop,
        process: Option<Process>,
    ) -> io::Result<Arc<Self>> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let inner = Inner {
            interest: Readiness::NONE,
            gone: false,
            input: Vec::new(),
            start: 0,
            output: Vec::new(),
            sent: 0,
        };
        let this = Arc::new(Self {
            watch: OnceLock::new(),
            fd: Arc::new(socket),
            card: OnceLock::new(),
            inner: Mutex::new(inner),
            _handler: OnceLock::new(),
            process,
            end: OnceLock::new(),
            _ended: OnceLock::new(),
        });
        let handler = Arc::new(Arrived(Arc::downgrade(&this)));
        let called: Weak<Arrived> = Arc::downgrade(&handler);
        let watch = event_loop.watch(this.fd.clone(), Readiness::NONE, called)?;
        this.watch.get_or_init(|| watch);
        this._handler.get_or_init(|| handler);
        Ok(this)
    }

    fn event(&self, ready: Readiness) {
        let Some(card) = self.card.get().and_then(Weak::upgrade) else { return };
        if ready.write {
            let done = self.finish(&mut self.inner.lock());
            if done {
                card.room(0);
            }
        }
        if ready.read {
            card.ready(0);
        }
        let gone = self.inner.lock().gone;
        if gone {
            self.lost();
        }
    }

    /// There is nobody at the other end any more: says so, and leaves descriptors alone.
    fn lost(&self) {
        self.want(&mut self.inner.lock(), |interest| *interest = Readiness::NONE);
        if let Some(process) = &self.process {
            process.has_gone();
        }
        if let Some(Err(error)) = self.end.get().map(|end| end.set_interest(Readiness::NONE)) {
            tracing::debug!("the end of a process cannot be watched: {error}");
        }
        if let Some(card) = self.card.get().and_then(Weak::upgrade) {
            card.link_changed();
        }
    }

    fn want(&self, inner: &mut Inner, change: impl FnOnce(&mut Readiness)) {
        let before = inner.interest;
        change(&mut inner.interest);
        if inner.gone {
            inner.interest = Readiness::NONE;
        }
        // The watch is there already, so the host needs no more memory for it.
        if inner.interest != before
            && let Some(watch) = self.watch.get()
            && let Err(error) = watch.set_interest(inner.interest)
        {
            tracing::debug!("a network socket cannot be watched: {error}");
        }
    }

    /// Sends what is left of the last frame. Whether that was all.
    fn finish(&self, inner: &mut Inner) -> bool {
        while let Some(rest) = inner.output.get(inner.sent..).filter(|rest| !rest.is_empty()) {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(self.fd.as_fd(), rest, flags) {
                Ok(count) => inner.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.want(inner, |interest| interest.write = true);
                    return false;
                }
                Err(_) => {
                    inner.gone = true;
                    break;
                }
            }
        }
        inner.output.clear();
        inner.sent = 0;
        self.want(inner, |interest| interest.write = false);
        true
    }

    /// Reads more, as long as a frame can be.
    fn fill(&self, inner: &mut Inner) -> io::Result<()> {
        inner.input.drain(..inner.start);
        inner.start = 0;
        let before = inner.input.len();
        inner.input.resize(PREFIX + FRAME_MAX, 0);
        let room = inner.input.get_mut(before..).unwrap_or_default();
        let read = loop {
            match rustix::io::read(self.fd.as_fd(), &mut *room) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        inner.input.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(count) if count > 0 => Ok(()),
            _ => {
                inner.gone = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

impl Inner {
    /// Takes out the next frame, if all of it is there.
    fn next_frame(&mut self) -> Option<&[u8]> {
        let input = self.input.get(self.start..).unwrap_or_default();
        let (prefix, rest) = input.split_first_chunk::<PREFIX>()?;
        let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if len > FRAME_MAX {
            // What follows would have to be thrown away unseen: nothing makes sense after that.
            self.gone = true;
            return None;
        }
        let frame = rest.get(..len)?;
        self.start += PREFIX + len;
        Some(frame)
    }
}

impl NetBackend for FrameStream {
    fn abilities(&self) -> Abilities {
        let mtu = self.process.as_ref().map(|_| passt::MTU);
        Abilities { mtu, ..Abilities::PLAIN }
    }

    fn attach(&self, card: Weak<dyn NetCard>) {
        self.card.get_or_init(|| card);
    }

    fn has_link(&self) -> bool {
        !self.inner.lock().gone
    }

    fn set_receiving(&self, _pair: u16, on: bool) {
        self.want(&mut self.inner.lock(), |interest| interest.read = on);
    }

    fn send(&self, _pair: u16, _header: &Header, frame: &mut Buffers) -> io::Result<()> {
        let inner = &mut *self.inner.lock();
        if inner.gone {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if !inner.output.is_empty() && !self.finish(inner) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = usize::try_from(frame.len()).unwrap_or(usize::MAX);
        let prefix = u32::try_from(len).ok().filter(|_| len <= FRAME_MAX);
        let prefix = prefix.ok_or(io::ErrorKind::InvalidInput)?;
        inner.output.extend(prefix.to_be_bytes());
        inner.output.resize(PREFIX + len, 0);
        frame.copy_to(inner.output.get_mut(PREFIX..).unwrap_or_default());
        self.finish(inner);
        Ok(())
    }

    /// If there is no room it is lost, as on any wire.
    fn announce(&self, mac: Mac) {
        let inner = &mut *self.inner.lock();
        if !inner.gone && (inner.output.is_empty() || self.finish(inner)) {
            let frame = rarp(mac);
            let len = u32::try_from(frame.len()).unwrap_or(0);
            inner.output.extend(len.to_be_bytes().into_iter().chain(frame));
            self.finish(inner);
        }
    }

    fn receive(&self, _pair: u16, buf: &mut [u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.lock();
        let blocks = || io::Error::from(io::ErrorKind::WouldBlock);
        loop {
            if inner.gone {
                return Err(blocks());
            }
            if let Some(frame) = inner.next_frame() {
                let len = HEADER_LEN + frame.len();
                let room = buf.get_mut(..len).ok_or(io::ErrorKind::InvalidInput)?;
                let (header, rest) = room.split_at_mut(HEADER_LEN);
                header.fill(0);
                rest.copy_from_slice(frame);
                return Ok(len);
            }
            self.fill(inner)?;
        }
    }
}

#[cfg(test)]
impl FrameStream {
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }
}

#[cfg(test)]
mod tests;
