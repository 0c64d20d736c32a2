use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use trapline_device::DoorbellTarget;

use super::*;

/// Long enough for any host; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function that is called.
struct Call<F>(F);

impl<F: Fn(Readiness) + Send + Sync> EventHandler for Call<F> {
    fn event(&self, ready: Readiness) {
        (self.0)(ready);
    }
}

fn handler(call: impl Fn(Readiness) + Send + Sync + 'static) -> Arc<dyn EventHandler> {
    Arc::new(Call(call))
}

/// Sends what it is called with.
fn told() -> (Arc<dyn EventHandler>, Receiver<Readiness>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    (handler(move |ready| tell.lock().send(ready).unwrap()), told)
}

fn plain() -> Arc<EpollLoop> {
    EpollLoop::start("test", NoQueuedWrites).unwrap()
}

/// Waits until `done`, or fails.
fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never happened");
        thread::yield_now();
    }
}

/// Everything that was to be called before this has been.
fn settle(event_loop: &EpollLoop) {
    for _ in 0..3 {
        let (all, called) = told();
        event_loop.notifier(Arc::downgrade(&all)).notify();
        called.recv_timeout(PATIENCE).unwrap();
    }
}

fn pair() -> (Arc<PipeReader>, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    (Arc::new(reader), writer)
}

/// Counts how often it is asked, and says what it is told to.
#[derive(Clone, Default)]
struct Writes {
    possible: Arc<AtomicBool>,
    any: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    delivered: Arc<AtomicU64>,
    exits: Arc<AtomicU64>,
}

impl QueuedWrites for Writes {
    fn exits(&self) -> u64 {
        self.exits.load(Ordering::SeqCst)
    }

    fn possible(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.possible.load(Ordering::SeqCst)
    }

    fn deliver(&self) -> bool {
        self.delivered.fetch_add(1, Ordering::SeqCst);
        self.any.load(Ordering::SeqCst)
    }
}

#[test]
fn a_handler_is_called_for_as_long_as_there_is_something_to_read() {
    let event_loop = plain();
    let (reader, mut writer) = pair();
    let (tell, read) = channel();
    let (tell, from) = (Mutex::new(tell), Arc::clone(&reader));
    let byte_by_byte = handler(move |ready| {
        assert_eq!(ready, Readiness::READ);
        let mut byte = [0];
        assert_eq!((&*from).read(&mut byte).unwrap(), 1);
        tell.lock().send(byte[0]).unwrap();
    });
    let _watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&byte_by_byte)).unwrap();
    writer.write_all(b"abc").unwrap();
    assert_eq!([(); 3].map(|()| read.recv_timeout(PATIENCE).unwrap()), *b"abc");
    settle(&event_loop);
    assert!(read.try_recv().is_err());
}

#[test]
fn coalesced_writes_are_delivered_before_every_call() {
    let writes = Writes::default();
    let event_loop = EpollLoop::start("test", writes.clone()).unwrap();
    let (reader, mut writer) = pair();
    let (tell, seen) = channel();
    let (tell, delivered) = (Mutex::new(tell), Arc::clone(&writes.delivered));
    let looks = handler(move |_| tell.lock().send(delivered.load(Ordering::SeqCst)).unwrap());
    let watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&looks)).unwrap();
    writer.write_all(b"a").unwrap();
    let calls = [(); 3].map(|()| seen.recv_timeout(PATIENCE).unwrap());
    assert_eq!(calls, [1, 2, 3]);
    drop(watch);
    settle(&event_loop);
    seen.try_iter().for_each(drop);
    let before = writes.delivered.load(Ordering::SeqCst);
    let notifier = event_loop.notifier(Arc::downgrade(&looks));
    notifier.notify();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), before + 1);
}

/// Ends a watch as soon as its handler's writes are delivered, from another thread: as a vCPU does whose
/// write a device ends it in, and that the delivery waits for.
struct EndsAWatch(Mutex<Receiver<Box<dyn Watch>>>);

impl QueuedWrites for EndsAWatch {
    fn possible(&self) -> bool {
        true
    }

