//! Splitting of accesses that no handler takes whole: at the borders of regions and of windows that
//! are forwarded or memory, then by each region's rules. Also string accesses, and the doorbells that
//! the registry rings itself.

use std::cell::Cell;

use trapline_access::{
    Delivery, Direction, Forward, IoCx, Limits, Rules, Size, Space, Window, record,
};

use crate::core::HandleStats;
use crate::counters::{CounterWriter, Unclaimed, mark};
use crate::delivery::forward::Forwarder;
use crate::dispatch::Handle;
use crate::dispatch::bytes::Bytes;
use crate::dispatch::progress::Progress;
use crate::dispatch::width;
use crate::lookup::snapshot::Snapshot;
use crate::region::Entry;
use crate::watch::{Made, Outcome, Witness};

/// Whether an access is one of its own or an element of a string, for the counters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    Element,
}

/// The beginning of an access, as far as it has one answer.
struct Part<'a> {
    len: usize,
    entry: Option<&'a Entry>,
    window: Option<&'a Window>,
}

impl Handle {
    /// Makes an access of its own part by part.
    #[cold]
    pub(crate) fn in_parts(&mut self, space: Space, addr: u64, data: Bytes<'_>) {
        self.progress.begin();
        self.parts(space, addr, data, Kind::Single);
    }

    /// Makes an access part by part. What is read of nobody is all ones; doorbells are compared
    /// with the whole of a write.
    #[cold]
    pub(crate) fn parts(&mut self, space: Space, addr: u64, mut data: Bytes<'_>, kind: Kind) {
        if let Bytes::Read(data) = &mut data {
            data.fill(0xff);
        }
        let direction = data.direction();
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address(space, addr, done) else { break };
            let left = data.len() - done;
            self.reader.look(&self.core.published);
            let marker = self.reader.marker();
            let snapshot = self.reader.snapshot();
            let part = Part::first(snapshot, space, at, left, direction);
            if let Some(value) = self.progress.next_part() {
                data.part(done, part.len).store(value);
                done += part.len;
                continue;
            }
            let made = Made {
                requester: self.requester,
                space,
                addr: at,
                direction,
                width: part.len,
                data: data.as_slice().get(done..done + part.len).unwrap_or_default(),
            };
            let register = Cell::new(None);
            let Some(entry) = part.entry else {
                let witness = Witness::of_nobody(&self.core, &snapshot.unclaimed_watchers, &made);
                self.stats.count_unclaimed(space, at, part.len, direction);
                witness.end(made.data, Outcome::Unclaimed, &register);
                self.progress.end_part(u64::MAX);
                self.note(Outcome::Unclaimed);
                done += part.len;
                continue;
            };
            marker.found(mark(entry.number()));
            let witness = Witness::of_region(&self.core, entry, &made);
            let cx = IoCx::new(self.requester, &*self.core).with_register(&register);
            let progress = &mut self.progress;
            let first = done == 0;
            let rung = first.then(|| ring(entry, at, &data, &cx, progress)).flatten();
            let whole = rung.is_some();
            let mut buf = data.part(done, part.len);
            let outcome =
                rung.unwrap_or_else(|| answer(entry, part.window, &cx, at, &mut buf, progress));
            if outcome == Outcome::Pending {
                return;
            }
            self.progress.end_part(width::load(buf.as_slice()));
            // A doorbell takes all of the write, also what would be another region's.
            let seen = if whole { data.as_slice() } else { buf.as_slice() };
            witness.end(seen, outcome, &register);
            if done == 0 {
                self.register.set(register.get());
            }
            count(&mut self.counters, entry, direction, kind, outcome);
            self.note(outcome);
            if whole {
                return;
            }
            done += part.len;
        }
    }

    /// `rep ins` or `rep outs`: elements of `size` at `port`, in order; `data` is a whole number
    /// of them.
    pub(crate) fn string(&mut self, port: u16, size: Size, mut data: Bytes<'_>) {
        let (addr, direction) = (port.into(), data.direction());
        self.drain();
        self.reader.look(&self.core.published);
        let marker = self.reader.marker();
        let snapshot = self.reader.snapshot();
        if let Some(entry) = whole_string(snapshot, addr, size, direction) {
            marker.found(mark(entry.number()));
            let elements = (data.len() / size.bytes()) as u64;
            self.counters.string(entry.number(), direction, elements);
            let made = Made {
                requester: self.requester,
                space: Space::Pio,
                addr,
                direction,
                width: size.bytes(),
                data: data.as_slice(),
            };
            let witness = Witness::of_region(&self.core, entry, &made);
            let register = Cell::new(None);
            let cx = IoCx::new(self.requester, &*self.core).with_register(&register);
            let offset = entry.offset_of(addr);
            match &mut data {
                Bytes::Read(data) => entry.handler.read_rep(&cx, offset, size, data),
                Bytes::Write(data) => entry.handler.write_rep(&cx, offset, size, data),
            }
            witness.end(data.as_slice(), Outcome::Handled, &register);
            self.register.set(register.get());
            return;
        }
        drop(marker);
        self.progress.begin();
        for start in (0..data.len()).step_by(size.bytes()) {
            self.parts(Space::Pio, addr, data.part(start, size.bytes()), Kind::Element);
            if self.progress.is_interrupted() {
                return;
            }
        }
    }
}

