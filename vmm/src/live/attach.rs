//! Who attaches to a guest that runs: its accesses as they happen, and breaks.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use trapline_control::api::{
    BreakAnswer, BreakEvent, BreakLine, BreaksRequest, TraceLine, TraceRequest,
};
use trapline_control::{Lines, Refusal};
use trapline_machine::Control;
use trapline_machine::debug::Stopped;

use crate::debug::Debugger;
use crate::trace::{Following, Next};

/// How often it is asked whether somebody still reads, while there is nothing to say.
const LOOK: Duration = Duration::from_millis(100);

/// Writes accesses as lines for as long as somebody reads.
pub(super) fn trace(
    control: &Control,
    request: TraceRequest,
) -> Result<impl FnOnce(&mut Lines<'_>) -> io::Result<()> + Send + use<>, Refusal> {
    let registry = control.registry();
    let registry = registry.ok_or_else(|| Refusal::conflict("the machine is not built yet"))?;
    let all = || vec!["all".to_owned()];
    let names = if request.devices.is_empty() { all() } else { request.devices };
    let following = Following::start(&registry, &names).map_err(Refusal::bad_request)?;
    Ok(move |lines: &mut Lines<'_>| {
        let mut left = request.lines;
        while left != Some(0) {
            match following.next(LOOK) {
                Next::Line { text, lost } => {
                    lines.json(&TraceLine { access: text, lost })?;
                    left = left.map(|left| left - 1);
                }
                Next::Nothing => lines.wait(Duration::ZERO)?,
                Next::End => break,
            }
        }
        Ok(())
    })
}

/// Who has breaks in a guest.
#[derive(Default)]
pub struct Sessions {
    last: AtomicU64,
    there: Mutex<BTreeMap<u64, Arc<Mutex<Debugger>>>>,
}

/// One of them, until it is dropped.
struct Session {
    all: Weak<Sessions>,
    number: u64,
    debugger: Arc<Mutex<Debugger>>,
    stops: Receiver<Stopped>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            all.there.lock().remove(&self.number);
        }
    }
}

impl Sessions {
    /// Has the guest stop at breaks, and tells of each stop in a line for as long as somebody reads.
    pub(super) fn attach(
        self: &Arc<Self>,
        control: &Control,
        request: &BreaksRequest,
    ) -> Result<impl FnOnce(&mut Lines<'_>) -> io::Result<()> + Send + use<>, Refusal> {
        let (tell, stops) = channel();
        let debugger = Debugger::new(
            control,
            Arc::new(move |stopped| {
                let _ = tell.send(stopped.clone());
            }),
        );
        for place in &request.breaks {
            debugger.add(place).map_err(Refusal::bad_request)?;
        }
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let debugger = Arc::new(Mutex::new(debugger));
        self.there.lock().insert(number, Arc::clone(&debugger));
        let session = Session { all: Arc::downgrade(self), number, debugger, stops };
        let asks = request.asks;
        Ok(move |lines: &mut Lines<'_>| session.tell(asks, lines))
    }

    /// Does what was typed.
    pub(super) fn obey(&self, request: &BreakLine) -> Result<BreakAnswer, Refusal> {
        let debugger = self.there.lock().get(&request.session).cloned();
        let none =
            || Refusal::not_found(format!("nobody has breaks as number {}", request.session));
        let debugger = debugger.ok_or_else(none)?;
        let mut debugger = debugger.lock();
        let answer = debugger.obey(&request.line);
        if answer.goes_on {
            debugger.go_on();
        }
        Ok(BreakAnswer { text: answer.text, goes_on: answer.goes_on })
    }
}

impl Session {
    fn tell(&self, asks: bool, lines: &mut Lines<'_>) -> io::Result<()> {
        let event = |stopped, text| BreakEvent { session: self.number, stopped, text };
        lines.json(&event(false, self.debugger.lock().list()))?;
        loop {
            match self.stops.recv_timeout(LOOK) {
                Ok(stopped) => {
                    let text = self.debugger.lock().stop(stopped);
                    lines.json(&event(true, text))?;
                    if !asks {
                        self.debugger.lock().go_on();
                    }
                }
                Err(RecvTimeoutError::Timeout) => lines.wait(Duration::ZERO)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}
