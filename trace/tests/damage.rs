//! Recordings that were cut off, damaged, or made by somebody who means no good: what is read is the
//! longest valid prefix, or there is one sentence that says why nothing is.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows tests this, and takes what they share for something else"
)]

mod support;

use std::collections::BTreeMap;
use std::io::Cursor;

use support::{Shape, change, events, meta, raw, recording, records};
use trapline_access::record::{Op, Record};
use trapline_trace::chunk::{Codec, HEAD, HEADER, Header, Kind, MAGIC, RAW_MAX, VERSION};
use trapline_trace::{Error, Event, Reader, Stream, Writer};

/// Each chunk's header, and where it begins and ends.
fn chunks(file: &[u8]) -> Vec<(Header, usize, usize)> {
    let mut chunks = Vec::new();
    let mut at = HEAD;
    while at < file.len() {
        let bytes = file[at..at + HEADER].try_into().expect("a header's length");
        let (header, _) = Header::from_bytes(&bytes);
        let end = at + HEADER + header.stored_len as usize;
        chunks.push((header, at, end));
        at = end;
    }
    chunks
}

/// Time, record and data, by stream.
type Streams = BTreeMap<Stream, Vec<(u64, Record, Vec<u8>)>>;

fn by_stream(events: Vec<Event>) -> Streams {
    let mut streams: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        let of = streams.entry(event.stream).or_default();
        of.push((event.time_ns, event.record, event.data));
    }
    streams
}

/// A recording that nothing is wrong with.
struct Whole {
    shape: Shape,
    file: Vec<u8>,
    chunks: Vec<(Header, usize, usize)>,
    streams: Streams,
}

impl Whole {
    fn new(shape: Shape) -> Self {
        let file = recording(shape);
        let chunks = chunks(&file);
        let streams = by_stream(events(&file).expect("it is valid"));
        Self { shape, file, chunks, streams }
    }
}

