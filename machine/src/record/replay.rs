//! Playing a recording: the same board without KVM gets the same accesses at the same times and the
//! same inputs, and what it answers and puts out is compared with what was recorded.

pub(crate) mod board;
mod clock;
mod late;
mod script;
mod states;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek};

use trapline::{Handle, Registry};
use trapline_access::record::{Op, Record};
use trapline_device::{Direction, Requester, Size, Space};
use trapline_trace::chunk::Kind;
use trapline_trace::{Event, Map, Merged, Place, Reader, Stream};

use super::host::call_of;
use super::journal::{Input, Output};
use super::settings::Settings;
use super::states::RecordedState;
use crate::deliveries::LateWrites;
use board::Machine;
use late::Late;
use script::{Mismatch, Step};
pub use states::{Begin, Begun};

/// What is to be done beside playing.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to begin, if not with the first record.
    pub from: Option<Begin>,
    /// Stop before this record, counted over all streams from 0.
    pub until: Option<u64>,
    /// The devices, by their names on the board, whose states are wanted at the end.
    pub dump: Vec<String>,
    /// What a broken device would do, to see whether it is found.
    pub fault: Option<Fault>,
    /// Writes to these registers come late: before the next access to another one, or whatever else
    /// happens, and as if KVM had queued them.
    pub late: Vec<LateWrites>,
}

/// At each access to a register in one direction some bits of the value are the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The register: `serial0/uart LSR`.
    pub register: String,
    /// Which accesses to it.
    pub direction: Direction,
    /// The bits.
    pub bits: u64,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The saved state that it began at, if not at the beginning.
    pub begun: Option<Begun>,
    /// Records that were played.
    pub records: u64,
    /// Accesses among them, and how many of these were reads, whose values were compared.
    pub accesses: u64,
    /// See [`Verdict::accesses`].
    pub reads: u64,
    /// Inputs that devices were given.
    pub inputs: u64,
    /// Outputs that were compared.
    pub outputs: u64,
    /// Accesses that could not be made: the recording lacks their addresses, or memory that is not in
    /// the recording answered.
    pub skipped: u64,
    /// Machine time of the last record, in nanoseconds.
    pub at_ns: u64,
    /// The first thing that was different.
    pub difference: Option<Difference>,
    /// What is missing, if the recording was not finished.
    pub incomplete: Option<String>,
    /// What the recording says it has not seen, a sentence each.
    pub unseen: Vec<String>,
    /// The states that were asked for, by name: kind, version and bytes of the saved form.
    pub states: BTreeMap<String, trapline_device::Saved>,
}

/// The first thing that a replay found to be different. `Display` is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The record's number, over all streams.
    pub record: u64,
    /// Machine time in nanoseconds.
    pub at_ns: u64,
    /// Whose record it is.
    pub stream: String,
    /// Device, register and access, or the input or output.
    pub what: String,
    /// What was recorded.
    pub expected: String,
    /// What the replay has.
    pub got: String,
    /// The console's last line before it.
    pub console: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, at_ns, stream, what, expected, got, console } = self;
        let (seconds, rest) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
        write!(
            f,
            "record {record} at {seconds}.{rest:09} s, {stream}: {what}: {expected} was recorded, the \
             replay has {got}"
        )?;
        match console.as_str() {
            "" => f.write_str("; the console has had no line before"),
            line => write!(f, "; the console's last line before is {line:?}"),
        }
    }
}

