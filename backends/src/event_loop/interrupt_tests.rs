//! Eventfds of interrupts: taken by the loop where no hypervisor does.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use trapline_device::{
    EventFd, Interrupt, InterruptMode, Line, LineSink, MessageVector, Msi, MsiSink, SinkVector,
};

use super::*;

/// What reached the guest: levels of the pin, data of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Pin(bool),
    Message(u32),
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl LineSink for Log {
    fn set_level(&self, level: bool) {
        self.0.lock().push(Seen::Pin(level));
    }
}

impl MsiSink for Log {
    fn send(&self, _address: u64, data: u32) {
        self.0.lock().push(Seen::Message(data));
    }
}

const MESSAGE: Msi = Msi { address: 0, data: 7 };

/// A vector whose eventfd the hypervisor takes, or nobody if it has none left.
struct Irqfd {
    inner: SinkVector,
    event: Option<EventFd>,
}

impl MessageVector for Irqfd {
    fn set_route(&self, message: Option<Msi>) {
        self.inner.set_route(message);
    }

    fn trigger(&self) {
        self.inner.trigger();
    }

    fn is_pending(&self) -> bool {
        self.inner.is_pending()
    }

    fn clear(&self) {
        self.inner.clear();
    }

    fn eventfd(&self) -> io::Result<OwnedFd> {
        let event = self.event.as_ref().ok_or(io::ErrorKind::QuotaExceeded)?;
        event.as_fd().try_clone_to_owned()
    }
}

fn polled() -> (Arc<PolledLoop>, Log) {
    (PolledLoop::new(NoQueuedWrites).unwrap(), Log::default())
}

#[test]
fn without_an_irqfd_the_loop_fires_whatever_the_driver_has_enabled() {
    let (event_loop, log) = polled();
    let vector = Arc::new(SinkVector::new(Arc::new(log.clone())));
    let interrupt = Interrupt::either(Line::new(log.clone()), vector.clone());
    let event = interrupt.eventfd(&*event_loop).unwrap();
    assert_eq!(event, interrupt.eventfd(&*event_loop).unwrap(), "the same for its life");
    event.signal();
    event_loop.settle(9);
    interrupt.set_level(false);
    assert_eq!(log.take(), [Seen::Pin(true), Seen::Pin(false)]);

    interrupt.set_mode(InterruptMode::Message);
    event.signal();
    event_loop.settle(9);
    assert!(vector.is_pending(), "masked");
    assert_eq!(log.take(), []);
    vector.set_route(Some(MESSAGE));
    event.signal();
    event_loop.settle(9);
    assert_eq!(log.take(), [Seen::Message(7), Seen::Message(7)]);

    interrupt.set_mode(InterruptMode::Disabled);
    event.signal();
    event_loop.settle(9);
    assert_eq!((log.take(), event.take()), (vec![], 0));
    drop(interrupt);
    event.signal();
    assert!(!event_loop.turn(), "the watch has ended with the interrupt");
}

#[test]
fn pins_alone_and_vectors_beyond_the_hypervisors_limit_are_fired_by_the_loop_too() {
    let (event_loop, log) = polled();
    let pin = Interrupt::pin(Line::new(log.clone()));
    pin.eventfd(&*event_loop).unwrap().signal();
    let inner = SinkVector::new(Arc::new(log.clone()));
    inner.set_route(Some(MESSAGE));
    let message = Interrupt::message(Arc::new(Irqfd { inner, event: None }));
    message.eventfd(&*event_loop).unwrap().signal();
    event_loop.settle(9);
    assert_eq!(log.take(), [Seen::Pin(true), Seen::Message(7)]);
}

#[test]
fn the_loop_leaves_an_irqfd_alone_but_while_the_pin_is_used() {
    let (event_loop, log) = polled();
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let event = EventFd::from(eventfd(0, flags).unwrap());
    let inner = SinkVector::new(Arc::new(log.clone()));
    let vector = Arc::new(Irqfd { inner, event: Some(event.clone()) });
    let interrupt = Interrupt::either(Line::new(log.clone()), vector);
    interrupt.set_mode(InterruptMode::Message);
    let theirs = interrupt.eventfd(&*event_loop).unwrap();
    for mode in [InterruptMode::Message, InterruptMode::Disabled] {
        interrupt.set_mode(mode);
        theirs.signal();
        assert!(!event_loop.turn());
        assert_eq!(event.take(), 1, "the hypervisor's to take");
    }
    interrupt.set_mode(InterruptMode::Pin);
    theirs.signal();
    event_loop.settle(9);
    assert_eq!(log.take(), [Seen::Pin(true)]);
}
