//! Dispatch: from an access to the handlers that answer it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use trapline_device::{Direction, IoCx, Size, Space};

use crate::counters::{Counters, Unclaimed};
use crate::offload::CoalescedWrite;
use crate::pieces;
use crate::publish::Reader;
use crate::region::{Delivery, Entry};
use crate::registry::{Core, HandleStats};
use crate::snapshot::Snapshot;

/// Makes accesses on behalf of one vCPU. Belongs to one thread at a time; costs neither a lock nor
/// a write to memory that other threads write.
///
/// Every access first delivers the coalesced writes that came before it, so a source need not.
pub struct Handle {
    core: Arc<Core>,
    reader: Reader<Snapshot>,
    vcpu: u32,
    index: usize,
    stats: Arc<HandleStats>,
}

impl Handle {
    pub(crate) fn new(core: Arc<Core>, vcpu: u32, index: usize, stats: Arc<HandleStats>) -> Self {
        let reader = core.published.reader();
        Self { core, reader, vcpu, index, stats }
    }

    /// A guest read of `data.len()` bytes at `addr`. Fills all of `data`; bytes that nobody
    /// answers are all ones.
    pub fn read(&mut self, space: Space, addr: u64, data: &mut [u8]) {
        if let Some(size) = Size::new(data.len()) {
            let value = self.read_value(space, addr, size);
            pieces::store(data, value);
        } else {
            self.drain();
            self.read_pieces(space, addr, data);
        }
    }

    /// A guest write of `data` at `addr`. Bytes that nobody takes vanish.
    pub fn write(&mut self, space: Space, addr: u64, data: &[u8]) {
        if let Some(size) = Size::new(data.len()) {
            self.write_value(space, addr, size, pieces::load(data));
        } else {
            self.drain();
            self.write_pieces(space, addr, data);
        }
    }

    /// A guest read by value: the little-endian number of `size` at `addr`.
    #[inline]
    pub fn read_value(&mut self, space: Space, addr: u64, size: Size) -> u64 {
        let direct = self.direct(space, addr, size, Direction::Read, |entry, cx, counters| {
            counters.read();
            entry.handler.read(cx, entry.offset_of(addr), size) & size.ones()
        });
        direct.unwrap_or_else(|| {
            let mut data = [0xff; 8];
            self.read_pieces(space, addr, data.get_mut(..size.bytes()).unwrap_or_default());
            u64::from_le_bytes(data) & size.ones()
        })
    }

    /// A guest write by value: the little-endian number `value` of `size` at `addr`.
    #[inline]
    pub fn write_value(&mut self, space: Space, addr: u64, size: Size, value: u64) {
        let direct = self.direct(space, addr, size, Direction::Write, |entry, cx, counters| {
            counters.write();
            entry.handler.write(cx, entry.offset_of(addr), size, value & size.ones());
        });
        if direct.is_none() {
            let data = value.to_le_bytes();
            self.write_pieces(space, addr, data.get(..size.bytes()).unwrap_or(&data));
        }
    }

    /// `rep ins`: reads a whole number of elements of `size` from `port` into `data`, in order.
    pub fn read_rep(&mut self, port: u16, size: Size, data: &mut [u8]) {
        data.fill(0xff);
        let (addr, elements) = (port.into(), (data.len() / size.bytes()) as u64);
        let direct = self.direct(Space::Pio, addr, size, Direction::Read, |entry, cx, counters| {
            counters.string(Direction::Read, elements);
            entry.handler.read_rep(cx, entry.offset_of(addr), size, data);
        });
        if direct.is_none() {
            for element in data.chunks_exact_mut(size.bytes()) {
                self.read_pieces(Space::Pio, addr, element);
            }
        }
    }

    /// `rep outs`: writes `data`, a whole number of elements of `size`, to `port`, in order.
    pub fn write_rep(&mut self, port: u16, size: Size, data: &[u8]) {
        let (addr, elements) = (port.into(), (data.len() / size.bytes()) as u64);
        let direct =
            self.direct(Space::Pio, addr, size, Direction::Write, |entry, cx, counters| {
                counters.string(Direction::Write, elements);
                entry.handler.write_rep(cx, entry.offset_of(addr), size, data);
            });
        if direct.is_none() {
            for element in data.chunks_exact(size.bytes()) {
                self.write_pieces(Space::Pio, addr, element);
            }
        }
    }

