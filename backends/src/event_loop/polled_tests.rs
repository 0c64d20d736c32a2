use std::io::{Read, Write, pipe};

use trapline_device::{DoorbellTarget, IoCx, NoRegions, Requester};

use super::*;

/// Writes down that it was called, and does something.
struct Logs<F> {
    name: &'static str,
    log: Log,
    then: F,
}

type Log = Arc<Mutex<Vec<&'static str>>>;

impl<F: Fn() + Send + Sync> EventHandler for Logs<F> {
    fn event(&self, _ready: Readiness) {
        self.log.lock().push(self.name);
        (self.then)();
    }
}

fn logs(
    log: &Log,
    name: &'static str,
    then: impl Fn() + Send + Sync + 'static,
) -> Arc<dyn EventHandler> {
    Arc::new(Logs { name, log: Arc::clone(log), then })
}

fn polled() -> (Arc<PolledLoop>, Log) {
    (PolledLoop::new(NoQueuedWrites).unwrap(), Log::default())
}

/// What was called since the last time.
fn take(log: &Log) -> Vec<&'static str> {
    std::mem::take(&mut *log.lock())
}

#[test]
fn handlers_are_called_in_turns_only_and_always_in_the_same_order() {
    let (event_loop, log) = polled();
    let [a, b, c] = ["a", "b", "c"].map(|name| logs(&log, name, || {}));
    let (pipes, watches): (Vec<_>, Vec<_>) = [&a, &b]
        .map(|handler| {
            let (reader, writer) = pipe().unwrap();
            let watch =
                event_loop.watch(Arc::new(reader), Readiness::READ, Arc::downgrade(handler));
            (writer, watch.unwrap())
        })
        .into_iter()
        .unzip();
    let notifier = event_loop.notifier(Arc::downgrade(&c));
    notifier.notify();
    // The later one is ready first.
    pipes.iter().rev().for_each(|mut pipe| pipe.write_all(b"x").unwrap());
    assert!(take(&log).is_empty());
    assert!(event_loop.turn());
    assert_eq!(take(&log), ["a", "b", "c"]);
    assert!(event_loop.turn(), "nobody has read");
    assert_eq!(take(&log), ["a", "b"]);
    drop(watches);
    assert!(!event_loop.turn());
    assert!(take(&log).is_empty());
}

#[test]
fn one_turn_calls_all_who_are_ready_however_many() {
    let (event_loop, log) = polled();
    let handler = logs(&log, "ready", || {});
    // More than a wait has room for without an allocation.
    let count = 2 * EVENTS;
    let watches: Vec<_> = (0..count)
        .map(|_| {
            let (reader, writer) = pipe().unwrap();
            (&writer).write_all(b"x").unwrap();
            let interest = Readiness::READ;
            let watch = event_loop.watch(Arc::new(reader), interest, Arc::downgrade(&handler));
            (writer, watch.unwrap())
        })
        .collect();
    assert!(event_loop.turn());
    assert_eq!(take(&log).len(), count);
    drop(watches);
}

#[test]
fn a_doorbell_waits_for_the_next_turn_and_is_rung_by_a_handler_call() {
    let (event_loop, log) = polled();
    let queue = logs(&log, "queue", || {});
    let doorbell = event_loop.doorbell(Arc::downgrade(&queue)).unwrap();
    let target = doorbell.target();
    assert!(matches!(target, DoorbellTarget::Handler(_)));
    assert_eq!(target, doorbell.target(), "a window is removed by its target");
    let cx = IoCx::new(Requester::Vcpu(0), &NoRegions);
    target.ring(&cx);
    target.ring(&cx);
    assert!(take(&log).is_empty(), "not within the access");
    assert!(event_loop.turn() && !event_loop.turn());
    doorbell.ring();
    assert!(event_loop.turn());
    assert_eq!(take(&log), ["queue", "queue"]);
    target.ring(&cx);
    drop(doorbell);
    target.ring(&cx);
    assert!(!event_loop.turn());
}

#[test]
fn work_that_makes_more_work_is_done_up_to_the_limit() {
    let (event_loop, log) = polled();
    let itself = Arc::new(Mutex::new(None::<Box<dyn Notifier>>));
    let again = Arc::clone(&itself);
    let busy = logs(&log, "busy", move || {
        if let Some(notifier) = &*again.lock() {
            notifier.notify();
        }
    });
    let notifier = event_loop.notifier(Arc::downgrade(&busy));
    notifier.notify();
    *itself.lock() = Some(notifier);
    event_loop.settle(5);
    assert_eq!(take(&log).len(), 5);
    itself.lock().take();
    event_loop.settle(5);
    assert_eq!(take(&log).len(), 1, "and what is left is done the next time");
}

#[test]
fn a_handler_that_turns_its_own_loop_calls_nobody_and_a_panic_leaves_the_loop_usable() {
    let (event_loop, log) = polled();
    let inner = Arc::downgrade(&event_loop);
    let nested = logs(&log, "nested", move || assert!(!inner.upgrade().unwrap().turn()));
    let other = logs(&log, "other", || {});
    let broken = logs(&log, "broken", || panic!("this panic is part of the test"));
    let notifiers = [&nested, &other].map(|of| event_loop.notifier(Arc::downgrade(of)));
    notifiers.iter().for_each(|notifier| notifier.notify());
    assert!(event_loop.turn());
    assert_eq!(take(&log), ["nested", "other"]);
    let (reader, mut writer) = pipe().unwrap();
    let read = Arc::new(reader);
    let watch = event_loop.watch(read.clone(), Readiness::READ, Arc::downgrade(&broken)).unwrap();
    writer.write_all(b"x").unwrap();
    assert!(panic::catch_unwind(AssertUnwindSafe(|| event_loop.turn())).is_err());
    (&*read).read_exact(&mut [0]).unwrap();
    thread::spawn(move || drop(watch)).join().unwrap();
    notifiers.iter().for_each(|notifier| notifier.notify());
    assert!(event_loop.turn());
    assert_eq!(take(&log), ["broken", "nested", "other"]);
}
