//! The synchronisation primitives of [`crate::lookup::publish`]: the real ones, or loom's when the
//! protocol is being model-checked (`--cfg loom`).

#[cfg(not(loom))]
mod real {
    use std::ops::Deref;

    use crossbeam_utils::CachePadded;
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};

    /// Something on cache lines of its own, and at an odd place there. A processor that looks
    /// whether a load depends on a store under way compares the low 12 bits of their addresses
    /// first; with a device whose registers start at the start of a line, as many do, every load
    /// of a generation would wait for the store before it.
    pub(crate) struct Padded<T>(CachePadded<Aside<T>>);

    struct Aside<T> {
        _before: [u64; 7],
        value: T,
    }

    impl<T> Padded<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(CachePadded::new(Aside { _before: [0; 7], value }))
        }
    }

    impl<T> Deref for Padded<T> {
        type Target = T;
        #[inline]
        fn deref(&self) -> &T {
            &self.0.value
        }
    }

    /// Orders the calling thread's earlier stores before its later loads, provided that whoever
    /// relies on it calls [`heavy_barrier`]: the compiler keeps the order, and the heavy barrier
    /// makes the processor keep it where that matters.
    #[inline]
    pub(crate) fn light_barrier() {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// Whether [`heavy_barrier`] can be had from this kernel. Registers the process for it: at once
    /// while it has one thread, else when all of the kernel's processors have passed through the
    /// scheduler, which takes it milliseconds.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_heavy_barrier() -> bool {
        use rustix::thread::{MembarrierCommand, membarrier};
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    /// Has every thread of the process that is running pass a full memory barrier; the others
    /// pass one before they run again (Linux `membarrier(2)`).
    #[cfg(target_os = "linux")]
    pub(crate) fn heavy_barrier() {
        use rustix::thread::{MembarrierCommand, membarrier};
        let barrier = || membarrier(MembarrierCommand::PrivateExpedited);
        // A process that was forked off may have to register again.
        let done = barrier().is_ok() || (has_heavy_barrier() && barrier().is_ok());
        assert!(done, "a kernel that has registered a process for membarrier lets it use it");
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn has_heavy_barrier() -> bool {
        false
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn heavy_barrier() {}

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
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
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

    /// What a heavy barrier makes of it.
    pub(crate) fn light_barrier() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn has_heavy_barrier() -> bool {
        true
    }

    pub(crate) fn heavy_barrier() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn relax(_spins: &mut u32) {
        loom::thread::yield_now();
    }
}

#[cfg(loom)]
pub(crate) use modelled::*;
#[cfg(not(loom))]
pub(crate) use real::*;
