//! The time stamp of an access: taken once, when the access begins, and the time that it is for the
//! device while the access lasts. A recording of accesses and their stamps is then all that is needed
//! to have a device answer as it did.

use std::cell::Cell;
use std::marker::PhantomData;

/// Who says what time it is when an access begins: the machine's clock.
pub trait AccessClock: Send + Sync {
    /// Nanoseconds of machine time, as devices know it, whatever stamp is in force.
    fn stamp_ns(&self) -> u64;
}

/// No stamp in force; no machine runs for 584 years.
const NONE: u64 = u64::MAX;

thread_local! {
    static IN_FORCE: Cell<u64> = const { Cell::new(NONE) };
}

/// The stamp of what the calling thread does to devices now, until this is dropped.
#[derive(Debug)]
pub struct Stamp {
    before: u64,
    /// It is the thread's.
    _thread: PhantomData<*const ()>,
}

impl Stamp {
    /// Stops time at `ns` for the devices that the calling thread calls.
    #[inline]
    pub fn begin(ns: u64) -> Self {
        Self { before: IN_FORCE.replace(ns), _thread: PhantomData }
    }

    /// The stamp in force on the calling thread, in nanoseconds of machine time. To be asked by the
    /// clock that a machine's devices have.
    #[inline]
    pub fn in_force() -> Option<u64> {
        Some(IN_FORCE.get()).filter(|ns| *ns != NONE)
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
