//! Dispatch: from an access to the handlers that answer it.

use std::sync::Arc;

use trapline_device::{Direction, Handler, IoCx, Size, Space};

use crate::counters::{Tally, Unclaimed, mark};
use crate::entry::Entry;
use crate::observer::{Outcome, Witness};
use crate::pieces;
use crate::publish::Reader;
use crate::region::Delivery;
use crate::registry::{Core, HandleStats};
use crate::snapshot::Snapshot;

/// Makes accesses on behalf of one vCPU. Belongs to one thread at a time; costs neither a lock nor
/// a write to memory that other threads write.
///
/// Every access first delivers the coalesced writes that came before it, so a source need not.
pub struct Handle {
    pub(crate) reader: Reader<Snapshot>,
    pub(crate) core: Arc<Core>,
    pub(crate) tally: Tally,
    pub(crate) vcpu: u32,
    stats: Arc<HandleStats>,
}

/// Whether an access is one of its own or an element of a string, for the counters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    Element,
}

impl Handle {
    pub(crate) fn new(core: Arc<Core>, vcpu: u32, stats: Arc<HandleStats>) -> Self {
        let reader = core.published.reader();
        let tally = Tally::new(Arc::clone(&stats.counters));
        Self { reader, core, tally, vcpu, stats }
    }

    /// A guest read of `data.len()` bytes at `addr`. Fills all of `data`; bytes that nobody
    /// answers are all ones.
    #[inline]
    pub fn read(&mut self, space: Space, addr: u64, data: &mut [u8]) {
        if let Some(size) = Size::new(data.len()) {
            let value = self.read_value(space, addr, size);
            pieces::store(data, value);
        } else {
            self.drain();
            self.read_pieces(space, addr, data, Kind::Single);
        }
    }

    /// A guest write of `data` at `addr`. Bytes that nobody takes vanish.
    #[inline]
    pub fn write(&mut self, space: Space, addr: u64, data: &[u8]) {
        if let Some(size) = Size::new(data.len()) {
            self.write_value(space, addr, size, pieces::load(data));
        } else {
            self.drain();
            self.write_pieces(space, addr, data, Kind::Single);
        }
    }

    /// A guest read by value: the little-endian number of `size` at `addr`.
    #[inline]
    pub fn read_value(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        self.read_raw(space, addr, size) & size.ones()
    }

    /// A guest write by value: the little-endian number `value` of `size` at `addr`.
    #[inline]
    pub fn write_value(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        self.write_raw(space, addr, size, value & size.ones());
    }

