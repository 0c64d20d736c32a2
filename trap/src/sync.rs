//! The synchronisation primitives of [`crate::publish`]: the real ones, or loom's when the
//! protocol is being model-checked (`--cfg loom`).

#[cfg(not(loom))]
mod real {
    pub(crate) use crossbeam_utils::CachePadded as Padded;
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

    /// Waits a little, then a little more: the one who is waited for runs a device.
    pub(crate) fn relax(spins: &mut u32) {
        *spins = spins.saturating_add(1);
        match *spins {
            0..64 => std::hint::spin_loop(),
            64..256 => std::thread::yield_now(),
            _ => std::thread::sleep(std::time::Duration::from_micros(50)),
        }
    }
}

#[cfg(loom)]
mod modelled {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
    use std::ops::Deref;

    pub(crate) struct Padded<T>(T);
    impl<T> Padded<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(value)
        }
    }
    impl<T> Deref for Padded<T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.0
        }
    }

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);
    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    pub(crate) fn relax(_spins: &mut u32) {
        loom::thread::yield_now();
    }
}

#[cfg(loom)]
pub(crate) use modelled::*;
#[cfg(not(loom))]
pub(crate) use real::*;
