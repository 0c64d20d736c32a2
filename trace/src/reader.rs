//! Reads a recording: finds the longest valid prefix of the file, and the chunks in it.
//!
//! Whoever made the file need not mean well. A chunk is decoded when it is asked for, into at most
//! 16 MiB; of the list of chunks there are some bytes for each 32 of the file; and maps are read up
//! to a bound.

use std::fmt;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde::de::DeserializeOwned;
use zstd::bulk::Decompressor;

use crate::chunk::{self, Codec, HEAD, HEADER, Header, Kind, MAGIC, RAW_MAX, VERSION, VERSION_MIN};
use crate::steps::{self, Steps, Wrong};
use crate::writer::IndexEntry;
use crate::{Error, Map, MapChange, Merged, Meta, Stream};

/// The most bytes of MAP chunks that are read, decoded.
const MAPS_MAX: u64 = 256 << 20;

/// A recording that is read.
pub struct Reader<R> {
    from: R,
    decompressor: Decompressor<'static>,
    chunks: Vec<Chunk>,
    /// The number of the first blob of each BLOB chunk, and which chunk that is.
    blobs: Vec<(u64, usize)>,
    meta: Meta,
    map: Map,
    ending: Ending,
    /// The BLOB chunk that was decoded last.
    decoded: Option<(usize, Vec<u8>)>,
}

/// A chunk, and where its header is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) header: Header,
    pub(crate) at: u64,
}

impl Chunk {
    /// What is wrong with its records.
    pub(crate) fn wrong(&self, wrong: Wrong) -> Error {
        match wrong {
            Wrong::Content(why) => Error::Content { kind: self.header.kind, at: self.at, why },
            Wrong::Op(op) => Error::Op { at: self.at, op },
        }
    }
}

/// How a recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Bytes of the valid prefix.
    pub at: u64,
    /// The latest time at which one of its chunks begins, in nanoseconds.
    pub time_ns: u64,
    /// What is wrong with the bytes after the prefix; `None` for a recording that was finished.
    pub broken: Option<&'static str>,
}

