//! Recording what a guest does to its devices, and playing it again.
//!
//! ```text
//!   registry's recorder ─ rings ─┐
//!                                ├─ drain ─► file      replay ◄─ file
//!   Journal: inputs, outputs ────┘                        │
//!                                                         └─► the same board without KVM
//! ```
//!
//! The line is drawn around the devices: their accesses, the time each began, and what came from
//! outside are all that they depend on, and nothing is said about the guest's code.

pub(crate) mod devices;
pub(crate) mod drain;
pub(crate) mod exact;
pub(crate) mod host;
pub(crate) mod journal;
pub(crate) mod net;
pub mod replay;
pub(crate) mod settings;
pub(crate) mod states;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline::{Recorder, Registry, Step};
use trapline_access::record::{Blob, Op};
use trapline_device::{Clock, EventHandler, Pieces};

use crate::board::{Board, Options};
use crate::{Config, Error};
use drain::Drain;
use journal::{Held, Input, Journal, JournaledBackend, JournaledClock, Output, Ports};
use states::Saver;

/// How a run is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// The file.
    pub path: PathBuf,
    /// Nothing is left to the kernel that a recording does not see the order of.
    pub exact: bool,
    /// What disks, networks and shared folders exchange with guest memory is kept, and not only a hash of
    /// it.
    pub payload: bool,
    /// The words of the command, for whoever reads the recording.
    pub arguments: Vec<String>,
}

/// What a machine's board is built with in the place of clock and console when it is recorded.
pub(crate) struct Tapped {
    clock: Arc<dyn Clock>,
    host_clock: Arc<dyn Clock>,
    recording: Option<(Arc<Recording>, Arc<JournaledClock>, Arc<Recorder>)>,
}

impl Tapped {
    /// Puts a journal round `clock` and round the console of `options`, if the run is recorded.
    pub(crate) fn of(
        config: &Config,
        registry: &Registry,
        clock: Arc<dyn Clock>,
        options: &mut Options,
    ) -> Result<Self, Error> {
        let (Some(wanted), Some(recorder)) = (&config.record, registry.recorder()) else {
            return Ok(Self { host_clock: Arc::clone(&clock), clock, recording: None });
        };
        let recording = Recording::new(recorder, wanted.payload);
        let journal: Arc<dyn Journal> = recording.clone();
        let journaled = JournaledClock::around(&clock, &journal);
        options.console = JournaledBackend::around(&options.console, &journal, "console");
        if let Some(log) = &options.firmware_log {
            options.firmware_log = Some(JournaledBackend::around(log, &journal, "console"));
        }
        let recording = Some((recording, journaled.clone(), Arc::clone(recorder)));
        Ok(Self { clock: journaled, host_clock: clock, recording })
    }

    /// The clock for devices.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// The same without a journal.
    pub(crate) fn host_clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.host_clock)
    }

    /// The journal, if the run is recorded.
    pub(crate) fn journal(&self) -> Option<Arc<dyn Journal>> {
        let (recording, ..) = self.recording.as_ref()?;
        Some(recording.clone())
    }

    /// The machine is built: begins to write the file.
    pub(crate) fn begin(
        self,
        config: &Config,
        irqchip: &'static str,
        board: &dyn Board,
        registry: &Registry,
    ) -> Result<Option<Recorded>, Error> {
        let (Some(options), Some((recording, clock, recorder))) = (&config.record, self.recording)
        else {
            return Ok(None);
        };
        let path = options.path.clone();
        let utc_ns = clock.utc_start_ns();
        let meta = settings::meta((config, options), utc_ns, irqchip, board.virtio());
        let file = File::create(&path).map_err(trapline_trace::Error::from);
        let saver = Saver { devices: board.devices().saved(), clock };
        let drain = file
            .and_then(|file| Drain::start(file, &meta, (&recorder, &recording), registry, saver));
        match drain {
            Ok(drain) => {
                recording.begin();
                Ok(Some(Recorded { path, recording, drain }))
            }
            Err(reason) => Err(Error::Record { path, reason }),
        }
    }
}

