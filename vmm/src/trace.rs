//! `--trace`: the guest's accesses as they happen, one a line on standard error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use trapline::{Observer, Registry, TraceRecord, Watch, Watching};
use trapline_device::thread_builder;

use crate::stream;

/// Lines that wait to be written. Those beyond are counted and left out: the guest does not wait for
/// whoever reads.
const LINES_MAX: usize = 4096;

/// How long a reader is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A trace that is being written. Dropping it ends it.
pub struct Trace {
    watching: Option<Watching>,
    writer: Option<JoinHandle<()>>,
}

impl Trace {
    /// Traces the accesses that `names` says, on standard error ([`Following::start`]).
    ///
    /// # Errors
    /// A name that means nothing, in a sentence with those that do.
    pub fn start(registry: &Registry, names: &[String]) -> anyhow::Result<Self> {
        let following = Following::start(registry, names);
        let Following { watching, queue, lost } =
            following.map_err(|error| anyhow!("--trace {error}"))?;
        let writer = thread_builder("trace").spawn(move || write_all(&queue, &lost));
        let writer = Some(writer.context("--trace")?);
        Ok(Self { watching: Some(watching), writer })
    }
}

impl Drop for Trace {
    /// Ends the trace, and waits until it is written: not long for a reader that does not read.
    fn drop(&mut self) {
        self.watching.take();
        let Some(writer) = self.writer.take() else { return };
        let start = Instant::now();
        while !writer.is_finished() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Accesses that are told as they happen. Dropping it ends it.
pub struct Following {
    watching: Watching,
    queue: Receiver<String>,
    lost: Arc<AtomicU64>,
}

/// What has come of waiting for an access.
pub enum Next {
    /// One.
    Line {
        /// In words.
        text: String,
        /// How many are missing after it, as they came too fast.
        lost: u64,
    },
    /// None so far.
    Nothing,
    /// There will be none any more.
    End,
}

impl Following {
    /// Tells of the accesses that `names` says: to a device, to one of its regions (`device/region`),
    /// those that are `unclaimed`, or `all`.
    ///
    /// # Errors
    /// A name that means nothing, in a sentence with those that do.
    pub fn start(registry: &Registry, names: &[String]) -> anyhow::Result<Self> {
        let watch = watch(registry, names)?;
        let (lines, queue) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let observer = Arc::new(Lines { lines, lost: Arc::clone(&lost) });
        let watching = registry.watch(watch, observer)?;
        Ok(Self { watching, queue, lost })
    }

    /// Waits for the next one for as long as `at_most`.
    pub fn next(&self, at_most: Duration) -> Next {
        match self.queue.recv_timeout(at_most) {
            Ok(text) => Next::Line { text, lost: self.lost.swap(0, Ordering::Relaxed) },
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }
}

/// What the names mean together.
fn watch(registry: &Registry, names: &[String]) -> anyhow::Result<Watch> {
    let mut watch = Watch::new().ordered();
    for name in names {
        watch = match name.as_str() {
            "all" => watch.everything(),
            "unclaimed" => watch.unclaimed(),
            _ if registry.find(name).is_empty() => bail!(
                "{name}: no device or region has that name; there are all, unclaimed, and \
                 {}",
                known(registry)
            ),
            _ => watch.named(name),
        };
    }
    Ok(watch)
}

/// The names of devices, and of their regions where they have several.
fn known(registry: &Registry) -> String {
    let stats = registry.stats();
    let mut names: Vec<_> = stats.regions.iter().map(|region| region.name.clone()).collect();
    names.sort();
    let mut words: Vec<String> = Vec::new();
    for of_device in names.chunk_by(|a, b| a.device == b.device) {
        words.extend(of_device.first().map(|name| name.device.to_string()));
        if of_device.len() > 1 {
            words.extend(of_device.iter().map(ToString::to_string));
        }
    }
    words.join(", ")
}

/// Hands lines to whoever writes them.
struct Lines {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

impl Observer for Lines {
    fn access(&self, record: &TraceRecord<'_>) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(record.to_string()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes lines until there will be no more. Only this thread waits for whoever reads them.
fn write_all(queue: &Receiver<String>, lost: &AtomicU64) {
    while let Ok(line) = queue.recv() {
        let missing = match lost.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            lost => format!("trace: {lost} accesses are missing, as nobody read them in time\n"),
        };
        stream::line(&format!("trace: {line}\n{missing}"));
    }
}
