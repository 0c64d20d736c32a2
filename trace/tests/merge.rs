//! What is written is what is read, in the order in which it was done.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows tests this, and takes what they share for something else"
)]

mod support;

use std::io::Cursor;

use proptest::prelude::*;
use support::{Shape, change, events, meta, recording, records};
use trapline_access::record::{Access, Op, Outcome, Record};
use trapline_access::{Direction, Size, Space};
use trapline_trace::chunk::Kind;
use trapline_trace::{Bank, Class, Part, Place, Reader, Stream, Writer};

fn access(value: u64, delta: u32) -> Record {
    let op = Op::Access(Access {
        direction: Direction::Write,
        size: Size::Byte,
        space: Space::Pio,
        outcome: Outcome::Handled,
    });
    Record { op, slot: 0, offset: 0, delta, value }
}

fn turn(device: u16, value: u64) -> Record {
    Record { op: Op::Turn, slot: device, offset: 0, delta: 0, value }
}

/// The values of the records, in the order in which they are read, of streams that begin at 0.
fn order(streams: &[(Stream, &[Record])]) -> Vec<(u64, u64)> {
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    for (stream, records) in streams {
        let words: Vec<_> = records.iter().map(|record| record.encode()).collect();
        writer.access(*stream, 0, &words).expect("memory takes it");
    }
    let file = writer.finish().expect("memory takes it");
    let events = events(&file).expect("it is valid");
    let accesses = events.iter().filter(|event| event.record.access().is_some());
    accesses.map(|event| (event.time_ns, event.record.value)).collect()
}

#[test]
fn records_are_merged_by_time() {
    let (a, b) = ([access(1, 0), access(3, 20)], [access(2, 0), access(4, 10), access(5, 20)]);
    assert_eq!(
        order(&[(Stream::vcpu(0), &a), (Stream::vcpu(1), &b)]),
        [(0, 1), (0, 2), (160, 4), (320, 3), (480, 5)]
    );
}

#[test]
fn queued_writes_come_before_the_access_of_their_time() {
    let (a, b) = ([access(1, 0)], [access(2, 0)]);
    assert_eq!(order(&[(Stream::vcpu(0), &a), (Stream::SHARED, &b)]), [(0, 2), (0, 1)]);
}

#[test]
fn turns_decide_what_was_first_at_one_time() {
    // The second vCPU had the device first, then the first, then the second again.
    let a = [turn(7, 2), access(2, 0)];
    let b = [turn(7, 1), access(1, 0), turn(7, 3), access(3, 0)];
    let values = |streams: &[(Stream, &[Record])]| -> Vec<u64> {
        order(streams).into_iter().map(|(_, value)| value).collect()
    };
    assert_eq!(values(&[(Stream::vcpu(0), &a), (Stream::vcpu(1), &b)]), [1, 2, 3]);
    assert_eq!(values(&[(Stream::vcpu(1), &a), (Stream::vcpu(0), &b)]), [1, 2, 3]);
    // Of two devices: the turn that is due comes before one that is not, whichever stream has it.
    let a = [turn(1, 1), access(10, 0), turn(2, 5), access(13, 0)];
    let b = [turn(2, 4), access(11, 0), turn(1, 2), access(12, 0)];
    let of = |streams: &[(Stream, &[Record])]| {
        let values = values(streams);
        let place = |value| values.iter().position(|v| *v == value);
        assert!(place(10) < place(12) && place(11) < place(13), "{values:?}");
    };
    of(&[(Stream::vcpu(0), &a), (Stream::vcpu(1), &b)]);
    of(&[(Stream::vcpu(1), &a), (Stream::vcpu(0), &b)]);
}

#[test]
fn a_time_record_is_where_the_next_delta_counts_from() {
    let time = Record { op: Op::Time, slot: 0, offset: 0, delta: 0, value: 5_000_000_000 };
    let records = [access(1, 0), access(2, 1), time, access(3, 2)];
    let expected = [(0, 1), (16, 2), (5_000_000_032, 3)];
    assert_eq!(order(&[(Stream::vcpu(0), &records)]), expected);
}

