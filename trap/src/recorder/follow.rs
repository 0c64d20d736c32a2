//! Following a recorder: reading what is written to the rings, beside whoever takes it and without
//! making anybody wait. What is overwritten before it is read is lost, and counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use trapline_access::record::{Op, Record, TICK_NS};

use crate::recorder::names::Number;
use crate::recorder::{Recorder, Stream, StreamId};

/// Raw records of the longest string access, a page of the host (KVM_EXIT_IO).
const STRING_MAX: u64 = 256;

/// Reads records as they are written.
pub struct Follower {
    recorder: Arc<Recorder>,
    /// One for each stream, in the recorder's order.
    cursors: Vec<Cursor>,
    /// The names of registers whose numbers are known.
    names: Vec<&'static str>,
    /// It is told how long accesses took.
    timed: bool,
}

#[derive(Clone, Copy, Default)]
struct Cursor {
    /// The next record to be read.
    at: u64,
    /// Records before this one may be elements of a string whose own record is gone.
    sure: u64,
    /// So many records were not read, and not told of yet.
    lost: u64,
    /// The time of the last record, in ticks since the first.
    ticks: u64,
    /// The moment that they count from, once a record has said what time it is.
    origin: Option<u64>,
}

/// What was read of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The stream.
    pub stream: Option<StreamId>,
    /// Accesses, in their order.
    pub records: Vec<Record>,
    /// What their handlers called the register that each of `records` reached, where they have said so.
    /// Those made before anybody followed have none, nor have those of registers whose name depends on
    /// nothing but their place: for these [`crate::Registry::register_at`] knows it.
    pub registers: Vec<Option<&'static str>>,
    /// How long handlers took, registry and all: the place in `records`, and nanoseconds. Of one
    /// access in 64, for a follower that is told ([`Recorder::follow`]).
    pub times: Vec<(usize, u64)>,
    /// When each of `records` was made, in ticks of the recorder ([`Recorder::ticks_to_ns`]) since a moment
    /// that is the same for all that is read of a stream. After a loss they begin anew.
    pub ticks: Vec<u64>,
    /// How many records there were before these that nobody has read.
    pub lost: u64,
}

impl Follower {
    pub(super) fn new(recorder: Arc<Recorder>, timed: bool) -> Self {
        recorder.followers.fetch_add(1, Ordering::Relaxed);
        recorder.timed_followers.fetch_add(timed.into(), Ordering::Relaxed);
        Self { recorder, cursors: Vec::new(), names: Vec::new(), timed }
    }

    /// Reads what has been written since the last call; the first time what the rings still have.
    pub fn read(&mut self) -> Vec<Followed> {
        let streams: Vec<_> = self.recorder.streams.lock().clone();
        while let Some(stream) = streams.get(self.cursors.len()) {
            let at = stream.ring.oldest_whole();
            let sure = if at == 0 { 0 } else { at + STRING_MAX };
            self.cursors.push(Cursor { at, sure, lost: sure, ticks: 0, origin: None });
        }
        let (recorder, names) = (&self.recorder, &mut self.names);
        let mut name = |number: Number| {
            let place = usize::from(number.get() - 1);
            if place >= names.len() {
                names.extend(recorder.names().since(names.len()));
            }
            names.get(place).copied()
        };
        let all = streams.iter().zip(&mut self.cursors);
        let taken = |stream: &Stream| match self.timed {
            true => std::mem::take(&mut *stream.times.lock()),
            false => Vec::new(),
        };
        all.map(|(stream, cursor)| cursor.read(stream, taken(stream), &mut name)).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.recorder.followers.fetch_sub(1, Ordering::Relaxed);
        self.recorder.timed_followers.fetch_sub(self.timed.into(), Ordering::Relaxed);
    }
}

