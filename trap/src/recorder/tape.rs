//! A handle's side of the recorder.

use std::fmt;
use std::sync::Arc;

use trapline_access::record::{Op, Outcome, Record};
use trapline_access::{Direction, Requester, Space};

use crate::recorder::names::NameCache;
use crate::recorder::slots::SlotCache;
use crate::recorder::{Recorder, Step, Stream, StreamId};
use crate::region::Entry;
use crate::watch::AccessSummary;

/// What a vCPU's handle records with.
pub(crate) struct Tape {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) track: Track,
    /// The stamp of the step before which all is nobody's business any more.
    pub(crate) forgotten: Option<u64>,
}

impl Tape {
    pub(crate) fn new(recorder: &Arc<Recorder>, vcpu: u32) -> Box<Self> {
        let track = Track::new(recorder.stream(vcpu));
        Box::new(Self { recorder: Arc::clone(recorder), track, forgotten: None })
    }

    /// Forgets all accesses up to now.
    pub(crate) fn forget(&mut self) {
        self.forgotten = Some(self.recorder.step().at);
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.track.stream.release();
    }
}

/// The writer's side of one stream.
pub(crate) struct Track {
    stream: Arc<Stream>,
    slots: SlotCache,
    names: NameCache,
    recent: [Option<Recent>; RECENT],
    next_recent: usize,
}

/// How many accesses a report tells of.
const RECENT: usize = 32;

/// What a record does not say of one of the last accesses.
#[derive(Clone, Copy)]
struct Recent {
    /// Its record.
    record: u64,
    /// Its step's stamp.
    at: u64,
    addr: u64,
    /// The register, if its handler has said which.
    register: Option<&'static str>,
}

/// An access that has been made.
pub(crate) struct Access<'a> {
    pub(crate) op: Op,
    pub(crate) space: Space,
    pub(crate) addr: u64,
    pub(crate) value: u64,
    /// The elements of a string.
    pub(crate) data: &'a [u8],
    pub(crate) register: Option<&'static str>,
}

/// One of the last accesses to devices. `Display` tells it as reports do:
/// `serial0/uart THR (pio 0x3f8) write 1 byte 0x41`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentAccess {
    /// When it began, in nanoseconds of machine time.
    pub at_ns: u64,
    /// Who made it.
    pub requester: Requester,
    /// Device, region and register, by the names they had then; `None` if nobody claimed it.
    pub name: Option<String>,
    /// The access.
    pub summary: AccessSummary,
    /// What became of it.
    pub outcome: Outcome,
}

impl fmt::Display for RecentAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name.as_deref().unwrap_or("unclaimed"), self.summary)?;
        match self.outcome {
            Outcome::Handled | Outcome::Unclaimed => Ok(()),
            outcome => write!(f, " {outcome}"),
        }
    }
}

impl Track {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        let (slots, names) = Default::default();
        Self { stream, slots, names, recent: [None; RECENT], next_recent: 0 }
    }

    /// Records an access that was made in `step`. Whose it was, the map of `generation` and `find` say
    /// (see [`SlotCache::find`]).
    #[inline]
    pub(crate) fn access<'a>(
        &mut self,
        recorder: &Recorder,
        step: &Step<'_>,
        access: &Access<'_>,
        generation: Option<u64>,
        find: impl FnOnce() -> Option<&'a Entry>,
    ) {
        let Access { op, space, addr, value, data, register } = *access;
        let slots = recorder.slot_table();
        let (slot, offset) = self.slots.find(slots, generation, (space, addr), find);
        let record = Record { op, slot, offset, delta: 0, value };
        let at = step.at;
        let said = register.filter(|_| recorder.is_followed());
        let name = said.and_then(|name| self.names.find(recorder.names(), name));
        let hurry = || recorder.hurry();
        let (record, half) = self.stream.ring.push_named(at, record, name, data, hurry);
        if half {
            recorder.hurry();
        }
        self.stream.time(recorder, record, at);
        if let Some(recent) = self.recent.get_mut(self.next_recent % RECENT) {
            *recent = Some(Recent { record, at, addr, register });
        }
        self.next_recent = self.next_recent.wrapping_add(1);
    }

    /// The last accesses and the stamps of their steps, oldest first. `register` names the register of a region, by its id, that
    /// has not been named when it was accessed.
    pub(crate) fn recent(
        &self,
        recorder: &Recorder,
        register: impl Fn(trapline_access::RegionId, u64, Direction) -> Option<&'static str>,
    ) -> Vec<(u64, RecentAccess)> {
        let (newer, older) = self.recent.split_at(self.next_recent % RECENT);
        let told = older.iter().chain(newer).flatten();
        let tell = |recent: &Recent| Some((recent.at, self.tell(recent, recorder, &register)?));
        told.filter_map(tell).collect()
    }

    fn tell(
        &self,
        recent: &Recent,
        recorder: &Recorder,
        register: impl Fn(trapline_access::RegionId, u64, Direction) -> Option<&'static str>,
    ) -> Option<RecentAccess> {
        let words = self.stream.ring.get(recent.record)?;
        let record = Record::decode(words).ok()?;
        let (direction, width, space, outcome) = record.access()?;
        let length = usize::try_from(record.value).unwrap_or(usize::MAX);
        let (count, first) = match record.op {
            Op::String(_) => {
                let data = self.stream.ring.get(recent.record + 1).unwrap_or_default();
                let mask = u64::MAX >> (64 - 8 * width.min(8));
                (length / width, data.first().copied().unwrap_or_default() & mask)
            }
            _ => (1, record.value),
        };
        let slot = recorder.slot_table().get(record.slot);
        let name = slot.as_ref().and_then(|slot| {
            let (id, name, offset) = slot.reached(record.offset)?;
            let register = recent.register.or_else(|| register(id, offset, direction));
            Some(register.map_or_else(|| name.to_string(), |register| format!("{name} {register}")))
        });
        let requester = match self.stream.id {
            StreamId::Vcpu(vcpu) => Requester::Vcpu(vcpu),
            StreamId::Queued | StreamId::Events => Requester::Coalesced,
        };
        let summary = AccessSummary { space, addr: recent.addr, direction, width, count, first };
        Some(RecentAccess { at_ns: recorder.ns_of(recent.at), requester, name, summary, outcome })
    }
}
