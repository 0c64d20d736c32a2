//! A queue whose outcomes somebody writes down, or knows from before.
//!
//! What depends on the driver and on time alone (the disk's end, its limits) is the same in both. What
//! the host says is a number: the outcome, and of what arrives later the tag in the upper bits.

use std::io;

use trapline_device::Witness;

use super::{Outcome, Queue, Tagged};
use crate::{Failure, Request};

/// How a request has ended, or that it has not, in [`OUTCOME_BITS`].
const DONE: u64 = 0;
const UNSUPPORTED: u64 = 1;
const OUT_OF_RANGE: u64 = 2;
const READ_ONLY: u64 = 3;
const FAILED: u64 = 4;
/// It has failed, and stopped the machine.
const STALLED: u64 = 5;
/// It ends later.
const LATER: u64 = 6;
const OUTCOME_BITS: u32 = 3;

impl Queue {
    /// Begins a request and tells the witness how it ended, or has that from it.
    pub(super) fn begin_before(
        &mut self,
        witness: &dyn Witness,
        tag: u64,
        request: Request,
    ) -> Option<Outcome> {
        self.tell_data(witness, tag, &request);
        let (mut request, mut ended) = (Some(request), None);
        let stand_in = self.disk.is_stand_in();
        let said = witness.answer(DONE, &mut || {
            let Some(request) = request.take_if(|_| !stand_in) else { return LATER };
            let stalled = self.stalled.len();
            ended = self.begin_unseen(tag, request);
            match &ended {
                Some(outcome) => number_of(outcome),
                None if self.stalled.len() > stalled => STALLED,
                None => LATER,
            }
        });
        if let Some(request) = request {
            ended = match said {
                LATER => {
                    self.elsewhere.insert(tag, request);
                    None
                }
                said => self.end(said, Tagged { tag, request }),
            };
        }
        if said == DONE {
            self.tell_read(witness, tag);
        }
        ended
    }

    /// Takes in what has been done and tells the witness, or has that from it.
    pub(super) fn take_in_before(&mut self, witness: &dyn Witness) {
        let (completed, stalled) = (self.completed.len(), self.stalled.len());
        self.take_in_unseen();
        let done = self.completed.range(completed..);
        let done = done.map(|(tag, outcome)| tag << OUTCOME_BITS | number_of(outcome));
        let stalled = self.stalled.iter().skip(stalled);
        let stalled = stalled.map(|tagged| tagged.tag << OUTCOME_BITS | STALLED);
        let arrived = witness.arrived(done.chain(stalled).collect());
        for value in arrived {
            let (tag, said) = (value >> OUTCOME_BITS, value & ((1 << OUTCOME_BITS) - 1));
            if let Some(request) = self.elsewhere.remove(&tag)
                && let Some(outcome) = self.end(said, Tagged { tag, request })
            {
                self.completed.push_back((tag, outcome));
            }
            if said == DONE {
                self.tell_read(witness, tag);
            }
        }
    }

    /// What a request of a stand-in has come to.
    fn end(&mut self, said: u64, tagged: Tagged) -> Option<Outcome> {
        Some(match said {
            DONE => Ok(()),
            UNSUPPORTED => Err(Failure::Unsupported),
            OUT_OF_RANGE => Err(Failure::OutOfRange),
            READ_ONLY => Err(Failure::ReadOnly),
            STALLED => {
                self.stalled.push(tagged);
                return None;
            }
            _ => Err(Failure::Io(io::Error::other("the host had failed"))),
        })
    }

    /// Shows the witness what is to be written, and remembers where what is read will be.
    fn tell_data(&mut self, witness: &dyn Witness, tag: u64, request: &Request) {
        match request {
            Request::Write { buffers, .. } => {
                witness.payload(buffers.len(), &mut |tell| buffers.places().each(tell));
            }
            Request::Read { buffers, .. } => {
                self.places.insert(tag, buffers.places());
            }
            Request::Flush | Request::Discard(_) | Request::Erase(_) | Request::WriteZeroes(_) => {}
        }
    }

    /// Shows the witness what has been read.
    fn tell_read(&mut self, witness: &dyn Witness, tag: u64) {
        if let Some(places) = self.places.remove(&tag) {
            witness.payload(places.len(), &mut |tell| places.each(tell));
        }
    }
}

fn number_of(outcome: &Outcome) -> u64 {
    match outcome {
        Ok(()) => DONE,
        Err(Failure::Unsupported) => UNSUPPORTED,
        Err(Failure::OutOfRange) => OUT_OF_RANGE,
        Err(Failure::ReadOnly) => READ_ONLY,
        Err(Failure::Io(_)) => FAILED,
    }
}
