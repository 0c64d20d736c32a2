//! A tap: a network interface of the host whose other end is the guest's card.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{EventHandler, EventLoop, Readiness, Watch};
use trapline_guestio::Buffers;
use trapline_guestio::tap::{TapQueue, offload};

use crate::{Abilities, Header, Mac, NetBackend, NetCard, Offloads, rarp};

/// A tap, as its user describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// Where it comes from.
    pub source: TapSource,
    /// Pairs of queues, from 1.
    pub pairs: u16,
    /// What is run when it is there, with its name as argument.
    pub script: Option<PathBuf>,
    /// What is run when it is not needed any more, with its name as argument.
    pub downscript: Option<PathBuf>,
    /// Its Ethernet address, if it is to be given one.
    pub host_mac: Option<Mac>,
}

/// Where a tap comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSource {
    /// It is made, and without a script gets this address of a network of 256, and is switched on.
    New([u8; 4]),
    /// It has this name, and is made if it is not there.
    Named(String),
    /// Somebody else has opened it: the descriptor with this number.
    Fd(i32),
}

/// The tap, with all of its queues.
pub struct Tap {
    queues: Vec<Queue>,
    sends: Offloads,
    downscript: Option<PathBuf>,
    card: OnceLock<Weak<dyn NetCard>>,
    /// How many queues are in use.
    pairs: Mutex<u16>,
}

struct Queue {
    // Dropped before what it calls.
    watch: OnceLock<Box<dyn Watch>>,
    tap: Arc<TapQueue>,
    state: Mutex<QueueState>,
    handler: OnceLock<Arc<Arrived>>,
}

#[derive(Default)]
struct QueueState {
    interest: Readiness,
    /// The interface is no more.
    gone: bool,
}

/// Called by the loop for a queue.
struct Arrived {
    tap: Weak<Tap>,
    index: u16,
}

impl EventHandler for Arrived {
    fn event(&self, ready: Readiness) {
        if let Some(tap) = self.tap.upgrade() {
            tap.event(self.index, ready);
        }
    }
}

impl Tap {
    /// Opens a tap, and runs its script.
    ///
    /// # Errors
    /// The kernel's, or why the script did not run, with what it was about.
    pub fn open(options: &TapOptions, event_loop: &dyn EventLoop) -> io::Result<Arc<Self>> {
        let first = match &options.source {
            TapSource::New(_) => TapQueue::open("tap%d", options.pairs > 1)?,
            TapSource::Named(name) => TapQueue::open(name, options.pairs > 1)?,
            TapSource::Fd(fd) => TapQueue::from_fd(trapline_guestio::inherited(*fd)?)?,
        };
        let name = first.name().to_owned();
        let mut queues = vec![first];
        for _ in 1..options.pairs {
            let queue = TapQueue::open(&name, true)?;
            queue.set_used(false)?;
            queues.push(queue);
        }
        let sends = Self::abilities_of(&queues)?;
        Self::set_up(options, &queues)?;
        let queues = queues.into_iter().map(Queue::new).collect();
        let this = Arc::new(Self {
            queues,
            sends,
            downscript: options.downscript.clone(),
            card: OnceLock::new(),
            pairs: Mutex::new(1),
        });
        for (index, queue) in (0..).zip(&this.queues) {
            let handler = Arc::new(Arrived { tap: Arc::downgrade(&this), index });
            let called: Weak<Arrived> = Arc::downgrade(&handler);
            let watch = event_loop.watch(queue.tap.clone(), Readiness::NONE, called)?;
            queue.watch.get_or_init(|| watch);
            queue.handler.get_or_init(|| handler);
        }
        Ok(this)
    }

    /// What the kernel can do of offloads.
    fn abilities_of(queues: &[TapQueue]) -> io::Result<Offloads> {
        let Some(first) = queues.first() else { return Ok(Offloads::NONE) };
        let old = Offloads { uso4: false, uso6: false, ..Offloads::ALL };
        let can =
            [Offloads::ALL, old].into_iter().find(|can| first.set_offloads(bits(*can)).is_ok());
        first.set_offloads(0)?;
        Ok(can.unwrap_or(Offloads::NONE))
    }

