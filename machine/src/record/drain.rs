//! The thread that takes what was recorded out of the rings and writes it to the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use trapline::{Recorder, RegionId, Registry, Slot, Step, StreamId, Taken};
use trapline_access::record::{Op, Record, TICK_NS};
use trapline_trace::{
    Bank, MapChange, MapRegion, MapWindow, Meta, Part, Place, Register, Registers, Stream, Writer,
};

use super::Recording;
use super::states::{Pace, Saver};
use crate::recorded_map;

/// How old what is not in the file yet can be, unless the host is too busy to run the thread.
const PERIOD: Duration = Duration::from_millis(200);

/// Writes a recording until it is dropped.
pub(crate) struct Drain {
    thread: Option<JoinHandle<Result<(), trapline_trace::Error>>>,
    over: Arc<AtomicBool>,
    /// A state is wanted now.
    #[cfg(test)]
    wanted: std::sync::mpsc::Sender<std::sync::mpsc::Sender<bool>>,
}

impl Drain {
    /// Starts to write to `file`, which is empty.
    pub(crate) fn start(
        file: File,
        meta: &Meta,
        (recorder, recording): (&Arc<Recorder>, &Arc<Recording>),
        registry: &Registry,
        saver: Saver,
    ) -> Result<Self, trapline_trace::Error> {
        let mut writer = Writer::new(BufWriter::new(file), meta)?;
        writer.flush()?;
        let over = Arc::<AtomicBool>::default();
        let mut state = State {
            recorder: Arc::clone(recorder),
            recording: Arc::clone(recording),
            writer,
            slots: 0,
            ports: 0,
            regions: HashMap::new(),
            built: Built::of(registry),
            saver,
            states: 0,
            pace: Pace::of(meta),
        };
        let told = Arc::clone(&over);
        #[cfg(test)]
        let (wanted, asks) = std::sync::mpsc::channel::<std::sync::mpsc::Sender<bool>>();
        let run = move || {
            state.recorder.wake_when_filling(std::thread::current());
            loop {
                #[cfg(test)]
                asks.try_iter().for_each(|ask| {
                    let saved = state.saver.is_at_rest() && matches!(state.save(), Ok(true));
                    let _ = ask.send(saved);
                });
                let last = told.load(Ordering::Acquire);
                let mut drained = state.drain();
                // Nothing comes after the last records.
                if drained.is_ok() && !last {
                    drained = state.save_now_and_then();
                }
                if let Err(error) = drained {
                    // The guest waits for nobody who does not come.
                    state.recorder.give_up();
                    return Err(error);
                }
                if last {
                    state.recorder.give_up();
                    return state.writer.finish().map(drop);
                }
                std::thread::park_timeout(PERIOD);
            }
        };
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(run)?;
        Ok(Self {
            thread: Some(thread),
            over,
            #[cfg(test)]
            wanted,
        })
    }

    /// Has a state saved now, if the machine is at rest: whether it was.
    #[cfg(test)]
    pub(crate) fn save_now(&self) -> bool {
        let (done, answer) = std::sync::mpsc::channel();
        let asked = self.wanted.send(done);
        self.thread.iter().for_each(|thread| thread.thread().unpark());
        asked.is_ok() && answer.recv().unwrap_or(false)
    }

    /// Writes what is left and the end of the file. Nothing of the guest runs any more.
    pub(crate) fn finish(&mut self) -> Result<(), trapline_trace::Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.over.store(true, Ordering::Release);
        thread.thread().unpark();
        match thread.join() {
            Ok(done) => done,
            Err(bug) => std::panic::resume_unwind(bug),
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!("the recording is not complete: {error}");
        }
    }
}

struct State {
    recorder: Arc<Recorder>,
    recording: Arc<Recording>,
    writer: Writer<BufWriter<File>>,
    /// How many slots and ports are in the file.
    slots: usize,
    ports: usize,
    /// A number for each region at each place.
    regions: HashMap<(RegionId, u64), u64>,
    built: Built,
    saver: Saver,
    /// How many saved states are in the file.
    states: u32,
    pace: Pace,
}

/// The regions of the machine as it was built, by their ids in the registry.
struct Built {
    windows: HashMap<u64, Vec<MapWindow>>,
    registers: HashMap<u64, Vec<Register>>,
    banks: Vec<Bank>,
}

impl Built {
    fn of(registry: &Registry) -> Self {
        let MapChange { regions, registers, banks, .. } = recorded_map::of_registry(registry);
        Self {
            windows: regions.into_iter().map(|region| (region.id, region.windows)).collect(),
            registers: registers.into_iter().map(|of| (of.id, of.registers)).collect(),
            banks,
        }
    }
}

impl State {
    /// Writes what there is. All streams are in the file up to the same moment then.
    fn drain(&mut self) -> Result<(), trapline_trace::Error> {
        let taken = self.recorder.take();
        self.write(&taken)
    }

    /// Saves the state of the machine, if it is time for that and the machine is at rest.
    fn save_now_and_then(&mut self) -> Result<(), trapline_trace::Error> {
        let due = self.pace.is_due(self.writer.records(), self.writer.len());
        if due && self.saver.is_at_rest() {
            self.save()?;
        }
        Ok(())
    }

