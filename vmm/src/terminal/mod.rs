//! The terminal on standard input: raw while a guest runs, as it was afterwards, whichever way the
//! run ends.
//!
//! Raw means that every key reaches the guest at once and as it was pressed: no line editing, no
//! echo, no signals for Ctrl-c and Ctrl-z, no stopping of output by Ctrl-s, no turning of carriage
//! returns into line feeds. The output flags stay as they were found. A Linux guest ends its lines
//! with CR LF, which looks the same either way, and test guests, tools in a pipeline and shells
//! in the background, which share the terminal, rely on a plain LF beginning a line at the left.
//! The price: a full-screen program in the guest that moves the cursor down with a bare LF finds
//! it at the left edge; kvmtool and QEMU have the same habit.
//!
//! A terminal belongs to the process group in its foreground. In the background it is neither set
//! nor read; it is taken when the group is brought to the front. Other programs may set it, too,
//! another machine in the same group for one: so what is restored is a terminal that is still as we
//! left it, and what is there when it is taken is taken for the settings to restore, unless it is
//! raw already.
//!
//! A process that is killed restores nothing, so another one watches over it ([`guardian`]).

pub mod guardian;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::getpgrp;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize, tcgetattr,
    tcgetpgrp, tcsetattr,
};
use vmm_sys_util::signal::{block_signal, unblock_signal};

use crate::{status, stream};
use guardian::{Change, Guardian};

/// The terminal, while a [`Terminal`] lives. One per process, because the panic hook and the signal
/// thread reach it.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// What a terminal is set to, and was.
#[derive(Default)]
struct Held {
    /// Found and left, when we made it raw last.
    settings: Option<(Termios, Termios)>,
    /// It was given back until [`take`]: the process is being stopped, or ends.
    given_back: bool,
    /// Who restores the terminal if we cannot.
    guardian: Option<Guardian>,
}

/// Keeps the terminal raw. Dropping it restores the terminal.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub struct Terminal(());

