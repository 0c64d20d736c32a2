//! Interrupt lines as devices hold them: a level, and nobody's number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Where a line ends: one input of an interrupt controller.
pub trait LineSink: Send + Sync {
    /// Drives the input to `level`.
    fn set_level(&self, level: bool);
}

/// One holder's end of an interrupt line. Several holders of one line are wired-OR: it is high
/// while any of them holds it high. Dropping a holder lets go of it.
pub struct Line {
    wire: Arc<Wire>,
    held: AtomicBool,
}

struct Wire {
    sink: Box<dyn LineSink>,
    /// How many holders hold the wire high. The lock is held while the sink is driven, so that the
    /// sink sees levels in the order of the changes; it is a leaf, the sink calls no device.
    holders: Mutex<u32>,
}

impl Line {
    /// The only holder, so far, of a line that ends in `sink`. Low.
    pub fn new(sink: impl LineSink + 'static) -> Self {
        let wire = Wire { sink: Box::new(sink), holders: Mutex::new(0) };
        Self { wire: Arc::new(wire), held: AtomicBool::new(false) }
    }

    /// A line nobody listens to.
    pub fn unconnected() -> Self {
        struct Nowhere;
        impl LineSink for Nowhere {
            fn set_level(&self, _level: bool) {}
        }
        Self::new(Nowhere)
    }

    /// Another holder of the same line. Low.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { wire: Arc::clone(&self.wire), held: AtomicBool::new(false) }
    }

    /// Holds the line high, or lets go of it. The sink hears of changes only.
    pub fn set(&self, level: bool) {
        if self.held.load(Ordering::Relaxed) == level {
            return;
        }
        let mut holders = self.wire.holders.lock();
        if self.held.swap(level, Ordering::Relaxed) == level {
            return;
        }
        let before = *holders;
        *holders = if level { before + 1 } else { before - 1 };
        if (before == 0) != (*holders == 0) {
            self.wire.sink.set_level(level);
        }
    }

    /// Whether this holder holds the line high.
    pub fn level(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("held", &self.level()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log(Arc<Mutex<Vec<bool>>>);
    impl LineSink for Log {
        fn set_level(&self, level: bool) {
            self.0.lock().push(level);
        }
    }

    #[test]
    fn holders_are_wired_or_and_only_changes_reach_the_sink() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let a = Line::new(Log(Arc::clone(&log)));
        let b = a.share();
        a.set(true);
        a.set(true);
        b.set(true);
        a.set(false);
        assert_eq!(*log.lock(), [true]);
        drop(b);
        assert_eq!(*log.lock(), [true, false]);
    }
}
