//! All streams of a recording as one, in the order in which things happened.
//!
//! Records are ordered by their time. Two of the same time are of different streams, and nothing says
//! which was first, unless a device was asked by both while it was recorded whose turn it was: then
//! what was done before the turn changed comes first, and turns come in their order. Writes that had
//! been queued come before the access that had them delivered.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use trapline_access::record::{Op, Record, TICK_NS};

use crate::chunk::Kind;
use crate::reader::Chunk;
use crate::steps::{Head, Steps, Wrong};
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

/// Where one stream, or what is in order already, is read.
struct Cursor {
    /// The chunks that are still to come, the next one last.
    chunks: Vec<Chunk>,
    /// The one that is read.
    open: Option<(Chunk, Open)>,
    head: Option<Head>,
}

/// The records of a chunk.
enum Open {
    /// Those of an ACCESS chunk.
    Access(Places),
    /// Those of a STEPS chunk.
    Steps(Steps),
}

impl<'a, R: Read + Seek> Merged<'a, R> {
    pub(crate) fn new(reader: &'a mut Reader<R>) -> Result<Self, Error> {
        let streams = reader.access_streams();
        if streams.len() as u64 > STREAMS_MAX {
            return Err(Error::TooMany { what: "streams", limit: STREAMS_MAX });
        }
        let mut all: Vec<_> = streams.into_iter().map(|stream| reader.chunks_of(stream)).collect();
        all.push(reader.steps_chunks());
        let mut merged = Self { reader, streams: Vec::new(), turns: BTreeMap::new(), next: 0 };
        for chunks in all {
            let mut cursor = Cursor { chunks, open: None, head: None };
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
        let first = match self.streams.as_mut_slice() {
            // As in a file whose records are in order.
            [only] => Some(only),
            all => all
                .iter_mut()
                .filter(|cursor| cursor.head.is_some())
                .min_by_key(|cursor| cursor.rank(turns)),
        };
        let Some(cursor) = first else { return Ok(None) };
        let Some(Head { stream, time_ns, record, data }) = cursor.head.take() else {
            return Ok(None);
        };
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
            chunks.sum::<u64>() + cursor.left() + u64::from(cursor.head.is_some())
        };
        let total = self.reader.records();
        (total.saturating_sub(self.streams.iter().map(left).sum()), total)
    }
}

/// What decides which stream's next record is first: its time; then whether it begins a turn that
/// others may still have; then whether that turn is the next one of its device; then the stream.
type Rank = (u64, bool, bool, u64, bool, u16);

impl Cursor {
    /// Records' places of the chunk that have not been read.
    fn left(&self) -> u64 {
        match &self.open {
            None => 0,
            Some((_, Open::Access(places))) => places.left() as u64,
            Some((_, Open::Steps(steps))) => steps.left(),
        }
    }

    fn rank(&self, turns: &BTreeMap<u16, u64>) -> Rank {
        let Some(Head { stream, time_ns, record, .. }) = &self.head else {
            return (u64::MAX, true, true, u64::MAX, true, u16::MAX);
        };
        let turn = record.op == Op::Turn;
        let (later, count) = if turn {
            let due = turns.get(&record.slot).map_or(record.value, |last| last.saturating_add(1));
            (record.value != due, record.value)
        } else {
            (false, 0)
        };
        (*time_ns, turn, later, count, *stream != Stream::SHARED, stream.number())
    }

    /// Reads the next record into `head`.
    fn advance<R: Read + Seek>(&mut self, reader: &mut Reader<R>) -> Result<(), Error> {
        self.head = None;
        loop {
            if let Some((chunk, open)) = &mut self.open {
                let next = match open {
                    Open::Access(places) => places.next(),
                    Open::Steps(steps) => steps.next(),
                };
                let next = next.map_err(|wrong| chunk.wrong(wrong))?;
                if next.is_some() {
                    self.head = next;
                    return Ok(());
                }
            }
            let Some(chunk) = self.chunks.pop() else {
                self.open = None;
                return Ok(());
            };
            let open = match chunk.header.kind {
                Kind::Steps => Open::Steps(reader.steps(chunk)?),
                _ => Open::Access(Places::new(&chunk, reader.payload(chunk)?)),
            };
            self.open = Some((chunk, open));
        }
    }
}

/// The records of an ACCESS chunk, one by one.
struct Places {
    stream: Stream,
    raw: Vec<u8>,
    /// How many bytes have been read.
    read: usize,
    time_ns: u64,
}

impl Places {
    fn new(chunk: &Chunk, raw: Vec<u8>) -> Self {
        let (stream, time_ns) = (Stream::of(chunk.header.stream), chunk.header.first_time_ns);
        Self { stream, raw, read: 0, time_ns }
    }

    /// Places that have not been read.
    const fn left(&self) -> usize {
        (self.raw.len() - self.read) / Record::LEN
    }

    fn next(&mut self) -> Result<Option<Head>, Wrong> {
        let first = self.read == 0;
        let rest = self.raw.get(self.read..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk() else { return Ok(None) };
        self.read += Record::LEN;
        let record = Record::from_bytes(*bytes).map_err(Wrong::Op)?;
        self.time_ns = match record.op {
            Op::Time => record.value,
            // The delta of the first one is in the time of the chunk.
            _ if first => self.time_ns,
            _ => self.time_ns.saturating_add(u64::from(record.delta) * TICK_NS),
        };
        let data = self.data(&record)?;
        Ok(Some(Head { stream: self.stream, time_ns: self.time_ns, record, data }))
    }

    /// The data of a string, which is in the same chunk.
    fn data(&mut self, record: &Record) -> Result<Vec<u8>, Wrong> {
        let places = record.raw_records();
        if places == 0 {
            return Ok(Vec::new());
        }
        if places > self.left() as u64 {
            return Err(Wrong::from("a string access lacks its data"));
        }
        let len = usize::try_from(record.value).unwrap_or(usize::MAX);
        let rest = self.raw.get(self.read..).unwrap_or_default();
        let data = rest.get(..len).unwrap_or_default().to_vec();
        self.read += data.len().next_multiple_of(Record::LEN);
        Ok(data)
    }
}