#[test]
fn more_records_than_a_chunk_has_are_split_without_a_trace() {
    let mut random = fastrand::Rng::with_seed(77);
    let records = records(&mut random, 200_000);
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    writer.access(Stream::vcpu(0), 3_200, &records).expect("memory takes it");
    assert_eq!(writer.records(), records.len() as u64);
    let file = writer.finish().expect("memory takes it");
    let mut reader = Reader::open(Cursor::new(&file)).expect("it is valid");
    assert_eq!(reader.records(), records.len() as u64);
    let mut words = records.iter().copied();
    let (mut time_ns, mut first) = (3_200, true);
    let mut merged = reader.merged().expect("it is valid");
    while let Some(event) = merged.next().expect("it is valid") {
        let record = Record::decode(words.next().expect("as many")).expect("ours");
        time_ns += if first { 0 } else { u64::from(record.delta) * 16 };
        first = false;
        assert_eq!((event.time_ns, event.record), (time_ns, record));
        let places = usize::try_from(record.raw_records()).expect("a few");
        let data: Vec<u8> = words.by_ref().take(places).flat_map(|w| support::raw(&[w])).collect();
        let len = if places > 0 { record.value as usize } else { 0 };
        assert_eq!(event.data, data[..len]);
    }
    assert!(words.next().is_none());
    let (read, all) = merged.progress();
    assert_eq!((read, all), (records.len() as u64, records.len() as u64));
}

#[test]
fn descriptions_blobs_and_states_come_back() {
    for shape in [Shape::Streams, Shape::Steps] {
        come_back(&recording(shape));
    }
}

fn come_back(file: &[u8]) {
    let mut reader = Reader::open(Cursor::new(file)).expect("it is valid");
    assert!(reader.ending().complete());
    assert_eq!(reader.meta(), &meta());
    let streams: Vec<_> = (0..3).map(Stream::vcpu).chain([Stream::SHARED]).collect();
    assert_eq!(reader.streams().expect("it is valid"), streams);
    assert_eq!(reader.meta().setting("console"), Some("stdio"));
    let map = reader.map();
    assert_eq!(map.slot(0), Some(Place::Region { id: 3, page: 0 }));
    assert_eq!(map.slot(1), None);
    assert_eq!(map.devices(), ["serial0"]);
    let lsr = map.register(3, 5, Direction::Read).expect("it is listed");
    assert_eq!((lsr.name.as_str(), lsr.class), ("LSR", Class::Exact));
    assert_eq!(map.register(3, 5, Direction::Write), None);
    assert_eq!(map.register(3, 6, Direction::Read), None);
    for round in (0..12_u8).rev() {
        let first = u32::from(round) * 3;
        assert_eq!(reader.blob(first).expect("it is there"), [0u8; 0]);
        assert_eq!(reader.blob(first + 2).expect("it is there"), [round; 20]);
        let state = reader.state(round.into()).expect("it is there");
        assert_eq!(state, (u64::from(round) * 20_000_000, vec![round; 100]));
    }
    assert_eq!(
        reader.blob(36).expect_err("there are 36").to_string(),
        "the recording has no blob 36"
    );
    assert!(reader.state(12).is_err());
    assert!(reader.state_times().into_iter().eq((0..12).map(|round| round * 20_000_000)));
}

#[test]
fn a_region_is_where_it_was_in_each_generation() {
    let mut map = trapline_trace::Map::default();
    map.apply(change());
    let moved = |generation, base| {
        let mut change = change();
        change.generation = generation;
        change.regions[0].base = base;
        change
    };
    map.apply(moved(4, None));
    map.apply(moved(6, Some(0x2f8)));
    map.apply(trapline_trace::MapChange { generation: 9, gone: vec![3], ..Default::default() });
    let places = [0, 1, 3, 4, 5, 6, 8, 9, 100].map(|generation| map.base(3, generation));
    let first = Some(0x3f8);
    let second = Some(0x2f8);
    assert_eq!(places, [None, first, first, None, None, second, second, None, None]);
    assert_eq!(map.region(3).map(|region| region.name()), Some("serial0".to_owned()));
}

#[test]
fn a_file_cannot_have_each_access_look_through_any_number_of_banks() {
    let bank = |id| Bank {
        id,
        selector: 0,
        width: 1,
        enabled: 0,
        mask: 1,
        shift: 0,
        first: 1,
        len: 1,
        period: 0,
        registers: Vec::new(),
        others: String::new(),
    };
    let mut map = trapline_trace::Map::default();
    for ids in [vec![3; 1000], vec![3, 4, 4]] {
        let banks = ids.into_iter().map(bank).collect();
        map.apply(trapline_trace::MapChange { banks, ..Default::default() });
    }
    let of = |id| map.banks().iter().filter(|bank| bank.id == id).count();
    assert_eq!([of(3), of(4), map.banks().len()], [16, 2, 18]);
}

