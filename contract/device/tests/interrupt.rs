//! Interrupts as devices, buses and back ends use them: by pin and by message, switched by the
//! driver, and by an eventfd, which the event loop takes where no hypervisor does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use trapline_device::{
    EventFd, Interrupt, InterruptMode, Line, LineSink, MessageVector, Msi, MsiSink, SinkVector,
};
use trapline_testkit::event_loop;

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

fn either() -> (Log, Interrupt) {
    let log = Log::default();
    let vector = Arc::new(SinkVector::new(Arc::new(log.clone())));
    vector.set_route(Some(MESSAGE));
    (log.clone(), Interrupt::either(Line::new(log), vector))
}

#[test]
fn a_pin_follows_the_condition_and_an_event_keeps_it_raised() {
    let (log, interrupt) = either();
    interrupt.set_level(true);
    interrupt.trigger();
    interrupt.set_level(false);
    interrupt.trigger();
    interrupt.trigger();
    assert!(interrupt.level());
    interrupt.set_level(false);
    let (up, down) = (Seen::Pin(true), Seen::Pin(false));
    assert_eq!(log.take(), [up.clone(), down.clone(), up, down]);
}

#[test]
fn each_event_and_each_beginning_is_a_message_and_the_pin_stays_low() {
    let (log, interrupt) = either();
    interrupt.set_mode(InterruptMode::Message);
    interrupt.trigger();
    interrupt.trigger();
    assert!(!interrupt.level(), "an event is over when its message is sent");
    interrupt.set_level(true);
    interrupt.set_level(true);
    interrupt.set_level(false);
    assert_eq!(log.take(), [const { Seen::Message(7) }; 3]);
}

#[test]
fn the_level_outlasts_the_modes_that_do_not_show_it() {
    let (log, interrupt) = either();
    interrupt.set_level(true);
    interrupt.set_mode(InterruptMode::Message);
    assert_eq!(log.take(), [Seen::Pin(true), Seen::Pin(false)]);
    interrupt.set_mode(InterruptMode::Disabled);
    interrupt.trigger();
    assert!(interrupt.level());
    assert_eq!(log.take(), []);
    interrupt.set_mode(InterruptMode::Pin);
    assert_eq!(log.take(), [Seen::Pin(true)]);
    interrupt.set_mode(InterruptMode::Disabled);
    interrupt.set_level(false);
    interrupt.trigger();
    interrupt.set_mode(InterruptMode::Pin);
    assert_eq!(log.take(), [Seen::Pin(false)], "a disabled pin forgets events");
}

#[test]
fn an_observer_hears_of_each_change_of_the_level_before_the_pin_follows() {
    let (log, interrupt) = either();
    let seen = log.clone();
    interrupt.observe_level(move || seen.0.lock().push(Seen::Message(0)));
    interrupt.set_level(true);
    interrupt.set_level(true);
    interrupt.set_mode(InterruptMode::Disabled);
    interrupt.set_level(false);
    interrupt.set_mode(InterruptMode::Pin);
    interrupt.trigger();
    let (changed, up, down) = (Seen::Message(0), Seen::Pin(true), Seen::Pin(false));
    let expected = [changed.clone(), up.clone(), down, changed.clone(), changed, up];
    assert_eq!(log.take(), expected);
}

#[test]
fn an_interrupt_without_the_other_half_does_nothing_in_its_mode() {
    let log = Log::default();
    let pin = Interrupt::pin(Line::new(log.clone()));
    pin.set_mode(InterruptMode::Message);
    pin.trigger();
    pin.set_level(true);
    assert_eq!(log.take(), []);
    Interrupt::unconnected().trigger();
}

#[test]
fn without_an_irqfd_the_loop_fires_whatever_the_driver_has_enabled() {
    let (event_loop, log) = (event_loop(), Log::default());
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
    let (event_loop, log) = (event_loop(), Log::default());
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
    let (event_loop, log) = (event_loop(), Log::default());
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
