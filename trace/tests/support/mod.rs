//! A recording of everything that a recording can hold, the same each time.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows tests this, and takes what they share for something else"
)]

use std::io::Cursor;

use trapline_access::record::{Access, Op, Outcome, Record, bytes_of, words_of};
use trapline_access::{Direction, Size, Space};
use trapline_trace::{
    Class, Error, Event, Field, MapChange, MapRegion, Meta, Part, Place, Reader, Register,
    Registers, Slot, Stream, Writer,
};

pub(crate) fn meta() -> Meta {
    Meta {
        recorder: "trapline 0.1.0".to_owned(),
        board: "pc".to_owned(),
        vcpus: 3,
        clock_hz: 1_000_000_000,
        unseen: vec!["the interrupt controllers in the kernel".to_owned()],
        settings: vec![("console".to_owned(), "stdio".to_owned())],
        ..Meta::default()
    }
}

pub(crate) fn change() -> MapChange {
    let register = Register {
        name: "LSR".to_owned(),
        offset: 5,
        width: 1,
        read: true,
        write: false,
        class: Class::Exact,
        prompt: false,
        fields: vec![Field { name: "THRE".to_owned(), bit: 5, bits: 1 }],
    };
    let region = MapRegion {
        id: 3,
        device: "serial0".to_owned(),
        region: "serial0".to_owned(),
        space: Space::Pio,
        base: Some(0x3f8),
        len: 8,
        device_offset: 0,
        windows: Vec::new(),
    };
    MapChange {
        generation: 1,
        devices: vec!["serial0".to_owned()],
        regions: vec![region],
        gone: Vec::new(),
        slots: vec![Slot { number: 0, place: Place::Region { id: 3, page: 0 } }],
        registers: vec![Registers { id: 3, registers: vec![register] }],
        banks: Vec::new(),
    }
}

/// Records of one stream, encoded, with a string now and then.
pub(crate) fn records(random: &mut fastrand::Rng, count: usize) -> Vec<[u64; 2]> {
    let mut words = Vec::new();
    while words.len() < count {
        let access = Access {
            direction: if random.u64(..2) == 0 { Direction::Read } else { Direction::Write },
            size: Size::Byte,
            space: Space::Pio,
            outcome: Outcome::Handled,
        };
        let (offset, delta) = (random.u16(..8), random.u32(1..=5_000));
        let mut record = Record { op: Op::Access(access), slot: 0, offset, delta, value: 0x60 };
        match random.u64(..20) {
            0 => {
                record = Record { op: Op::String(access), value: random.u64(..40), ..record };
                words.push(record.encode());
                let data: Vec<u8> = (0..record.value).map(|_| random.u8(..)).collect();
                words.extend(data.chunks(16).map(|part| {
                    let mut bytes = [0; 16];
                    bytes[..part.len()].copy_from_slice(part);
                    words_of(bytes)
                }));
                continue;
            }
            1 => record = Record { op: Op::Edit, slot: 0, offset: 0, value: 1, ..record },
            _ => record.value = random.u64(..256),
        }
        words.push(record.encode());
    }
    words
}

/// How a recording has its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each stream in chunks of its own, as in the first format.
    Streams,
    /// All in one order.
    Steps,
}

/// A finished recording of three vCPUs and of queued writes, of many chunks of every kind.
pub(crate) fn recording(shape: Shape) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0x1234_5678_9abc_def1);
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    writer.map(0, &change()).expect("memory takes it");
    let streams = [Stream::vcpu(0), Stream::vcpu(1), Stream::vcpu(2), Stream::SHARED];
    for round in 0..12_u64 {
        let mut all = Vec::new();
        for (i, stream) in streams.into_iter().enumerate() {
            let count = random.usize(1..=100);
            let records = records(&mut random, count);
            all.push((stream, round * 20_000_000 + (i as u64) * 16, records));
        }
        match shape {
            Shape::Streams => all.iter().for_each(|(stream, first, records)| {
                writer.access(*stream, *first, records).expect("memory takes it");
            }),
            Shape::Steps => {
                let part = all.iter().map(|(stream, first, words)| Part {
                    stream: *stream,
                    first_time_ns: *first,
                    words,
                });
                writer.steps(&part.collect::<Vec<_>>()).expect("memory takes it");
            }
        }
        let blobs: Vec<Vec<u8>> = (0..3).map(|n| vec![round as u8; 10 * n]).collect();
        let blobs: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
        writer.blobs(round * 20_000_000, &blobs).expect("memory takes it");
        writer.state(round * 20_000_000, &[round as u8; 100]).expect("memory takes it");
    }
    writer.finish().expect("memory takes it")
}

/// All events of a file, or why there are none.
pub(crate) fn events(file: &[u8]) -> Result<Vec<Event>, Error> {
    let mut reader = Reader::open(Cursor::new(file))?;
    let mut merged = reader.merged()?;
    let mut events = Vec::new();
    while let Some(event) = merged.next()? {
        events.push(event);
    }
    Ok(events)
}

/// The records as they are in a file.
#[allow(dead_code, reason = "not every test makes files by hand")]
pub(crate) fn raw(records: &[[u64; 2]]) -> Vec<u8> {
    records.iter().copied().flat_map(bytes_of).collect()
}
