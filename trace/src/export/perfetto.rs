//! Perfetto's trace format (its `protos/perfetto/trace`): packets of TrackEvents in protobuf, written
//! here, as five messages are all it takes.
//!
//! Each stream is a thread of one process, each region a track below it, and each access an instant
//! on that, named by its register, with value and address as arguments. Names are sent once and
//! meant by number after that.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::{Access, Exporter, verb};
use crate::{Event, Meta, Sites, Stream};

/// Numbers of fields, by message.
mod field {
    pub(super) mod trace {
        pub(in super::super) const PACKET: u64 = 1;
    }
    pub(super) mod packet {
        pub(in super::super) const TIMESTAMP: u64 = 8;
        pub(in super::super) const SEQUENCE_ID: u64 = 10;
        pub(in super::super) const TRACK_EVENT: u64 = 11;
        pub(in super::super) const INTERNED_DATA: u64 = 12;
        pub(in super::super) const SEQUENCE_FLAGS: u64 = 13;
        pub(in super::super) const TRACK_DESCRIPTOR: u64 = 60;
    }
    pub(super) mod descriptor {
        pub(in super::super) const UUID: u64 = 1;
        pub(in super::super) const NAME: u64 = 2;
        pub(in super::super) const PROCESS: u64 = 3;
        pub(in super::super) const THREAD: u64 = 4;
        pub(in super::super) const PARENT: u64 = 5;
    }
    pub(super) mod process {
        pub(in super::super) const PID: u64 = 1;
        pub(in super::super) const NAME: u64 = 6;
    }
    pub(super) mod thread {
        pub(in super::super) const PID: u64 = 1;
        pub(in super::super) const TID: u64 = 2;
        pub(in super::super) const NAME: u64 = 5;
    }
    pub(super) mod event {
        pub(in super::super) const ANNOTATION: u64 = 4;
        pub(in super::super) const KIND: u64 = 9;
        pub(in super::super) const NAME_ID: u64 = 10;
        pub(in super::super) const TRACK: u64 = 11;
        pub(in super::super) const NAME: u64 = 23;
    }
    pub(super) mod annotation {
        pub(in super::super) const NAME_ID: u64 = 1;
        pub(in super::super) const UINT: u64 = 3;
        pub(in super::super) const TEXT: u64 = 6;
        pub(in super::super) const POINTER: u64 = 7;
    }
    pub(super) mod interned {
        pub(in super::super) const EVENT_NAMES: u64 = 2;
        pub(in super::super) const ANNOTATION_NAMES: u64 = 3;
        pub(in super::super) const ID: u64 = 1;
        pub(in super::super) const NAME: u64 = 2;
    }
}

/// TYPE_INSTANT of a TrackEvent.
const INSTANT: u64 = 3;
/// SEQ_INCREMENTAL_STATE_CLEARED: names that were sent before mean nothing any more.
const CLEARED: u64 = 1;
/// SEQ_NEEDS_INCREMENTAL_STATE: names that were sent before are used.
const NEEDED: u64 = 2;
/// The one sequence of packets, and the one process.
const SEQUENCE: u64 = 1;
const PROCESS_TRACK: u64 = 1;
const PID: u64 = 1;
/// Names of arguments, by number.
const ARGUMENTS: [(u64, &str); 5] =
    [(1, "value"), (2, "address"), (3, "bytes"), (4, "outcome"), (5, "fields")];

/// A message of protobuf.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut number: u64) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                self.0.push(low & 0x7f);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    /// A field with a number (wire type 0).
    fn number(mut self, field: u64, value: u64) -> Self {
        self.raw(field << 3);
        self.raw(value);
        self
    }

    /// A field with bytes (wire type 2): text, or a message.
    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.raw(field << 3 | 2);
        self.raw(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }
}

#[derive(Default)]
pub(super) struct Perfetto {
    /// The track of each region in each stream.
    tracks: HashMap<(Stream, String), u64>,
    next_track: u64,
    /// Sites whose register's name has been sent.
    named: HashSet<usize>,
}

fn packet(to: &mut dyn Write, packet: Message) -> io::Result<()> {
    let packet = packet.number(field::packet::SEQUENCE_ID, SEQUENCE);
    to.write_all(&Message::default().message(field::trace::PACKET, &packet).0)
}

/// The track of a stream.
fn thread_track(stream: Stream) -> u64 {
    u64::from(stream.number()) + 2
}

fn interned(id: u64, name: &str) -> Message {
    let named = Message::default().number(field::interned::ID, id);
    named.bytes(field::interned::NAME, name.as_bytes())
}

