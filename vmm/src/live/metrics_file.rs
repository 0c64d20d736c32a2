//! `--metrics-path`: a line of JSON a minute, and one at the end, as Firecracker writes them.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FileType, Mode, OFlags};
use serde::Serialize;
use trapline_control::api::Statistics;
use trapline_device::thread_builder;

use super::Look;

/// How often a line is written.
const PERIOD: Duration = Duration::from_secs(60);

/// Where the lines go, made sure of before there is a guest.
pub struct MetricsFile {
    file: File,
    /// The end of a line whose beginning is written: a FIFO had no room for more.
    rest: Vec<u8>,
}

/// Lines are written until it is dropped, and a last one then.
#[must_use = "dropping it ends it"]
pub struct MetricsWriter {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Serialize)]
struct Line {
    utc_timestamp_ms: u64,
    #[serde(flatten)]
    statistics: Statistics,
}

impl MetricsFile {
    /// Opens a file, which is written to at its end, or a FIFO that somebody reads.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        // A FIFO that nobody reads is waited for by nobody.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let what = || format!("Unable to write {}", path.display());
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644));
        let file = match file {
            Err(rustix::io::Errno::NXIO) => bail!("{}: nobody reads it", what()),
            file => File::from(file.with_context(what)?),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).with_context(what)?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo) {
            bail!("{}: it is neither a file nor a FIFO", what());
        }
        Ok(Self { file, rest: Vec::new() })
    }

    /// Begins to write what `look` sees.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn start(mut self, look: Look) -> anyhow::Result<MetricsWriter> {
        look.count_registers();
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let told = Arc::clone(&over);
        let thread = thread_builder("metrics").spawn(move || {
            let (over, changed) = &*told;
            loop {
                let mut over = over.lock();
                if !*over {
                    changed.wait_for(&mut over, PERIOD);
                }
                let last = *over;
                drop(over);
                self.write(&look);
                if last {
                    return;
                }
            }
        });
        Ok(MetricsWriter { over, thread: Some(thread.context("--metrics-path")?) })
    }

    fn write(&mut self, look: &Look) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let utc_timestamp_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let line = Line { utc_timestamp_ms, statistics: look.statistics(false) };
        let Ok(mut line) = serde_json::to_vec(&line) else { return };
        line.push(b'\n');
        if let Err(error) = self.write_line(line) {
            tracing::debug!("a line of metrics is lost: {error}");
        }
    }

    /// Writes a line, or nothing of it where there is no room for its beginning. Its end may have to wait
    /// until the next line, which is lost if there is no room for that end either.
    fn write_line(&mut self, line: Vec<u8>) -> io::Result<()> {
        self.write_rest()?;
        let len = line.len();
        self.rest = line;
        let written = self.write_rest();
        if self.rest.len() == len {
            self.rest.clear();
            return written;
        }
        Ok(())
    }

    fn write_rest(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match self.file.write(&self.rest) {
                Ok(count) => drop(self.rest.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() == ErrorKind::BrokenPipe {
                        // Whoever reads next has not read the beginning.
                        self.rest.clear();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for MetricsWriter {
    fn drop(&mut self) {
        *self.over.0.lock() = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_fifo_that_is_read_too_slowly_has_whole_lines_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = File::options().read(true).custom_flags(nonblock).open(&path).unwrap();
        let mut metrics = MetricsFile::open(&path).unwrap();
        let line = [vec![b'x'; 5000], vec![b'\n']].concat();
        let written = (0..1000).take_while(|_| metrics.write_line(line.clone()).is_ok()).count();
        assert!(written < 1000 && !metrics.rest.is_empty(), "{written}");
        let mut told = Vec::new();
        assert_eq!(reader.read_to_end(&mut told).unwrap_err().kind(), ErrorKind::WouldBlock);
        metrics.write_line(line.clone()).unwrap();
        drop(metrics);
        reader.read_to_end(&mut told).unwrap();
        assert!(told == line.repeat(written + 1), "{} bytes", told.len());
    }
}