/// Reads `file`, of which everything before byte `good` is as it was in `whole`, and holds what is
/// read against what is in the chunks before that.
fn check(file: &[u8], good: usize, whole: &Whole) {
    let before: Vec<_> = whole.chunks.iter().copied().take_while(|chunk| chunk.2 <= good).collect();
    let reader = match Reader::open(Cursor::new(file)) {
        Ok(reader) => reader,
        Err(error @ (Error::Magic | Error::NoMeta | Error::Version { .. })) => {
            assert!(before.is_empty(), "{} chunks and yet: {error}", before.len());
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(reader.chunks().eq(before.iter().map(|(header, ..)| header)));
    let complete = before.last().is_some_and(|(header, ..)| header.kind == Kind::End);
    assert_eq!(reader.ending().complete(), complete, "{}", reader.ending());
    assert_eq!(reader.ending().at, before.last().map_or(0, |chunk| chunk.2 as u64));
    assert_eq!(reader.meta(), &meta());
    let read = by_stream(events(file).expect("the prefix is valid"));
    let mut places = 0;
    for (header, ..) in &before {
        places += match header.kind {
            Kind::Access | Kind::Steps => u64::from(header.records),
            _ => 0,
        };
    }
    let mut held = 0;
    for (stream, records) in read {
        let expected = &whole.streams[&stream];
        assert_eq!(records[..], expected[..records.len()], "{stream}");
        held += match whole.shape {
            Shape::Streams => records.iter().map(|(_, record, _)| 1 + record.raw_records()).sum(),
            Shape::Steps => records.len() as u64,
        };
    }
    assert_eq!(held, places);
}

const SHAPES: [Shape; 2] = [Shape::Streams, Shape::Steps];

#[test]
fn a_recording_cut_off_anywhere_is_read_up_to_its_last_whole_chunk() {
    SHAPES.into_iter().for_each(cut_off);
}

fn cut_off(shape: Shape) {
    let whole = Whole::new(shape);
    let len = whole.file.len();
    let mut random = fastrand::Rng::with_seed(42);
    check(&whole.file, len, &whole);
    for _ in 0..1_000 {
        let len = random.usize(..len);
        check(&whole.file[..len], len, &whole);
    }
    // Where a chunk ends, and a byte beside.
    for &(_, _, end) in &whole.chunks {
        for len in [end - 1, end, (end + 1).min(len)] {
            check(&whole.file[..len], len, &whole);
        }
    }
    for len in 0..HEAD + HEADER {
        check(&whole.file[..len], len, &whole);
    }
}

#[test]
fn a_recording_with_a_flipped_bit_is_read_up_to_the_chunk_that_has_it() {
    SHAPES.into_iter().for_each(flipped);
}

fn flipped(shape: Shape) {
    let whole = Whole::new(shape);
    let len = whole.file.len();
    let mut random = fastrand::Rng::with_seed(4711);
    for _ in 0..1_000 {
        let at = random.usize(..len);
        let mut file = whole.file.clone();
        file[at] ^= 1 << random.u32(..8);
        // Four bytes of the head have no meaning yet.
        if (12..HEAD).contains(&at) {
            check(&file, len, &whole);
        } else {
            check(&file, at, &whole);
        }
    }
}

#[test]
fn many_flipped_bits_never_panic() {
    let both = SHAPES.map(recording);
    let mut random = fastrand::Rng::with_seed(99);
    for round in 0..200 {
        let mut file = both[round % 2].clone();
        for _ in 0..1_000 {
            let at = random.usize(16..file.len());
            file[at] ^= 1 << random.u32(..8);
        }
        if let Ok(events) = events(&file) {
            assert!(events.len() < 20_000);
        }
    }
}

/// Kind, codec, records, raw length and stored bytes of a chunk.
type Forged<'a> = (Kind, Codec, u32, u32, &'a [u8]);

/// A file of these chunks, whatever is in them, with checksums that are right.
fn forged(chunks: &[Forged<'_>]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.extend(VERSION.to_le_bytes());
    file.extend([0; 4]);
    for (number, &(kind, codec, records, raw_len, payload)) in (0..).zip(chunks) {
        let stored_len = payload.len() as u32;
        let header = Header {
            kind,
            codec,
            stream: 0,
            records,
            raw_len,
            stored_len,
            first_time_ns: 0,
            number,
        };
        file.extend(header.to_bytes(payload));
        file.extend(payload);
    }
    file
}

/// A file that describes itself rightly, and then has this chunk.
fn with_chunk(kind: Kind, codec: Codec, records: u32, raw_len: u32, payload: &[u8]) -> Vec<u8> {
    let described = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    let file = described.finish().expect("memory takes it");
    let (header, at, end) = chunks(&file)[0];
    let description = &file[at + HEADER..end];
    forged(&[
        (Kind::Meta, header.codec, 0, header.raw_len, description),
        (kind, codec, records, raw_len, payload),
    ])
}

fn complaint(file: &[u8]) -> String {
    events(file).map(|events| events.len()).expect_err("it makes no sense").to_string()
}

#[test]
fn content_that_makes_no_sense_is_named_with_its_place() {
    let op = [[0xff_u64, 0]];
    let unknown = with_chunk(Kind::Access, Codec::Raw, 1, 16, &raw(&op));
    let said = complaint(&unknown);
    assert!(said.contains("unknown operation 0xff") && said.contains("at byte"), "{said}");

    let map = with_chunk(Kind::Map, Codec::Raw, 0, 4, &[0xff; 4]);
    assert!(complaint(&map).starts_with("the MAP chunk at byte "), "{}", complaint(&map));

    let frame = with_chunk(Kind::Access, Codec::Zstd, 1, 16, b"no frame of zstd");
    assert!(complaint(&frame).starts_with("the ACCESS chunk at byte "), "{}", complaint(&frame));

    let shorter = zstd::bulk::compress(&[0; 15], 1).expect("it compresses");
    let shorter = with_chunk(Kind::Access, Codec::Zstd, 1, 16, &shorter);
    assert!(complaint(&shorter).contains("another length"), "{}", complaint(&shorter));

    let steps = |payload: &[u8]| {
        let len = payload.len() as u32;
        complaint(&with_chunk(Kind::Steps, Codec::Raw, 1, len, payload))
    };
    let row = |tag: u8, op: u8| [tag, op, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    // One stream, a row, and no data or times.
    let payload = |row: [u8; 14]| [&[1, 0, 0, 0, 14, 14][..], &row, &[0; 12]].concat();
    let (read, string) = (0x08, 0xa8);
    for (payload, says) in [
        (payload(row(0, 0xff)), "unknown operation 0xff"),
        (payload(row(0x80, read)), "lacks its time"),
        (payload(row(1, read)), "not listed"),
        (payload(row(0, string)), "lacks its data"),
        (payload(row(0, read))[..20].to_vec(), "a section is missing"),
        (payload(row(0, read))[..19].to_vec(), "a section is cut off"),
        ([payload(row(0, read)), vec![0]].concat(), "another length"),
        (vec![1, 0, 0, 0, 13, 13], "a section is cut off"),
        (vec![9], "list of streams"),
        (vec![0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], "more than 16 MiB"),
        (vec![0, 1, 5, 1, 0], "Src size is incorrect"),
        (vec![0, 7, 5, 1, 0], "unknown way"),
        (vec![0, 0, 5, 1, 0], "another length"),
    ] {
        let said = steps(&payload);
        assert!(said.contains(says) && said.contains("at byte"), "{says}: {said}");
    }

    // A megabyte of zeroes, in a section of 24 bytes or so.
    let mut long = row(0, string);
    long[6..9].copy_from_slice(&[0, 0, 0x10]);
    let zeroes = zstd::bulk::compress(&[0; 1 << 20], 1).expect("it compresses");
    let section = [&[1, 0x80, 0x80, 0x40, zeroes.len() as u8][..], &zeroes].concat();
    let long = [&[1, 0, 0, 0, 14, 14][..], &long, &section, &[0; 9]].concat();
    assert!(zeroes.len() < 0x80 && steps(&long).contains("a string access of 1 MiB"));

    let codec = with_chunk(Kind::Map, Codec::Unknown(9), 0, 4, &[0; 4]);
    assert!(complaint(&codec).contains("compressed in an unknown way"));
}

#[test]
fn a_string_without_its_data_is_refused_by_writer_and_reader() {
    let mut random = fastrand::Rng::with_seed(5);
    let records = loop {
        let records = records(&mut random, 40);
        let at = records
            .iter()
            .position(|&words| Record::decode(words).is_ok_and(|record| record.raw_records() > 1));
        if let Some(at) = at {
            break records[..at + 2].to_vec();
        }
    };
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    let refused = writer.access(Stream::vcpu(0), 0, &records);
    assert!(matches!(refused, Err(Error::Unrecordable(_))), "{refused:?}");
    let (count, bytes) = (records.len() as u32, raw(&records));
    let file = with_chunk(Kind::Access, Codec::Raw, count, count * 16, &bytes);
    assert!(complaint(&file).contains("lacks its data"), "{}", complaint(&file));
    let endless = Record {
        value: Record::SHORT_END - 1,
        ..Record::decode(*records.get(records.len() - 2).expect("a string's record"))
            .expect("a record")
    };
    assert!(matches!(endless.op, Op::String(_)));
    let file = with_chunk(Kind::Access, Codec::Raw, 1, 16, &endless.to_bytes());
    assert!(complaint(&file).contains("lacks its data"), "{}", complaint(&file));
}

#[test]
fn chunks_of_unknown_kinds_are_skipped() {
    let file = with_chunk(Kind::Unknown(200), Codec::Unknown(7), 3, 99, b"of a later version");
    let reader = Reader::open(Cursor::new(&file)).expect("it is skipped");
    assert_eq!(reader.chunks().count(), 2);
    assert_eq!(events(&file).expect("it is skipped"), []);
}

#[test]
fn other_files_and_other_versions_are_told_apart() {
    for (file, says) in [
        (&b"\x7fELF and so on, and so on"[..], "this is no recording of trapline"),
        (b"", "this is no recording of trapline"),
        (b"tra", "this recording ends before it begins"),
        (b"trapline\0\0\0\0\0\0\0\0", "this recording has format 0, and this program reads"),
        (b"trapline\x03\0\0\0\0\0\0\0", "this recording has format 3, and this program reads"),
        (b"trapline\x02\0\0\0\0\0\0\0", "this recording ends before it begins"),
        (b"trapline\x01\0\0\0\0\0\0\0", "this recording ends before it begins"),
    ] {
        let said = complaint(file);
        assert!(said.starts_with(says), "{said}");
    }
}

#[test]
fn a_small_file_does_not_become_a_large_one_in_memory() {
    // A frame that says it has 16 MiB of zeros, and does, where the header promises 16 bytes.
    let bomb = zstd::bulk::compress(&vec![0; RAW_MAX], 1).expect("it compresses");
    let file = with_chunk(Kind::Access, Codec::Zstd, 1, 16, &bomb);
    assert!(complaint(&file).starts_with("the ACCESS chunk"), "{}", complaint(&file));
    // Lengths that no writer makes.
    let file = with_chunk(Kind::Map, Codec::Raw, 0, u32::MAX, b"short");
    let reader = Reader::open(Cursor::new(&file)).expect("the prefix is valid");
    assert_eq!(reader.ending().broken, Some("what follows is damaged"));
    // Maps without end, a few kilobytes each in the file.
    let mut large = change();
    large.regions[0].device = "d".repeat(15 << 20);
    let mut writer = Writer::new(Vec::new(), &meta()).expect("memory takes it");
    for _ in 0..18 {
        writer.map(0, &large).expect("memory takes it");
    }
    let file = writer.finish().expect("memory takes it");
    assert!(file.len() < 1 << 20, "{} bytes", file.len());
    assert!(complaint(&file).contains("more than 268435456 bytes of maps"), "{}", complaint(&file));
}

#[test]
fn an_index_that_lies_is_found() {
    let whole = recording(Shape::Steps);
    let (_, at, end) = *chunks(&whole).iter().rev().nth(1).expect("the index");
    let mut file = whole[..at].to_vec();
    let number = chunks(&whole).len() as u32 - 2;
    let payload = [0];
    let header = Header {
        kind: Kind::Index,
        codec: Codec::Raw,
        stream: 0,
        records: 0,
        raw_len: 1,
        stored_len: 1,
        first_time_ns: 0,
        number,
    };
    file.extend(header.to_bytes(&payload));
    file.extend(payload);
    file.extend(&whole[end..]);
    assert!(complaint(&file).contains("lists other chunks"), "{}", complaint(&file));
}