/// A run that is recorded.
pub(crate) struct Recorded {
    path: PathBuf,
    recording: Arc<Recording>,
    drain: Drain,
}

impl Recorded {
    /// The machine is reset, in a step that lasts until what this returns is dropped.
    pub(crate) fn reset(&self) -> Step<'_> {
        self.recording.reset()
    }

    /// Requests to disks that have stopped the machine are made again, in a step that lasts until what this
    /// returns is dropped.
    pub(crate) fn retry(&self) -> Step<'_> {
        let step = self.recording.recorder.step();
        let port = self.recording.port("disks");
        self.recording.event(port, Input::Retry, 0, &[]);
        step
    }

    /// Has a state saved now, if the machine is at rest: whether it was.
    #[cfg(test)]
    pub(crate) fn save_now(&self) -> bool {
        self.drain.save_now()
    }

    /// Writes the rest.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let done = self.drain.finish();
        done.map_err(|reason| Error::Record { path: self.path.clone(), reason })
    }
}

/// The journal of a machine that is recorded.
pub(crate) struct Recording {
    recorder: Arc<Recorder>,
    pub(crate) ports: Ports,
    blobs: Mutex<Blobs>,
    /// Whether the machine has been built.
    begun: AtomicBool,
    /// Whether bytes that devices do not look at are kept.
    payload: bool,
    omitted: Mutex<Vec<Omitted>>,
    /// Who is called by what happens outside, kept here.
    handlers: Mutex<Vec<Arc<dyn EventHandler>>>,
}

/// Usual answers are not written down. How many there were in a step counts when another one comes.
struct Omitted {
    port: u16,
    kind: Input,
    at_ns: u64,
    count: u32,
}

#[derive(Default)]
struct Blobs {
    next: u32,
    waiting: Vec<Vec<u8>>,
    /// How many bytes are in those.
    bytes: usize,
}

impl Recording {
    pub(crate) fn new(recorder: &Arc<Recorder>, payload: bool) -> Arc<Self> {
        Arc::new(Self {
            recorder: Arc::clone(recorder),
            ports: Ports::default(),
            blobs: Mutex::default(),
            begun: AtomicBool::new(false),
            payload,
            omitted: Mutex::default(),
            handlers: Mutex::default(),
        })
    }

    /// The machine is built.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// The machine is reset, in a step that lasts until what this returns is dropped.
    pub(crate) fn reset(&self) -> Step<'_> {
        let step = self.recorder.step();
        self.recorder.event(&step, Op::Reset, 0, 0, 0);
        step
    }

    /// The bytes that records made so far name, since the last call.
    fn take_blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.blobs.lock();
        blobs.bytes = 0;
        std::mem::take(&mut blobs.waiting)
    }

    fn write(&self, op: Op, port: u16, kind: u16, value: u64) {
        if self.begun() {
            let step = self.recorder.step();
            self.recorder.event(&step, op, port, kind, value);
        }
    }

    /// A usual answer came to what is asked for.
    fn omit(&self, port: u16, kind: Input) {
        if !self.begun() {
            return;
        }
        let at_ns = self.recorder.step().at_ns();
        let mut omitted = self.omitted.lock();
        let known = omitted.iter_mut().find(|known| (known.port, known.kind) == (port, kind));
        match known {
            Some(known) if known.at_ns == at_ns => known.count += 1,
            Some(known) => (known.at_ns, known.count) = (at_ns, 1),
            None => omitted.push(Omitted { port, kind, at_ns, count: 1 }),
        }
    }

    /// Another answer than the usual one is about to be written down.
    fn unusual(&self, port: u16, kind: Input) {
        if !self.begun() {
            return;
        }
        let step = self.recorder.step();
        let mut omitted = self.omitted.lock();
        let mut before = omitted.iter_mut().filter(|before| before.at_ns == step.at_ns());
        let before = before.find(|before| (before.port, before.kind) == (port, kind));
        let count = before.map_or(0, |before| std::mem::take(&mut before.count));
        drop(omitted);
        if count > 0 {
            let value = u64::from(kind as u16) << 32 | u64::from(count);
            self.recorder.event(&step, Op::In, port, Input::Usual as u16, value);
        }
    }

    fn write_bytes(&self, port: u16, kind: Input, bytes: Vec<u8>) {
        if self.begun() {
            let step = self.recorder.step();
            let mut blobs = self.blobs.lock();
            let (number, len) = (blobs.next, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            blobs.next = blobs.next.wrapping_add(1);
            blobs.bytes = blobs.bytes.saturating_add(bytes.len());
            blobs.waiting.push(bytes);
            drop(blobs);
            let value = Blob { len, number }.value();
            self.recorder.event(&step, Op::In, port, kind as u16, value);
        }
    }

    /// What a device has asked for, of which nothing is what usually comes.
    fn came(&self, port: u16, kind: Input, bytes: Vec<u8>) {
        if bytes.is_empty() {
            self.omit(port, kind);
        } else {
            self.unusual(port, kind);
            self.write_bytes(port, kind, bytes);
        }
    }
}

