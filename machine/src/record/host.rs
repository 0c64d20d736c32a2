//! Adapters between devices and what they have of the host: the event loop, guest memory, disks, shared
//! folders, networks, random bytes. What comes through them is in the journal.
//!
//! ```text
//!   event loop ──► [`JournaledLoop`]: which handler was called ──► device
//!   RAM ─────────► [`JournaledMemory`]: what was read, hashes of what was written ──► device
//!   back end ────► `JournaledNet` (`net.rs`), [`JournaledEntropy`], [`JournaledWitness`]: its answers ──► device
//! ```

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use trapline_device::{
    CharDevice, Doorbell, EventHandler, EventLoop, Notifier, Pieces, Readiness, Watch,
    WatchedEventFd, Witness,
};
use trapline_guestmem::{GuestMem, Tap};
use trapline_virtio::rng::Entropy;

use super::journal::{Input, Journal, Output, hash_pieces};

/// An event loop for one device, whose handlers' calls are in the journal. They are numbered as they are
/// made.
pub(crate) struct JournaledLoop {
    inner: Arc<dyn EventLoop>,
    journal: Arc<dyn Journal>,
    port: u16,
    next: AtomicU64,
}

impl JournaledLoop {
    /// Around `inner`, for the device of this name.
    pub(crate) fn around(
        inner: &Arc<dyn EventLoop>,
        journal: &Arc<dyn Journal>,
        name: &str,
    ) -> Arc<dyn EventLoop> {
        let (inner, journal) = (Arc::clone(inner), Arc::clone(journal));
        let port = journal.port(name);
        Arc::new(Self { inner, journal, port, next: AtomicU64::new(0) })
    }

    fn wrap(&self, target: Weak<dyn EventHandler>) -> Weak<dyn EventHandler> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        listen(&self.journal, (self.port, number), target)
    }
}

/// Has calls of `target` be in the journal, under this port and number.
pub(super) fn listen(
    journal: &Arc<dyn Journal>,
    (port, number): (u16, u64),
    target: Weak<dyn EventHandler>,
) -> Weak<dyn EventHandler> {
    let handler = Arc::new(JournaledHandler {
        journal: Arc::downgrade(journal),
        port,
        number,
        target: target.clone(),
    });
    let called: Weak<JournaledHandler> = Arc::downgrade(&handler);
    journal.listens(port, number, handler, target);
    called
}

/// The journal keeps it.
struct JournaledHandler {
    journal: Weak<dyn Journal>,
    port: u16,
    number: u64,
    target: Weak<dyn EventHandler>,
}

/// How a call of a handler is written down: its number, and what its descriptor is ready for.
const READY_BITS: u32 = 2;

/// The number of a handler, and what it was told.
pub(crate) fn call_of(value: u64) -> (u64, Readiness) {
    let ready = Readiness { read: value & 1 != 0, write: value & 2 != 0 };
    (value >> READY_BITS, ready)
}

impl EventHandler for JournaledHandler {
    fn event(&self, ready: Readiness) {
        let Some(target) = self.target.upgrade() else { return };
        if let Some(journal) = self.journal.upgrade() {
            let _step = journal.step();
            let bits = u64::from(ready.read) | u64::from(ready.write) << 1;
            let value = self.number << READY_BITS | bits;
            journal.event(self.port, Input::Event, value, &[]);
            target.event(ready);
        }
    }
}

