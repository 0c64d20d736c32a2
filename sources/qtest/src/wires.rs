//! Pins of the machine's interrupt controllers, as a client watches and drives them.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{Line, LineSink};

/// Which pins of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Those that others drive.
    In,
    /// Those that it drives.
    Out,
}

/// One pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    /// The device, by the name clients call it.
    pub device: &'static str,
    /// Which of its pins.
    pub side: Side,
    /// The pin's number.
    pub number: u32,
}

/// The pins of a machine, and what happens on those a client wants to know about. Clones are the
/// same pins.
#[derive(Clone, Default)]
pub struct Wires(Arc<Mutex<Inner>>);

/// A leaf: nobody is called with this locked.
#[derive(Default)]
struct Inner {
    pins: Vec<Held>,
    watched: Option<(&'static str, Side)>,
    /// Changes of watched pins that were not told yet.
    changes: Vec<(u32, bool)>,
}

struct Held {
    pin: Pin,
    level: bool,
    /// The client's own end of the line, one holder among others.
    client: Arc<Line>,
}

impl Wires {
    /// A line into `pin`, which passes its changes on to `sink`. Asked for again, it is another
    /// holder of the same line, and this `sink` is not used.
    pub fn line(&self, pin: Pin, sink: impl LineSink + 'static) -> Line {
        let held =
            self.0.lock().pins.iter().find(|held| held.pin == pin).map(|held| held.client.share());
        if let Some(line) = held {
            return line;
        }
        let line = Line::new(Tap { pin, wires: Arc::downgrade(&self.0), sink });
        let client = Arc::new(line.share());
        self.0.lock().pins.push(Held { pin, level: false, client });
        line
    }

    /// The device that a client's `path` names: QEMU's object paths are taken for the last of our
    /// names that occurs in them, so that `/machine/unattached/ioapic` and `ioapic` are the same.
    pub(crate) fn device(&self, path: &str) -> Option<&'static str> {
        let inner = self.0.lock();
        let names = inner.pins.iter().map(|held| held.pin.device);
        names.filter(|name| path.contains(name)).max_by_key(|name| name.len())
    }

    /// Whether a device has pins on this side.
    pub(crate) fn has(&self, device: &str, side: Side) -> bool {
        let inner = self.0.lock();
        inner.pins.iter().any(|held| held.pin.device == device && held.pin.side == side)
    }

    /// Watches the pins of one device, or none. What is high already is no change.
    pub(crate) fn watch(&self, watched: Option<(&'static str, Side)>) {
        let mut inner = self.0.lock();
        inner.watched = watched;
        inner.changes.clear();
    }

    /// Who is watched.
    pub(crate) fn watched(&self) -> Option<(&'static str, Side)> {
        self.0.lock().watched
    }

    /// The changes since the last call, oldest first.
    pub(crate) fn take_changes(&self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.0.lock().changes)
    }

    /// Holds an input high on the client's behalf, or lets go of it. Says whether there is one.
    pub(crate) fn drive(&self, device: &str, number: u32, level: bool) -> bool {
        let client = {
            let inner = self.0.lock();
            let mut inputs = inner.pins.iter().filter(|held| held.pin.side == Side::In);
            inputs
                .find(|held| held.pin.device == device && held.pin.number == number)
                .map(|held| Arc::clone(&held.client))
        };
        client.map(|line| line.set(level)).is_some()
    }

    /// The level of a pin; low if there is none.
    pub fn level(&self, pin: Pin) -> bool {
        self.0.lock().pins.iter().any(|held| held.pin == pin && held.level)
    }
}

impl Inner {
    fn changed(&mut self, pin: Pin, level: bool) {
        if let Some(held) = self.pins.iter_mut().find(|held| held.pin == pin) {
            held.level = level;
        }
        if self.watched == Some((pin.device, pin.side)) {
            self.changes.push((pin.number, level));
        }
    }
}

/// The end of a line: tells the client, then the chip behind the pin.
struct Tap<S> {
    pin: Pin,
    /// Weak, as the pins hold the line that ends here.
    wires: Weak<Mutex<Inner>>,
    sink: S,
}

impl<S: LineSink> LineSink for Tap<S> {
    fn set_level(&self, level: bool) {
        if let Some(wires) = self.wires.upgrade() {
            wires.lock().changed(self.pin, level);
        }
        self.sink.set_level(level);
    }
}
