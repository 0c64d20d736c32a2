use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::{EpollLoop, NoQueuedWrites};

/// Long enough for any host; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const MILLISECOND: u64 = 1_000_000;

/// Says its name when woken.
struct Bell {
    name: &'static str,
    rung: Mutex<Sender<&'static str>>,
}

impl Wake for Bell {
    fn wake(&self) {
        self.rung.lock().send(self.name).unwrap();
    }
}

/// A clock and the loop it runs on. The clock goes first.
fn clock() -> (Arc<HostClock>, Arc<EpollLoop>) {
    let event_loop = EpollLoop::start("clock", NoQueuedWrites).unwrap();
    (Arc::new(HostClock::new(&*event_loop).unwrap()), event_loop)
}

/// A clock, its bells, and the ear that hears them.
struct Tower {
    clock: Arc<HostClock>,
    _event_loop: Arc<EpollLoop>,
    rung: Sender<&'static str>,
    ear: Receiver<&'static str>,
}

impl Tower {
    fn new() -> Self {
        let (rung, ear) = channel();
        let (clock, event_loop) = clock();
        Self { clock, _event_loop: event_loop, rung, ear }
    }

    fn bell(&self, name: &'static str) -> (Arc<Bell>, Box<dyn Timer>) {
        let bell = Arc::new(Bell { name, rung: Mutex::new(self.rung.clone()) });
        let target: Weak<Bell> = Arc::downgrade(&bell);
        let timer = self.clock.timer(target);
        (bell, timer)
    }

    fn hear(&self) -> &'static str {
        self.ear.recv_timeout(PATIENCE).unwrap()
    }

    fn assert_silent(&self) {
        assert!(self.ear.try_recv().is_err());
    }
}

#[test]
fn machine_time_starts_at_zero_and_never_goes_back() {
    let before = Instant::now();
    let (clock, _event_loop) = clock();
    let mut last = clock.now_ns();
    assert!(last <= nanoseconds(before.elapsed()));
    for _ in 0..10_000 {
        let now = clock.now_ns();
        assert!(now >= last);
        last = now;
    }
}

#[test]
fn during_an_access_devices_are_told_its_stamp_and_recorders_are_not() {
    let (clock, _event_loop) = clock();
    let stamp = Stamp::begin(7 * 24 * 3600 * 1_000_000_000);
    assert_eq!(clock.now_ns(), 7 * 24 * 3600 * 1_000_000_000);
    assert!(clock.stamp_ns() < clock.now_ns());
    drop(stamp);
    let stamp = clock.stamp_ns();
    assert!(clock.now_ns() >= stamp);
}

/// Readers race with pauses: what was read before a pause is not later than where time stands then.
#[test]
fn a_pause_does_not_take_time_back() {
    let (clock, _event_loop) = clock();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                let now = clock.stamp_ns();
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        });
        for _ in 0..2_000 {
            clock.pause();
            clock.resume();
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn utc_is_the_hosts() {
    let utc = || nanoseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let (clock, _event_loop) = clock();
    let (before, theirs, after) = (utc(), clock.utc_ns(), utc());
    assert!((before..=after).contains(&theirs));
}

#[test]
fn no_timer_expires_before_its_deadline() {
    let tower = Tower::new();
    let (_bell, timer) = tower.bell("bell");
    for wait in [0, 1, 1_000, MILLISECOND, 5 * MILLISECOND] {
        let deadline = tower.clock.now_ns() + wait;
        timer.arm(Some(deadline));
        tower.hear();
        assert!(tower.clock.now_ns() >= deadline);
    }
    tower.assert_silent();
}

#[test]
fn a_deadline_in_the_past_expires_at_once() {
    let tower = Tower::new();
    let (_bell, timer) = tower.bell("bell");
    timer.arm(Some(0));
    assert_eq!(tower.hear(), "bell");
}

#[test]
fn timers_expire_in_the_order_of_their_deadlines() {
    let tower = Tower::new();
    tower.clock.pause();
    let (_c, c) = tower.bell("c");
    let (_a, a) = tower.bell("a");
    let (_b, b) = tower.bell("b");
    let (_same, same) = tower.bell("same as b");
    c.arm(Some(2 * MILLISECOND));
    a.arm(Some(0));
    b.arm(Some(MILLISECOND));
    same.arm(Some(MILLISECOND));
    tower.clock.resume();
    assert_eq!([(); 4].map(|()| tower.hear()), ["a", "b", "same as b", "c"]);
}

#[test]
fn an_earlier_deadline_overtakes_the_one_being_slept_for() {
    let tower = Tower::new();
    let (_late, late) = tower.bell("late");
    let (_soon, soon) = tower.bell("soon");
    late.arm(Some(u64::MAX));
    soon.arm(Some(tower.clock.now_ns() + MILLISECOND));
    assert_eq!(tower.hear(), "soon");
}

#[test]
fn cleared_replaced_and_dropped_timers_do_not_expire() {
    let tower = Tower::new();
    tower.clock.pause();
    let (_a, cleared) = tower.bell("cleared");
    let (_b, replaced) = tower.bell("replaced");
    let (_c, dropped) = tower.bell("dropped");
    let (_d, last) = tower.bell("last");
    [&cleared, &replaced, &dropped].into_iter().for_each(|timer| timer.arm(Some(0)));
    last.arm(Some(1));
    cleared.arm(None);
    replaced.arm(Some(2));
    drop(dropped);
    tower.clock.resume();
    assert_eq!([(); 2].map(|()| tower.hear()), ["last", "replaced"]);
    tower.assert_silent();
    assert!(tower.clock.shared.queue.lock().deadlines.is_empty());
}

#[test]
fn a_target_that_is_gone_is_passed_over() {
    let tower = Tower::new();
    tower.clock.pause();
    let (gone, first) = tower.bell("gone");
    let (_here, second) = tower.bell("here");
    first.arm(Some(0));
    second.arm(Some(1));
    drop(gone);
    tower.clock.resume();
    assert_eq!(tower.hear(), "here");
}

#[test]
fn paused_time_stands_still_and_goes_on_where_it_stood() {
    let tower = Tower::new();
    let (_bell, timer) = tower.bell("bell");
    tower.clock.pause();
    let stood = tower.clock.now_ns();
    timer.arm(Some(stood));
    thread::sleep(Duration::from_millis(5));
    tower.clock.pause();
    assert_eq!(tower.clock.now_ns(), stood);
    tower.assert_silent();
    let resumed = Instant::now();
    tower.clock.resume();
    tower.clock.resume();
    tower.hear();
    let now = tower.clock.now_ns();
    assert!((stood..=stood + nanoseconds(resumed.elapsed())).contains(&now));
}

#[test]
fn dropping_the_clock_disarms_its_timers() {
    let tower = Tower::new();
    let (_bell, timer) = tower.bell("bell");
    timer.arm(Some(u64::MAX));
    let shared = Arc::downgrade(&tower.clock.shared);
    drop(tower);
    timer.arm(Some(0));
    drop(timer);
    assert!(shared.upgrade().is_none(), "the loop held a share");
}

/// Arms its own timer again, as a periodic device does.
struct Periodic {
    clock: Weak<HostClock>,
    timer: Box<dyn Timer>,
    left: AtomicU64,
    done: Mutex<Sender<()>>,
}

impl Wake for Periodic {
    fn wake(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.lock().send(()).unwrap();
        } else if let Some(clock) = self.clock.upgrade() {
            self.timer.arm(Some(clock.now_ns() + 1_000));
        }
    }
}