impl Cursor {
    fn read(
        &mut self,
        stream: &Stream,
        times: Vec<(u64, u64)>,
        mut name: impl FnMut(Number) -> Option<&'static str>,
    ) -> Followed {
        let lost = std::mem::take(&mut self.lost);
        let mut followed = Followed { stream: Some(stream.id), lost, ..Followed::default() };
        let (all, end) = stream.ring.copy(self.at);
        let Some(all) = all else {
            // Where the next record begins nobody knows but the writer, who says where the last ends.
            followed.lost += end.saturating_sub(self.at.max(self.sure));
            *self = Self { at: end, sure: end, ..Self::default() };
            return followed;
        };
        let mut times = times.into_iter().peekable();
        let (mut at, start) = (self.at, self.at);
        while at < end {
            let place = usize::try_from(at - start).unwrap_or(usize::MAX);
            let (words, number) = all.get(place).copied().unzip();
            let record = words.and_then(|words| Record::decode(words).ok());
            let own = at;
            at += 1 + record.map_or(0, |record| record.raw_records());
            let Some(record) = record.filter(|_| own >= self.sure) else { continue };
            self.pass(&record);
            while times.next_if(|(number, _)| *number < own).is_some() {}
            if let Some((_, ns)) = times.next_if(|(number, _)| *number == own) {
                followed.times.push((followed.records.len(), ns));
            }
            match record.op {
                Op::Access(_) | Op::Odd { .. } | Op::String(_) => {
                    followed.records.push(record);
                    followed.registers.push(number.flatten().and_then(&mut name));
                    followed.ticks.push(self.ticks);
                }
                _ => {}
            }
        }
        self.at = end;
        followed
    }