/// Records of streams: what an event is made of, but for numbers and deltas, and without times of their own.
fn made(file: &[u8]) -> Vec<(Stream, u64, Record, Vec<u8>)> {
    let events = events(file).expect("it is valid");
    let records = events.into_iter().filter(|event| event.record.op != Op::Time);
    let without = |record| Record { delta: 0, ..record };
    records.map(|event| (event.stream, event.time_ns, without(event.record), event.data)).collect()
}

/// Written in one order they are read as they are out of streams of their own.
fn same_in_one_order(streams: &[(Stream, u64, Vec<[u64; 2]>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    for (stream, first, words) in streams {
        writer.access(*stream, *first, words).expect("memory takes it");
    }
    let apart = writer.finish().expect("memory takes it");
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    let parts: Vec<_> = streams
        .iter()
        .map(|(stream, first_time_ns, words)| Part {
            stream: *stream,
            first_time_ns: *first_time_ns,
            words,
        })
        .collect();
    writer.steps(&parts).expect("memory takes it");
    let together = writer.finish().expect("memory takes it");
    assert_eq!(made(&together), made(&apart));
    together
}

fn encoded(records: &[Record]) -> Vec<[u64; 2]> {
    records.iter().map(|record| record.encode()).collect()
}

#[test]
fn times_that_no_delta_has_are_kept_in_one_order_too() {
    let time = |value| Record { op: Op::Time, slot: 0, offset: 0, delta: 0, value };
    let most = Record::DELTA_END - 1;
    // Between two ticks, far away, as far as a delta goes, and further; and of two streams at once.
    let a = [access(1, 0), time(7), access(2, 0), time(1 << 50), access(3, 0), access(4, most)];
    let b = [access(5, most), time(9_000_000_000), access(6, 3), access(7, 0)];
    let file = same_in_one_order(&[
        (Stream::vcpu(0), 0, encoded(&a)),
        (Stream::vcpu(1), 16, encoded(&b)),
        (Stream::SHARED, 16, encoded(&[access(8, 0)])),
    ]);
    let first = made(&file).into_iter().map(|(_, time_ns, record, _)| (time_ns, record.value));
    let expected = [(0, 1), (7, 2), (16, 8), (16, 5), (9_000_000_048, 6), (9_000_000_048, 7)];
    assert_eq!(first.take(6).collect::<Vec<_>>(), expected);
}

#[test]
fn more_streams_and_more_records_than_a_chunk_has_are_split_between_steps() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut streams: Vec<_> =
        (0..300).map(|n| (Stream::vcpu(n), u64::from(n) * 16, records(&mut random, 20))).collect();
    streams.push((Stream::SHARED, 160, records(&mut random, 100_000)));
    let file = same_in_one_order(&streams);
    let reader = Reader::open(Cursor::new(&file)).expect("it is valid");
    let chunks: Vec<_> = reader.chunks().filter(|head| head.kind == Kind::Steps).collect();
    assert!(chunks.len() > 3, "{chunks:?}");
    // Of one time in one chunk, if it has room for it.
    let one = vec![(Stream::vcpu(0), 16, encoded(&vec![access(1, 0); 40_000]))];
    let file = same_in_one_order(&one);
    let reader = Reader::open(Cursor::new(&file)).expect("it is valid");
    assert_eq!(reader.chunks().filter(|head| head.kind == Kind::Steps).count(), 1);
}

proptest! {
    #[test]
    fn one_order_is_that_of_the_streams(seed in 1_u64.., streams in 1_u16..6) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut all: Vec<_> = (0..streams)
            .map(|n| (Stream::vcpu(n), random.u64(..100) * 16, records(&mut random, 50)))
            .collect();
        all.push((Stream::SHARED, 0, records(&mut random, 50)));
        same_in_one_order(&all);
    }

    #[test]
    fn whatever_was_recorded_comes_back_in_order_of_time(seed in 1_u64.., streams in 1_u16..6) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
        let mut count = 0;
        for stream in 0..streams {
            let records = records(&mut random, 50);
            writer.access(Stream::vcpu(stream), 0, &records).expect("memory takes it");
            count += records.len() as u64;
        }
        let file = writer.finish().expect("memory takes it");
        let events = events(&file).expect("it is valid");
        let places: u64 = events.iter().map(|event| 1 + event.record.raw_records()).sum();
        prop_assert_eq!(places, count);
        prop_assert!(events.is_sorted_by_key(|event| event.time_ns));
        prop_assert!(events.iter().map(|event| event.number).eq(0..events.len() as u64));
    }
}