/// Why a recording cannot be played. One sentence each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    Trace(#[from] trapline_trace::Error),
    /// The recording is not enough.
    #[error("this recording cannot be replayed: {0}")]
    Unsuitable(String),
    /// The board of the recording cannot be built.
    #[error(transparent)]
    Board(#[from] crate::Error),
    /// There is no saved state to begin at.
    #[error("no snapshot to begin at: {0}")]
    NoSnapshot(String),
    /// The saved state to begin at is none of this machine.
    #[error("the snapshot to begin at cannot be restored: {0}")]
    Snapshot(#[from] crate::SnapshotError),
    /// There is no such device to tell the state of.
    #[error("the board has no device {name}; there are {devices}")]
    NoDevice {
        /// The name.
        name: String,
        /// Those that there are.
        devices: String,
    },
}

/// Plays a recording.
///
/// # Errors
/// When it cannot be played at all. What is different is in the [`Verdict`].
pub fn replay<R: Read + Seek>(from: R, options: &Options) -> Result<Verdict, ReplayError> {
    let mut reader = Reader::open(from)?;
    let settings = Settings::of(reader.meta()).map_err(ReplayError::Unsuitable)?;
    let machine = Machine::new(&settings, reader.map())?;
    for name in &options.dump {
        machine.check_device(name)?;
    }
    let begun = begin(&mut reader, &machine, options)?;
    let map = reader.map().clone();
    let player = Player {
        machine,
        map,
        handles: BTreeMap::new(),
        fault: options.fault.clone(),
        late: Late::new(&options.late),
        passed: None,
        verdict: Verdict { begun, unseen: reader.meta().unseen.clone(), ..Verdict::default() },
    };
    play(player, &mut reader, options)
}

/// Has the machine be where the replay is to begin.
fn begin<R: Read + Seek>(
    reader: &mut Reader<R>,
    machine: &Machine,
    options: &Options,
) -> Result<Option<Begun>, ReplayError> {
    let Some(from) = options.from else { return Ok(None) };
    let snapshot = states::number(reader, from)?;
    let state = states::state(reader, snapshot)?;
    machine.restore(&state)?;
    Ok(Some(Begun { snapshot, at_ns: state.snapshot.now_ns, record: None }))
}

/// Plays the records from where the machine is.
fn play<R: Read + Seek>(
    mut player: Player,
    reader: &mut Reader<R>,
    options: &Options,
) -> Result<Verdict, ReplayError> {
    let incomplete = !reader.ending().complete();
    let end_ns = incomplete.then(|| end_of_all(reader)).flatten();
    player.verdict.incomplete = incomplete.then(|| reader.ending().to_string());
    let until = options.until.unwrap_or(u64::MAX);
    let mut merged = reader.merged()?;
    let mut waiting = player.first(&mut merged, until)?;
    loop {
        let mut step = Vec::from_iter(waiting.take());
        while let Some(event) = merged.next()? {
            if step.first().is_some_and(|first| first.time_ns != event.time_ns) {
                waiting = Some(event);
                break;
            }
            step.push(event);
        }
        let Some(first) = step.first().filter(|first| first.number < until) else { break };
        if end_ns.is_some_and(|end_ns| first.time_ns >= end_ns) {
            break;
        }
        // Writes that are late have not led to the state that was saved.
        let saved = step.iter().find(|event| event.record.op == Op::Snapshot);
        let number = saved.filter(|_| options.late.is_empty());
        let number = number.and_then(|saved| u32::try_from(saved.record.value).ok());
        player.passed = number.and_then(|number| states::state(merged.reader(), number).ok());
        let mut script = Step::default();
        for event in &step {
            script.add(event, |number| Ok(merged.reader().blob(number)?.to_vec()))?;
        }
        // What comes of a part of a step is nothing to compare.
        let last = incomplete && waiting.is_none();
        let whole = !last && step.iter().all(|event| event.number < until);
        step.retain(|event| event.number < until);
        player.verdict.difference = player.next(step, script, whole);
        if player.verdict.difference.is_some() {
            break;
        }
    }
    let mut states = player.machine.save();
    states.retain(|name, _| options.dump.contains(name));
    Ok(Verdict { states, ..player.verdict })
}

/// Where the last of all streams ends, of a recording that was not finished and has each stream in chunks of
/// its own: where the last map begins.
fn end_of_all<R: Read + Seek>(reader: &Reader<R>) -> Option<u64> {
    let has = |kind| reader.chunks().filter(move |head| head.kind == kind);
    has(Kind::Access).next()?;
    Some(has(Kind::Map).map(|head| head.first_time_ns).max().unwrap_or(0))
}

struct Player {
    machine: Machine,
    map: Map,
    handles: BTreeMap<Stream, Handle>,
    fault: Option<Fault>,
    late: Late,
    /// What was saved in the step that is played.
    passed: Option<RecordedState>,
    verdict: Verdict,
}

/// An access of the recording, and where it goes.
struct Made<'a> {
    event: &'a Event,
    space: Space,
    addr: u64,
}

impl Player {
    /// The first record that is to be played.
    fn first<R: Read + Seek>(
        &mut self,
        merged: &mut Merged<'_, R>,
        until: u64,
    ) -> Result<Option<Event>, ReplayError> {
        let Some(begun) = &mut self.verdict.begun else { return Ok(merged.next()?) };
        let first = loop {
            match merged.next()? {
                Some(event) if event.time_ns <= begun.at_ns => {}
                first => break first,
            }
        };
        begun.record = first.as_ref().map(|first| first.number);
        match begun.record {
            Some(record) if record >= until => Err(ReplayError::NoSnapshot(format!(
                "snapshot {} is before record {record}, and the replay ends before record {until}",
                begun.snapshot
            ))),
            _ => Ok(first),
        }
    }

