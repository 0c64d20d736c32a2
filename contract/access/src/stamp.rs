//! The time stamp of an access: taken once, when the access begins, and the time that it is for the
//! device while the access lasts. A recording of accesses and their stamps is then all that is needed
//! to have a device answer as it did.

use std::cell::Cell;
use std::marker::PhantomData;

/// Who says what time it is when an access begins: the machine's clock.
pub trait AccessClock: Send + Sync {
    /// Nanoseconds of machine time, as devices know it, whatever stamp is in force.
    fn stamp_ns(&self) -> u64;

    /// A counter that costs less to read than the time does, if there is one: it goes at one rate,
    /// also while the machine is paused, and all processors of the host read the same. It stamps what
    /// is kept for reports, which need the order of accesses, and the time only when they are read.
    fn counter(&self) -> Option<fn() -> u64> {
        None
    }
}

/// No stamp in force; no machine runs for 584 years.
const NONE: u64 = u64::MAX;
/// A stamp in force that takes its time when it is first asked for.
const DEFERRED: u64 = u64::MAX - 1;

/// What a thread does to devices now.
#[derive(Clone, Copy, Debug)]
struct InForce {
    /// The stamp, [`NONE`] or [`DEFERRED`].
    ns: u64,
    /// What a deferred stamp was begun at, [`NONE`] without one.
    count: u64,
}

thread_local! {
    static IN_FORCE: Cell<InForce> = const { Cell::new(InForce { ns: NONE, count: NONE }) };
}

/// The stamp of what the calling thread does to devices now, until this is dropped.
#[derive(Debug)]
pub struct Stamp {
    before: InForce,
    /// It is the thread's.
    _thread: PhantomData<*const ()>,
}

impl Stamp {
    /// Stops time at `ns` for the devices that the calling thread calls.
    #[inline]
    pub fn begin(ns: u64) -> Self {
        Self::replace(InForce { ns, count: NONE })
    }

    /// The same, from when a device first asks what time it is. It begins at `count` of the clock's
    /// counter.
    #[inline]
    pub fn begin_deferred(count: u64) -> Self {
        Self::replace(InForce { ns: DEFERRED, count })
    }

    #[inline]
    fn replace(in_force: InForce) -> Self {
        Self { before: IN_FORCE.replace(in_force), _thread: PhantomData }
    }

    /// The count at which the deferred stamp began that is in force on the calling thread.
    #[inline]
    pub fn count() -> Option<u64> {
        Some(IN_FORCE.get().count).filter(|count| *count != NONE)
    }

    /// The stamp in force on the calling thread, in nanoseconds of machine time, if it has taken its
    /// time.
    #[inline]
    pub fn in_force() -> Option<u64> {
        Some(IN_FORCE.get().ns).filter(|ns| *ns < DEFERRED)
    }

    /// The stamp in force on the calling thread, which is `now_ns` if its time is still to be taken;
    /// or `now_ns`, where none is in force. To be asked by the clock that a machine's devices have.
    #[inline]
    pub fn or_now(now_ns: impl FnOnce() -> u64) -> u64 {
        let InForce { ns, count } = IN_FORCE.get();
        match ns {
            NONE => now_ns(),
            DEFERRED => {
                let ns = now_ns();
                IN_FORCE.set(InForce { ns, count });
                ns
            }
            ns => ns,
        }
    }
}

impl Drop for Stamp {
    #[inline]
    fn drop(&mut self) {
        IN_FORCE.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_in_force_on_its_thread_until_it_is_dropped() {
        assert_eq!(Stamp::in_force(), None);
        let outer = Stamp::begin(16);
        let inner = Stamp::begin(32);
        assert_eq!(Stamp::in_force(), Some(32));
        let other = std::thread::spawn(Stamp::in_force);
        assert_eq!(other.join().unwrap(), None);
        drop(inner);
        assert_eq!(Stamp::in_force(), Some(16));
        drop(outer);
        assert_eq!(Stamp::in_force(), None);
    }

    #[test]
    fn a_deferred_stamp_is_taken_when_it_is_first_asked_for() {
        assert_eq!(Stamp::or_now(|| 8), 8);
        let outer = Stamp::begin_deferred(5);
        assert_eq!((Stamp::in_force(), Stamp::count()), (None, Some(5)));
        assert_eq!((Stamp::or_now(|| 16), Stamp::or_now(|| 17)), (16, 16));
        assert_eq!((Stamp::in_force(), Stamp::count()), (Some(16), Some(5)));
        let inner = Stamp::begin_deferred(6);
        assert_eq!((Stamp::or_now(|| 32), Stamp::count()), (32, Some(6)));
        drop(inner);
        assert_eq!(Stamp::or_now(|| 33), 16);
        drop(outer);
        assert_eq!((Stamp::or_now(|| 34), Stamp::count()), (34, None));
    }

    #[test]
    fn a_stamp_ends_with_a_panic() {
        let died = std::thread::spawn(|| {
            let caught = std::panic::catch_unwind(|| {
                let _stamp = Stamp::begin(16);
                panic!("the device");
            });
            (caught.is_err(), Stamp::in_force())
        });
        assert_eq!(died.join().unwrap(), (true, None));
    }
}