    fn set_up(options: &TapOptions, queues: &[TapQueue]) -> io::Result<()> {
        let Some(tap) = queues.first() else { return Ok(()) };
        if let Some(Mac(mac)) = options.host_mac {
            tap.set_mac(mac)?;
        }
        match (&options.script, &options.source) {
            (Some(script), _) => run(script, tap.name()),
            (None, TapSource::New(ip)) => tap.configure(*ip),
            (None, _) => Ok(()),
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        self.queues.first().map_or("", |queue| queue.tap.name())
    }

    fn event(&self, index: u16, ready: Readiness) {
        let Some(card) = self.card.get().and_then(Weak::upgrade) else { return };
        let Some(queue) = self.queues.get(usize::from(index)) else { return };
        if ready.write {
            queue.want(|interest| interest.write = false);
            card.room(index);
        }
        if ready.read {
            card.ready(index);
        }
        let gone = queue.state.lock().gone;
        if gone {
            queue.want(|interest| *interest = Readiness::NONE);
            card.link_changed();
        }
    }
}

/// Runs a script for the tap of this name, and waits for its end.
fn run(script: &Path, tap: &str) -> io::Result<()> {
    let about = |reason: String| io::Error::other(format!("{}: {reason}", script.display()));
    let status =
        Command::new(script).arg(tap).status().map_err(|error| about(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(about(format!("it failed ({status})"))) }
}

/// Offloads as the kernel has them.
fn bits(offloads: Offloads) -> u32 {
    let table = [
        (offloads.csum, offload::CSUM),
        (offloads.tso4, offload::TSO4),
        (offloads.tso6, offload::TSO6),
        (offloads.ecn, offload::TSO_ECN),
        (offloads.ufo, offload::UFO),
        (offloads.uso4, offload::USO4),
        (offloads.uso6, offload::USO6),
    ];
    table.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}

impl Queue {
    fn new(tap: TapQueue) -> Self {
        let (watch, handler) = (OnceLock::new(), OnceLock::new());
        Self { watch, tap: Arc::new(tap), state: Mutex::default(), handler }
    }

    fn want(&self, change: impl FnOnce(&mut Readiness)) {
        let mut state = self.state.lock();
        let before = state.interest;
        change(&mut state.interest);
        if state.gone {
            state.interest = Readiness::NONE;
        }
        // The watch is there already, so the host needs no more memory for it.
        if state.interest != before
            && let Some(watch) = self.watch.get()
            && let Err(error) = watch.set_interest(state.interest)
        {
            tracing::debug!("{} cannot be watched: {error}", self.tap.name());
        }
    }
}

impl NetBackend for Tap {
    fn abilities(&self) -> Abilities {
        let pairs = u16::try_from(self.queues.len()).unwrap_or(1);
        Abilities { sends: self.sends, receives: self.sends, mtu: None, pairs }
    }

    fn attach(&self, card: Weak<dyn NetCard>) {
        self.card.get_or_init(|| card);
    }

    fn has_link(&self) -> bool {
        self.queues.iter().all(|queue| !queue.state.lock().gone)
    }

    fn set_offloads(&self, receives: Offloads) {
        let first = self.queues.first();
        if let Some(Err(error)) = first.map(|queue| queue.tap.set_offloads(bits(receives))) {
            tracing::debug!("{}: offloads cannot be set: {error}", self.name());
        }
    }

    fn set_pairs(&self, pairs: u16) {
        let before = &mut *self.pairs.lock();
        for (index, queue) in (0..).zip(&self.queues).skip(1) {
            let (was, is) = (index < *before, index < pairs);
            if was != is
                && let Err(error) = queue.tap.set_used(is)
            {
                tracing::debug!("{}: queue {index} cannot be switched: {error}", self.name());
            }
        }
        *before = pairs;
    }

    fn set_receiving(&self, pair: u16, on: bool) {
        if let Some(queue) = self.queues.get(usize::from(pair)) {
            queue.want(|interest| interest.read = on);
        }
    }

    fn send(&self, pair: u16, header: &Header, frame: &mut Buffers) -> io::Result<()> {
        let queue = self.queues.get(usize::from(pair)).ok_or(io::ErrorKind::NotConnected)?;
        let sent = queue.tap.send(&header.bytes(), frame);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            queue.want(|interest| interest.write = true);
        }
        sent
    }

    fn announce(&self, mac: Mac) {
        let packet = [&Header::default().bytes()[..], &rarp(mac)].concat();
        // What is lost is lost, as on any wire.
        let queue = self.queues.first();
        let _ = queue.map(|queue| rustix::io::write(queue.tap.as_fd(), &packet));
    }

    fn receive(&self, pair: u16, buf: &mut [u8]) -> io::Result<usize> {
        let queue = self.queues.get(usize::from(pair)).ok_or(io::ErrorKind::WouldBlock)?;
        match queue.tap.receive(buf) {
            Ok(len) => Ok(len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!("{} is gone: {error}", self.name());
                    queue.state.lock().gone = true;
                }
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Some(script) = &self.downscript
            && let Err(error) = run(script, self.name())
        {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests;