impl EventLoop for JournaledLoop {
    fn watch(
        &self,
        fd: Arc<dyn AsFd + Send + Sync>,
        interest: Readiness,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Box<dyn Watch>> {
        self.inner.watch(fd, interest, self.wrap(handler))
    }

    fn notifier(&self, handler: Weak<dyn EventHandler>) -> Box<dyn Notifier> {
        self.inner.notifier(self.wrap(handler))
    }

    fn doorbell(&self, handler: Weak<dyn EventHandler>) -> io::Result<Doorbell> {
        self.inner.doorbell(self.wrap(handler))
    }

    fn eventfd(&self, handler: Weak<dyn EventHandler>) -> io::Result<WatchedEventFd> {
        self.inner.eventfd(self.wrap(handler))
    }
}

/// Guest RAM for devices: what they read is in the journal, and a hash of what they write.
pub(crate) struct JournaledMemory {
    journal: Arc<dyn Journal>,
    port: u16,
}

impl JournaledMemory {
    /// The same RAM by way of the journal.
    pub(crate) fn around(ram: &GuestMem, journal: &Arc<dyn Journal>) -> GuestMem {
        let port = journal.port("memory");
        ram.with_tap(Arc::new(Self { journal: Arc::clone(journal), port }))
    }
}

impl std::fmt::Debug for JournaledMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JournaledMemory")
    }
}

impl Tap for JournaledMemory {
    fn read(&self, addr: u64, data: &mut [u8]) {
        self.journal.memory(self.port, addr, data);
    }

    fn wrote(&self, addr: u64, data: &[u8]) {
        let all = [&addr.to_le_bytes(), data];
        let len = all.iter().map(|part| part.len() as u64).sum();
        let written = hash_pieces(len, |piece| all.into_iter().for_each(piece));
        self.journal.output(self.port, Output::Written, written);
    }
}

/// What the host answers a back end.
pub(crate) struct JournaledWitness {
    journal: Arc<dyn Journal>,
    port: u16,
}

impl JournaledWitness {
    /// Of the back end of this name.
    pub(crate) fn of(journal: &Arc<dyn Journal>, name: &str) -> Arc<dyn Witness> {
        let port = journal.port(name);
        Arc::new(Self { journal: Arc::clone(journal), port })
    }
}

impl Witness for JournaledWitness {
    fn answer(&self, usual: u64, ask: &mut dyn FnMut() -> u64) -> u64 {
        self.journal.number(self.port, Input::Answer, usual, ask)
    }

    fn arrived(&self, came: Vec<u64>) -> Vec<u64> {
        self.journal.arrived(self.port, came)
    }

    fn payload(&self, len: u64, copy: &mut Pieces<'_>) {
        self.journal.payload(self.port, len, copy);
    }
}

/// Random bytes, which are in the journal.
pub(crate) struct JournaledEntropy<E> {
    pub(crate) inner: E,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) port: u16,
}

impl<E: Entropy> Entropy for JournaledEntropy<E> {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        let wanted = buf.len();
        let mut done = Ok(());
        let filled = self.journal.bytes(self.port, Input::Received, buf, &mut |buf| {
            done = self.inner.fill(buf);
            if done.is_ok() { buf.len() } else { 0 }
        });
        done?;
        if filled < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

/// A port of the console device for its back end to call, by way of the journal.
struct JournaledPort {
    inner: Arc<dyn CharDevice>,
    journal: Arc<dyn Journal>,
    called: Weak<dyn EventHandler>,
    _poll: Arc<Polls>,
}

/// A device is polled.
struct Polls(Weak<dyn CharDevice>);

impl EventHandler for Polls {
    fn event(&self, _ready: Readiness) {
        if let Some(device) = self.0.upgrade() {
            device.poll();
        }
    }
}

/// The port by way of the journal.
pub(crate) fn char_device(
    inner: Arc<dyn CharDevice>,
    journal: &Arc<dyn Journal>,
    name: &str,
) -> Arc<dyn CharDevice> {
    let poll = Arc::new(Polls(Arc::downgrade(&inner)));
    let target: Weak<Polls> = Arc::downgrade(&poll);
    let called = listen(journal, (journal.port(name), 0), target);
    Arc::new(JournaledPort { inner, journal: Arc::clone(journal), called, _poll: poll })
}

impl CharDevice for JournaledPort {
    fn poll(&self) {
        match self.called.upgrade() {
            Some(called) => called.event(Readiness::NONE),
            None => self.inner.poll(),
        }
    }

    fn receive_break(&self) {
        // Nothing happens at the only kind of port that has such a back end.
        let _step = self.journal.step();
        self.inner.receive_break();
    }
}
