//! Requests to a running machine by the console's keys and the host's signals.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// One wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Ctrl-a x: end the guest.
    Quit,
    /// Ctrl-a p: pause the guest, or let it go on.
    Pause,
    /// Ctrl-a s: show the trap statistics.
    Statistics,
    /// Ctrl-a w: watch the guest, and say why it hangs.
    Why,
    /// The terminal may have another size now.
    Resized,
    /// The guest's output has nowhere to go any more, for this reason: end the guest.
    OutputLost(String),
    /// The guest's command has ended with this status: end the guest.
    CommandEnded(u8),
    /// The process was told to end by this signal.
    Signal(i32),
}

/// Where requests go. Clones are the same place.
///
/// The threads that make requests start before there is a machine to obey them, so what comes
/// before [`Requests::serve`] waits.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<State>>);

type Server = Arc<dyn Fn(Request) + Send + Sync>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    server: Option<Server>,
}

/// More than these need not wait: they are key presses nobody has answered.
const MOST_WAITING: usize = 16;

impl Requests {
    /// Makes a request. Runs the server on this thread.
    pub fn make(&self, request: Request) {
        let mut state = self.0.lock();
        let Some(server) = state.server.clone() else {
            // Whoever begins to serve looks at the size first.
            if request != Request::Resized && state.waiting.len() < MOST_WAITING {
                state.waiting.push_back(request);
            }
            return;
        };
        drop(state);
        server(request);
    }

    /// Names who obeys requests from now on, and hands over those that wait. The server runs on the
    /// threads of the console and of the signals, so it must not wait for those to end; what it
    /// holds lives until [`Requests::unserve`].
    pub fn serve(&self, server: impl Fn(Request) + Send + Sync + 'static) {
        let server: Server = Arc::new(server);
        let waiting = {
            let mut state = self.0.lock();
            state.server = Some(Arc::clone(&server));
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|request| server(request));
    }

    /// Lets go of the server; requests wait again.
    pub fn unserve(&self) {
        self.0.lock().server = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_made_too_early_wait_for_the_server() {
        let requests = Requests::default();
        // They must not keep others out, and nobody needs them.
        (0..100).for_each(|_| requests.make(Request::Resized));
        requests.make(Request::Quit);
        let log = Arc::new(Mutex::new(Vec::new()));
        let server_log = Arc::clone(&log);
        requests.serve(move |request| server_log.lock().push(request));
        requests.make(Request::Signal(15));
        assert_eq!(*log.lock(), [Request::Quit, Request::Signal(15)]);
        requests.unserve();
        requests.make(Request::Statistics);
        assert_eq!(log.lock().len(), 2);
    }
}