impl Perfetto {
    /// The track of an access, announced when it is the first there.
    fn track(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<u64> {
        let stream = access.event.stream;
        let key = (stream, access.site.region.clone());
        if let Some(track) = self.tracks.get(&key) {
            return Ok(*track);
        }
        // Above those of the streams.
        let track = 1 << 20 | self.next_track;
        self.next_track += 1;
        let descriptor = Message::default()
            .number(field::descriptor::UUID, track)
            .bytes(field::descriptor::NAME, key.1.as_bytes())
            .number(field::descriptor::PARENT, thread_track(stream));
        packet(to, Message::default().message(field::packet::TRACK_DESCRIPTOR, &descriptor))?;
        self.tracks.insert(key, track);
        Ok(track)
    }
}

/// The arguments of an access.
fn annotations(mut event: Message, access: &Access<'_>) -> Message {
    let site = access.site;
    let values = access.values();
    let value = values.first().copied().unwrap_or(0);
    let of = |id: u64| Message::default().number(field::annotation::NAME_ID, id);
    event =
        event.message(field::event::ANNOTATION, &of(1).number(field::annotation::POINTER, value));
    event = event.message(
        field::event::ANNOTATION,
        &of(2).number(field::annotation::POINTER, access.address),
    );
    let bytes = (site.bytes * values.len()) as u64;
    event = event.message(field::event::ANNOTATION, &of(3).number(field::annotation::UINT, bytes));
    let outcome = format!("{} {}", verb(site.direction), access.outcome());
    event = event.message(
        field::event::ANNOTATION,
        &of(4).bytes(field::annotation::TEXT, outcome.as_bytes()),
    );
    match site.decode(value) {
        fields if fields.is_empty() => event,
        fields => event.message(
            field::event::ANNOTATION,
            &of(5).bytes(field::annotation::TEXT, fields.as_bytes()),
        ),
    }
}

impl Exporter for Perfetto {
    fn begin(&mut self, to: &mut dyn Write, meta: &Meta, streams: &[Stream]) -> io::Result<()> {
        let mut names = Message::default();
        for (id, name) in ARGUMENTS {
            names = names.message(field::interned::ANNOTATION_NAMES, &interned(id, name));
        }
        let first = Message::default()
            .number(field::packet::SEQUENCE_FLAGS, CLEARED)
            .message(field::packet::INTERNED_DATA, &names);
        packet(to, first)?;
        let board = crate::sites::clean(&meta.board);
        let process = Message::default()
            .number(field::process::PID, PID)
            .bytes(field::process::NAME, format!("guest {board}").trim_end().as_bytes());
        let descriptor = Message::default()
            .number(field::descriptor::UUID, PROCESS_TRACK)
            .message(field::descriptor::PROCESS, &process);
        packet(to, Message::default().message(field::packet::TRACK_DESCRIPTOR, &descriptor))?;
        for &stream in streams {
            let thread = Message::default()
                .number(field::thread::PID, PID)
                .number(field::thread::TID, thread_track(stream))
                .bytes(field::thread::NAME, stream.to_string().as_bytes());
            let descriptor = Message::default()
                .number(field::descriptor::UUID, thread_track(stream))
                .number(field::descriptor::PARENT, PROCESS_TRACK)
                .message(field::descriptor::THREAD, &thread);
            packet(to, Message::default().message(field::packet::TRACK_DESCRIPTOR, &descriptor))?;
        }
        Ok(())
    }

    fn access(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<()> {
        let track = self.track(to, access)?;
        let name = access.number as u64 + 1;
        let mut out = Message::default()
            .number(field::packet::TIMESTAMP, access.event.time_ns)
            .number(field::packet::SEQUENCE_FLAGS, NEEDED);
        if self.named.insert(access.number) {
            let text = format!("{} {}", verb(access.site.direction), access.site.register);
            let names =
                Message::default().message(field::interned::EVENT_NAMES, &interned(name, &text));
            out = out.message(field::packet::INTERNED_DATA, &names);
        }
        let event = Message::default()
            .number(field::event::KIND, INSTANT)
            .number(field::event::NAME_ID, name)
            .number(field::event::TRACK, track);
        let event = annotations(event, access);
        packet(to, out.message(field::packet::TRACK_EVENT, &event))
    }

    fn other(&mut self, to: &mut dyn Write, event: &Event, sites: &Sites) -> io::Result<()> {
        let Some(said) = crate::show::words(event, sites) else { return Ok(()) };
        let message = Message::default()
            .number(field::event::KIND, INSTANT)
            .number(field::event::TRACK, thread_track(event.stream))
            .bytes(field::event::NAME, said.as_bytes());
        let out = Message::default()
            .number(field::packet::TIMESTAMP, event.time_ns)
            .message(field::packet::TRACK_EVENT, &message);
        packet(to, out)
    }
}