    /// Plays everything of one stamp, or has it wait.
    fn next(&mut self, step: Vec<Event>, script: Step, whole: bool) -> Option<Difference> {
        if self.late.takes(&self.map, &step) {
            let event = step.first().cloned()?;
            let mismatch = self.late.queue(step, script)?;
            return Some(self.crossed(&event, &mismatch, None));
        }
        let (step, script) = self.late.before(step, script);
        self.step(&step, script, whole)
    }

    /// Plays everything of one stamp, that of the last. What was late comes before.
    fn step(&mut self, events: &[Event], script: Step, whole: bool) -> Option<Difference> {
        let (first, last) = (events.first()?, events.last()?);
        self.verdict.at_ns = last.time_ns;
        self.machine.clock.set(last.time_ns);
        self.verdict.inputs += script.inputs() as u64;
        self.verdict.outputs += script.outputs() as u64;
        self.machine.script.begin(script);
        for event in events {
            self.verdict.records += 1;
            let wrong = match event.record.op {
                Op::Access(_) | Op::Odd { .. } | Op::String(_) => self.access(event),
                Op::In => self.input(event),
                Op::Reset => {
                    self.machine.reset();
                    None
                }
                Op::Snapshot => self.pass(event),
                _ => None,
            };
            if wrong.is_some() {
                return wrong;
            }
        }
        let mismatch = self.machine.script.end().filter(|_| whole)?;
        // The access or input that the step is, rather than what came of it.
        let is_cause = |event: &&Event| event.record.op != Op::Out && event.time_ns == last.time_ns;
        let cause = events.iter().find(is_cause).unwrap_or(first);
        let last = self.last_access(cause);
        Some(self.crossed(cause, &mismatch, last))
    }

    /// Makes an access.
    fn access(&mut self, event: &Event) -> Option<Difference> {
        let (direction, len, space, _) = event.record.access()?;
        let Some(addr) = self.address(&event.record, space) else {
            self.verdict.skipped += 1;
            return None;
        };
        self.verdict.accesses += 1;
        let made = Made { event, space, addr };
        let string = matches!(event.record.op, Op::String(_));
        match (direction, string) {
            (Direction::Read, false) => self.read(&made, len),
            (Direction::Read, true) => self.read_string(&made, len),
            (Direction::Write, false) => {
                self.write(&made, len);
                None
            }
            (Direction::Write, true) => {
                let size = Size::new(len).unwrap_or(Size::Byte);
                let port = u16::try_from(addr).ok()?;
                self.handle(event.stream).write_rep(port, size, &event.data);
                None
            }
        }
    }

    fn read(&mut self, made: &Made<'_>, len: usize) -> Option<Difference> {
        let mut data = [0; 8];
        let bytes = data.get_mut(..len)?;
        self.handle(made.event.stream).read(made.space, made.addr, bytes);
        self.verdict.reads += 1;
        let mut got = u64::from_le_bytes(data);
        if self.fault.is_some() {
            let last = self.last_access(made.event).unwrap_or_default();
            let name = last.split_once(" (").map(|(name, _)| name);
            got ^= self.fault_of(name, Direction::Read);
        }
        let expected = made.event.record.value;
        if got == expected || self.memory_answers(made) {
            return None;
        }
        let hex = |value: u64| format!("{value:#x}");
        Some(self.different(made.event, hex(expected), hex(got)))
    }

    fn read_string(&mut self, made: &Made<'_>, len: usize) -> Option<Difference> {
        let size = Size::new(len).unwrap_or(Size::Byte);
        let mut data = vec![0; made.event.data.len()];
        let port = u16::try_from(made.addr).ok()?;
        self.handle(made.event.stream).read_rep(port, size, &mut data);
        self.verdict.reads += 1;
        let same = data == made.event.data;
        let show = |data: &[u8]| format!("{:02x?}", data.get(..data.len().min(16)).unwrap_or(data));
        (!same).then(|| self.different(made.event, show(&made.event.data), show(&data)))
    }

    fn write(&mut self, made: &Made<'_>, len: usize) {
        let mut value = made.event.record.value;
        if self.fault.is_some() {
            let write = Direction::Write;
            let name = self.machine.registry.name_at(made.space, made.addr, write);
            value ^= self.fault_of(name.as_deref(), write);
        }
        let bytes = value.to_le_bytes();
        let data = bytes.get(..len).unwrap_or(&bytes);
        self.handle(made.event.stream).write(made.space, made.addr, data);
    }

