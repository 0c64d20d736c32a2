//! Writes a recording, chunk by chunk.

use std::io::{self, Write};

use serde::Serialize;
use trapline_access::record::{self, Op, Record, TICK_NS};
use zstd::bulk::Compressor;

use crate::chunk::{Codec, HEAD, HEADER, Header, Kind, MAGIC, RAW_MAX, RECORDS_MAX, VERSION};
use crate::steps::{self, Made, Payload};
use crate::{Error, MapChange, Meta, Part, Stream};

/// The compression.
const LEVEL: i32 = 6;
/// The same where there is so much at once that time counts: a guest waits for who writes.
const QUICK_LEVEL: i32 = 1;
/// How many records at once are that much.
const MUCH: usize = 16 << 10;
/// A chunk of so many records ends with the step that it is in.
const ENOUGH: usize = RECORDS_MAX / 2;

/// Writes a recording. What was written can be read at any time, whatever becomes of the writer.
pub struct Writer<W: Write> {
    to: W,
    compressor: Compressor<'static>,
    quick: Compressor<'static>,
    index: Vec<IndexEntry>,
    /// Bytes written.
    at: u64,
    /// Records, and blobs so far.
    records: u64,
    blobs: u32,
    states: u32,
}

/// A chunk in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct IndexEntry {
    pub(crate) kind: u8,
    pub(crate) stream: u16,
    pub(crate) records: u32,
    pub(crate) at: u64,
    pub(crate) first_time_ns: u64,
}