    /// Bits above `size` are anything. Nothing but the handler is called on the quick way, and
    /// nothing but its mark is kept over that call: that keeps the whole way short.
    #[inline(always)]
    fn read_raw(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        if !self.core.is_coalescing()
            && let Some(value) = self.quick_read(space, addr, size)
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
            && let Some(value) = self.quick_read(space, addr, size)
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
            self.read_pieces(space, addr, buf, Kind::Single);
            u64::from_le_bytes(data)
        })
    }

    #[inline(always)]
    fn quick_read(&self, space: Space, addr: u64, size: Size) -> Option<u64> {
        self.quick(space, addr, size, Direction::Read, |handler, cx, offset| {
            handler.read(cx, offset, size)
        })
    }

    /// `value` has no bits above `size`.
    #[inline(always)]
    fn write_raw(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        if self.core.is_coalescing() || !self.quick_write(space, addr, size, value) {
            self.write_raw_carefully(space, addr, size, value);
        }
    }

    #[inline(never)]
    fn write_raw_carefully(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        let quick = self.core.is_coalescing()
            && !self.core.is_queued()
            && self.quick_write(space, addr, size, value);
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
            self.write_pieces(space, addr, data, Kind::Single);
        }
    }

    /// Whether that was all there was to do.
    #[inline(always)]
    fn quick_write(&self, space: Space, addr: u64, size: Size, value: u64) -> bool {
        let write = |handler: &dyn Handler, cx: &IoCx<'_>, offset| {
            handler.write(cx, offset, size, value);
        };
        self.quick(space, addr, size, Direction::Write, write).is_some()
    }

    /// `rep ins`: reads elements of `size` from `port` into `data`, in order. Bytes of `data` past
    /// the last whole element become all ones.
    pub fn read_rep(&mut self, port: u16, size: Size, data: &mut [u8]) {
        data.fill(0xff);
        let whole = data.len() - data.len() % size.bytes();
        let data = data.get_mut(..whole).unwrap_or_default();
        let addr = port.into();
        self.drain();
        self.reader.look(&self.core.published);
        let marker = self.reader.marker();
        let snapshot = self.reader.snapshot();
        if let Some(entry) = whole_string(snapshot, addr, size, Direction::Read) {
            marker.found(mark(entry.number()));
            self.tally.string(entry.number(), Direction::Read, elements(data, size));
            let witness =
                Witness::new(snapshot, entry, self.vcpu, (addr, Direction::Read, size.bytes()));
            witness.before(data);
            let cx = IoCx::new(self.vcpu, &*self.core);
            entry.handler.read_rep(&cx, entry.offset_of(addr), size, data);
            witness.after(data, Outcome::Handled);
            return;
        }
        drop(marker);
        for element in data.chunks_exact_mut(size.bytes()) {
            self.read_pieces(Space::Pio, addr, element, Kind::Element);
        }
    }

    /// `rep outs`: writes the elements of `size` in `data` to `port`, in order. Bytes past the
    /// last whole element are not written.
    pub fn write_rep(&mut self, port: u16, size: Size, data: &[u8]) {
        let whole = data.len() - data.len() % size.bytes();
        let data = data.get(..whole).unwrap_or_default();
        let addr = port.into();
        self.drain();
        self.reader.look(&self.core.published);
        let marker = self.reader.marker();
        let snapshot = self.reader.snapshot();
        if let Some(entry) = whole_string(snapshot, addr, size, Direction::Write) {
            marker.found(mark(entry.number()));
            self.tally.string(entry.number(), Direction::Write, elements(data, size));
            let witness =
                Witness::new(snapshot, entry, self.vcpu, (addr, Direction::Write, size.bytes()));
            witness.before(data);
            let cx = IoCx::new(self.vcpu, &*self.core);
            entry.handler.write_rep(&cx, entry.offset_of(addr), size, data);
            witness.after(data, Outcome::Handled);
            return;
        }
        drop(marker);
        for element in data.chunks_exact(size.bytes()) {
            self.write_pieces(Space::Pio, addr, element, Kind::Element);
        }
    }

    /// The widest access that the region at `addr` takes there, in bytes, or how many bytes it is
    /// to the next region.
    pub(crate) fn widest(&mut self, addr: u64) -> Result<u64, u64> {
        self.reader.look(&self.core.published);
        let _marker = self.reader.marker();
        let snapshot = self.reader.snapshot();
        match snapshot.find(Space::Mmio, addr) {
            Some(entry) => {
                let left = (entry.last - addr).saturating_add(1);
                Ok(left.min(entry.shared.rules.valid.max.bytes() as u64))
            }
            None => Err(snapshot.next_claimed(Space::Mmio, addr).map_or(u64::MAX, |at| at - addr)),
        }
    }

    /// As [`Handle::read`], but what is queued stays queued.
    pub(crate) fn read_undrained(&mut self, space: Space, addr: u64, data: &mut [u8]) {
        self.read_pieces(space, addr, data, Kind::Single);
    }

    /// As [`Handle::write`], but what is queued stays queued.
    pub(crate) fn write_undrained(&mut self, space: Space, addr: u64, data: &[u8]) {
        self.write_pieces(space, addr, data, Kind::Single);
    }

    /// Runs `call` if one handler takes the access just as it is, nobody else wants to know, the
    /// first guess where the region is was right, and nothing has to be brought up to date first
    /// but what is queued, which the caller has seen to.
    #[inline(always)]
    fn quick<R>(
        &self,
        space: Space,
        addr: u64,
        size: Size,
        direction: Direction,
        call: impl FnOnce(&dyn Handler, &IoCx<'_>, u64) -> R,
    ) -> Option<R> {
        let marker = self.reader.look_if_current(&self.core.published)?;
        let quick = self.reader.snapshot().guess(space, addr)?;
        let (handler, offset, number) = quick.admit(addr, size, direction)?;
        if !self.tally.access_if_known(number, direction) {
            return None;
        }
        marker.found(mark(number));
        Some(call(handler, &IoCx::new(self.vcpu, &*self.core), offset))
    }

    /// Runs `call` if one handler takes the access just as it is and nobody else wants to know.
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
        self.tally.access(entry.number(), direction);
        Some(call(entry, &IoCx::new(self.vcpu, &*self.core)))
    }

    /// A read that is not one handler's as it stands: cut at the borders of regions, then by each
    /// region's rules.
    #[cold]
    fn read_pieces(&mut self, space: Space, addr: u64, data: &mut [u8], kind: Kind) {
        data.fill(0xff);
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address(space, addr, done) else { break };
            let left = data.len() - done;
            self.reader.look(&self.core.published);
            let marker = self.reader.marker();
            let snapshot = self.reader.snapshot();
            let (part, entry) = next_part(snapshot, space, at, left);
            let Some(entry) = entry else {
                self.stats.count_unclaimed(space, at, part, Direction::Read);
                done += part;
                continue;
            };
            marker.found(mark(entry.number()));
            let cx = IoCx::new(self.vcpu, &*self.core);
            let buf = data.get_mut(done..done + part).unwrap_or_default();
            let what = (at, Direction::Read, part);
            let witness = Witness::new(snapshot, entry, self.vcpu, what);
            witness.before(buf);
            let taken = pieces::read(entry, &cx, entry.offset_of(at), buf);
            witness.after(buf, if taken { Outcome::Handled } else { Outcome::Refused });
            count(&mut self.tally, entry, Direction::Read, kind, taken);
            done += part;
        }
    }

    /// A write likewise. Doorbells that are ours to ring are compared with the whole write.
    #[cold]
    pub(crate) fn write_pieces(&mut self, space: Space, addr: u64, data: &[u8], kind: Kind) {
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address(space, addr, done) else { break };
            let left = data.len() - done;
            self.reader.look(&self.core.published);
            let marker = self.reader.marker();
            let snapshot = self.reader.snapshot();
            let (part, entry) = next_part(snapshot, space, at, left);
            let Some(entry) = entry else {
                self.stats.count_unclaimed(space, at, part, Direction::Write);
                done += part;
                continue;
            };
            marker.found(mark(entry.number()));
            let buf = data.get(done..done + part).unwrap_or_default();
            let what = (at, Direction::Write, part);
            let witness = Witness::new(snapshot, entry, self.vcpu, what);
            witness.before(buf);
            if done == 0 && ring(entry, at, data) {
                count(&mut self.tally, entry, Direction::Write, kind, true);
                self.tally.doorbell(entry.number());
                witness.after(buf, Outcome::Doorbell);
                return;
            }
            let cx = IoCx::new(self.vcpu, &*self.core);
            let taken = pieces::write(entry, &cx, entry.offset_of(at), buf);
            witness.after(buf, if taken { Outcome::Handled } else { Outcome::Refused });
            count(&mut self.tally, entry, Direction::Write, kind, taken);
            done += part;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reader.retire(&self.core.published);
        self.stats.release();
    }
}