    /// Does what came from outside.
    fn input(&mut self, event: &Event) -> Option<Difference> {
        let Record { offset, value, .. } = event.record;
        let input = Input::of(offset).filter(|input| input.begins())?;
        let bytes = self.machine.script.take(input, &event.record);
        match input {
            Input::Wake => {
                if let Err(why) = self.machine.clock.fire(value) {
                    let what = format!("timer {value}");
                    return Some(self.told(event, what, "it expired".to_owned(), why));
                }
            }
            Input::Acknowledge => {
                let got = self.machine.acknowledge().map_or(0, |vector| u64::from(vector) + 1);
                if got != value {
                    let words = |value: u64| match value.checked_sub(1) {
                        Some(vector) => format!("vector {vector:#x}"),
                        None => "no request".to_owned(),
                    };
                    let what = "pic: interrupt acknowledge".to_owned();
                    return Some(self.told(event, what, words(value), words(got)));
                }
            }
            Input::Eoi => self.machine.eoi(u8::try_from(value).unwrap_or(u8::MAX)),
            Input::Event if !self.machine.script.fire(event.record.slot, value) => {
                let what = format!("handler {}", call_of(value).0);
                let (expected, got) = ("its call".to_owned(), "no such handler".to_owned());
                return Some(self.told(event, what, expected, got));
            }
            Input::Retry => self.machine.retry(),
            Input::Resize => self.machine.resize(&bytes),
            Input::Poll => self.machine.poll(),
            Input::Break => self.machine.send_break(),
            Input::Keys => self.machine.keys(&bytes),
            Input::Movement => self.machine.movement(&bytes),
            // A device asks for them.
            _ => {}
        }
        None
    }

    fn handle(&mut self, stream: Stream) -> &mut Handle {
        let registry: &Registry = &self.machine.registry;
        self.handles.entry(stream).or_insert_with(|| match stream.as_vcpu() {
            Some(index) => registry.handle(index.into()),
            None if stream == Stream::DMA => registry.handle_for(Requester::Dma),
            None => registry.handle(u32::from(Stream::VCPUS_MAX)),
        })
    }

    fn address(&self, record: &Record, space: Space) -> Option<u64> {
        let base = match self.map.slot(record.slot)? {
            Place::Region { id, page } => self.map.region(id)?.base?.checked_add(page << 16)?,
            Place::Unclaimed { page, .. } => page << 16,
        };
        let addr = base.checked_add(record.offset.into())?;
        (addr <= space.last()).then_some(addr)
    }

    /// The last access, as reports tell it, without what was read or written.
    fn last_access(&self, event: &Event) -> Option<String> {
        let recent = self.handles.get(&event.stream)?.recent();
        let last = recent.last().filter(|last| last.at_ns == event.time_ns)?;
        let name = last.name.as_deref().unwrap_or("unclaimed");
        let summary = &last.summary;
        let (space, addr, direction) = (summary.space, summary.addr, summary.direction);
        let unit = if summary.width == 1 { "byte" } else { "bytes" };
        Some(format!("{name} ({space} {addr:#x}) {direction} {} {unit}", summary.width))
    }

    /// The bits that are wrong at an access to this register.
    fn fault_of(&self, register: Option<&str>, direction: Direction) -> u64 {
        let fault = self.fault.as_ref().filter(|fault| fault.direction == direction);
        fault
            .filter(|fault| Some(fault.register.as_str()) == register)
            .map_or(0, |fault| fault.bits)
    }

    /// Whether what the guest has in its memory is what was read: RAM or a frame buffer, of which the
    /// recording has nothing.
    fn memory_answers(&mut self, made: &Made<'_>) -> bool {
        let memory = self.machine.registry.is_memory_at(made.space, made.addr);
        if memory {
            self.verdict.skipped += 1;
        }
        memory
    }

    fn different(&self, event: &Event, expected: String, got: String) -> Difference {
        let what = self.last_access(event).unwrap_or_else(|| "an access".to_owned());
        self.told(event, what, expected, got)
    }

    /// An input or output that was not the one recorded.
    fn crossed(&self, event: &Event, mismatch: &Mismatch, last: Option<String>) -> Difference {
        let port = self.map.devices().get(usize::from(mismatch.port));
        let port = port.map_or("somebody", String::as_str);
        let after = last.map_or_else(String::new, |last| format!(" after {last}"));
        let what = format!("{port}: {}{after}", mismatch.what);
        self.told(event, what, mismatch.expected.clone(), mismatch.got.clone())
    }

    fn told(&self, event: &Event, what: String, expected: String, got: String) -> Difference {
        Difference {
            record: event.number,
            at_ns: event.time_ns,
            stream: event.stream.to_string(),
            what,
            expected,
            got,
            console: self.machine.console_line(),
        }
    }
}
