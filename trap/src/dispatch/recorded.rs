//! Accesses of a handle that records: the same as without, and one record each.

use trapline_access::record::{self, Op, Outcome};
use trapline_access::{Direction, Size, Space};

use crate::dispatch::Handle;
use crate::dispatch::bytes::Bytes;
use crate::dispatch::width;
use crate::recorder::Step;
use crate::recorder::tape::{self, RecentAccess, Tape, Track};

/// A handle whose tape has been taken out, to be used beside it. Put back at the end, also when a
/// device panics.
struct Recording<'a> {
    handle: &'a mut Handle,
    tape: Option<Box<Tape>>,
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.handle.tape = self.tape.take();
    }
}

impl Handle {
    #[inline(never)]
    pub(super) fn read_value_recorded(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        let make = |handle: &mut Self| handle.read_raw(space, addr, size) & size.ones();
        let access = |outcome| single(Direction::Read, size, space, outcome);
        self.recorded((space, addr), make, |value, outcome| (access(outcome), *value))
    }

    #[inline(never)]
    pub(super) fn write_value_recorded(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        let value = value & size.ones();
        let make = |handle: &mut Self| handle.write_raw(space, addr, size, value);
        let access = |outcome| single(Direction::Write, size, space, outcome);
        self.recorded((space, addr), make, |(), outcome| (access(outcome), value));
    }

    /// An access of 3, 5, 6 or 7 bytes, or one that is no access as it is too long.
    #[inline(never)]
    pub(super) fn odd(&mut self, space: Space, addr: u64, data: &mut Bytes<'_>) {
        let (direction, len) = (data.direction(), data.len());
        let Some(odd) = record::OddLen::new(len) else {
            return self.odd_raw(space, addr, data);
        };
        let make = |handle: &mut Self| {
            handle.odd_raw(space, addr, data);
            width::load(data.as_slice())
        };
        self.recorded((space, addr), make, |value, outcome| {
            (Op::Odd { direction, len: odd, space, outcome }, *value)
        });
    }

    fn odd_raw(&mut self, space: Space, addr: u64, data: &mut Bytes<'_>) {
        self.drain();
        let whole = data.len();
        self.in_parts(space, addr, data.part(0, whole));
    }

    /// `rep ins` or `rep outs`.
    #[inline(never)]
    pub(super) fn string_recorded(&mut self, port: u16, size: Size, data: &mut Bytes<'_>) {
        let (addr, direction, whole) = (port.into(), data.direction(), data.len());
        let mut recording = Recording { tape: self.tape.take(), handle: self };
        let Recording { handle, tape } = &mut recording;
        let Some(tape) = tape else { return handle.string(port, size, data.part(0, whole)) };
        let Tape { recorder, track, .. } = &mut **tape;
        let step = recorder.step();
        handle.outcome.set(None);
        handle.string(port, size, data.part(0, whole));
        let outcome = handle.outcome.get().unwrap_or(Outcome::Handled);
        let access = record::Access { direction, size, space: Space::Pio, outcome };
        let op = Op::String(access);
        let told = (op, whole as u64, data.as_slice());
        handle.record(recorder, track, &step, (Space::Pio, addr), told);
    }

    /// Makes an access in a step of its own, and records what `tell` says of it.
    #[inline(always)]
    fn recorded<R>(
        &mut self,
        (space, addr): (Space, u64),
        make: impl FnOnce(&mut Self) -> R,
        tell: impl FnOnce(&R, Outcome) -> (Op, u64),
    ) -> R {
        let mut recording = Recording { tape: self.tape.take(), handle: self };
        let Recording { handle, tape } = &mut recording;
        let Some(tape) = tape else { return make(handle) };
        let Tape { recorder, track, .. } = &mut **tape;
        let step = recorder.step();
        handle.outcome.set(None);
        let made = make(handle);
        let (op, value) = tell(&made, handle.outcome.get().unwrap_or(Outcome::Handled));
        handle.record(recorder, track, &step, (space, addr), (op, value, &[]));
        made
    }

    fn record(
        &self,
        recorder: &crate::recorder::Recorder,
        track: &mut Track,
        step: &Step<'_>,
        (space, addr): (Space, u64),
        (op, value, data): (Op, u64, &[u8]),
    ) {
        if self.progress.is_interrupted() {
            // It is made again, and then it will have been made.
            return;
        }
        let register = self.register.take();
        let access = tape::Access { op, space, addr, value, data, register };
        // That of the access: the next one looks for a later one.
        let (generation, snapshot) = (Some(self.reader.generation()), self.reader.snapshot());
        track.access(recorder, step, &access, generation, || snapshot.find(space, addr));
    }

    /// The last accesses that reached devices: this handle's, and the last writes that came out of
    /// the source's queue, in the order of their stamps. None without a recorder.
    pub fn recent(&self) -> Vec<RecentAccess> {
        let Some(tape) = &self.tape else { return Vec::new() };
        let recorder = &tape.recorder;
        let register = |id, offset, direction| self.core.register(id, offset, direction);
        let mut all = match &*recorder.queued.lock() {
            Some(queued) => queued.recent(recorder, register),
            // They are being delivered.
            None => Vec::new(),
        };
        all.extend(tape.track.recent(recorder, register));
        all.retain(|(at, _)| tape.forgotten.is_none_or(|forgotten| *at > forgotten));
        // Of one stamp a queued write came first.
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, access)| access).collect()
    }

    /// Forgets [`Handle::recent`]: the guest starts over.
    pub fn forget_recent(&mut self) {
        if let Some(tape) = &mut self.tape {
            tape.forget();
        }
    }
}

const fn single(direction: Direction, size: Size, space: Space, outcome: Outcome) -> Op {
    Op::Access(record::Access { direction, size, space, outcome })
}
