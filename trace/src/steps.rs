//! Records of all streams in the order in which they were made, as a STEPS chunk has them.
//!
//! What crosses the line in one step has one time, whichever stream it is in, and what a guest does
//! repeats while the time between does not. So a time is there once for all records of it, and apart
//! from what was done:
//!
//! ```text
//! payload   streams 1 · their numbers, 2 each · sections: rows, data, times low, middle, high
//! section   codec 1 · raw length · stored length, 1 to 5 each (postcard's numbers) · bytes
//! row       tag 1 · operation 1 · slot 2 · offset 2 · value 8
//! tag       bits 0-6 the stream, as listed above · bit 7: the time goes on
//! ```
//!
//! Where the time goes on, the next three bytes of the times say by how many ticks of 16 ns. A row of
//! operation TIME has the time itself, and is no record. The first time is that of the chunk's header.
//! Strings' data is in one section, without what fills it up to 16 bytes elsewhere.

use std::io;

use trapline_access::record::{Op, Record, TICK_NS, UnknownOp, bytes_of};
use zstd::bulk::{Compressor, Decompressor};

use crate::Stream;
use crate::chunk::{Codec, RAW_MAX, RECORDS_MAX};

/// Bytes of a row.
const ROW: usize = 14;
/// How many streams a chunk has at most.
const STREAMS_MAX: usize = 128;
/// The bit of a tag that says that the time goes on.
const LATER: u8 = 0x80;
/// How many times there are sections of, beside rows and data.
const TIMES: usize = 3;
/// Places of a string's data at most: with its record they are as many as an ACCESS chunk has.
const STRING_MAX: usize = RECORDS_MAX - 1;
const TOO_LONG: &str = "a string access of 1 MiB";
/// Below this many bytes zstd's frame is more than it saves.
const COMPRESSED_MIN: usize = 24;

/// Records of one stream that go into a recording with those of others.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The stream.
    pub stream: Stream,
    /// The time of the first record in nanoseconds; its delta is contained in it.
    pub first_time_ns: u64,
    /// The records, [encoded](Record::encode), with each string's data behind its record.
    pub words: &'a [[u64; 2]],
}

/// A record among those of all streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made<'a> {
    stream: Stream,
    pub(crate) time_ns: u64,
    record: Record,
    /// The places of its data.
    data: &'a [[u64; 2]],
}

/// The records of `parts` in the order in which they were made: of one time those of the queue first,
/// and else in the order of the parts.
pub(crate) fn in_order<'a>(parts: &[Part<'a>]) -> Result<Vec<Made<'a>>, &'static str> {
    let mut all = Vec::new();
    let (queue, others): (Vec<_>, Vec<_>) =
        parts.iter().partition(|part| part.stream == Stream::SHARED);
    for part in queue.into_iter().chain(others) {
        each(part, &mut all)?;
    }
    // Stable, and quick where there are runs.
    all.sort_by_key(|made| made.time_ns);
    Ok(all)
}

fn each<'a>(part: &Part<'a>, all: &mut Vec<Made<'a>>) -> Result<(), &'static str> {
    let (mut rest, mut time_ns, mut first) = (part.words, part.first_time_ns, true);
    while let [words, more @ ..] = rest {
        let record = Record::decode(*words).map_err(|_| "an operation that is none")?;
        let places = usize::try_from(record.raw_records()).unwrap_or(usize::MAX);
        let (data, more) =
            more.split_at_checked(places).ok_or("a string access without its data")?;
        if places > STRING_MAX {
            return Err(TOO_LONG);
        }
        rest = more;
        if record.op == Op::Time {
            (time_ns, first) = (record.value, false);
            continue;
        }
        if !std::mem::take(&mut first) {
            time_ns = time_ns.saturating_add(u64::from(record.delta) * TICK_NS);
        }
        all.push(Made { stream: part.stream, time_ns, record, data });
    }
    Ok(())
}

/// The payload of a chunk that is being made.
#[derive(Default)]
pub(crate) struct Payload {
    streams: Vec<Stream>,
    rows: Vec<u8>,
    data: Vec<u8>,
    times: [Vec<u8>; TIMES],
    first_time_ns: u64,
    last_ns: u64,
}