impl Terminal {
    /// Makes the terminal on standard input raw, now or when we come to its foreground; does nothing
    /// when there is none.
    ///
    /// # Errors
    /// What the kernel says when it refuses the settings.
    pub fn raw() -> std::io::Result<Self> {
        if std::io::stdin().is_terminal() {
            *HELD.lock() = Some(Held::default());
            take()?;
        }
        Ok(Self(()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
        *HELD.lock() = None;
    }
}

/// Columns and rows of the terminal that the guest's output goes to, or that its input comes from.
pub fn size() -> Option<(u16, u16)> {
    let of = |size: Winsize| (size.ws_col, size.ws_row);
    let stdout = rustix::termios::tcgetwinsize(std::io::stdout());
    let size = stdout.or_else(|_| rustix::termios::tcgetwinsize(std::io::stdin()));
    size.ok().map(of).filter(|size| *size != (0, 0))
}

/// Whether the process may read from `input`: what is no terminal, or one in whose foreground it is.
/// That terminal is made raw if it is not, as when the process was just brought to the front.
pub fn may_read(input: &impl AsFd) -> bool {
    if !in_foreground(input) {
        return false;
    }
    match &mut *HELD.lock() {
        Some(held) if held.given_back => return false,
        // One that cannot be set can still be read.
        Some(held) => drop(held.take()),
        None => {}
    }
    true
}

/// Makes the terminal raw, while a [`Terminal`] lives, if we are in its foreground.
///
/// # Errors
/// What the kernel says when it refuses the settings.
pub fn take() -> std::io::Result<()> {
    let mut held = HELD.lock();
    let Some(held) = &mut *held else { return Ok(()) };
    held.given_back = false;
    held.take()
}

impl Held {
    fn take(&mut self) -> std::io::Result<()> {
        let stdin = std::io::stdin();
        if !in_foreground(&stdin) {
            return Ok(());
        }
        let found = tcgetattr(&stdin)?;
        if !is_raw(&found) {
            let raw = made_raw(&found);
            // Before: we may be killed as soon as it is raw.
            self.guard(Some(Change::new(&found, &raw)));
            set(&stdin, &raw)?;
            // The kernel may have changed what it does not support.
            let left = tcgetattr(&stdin)?;
            if modes(&left) != modes(&raw) {
                self.guard(Some(Change::new(&found, &left)));
            }
            self.settings = Some((found, left));
        }
        Ok(())
    }

    /// Tells the guardian what to undo; a new one, if there is none.
    fn guard(&mut self, change: Option<Change>) {
        if self.guardian.as_mut().is_some_and(|guardian| guardian.tell(change).is_ok()) {
            return;
        }
        let started = change.is_some().then(|| Guardian::start(std::io::stdin()));
        self.guardian = started.and_then(|guardian| {
            let guardian =
                guardian.and_then(|mut guardian| guardian.tell(change).map(|()| guardian));
            // We do without.
            guardian
                .inspect_err(|error| tracing::debug!("no process to guard the terminal: {error}"))
                .ok()
        });
    }
}

/// Gives the terminal its settings back, if it is still as we left it. [`take`] makes it raw again.
pub fn restore() {
    // Somebody who panics may hold it.
    let Some(mut held) = HELD.try_lock_for(Duration::from_secs(1)) else { return };
    let Some(held) = held.as_mut() else { return };
    held.given_back = true;
    if let Some((found, left)) = held.settings.take() {
        give_back(&found, &left);
        held.guard(None);
    }
}

/// Gives the terminal the settings that it was found with, if it is still as we left it.
fn give_back(found: &Termios, left: &Termios) {
    let stdin = std::io::stdin();
    let Ok(now) = tcgetattr(&stdin) else { return };
    // In the foreground somebody may have changed a detail: raw it is because of us. A program that
    // came to the front instead of us may have made it raw on its own account.
    let ours = if in_foreground(&stdin) { is_raw(&now) } else { modes(&now) == modes(left) };
    if ours {
        // Nobody is left to tell about a failure: the terminal is gone then.
        let _ = set(&stdin, found);
    }
}

/// Whether job control lets us set and read this terminal. Of what is no terminal, or is that of no
/// session or of another one, it takes no notice.
fn in_foreground(terminal: &impl AsFd) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// Sets the terminal. In the background it would stop the process, but for the shield: the
/// foreground may have gone to somebody else since we looked.
fn set(terminal: impl AsFd, settings: &Termios) -> std::io::Result<()> {
    let _shield = Shield::against(rustix::process::Signal::TTOU);
    Ok(tcsetattr(terminal, OptionalActions::Now, settings)?)
}

/// Keeps a signal of job control from this thread: the call that would have caused it fails or goes
/// through.
#[derive(Debug)]
#[must_use = "dropping it lets the signal in"]
pub struct Shield(Option<i32>);

impl Shield {
    /// Keeps `signal` out.
    pub fn against(signal: rustix::process::Signal) -> Self {
        // It fails for one that is blocked already, which is not ours to let in.
        Self(block_signal(signal.as_raw()).is_ok().then_some(signal.as_raw()))
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        if let Some(signal) = self.0 {
            let _ = unblock_signal(signal);
        }
    }
}

/// What a raw terminal does not do with keys.
const LOCAL: LocalModes =
    LocalModes::ICANON.union(LocalModes::ECHO).union(LocalModes::ISIG).union(LocalModes::IEXTEN);

/// What a raw terminal does not do with bytes that come in.
const INPUT: InputModes = InputModes::BRKINT
    .union(InputModes::PARMRK)
    .union(InputModes::ISTRIP)
    .union(InputModes::INLCR)
    .union(InputModes::IGNCR)
    .union(InputModes::ICRNL)
    .union(InputModes::IXON);

fn made_raw(found: &Termios) -> Termios {
    let mut raw = found.clone();
    raw.local_modes -= LOCAL;
    raw.input_modes -= INPUT;
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

fn is_raw(settings: &Termios) -> bool {
    modes(settings) == modes(&made_raw(settings))
}

/// What is compared of settings: input, output, control and local modes, and how many bytes and how
/// long a read waits for.
fn modes(settings: &Termios) -> [u32; 6] {
    let Termios { input_modes, output_modes, control_modes, local_modes, .. } = *settings;
    let [min, time] = [SpecialCodeIndex::VMIN, SpecialCodeIndex::VTIME]
        .map(|code| u32::from(settings.special_codes[code]));
    let (input, output) = (input_modes.bits(), output_modes.bits());
    [input, output, control_modes.bits(), local_modes.bits(), min, time]
}

/// Makes any panic of the process end it: with the terminal restored, one line that says it is our
/// bug, a backtrace if `RUST_BACKTRACE` asks for one, and a status of its own. A machine one of whose
/// threads is gone has nothing to offer its guest.
pub fn restore_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        restore();
        describe(info);
        std::process::exit(status::bug().into());
    }));
}

fn describe(info: &PanicHookInfo<'_>) {
    use std::backtrace::{Backtrace, BacktraceStatus};

    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
    let what = info.payload_as_str().unwrap_or("no reason given");
    stream::message(&format!("\nFatal: bug in trapline{place}: {what}\n"));
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        stream::message(&format!("{trace}\n"));
    }
}
