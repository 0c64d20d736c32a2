//! Ctrl-a p: pauses the guest and lets it go on, and what there is to say about that.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trapline_machine::{Control, ControlError, State};

/// The pauses of one run.
pub struct Pauses {
    control: Control,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    count: u32,
    /// How long all that are over took.
    time: Duration,
    /// When the present one began.
    since: Option<Instant>,
    refused: u32,
}

impl Pauses {
    /// No pauses so far of this machine.
    pub fn new(control: Control) -> Self {
        Self { control, log: Mutex::default() }
    }

    /// Pauses the machine, or has a paused one go on, and says what has come of it. On return that is
    /// done; the machine waits for no console meanwhile.
    pub fn toggle(&self) -> String {
        let paused = self.control.state() == State::Paused;
        let done = if paused { self.control.resume() } else { self.control.pause() };
        self.log.lock().note(paused, &done, Instant::now());
        match done {
            Ok(()) if paused => "\n  # The guest goes on.\n".to_owned(),
            Ok(()) => "\n  # The guest is paused; Ctrl-a p lets it go on.\n".to_owned(),
            Err(refused) => format!("\n  # {refused}\n"),
        }
    }

    /// How often and how long the guest was paused, in a line; nothing if nobody wanted it to.
    pub fn summary(&self) -> Option<String> {
        self.log.lock().summary(Instant::now())
    }
}

impl Log {
    /// Something was asked of the machine, which was paused or not.
    fn note(&mut self, paused: bool, done: &Result<(), ControlError>, now: Instant) {
        match done {
            Err(_) => self.refused += 1,
            Ok(()) if paused => self.time += self.present(now),
            Ok(()) => self.count += 1,
        }
        if done.is_ok() {
            self.since = (!paused).then_some(now);
        }
    }

    fn present(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now - since)
    }

    fn summary(&self, now: Instant) -> Option<String> {
        if self.count == 0 && self.refused == 0 {
            return None;
        }
        let times =
            if self.count == 1 { "once".to_owned() } else { format!("{} times", self.count) };
        let seconds = (self.time + self.present(now)).as_secs_f64();
        let refused = match self.refused {
            0 => String::new(),
            refused => format!("; refused: {refused}"),
        };
        Some(format!("  # The guest was paused {times}, for {seconds:.3} s in all{refused}.\n"))
    }
}

#[cfg(test)]
mod tests {
    use trapline_machine::Request;

    use super::*;

    #[test]
    fn the_summary_counts_pauses_and_adds_up_their_times() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut log = Log::default();
        assert_eq!(log.summary(at(0)), None);
        log.note(false, &Ok(()), at(100));
        let said = log.summary(at(350)).unwrap();
        assert_eq!(said, "  # The guest was paused once, for 0.250 s in all.\n", "it still is");
        log.note(true, &Ok(()), at(400));
        log.note(false, &Ok(()), at(1_000));
        log.note(true, &Ok(()), at(1_002));
        let said = log.summary(at(9_000)).unwrap();
        assert_eq!(said, "  # The guest was paused 2 times, for 0.302 s in all.\n");
        let refused = State::Resetting.after(Request::Pause).map(|_| ());
        log.note(false, &refused, at(9_000));
        let said = log.summary(at(9_500)).unwrap();
        assert_eq!(said, "  # The guest was paused 2 times, for 0.302 s in all; refused: 1.\n");
    }
}
