//! The time a guest runs: raw terminal, console threads, signals. Begun when the machine is built,
//! so that whatever is wrong with it is said on an untouched terminal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::console::Console;
use crate::request::Requests;
use crate::signals::SignalThread;
use crate::task::Streams;
use crate::terminal::Terminal;

/// How long output may take to be read when something has gone wrong.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// How long a reader of the guest's output is waited for when somebody waits for the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is asked whether somebody does.
const LOOK: Duration = Duration::from_millis(100);

/// A session. Dropping it ends it as [`Session::finish`] does, but does not wait long for somebody
/// to read the guest's output.
#[must_use = "dropping it ends the session"]
pub struct Session {
    console: Arc<Console>,
    // In the order they are to be dropped: signals restore the terminal until it is restored.
    _terminal: Option<Terminal>,
    _signals: SignalThread,
}

impl Session {
    /// Makes the terminal raw, if what is typed is for the console, and starts the threads of `console`
    /// and of the signals.
    ///
    /// # Errors
    /// What could not be started.
    pub fn start(
        console: &Arc<Console>,
        requests: &Requests,
        streams: Streams,
    ) -> anyhow::Result<Self> {
        let signals = SignalThread::start(requests.clone()).context("cannot catch signals")?;
        let typed = streams.types();
        let terminal =
            typed.then(Terminal::raw).transpose().context("cannot set up the terminal")?;
        let session = Self { console: Arc::clone(console), _terminal: terminal, _signals: signals };
        let (stdout, stderr) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        let shown = if streams.shows() { stdout } else { stderr };
        console
            .start(typed.then(rustix::stdio::stdin), shown)
            .context("cannot start the console")?;
        Ok(session)
    }

    /// Ends the session once no vCPU runs any more: writes what the guest has sent, then restores
    /// the terminal. `is_urgent` says whether somebody waits for the end, by Ctrl-a x or a signal:
    /// then a reader that does not read does not hold it up. Says whether all was written.
    pub fn finish(self, is_urgent: impl Fn() -> bool) -> bool {
        loop {
            if is_urgent() {
                return self.console.close(PATIENCE);
            }
            if self.console.close(LOOK) {
                return true;
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.console.close(SHORT_PATIENCE);
    }
}