#[test]
fn a_device_may_arm_its_timer_while_it_is_woken() {
    let (clock, _event_loop) = clock();
    let (done, finished) = channel();
    let periodic = Arc::new_cyclic(|this: &Weak<Periodic>| Periodic {
        clock: Arc::downgrade(&clock),
        timer: clock.timer(Weak::<Periodic>::clone(this)),
        left: AtomicU64::new(100),
        done: Mutex::new(done),
    });
    periodic.timer.arm(Some(0));
    finished.recv_timeout(PATIENCE).unwrap();
    assert_eq!(periodic.left.load(Ordering::Relaxed), 0);
}

/// Stays in `wake` until it is let go.
struct Slow {
    entered: Mutex<Sender<()>>,
    let_go: Mutex<Receiver<()>>,
    left: AtomicBool,
}

impl Wake for Slow {
    fn wake(&self) {
        self.entered.lock().send(()).unwrap();
        self.let_go.lock().recv().unwrap();
        self.left.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nobody_waits_for_a_slow_device_except_pause() {
    let tower = Tower::new();
    let (entered, inside) = channel();
    let (go, let_go) = channel();
    let slow = Arc::new(Slow {
        entered: Mutex::new(entered),
        let_go: Mutex::new(let_go),
        left: AtomicBool::new(false),
    });
    let target: Weak<Slow> = Arc::downgrade(&slow);
    let slow_timer = tower.clock.timer(target);
    slow_timer.arm(Some(0));
    inside.recv_timeout(PATIENCE).unwrap();

    let (_bell, timer) = tower.bell("bell");
    timer.arm(Some(0));
    slow_timer.arm(None);
    tower.clock.now_ns();
    tower.assert_silent();

    thread::scope(|scope| {
        let pausing = scope.spawn(|| {
            tower.clock.pause();
            assert!(slow.left.load(Ordering::SeqCst), "pause waits for the device to come back");
        });
        go.send(()).unwrap();
        pausing.join().unwrap();
    });
    tower.clock.resume();
    assert_eq!(tower.hear(), "bell");
}

/// The last holder of the clock, dropped by the clock's own thread.
struct Last {
    clock: Mutex<Option<Arc<HostClock>>>,
    done: Mutex<Sender<()>>,
}

impl Wake for Last {
    fn wake(&self) {
        let clock = self.clock.lock().take().unwrap();
        clock.pause();
        drop(clock);
        self.done.lock().send(()).unwrap();
    }
}

#[test]
fn a_device_that_is_woken_may_pause_and_drop_the_clock() {
    let (clock, _event_loop) = clock();
    let (done, finished) = channel();
    let last = Arc::new(Last { clock: Mutex::new(None), done: Mutex::new(done) });
    let target: Weak<Last> = Arc::downgrade(&last);
    let timer = clock.timer(target);
    *last.clock.lock() = Some(clock);
    timer.arm(Some(0));
    finished.recv_timeout(PATIENCE).unwrap();
}

/// A device with a bug.
struct Broken(Mutex<Sender<()>>);

impl Wake for Broken {
    fn wake(&self) {
        self.0.lock().send(()).unwrap();
        panic!("this panic is part of the test");
    }
}

#[test]
fn a_device_that_panics_hangs_nobody_and_is_heard_of_when_the_loop_stops() {
    let (clock, event_loop) = clock();
    let (woken, heard) = channel();
    let broken = Arc::new(Broken(Mutex::new(woken)));
    let target: Weak<Broken> = Arc::downgrade(&broken);
    let timer = clock.timer(target);
    timer.arm(Some(0));
    heard.recv_timeout(PATIENCE).unwrap();
    clock.pause();
    drop(clock);
    let stopped = panic::catch_unwind(AssertUnwindSafe(|| event_loop.stop()));
    assert!(stopped.is_err());
}