impl Handle {
    /// Keeps what became of a part of an access, for the record of the whole.
    fn note(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Pending | Outcome::Handled | Outcome::Memory => record::Outcome::Handled,
            Outcome::Coalesced => record::Outcome::Coalesced,
            Outcome::Refused => record::Outcome::Refused,
            Outcome::Doorbell => record::Outcome::Rang,
            Outcome::Forwarded => record::Outcome::Forwarded,
            Outcome::Gone => record::Outcome::Gone,
            Outcome::Unclaimed => record::Outcome::Unclaimed,
        };
        let both = self.outcome.get().filter(|before| *before != outcome);
        self.outcome.set(Some(both.map_or(outcome, |_| record::Outcome::Mixed)));
    }
}

impl<'a> Part<'a> {
    /// How many of the `left` bytes from `at` share one answer, and whose.
    fn first(
        snapshot: &'a Snapshot,
        space: Space,
        at: u64,
        left: usize,
        direction: Direction,
    ) -> Self {
        let entry = snapshot.find(space, at);
        let (last, window) = match entry {
            Some(entry) => entry.diverted_at(at, direction),
            None => (snapshot.next_claimed(space, at).map_or(space.last(), |next| next - 1), None),
        };
        let most = (left as u64).saturating_sub(1);
        let len = usize::try_from((last - at).min(most)).unwrap_or(left).saturating_add(1);
        Self { len, entry, window }
    }
}

impl Entry {
    /// The last address that is answered as `at` is, and the window there that is not the handler's.
    pub(crate) fn diverted_at(&self, at: u64, direction: Direction) -> (u64, Option<&Window>) {
        let offset = at - self.base;
        let mut windows = self.diverted(direction).filter(|window| {
            window.len != 0
                && !matches!(window.delivery, Delivery::Forward(Forward { datamatch: Some(_), .. }))
        });
        if let Some(window) =
            windows.clone().find(|w| w.offset <= offset && offset - w.offset < w.len)
        {
            return (self.base + window.offset + (window.len - 1), Some(window));
        }
        let next = windows.by_ref().map(|window| window.offset).filter(|o| *o > offset).min();
        (next.map_or(self.last, |next| self.base + next - 1), None)
    }
}

/// Has the handler, or what the window has in its place, answer the part of an access that is in
/// their range.
fn answer(
    entry: &Entry,
    window: Option<&Window>,
    cx: &IoCx<'_>,
    at: u64,
    buf: &mut Bytes<'_>,
    progress: &mut Progress,
) -> Outcome {
    let (rules, offset) = (entry.shared.rules, entry.offset_of(at));
    if let Some(Window { offset: start, delivery, .. }) = window
        && let Delivery::Memory { memory, offset, .. } = delivery
    {
        let offset = offset + (at - entry.base - start);
        match buf {
            Bytes::Read(buf) => memory.read(offset, buf),
            Bytes::Write(buf) => memory.write(offset, buf),
        }
        return Outcome::Memory;
    }
    if let Some(to) = window.and_then(|w| Forwarder::new(w, entry, progress)) {
        return to.make(rules, cx, offset, buf);
    }
    let taken = match buf {
        Bytes::Read(buf) => width::read(&*entry.handler, rules, cx, offset, buf),
        Bytes::Write(buf) => width::write(&*entry.handler, rules, cx, offset, buf),
    };
    if taken { Outcome::Handled } else { Outcome::Refused }
}

