//! Dispatch: from an access to the handlers that answer it.

pub(crate) mod bytes;
mod drain;
pub(crate) mod progress;
mod recorded;
pub(crate) mod split;
pub(crate) mod width;

use std::cell::Cell;
use std::sync::Arc;

use trapline_access::record::Outcome;
use trapline_access::{Direction, Handler, IoCx, Requester, Size, Space, Waiter};

use crate::core::{Core, HandleStats};
use crate::counters::{CounterWriter, mark};
use crate::dispatch::bytes::Bytes;
use crate::dispatch::progress::Progress;
use crate::lookup::publish::Reader;
use crate::lookup::snapshot::Snapshot;
use crate::recorder::tape::Tape;
use crate::region::Entry;

/// Makes accesses on behalf of one vCPU. Belongs to one thread at a time; costs neither a lock nor
/// a write to memory that other threads write.
///
/// Every access first delivers the coalesced writes that came before it, so a source need not.
pub struct Handle {
    pub(crate) reader: Reader<Snapshot>,
    pub(crate) core: Arc<Core>,
    pub(crate) counters: CounterWriter,
    pub(crate) requester: Requester,
    pub(crate) stats: Arc<HandleStats>,
    /// What the handler said about the register that the last access reached.
    pub(crate) register: Cell<Option<&'static str>>,
    pub(crate) progress: Progress,
    /// What became of the last access, if it was made in parts.
    pub(crate) outcome: Cell<Option<Outcome>>,
    /// What a vCPU's accesses are recorded with, if they are.
    pub(crate) tape: Option<Box<Tape>>,
}

// What a guest access calls is inlined, whatever the compiler thinks of its length: callers name the
// space and often the size, and what is left then is short.
impl Handle {
    pub(crate) fn new(core: Arc<Core>, requester: Requester, stats: Arc<HandleStats>) -> Self {
        let reader = core.published.reader();
        let counters = CounterWriter::new(Arc::clone(&stats.counters));
        let tape = match (core.recorder.get(), requester) {
            (Some(recorder), Requester::Vcpu(vcpu)) => Some(Tape::new(recorder, vcpu)),
            _ => None,
        };
        let (register, outcome, progress) = (Cell::new(None), Cell::new(None), Progress::default());
        Self { reader, core, counters, requester, stats, register, progress, outcome, tape }
    }

    /// Has `waiter` say, while somebody outside is to answer an access ([`trapline_access::Channel`]),
    /// whether the thread is wanted elsewhere. Such an access ends unanswered then; see
    /// [`Handle::take_interrupted`].
    pub fn set_waiter(&mut self, waiter: Arc<dyn Waiter>) {
        self.progress.set_waiter(waiter);
    }

    /// Whether the access before was interrupted: what it has read is not so, and it is not done. The
    /// same access is to be made next, with the same data, and goes on where it was; or
    /// [`Handle::forget_interrupted`] gives it up. To be asked after each access, if there is a waiter.
    #[inline]
    pub fn take_interrupted(&mut self) -> bool {
        self.progress.take_interrupted()
    }

    /// Gives up an access that was interrupted: who was to answer it is told.
    pub fn forget_interrupted(&mut self) {
        self.progress.forget(self.requester);
    }

    /// Whether the access before was a read that nobody answers, as the window passes on that there
    /// was an access and no more ([`trapline_access::Forward::no_data`]): the processor's register is
    /// to stay what it was.
    #[inline]
    pub fn take_told_nothing(&mut self) -> bool {
        self.progress.take_told_nothing()
    }

    /// A guest read of `data.len()` bytes at `addr`. Fills all of `data`; bytes that nobody
    /// answers are all ones.
    #[inline(always)]
    pub fn read(&mut self, space: Space, addr: u64, data: &mut [u8]) {
        if let Some(size) = Size::new(data.len()) {
            let value = self.read_value(space, addr, size);
            width::store(data, value);
        } else {
            self.odd(space, addr, &mut Bytes::Read(data));
        }
    }

    /// A guest write of `data` at `addr`. Bytes that nobody takes vanish.
    #[inline(always)]
    pub fn write(&mut self, space: Space, addr: u64, data: &[u8]) {
        if let Some(size) = Size::new(data.len()) {
            self.write_value(space, addr, size, width::load(data));
        } else {
            self.odd(space, addr, &mut Bytes::Write(data));
        }
    }

    /// A guest read by value: the little-endian number of `size` at `addr`.
    #[inline(always)]
    pub fn read_value(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        if self.tape.is_some() {
            return self.read_value_recorded(space, addr, size);
        }
        self.read_raw(space, addr, size) & size.ones()
    }

    /// A guest write by value: the little-endian number `value` of `size` at `addr`.
    #[inline(always)]
    pub fn write_value(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        if self.tape.is_some() {
            return self.write_value_recorded(space, addr, size, value);
        }
        self.write_raw(space, addr, size, value & size.ones());
    }

    /// A read whose result may have any bits set above `size`. On the fast path nothing but the
    /// handler is called, and only the handle's mark is live across that call, so that the compiler
    /// needs few registers saved and restored.
    #[inline(always)]
    fn read_raw(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        if !self.core.is_coalescing()
            && let Some(value) = self.fast_read(space, addr, size)
        {
            return value;
        }
        self.read_raw_carefully(space, addr, size)
    }

    /// As [`Handle::read_raw`], with all that may have to be done first or besides.
    #[inline(never)]
    fn read_raw_carefully(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        if self.core.is_coalescing()
            && !self.core.is_queued()
            && let Some(value) = self.fast_read(space, addr, size)
        {
            return value;
        }
        self.read_raw_whichever(space, addr, size)
    }

