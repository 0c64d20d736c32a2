//! How far something is that takes long, on a terminal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trapline_device::thread_builder;

use crate::console::Console;
use crate::stream;
use crate::task::Errand;

/// What is done within this time says nothing.
const SILENT: Duration = Duration::from_secs(1);
/// How often it says how far it is.
const EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether a guest has said something.
const LOOK: Duration = Duration::from_millis(20);

/// A line on standard error, if that is a terminal, from the second second on.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// Begins something: `reading`.
    pub fn new(what: &'static str) -> Self {
        let terminal = rustix::termios::isatty(rustix::stdio::stderr());
        Self { what, next: terminal.then(|| Instant::now() + SILENT), shown: false }
    }

    /// Whether anybody sees what it says.
    pub fn is_seen(&self) -> bool {
        self.next.is_some()
    }

    /// So much of `all` is done; of 0 nobody knows how much there is.
    pub fn at(&mut self, done: u64, all: u64) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + EVERY);
        self.shown = true;
        stream::message(&line(self.what, done, all));
    }
}

impl Drop for Progress {
    /// Takes the line away.
    fn drop(&mut self) {
        if self.shown {
            stream::message("\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, all: u64) -> String {
    match u128::from(done.min(all)) * 100 / u128::from(all.max(1)) {
        _ if all == 0 => format!("\r{what}: {done}\x1b[K"),
        percent => format!("\r{what}: {percent} %\x1b[K"),
    }
}

/// Says how long a guest has been booting of which nothing was seen yet, until it goes.
#[derive(Debug)]
pub struct Waiting {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Begins to wait for the console's first character, or for init to be there. Where nobody would see
    /// what it says, nothing waits.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn start(console: &Arc<Console>, errand: &Errand) -> io::Result<Option<Self>> {
        let mut progress = Progress::new("booting, seconds");
        if !progress.is_seen() {
            return Ok(None);
        }
        let over = Arc::new(AtomicBool::new(false));
        let (watched, console, ready) =
            (Arc::clone(&over), Arc::downgrade(console), errand.readiness());
        let begun = Instant::now();
        let thread = thread_builder("progress").spawn(move || {
            let seen = || console.upgrade().is_none_or(|console| console.was_used());
            while !watched.load(Ordering::Relaxed) && !ready.load(Ordering::Relaxed) && !seen() {
                progress.at(begun.elapsed().as_secs(), 0);
                std::thread::park_timeout(LOOK);
            }
        })?;
        Ok(Some(Self { over, thread: Some(thread) }))
    }
}

impl Drop for Waiting {
    /// Whatever is said after it, the line is gone.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done() {
        assert_eq!(line("reading", 1, 4), "\rreading: 25 %\x1b[K");
        assert_eq!(line("reading", 9, 4), "\rreading: 100 %\x1b[K");
        assert_eq!(line("reading", 9, 0), "\rreading: 9\x1b[K");
    }
}
