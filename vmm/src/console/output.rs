//! The console's writer thread: from the guest's console device to standard output.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Console, LARGE, OUT_ROOM, Phase};
use crate::request::Request;
use crate::stream;

/// How long a little output waits for more to go with it: too short to see, long enough for the
/// rest of a line that a guest prints byte by byte.
const GATHER: Duration = Duration::from_millis(1);

/// Writes the console's output to `stdout` until the console is closed or `stdout` is.
pub(super) fn write_all(console: &Console, stdout: &impl AsFd) {
    let mut spare = Vec::with_capacity(OUT_ROOM);
    let mut result = Ok(());
    while result.is_ok() {
        let Some((piece, starved)) = next_piece(console, spare) else { break };
        if starved {
            console.poll_device();
        }
        result = stream::write_all(stdout, &piece, None);
        console.output.lock().writing = None;
        spare = piece;
        spare.clear();
    }
    console.output.lock().phase = Phase::Closed;
    console.changed.notify_all();
    if let Err(error) = result {
        // A guest that was turned away sends the rest to nowhere.
        console.poll_device();
        console.requests.make(Request::OutputLost(error.to_string()));
    }
}

/// Waits for output; `None` is its end. `spare` is empty memory for what comes meanwhile.
fn next_piece(console: &Console, spare: Vec<u8>) -> Option<(Vec<u8>, bool)> {
    let mut output = console.output.lock();
    while output.queue.len() == 0 {
        if output.phase == Phase::Closing {
            return None;
        }
        console.changed.wait(&mut output);
    }
    if output.phase == Phase::Open && output.queue.len() < LARGE {
        console.changed.wait_for(&mut output, GATHER);
    }
    output.writing = Some(Instant::now());
    Some(output.queue.take(spare))
}
