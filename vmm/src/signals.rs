//! Signals while a guest runs: those that end a process end the guest in order, and stopping and
//! going on carry the terminal's settings along.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::request::{Request, Requests};
use crate::terminal;

/// The thread that waits for signals. Dropping it ends the thread; the signals stay caught, and
/// do nothing any more.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    /// Starts to catch signals. The first SIGINT, SIGTERM, SIGHUP or SIGQUIT is a
    /// [`Request::Signal`]; the second means that the orderly way takes too long, and ends the
    /// process with exit status 128 plus its number.
    ///
    /// # Errors
    /// What the kernel says when it refuses a handler or a thread.
    pub fn start(requests: Requests) -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut asked = false;
            for signal in signals.forever() {
                match signal {
                    SIGTSTP => stop(),
                    SIGCONT => go_on(),
                    _ if asked => give_up(signal),
                    _ => {
                        asked = true;
                        requests.make(Request::Signal(signal));
                    }
                }
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Stops the whole process, as the shell expects, with the terminal as the shell left it.
/// Returns when somebody lets the process go on.
fn stop() {
    terminal::restore();
    let _ = emulate_default_handler(SIGTSTP);
    go_on();
}

/// Whoever stopped us may have left the terminal in any state.
fn go_on() {
    if let Err(error) = terminal::again() {
        tracing::warn!("the terminal would not become raw again: {error}");
    }
}

fn give_up(signal: i32) {
    terminal::restore();
    std::process::exit(128 + signal);
}