impl Journal for Recording {
    fn begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    fn port(&self, name: &str) -> u16 {
        self.ports.number(name)
    }

    fn step(&self) -> Box<dyn Held + '_> {
        Box::new(self.recorder.step())
    }

    fn number(&self, port: u16, kind: Input, usual: u64, ask: &mut dyn FnMut() -> u64) -> u64 {
        let value = ask();
        if value == usual {
            self.omit(port, kind);
        } else {
            self.unusual(port, kind);
            self.write(Op::In, port, kind as u16, value);
        }
        value
    }

    fn bytes(
        &self,
        port: u16,
        kind: Input,
        buf: &mut [u8],
        ask: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize {
        let got = ask(buf).min(buf.len());
        self.came(port, kind, buf.get(..got).unwrap_or_default().to_vec());
        got
    }

    fn arrived(&self, port: u16, came: Vec<u64>) -> Vec<u64> {
        let bytes = came.iter().flat_map(|value| value.to_le_bytes());
        self.came(port, Input::Arrived, bytes.collect());
        came
    }

    fn payload(&self, port: u16, len: u64, copy: &mut Pieces<'_>) {
        if !self.begun() {
            return;
        }
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let waiting = self.blobs.lock().bytes.saturating_add(bytes);
        // A blob is no longer than a chunk can be, and memory has an end.
        if self.payload && bytes <= BLOB_MAX && waiting <= WAITING_MAX {
            let mut copied = Vec::with_capacity(bytes);
            copy(&mut |piece| copied.extend_from_slice(piece));
            self.write_bytes(port, Input::Payload, copied);
        } else {
            self.write(Op::In, port, Input::Exchanged as u16, journal::hash_pieces(len, copy));
        }
    }

    fn memory(&self, port: u16, addr: u64, data: &mut [u8]) {
        self.write_bytes(port, Input::Memory, [&addr.to_le_bytes(), &*data].concat());
    }

    fn listens(
        &self,
        _port: u16,
        _number: u64,
        handler: Arc<dyn EventHandler>,
        _target: Weak<dyn EventHandler>,
    ) {
        self.handlers.lock().push(handler);
    }

    fn event(&self, port: u16, kind: Input, value: u64, bytes: &[u8]) {
        if kind.is_blob() {
            self.write_bytes(port, kind, bytes.to_vec());
        } else {
            self.write(Op::In, port, kind as u16, value);
        }
    }

    fn output(&self, port: u16, kind: Output, value: u64) {
        self.write(Op::Out, port, kind as u16, value);
    }
}

/// The most bytes of what is exchanged at once that are kept: more are there as a hash.
const BLOB_MAX: usize = 8 << 20;

/// How many bytes may wait for the file, of those that are there as a hash otherwise.
const WAITING_MAX: usize = 64 << 20;
