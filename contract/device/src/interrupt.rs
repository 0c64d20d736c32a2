//! A device's interrupt: a pin, a message, or whichever of the two its driver has enabled.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::{EventFd, EventHandler, EventLoop, Line, MessageVector, Readiness, WatchedEventFd};

/// How an [`Interrupt`] reaches the guest at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterruptMode {
    /// Not at all: neither messages nor the pin (PCI's "Interrupt Disable") are enabled.
    Disabled,
    /// By the level of a pin.
    Pin,
    /// By a message for each event.
    Message,
}

/// A device's interrupt. Its clones are the same interrupt: the device fires one, and the bus
/// that knows what the driver has enabled holds another to switch the mode.
///
/// A device may fire while it holds its own lock: nothing below calls a device.
#[derive(Clone)]
pub struct Interrupt(Arc<Inner>);

struct Inner {
    pin: Option<Line>,
    vector: Option<Arc<dyn MessageVector>>,
    state: Mutex<State>,
}

struct State {
    mode: InterruptMode,
    /// The level the device asked for, kept in every mode.
    level: bool,
    /// Once asked for.
    event: Option<Event>,
    /// Hears of each change of the level.
    observer: Option<LevelObserver>,
}

/// See [`Interrupt::observe_level`].
type LevelObserver = Arc<dyn Fn() + Send + Sync>;

/// The eventfd that fires an interrupt.
struct Event {
    watched: WatchedEventFd,
    /// Whether the hypervisor takes its signals while they are to be messages.
    irqfd: bool,
}

impl Interrupt {
    /// A pin, and nothing else.
    pub fn pin(line: Line) -> Self {
        Self::new(Some(line), None, InterruptMode::Pin)
    }

    /// A message, and nothing else.
    pub fn message(vector: Arc<dyn MessageVector>) -> Self {
        Self::new(None, Some(vector), InterruptMode::Message)
    }

    /// A pin until messages are enabled ([`Self::set_mode`]).
    pub fn either(line: Line, vector: Arc<dyn MessageVector>) -> Self {
        Self::new(Some(line), Some(vector), InterruptMode::Pin)
    }

    /// An interrupt nobody takes.
    pub fn unconnected() -> Self {
        Self::new(None, None, InterruptMode::Disabled)
    }

    fn new(pin: Option<Line>, vector: Option<Arc<dyn MessageVector>>, mode: InterruptMode) -> Self {
        let state = State { mode, level: false, event: None, observer: None };
        Self(Arc::new(Inner { pin, vector, state: Mutex::new(state) }))
    }

    /// Something has happened. In message mode the message is sent, again if it was sent before.
    /// In pin mode the pin is raised, and stays so until [`Self::set_level`] lowers it.
    pub fn trigger(&self) {
        self.0.trigger();
    }

    /// The condition the device interrupts for has begun or is over. The pin follows it; in
    /// message mode each beginning sends one message. The level is kept while it cannot be seen:
    /// a pin that is enabled later shows it.
    pub fn set_level(&self, level: bool) {
        let mut state = self.0.state.lock();
        let began = level && !state.level;
        state.change_level(level);
        if began && state.mode == InterruptMode::Message {
            self.0.send();
        }
        self.0.drive(&state);
    }

    /// The level of the device's condition, in whatever mode (PCI 3.0, section 6.2.3, "Interrupt
    /// Status").
    pub fn level(&self) -> bool {
        self.0.state.lock().level
    }

    /// Has `observer` called whenever [`Self::level`] changes, before the pin follows: a bus that shows
    /// the level in a register withdraws what the guest was shown of it. It is called by whoever fires,
    /// with all the locks that it holds, and must not come back here. There is one at a time.
    pub fn observe_level(&self, observer: impl Fn() + Send + Sync + 'static) {
        self.0.state.lock().observer = Some(Arc::new(observer));
    }

    /// Switches to what the driver has enabled. The pin is driven accordingly; a condition that has
    /// begun before sends no message.
    pub fn set_mode(&self, mode: InterruptMode) {
        let mut state = self.0.state.lock();
        let before = std::mem::replace(&mut state.mode, mode);
        if before != mode
            && let Some(event) = &state.event
        {
            // Only a host without memory refuses. Signals then wait in the eventfd.
            let _ = event.listen(mode);
        }
        self.0.drive(&state);
    }

    /// What the driver has enabled.
    pub fn mode(&self) -> InterruptMode {
        self.0.state.lock().mode
    }

    /// The eventfd that fires the interrupt, for a kernel thread or another process: each signal of
    /// it is a [`Self::trigger`], in whatever mode. It is the same one for the interrupt's life, and
    /// should be asked for once by each who needs it.
    ///
    /// Messages are the hypervisor's to take from it without this process, where it can (an irqfd;
    /// see [`MessageVector::eventfd`]). Otherwise, and while the pin is used, `event_loop` does.
    ///
    /// # Errors
    /// The operating system's, when it has no descriptor left or refuses an irqfd.
    pub fn eventfd(&self, event_loop: &dyn EventLoop) -> io::Result<EventFd> {
        let mut state = self.0.state.lock();
        if state.event.is_none() {
            let event = self.new_event(event_loop)?;
            event.listen(state.mode)?;
            state.event = Some(event);
        }
        let event = state.event.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(event.watched.event().clone())
    }

    fn new_event(&self, event_loop: &dyn EventLoop) -> io::Result<Event> {
        let handler: Weak<Inner> = Arc::downgrade(&self.0);
        let irqfd = self.0.vector.as_ref().map(|vector| vector.eventfd());
        match irqfd {
            Some(Ok(fd)) => {
                let watched = WatchedEventFd::new(event_loop, EventFd::from(fd), handler)?;
                Ok(Event { watched, irqfd: true })
            }
            Some(Err(error)) if !is_lacking(&error) => Err(error),
            Some(Err(_)) | None => {
                Ok(Event { watched: event_loop.eventfd(handler)?, irqfd: false })
            }
        }
    }

    /// The message, for the bus whose registers mask and route it.
    pub fn vector(&self) -> Option<&Arc<dyn MessageVector>> {
        self.0.vector.as_ref()
    }
}

impl State {
    fn change_level(&mut self, level: bool) {
        if std::mem::replace(&mut self.level, level) != level
            && let Some(observer) = &self.observer
        {
            observer();
        }
    }
}

impl Inner {
    fn trigger(&self) {
        let mut state = self.state.lock();
        match state.mode {
            InterruptMode::Disabled => {}
            InterruptMode::Pin => {
                state.change_level(true);
                self.drive(&state);
            }
            InterruptMode::Message => self.send(),
        }
    }

    fn drive(&self, state: &State) {
        if let Some(pin) = &self.pin {
            pin.set(state.level && state.mode == InterruptMode::Pin);
        }
    }

    fn send(&self) {
        if let Some(vector) = &self.vector {
            vector.trigger();
        }
    }
}

impl EventHandler for Inner {
    /// The eventfd was signalled.
    fn event(&self, _ready: Readiness) {
        self.trigger();
    }
}

impl Event {
    /// Has the event loop take the signals that the hypervisor does not.
    fn listen(&self, mode: InterruptMode) -> io::Result<()> {
        self.watched.set_watched(!self.irqfd || mode == InterruptMode::Pin)
    }
}

/// Whether the hypervisor has no irqfd, or none left.
fn is_lacking(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::QuotaExceeded)
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Interrupt")
            .field("mode", &state.mode)
            .field("level", &state.level)
            .finish_non_exhaustive()
    }
}
