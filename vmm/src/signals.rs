//! Signals while a guest runs: those that end a process end the guest in order, stopping and going
//! on carry the terminal's settings along, and the guest's console follows the terminal's size. A
//! signal that was ignored when the process started, as `nohup` and a shell without job control
//! arrange it, stays ignored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};
use signal_hook::consts::{SIGCONT, SIGTSTP, SIGWINCH, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use trapline_device::thread_builder;
use vmm_sys_util::signal::{SIGRTMAX, SIGRTMIN};

use crate::request::{Request, Requests};
use crate::terminal;

/// Signals that end a process that does nothing about them, and that come from outside. Those after
/// [`SIGRTMIN`], whose own stops vCPUs, are of this kind, too. (SIGPIPE is ignored by every Rust
/// program; SIGXFSZ see [`outlive_file_limit`].)
const ENDING: [Signal; 16] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TRAP,
    Signal::ABORT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::STKFLT,
    Signal::XCPU,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::SYS,
];

/// The signals are obeyed in order as long as it is there. After that, those that end a process end
/// this one at once.
#[derive(Debug)]
pub struct SignalThread {
    over: Arc<AtomicBool>,
}

impl SignalThread {
    /// Starts to catch signals. The first that ends a process is a [`Request::Signal`]; the second
    /// means that the orderly way takes too long, and ends the process.
    ///
    /// # Errors
    /// What the kernel says when it refuses a handler or a thread.
    pub fn start(requests: Requests) -> io::Result<Self> {
        let ending = ENDING.iter().map(|signal| signal.as_raw());
        let wanted = ending.chain(SIGRTMIN() + 1..=SIGRTMAX()).chain([SIGTSTP, SIGCONT, SIGWINCH]);
        let ignored = Ignored::now();
        let goes_on_unheard = ignored.contains(SIGCONT);
        let mut signals = Signals::new(wanted.filter(|signal| !ignored.contains(*signal)))?;
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        thread_builder("signals").spawn(move || {
            // Those that ended the process come first, as their numbers are lower.
            for signal in signals.forever() {
                match signal {
                    SIGTSTP => {
                        stop();
                        if goes_on_unheard {
                            go_on();
                        }
                    }
                    SIGWINCH => requests.make(Request::Resized),
                    SIGCONT if asked.load(Ordering::SeqCst) => {}
                    SIGCONT => {
                        go_on();
                        requests.make(Request::Resized);
                    }
                    _ if asked.swap(true, Ordering::SeqCst) => give_up(signal),
                    _ => requests.make(Request::Signal(signal)),
                }
            }
        })?;
        Ok(Self { over })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Lets a write beyond the limit on the size of files (`ulimit -f`) fail, instead of ending the
/// process by SIGXFSZ in the middle of it.
pub fn outlive_file_limit() {
    if !Ignored::now().contains(SIGXFSZ) {
        // Without it, the limit ends the process: no reason not to run.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    }
}

/// Ends the process by `signal`, so that whoever waits for it sees that; a shell shows 128 and the
/// signal's number. Leaves no memory dump: it would hold the guest's RAM.
pub fn end_by(signal: i32) -> ! {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Comes back for a signal that it does not know.
    let _ = emulate_default_handler(signal);
    std::process::exit(128 + signal)
}

/// The signals that are ignored.
struct Ignored(u64);

impl Ignored {
    /// As `/proc/self/status` has it; none, where that cannot be read.
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::of(&status)
    }

    fn of(status: &str) -> Self {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    }

    fn contains(&self, signal: i32) -> bool {
        let bit = u32::try_from(signal - 1).ok().and_then(|bit| 1u64.checked_shl(bit));
        bit.is_some_and(|bit| self.0 & bit != 0)
    }
}

/// Stops the whole process, as the shell expects, with the terminal as the shell left it. SIGCONT
/// comes when somebody lets the process go on.
fn stop() {
    terminal::restore();
    let _ = emulate_default_handler(SIGTSTP);
}

/// Whoever stopped us may have left the terminal in any state.
fn go_on() {
    if let Err(error) = terminal::take() {
        tracing::warn!("the terminal would not become raw again: {error}");
    }
}

fn give_up(signal: i32) -> ! {
    terminal::restore();
    end_by(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask_the_kernel_shows() {
        let ignored = Ignored::of("SigBlk:\tffffffffffffffff\nSigIgn:\t8000000000001001\n");
        let signals: Vec<i32> = (1..=64).filter(|signal| ignored.contains(*signal)).collect();
        assert_eq!(signals, [1, 13, 64]);
        assert!(!Ignored::of("").contains(1));
        assert!(Ignored::now().contains(Signal::PIPE.as_raw()), "Rust ignores it");
    }
}