    #[inline(never)]
    fn read_raw_whichever(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        let direct = self.direct(space, addr, size, Direction::Read, |entry, cx| {
            entry.handler.read(cx, entry.offset_of(addr), size)
        });
        direct.unwrap_or_else(|| {
            let mut data = [0xff; 8];
            let buf = data.get_mut(..size.bytes()).unwrap_or_default();
            self.in_parts(space, addr, Bytes::Read(buf));
            u64::from_le_bytes(data)
        })
    }

    #[inline(always)]
    fn fast_read(&self, space: Space, addr: u64, size: Size) -> Option<u64> {
        self.fast(space, addr, size, Direction::Read, |handler, cx, offset| {
            handler.read(cx, offset, size)
        })
    }

    /// `value` has no bits above `size`.
    #[inline(always)]
    fn write_raw(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        if self.core.is_coalescing() || !self.fast_write(space, addr, size, value) {
            self.write_raw_carefully(space, addr, size, value);
        }
    }

    #[inline(never)]
    fn write_raw_carefully(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        let quick = self.core.is_coalescing()
            && !self.core.is_queued()
            && self.fast_write(space, addr, size, value);
        if !quick {
            self.write_raw_whichever(space, addr, size, value);
        }
    }

    #[inline(never)]
    fn write_raw_whichever(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        let direct = self.direct(space, addr, size, Direction::Write, |entry, cx| {
            entry.handler.write(cx, entry.offset_of(addr), size, value);
        });
        if direct.is_none() {
            let data = value.to_le_bytes();
            let data = data.get(..size.bytes()).unwrap_or(&data);
            self.in_parts(space, addr, Bytes::Write(data));
        }
    }

    /// Whether that was all there was to do.
    #[inline(always)]
    fn fast_write(&self, space: Space, addr: u64, size: Size, value: u64) -> bool {
        let write = |handler: &dyn Handler, cx: &IoCx<'_>, offset| {
            handler.write(cx, offset, size, value);
        };
        self.fast(space, addr, size, Direction::Write, write).is_some()
    }

    /// `rep ins`: reads elements of `size` from `port` into `data`, in order. Bytes of `data` past
    /// the last whole element become all ones.
    pub fn read_rep(&mut self, port: u16, size: Size, data: &mut [u8]) {
        data.fill(0xff);
        let whole = data.len() - data.len() % size.bytes();
        self.string_recorded(port, size, &mut Bytes::Read(data).part(0, whole));
    }

    /// `rep outs`: writes the elements of `size` in `data` to `port`, in order. Bytes past the
    /// last whole element are not written.
    pub fn write_rep(&mut self, port: u16, size: Size, data: &[u8]) {
        let whole = data.len() - data.len() % size.bytes();
        self.string_recorded(port, size, &mut Bytes::Write(data).part(0, whole));
    }

    /// The widest access that the region at `addr` takes there, in bytes, and the offset its handler
    /// sees; or how many bytes it is to the next region.
    pub(crate) fn widest(&mut self, addr: u64) -> Result<(u64, u64), u64> {
        self.reader.look(&self.core.published);
        let _marker = self.reader.marker();
        let snapshot = self.reader.snapshot();
        match snapshot.find(Space::Mmio, addr) {
            Some(entry) => {
                let left = (entry.last - addr).saturating_add(1);
                let widest = left.min(entry.shared.rules.valid.max.bytes() as u64);
                Ok((widest, entry.offset_of(addr)))
            }
            None => Err(snapshot.next_claimed(Space::Mmio, addr).map_or(u64::MAX, |at| at - addr)),
        }
    }

    #[inline(always)]
    fn cx(&self) -> IoCx<'_> {
        IoCx::new(self.requester, &*self.core).with_register(&self.register)
    }

    /// The fast path (see [`crate::lookup`]). Runs `call` if one handler takes the access just as it
    /// is, nobody watches, the page hash has the region in the place looked at first, the snapshot
    /// is the latest and the counter does not wrap; else does nothing. The caller has seen to
    /// coalesced writes.
    #[inline(always)]
    fn fast<R>(
        &self,
        space: Space,
        addr: u64,
        size: Size,
        direction: Direction,
        call: impl FnOnce(&dyn Handler, &IoCx<'_>, u64) -> R,
    ) -> Option<R> {
        let marker = self.reader.look_if_current(&self.core.published)?;
        let quick = self.reader.snapshot().first(space, addr)?;
        let (handler, offset, number) = quick.admit(addr, size, direction)?;
        if !self.counters.access_if_easy(number, direction) {
            return None;
        }
        marker.found(mark(number));
        Some(call(handler, &self.cx(), offset))
    }

    /// The same with everything the fast path leaves out: queued writes are delivered, the latest
    /// snapshot is fetched, and the region is searched for wherever it is. Runs `call` if one handler
    /// takes the access just as it is, and nobody watches.
    fn direct<R>(
        &mut self,
        space: Space,
        addr: u64,
        size: Size,
        direction: Direction,
        call: impl FnOnce(&Entry, &IoCx<'_>) -> R,
    ) -> Option<R> {
        self.drain();
        self.reader.look(&self.core.published);
        let marker = self.reader.marker();
        let entry = self.reader.snapshot().find(space, addr)?;
        if !entry.is_whole(addr, size) || !entry.is_plain(direction) {
            return None;
        }
        marker.found(mark(entry.number()));
        self.counters.access(entry.number(), direction);
        Some(call(entry, &self.cx()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reader.retire(&self.core.published);
        self.stats.release();
    }
}
