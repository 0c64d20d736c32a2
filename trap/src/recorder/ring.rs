//! The ring of records that one stream is written to, and drained from.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use trapline_access::record::{Op, Record, TICK_NS, words_of};

use crate::recorder::names::Number;

/// Records of one writer, in a circle. One thread at a time writes and one at a time takes; the two
/// may be different ones.
pub(crate) struct Ring {
    /// A power of two of them.
    records: Box<[[AtomicU64; 2]]>,
    /// Whether what nobody has taken is kept and the writer waits for room.
    keeps: AtomicBool,
    /// Names of the registers that records reached, at their records' places: above [`NAME_BITS`] which
    /// record, below its name's number. Made for the first that has one.
    names: OnceLock<Box<[AtomicU64]>>,
    writer: CachePadded<Writer>,
    /// How many records have been taken.
    taken: CachePadded<AtomicU64>,
}

/// A record, and the number of the name of the register that it reached.
pub(crate) type Named = ([u64; 2], Option<Number>);

/// Bits of a name's number.
const NAME_BITS: u32 = u16::BITS;

/// What only the writer changes.
#[derive(Default)]
struct Writer {
    /// How many records there have been.
    written: AtomicU64,
    /// Machine time of the last one, in ticks.
    ticks: AtomicU64,
    /// How many had been taken when the writer last looked.
    seen_taken: AtomicU64,
    waits: AtomicU64,
    /// Whether it waits for room now.
    waiting: AtomicBool,
}

impl Ring {
    /// A ring of at least `records`. If it `keeps` them, writers wait when it is full.
    pub(crate) fn new(records: usize, keeps: bool) -> Self {
        let records = (0..records.next_power_of_two()).map(|_| [const { AtomicU64::new(0) }; 2]);
        Self {
            records: records.collect(),
            keeps: AtomicBool::new(keeps),
            names: OnceLock::new(),
            writer: CachePadded::default(),
            taken: CachePadded::default(),
        }
    }

    fn capacity(&self) -> u64 {
        self.records.len() as u64
    }

    /// How many records have been written.
    pub(crate) fn written(&self) -> u64 {
        self.writer.written.load(Ordering::Acquire)
    }

    /// How often a writer had to wait for room.
    pub(crate) fn waits(&self) -> u64 {
        self.writer.waits.load(Ordering::Relaxed)
    }