impl Ending {
    /// Whether the recording was finished, and is all there.
    pub const fn complete(&self) -> bool {
        self.broken.is_none()
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(why) = self.broken else { return f.write_str("complete") };
        let (seconds, rest) = (self.time_ns / 1_000_000_000, self.time_ns % 1_000_000_000);
        write!(f, "incomplete, ends at {seconds}.{:06} s (byte {}): {why}", rest / 1000, self.at)
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the file's head, checks every chunk, and applies all of the map.
    ///
    /// # Errors
    /// When it cannot be read, is no recording or one of another version, has no META, or has a
    /// META or MAP chunk that is whole and makes no sense.
    pub fn open(mut from: R) -> Result<Self, Error> {
        from.seek(SeekFrom::Start(0))?;
        let (chunks, ending) = scan(&mut from)?;
        let mut reader = Self {
            from,
            decompressor: Decompressor::new()?,
            blobs: Vec::new(),
            chunks,
            meta: Meta::default(),
            map: Map::default(),
            ending,
            decoded: None,
        };
        reader.describe()?;
        Ok(reader)
    }

    /// Reads META and all of the map, and finds the blobs.
    fn describe(&mut self) -> Result<(), Error> {
        let first = self.chunks.first().copied().filter(|c| c.header.kind == Kind::Meta);
        self.meta = self.content(first.ok_or(Error::NoMeta)?)?;
        let (mut blobs, mut maps) = (0, 0);
        for at in 0..self.chunks.len() {
            let Some(&chunk) = self.chunks.get(at) else { break };
            match chunk.header.kind {
                Kind::Map => {
                    maps += u64::from(chunk.header.raw_len);
                    if maps > MAPS_MAX {
                        return Err(Error::TooMany { what: "bytes of maps", limit: MAPS_MAX });
                    }
                    let change = self.map_change(chunk)?;
                    self.map.apply(change);
                }
                Kind::Blob => {
                    self.blobs.push((blobs, at));
                    blobs += u64::from(chunk.header.records);
                }
                Kind::Index => self.check_index(chunk, at)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// What was run, and how it was recorded.
    pub const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Regions, slots and registers, of the whole recording.
    pub const fn map(&self) -> &Map {
        &self.map
    }

    /// How the recording ends.
    pub const fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The headers of all chunks, in the order of the file.
    pub fn chunks(&self) -> impl Iterator<Item = &Header> {
        self.chunks.iter().map(|chunk| &chunk.header)
    }

    /// How many records there are, the places of strings' data included.
    pub fn records(&self) -> u64 {
        let of = |header: &Header| match header.kind {
            Kind::Access | Kind::Steps => u64::from(header.records),
            _ => 0,
        };
        self.chunks().map(of).sum()
    }

    /// The streams that have records, in ascending order of their numbers.
    ///
    /// # Errors
    /// When the recording cannot be read.
    pub fn streams(&mut self) -> Result<Vec<Stream>, Error> {
        let mut streams = self.access_streams();
        for chunk in self.steps_chunks() {
            let payload = self.payload(chunk)?;
            streams
                .extend(steps::streams(&payload).map(|(streams, _)| streams).unwrap_or_default());
        }
        streams.sort_unstable();
        streams.dedup();
        Ok(streams)
    }

    /// The streams that have ACCESS chunks.
    pub(crate) fn access_streams(&self) -> Vec<Stream> {
        let accesses = self.chunks().filter(|header| header.kind == Kind::Access);
        let mut streams: Vec<_> = accesses.map(|header| Stream::of(header.stream)).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    /// The STEPS chunks, last first.
    pub(crate) fn steps_chunks(&self) -> Vec<Chunk> {
        let steps = self.chunks.iter().rev().filter(|chunk| chunk.header.kind == Kind::Steps);
        steps.copied().collect()
    }

    /// The records of a STEPS chunk.
    pub(crate) fn steps(&mut self, chunk: Chunk) -> Result<Steps, Error> {
        let payload = self.payload(chunk)?;
        let Header { records, first_time_ns, .. } = chunk.header;
        let steps = Steps::decode(&payload, records, first_time_ns, &mut self.decompressor);
        steps.map_err(|wrong| chunk.wrong(wrong))
    }

    /// All records, in the order in which they were made.
    ///
    /// # Errors
    /// When there are more streams than any machine has.
    pub fn merged(&mut self) -> Result<Merged<'_, R>, Error> {
        Merged::new(self)
    }

    /// A blob.
    ///
    /// # Errors
    /// When there is none of this number, or it cannot be read.
    pub fn blob(&mut self, number: u32) -> Result<&[u8], Error> {
        let missing = Error::Missing { what: "blob", number: number.into() };
        let behind = self.blobs.partition_point(|(first, _)| *first <= u64::from(number));
        let found = behind.checked_sub(1).and_then(|at| self.blobs.get(at));
        let Some(&(first, at)) = found else { return Err(missing) };
        if !matches!(&self.decoded, Some((of, _)) if *of == at) {
            let Some(&chunk) = self.chunks.get(at) else { return Err(missing) };
            self.decoded = Some((at, self.payload(chunk)?));
        }
        let raw = self.decoded.as_ref().map_or(&[][..], |(_, raw)| raw);
        nth_blob(raw, u64::from(number) - first).ok_or(missing)
    }

    /// When the saved states of the machine were, in nanoseconds, in the order of their numbers.
    pub fn state_times(&self) -> Vec<u64> {
        let states = self.chunks().filter(|header| header.kind == Kind::State);
        states.map(|header| header.first_time_ns).collect()
    }

    /// A saved state of the machine and its time in nanoseconds, by its number.
    ///
    /// # Errors
    /// When there is none of this number, or it cannot be read.
    pub fn state(&mut self, number: u32) -> Result<(u64, Vec<u8>), Error> {
        let states = self.chunks.iter().filter(|chunk| chunk.header.kind == Kind::State);
        let found = states.copied().nth(usize::try_from(number).unwrap_or(usize::MAX));
        let chunk = found.ok_or(Error::Missing { what: "state", number: number.into() })?;
        Ok((chunk.header.first_time_ns, self.payload(chunk)?))
    }

    /// The ACCESS chunks of a stream, last first.
    pub(crate) fn chunks_of(&self, stream: Stream) -> Vec<Chunk> {
        let of = |chunk: &&Chunk| {
            chunk.header.kind == Kind::Access && chunk.header.stream == stream.number()
        };
        self.chunks.iter().rev().filter(of).copied().collect()
    }

    /// The bytes of a chunk, decoded.
    pub(crate) fn payload(&mut self, chunk: Chunk) -> Result<Vec<u8>, Error> {
        let Chunk { header, at } = chunk;
        self.from.seek(SeekFrom::Start(at + HEADER as u64))?;
        let mut stored = Vec::new();
        self.from.by_ref().take(header.stored_len.into()).read_to_end(&mut stored)?;
        let wrong = |why: &str| Error::Content { kind: header.kind, at, why: why.to_owned() };
        let raw = match header.codec {
            Codec::Raw => stored,
            Codec::Zstd => {
                let len = (header.raw_len as usize).min(RAW_MAX);
                let raw = self.decompressor.decompress(&stored, len);
                raw.map_err(|error| wrong(&error.to_string()))?
            }
            Codec::Unknown(_) => return Err(wrong("it is compressed in an unknown way")),
        };
        if raw.len() != header.raw_len as usize {
            return Err(wrong("it has another length than it says"));
        }
        Ok(raw)
    }

    fn content<T: DeserializeOwned>(&mut self, chunk: Chunk) -> Result<T, Error> {
        let raw = self.payload(chunk)?;
        let content = postcard::from_bytes(&raw);
        content.map_err(|error| chunk.wrong(Wrong::Content(error.to_string())))
    }

    /// What a MAP chunk tells.
    fn map_change(&mut self, chunk: Chunk) -> Result<MapChange, Error> {
        let raw = self.payload(chunk)?;
        let change = || {
            let (mut change, rest): (MapChange, _) = postcard::take_from_bytes(&raw)?;
            if !rest.is_empty() {
                change.banks = postcard::from_bytes(rest)?;
            }
            Ok(change)
        };
        change().map_err(|error: postcard::Error| chunk.wrong(Wrong::Content(error.to_string())))
    }

    /// Whether the index says what the scan has found.
    fn check_index(&mut self, chunk: Chunk, before: usize) -> Result<(), Error> {
        let index: Vec<IndexEntry> = self.content(chunk)?;
        let found = self.chunks.iter().take(before).map(|Chunk { header, at }| IndexEntry {
            kind: header.kind.number(),
            stream: header.stream,
            records: header.records,
            at: *at,
            first_time_ns: header.first_time_ns,
        });
        if found.eq(index) {
            return Ok(());
        }
        let why = "it lists other chunks than there are".to_owned();
        Err(Error::Content { kind: Kind::Index, at: chunk.at, why })
    }
}

/// The chunks of the longest valid prefix, and how it ends. Nothing is kept of them but headers.
fn scan(from: &mut impl Read) -> Result<(Vec<Chunk>, Ending), Error> {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let mut head = [0; HEAD];
    let len = fill(&mut from, &mut head)?;
    check_head(&head, len)?;
    let (mut chunks, mut at, mut time_ns) = (Vec::new(), HEAD as u64, 0);
    let broken = loop {
        let header = match next(&mut from, chunks.len())? {
            Ok(header) => header,
            Err(why) => break Some(why),
        };
        chunks.push(Chunk { header, at });
        at += HEADER as u64 + u64::from(header.stored_len);
        time_ns = time_ns.max(header.first_time_ns);
        if header.kind == Kind::End {
            break None;
        }
    };
    Ok((chunks, Ending { at, time_ns, broken }))
}

/// Whether the first `len` bytes of a file are the head of one of ours.
fn check_head(head: &[u8; HEAD], len: usize) -> Result<(), Error> {
    let (magic, rest) = head.split_at(MAGIC.len().min(len));
    if magic.is_empty() || !MAGIC.starts_with(magic) {
        return Err(Error::Magic);
    }
    if len < HEAD {
        return Err(Error::NoMeta);
    }
    match rest.first_chunk().copied().map(u32::from_le_bytes) {
        Some(VERSION_MIN..=VERSION) => Ok(()),
        found => Err(Error::Version { found: found.unwrap_or(0), known: [VERSION_MIN, VERSION] }),
    }
}

/// The next chunk's header, when the chunk is whole; else what is wrong with it.
fn next(from: &mut impl Read, number: usize) -> io::Result<Result<Header, &'static str>> {
    let mut bytes = [0; HEADER];
    match fill(from, &mut bytes)? {
        0 => return Ok(Err("the recorder was stopped before it was finished")),
        HEADER => {}
        _ => return Ok(Err("the file is cut off there")),
    }
    let (header, claimed) = Header::from_bytes(&bytes);
    if !header.plausible() {
        return Ok(Err("what follows is damaged"));
    }
    let mut left = u64::from(header.stored_len);
    let mut sum = chunk::checksum(&bytes, |sum| sum);
    let mut buffer = [0; 4096];
    while left > 0 {
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..len).unwrap_or_default();
        if fill(from, part)? < len {
            return Ok(Err("the file is cut off there"));
        }
        sum = crc32c::crc32c_append(sum, part);
        left -= len as u64;
    }
    if sum != claimed || u32::try_from(number) != Ok(header.number) {
        return Ok(Err("what follows is damaged"));
    }
    Ok(Ok(header))
}

/// Reads until `to` is full or the file ends; how much that was.
fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = to.get_mut(filled..) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The blob of this number in a chunk.
fn nth_blob(mut raw: &[u8], mut number: u64) -> Option<&[u8]> {
    loop {
        let (len, rest) = raw.split_first_chunk::<4>()?;
        let (blob, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        if number == 0 {
            return Some(blob);
        }
        (raw, number) = (rest, number - 1);
    }
}
