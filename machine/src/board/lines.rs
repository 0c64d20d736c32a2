//! The interrupt lines of a board: a [`Line`] for each input of its interrupt controllers.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use trapline_device::Line;

/// The inputs of a board's interrupt controllers, as interrupt lines. Any number of devices can
/// hold the line of one input, which is high while one of them holds it high.
pub(crate) struct Lines {
    /// Makes the line into an input. Called once for each.
    input: Box<dyn Fn(u32) -> Line + Send + Sync>,
    /// A holder of each line made so far, which always holds it low.
    made: Mutex<BTreeMap<u32, Line>>,
}

impl Lines {
    /// Lines whose ends `input` makes, given an input's number: a global system interrupt on the
    /// PC, a shared peripheral interrupt (SPI, from 0) on arm64.
    pub(crate) fn new(input: impl Fn(u32) -> Line + Send + Sync + 'static) -> Self {
        Self { input: Box::new(input), made: Mutex::default() }
    }

    /// Another holder of the line into input `number`.
    pub(crate) fn line(&self, number: u32) -> Line {
        self.made.lock().entry(number).or_insert_with(|| (self.input)(number)).share()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trapline_device::LineSink;

    use super::*;

    struct Log(u32, Arc<Mutex<Vec<(u32, bool)>>>);

    impl LineSink for Log {
        fn set_level(&self, level: bool) {
            self.1.lock().push((self.0, level));
        }
    }

    #[test]
    fn holders_of_one_input_share_one_line() {
        let log = Arc::<Mutex<Vec<_>>>::default();
        let theirs = Arc::clone(&log);
        let lines = Lines::new(move |number| Line::new(Log(number, Arc::clone(&theirs))));
        let (a, b, other) = (lines.line(4), lines.line(4), lines.line(5));
        a.set(true);
        b.set(true);
        other.set(true);
        a.set(false);
        assert_eq!(*log.lock(), [(4, true), (5, true)], "the other holder keeps it high");
        drop(b);
        assert_eq!(*log.lock(), [(4, true), (5, true), (4, false)]);
    }
}
