//! The user's terminal: raw while a guest has it, as it was afterwards, whatever ends the run.

use std::io::{IsTerminal, stdin};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ENDED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP set a flag ([`ended`]) that every wait looks at, so
/// that a run ends through its own clean-up. A second one ends the process at once.
pub(crate) fn catch_signals() -> Result<()> {
    let flag = ENDED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))?;
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether a signal asked us to end.
pub(crate) fn ended() -> bool {
    ENDED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Standard input in raw mode until dropped. Nothing happens when it is no terminal.
pub(crate) struct Raw(Option<Termios>);

impl Raw {
    /// Every key goes to the guest, Ctrl-c included; output is left alone.
    pub(crate) fn stdin() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(stdin().as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes = before.output_modes;
        tcsetattr(stdin().as_fd(), OptionalActions::Flush, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing to do about a terminal that is gone.
            let _ = tcsetattr(stdin().as_fd(), OptionalActions::Drain, before);
        }
    }
}
