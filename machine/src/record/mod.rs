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

pub(crate) mod drain;
pub(crate) mod journal;
pub mod replay;
pub(crate) mod settings;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use trapline::{Recorder, Registry, Step};
use trapline_access::record::{Blob, Op};
use trapline_device::Clock;

use crate::board::Options;
use crate::{Config, Error};
use drain::Drain;
use journal::{Held, Input, Journal, JournaledBackend, JournaledClock, Output, Ports};

/// How a run is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// The file.
    pub path: PathBuf,
    /// Nothing is left to the kernel that a recording does not see the order of.
    pub exact: bool,
    /// The words of the command, for whoever reads the recording.
    pub arguments: Vec<String>,
}

/// What a machine's board is built with in the place of clock and console when it is recorded.
pub(crate) struct Tapped {
    clock: Arc<dyn Clock>,
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
        let (Some(_), Some(recorder)) = (&config.record, registry.recorder()) else {
            return Ok(Self { clock, recording: None });
        };
        let recording = Recording::new(recorder);
        let journal: Arc<dyn Journal> = recording.clone();
        let journaled = JournaledClock::around(&clock, &journal);
        options.console = JournaledBackend::around(&options.console, &journal, "console");
        if let Some(log) = &options.firmware_log {
            options.firmware_log = Some(JournaledBackend::around(log, &journal, "console"));
        }
        let clock: Arc<dyn Clock> = journaled.clone();
        Ok(Self { clock, recording: Some((recording, journaled, Arc::clone(recorder))) })
    }

    /// The clock for devices.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
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
        registry: &Registry,
    ) -> Result<Option<Recorded>, Error> {
        let (Some(options), Some((recording, clock, recorder))) = (&config.record, self.recording)
        else {
            return Ok(None);
        };
        let path = options.path.clone();
        let meta = settings::meta(config, options, clock.utc_start_ns(), irqchip);
        let file = File::create(&path).map_err(trapline_trace::Error::from);
        let drain =
            file.and_then(|file| Drain::start(file, &meta, (&recorder, &recording), registry));
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
    /// Whether the machine has been built: what happens before is done again in a replay.
    begun: AtomicBool,
}

#[derive(Default)]
struct Blobs {
    next: u32,
    waiting: Vec<Vec<u8>>,
}

impl Recording {
    pub(crate) fn new(recorder: &Arc<Recorder>) -> Arc<Self> {
        Arc::new(Self {
            recorder: Arc::clone(recorder),
            ports: Ports::default(),
            blobs: Mutex::default(),
            begun: AtomicBool::new(false),
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
        std::mem::take(&mut self.blobs.lock().waiting)
    }

    fn write(&self, op: Op, port: u16, kind: u16, value: u64) {
        if self.begun.load(Ordering::Acquire) {
            let step = self.recorder.step();
            self.recorder.event(&step, op, port, kind, value);
        }
    }

    fn write_bytes(&self, port: u16, kind: Input, bytes: &[u8]) {
        if self.begun.load(Ordering::Acquire) {
            let step = self.recorder.step();
            let mut blobs = self.blobs.lock();
            let (number, len) = (blobs.next, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            blobs.next = blobs.next.wrapping_add(1);
            blobs.waiting.push(bytes.to_vec());
            drop(blobs);
            let value = Blob { len, number }.value();
            self.recorder.event(&step, Op::In, port, kind as u16, value);
        }
    }
}

impl Journal for Recording {
    fn port(&self, name: &str) -> u16 {
        self.ports.number(name)
    }

    fn step(&self) -> Box<dyn Held + '_> {
        Box::new(self.recorder.step())
    }

    fn number(&self, port: u16, kind: Input, usual: u64, ask: &mut dyn FnMut() -> u64) -> u64 {
        let value = ask();
        if value != usual {
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
        let bytes = buf.get(..got).unwrap_or_default();
        if !bytes.is_empty() {
            self.write_bytes(port, kind, bytes);
        }
        got
    }

    fn event(&self, port: u16, kind: Input, value: u64, bytes: &[u8]) {
        if kind.is_blob() {
            self.write_bytes(port, kind, bytes);
        } else {
            self.write(Op::In, port, kind as u16, value);
        }
    }

    fn output(&self, port: u16, kind: Output, value: u64) {
        self.write(Op::Out, port, kind as u16, value);
    }
}