    /// Counts the time up to `record`. How long it was before the first that says what time it is, no
    /// delta could tell, and is not counted.
    fn pass(&mut self, record: &Record) {
        if record.op == Op::Time {
            let now = record.value / TICK_NS;
            let origin = *self.origin.get_or_insert(now.saturating_sub(self.ticks));
            self.ticks = now.saturating_sub(origin);
        } else {
            self.ticks += u64::from(record.delta);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use trapline_access::record::{Access, Outcome};
    use trapline_access::{AccessClock, Direction, Size, Space};

    use super::*;
    use crate::recorder::Mode;

    struct Zero;
    impl AccessClock for Zero {
        fn stamp_ns(&self) -> u64 {
            0
        }
    }

    fn access(value: u64) -> Record {
        let (direction, size, space) = (Direction::Write, Size::Byte, Space::Pio);
        let op = Op::Access(Access { direction, size, space, outcome: Outcome::Handled });
        Record { op, slot: 0, offset: 0, delta: 0, value }
    }

    fn values(followed: &Followed) -> Vec<u64> {
        followed.records.iter().map(|record| record.value).collect()
    }

    struct Written {
        recorder: Arc<Recorder>,
        stream: Arc<Stream>,
        next: u64,
    }

    impl Written {
        fn new() -> Self {
            let recorder = Recorder::new(Arc::new(Zero), Mode::Flight);
            let stream = recorder.stream(0);
            Self { recorder, stream, next: 0 }
        }

        fn write(&mut self, count: u64) {
            for _ in 0..count {
                self.stream.ring.push(0, access(self.next), &[], || {});
                self.next += 1;
            }
        }

        fn of_vcpu(&self, follower: &mut Follower) -> Followed {
            let vcpu = Some(StreamId::Vcpu(0));
            let read = follower.read().into_iter().find(|one| one.stream == vcpu);
            read.unwrap_or_else(|| panic!("a stream of the vCPU"))
        }
    }

    #[test]
    fn what_is_written_is_read_once_and_in_order() {
        let mut written = Written::new();
        written.write(10);
        let mut follower = written.recorder.follow();
        assert_eq!(values(&written.of_vcpu(&mut follower)), (0..10).collect::<Vec<_>>());
        assert_eq!(values(&written.of_vcpu(&mut follower)), []);
        for round in 0..20 {
            written.write(1000);
            let read = written.of_vcpu(&mut follower);
            let first = 10 + round * 1000;
            assert_eq!(values(&read), (first..first + 1000).collect::<Vec<_>>());
            assert_eq!(read.lost, 0);
        }
    }

    #[test]
    fn what_was_overwritten_is_lost_and_counted() {
        let mut written = Written::new();
        let mut follower = written.recorder.follow();
        written.of_vcpu(&mut follower);
        written.write(10_000);
        let read = written.of_vcpu(&mut follower);
        assert_eq!((read.lost, values(&read)), (10_000, vec![]));
        written.write(3);
        assert_eq!(values(&written.of_vcpu(&mut follower)), [10_000, 10_001, 10_002]);
    }

    #[test]
    fn who_comes_late_reads_what_is_left_and_takes_no_element_for_a_record() {
        let mut written = Written::new();
        written.write(10_000);
        let mut follower = written.recorder.follow();
        let read = values(&written.of_vcpu(&mut follower));
        assert!(read.len() > 2000, "{}", read.len());
        let first = read[0];
        assert_eq!(read, (first..10_000).collect::<Vec<_>>());
        // Elements that look like accesses.
        let (size, space, direction) = (Size::Byte, Space::Pio, Direction::Write);
        let string = Access { direction, size, space, outcome: Outcome::Handled };
        let bait: Vec<u8> = access(0xdead).encode().iter().flat_map(|w| w.to_le_bytes()).collect();
        let data = bait.repeat(4096 / Record::LEN);
        let mut written = Written::new();
        for _ in 0..40 {
            let record = Record { op: Op::String(string), value: 4096, ..access(0) };
            written.stream.ring.push(0, record, &data, || {});
            written.write(30);
        }
        let read = written.of_vcpu(&mut written.recorder.follow());
        let strings = read.records.iter().filter(|record| matches!(record.op, Op::String(_)));
        assert!(strings.count() > 5);
        assert!(!values(&read).contains(&0xdead));
    }

    #[test]
    fn records_have_times_however_far_they_are_apart() {
        let written = Written::new();
        let mut follower = written.recorder.follow();
        let push = |ticks: u64| {
            written.stream.ring.push(ticks * TICK_NS, access(ticks), &[], || {});
        };
        let far = 1 << 30;
        // The first after a long time: nobody knows how long that was.
        [far, far + 5, far + 7, 3 * far, 3 * far + 1].into_iter().for_each(push);
        assert_eq!(written.of_vcpu(&mut follower).ticks, [0, 5, 7, 2 * far, 2 * far + 1]);
        [3 * far + 4, 9 * far].into_iter().for_each(push);
        assert_eq!(written.of_vcpu(&mut follower).ticks, [2 * far + 4, 8 * far]);
    }

    #[test]
    fn one_access_in_64_has_a_time_while_somebody_follows() {
        let mut written = Written::new();
        let note = |written: &mut Written, count: u64| {
            for _ in 0..count {
                let number = written.stream.ring.written();
                written.write(1);
                written.stream.time(&written.recorder, number, 0);
            }
        };
        note(&mut written, 640);
        assert!(written.stream.times.lock().is_empty(), "nobody follows");
        let mut untimed = written.recorder.follow_untimed();
        note(&mut written, 640);
        assert!(written.stream.times.lock().is_empty(), "nobody is told");
        let mut follower = written.recorder.follow();
        written.of_vcpu(&mut follower);
        note(&mut written, 640);
        assert_eq!(written.of_vcpu(&mut untimed).times, [], "they are another's");
        let read = written.of_vcpu(&mut follower);
        assert_eq!(read.times.len(), 10);
        for (place, _) in read.times {
            assert_eq!(read.records[place].value % 64, 0);
        }
        drop(follower);
        note(&mut written, 640);
        assert!(written.stream.times.lock().is_empty());
    }

    #[test]
    fn a_writer_in_full_flight_is_followed_without_a_wrong_record() {
        let mut written = Written::new();
        let mut follower = written.recorder.follow();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let stream = Arc::clone(&written.stream);
        let (mut next, mut seen, mut lost) = (0, 0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    stream.ring.push(0, access(written.next), &[], || {});
                    written.next += 1;
                }
            });
            let mut wrong = None;
            while seen < 100_000 && wrong.is_none() {
                let vcpu = Some(StreamId::Vcpu(0));
                let read = follower.read().into_iter().find(|one| one.stream == vcpu).unwrap();
                next += read.lost;
                lost += read.lost;
                for value in values(&read) {
                    wrong = wrong.or((value != next).then_some((value, next, lost)));
                    next += 1;
                }
                seen += read.records.len() as u64 + read.lost;
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None, "was, was to be, lost before");
        });
    }
}
