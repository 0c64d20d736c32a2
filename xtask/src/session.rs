//! One program running a machine: what it prints is kept (and shown, if wanted), and it ends by
//! itself, at a deadline, or when we are asked to end.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use crate::spent::Child;
use crate::{proc, terminal};

/// How often a wait looks at its child, its deadline and the signals.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program may take to end after being asked to, and to end what it started itself.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a transcript an error shows.
const LAST_LINES: usize = 20;

/// What of a program's output is shown while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nothing.
    Nothing,
    /// What is behind this word in a line, on our standard error: how far it is.
    Progress(&'static str),
    /// Everything, on our standard output.
    Everything,
}

/// How to watch a program.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    /// What of its output to show.
    pub(crate) show: Show,
    /// Give it our standard input, raw if that is a terminal.
    pub(crate) input: bool,
    /// End it after this long.
    pub(crate) timeout: Option<Duration>,
}

/// What a program printed and how it ended.
pub(crate) struct Transcript {
    /// Standard output and error as they came, without carriage returns.
    pub(crate) text: String,
    /// How the program ended.
    pub(crate) status: ExitStatus,
}

/// What a program has printed so far, shared between its readers and whoever waits for a line.
#[derive(Clone, Default)]
pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    /// Reads until the end, on a thread of its own.
    pub(crate) fn fill(
        &self,
        mut from: impl Read + Send + 'static,
        show: Show,
    ) -> thread::JoinHandle<()> {
        let all = Arc::clone(&self.0);
        let mut lines = Lines::default();
        thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(len) = from.read(&mut buffer) {
                let Some(part) = buffer.get(..len).filter(|part| !part.is_empty()) else { break };
                match show {
                    Show::Nothing => {}
                    Show::Progress(word) => lines.add(part, |line| {
                        if let Some((_, said)) = line.split_once(word) {
                            eprintln!("{said}");
                        }
                    }),
                    Show::Everything => {
                        // Whoever closed our output still gets the exit status.
                        let _ = show_all(part);
                    }
                }
                all.lock().extend_from_slice(part);
            }
        })
    }

    /// Everything so far, without carriage returns.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).replace('\r', "")
    }
}

/// Output that comes in pieces, cut into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Calls `each` with every line that ends in `part`, without its end.
    fn add(&mut self, part: &[u8], mut each: impl FnMut(&str)) {
        self.0.extend_from_slice(part);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            each(String::from_utf8_lossy(&line).trim_end());
        }
    }
}

/// Writes to our standard output, past Rust's buffer. QEMU makes the terminal it reads from
/// non-blocking, and with it our output, which is the same open file: a terminal that is full for a
/// moment then refuses, and buffered output would wait for the next write to come out.
fn show_all(mut part: &[u8]) -> rustix::io::Result<()> {
    let out = rustix::stdio::stdout();
    while !part.is_empty() {
        match rustix::io::write(out, part) {
            Ok(count) => part = part.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&out, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps a transcript as `build/logs/NAME.log`, whole, for whoever looks into a failure. Not being
/// able to is no reason to fail.
pub(crate) fn keep(name: &str, text: &str) {
    if let Ok(folder) = crate::paths::build().map(|build| build.join("logs")) {
        let _ = std::fs::create_dir_all(&folder);
        let _ = std::fs::write(folder.join(format!("{name}.log")), text);
    }
}

/// The end of a transcript, indented, for an error message.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines.iter().skip(from).map(|line| format!("    {line}\n")).collect()
}

/// A child that does not outlive us.
pub(crate) struct Owned(Child);

impl Owned {
    /// Starts the program.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(proc::start(command)?))
    }

    /// Waits for the end; at the deadline, or on a signal, makes it end and returns an error.
    /// `progress` is called between looks and may give up by returning an error.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut progress: impl FnMut() -> Result<()>,
    ) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if terminal::ended() {
                bail!("interrupted");
            }
            if let Some(limit) = timeout.filter(|limit| start.elapsed() >= *limit) {
                bail!("not finished after {} s", limit.as_secs());
            }
            progress()?;
            thread::sleep(LOOK);
        }
    }

    /// Asks first: QEMU leaves the terminal as it found it when it is asked to end.
    fn end(&mut self) {
        if let (Ok(None), Some(pid)) = (self.0.try_wait(), self.0.pid()) {
            let _ = kill_process(pid, Signal::TERM);
            let asked = Instant::now();
            while asked.elapsed() < GRACE && matches!(self.0.try_wait(), Ok(None)) {
                thread::sleep(LOOK);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a program to its end and [`keep`]s what it printed under `name`.
///
/// # Errors
///
/// When it cannot be started, or had to be ended: the message shows the last lines it printed.
pub(crate) fn run(name: &str, command: &mut Command, watch: Watch) -> Result<Transcript> {
    let _raw = if watch.input { Some(terminal::Raw::stdin()?) } else { None };
    command.stdin(if watch.input { Stdio::inherit() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Owned::spawn(command)?;
    let printed = Printed::default();
    let pipes = child.0.pipes();
    let (out, err) = (pipes.stdout.take(), pipes.stderr.take());
    let out = out.map(|pipe| printed.fill(pipe, watch.show));
    let err = err.map(|pipe| printed.fill(pipe, watch.show));
    let waited = child.wait(watch.timeout, || Ok(()));
    drop(child);
    for reader in [out, err].into_iter().flatten() {
        let _ = reader.join();
    }
    let text = printed.text();
    keep(name, &text);
    match waited {
        Ok(status) => Ok(Transcript { text, status }),
        Err(error) if watch.show == Show::Everything => Err(error),
        Err(error) => bail!("{error}; its last lines:\n{}", last_lines(&text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(timeout_ms: u64) -> Watch {
        Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(Duration::from_millis(timeout_ms)),
        }
    }

    #[test]
    fn a_transcript_has_both_outputs_and_the_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'one\\r\\n'; echo two >&2; exit 7"]);
        let done = run("session-test", &mut command, quiet(10_000)).unwrap();
        assert_eq!(done.status.code(), Some(7));
        assert!(done.text.contains("one\n") && done.text.contains("two\n"), "{}", done.text);
    }

    #[test]
    fn lines_are_whole_however_the_output_comes_in_pieces() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for part in ["on", "e\r\ntw", "o\n\nthr"] {
            lines.add(part.as_bytes(), |line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["one", "two", ""]);
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_and_its_last_lines_are_shown() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in $(seq 30); do echo line $i; done; exec sleep 60"]);
        let start = Instant::now();
        let error = run("session-test", &mut command, quiet(500)).err().unwrap().to_string();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(error.contains("not finished") && error.contains("line 30"), "{error}");
        assert!(!error.contains("line 10\n"), "only the last lines are shown: {error}");
    }
}