/// A part of the records given, as one chunk.
struct Piece<'a> {
    records: &'a [[u64; 2]],
    first_time_ns: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut to: W, meta: &Meta) -> Result<Self, Error> {
        let (compressor, quick) = (Compressor::new(LEVEL)?, Compressor::new(QUICK_LEVEL)?);
        to.write_all(&MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        to.write_all(&[0; 4])?;
        let (index, at) = (Vec::new(), HEAD as u64);
        let (records, blobs, states) = (0, 0, 0);
        let mut writer = Self { to, compressor, quick, index, at, records, blobs, states };
        writer.encoded(Kind::Meta, 0, meta)?;
        Ok(writer)
    }

    /// Tells of regions, slots and registers, before the records that name them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn map(&mut self, time_ns: u64, change: &MapChange) -> Result<(), Error> {
        match change.banks.as_slice() {
            [] => self.encoded(Kind::Map, time_ns, change),
            banks => self.encoded(Kind::Map, time_ns, &(change, banks)),
        }
    }

    /// Adds records to a stream, [encoded](Record::encode), with each string's data behind its
    /// record. `first_time_ns` is the time of the first one, whose delta is contained in it.
    ///
    /// # Errors
    /// When they cannot be written, or are none: operations that do not exist, or a string without
    /// all of its data.
    pub fn access(
        &mut self,
        stream: Stream,
        first_time_ns: u64,
        records: &[[u64; 2]],
    ) -> Result<(), Error> {
        let mut rest = Piece { records, first_time_ns };
        while !rest.records.is_empty() {
            let (piece, behind) = rest.split()?;
            let raw: Vec<u8> = piece.records.iter().copied().flat_map(record::bytes_of).collect();
            let count = u32::try_from(piece.records.len()).unwrap_or(u32::MAX);
            self.chunk(Kind::Access, stream.number(), count, piece.first_time_ns, &raw)?;
            self.records += u64::from(count);
            rest = behind;
        }
        Ok(())
    }

    /// Adds records of several streams, which are written in the order in which they were made: by time,
    /// of one time those of the queue first, and else in the order of `parts`.
    ///
    /// # Errors
    /// When they cannot be written, or are none: operations that do not exist, or a string without
    /// all of its data.
    pub fn steps(&mut self, parts: &[Part<'_>]) -> Result<(), Error> {
        let all = steps::in_order(parts).map_err(Error::Unrecordable)?;
        let quick = all.len() > MUCH;
        let mut payload = Payload::default();
        let mut last_ns = None;
        for made in &all {
            let enough = payload.records() >= ENOUGH && last_ns != Some(made.time_ns);
            if enough || !payload.add(made) {
                self.steps_chunk(&payload, quick)?;
                payload = self.begin_steps(made)?;
            }
            last_ns = Some(made.time_ns);
        }
        self.steps_chunk(&payload, quick)
    }

    /// A payload that begins with this record.
    fn begin_steps(&self, made: &Made<'_>) -> Result<Payload, Error> {
        let mut payload = Payload::default();
        let begun = payload.add(made);
        begun.then_some(payload).ok_or(Error::Unrecordable("a record that no chunk has room for"))
    }

    fn steps_chunk(&mut self, payload: &Payload, quick: bool) -> Result<(), Error> {
        let count = u32::try_from(payload.records()).unwrap_or(u32::MAX);
        if count == 0 {
            return Ok(());
        }
        let compressor = if quick { &mut self.quick } else { &mut self.compressor };
        let encoded = payload.encode(compressor)?;
        let codec = (Codec::Raw, encoded.len());
        self.stored((Kind::Steps, 0, count), payload.first_time_ns(), codec, &encoded)?;
        self.records += u64::from(count);
        Ok(())
    }

    /// Adds blobs, and returns the number of the first one; the others follow it. A record that
    /// names one comes after it.
    ///
    /// # Errors
    /// When they cannot be written, or are more than 16 MiB together.
    pub fn blobs(&mut self, time_ns: u64, blobs: &[&[u8]]) -> Result<u32, Error> {
        let mut raw = Vec::new();
        for blob in blobs {
            let len = u32::try_from(blob.len());
            let len = len.map_err(|_| Error::Unrecordable("an input or output of 4 GiB"))?;
            raw.extend_from_slice(&len.to_le_bytes());
            raw.extend_from_slice(blob);
        }
        let first = self.blobs;
        let count = u32::try_from(blobs.len()).ok().filter(|_| raw.len() <= RAW_MAX);
        let count =
            count.ok_or(Error::Unrecordable("inputs and outputs of over 16 MiB at once"))?;
        let next = first.checked_add(count);
        self.blobs = next.ok_or(Error::Unrecordable("more than 2^32 inputs and outputs"))?;
        self.chunk(Kind::Blob, 0, count, time_ns, &raw)?;
        Ok(first)
    }

    /// Adds a saved state of the machine, and returns its number.
    ///
    /// # Errors
    /// When it cannot be written, or is more than 16 MiB.
    pub fn state(&mut self, time_ns: u64, state: &[u8]) -> Result<u32, Error> {
        if state.len() > RAW_MAX {
            return Err(Error::Unrecordable("a state of over 16 MiB"));
        }
        self.chunk(Kind::State, 0, 0, time_ns, state)?;
        self.states += 1;
        Ok(self.states - 1)
    }

    /// Has what was written so far reach the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Whether nothing is written; it never is, as the head is written at once.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Records written so far, the places of strings' data included.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Writes the index and the end, and gives back what was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<W, Error> {
        let (chunks, index_at) = (self.index.len() as u64, self.at);
        // A recording of days is still one; who reads it scans the chunks.
        let index = postcard::to_allocvec(&self.index).unwrap_or_default();
        if index.len() <= RAW_MAX {
            self.chunk(Kind::Index, 0, 0, 0, &index)?;
        }
        let end: Vec<u8> =
            [chunks, self.records, index_at].iter().flat_map(|n| n.to_le_bytes()).collect();
        self.chunk(Kind::End, 0, 0, 0, &end)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn encoded(&mut self, kind: Kind, time_ns: u64, content: &impl Serialize) -> Result<(), Error> {
        let raw = postcard::to_allocvec(content);
        let raw = raw.map_err(|_| Error::Unrecordable("a description that has no binary form"))?;
        if raw.len() > RAW_MAX {
            return Err(Error::Unrecordable("a description of over 16 MiB"));
        }
        self.chunk(kind, 0, 0, time_ns, &raw)
    }

    fn chunk(
        &mut self,
        kind: Kind,
        stream: u16,
        records: u32,
        first_time_ns: u64,
        raw: &[u8],
    ) -> Result<(), Error> {
        let compressed = self.compressor.compress(raw)?;
        let (codec, payload) = if compressed.len() < raw.len() {
            (Codec::Zstd, compressed.as_slice())
        } else {
            (Codec::Raw, raw)
        };
        self.stored((kind, stream, records), first_time_ns, (codec, raw.len()), payload)
    }

    /// A chunk whose payload was this long before it got what is to be written.
    fn stored(
        &mut self,
        (kind, stream, records): (Kind, u16, u32),
        first_time_ns: u64,
        (codec, raw_len): (Codec, usize),
        payload: &[u8],
    ) -> Result<(), Error> {
        let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let header = Header {
            kind,
            codec,
            stream,
            records,
            raw_len: length(raw_len),
            stored_len: length(payload.len()),
            first_time_ns,
            number: u32::try_from(self.index.len()).unwrap_or(u32::MAX),
        };
        self.to.write_all(&header.to_bytes(payload))?;
        self.to.write_all(payload)?;
        let kind = kind.number();
        self.index.push(IndexEntry { kind, stream, records, at: self.at, first_time_ns });
        self.at += (HEADER + payload.len()) as u64;
        Ok(())
    }
}

impl<'a> Piece<'a> {
    /// As many records as fit into one chunk, and the rest with its time.
    fn split(self) -> Result<(Self, Self), Error> {
        let mut time_ns = self.first_time_ns;
        let mut end = 0;
        while let Some(&words) = self.records.get(end) {
            let record = Record::decode(words);
            let record = record.map_err(|_| Error::Unrecordable("an operation that is none"))?;
            let places = usize::try_from(record.raw_records()).unwrap_or(usize::MAX);
            let next = places.saturating_add(end + 1);
            if next > self.records.len() {
                return Err(Error::Unrecordable("a string access without its data"));
            }
            if places >= RECORDS_MAX {
                return Err(Error::Unrecordable("a string access of 1 MiB"));
            }
            let here = match record.op {
                Op::Time => record.value,
                _ if end == 0 => time_ns,
                _ => time_ns.saturating_add(u64::from(record.delta) * TICK_NS),
            };
            if next > RECORDS_MAX {
                let (records, rest) = self.records.split_at(end);
                let piece = Self { records, first_time_ns: self.first_time_ns };
                return Ok((piece, Self { records: rest, first_time_ns: here }));
            }
            (time_ns, end) = (here, next);
        }
        let rest = Self { records: &[], first_time_ns: time_ns };
        Ok((self, rest))
    }
}