    fn deliver(&self) -> bool {
        if let Ok(watch) = self.0.lock().try_recv() {
            thread::spawn(move || drop(watch)).join().unwrap();
        }
        false
    }

    fn exits(&self) -> u64 {
        0
    }
}

#[test]
fn a_delivery_may_wait_for_the_end_of_the_watch_that_it_is_made_for() {
    let (give, taken) = channel();
    let event_loop = EpollLoop::start("test", EndsAWatch(Mutex::new(taken))).unwrap();
    let (reader, mut writer) = pair();
    let (calls, called) = told();
    give.send(event_loop.watch(reader, Readiness::READ, Arc::downgrade(&calls)).unwrap()).unwrap();
    writer.write_all(b"a").unwrap();
    settle(&event_loop);
    assert!(called.try_recv().is_err(), "its watch is over");
}

#[test]
fn what_is_watched_for_nothing_is_left_alone_even_when_it_has_hung_up() {
    let writes = Writes::default();
    let event_loop = EpollLoop::start("test", writes.clone()).unwrap();
    let (reader, writer) = pair();
    let (calls, called) = told();
    let watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&calls)).unwrap();
    watch.set_interest(Readiness::NONE).unwrap();
    drop(writer);
    settle(&event_loop);
    assert!(called.try_recv().is_err());
    let turns = writes.asked.load(Ordering::SeqCst);
    thread::sleep(Duration::from_millis(20));
    assert!(writes.asked.load(Ordering::SeqCst) <= turns + 1, "the loop spins");
    watch.set_interest(Readiness::READ).unwrap();
    assert_eq!(called.recv_timeout(PATIENCE).unwrap(), Readiness::READ, "the end can be read");
}

#[test]
fn a_regular_file_is_always_ready() {
    let event_loop = plain();
    let file = Arc::new(tempfile::tempfile().unwrap());
    let (calls, called) = told();
    let watch = event_loop.watch(file, Readiness::WRITE, Arc::downgrade(&calls)).unwrap();
    for _ in 0..3 {
        assert_eq!(called.recv_timeout(PATIENCE).unwrap(), Readiness::WRITE);
    }
    watch.set_interest(Readiness::NONE).unwrap();
    settle(&event_loop);
    while called.try_recv().is_ok() {}
    settle(&event_loop);
    assert!(called.try_recv().is_err());
}

#[test]
fn nobody_who_is_always_ready_keeps_the_others_waiting() {
    let event_loop = plain();
    let greedy = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&greedy);
    let never_reads = handler(move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    let mut others = Vec::new();
    // More than one turn asks for.
    for _ in 0..3 * EVENTS {
        let (reader, mut writer) = pair();
        writer.write_all(b"a").unwrap();
        let weak = Arc::downgrade(&never_reads);
        others.push((event_loop.watch(reader, Readiness::READ, weak).unwrap(), writer));
    }
    let (reader, mut writer) = pair();
    let (calls, called) = told();
    let _watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&calls)).unwrap();
    let before = greedy.load(Ordering::SeqCst);
    writer.write_all(b"a").unwrap();
    called.recv_timeout(PATIENCE).unwrap();
    let (notified, told) = told();
    event_loop.notifier(Arc::downgrade(&notified)).notify();
    told.recv_timeout(PATIENCE).unwrap();
    assert!(greedy.load(Ordering::SeqCst) > before, "the others were called as well");
}

/// A handler that stays inside until it is let go, and what it says on its way.
fn slow() -> (Arc<dyn EventHandler>, Receiver<()>, Sender<()>, Arc<AtomicBool>) {
    let (enter, entered) = channel();
    let (go, let_go) = channel::<()>();
    let left = Arc::new(AtomicBool::new(false));
    let (enter, let_go, leaves) = (Mutex::new(enter), Mutex::new(let_go), Arc::clone(&left));
    let slow = handler(move |_| {
        enter.lock().send(()).unwrap();
        let _ = let_go.lock().recv();
        leaves.store(true, Ordering::SeqCst);
    });
    (slow, entered, go, left)
}