    /// Whether the writer waits for room now, in the middle of what it does.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.writer.waiting.load(Ordering::Acquire)
    }

    /// Machine time of the last record, in nanoseconds.
    pub(crate) fn last_ns(&self) -> u64 {
        self.writer.ticks.load(Ordering::Acquire) * TICK_NS
    }

    /// Lets the writer go on when the ring is full: nobody takes any more.
    pub(crate) fn overwrite(&self) {
        self.keeps.store(false, Ordering::Relaxed);
    }

    /// Writes a record that was made at `at_ns`, and its `data`, which [`Record::raw_records`] allots
    /// room for. Returns which record it has become, and whether half of the ring waits to be taken.
    /// `hurry` is called while there is no room.
    #[inline]
    pub(crate) fn push(
        &self,
        at_ns: u64,
        record: Record,
        data: &[u8],
        hurry: impl Fn(),
    ) -> (u64, bool) {
        self.push_named(at_ns, record, None, data, hurry)
    }

    /// [`Ring::push`], of an access that has reached a register of this name.
    #[inline]
    pub(crate) fn push_named(
        &self,
        at_ns: u64,
        record: Record,
        name: Option<Number>,
        data: &[u8],
        hurry: impl Fn(),
    ) -> (u64, bool) {
        let ticks = at_ns / TICK_NS;
        let since = ticks.saturating_sub(self.writer.ticks.load(Ordering::Relaxed));
        let mut at = self.writer.written.load(Ordering::Relaxed);
        let delta = u32::try_from(since).ok().filter(|delta| *delta < Record::DELTA_END);
        let places = 1 + u64::from(delta.is_none()) + record.raw_records();
        let half = self.make_room(at + places, hurry);
        if delta.is_none() {
            let value = ticks * TICK_NS;
            self.put(at, Record { op: Op::Time, slot: 0, offset: 0, delta: 0, value }.encode());
            at += 1;
        }
        self.put(at, Record { delta: delta.unwrap_or(0), ..record }.encode());
        self.put_data(at + 1, record.raw_records(), data);
        if let Some(name) = name {
            self.put_name(at, name);
        }
        let end = at + 1 + record.raw_records();
        if since > 0 {
            self.writer.ticks.store(ticks, Ordering::Relaxed);
        }
        self.writer.written.store(end, Ordering::Release);
        (at, half)
    }

    #[inline(never)]
    fn put_name(&self, at: u64, name: Number) {
        let none = || self.records.iter().map(|_| AtomicU64::new(0)).collect();
        if let Some(place) = self.names.get_or_init(none).get(self.index(at)) {
            place.store(at << NAME_BITS | u64::from(name.get()), Ordering::Relaxed);
        }
    }

    fn name(&self, at: u64) -> Option<Number> {
        let entry = self.names.get()?.get(self.index(at))?.load(Ordering::Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "its low bits")]
        Number::new(entry as u16).filter(|_| entry >> NAME_BITS == at)
    }

    fn put_data(&self, at: u64, places: u64, data: &[u8]) {
        let mut chunks = data.chunks(Record::LEN);
        for place in at..at + places {
            let mut bytes = [0; Record::LEN];
            let chunk = chunks.next().unwrap_or_default();
            bytes.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.put(place, words_of(bytes));
        }
    }

    #[inline]
    fn put(&self, at: u64, [first, second]: [u64; 2]) {
        if let Some([to_first, to_second]) = self.place(at) {
            to_first.store(first, Ordering::Relaxed);
            to_second.store(second, Ordering::Relaxed);
        }
    }

    #[inline]
    fn place(&self, at: u64) -> Option<&[AtomicU64; 2]> {
        self.records.get(self.index(at))
    }

    #[inline]
    fn index(&self, at: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "it is below the length")]
        let index = (at & (self.capacity() - 1)) as usize;
        index
    }

    /// Waits for room up to record `end`, where nothing may be overwritten; says whether half of the
    /// ring waits to be taken.
    #[inline]
    fn make_room(&self, end: u64, hurry: impl Fn()) -> bool {
        if !self.keeps.load(Ordering::Relaxed) {
            return false;
        }
        let fill = end - self.writer.seen_taken.load(Ordering::Relaxed);
        fill > self.capacity() / 2 && self.make_room_slowly(end, hurry)
    }

    #[inline(never)]
    fn make_room_slowly(&self, end: u64, hurry: impl Fn()) -> bool {
        let mut spins = 0;
        loop {
            let taken = self.taken.load(Ordering::Acquire);
            self.writer.seen_taken.store(taken, Ordering::Relaxed);
            let fill = end - taken;
            if fill <= self.capacity() || !self.keeps.load(Ordering::Relaxed) {
                self.writer.waiting.store(false, Ordering::Relaxed);
                return fill > self.capacity() / 2 && self.keeps.load(Ordering::Relaxed);
            }
            if spins == 0 {
                self.writer.waits.fetch_add(1, Ordering::Relaxed);
                self.writer.waiting.store(true, Ordering::Release);
                hurry();
            }
            crate::sync::relax(&mut spins);
        }
    }

    /// Appends to `to` all records up to `end`, which [`Ring::written`] has said, and frees their
    /// places. For rings that keep their records.
    pub(crate) fn take(&self, end: u64, to: &mut Vec<[u64; 2]>) {
        let start = self.taken.load(Ordering::Relaxed);
        to.extend((start..end).filter_map(|at| self.load(at)));
        self.taken.store(end.max(start), Ordering::Release);
    }

    /// The number of the oldest record that [`Ring::copy`] would still give.
    pub(crate) fn oldest_whole(&self) -> u64 {
        (self.written() + self.margin()).saturating_sub(self.capacity())
    }

    /// Places that the writer may be about to write to: more than a string has, and more than
    /// processors have in flight, so that what is before them is as it was written.
    fn margin(&self) -> u64 {
        self.capacity() / 4
    }

    /// All records from `start` on, each with the name of the register it reached, if that has been said;
    /// and the number of the next one. None, if some have been overwritten. To be asked by anybody.
    pub(crate) fn copy(&self, start: u64) -> (Option<Vec<Named>>, u64) {
        let end = self.written();
        if start < self.oldest_whole() {
            return (None, end);
        }
        let all: Vec<_> =
            (start..end).filter_map(|at| Some((self.load(at)?, self.name(at)))).collect();
        fence(Ordering::Acquire);
        if start < self.oldest_whole() { (None, end) } else { (Some(all), end) }
    }

    /// Record `at`, if it has not been overwritten. To be asked by its writer.
    pub(crate) fn get(&self, at: u64) -> Option<[u64; 2]> {
        let oldest = self.written().saturating_sub(self.capacity());
        if (oldest..self.written()).contains(&at) { self.load(at) } else { None }
    }

    fn load(&self, at: u64) -> Option<[u64; 2]> {
        let [first, second] = self.place(at)?;
        Some([first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use trapline_access::record::{Access, Outcome};
    use trapline_access::{Direction, Size, Space};

    fn record(value: u64) -> Record {
        let (direction, size, space) = (Direction::Write, Size::Qword, Space::Mmio);
        let op = Op::Access(Access { direction, size, space, outcome: Outcome::Handled });
        Record { op, slot: 1, offset: 2, delta: 0, value }
    }

    fn nobody() {
        panic!("there is room");
    }

    #[test]
    fn times_are_kept_however_long_nothing_happens() {
        let ring = Ring::new(64, true);
        // The third is as late as a delta can say, the fourth a tick later.
        let ticks = [0, 5, 5 + 0xff_ffff, 5 + 0xff_ffff + 0x100_0000, 1 << 50];
        for (value, ticks) in (0..).zip(ticks) {
            ring.push(ticks * TICK_NS, record(value), &[], nobody);
        }
        let mut taken = Vec::new();
        ring.take(ring.written(), &mut taken);
        let (mut now, mut seen) = (0, Vec::new());
        for words in &taken {
            let record = Record::decode(*words).unwrap();
            match record.op {
                Op::Time => now = record.value,
                _ => {
                    now += u64::from(record.delta) * TICK_NS;
                    seen.push(now / TICK_NS);
                }
            }
        }
        assert_eq!(seen, ticks);
        assert_eq!(taken.len(), 7, "two are too late for a delta");
    }

    #[test]
    fn what_is_not_kept_is_overwritten_and_the_newest_stay() {
        let ring = Ring::new(16, false);
        for value in 0..100 {
            let (at, half) = ring.push(value * 100, record(value), &[], nobody);
            assert_eq!((at, half), (value, false));
        }
        let value = |at| ring.get(at).map(|words| words[1]);
        assert_eq!((value(83), value(84), value(99), value(100)), (None, Some(84), Some(99), None));
        assert_eq!(ring.waits(), 0);
    }

    #[test]
    fn a_record_has_the_name_that_was_said_and_none_of_one_before_it() {
        let ring = Ring::new(16, false);
        let name = |value: u64| Number::new(u16::try_from(value % 3).unwrap());
        for value in 0..40 {
            ring.push_named(0, record(value), name(value), &[], nobody);
            assert_eq!(ring.name(value), name(value), "{value}");
        }
        assert_eq!((ring.name(22), ring.name(40)), (None, None), "overwritten, not yet written");
        for at in 24..40 {
            assert_eq!(ring.name(at), name(at), "{at}");
        }
    }

    #[test]
    fn a_full_ring_that_keeps_has_its_writer_wait_and_loses_nothing() {
        const RECORDS: u64 = 20_000;
        let ring = Ring::new(16, true);
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 0..RECORDS {
                    ring.push(value, record(value), &[], || {});
                }
            });
            while (taken.len() as u64) < RECORDS {
                ring.take(ring.written(), &mut taken);
            }
        });
        assert!(taken.iter().map(|words| words[1]).eq(0..RECORDS));
        // Full, it is half full, too; and it waits no more once nobody takes.
        let pushes: Vec<_> =
            (0..16).map(|value| ring.push(RECORDS, record(value), &[], nobody).1).collect();
        assert_eq!(pushes.iter().filter(|half| **half).count(), 8);
        ring.overwrite();
        let before = ring.waits();
        ring.push(RECORDS, record(0), &[], nobody);
        assert_eq!(ring.waits(), before);
    }

    #[test]
    fn the_elements_of_a_string_follow_it() {
        let ring = Ring::new(64, true);
        let (direction, size, space) = (Direction::Write, Size::Byte, Space::Pio);
        let access = Access { direction, size, space, outcome: Outcome::Handled };
        let string = Record { op: Op::String(access), value: 17, ..record(0) };
        ring.push(0, string, b"seventeen letters", nobody);
        let mut taken = Vec::new();
        ring.take(ring.written(), &mut taken);
        let bytes: Vec<u8> = taken.iter().skip(1).flatten().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes, b"seventeen letters\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