/// The region whose handler takes all elements of a string at once, if there is one.
fn whole_string(snap: &Snapshot, addr: u64, size: Size, direction: Direction) -> Option<&Entry> {
    let rings =
        |entry: &Entry| direction == Direction::Write && entry.placement.soft_doorbells.is_some();
    snap.find(Space::Pio, addr).filter(|entry| entry.is_whole(addr, size) && !rings(entry))
}

fn elements(data: &[u8], size: Size) -> u64 {
    (data.len() / size.bytes()) as u64
}

/// `addr + done`, if that is still in the space: an access does not wrap round its end.
fn address(space: Space, addr: u64, done: usize) -> Option<u64> {
    addr.checked_add(done as u64).filter(|at| *at <= space.last())
}

/// How many of the `left` bytes from `at` share one answer, and whose.
fn next_part(snapshot: &Snapshot, space: Space, at: u64, left: usize) -> (usize, Option<&Entry>) {
    let entry = snapshot.find(space, at);
    let most = (left as u64).saturating_sub(1);
    let last = match entry {
        Some(entry) => entry.last,
        None => snapshot.next_claimed(space, at).map_or(space.last(), |next| next - 1),
    };
    (usize::try_from((last - at).min(most)).unwrap_or(left).saturating_add(1), entry)
}

fn count(tally: &mut Tally, entry: &Entry, direction: Direction, kind: Kind, taken: bool) {
    match kind {
        Kind::Single => tally.access(entry.number(), direction),
        Kind::Element => tally.string(entry.number(), direction, 1),
    }
    if !taken {
        tally.refused(entry.number());
    }
}

/// Rings the doorbell that `data` at `addr` is for, under the kernel's rule (Linux
/// `virt/kvm/eventfd.c`, `ioeventfd_in_range`): exact address, exact length unless any will do,
/// and the value, unless any will do, compared at the length of the write.
fn ring(entry: &Entry, addr: u64, data: &[u8]) -> bool {
    let Some(doorbells) = &entry.placement.soft_doorbells else { return false };
    let value = pieces::load(data);
    let rung = doorbells.iter().find_map(|window| match &window.delivery {
        Delivery::Doorbell { event, datamatch }
            if entry.base + window.offset == addr
                && (window.len == 0 || window.len == data.len() as u64)
                && (window.len == 0 || datamatch.is_none_or(|wanted| wanted == value)) =>
        {
            Some(event)
        }
        _ => None,
    });
    if let Some(event) = rung {
        event.signal();
    }
    rung.is_some()
}

impl HandleStats {
    fn count_unclaimed(&self, space: Space, addr: u64, len: usize, direction: Direction) {
        self.unclaimed.lock().add(Unclaimed { space, addr, len: len as u64, direction }, 1);
    }
}
