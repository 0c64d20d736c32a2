//! Getting a vCPU out of the guest from another thread.
//!
//! A signal brings it out of the kernel if it is in there; `immediate_exit` catches it if it is on
//! its way in. The order is: say what is wanted, set `immediate_exit`, signal. The vCPU's thread
//! undoes it in the order: clear `immediate_exit`, look at what is wanted. However the two
//! interleave, the wish is seen.

#![expect(unsafe_code, reason = "signals a thread")]

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use libc::{c_int, c_void, pthread_t, siginfo_t};
use parking_lot::Mutex;
use trapline::Waiter;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::Error;
use crate::exit::ImmediateExit;

/// The wish that a vCPU stop or look around, and the means to make it.
#[derive(Clone, Debug)]
pub(crate) struct Kick {
    stop: Arc<AtomicBool>,
    /// It is to stop as soon as the access that it makes is complete.
    brake: Arc<AtomicBool>,
    immediate_exit: ImmediateExit,
    /// The thread the vCPU runs on. Whoever holds the lock knows that the thread has not ended.
    thread: Arc<Mutex<Option<OnThread>>>,
}

/// The thread that a vCPU runs on.
#[derive(Clone, Debug)]
struct OnThread {
    /// For signals.
    id: pthread_t,
    /// For one that is parked.
    handle: Thread,
}

/// As long as it is there, kicks reach the thread it was made on. That thread drops it.
#[derive(Debug)]
pub(crate) struct Here(Arc<Mutex<Option<OnThread>>>);

impl Kick {
    pub(crate) fn new(immediate_exit: ImmediateExit) -> Self {
        let (stop, brake, thread) = Default::default();
        Self { stop, brake, immediate_exit, thread }
    }

    /// The vCPU runs on this thread from now on. Lets the signal through, whatever mask the thread
    /// was born with.
    pub(crate) fn arrive(&self) -> Here {
        if let Err(error) = unblock_signal(signal()) {
            tracing::warn!("the signal that stops vCPUs stays blocked: {error}");
        }
        let handle = std::thread::current();
        *self.thread.lock() = Some(OnThread { id: this_thread(), handle });
        Here(Arc::clone(&self.thread))
    }

    /// Asks the vCPU to stop. Without effect on one whose thread has ended; may be repeated.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.lock();
        self.interrupt(thread.as_ref());
        if let Some(thread) = &*thread {
            thread.handle.unpark();
        }
    }

    /// Makes the vCPU look around before it enters the guest again. On its own thread it is about to
    /// anyway.
    pub(crate) fn wake(&self) {
        let thread = self.thread.lock();
        if thread.as_ref().is_none_or(|thread| thread.id != this_thread()) {
            self.interrupt(thread.as_ref());
        }
    }

    /// To be called with the lock held that `thread` is from.
    fn interrupt(&self, thread: Option<&OnThread>) {
        self.immediate_exit.set(true);
        if let Some(OnThread { id, .. }) = thread {
            // SAFETY: the thread has not ended, as it takes itself out under the lock before.
            // There is no other failure with this signal number.
            let _ = unsafe { libc::pthread_kill(*id, signal()) };
        }
    }

    /// The vCPU's side, after it was interrupted: whether it is to stop.
    pub(crate) fn acknowledge(&self) -> bool {
        self.immediate_exit.take();
        self.is_stopping()
    }

    /// Has the vCPU, in the middle of an access, stop when that is complete.
    pub(crate) fn pull_brake(&self) {
        self.brake.store(true, Ordering::SeqCst);
        let thread = self.thread.lock();
        self.interrupt(thread.as_ref().filter(|thread| thread.id != this_thread()));
    }

    /// Whether the brake was pulled, which it is no longer.
    pub(crate) fn take_brake(&self) -> bool {
        self.brake.swap(false, Ordering::SeqCst)
    }

    /// Whether it is to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Makes the next runs come back at once, having completed what was pending.
    pub(crate) fn come_back_at_once(&self) {
        self.immediate_exit.set(true);
    }

    /// Forgets everything that was asked, before a new life.
    pub(crate) fn forget(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.brake.store(false, Ordering::SeqCst);
        self.immediate_exit.set(false);
    }
}

impl Waiter for Kick {
    fn is_wanted(&self) -> bool {
        self.is_stopping()
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

fn this_thread() -> pthread_t {
    // SAFETY: it takes nothing and always succeeds.
    unsafe { libc::pthread_self() }
}

/// The first real-time signal: the C library keeps those below for itself, and `SIGRTMIN` says
/// where it ends.
fn signal() -> c_int {
    SIGRTMIN()
}

/// Makes the signal harmless, once per process.
pub(crate) fn prepare() -> Result<(), Error> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| register_signal_handler(signal(), interrupted).map_err(|e| e.errno()))
        .map_err(|errno| Error::Ioctl {
            what: "be interrupted by a signal",
            reason: std::io::Error::from_raw_os_error(errno),
        })
}

/// Interrupting the system call is all it is for.
extern "C" fn interrupted(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
