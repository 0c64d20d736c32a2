//! What becomes of a guest that was reset: its run ends, as in kvmtool, or it is booted again.

/// A guest that comes back so often without anything for its user to see, a line of output or a
/// picture, is in a loop.
pub const SILENT_MAX: u32 = 10;

/// So many resets of one run are reported. A guest can make any number.
const REPORTED_MAX: u32 = 10;

/// What to do after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The run is over.
    End,
    /// The guest is booted again, and somebody is told of it, or not.
    BootAgain {
        /// Whether the reset is reported.
        reported: bool,
    },
    /// The guest is in a loop: it was reset [`SILENT_MAX`] times without anything to see.
    GiveUp,
}

/// The resets of one run.
#[derive(Debug)]
pub struct Resets {
    reboot: bool,
    /// So many so far.
    count: u32,
    /// So many since there was anything to see.
    silent: u32,
    /// Lines of output when the guest was reset last.
    lines: u64,
}

impl Resets {
    /// None so far of a guest that is to be booted again, or not.
    pub fn new(reboot: bool) -> Self {
        Self { reboot, count: 0, silent: 0, lines: 0 }
    }

    /// The guest was reset, and has printed so many lines in its whole life. `drawn` says whether
    /// there was anything on its display since it was reset before.
    pub fn next(&mut self, lines: u64, drawn: bool) -> Next {
        if !self.reboot {
            return Next::End;
        }
        self.count = self.count.saturating_add(1);
        self.silent = if lines == self.lines && !drawn { self.silent + 1 } else { 0 };
        self.lines = lines;
        if self.silent >= SILENT_MAX {
            return Next::GiveUp;
        }
        Next::BootAgain { reported: self.count <= REPORTED_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_ends_the_run_unless_a_reboot_is_wanted() {
        assert_eq!(Resets::new(false).next(7, false), Next::End);
        assert_eq!(Resets::new(true).next(7, false), Next::BootAgain { reported: true });
    }

    #[test]
    fn ten_resets_in_a_row_without_a_line_are_a_loop() {
        let mut resets = Resets::new(true);
        for _ in 1..SILENT_MAX {
            assert_ne!(resets.next(0, false), Next::GiveUp);
        }
        assert_ne!(resets.next(1, false), Next::GiveUp, "a line was printed");
        for _ in 1..SILENT_MAX {
            assert_ne!(resets.next(1, false), Next::GiveUp);
        }
        assert_eq!(resets.next(1, false), Next::GiveUp);
    }

    #[test]
    fn a_picture_is_something_to_see() {
        let mut resets = Resets::new(true);
        for _ in 0..3 {
            for _ in 1..SILENT_MAX {
                assert_ne!(resets.next(0, false), Next::GiveUp);
            }
            assert_ne!(resets.next(0, true), Next::GiveUp);
        }
        assert!((0..100).all(|_| resets.next(0, true) != Next::GiveUp));
    }

    #[test]
    fn a_guest_that_prints_and_resets_for_ever_is_reported_ten_times() {
        let mut resets = Resets::new(true);
        let reported = |next| next == Next::BootAgain { reported: true };
        assert_eq!((0..1000).filter(|lines| reported(resets.next(lines + 1, false))).count(), 10);
    }
}
