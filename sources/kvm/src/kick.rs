//! Getting a vCPU out of the guest from another thread.
//!
//! A signal brings it out of the kernel if it is in there; `immediate_exit` catches it if it is on
//! its way in. The order is: say what is wanted, set `immediate_exit`, signal. The vCPU's thread
//! undoes it in the order: clear `immediate_exit`, look at what is wanted. However the two
//! interleave, the wish is seen.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

use crate::Error;
use crate::exit::ImmediateExit;

/// The wish that a vCPU stop, and the means to make it look.
#[derive(Clone, Debug)]
pub(crate) struct Kick {
    stop: Arc<AtomicBool>,
    immediate_exit: ImmediateExit,
}

impl Kick {
    pub(crate) fn new(immediate_exit: ImmediateExit) -> Self {
        Self { stop: Arc::new(AtomicBool::new(false)), immediate_exit }
    }

    /// Asks the vCPU to stop. Without effect on one whose thread has ended; may be repeated.
    pub(crate) fn stop<T>(&self, thread: &JoinHandle<T>) {
        self.stop.store(true, Ordering::SeqCst);
        self.immediate_exit.set(true);
        // The only failure is a thread that is gone, and then there is nothing to kick.
        let _ = thread.kill(signal());
    }

    /// The vCPU's side, after it was interrupted: whether it is to stop.
    pub(crate) fn acknowledge(&self) -> bool {
        self.immediate_exit.set(false);
        self.stop.load(Ordering::SeqCst)
    }

    /// Makes the next runs come back at once, having completed what was pending.
    pub(crate) fn come_back_at_once(&self) {
        self.immediate_exit.set(true);
    }

    /// Forgets everything that was asked, before a new life.
    pub(crate) fn forget(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.immediate_exit.set(false);
    }
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

/// Lets the signal through to the calling thread, whatever mask it was born with.
pub(crate) fn listen() {
    if let Err(error) = unblock_signal(signal()) {
        tracing::warn!("the signal that stops vCPUs stays blocked: {error}");
    }
}

/// Interrupting the system call is all it is for.
extern "C" fn interrupted(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