#[test]
fn the_end_of_a_watch_waits_for_its_handler_and_then_it_is_called_no_more() {
    let event_loop = plain();
    let (reader, mut writer) = pair();
    let (slow, entered, go, left) = slow();
    let watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&slow)).unwrap();
    writer.write_all(b"a").unwrap();
    entered.recv_timeout(PATIENCE).unwrap();
    thread::scope(|scope| {
        let ending = scope.spawn(|| {
            drop(watch);
            assert!(left.load(Ordering::SeqCst));
        });
        drop(go);
        ending.join().unwrap();
    });
    while entered.try_recv().is_ok() {}
    settle(&event_loop);
    assert!(entered.try_recv().is_err());
}

#[test]
fn after_stop_nobody_is_called() {
    let event_loop = plain();
    let (slow, entered, go, left) = slow();
    event_loop.notifier(Arc::downgrade(&slow)).notify();
    entered.recv_timeout(PATIENCE).unwrap();
    let (calls, called) = told();
    let notifier = event_loop.notifier(Arc::downgrade(&calls));
    notifier.notify();
    thread::scope(|scope| {
        let stopping = scope.spawn(|| {
            event_loop.stop();
            assert!(left.load(Ordering::SeqCst), "stop waits for the handler");
        });
        // Not let go before the loop is to stop.
        until("the stop", || event_loop.set.state.lock().stopped);
        go.send(()).unwrap();
        stopping.join().unwrap();
    });
    notifier.notify();
    event_loop.stop();
    assert!(called.try_recv().is_err());
}

#[test]
fn what_happens_in_a_pause_is_found_after_it_once() {
    let event_loop = plain();
    let (reader, mut writer) = pair();
    let (calls, called) = told();
    let watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&calls)).unwrap();
    let (notified, told) = told();
    let notifier = event_loop.notifier(Arc::downgrade(&notified));
    for _ in 0..100 {
        event_loop.pause();
        event_loop.pause();
        writer.write_all(b"a").unwrap();
        notifier.notify();
        notifier.notify();
        assert!(called.try_recv().is_err() && told.try_recv().is_err());
        event_loop.resume();
        called.recv_timeout(PATIENCE).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        watch.set_interest(Readiness::NONE).unwrap();
        settle(&event_loop);
        while called.try_recv().is_ok() {}
        assert!(told.try_recv().is_err());
        event_loop.pause();
        watch.set_interest(Readiness::READ).unwrap();
    }
    event_loop.resume();
}