    /// Runs `call` if one handler takes the access just as it is.
    #[inline]
    fn direct<R>(
        &mut self,
        space: Space,
        addr: u64,
        size: Size,
        direction: Direction,
        call: impl FnOnce(&Entry, &IoCx<'_>, &Counters) -> R,
    ) -> Option<R> {
        self.drain();
        self.reader.look(&self.core.published);
        let marker = self.reader.marker();
        let entry = self.reader.snapshot().find(space, addr)?;
        let rung_here = direction == Direction::Write && entry.soft_doorbells.is_some();
        if rung_here || !entry.is_direct(addr, size.bytes()) {
            return None;
        }
        marker.found(entry.shared.id);
        let counters = entry.shared.counters.get(self.index)?;
        Some(call(entry, &IoCx::new(self.vcpu, &*self.core), counters))
    }

    /// Delivers every coalesced write made so far, by any vCPU, in order. When this returns they
    /// have all reached their handlers, whichever thread delivered them.
    #[inline]
    pub fn drain(&mut self) {
        if self.core.offload.is_some() && self.core.anything_queued() {
            self.drain_queue();
        }
    }

    #[cold]
    fn drain_queue(&mut self) {
        let core = Arc::clone(&self.core);
        let _turn = core.coalesced.turn.lock();
        core.coalesced.delivering.store(true, Ordering::SeqCst);
        while let Some((write, before)) = core.next_coalesced() {
            self.deliver(&write, before);
        }
        core.coalesced.delivering.store(false, Ordering::Release);
    }

    /// One late write: to the region it was made to if an edit remembered that, or to whoever has
    /// the address.
    fn deliver(&mut self, write: &CoalescedWrite, before: Option<Entry>) {
        let entry = before.or_else(|| {
            self.reader.look(&self.core.published);
            let _marker = self.reader.marker();
            self.reader.snapshot().find(write.space, write.addr).cloned()
        });
        let covered = entry.filter(|e| e.last - write.addr >= u64::from(write.len.max(1)) - 1);
        let Some(entry) = covered else {
            self.write_pieces(write.space, write.addr, write.bytes());
            return;
        };
        let marker = self.reader.marker();
        marker.found(entry.shared.id);
        if let Some(counters) = entry.shared.counters.get(self.index) {
            counters.write();
            counters.coalesced();
        }
        let cx = IoCx::new(self.vcpu, &*self.core);
        pieces::write(&entry, &cx, entry.offset_of(write.addr), write.bytes());
    }

    /// A read that is not one handler's as it stands: cut at the borders of regions, then by each
    /// region's rules.
    #[cold]
    fn read_pieces(&mut self, space: Space, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address(space, addr, done) else { break };
            let left = data.len() - done;
            self.reader.look(&self.core.published);
            let marker = self.reader.marker();
            let (part, entry) = next_part(self.reader.snapshot(), space, at, left);
            match entry {
                Some(entry) => {
                    marker.found(entry.shared.id);
                    let cx = IoCx::new(self.vcpu, &*self.core);
                    let buf = data.get_mut(done..done + part).unwrap_or_default();
                    let admitted = pieces::read(entry, &cx, entry.offset_of(at), buf);
                    count(entry, self.index, Direction::Read, admitted);
                }
                None => self.stats.count_unclaimed(space, at, part, Direction::Read),
            }
            done += part;
        }
    }

    /// A write likewise. Doorbells that are ours to ring are compared with the whole write.
    #[cold]
    fn write_pieces(&mut self, space: Space, addr: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address(space, addr, done) else { break };
            let left = data.len() - done;
            self.reader.look(&self.core.published);
            let marker = self.reader.marker();
            let (part, entry) = next_part(self.reader.snapshot(), space, at, left);
            match entry {
                Some(entry) => {
                    marker.found(entry.shared.id);
                    if done == 0 && ring(entry, at, data) {
                        count(entry, self.index, Direction::Write, true);
                        if let Some(counters) = entry.shared.counters.get(self.index) {
                            counters.doorbell();
                        }
                        return;
                    }
                    let cx = IoCx::new(self.vcpu, &*self.core);
                    let buf = data.get(done..done + part).unwrap_or_default();
                    let admitted = pieces::write(entry, &cx, entry.offset_of(at), buf);
                    count(entry, self.index, Direction::Write, admitted);
                }
                None => self.stats.count_unclaimed(space, at, part, Direction::Write),
            }
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

/// `addr + done`, if that is still in the space: an access does not wrap round its end.
fn address(space: Space, addr: u64, done: usize) -> Option<u64> {
    addr.checked_add(done as u64).filter(|at| *at <= space.last())
}

/// How many of the `left` bytes from `at` share one answer, and whose.
fn next_part(snapshot: &Snapshot, space: Space, at: u64, left: usize) -> (usize, Option<&Entry>) {
    let entry = snapshot.find(space, at);
    let bytes = match entry {
        Some(entry) => entry.last - at + 1,
        None => snapshot.next_claimed(space, at).map_or(u64::MAX, |next| next - at),
    };
    (usize::try_from(bytes).unwrap_or(usize::MAX).min(left), entry)
}

fn count(entry: &Entry, index: usize, direction: Direction, admitted: bool) {
    let Some(counters) = entry.shared.counters.get(index) else { return };
    counters.access(direction);
    if !admitted {
        counters.refused();
    }
}

/// Rings the doorbell that `data` at `addr` is for, under the kernel's rule (Linux
/// `virt/kvm/eventfd.c`, `ioeventfd_in_range`): exact address, exact length unless any will do,
/// and the value, unless any will do, compared at the length of the write.
fn ring(entry: &Entry, addr: u64, data: &[u8]) -> bool {
    let Some(doorbells) = &entry.soft_doorbells else { return false };
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

impl Core {
    /// The oldest queued write: first those an edit took out of the source, then the source's.
    fn next_coalesced(&self) -> Option<(CoalescedWrite, Option<Entry>)> {
        let mut queue = self.coalesced.queue.lock();
        if let Some(first) = queue.pop_front() {
            self.coalesced.stashed.store(!queue.is_empty(), Ordering::Release);
            return Some(first);
        }
        let write = self.offload.as_ref()?.pop()?;
        Some((write, None))
    }
}

impl HandleStats {
    fn count_unclaimed(&self, space: Space, addr: u64, len: usize, direction: Direction) {
        self.unclaimed.lock().add(Unclaimed { space, addr, len: len as u64, direction }, 1);
    }
}
