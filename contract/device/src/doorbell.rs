//! Events that an event loop takes: eventfds, and the doorbells that a guest rings.

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use crate::{
    DoorbellTarget, EventFd, EventHandler, EventLoop, IoCx, Notifier, Readiness, Ring, Watch,
};

/// An eventfd that an event loop watches: each time it was signalled, the loop takes its counter and
/// calls a handler, with [`Readiness::NONE`]. Dropping it ends the watch, as of [`Watch`].
pub struct WatchedEventFd {
    event: EventFd,
    // Dropped before what it calls.
    watch: Box<dyn Watch>,
    _taker: Arc<Taker>,
}

/// Takes the counter before it calls the handler, so that no signal is missed.
struct Taker {
    event: EventFd,
    handler: Weak<dyn EventHandler>,
}

impl WatchedEventFd {
    /// Has `event_loop` watch `event`, which must be non-blocking, and call `handler`.
    ///
    /// # Errors
    /// As of [`EventLoop::watch`].
    pub fn new(
        event_loop: &dyn EventLoop,
        event: EventFd,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Self> {
        let taker = Arc::new(Taker { event: event.clone(), handler });
        let called: Weak<Taker> = Arc::downgrade(&taker);
        let watch = event_loop.watch(Arc::new(event.clone()), Readiness::READ, called)?;
        Ok(Self { event, watch, _taker: taker })
    }

    /// The eventfd.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Leaves the eventfd alone from now on, for somebody else to take its signals, or takes them
    /// again. It is watched at first.
    ///
    /// # Errors
    /// As of [`Watch::set_interest`].
    pub fn set_watched(&self, watched: bool) -> io::Result<()> {
        self.watch.set_interest(if watched { Readiness::READ } else { Readiness::NONE })
    }
}

impl EventHandler for Taker {
    fn event(&self, _ready: Readiness) {
        if self.event.take() > 0
            && let Some(handler) = self.handler.upgrade()
        {
            handler.event(Readiness::NONE);
        }
    }
}

impl fmt::Debug for WatchedEventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedEventFd")
    }
}

/// A doorbell that has a handler called on an event loop when it is rung: see
/// [`EventLoop::doorbell`]. Dropping it ends it; take its window out of the region first.
#[derive(Debug)]
pub struct Doorbell(Kind);

enum Kind {
    Event {
        event: EventFd,
        // Never asked for anything, and kept for as long as the doorbell is there.
        _watch: Box<dyn Watch>,
    },
    Notifier {
        notifier: Arc<dyn Notifier>,
        target: Arc<dyn Ring>,
        _called: Arc<Called>,
    },
}

/// Notifies, for as long as the doorbell is there.
struct Notify(Weak<dyn Notifier>);

/// What is notified: the handler, for as long as the doorbell is there.
struct Called(Weak<dyn EventHandler>);

impl Doorbell {
    /// A doorbell that is rung by signalling `event`, of which an event loop has made `watch`: it
    /// calls the handler with [`Readiness::NONE`] after each signal, whatever the counter is, so
    /// nobody takes that.
    pub fn by_event(event: EventFd, watch: Box<dyn Watch>) -> Self {
        Self(Kind::Event { event, _watch: watch })
    }

    /// A doorbell that is rung by a call, and notifies `event_loop`: for one without a thread.
    pub fn by_call(event_loop: &dyn EventLoop, handler: Weak<dyn EventHandler>) -> Self {
        let called = Arc::new(Called(handler));
        let weak: Weak<Called> = Arc::downgrade(&called);
        let notifier: Arc<dyn Notifier> = event_loop.notifier(weak).into();
        let target = Arc::new(Notify(Arc::downgrade(&notifier)));
        Self(Kind::Notifier { notifier, target, _called: called })
    }

    /// What a region's doorbell is to ring, the same for the doorbell's life.
    pub fn target(&self) -> DoorbellTarget {
        match &self.0 {
            Kind::Event { event, .. } => event.clone().into(),
            Kind::Notifier { target, .. } => Arc::clone(target).into(),
        }
    }

