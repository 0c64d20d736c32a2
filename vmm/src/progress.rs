//! How far something is that takes long, on a terminal.

use std::time::{Duration, Instant};

use crate::stream;

/// What is done within this time says nothing.
const SILENT: Duration = Duration::from_secs(1);
/// How often it says how far it is.
const EVERY: Duration = Duration::from_millis(200);

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