impl Payload {
    /// Adds a record. `false` if there is no room for it: it goes into another chunk.
    pub(crate) fn add(&mut self, made: &Made<'_>) -> bool {
        if self.rows.is_empty() {
            (self.first_time_ns, self.last_ns) = (made.time_ns, made.time_ns);
        }
        // One row more may be needed for the time.
        if self.records() + 2 > RECORDS_MAX || self.data.len() + made.data.len() * 16 > RAW_MAX / 2
        {
            return false;
        }
        let Some(tag) = self.tag(made.stream) else { return false };
        let later = self.later(tag, made.time_ns);
        self.row(tag | later, &made.record);
        let len = match made.record.op {
            Op::String(_) => usize::try_from(made.record.value).unwrap_or(usize::MAX),
            _ => 0,
        };
        let data = made.data.iter().copied().flat_map(bytes_of);
        self.data.extend(data.take(len));
        self.last_ns = made.time_ns;
        true
    }

    /// What a stream is called in this chunk.
    fn tag(&mut self, stream: Stream) -> Option<u8> {
        let known = self.streams.iter().position(|known| *known == stream);
        let at = known.unwrap_or(self.streams.len());
        if at == STREAMS_MAX {
            return None;
        }
        if known.is_none() {
            self.streams.push(stream);
        }
        u8::try_from(at).ok()
    }

    /// Goes on to a time, and says so for the next row.
    fn later(&mut self, tag: u8, time_ns: u64) -> u8 {
        let (past, rest) = match time_ns.checked_sub(self.last_ns) {
            Some(ns) => (ns / TICK_NS, ns % TICK_NS),
            None => (u64::MAX, 0),
        };
        match u32::try_from(past) {
            Ok(0) if rest == 0 => 0,
            Ok(ticks) if rest == 0 && ticks < Record::DELTA_END => {
                let bytes = ticks.to_le_bytes();
                self.times.iter_mut().zip(bytes).for_each(|(plane, byte)| plane.push(byte));
                LATER
            }
            _ => {
                let time = Record { op: Op::Time, slot: 0, offset: 0, delta: 0, value: time_ns };
                self.row(tag, &time);
                0
            }
        }
    }

    fn row(&mut self, tag: u8, record: &Record) {
        let [o, s0, s1, f0, f1, _, _, _, value @ ..] = record.to_bytes();
        self.rows.extend([tag, o, s0, s1, f0, f1]);
        self.rows.extend(value);
    }

    /// How many rows there are.
    pub(crate) fn records(&self) -> usize {
        self.rows.len() / ROW
    }

    /// The time of the first record, in nanoseconds.
    pub(crate) fn first_time_ns(&self) -> u64 {
        self.first_time_ns
    }

    /// As it is in the file.
    pub(crate) fn encode(&self, compressor: &mut Compressor<'_>) -> io::Result<Vec<u8>> {
        let mut payload = vec![u8::try_from(self.streams.len()).unwrap_or(u8::MAX)];
        payload.extend(self.streams.iter().flat_map(|stream| stream.number().to_le_bytes()));
        for section in [&self.rows, &self.data].into_iter().chain(&self.times) {
            let compressed = match section.len() {
                ..COMPRESSED_MIN => None,
                _ => Some(compressor.compress(section)?).filter(|it| it.len() < section.len()),
            };
            let (codec, stored) = match &compressed {
                Some(compressed) => (Codec::Zstd, compressed),
                None => (Codec::Raw, section),
            };
            let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let head = (codec.number(), len(section), len(stored));
            payload = postcard::to_extend(&head, payload).map_err(io::Error::other)?;
            payload.extend(stored);
        }
        Ok(payload)
    }
}

/// Why the payload of a chunk makes no sense.
pub(crate) enum Wrong {
    /// In words.
    Content(String),
    /// An operation that is not one of ours.
    Op(UnknownOp),
}

impl From<&str> for Wrong {
    fn from(why: &str) -> Self {
        Self::Content(why.to_owned())
    }
}

/// The next record of a chunk.
pub(crate) struct Head {
    pub(crate) stream: Stream,
    pub(crate) time_ns: u64,
    pub(crate) record: Record,
    /// The data of a string.
    pub(crate) data: Vec<u8>,
}

/// The records of a chunk, one by one.
#[derive(Default)]
pub(crate) struct Steps {
    streams: Vec<Stream>,
    rows: Vec<u8>,
    data: Vec<u8>,
    times: [Vec<u8>; TIMES],
    /// How many rows, bytes of data and times have been read.
    read: usize,
    data_read: usize,
    times_read: usize,
    time_ns: u64,
}

/// The streams that the payload of a chunk begins with, and the rest of it.
pub(crate) fn streams(payload: &[u8]) -> Option<(Vec<Stream>, &[u8])> {
    let (count, rest) = payload.split_first()?;
    let (numbers, rest) = rest.split_at_checked(usize::from(*count) * 2)?;
    let (numbers, _) = numbers.as_chunks::<2>();
    Some((numbers.iter().map(|number| Stream::of(u16::from_le_bytes(*number))).collect(), rest))
}

