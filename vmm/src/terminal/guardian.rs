//! A process that gives the terminal its settings back when the one that made it raw is killed.
//!
//! SIGKILL cannot be caught, and after SIGSEGV there is nothing left to rely on. So this program
//! runs a second time as a child, which knows the terminal and reads what is to be undone from a
//! pipe. The pipe ends with the process that writes to it, whichever way that ends; what was to be
//! undone then is undone. The child is in a process group of its own, where neither keys nor what a
//! shell sends to its job reach it, and has nothing of the guest: it was executed, not only forked.

use std::ffi::OsString;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::termios::{InputModes, LocalModes, SpecialCodeIndex, Termios, tcgetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};

use super::{modes, set};

/// What the child is called where others see their program's name.
const NAME: &str = "trapline-terminal";

/// The child, as its parent sees it. Dropping it ends the child, which undoes what it was told last.
/// Nobody waits for that: it may have been stopped, and where SIGCHLD is ignored its number may be
/// somebody else's by now.
#[derive(Debug)]
pub(super) struct Guardian {
    pipe: PipeWriter,
    _child: Child,
}

impl Guardian {
    /// Starts the child for `terminal`, with nothing to be undone.
    ///
    /// # Errors
    /// This program cannot be its own child; what the kernel says when it refuses the pipe or the
    /// process.
    pub(super) fn start(terminal: impl AsFd) -> io::Result<Self> {
        if !CAN_BE_STARTED.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (reader, pipe) = io::pipe()?;
        // Somebody may have stopped the child; it is not to stop us.
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .current_dir("/")
            .process_group(0)
            .stdin(reader)
            .stdout(terminal)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { pipe, _child: child })
    }

    /// Says what is to be undone from now on, in the place of what was before.
    ///
    /// # Errors
    /// The child does not take it: it is gone.
    pub(super) fn tell(&mut self, change: Option<Change>) -> io::Result<()> {
        self.pipe.write_all(&Change::encode(change))
    }
}

/// What was done to a terminal: as much of its settings as a raw terminal differs in, and all that
/// is compared to see whether it still is as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    found: [u32; Self::FOUND],
    left: [u32; Self::LEFT],
}

impl Change {
    /// Input and local modes, and the two numbers that say what a read waits for.
    const FOUND: usize = 4;
    const LEFT: usize = 6;
    /// Bytes of a message: whether there is a change, and the change.
    const LEN: usize = 4 * (1 + Self::FOUND + Self::LEFT);

    /// The terminal was found like this and left like that.
    pub(super) fn new(found: &Termios, left: &Termios) -> Self {
        let [input, _, _, local, min, time] = modes(found);
        Self { found: [input, local, min, time], left: modes(left) }
    }

    /// Undoes it, if the terminal is still as it was left.
    fn undo(&self, terminal: impl AsFd) -> io::Result<()> {
        let mut settings = tcgetattr(&terminal)?;
        if modes(&settings) != self.left {
            return Ok(());
        }
        let [input, local, min, time] = self.found;
        settings.input_modes = InputModes::from_bits_retain(input);
        settings.local_modes = LocalModes::from_bits_retain(local);
        settings.special_codes[SpecialCodeIndex::VMIN] = u8::try_from(min).unwrap_or(1);
        settings.special_codes[SpecialCodeIndex::VTIME] = u8::try_from(time).unwrap_or(0);
        set(terminal, &settings)
    }

    fn encode(change: Option<Self>) -> Vec<u8> {
        let none = Self { found: [0; Self::FOUND], left: [0; Self::LEFT] };
        let Self { found, left } = change.unwrap_or(none);
        let numbers = [u32::from(change.is_some())].into_iter().chain(found).chain(left);
        numbers.flat_map(u32::to_ne_bytes).collect()
    }

    fn decode(message: &[u8; Self::LEN]) -> Option<Self> {
        let mut numbers = message.as_chunks().0.iter().map(|bytes| u32::from_ne_bytes(*bytes));
        let is_some = numbers.next() == Some(1);
        let (mut found, mut left) = ([0; Self::FOUND], [0; Self::LEFT]);
        found.iter_mut().chain(&mut left).zip(numbers).for_each(|(to, from)| *to = from);
        is_some.then_some(Self { found, left })
    }
}

/// Whether this program runs [`main`] when it is started as the child.
static CAN_BE_STARTED: AtomicBool = AtomicBool::new(false);

/// Does the child's work and returns its status, if this process is the child by its first argument.
/// To be called first of all by a program that wants to be guarded.
pub fn main(name: Option<&OsString>) -> Option<ExitCode> {
    if is_guardian(name) {
        return Some(guard());
    }
    CAN_BE_STARTED.store(true, Ordering::Relaxed);
    None
}

fn is_guardian(name: Option<&OsString>) -> bool {
    name.is_some_and(|name| name == NAME)
}

/// What the child does.
fn guard() -> ExitCode {
    // What a user looks for in a list of processes, cut to what the kernel keeps.
    let _ = rustix::thread::set_name(c"trapline-term");
    // Whoever ends all processes of a session or a service with these is obeyed by our parent; it
    // may yet have to be killed.
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP] {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
    let (mut pipe, mut change) = (io::stdin().lock(), None);
    let mut message = [0; Change::LEN];
    while pipe.read_exact(&mut message).is_ok() {
        change = Change::decode(&message);
    }
    // Nobody is left to tell about a failure: the terminal is gone then.
    let _ = change.map(|change: Change| change.undo(rustix::stdio::stdout()));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let change = Change { found: [1, 2, 3, 4], left: [5, 6, 7, 8, 9, u32::MAX] };
        for change in [None, Some(change)] {
            let message = Change::encode(change);
            assert_eq!(Change::decode(&message.try_into().unwrap()), change);
        }
    }

    #[test]
    fn only_the_child_is_taken_for_it() {
        assert!(is_guardian(Some(&NAME.into())));
        for other in [None, Some("trapline"), Some("/usr/bin/trapline-terminal")] {
            assert!(!is_guardian(other.map(OsString::from).as_ref()));
        }
    }
}
