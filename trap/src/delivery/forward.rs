//! Forwarded windows: a channel in the place of a region's handler.

use parking_lot::Mutex;
use trapline_access::{
    Answer, Channel, ChannelRef, Delivery, Direction, Forward, Forwarded, Handler, IoCx, Requester,
    Rules, Size, Window,
};

use crate::dispatch::bytes::Bytes;
use crate::dispatch::progress::Progress;
use crate::dispatch::width;
use crate::region::Entry;
use crate::watch::Outcome;

/// A window's channel in the place of its region's handler, for one access.
pub(crate) struct Forwarder<'a> {
    forward: &'a Forward,
    /// The region's own, which knows what the registers are called.
    handler: &'a dyn Handler,
    /// The offset that the region's handler would see at the start of the window.
    start: u64,
    /// Whether another write follows at once.
    more: bool,
    /// Of its thread only; the lock is what a [`Handler`] has to have.
    turn: Mutex<Turn<'a>>,
}

struct Turn<'a> {
    progress: &'a mut Progress,
    /// What came of it so far. Once that is no answer nothing is asked for any more, so the rest of
    /// the access is quick.
    answer: Answer,
}

impl<'a> Forwarder<'a> {
    /// For `window` of the region of `entry`, if it is one to forward.
    pub(crate) fn new(
        window: &'a Window,
        entry: &'a Entry,
        progress: &'a mut Progress,
    ) -> Option<Self> {
        let Delivery::Forward(forward) = &window.delivery else { return None };
        let start = window.offset.wrapping_add(entry.shared.device_offset);
        let turn = Mutex::new(Turn { progress, answer: Answer::Done(0) });
        Some(Self { forward, handler: &*entry.handler, start, more: false, turn })
    }

    /// Where it leads.
    pub(crate) fn channel(&self) -> &'a ChannelRef {
        &self.forward.channel
    }

    /// The same for a write that others follow.
    pub(crate) fn with_more(self) -> Self {
        Self { more: true, ..self }
    }

    /// Makes the part of an access that is in the window, as far as `rules` accept its shape.
    pub(crate) fn make(
        &self,
        rules: Rules,
        cx: &IoCx<'_>,
        offset: u64,
        buf: &mut Bytes<'_>,
    ) -> Outcome {
        if self.forward.no_data {
            return self.tell(cx.requester(), offset, buf.direction());
        }
        let taken = match buf {
            Bytes::Read(buf) => width::read(self, rules, cx, offset, buf),
            Bytes::Write(buf) => width::write(self, rules, cx, offset, buf),
        };
        if taken { self.outcome() } else { Outcome::Refused }
    }

    /// Passes on that there was an access, and nothing of what it was.
    pub(crate) fn tell(&self, requester: Requester, offset: u64, direction: Direction) -> Outcome {
        let access = self.access(requester, offset, None);
        self.ask(|channel, progress| channel.write(&access, 0, progress.waiter()));
        let outcome = self.outcome();
        if direction == Direction::Read && outcome == Outcome::Forwarded {
            self.turn.lock().progress.tell_nothing();
        }
        outcome
    }

    fn outcome(&self) -> Outcome {
        match self.turn.lock().answer {
            Answer::Done(_) => Outcome::Forwarded,
            Answer::Gone => Outcome::Gone,
            Answer::Interrupted => Outcome::Pending,
        }
    }

    /// Has the channel asked, unless it has been, or is of no use any more.
    fn ask(&self, ask: impl FnOnce(&dyn Channel, &Progress) -> Answer) -> u64 {
        let mut turn = self.turn.lock();
        if let Answer::Done(_) = turn.answer {
            let channel = self.channel();
            turn.answer = turn.progress.command(channel, |progress| ask(channel.get(), progress));
        }
        match turn.answer {
            Answer::Done(value) => value,
            Answer::Gone | Answer::Interrupted => u64::MAX,
        }
    }

    fn access(&self, requester: Requester, offset: u64, size: Option<Size>) -> Forwarded {
        let Forward { user_data, posted, .. } = *self.forward;
        let offset = offset.wrapping_sub(self.start);
        Forwarded { requester, user_data, offset, size, posted, more: self.more }
    }
}

impl Handler for Forwarder<'_> {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        cx.reaches(|| self.handler.register(offset, Direction::Read));
        let access = Forwarded { posted: false, ..self.access(cx.requester(), offset, Some(size)) };
        self.ask(|channel, progress| channel.read(&access, progress.waiter()))
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        cx.reaches(|| self.handler.register(offset, Direction::Write));
        let access = self.access(cx.requester(), offset, Some(size));
        self.ask(|channel, progress| channel.write(&access, value, progress.waiter()));
    }
}