impl Steps {
    /// Reads the payload of a chunk of so many rows, the first of this time.
    pub(crate) fn decode(
        payload: &[u8],
        records: u32,
        first_time_ns: u64,
        decompressor: &mut Decompressor<'_>,
    ) -> Result<Self, Wrong> {
        let (streams, mut rest) = streams(payload).ok_or("it ends in its list of streams")?;
        let mut left = RAW_MAX;
        let mut section = || {
            let (section, behind) = section(rest, left, decompressor)?;
            rest = behind;
            left = left.saturating_sub(section.len());
            Ok::<_, Wrong>(section)
        };
        let (rows, data) = (section()?, section()?);
        let times = [section()?, section()?, section()?];
        if !rest.is_empty() || Ok(rows.len()) != usize::try_from(records).map(|n| n * ROW) {
            return Err("it has another length than it says".into());
        }
        let time_ns = first_time_ns;
        Ok(Self { streams, rows, data, times, time_ns, ..Self::default() })
    }

    /// How many rows have not been read.
    pub(crate) fn left(&self) -> u64 {
        (self.rows.len() / ROW - self.read) as u64
    }

    /// The next record, with its stream, time and data.
    pub(crate) fn next(&mut self) -> Result<Option<Head>, Wrong> {
        loop {
            let (rows, _) = self.rows.as_chunks::<ROW>();
            let Some(&[tag, o, s0, s1, f0, f1, value @ ..]) = rows.get(self.read) else {
                return Ok(None);
            };
            self.read += 1;
            let [v0, v1, v2, v3, v4, v5, v6, v7] = value;
            let bytes = [o, s0, s1, f0, f1, 0, 0, 0, v0, v1, v2, v3, v4, v5, v6, v7];
            let record = Record::from_bytes(bytes).map_err(Wrong::Op)?;
            if tag & LATER != 0 {
                let ticks = self.ticks().ok_or("a record lacks its time")?;
                self.time_ns = self.time_ns.saturating_add(ticks * TICK_NS);
            }
            if record.op == Op::Time {
                self.time_ns = record.value;
                continue;
            }
            let stream = self.streams.get(usize::from(tag & !LATER));
            let stream = *stream.ok_or("a record is of a stream that is not listed")?;
            let data = self.data(&record)?;
            return Ok(Some(Head { stream, time_ns: self.time_ns, record, data }));
        }
    }

    fn ticks(&mut self) -> Option<u64> {
        let [low, middle, high] = &self.times;
        let at = self.times_read;
        self.times_read += 1;
        let bytes = [*low.get(at)?, *middle.get(at)?, *high.get(at)?, 0];
        Some(u32::from_le_bytes(bytes).into())
    }

    fn data(&mut self, record: &Record) -> Result<Vec<u8>, Wrong> {
        let Op::String(_) = record.op else { return Ok(Vec::new()) };
        if record.raw_records() > STRING_MAX as u64 {
            return Err(TOO_LONG.into());
        }
        let len = usize::try_from(record.value).unwrap_or(usize::MAX);
        let end = self.data_read.saturating_add(len);
        let data = self.data.get(self.data_read..end).ok_or("a string access lacks its data")?;
        self.data_read = end;
        Ok(data.to_vec())
    }
}

/// A section of at most `left` bytes, and what is behind it.
fn section<'a>(
    payload: &'a [u8],
    left: usize,
    decompressor: &mut Decompressor<'_>,
) -> Result<(Vec<u8>, &'a [u8]), Wrong> {
    let head = postcard::take_from_bytes::<(u8, u32, u32)>(payload);
    let ((codec, raw_len, stored_len), rest) = head.map_err(|_| "a section is missing")?;
    let length = |len: u32| usize::try_from(len).unwrap_or(usize::MAX);
    let (raw_len, stored_len) = (length(raw_len), length(stored_len));
    let (stored, rest) = rest.split_at_checked(stored_len).ok_or("a section is cut off")?;
    if raw_len > left {
        return Err("it has more than 16 MiB".into());
    }
    let raw = match Codec::of(codec) {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => decompressor
            .decompress(stored, raw_len)
            .map_err(|error| Wrong::Content(error.to_string()))?,
        Codec::Unknown(_) => return Err("it is compressed in an unknown way".into()),
    };
    if raw.len() != raw_len {
        return Err("a section has another length than it says".into());
    }
    Ok((raw, rest))
}
