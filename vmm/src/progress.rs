//! How far something is that takes long, on a terminal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Begins to wait for the console's first character, or for init to be there.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn start(console: &Arc<Console>, errand: &Errand) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (watched, console, ready) =
            (Arc::clone(&over), Arc::downgrade(console), errand.readiness());
        let begun = Instant::now();
        thread_builder("progress").spawn(move || {
            let mut progress = Progress::new("booting, seconds");
            let mut second = SILENT;
            let seen = || console.upgrade().is_none_or(|console| console.was_used());
            while !watched.load(Ordering::Relaxed) && !ready.load(Ordering::Relaxed) && !seen() {
                let elapsed = begun.elapsed();
                if elapsed > second {
                    progress.at(elapsed.as_secs(), 0);
                    second = Duration::from_secs(elapsed.as_secs() + 1);
                }
                std::thread::sleep(LOOK);
            }
        })?;
        Ok(Self(over))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