    /// Rings it: for a device that finds work for its queue otherwise than by being told.
    pub fn ring(&self) {
        match &self.0 {
            Kind::Event { event, .. } => event.signal(),
            Kind::Notifier { notifier, .. } => notifier.notify(),
        }
    }
}

impl Ring for Notify {
    fn ring(&self, _cx: &IoCx<'_>) {
        if let Some(notifier) = self.0.upgrade() {
            notifier.notify();
        }
    }
}

impl EventHandler for Called {
    fn event(&self, ready: Readiness) {
        if let Some(handler) = self.0.upgrade() {
            handler.event(ready);
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event { .. } => "EventFd",
            Self::Notifier { .. } => "Notifier",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;

    /// A loop that keeps what it is to call and what for, and waits for nothing.
    #[derive(Default)]
    struct Idle {
        handler: Mutex<Option<Weak<dyn EventHandler>>>,
        interest: Arc<Mutex<Readiness>>,
    }

    struct Interest(Arc<Mutex<Readiness>>);

    impl Watch for Interest {
        fn set_interest(&self, interest: Readiness) -> io::Result<()> {
            *self.0.lock() = interest;
            Ok(())
        }
    }

    impl EventLoop for Idle {
        fn watch(
            &self,
            _fd: Arc<dyn AsFd + Send + Sync>,
            interest: Readiness,
            handler: Weak<dyn EventHandler>,
        ) -> io::Result<Box<dyn Watch>> {
            *self.handler.lock() = Some(handler);
            *self.interest.lock() = interest;
            Ok(Box::new(Interest(Arc::clone(&self.interest))))
        }

        fn notifier(&self, _handler: Weak<dyn EventHandler>) -> Box<dyn Notifier> {
            unreachable!("an eventfd needs none")
        }

        fn doorbell(&self, _handler: Weak<dyn EventHandler>) -> io::Result<Doorbell> {
            unreachable!("an eventfd is no doorbell")
        }

        fn eventfd(&self, handler: Weak<dyn EventHandler>) -> io::Result<WatchedEventFd> {
            let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
            WatchedEventFd::new(self, EventFd::new(fd), handler)
        }
    }

    impl Idle {
        /// The descriptor is ready, or was a moment ago.
        fn wake(&self) {
            let handler = self.handler.lock().as_ref().and_then(Weak::upgrade);
            if let Some(handler) = handler {
                handler.event(Readiness::READ);
            }
        }
    }

    /// Counts its calls, which say nothing of any descriptor.
    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl EventHandler for Calls {
        fn event(&self, ready: Readiness) {
            assert!(ready.is_none());
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_handler_is_called_for_signals_that_nobody_else_has_taken() {
        let (event_loop, calls) = (Idle::default(), Arc::new(Calls::default()));
        let count = || calls.0.load(Ordering::Relaxed);
        let weak: Weak<Calls> = Arc::downgrade(&calls);
        let watched = event_loop.eventfd(weak).unwrap();
        watched.event().signal();
        watched.event().signal();
        event_loop.wake();
        assert_eq!(count(), 1, "once for all of them");
        event_loop.wake();
        assert_eq!(count(), 1, "the counter is taken");
        watched.event().signal();
        assert_eq!(watched.event().take(), 1, "somebody else was faster");
        event_loop.wake();
        assert_eq!(count(), 1);
        watched.event().signal();
        event_loop.wake();
        assert_eq!(count(), 2);
        drop(watched);
        event_loop.wake();
        assert_eq!(count(), 2, "there is nobody to call");
    }

    #[test]
    fn an_eventfd_is_left_alone_while_somebody_else_takes_its_signals() {
        let (event_loop, calls) = (Idle::default(), Arc::new(Calls::default()));
        let weak: Weak<Calls> = Arc::downgrade(&calls);
        let watched = event_loop.eventfd(weak).unwrap();
        assert_eq!(*event_loop.interest.lock(), Readiness::READ);
        watched.set_watched(false).unwrap();
        assert_eq!(*event_loop.interest.lock(), Readiness::NONE);
        watched.set_watched(true).unwrap();
        assert_eq!(*event_loop.interest.lock(), Readiness::READ);
    }
}