    /// Writes what there is and what state it has led to, if the machine is at rest; whether it is.
    fn save(&mut self) -> Result<bool, trapline_trace::Error> {
        let (recorder, saver, number) = (&self.recorder, &self.saver, self.states);
        let look = |step: &Step<'_>| saver.save(recorder, step, number);
        let Some((taken, state)) = recorder.take_and_look(look) else { return Ok(false) };
        self.write(&taken)?;
        let Some(state) = state else { return Ok(true) };
        let before = self.writer.len();
        match state.to_bytes() {
            Some(bytes) => {
                self.states = self.writer.state(state.snapshot.now_ns, &bytes)? + 1;
                let (records, end) = (self.writer.records(), self.writer.len());
                self.pace.written(end - before, records, end);
            }
            // A machine whose state is too long for a chunk has no more of them.
            None => self.pace.stop(),
        }
        self.writer.flush()?;
        Ok(true)
    }

    fn write(&mut self, taken: &[Taken]) -> Result<(), trapline_trace::Error> {
        let first_ns = taken.iter().map(first_ns).min();
        let Some(first_ns) = first_ns else { return Ok(()) };
        // What those records name was there before they were. There may be more by now, which others will.
        let blobs = self.recording.take_blobs();
        let change = self.change();
        if change != MapChange::default() {
            self.writer.map(first_ns, &change)?;
        }
        let mut rest = blobs.as_slice();
        while !rest.is_empty() {
            let (some, later) = rest.split_at(together(rest));
            let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
            self.writer.blobs(first_ns, &some)?;
            rest = later;
        }
        let parts: Vec<_> = taken.iter().map(part).collect();
        self.writer.steps(&parts)?;
        Ok(self.writer.flush()?)
    }

    /// What has come to the map since the last time.
    fn change(&mut self) -> MapChange {
        let (slots, devices) =
            (self.recorder.slots(self.slots), self.recording.ports.since(self.ports));
        let mut change = MapChange { devices, ..MapChange::default() };
        for (number, slot) in (self.slots..).zip(&slots) {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let place = self.place(slot, &mut change);
            change.slots.push(trapline_trace::Slot { number, place });
        }
        self.slots += slots.len();
        self.ports += change.devices.len();
        change
    }

    /// What a slot is of. A region that has moved is another one for the file: then its address is
    /// all there is to know.
    fn place(&mut self, slot: &Slot, change: &mut MapChange) -> Place {
        let Some(region) = &slot.region else {
            return Place::Unclaimed { space: slot.space, page: slot.base >> 16 };
        };
        let next = self.regions.len() as u64 + 1;
        let id = *self.regions.entry((region.id, region.base)).or_insert(next);
        if id == next {
            change.regions.push(MapRegion {
                id,
                device: region.name.device.to_string(),
                region: region.name.region.to_string(),
                space: slot.space,
                base: Some(region.base),
                len: region.len,
                device_offset: region.device_offset,
                windows: self.built.windows.get(&region.id.0).cloned().unwrap_or_default(),
            });
            if let Some(registers) = self.built.registers.get(&region.id.0) {
                change.registers.push(Registers { id, registers: registers.clone() });
            }
            let banks = self.built.banks.iter().filter(|bank| bank.id == region.id.0);
            change.banks.extend(banks.map(|bank| Bank { id, ..bank.clone() }));
        }
        Place::Region { id, page: (slot.base - region.base) >> 16 }
    }
}

/// The most blobs of a chunk.
const BLOBS_AT_ONCE: usize = 4096;

/// The most bytes of a chunk with more than one blob.
const BYTES_AT_ONCE: usize = 1 << 20;

/// How many of these are to be in one chunk: one at least.
fn together(blobs: &[Vec<u8>]) -> usize {
    let mut bytes = 0_usize;
    let few = blobs.iter().take(BLOBS_AT_ONCE).take_while(|blob| {
        bytes = bytes.saturating_add(blob.len());
        bytes <= BYTES_AT_ONCE
    });
    few.count().max(1)
}

/// What was taken, for the file.
fn part(taken: &Taken) -> Part<'_> {
    let Taken { stream, words, since_ns } = taken;
    Part { stream: number(*stream), first_time_ns: first_ns_of(*since_ns, words), words }
}

fn first_ns(taken: &Taken) -> u64 {
    first_ns_of(taken.since_ns, &taken.words)
}

/// The time of the first of these records, which come after one at `since_ns`.
fn first_ns_of(since_ns: u64, words: &[[u64; 2]]) -> u64 {
    match words.first().map(|words| Record::decode(*words)) {
        Some(Ok(Record { op: Op::Time, value, .. })) => value,
        Some(Ok(record)) => since_ns + u64::from(record.delta) * TICK_NS,
        _ => since_ns,
    }
}

/// The stream's number in the file.
fn number(stream: StreamId) -> Stream {
    match stream {
        StreamId::Vcpu(index) => Stream::vcpu(u16::try_from(index).unwrap_or(u16::MAX)),
        StreamId::Queued => Stream::SHARED,
        StreamId::Events => Stream::EXTERNAL,
    }
}
