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

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// The settings the terminal had before we touched it, while it is ours. One per process, because
/// the panic hook and the signal thread reach it.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether the terminal is raw now; apart from [`FOUND`] so that logging takes no lock.
static RAW: AtomicBool = AtomicBool::new(false);

/// Keeps the terminal raw. Dropping it restores the terminal.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub struct Terminal(());

impl Terminal {
    /// Makes the terminal on standard input raw; does nothing when there is none.
    ///
    /// # Errors
    /// What the kernel says when it refuses the settings.
    pub fn raw() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let mut found = FOUND.lock();
            let settings = tcgetattr(&stdin)?;
            *found = Some(settings);
            drop(found);
            again()?;
        }
        Ok(Self(()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
        *FOUND.lock() = None;
    }
}

/// Whether the terminal is raw now.
pub fn is_raw() -> bool {
    RAW.load(Ordering::Relaxed)
}

/// Gives the terminal its settings back, if it is raw. [`again`] makes it raw again.
pub fn restore() {
    if let Some(found) = &*FOUND.lock() {
        // Nobody is left to tell about a failure: the terminal is gone then.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, found);
        RAW.store(false, Ordering::Relaxed);
    }
}

/// Makes the terminal raw again after [`restore`], while a [`Terminal`] lives: somebody stopped
/// the process and let it go on.
///
/// # Errors
/// What the kernel says when it refuses the settings.
pub fn again() -> std::io::Result<()> {
    if let Some(found) = &*FOUND.lock() {
        tcsetattr(std::io::stdin(), OptionalActions::Now, &made_raw(found))?;
        RAW.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn made_raw(found: &Termios) -> Termios {
    let mut raw = found.clone();
    raw.local_modes -=
        LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
    raw.input_modes -= InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

/// Makes any panic of the process end it: with the terminal restored, one line that says it is our
/// bug, a backtrace if `RUST_BACKTRACE` asks for one, and exit status 101. A machine one of whose
/// threads is gone has nothing to offer its guest.
pub fn restore_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        restore();
        describe(info);
        std::process::exit(101);
    }));
}

fn describe(info: &PanicHookInfo<'_>) {
    use std::backtrace::{Backtrace, BacktraceStatus};
    use std::io::Write;

    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
    let what = info.payload_as_str().unwrap_or("no reason given");
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(format!("\nFatal: bug in trapline{place}: {what}\n").as_bytes());
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        let _ = writeln!(err, "{trace}");
    }
}
