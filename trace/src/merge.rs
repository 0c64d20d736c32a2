//! All streams of a recording as one, in the order in which things happened.
//!
//! Records are ordered by their time. Two of the same time are of different streams, and nothing says
//! which was first, unless a device was asked by both while it was recorded whose turn it was: then
//! what was done before the turn changed comes first, and turns come in their order. Writes that had
//! been queued come before the access that had them delivered.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use trapline_access::record::{Op, Record, TICK_NS};

use crate::reader::Chunk;
use crate::{Error, Reader, Stream};

/// The most streams that are merged: each has a chunk in memory.
const STREAMS_MAX: u64 = 512;

/// One record in its place among all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number among the merged records, from 0.
    pub number: u64,
    /// Whose it is.
    pub stream: Stream,
    /// Its time in nanoseconds of the machine's clock.
    pub time_ns: u64,
    /// The record.
    pub record: Record,
    /// The data of a string; empty for others.
    pub data: Vec<u8>,
}

/// Gives records of all streams, one by one.
pub struct Merged<'a, R> {
    reader: &'a mut Reader<R>,
    streams: Vec<Cursor>,
    /// The last turn of each device.
    turns: BTreeMap<u16, u64>,
    next: u64,
}

/// Where one stream is read.
struct Cursor {
    stream: Stream,
    /// The chunks that are still to come, the next one last.
    chunks: Vec<Chunk>,
    /// The bytes of the one that is read, and how many of them have been.
    raw: Vec<u8>,
    read: usize,
    /// Where the chunk that is read begins in the file.
    at: u64,
    /// Whether the next record is its chunk's first one.
    first: bool,
    time_ns: u64,
    head: Option<(u64, Record, Vec<u8>)>,
}

impl<'a, R: Read + Seek> Merged<'a, R> {
    pub(crate) fn new(reader: &'a mut Reader<R>) -> Result<Self, Error> {
        let streams = reader.streams();
        if streams.len() as u64 > STREAMS_MAX {
            return Err(Error::TooMany { what: "streams", limit: STREAMS_MAX });
        }
        let mut merged = Self { reader, streams: Vec::new(), turns: BTreeMap::new(), next: 0 };
        for stream in streams {
            let chunks = merged.reader.chunks_of(stream);
            let mut cursor = Cursor::new(stream, chunks);
            cursor.advance(merged.reader)?;
            merged.streams.push(cursor);
        }
        Ok(merged)
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or its records make no sense.
    #[expect(clippy::should_implement_trait, reason = "an iterator has no errors of its own")]
    pub fn next(&mut self) -> Result<Option<Event>, Error> {
        let turns = &self.turns;
        let first = self
            .streams
            .iter_mut()
            .filter(|cursor| cursor.head.is_some())
            .min_by_key(|cursor| cursor.rank(turns));
        let Some(cursor) = first else { return Ok(None) };
        let Some((time_ns, record, data)) = cursor.head.take() else { return Ok(None) };
        let stream = cursor.stream;
        cursor.advance(self.reader)?;
        if record.op == Op::Turn {
            self.turns.insert(record.slot, record.value);
        }
        self.next += 1;
        Ok(Some(Event { number: self.next - 1, stream, time_ns, record, data }))
    }

    /// The recording that is read.
    pub fn reader(&mut self) -> &mut Reader<R> {
        self.reader
    }

    /// How many records have been given, and how many there are; strings' data counts.
    pub fn progress(&self) -> (u64, u64) {
        let left = |cursor: &Cursor| {
            let chunks = cursor.chunks.iter().map(|chunk| u64::from(chunk.header.records));
            chunks.sum::<u64>() + cursor.places() as u64 + u64::from(cursor.head.is_some())
        };
        let total = self.reader.records();
        (total.saturating_sub(self.streams.iter().map(left).sum()), total)
    }
}

/// What decides which stream's next record is first: its time; then whether it begins a turn that
/// others may still have; then whether that turn is the next one of its device; then the stream.
type Rank = (u64, bool, bool, u64, bool, u16);

impl Cursor {
    const fn new(stream: Stream, chunks: Vec<Chunk>) -> Self {
        let raw = Vec::new();
        Self { stream, chunks, raw, read: 0, at: 0, first: false, time_ns: 0, head: None }
    }

    /// Records' places of the chunk that have not been read.
    const fn places(&self) -> usize {
        (self.raw.len() - self.read) / Record::LEN
    }

    fn rank(&self, turns: &BTreeMap<u16, u64>) -> Rank {
        let Some((time_ns, record, _)) = &self.head else {
            return (u64::MAX, true, true, u64::MAX, true, u16::MAX);
        };
        let turn = record.op == Op::Turn;
        let (later, count) = if turn {
            let due = turns.get(&record.slot).map_or(record.value, |last| last.saturating_add(1));
            (record.value != due, record.value)
        } else {
            (false, 0)
        };
        (*time_ns, turn, later, count, self.stream != Stream::SHARED, self.stream.number())
    }

    /// Reads the next record into `head`.
    fn advance<R: Read + Seek>(&mut self, reader: &mut Reader<R>) -> Result<(), Error> {
        self.head = None;
        let Some(bytes) = self.place(reader)? else { return Ok(()) };
        let record = Record::from_bytes(bytes).map_err(|op| Error::Op { at: self.at, op })?;
        self.time_ns = match record.op {
            Op::Time => record.value,
            _ if self.first => self.time_ns,
            _ => self.time_ns.saturating_add(u64::from(record.delta) * TICK_NS),
        };
        self.first = false;
        let data = self.data(&record)?;
        self.head = Some((self.time_ns, record, data));
        Ok(())
    }

    /// The data of a string, which is in the same chunk.
    fn data(&mut self, record: &Record) -> Result<Vec<u8>, Error> {
        let places = record.raw_records();
        if places == 0 {
            return Ok(Vec::new());
        }
        if places > self.places() as u64 {
            let why = "a string access lacks its data".to_owned();
            return Err(Error::Content { kind: crate::chunk::Kind::Access, at: self.at, why });
        }
        let len = usize::try_from(record.value).unwrap_or(usize::MAX);
        let rest = self.raw.get(self.read..).unwrap_or_default();
        let data = rest.get(..len).unwrap_or_default().to_vec();
        self.read += data.len().next_multiple_of(Record::LEN);
        Ok(data)
    }

    /// The next 16 bytes of the stream.
    fn place<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
    ) -> Result<Option<[u8; Record::LEN]>, Error> {
        loop {
            let rest = self.raw.get(self.read..).unwrap_or_default();
            if let Some(bytes) = rest.first_chunk() {
                self.read += Record::LEN;
                return Ok(Some(*bytes));
            }
            let Some(chunk) = self.chunks.pop() else { return Ok(None) };
            (self.raw, self.read) = (reader.payload(chunk)?, 0);
            (self.at, self.first) = (chunk.at, true);
            self.time_ns = chunk.header.first_time_ns;
        }
    }
}