/// The region whose handler takes all elements of a string at once, if there is one.
fn whole_string(snap: &Snapshot, addr: u64, size: Size, direction: Direction) -> Option<&Entry> {
    let entry = snap.find(Space::Pio, addr)?;
    (entry.is_whole(addr, size) && entry.is_handlers(direction)).then_some(entry)
}

/// `addr + done`, if that is still in the space: an access does not wrap round its end.
fn address(space: Space, addr: u64, done: usize) -> Option<u64> {
    addr.checked_add(done as u64).filter(|at| *at <= space.last())
}

fn count(
    counters: &mut CounterWriter,
    entry: &Entry,
    direction: Direction,
    kind: Kind,
    outcome: Outcome,
) {
    let number = entry.number();
    match kind {
        Kind::Single => counters.access(number, direction),
        Kind::Element => counters.string(number, direction, 1),
    }
    match outcome {
        Outcome::Refused | Outcome::Gone => counters.refused(number),
        Outcome::Doorbell => counters.doorbell(number),
        Outcome::Forwarded => counters.forwarded(number),
        Outcome::Pending
        | Outcome::Handled
        | Outcome::Memory
        | Outcome::Coalesced
        | Outcome::Unclaimed => {}
    }
}

/// Rings the doorbell that `data` at `addr` is for, under the kernel's rule (Linux
/// `virt/kvm/eventfd.c`, `ioeventfd_in_range`): exact address, exact length unless any will do,
/// and the value, unless any will do, compared at the length of the write. A forwarded window of
/// one value, or of no length, is one, too. What came of it, if there is one.
fn ring(
    entry: &Entry,
    addr: u64,
    data: &Bytes<'_>,
    cx: &IoCx<'_>,
    progress: &mut Progress,
) -> Option<Outcome> {
    let Bytes::Write(data) = data else { return tell(entry, addr, Direction::Read, cx, progress) };
    let value = width::load(data);
    let here = |window: &&Window| entry.base + window.offset == addr;
    let doorbells = entry.placement.doorbells.iter().flat_map(|windows| windows.iter());
    let rung = doorbells.filter(here).find_map(|window| match &window.delivery {
        Delivery::Doorbell { target, datamatch }
            if window.len == 0
                || (window.len == data.len() as u64
                    && datamatch.is_none_or(|wanted| wanted == value)) =>
        {
            Some(target)
        }
        _ => None,
    });
    if let Some(target) = rung {
        target.ring(cx);
        return Some(Outcome::Doorbell);
    }
    let of_value = entry.diverted(Direction::Write).filter(here).find(|window| {
        let Delivery::Forward(Forward { datamatch, .. }) = window.delivery else { return false };
        window.len == data.len() as u64 && datamatch == Some(value)
    });
    let Some(window) = of_value else {
        return tell(entry, addr, Direction::Write, cx, progress);
    };
    let forwarder = Forwarder::new(window, entry, progress)?;
    Some(forwarder.make(
        Rules { valid: Limits::ANY, handled: Limits::ANY },
        cx,
        entry.offset_of(addr),
        &mut Bytes::Write(data),
    ))
}

/// Passes an access of any length on to a forwarded window of no length, if there is one at `addr`.
fn tell(
    entry: &Entry,
    addr: u64,
    direction: Direction,
    cx: &IoCx<'_>,
    progress: &mut Progress,
) -> Option<Outcome> {
    let window = entry.diverted(direction).find(|window| {
        let Delivery::Forward(Forward { no_data, .. }) = window.delivery else { return false };
        let taken = direction == Direction::Write || no_data;
        window.len == 0 && entry.base + window.offset == addr && taken
    })?;
    let forwarder = Forwarder::new(window, entry, progress)?;
    Some(forwarder.tell(cx.requester(), entry.offset_of(addr), direction))
}

impl HandleStats {
    fn count_unclaimed(&self, space: Space, addr: u64, len: usize, direction: Direction) {
        self.unclaimed.lock().add(Unclaimed { space, addr, len: len as u64, direction }, 1);
    }
}