#[test]
fn a_handler_may_pause_stop_and_drop_its_own_loop() {
    let event_loop = plain();
    let (mine, last) = (Mutex::new(None), channel());
    let (mine, tell, done) = (Arc::new(mine), Mutex::new(last.0), last.1);
    let theirs = Arc::clone(&mine);
    let ends = handler(move |_| {
        let event_loop: Arc<EpollLoop> = theirs.lock().take().unwrap();
        event_loop.pause();
        event_loop.resume();
        event_loop.stop();
        drop(event_loop);
        tell.lock().send(()).unwrap();
    });
    let notifier = event_loop.notifier(Arc::downgrade(&ends));
    *mine.lock() = Some(event_loop);
    notifier.notify();
    done.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_handler_that_is_gone_is_forgotten() {
    let event_loop = plain();
    let (reader, mut writer) = pair();
    let (calls, _called) = told();
    let watch = event_loop.watch(reader, Readiness::READ, Arc::downgrade(&calls)).unwrap();
    drop(calls);
    writer.write_all(b"a").unwrap();
    until("the watch's end", || event_loop.set.state.lock().watched() == 0);
    watch.set_interest(Readiness::READ).unwrap();
    settle(&event_loop);
}

#[test]
fn a_panic_hangs_nobody_and_whoever_stops_the_loop_hears_of_it() {
    let event_loop = plain();
    let broken = handler(|_| panic!("this panic is part of the test"));
    event_loop.notifier(Arc::downgrade(&broken)).notify();
    event_loop.pause();
    until("the thread's end", || {
        event_loop.resume();
        event_loop.set.state.lock().stopped
    });
    event_loop.pause();
    assert!(panic::catch_unwind(AssertUnwindSafe(|| event_loop.stop())).is_err());
}

/// A guest and when its writes are looked for.
struct Looks {
    writes: Writes,
    flush: Flush,
    now: Instant,
}

impl Looks {
    fn new() -> Self {
        let writes = Writes::default();
        writes.possible.store(true, Ordering::SeqCst);
        Self { writes, flush: Flush::new(), now: Instant::now() }
    }

    /// Waits for the next look, and no less; how long that was.
    fn next(&mut self) -> Duration {
        let wait = self.flush.timeout(self.now, &self.writes).unwrap();
        let looks = || self.writes.delivered.load(Ordering::SeqCst);
        let before = looks();
        self.flush.look(self.now + wait - Duration::from_nanos(1), &self.writes, false);
        assert_eq!(looks(), before, "too early");
        self.now += wait;
        self.flush.look(self.now, &self.writes, false);
        assert_eq!(looks(), before + 1);
        wait
    }

    /// Looks until the guest has been idle for `time`, and says how often.
    fn idle(&mut self, time: Duration) -> u32 {
        let end = self.now + time;
        let mut looks = 0;
        while self.now < end {
            self.next();
            looks += 1;
        }
        looks
    }
}

const SOON: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_secs(1);

#[test]
fn an_idle_guests_writes_are_looked_for_ever_later_and_once_a_second_after_ten() {
    let mut looks = Looks::new();
    assert_eq!(looks.next(), SOON);
    assert!(looks.idle(Duration::from_secs(10)) < 80);
    assert_eq!([looks.next(), looks.next()], [LATE; 2]);
    looks.writes.possible.store(false, Ordering::SeqCst);
    assert_eq!(looks.flush.timeout(looks.now, &looks.writes), None, "none can be there");
    looks.writes.possible.store(true, Ordering::SeqCst);
    assert_eq!(looks.next(), SOON);
}

#[test]
fn a_write_is_late_by_a_tenth_of_the_time_a_guest_was_idle() {
    let mut looks = Looks::new();
    let start = looks.now;
    // So many looks are enough for any schedule that is slower by a tenth each time.
    for _ in 0..100 {
        let idle = looks.now - start;
        assert_eq!(looks.next(), (idle / 10).clamp(SOON, LATE), "after {idle:?}");
    }
    assert!(looks.now - start >= Duration::from_secs(10));
}

#[test]
fn writes_and_exits_show_that_a_guest_is_not_idle_and_a_call_has_it_looked_at_soon() {
    let mut looks = Looks::new();
    looks.idle(Duration::from_secs(20));
    looks.writes.any.store(true, Ordering::SeqCst);
    assert_eq!(looks.next(), LATE, "that there was a write is seen by looking");
    looks.writes.any.store(false, Ordering::SeqCst);
    assert_eq!(looks.next(), SOON);
    looks.idle(Duration::from_secs(20));
    looks.writes.exits.store(1, Ordering::SeqCst);
    assert_eq!([looks.next(), looks.next()], [LATE, SOON]);
    looks.idle(Duration::from_secs(20));
    assert!(looks.flush.timeout(looks.now, &looks.writes).unwrap() > SOON);
    looks.flush.look(looks.now, &looks.writes, true);
    assert_eq!([looks.next(), looks.next()], [SOON, LATE], "nothing has come of it");
}

#[test]
fn a_turn_in_which_somebody_was_called_has_an_idle_guest_looked_at_soon() {
    let mut looks = Looks::new();
    looks.idle(Duration::from_secs(20));
    assert_eq!(looks.flush.timeout(looks.now, &looks.writes), Some(LATE));
    let set = Arc::new(EpollSet::new(looks.writes.clone()).unwrap());
    let (calls, called) = told();
    set.notifier(Arc::downgrade(&calls)).notify();
    turn(&set, &mut Alarm::new(&set).unwrap(), &mut looks.flush, || looks.now);
    assert_eq!(called.try_recv(), Ok(Readiness::NONE));
    assert_eq!(looks.flush.timeout(looks.now, &looks.writes), Some(SOON));
}

#[test]
fn an_alarm_stays_set_to_an_earlier_time_and_rings_at_each_once() {
    let set = EpollSet::new(NoQueuedWrites).unwrap();
    let mut alarm = Alarm::new(&set).unwrap();
    let now = Instant::now();
    alarm.set(None, now);
    assert_eq!(alarm.rings_at(), None);
    let [soon, later] = [3600, 7200].map(|seconds| Some(now + Duration::from_secs(seconds)));
    alarm.set(later, now);
    assert_eq!(alarm.rings_at(), later);
    alarm.set(soon, now);
    assert_eq!(alarm.rings_at(), soon);
    alarm.set(later, now);
    assert_eq!(alarm.rings_at(), soon, "it comes first");
    alarm.set(None, now);
    assert_eq!(alarm.rings_at(), soon, "and is not worth a system call");
    // It has rung at that time.
    let after = now + Duration::from_secs(3601);
    alarm.set(later, after);
    assert_eq!(alarm.rings_at(), later);
    for _ in 0..2 {
        alarm.set(Some(now), Instant::now());
        assert!(set.wait(EVENTS, || Some(PATIENCE)).is_empty(), "there is nobody to call");
        let start = Instant::now();
        assert!(set.wait(EVENTS, || Some(Duration::from_millis(1))).is_empty());
        assert!(start.elapsed() >= Duration::from_millis(1), "it has rung once");
    }
}

#[test]
fn a_doorbell_that_is_found_in_a_pause_is_answered_after_it() {
    let set = Arc::new(EpollSet::new(NoQueuedWrites).unwrap());
    let (calls, called) = told();
    let doorbell = set.doorbell(Arc::downgrade(&calls)).unwrap();
    doorbell.ring();
    let ready = set.wait(EVENTS, || None);
    set.state.lock().paused = true;
    assert!(!set.call_all(ready) && called.try_recv().is_err());
    set.state.lock().paused = false;
    let ready = set.wait(EVENTS, || None);
    assert!(set.call_all(ready));
    assert_eq!(called.try_recv(), Ok(Readiness::NONE));
    assert!(set.wait(EVENTS, || Some(Duration::ZERO)).is_empty(), "and once");
    doorbell.ring();
    let ready = set.wait(EVENTS, || None);
    set.state.lock().paused = true;
    assert!(!set.call_all(ready));
    drop(doorbell);
    set.state.lock().paused = false;
    assert!(set.wait(EVENTS, || Some(Duration::ZERO)).is_empty(), "it has gone");
}

#[test]
fn the_loop_delivers_an_idle_guests_writes() {
    let writes = Writes::default();
    let event_loop = EpollLoop::start("test", writes.clone()).unwrap();
    writes.possible.store(true, Ordering::SeqCst);
    event_loop.look_for_writes();
    until("the third look", || writes.delivered.load(Ordering::SeqCst) >= 3);
}

#[test]
fn a_doorbell_is_an_eventfd_whose_signals_call_once_until_it_is_dropped() {
    let event_loop = plain();
    let (calls, called) = told();
    let doorbell = event_loop.doorbell(Arc::downgrade(&calls)).unwrap();
    let DoorbellTarget::EventFd(event) = doorbell.target() else { panic!("KVM takes an eventfd") };
    assert_eq!(doorbell.target(), doorbell.target(), "a window is removed by its target");
    event_loop.pause();
    (0..3).for_each(|_| event.signal());
    event_loop.resume();
    assert_eq!(called.recv_timeout(PATIENCE).unwrap(), Readiness::NONE);
    settle(&event_loop);
    assert!(called.try_recv().is_err(), "three signals before a call are one");
    doorbell.ring();
    called.recv_timeout(PATIENCE).unwrap();
    drop(doorbell);
    event.signal();
    settle(&event_loop);
    assert!(called.try_recv().is_err());
    assert_eq!(event.take(), 5, "nobody takes its counter");
}
