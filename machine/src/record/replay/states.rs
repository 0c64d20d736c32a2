//! Saved states of a recording: a replay begins at one, and compares those that it passes.

use std::io::{Read, Seek};
use std::time::Duration;

use trapline_trace::{Event, Reader};

use super::{Difference, Player, ReplayError};
use crate::record::states::RecordedState;

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the saved state of this number, counted from 0.
    Snapshot(u32),
    /// At the last saved state up to this machine time, in nanoseconds.
    Time(u64),
}

/// The saved state that a replay began at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its number in the recording.
    pub snapshot: u32,
    /// Its machine time in nanoseconds.
    pub at_ns: u64,
    /// The number of the first record after it, if there is one.
    pub record: Option<u64>,
}

/// The number of the state to begin at.
pub(super) fn number<R: Read + Seek>(reader: &Reader<R>, from: Begin) -> Result<u32, ReplayError> {
    let times = reader.state_times();
    let (Some(first), Some(last)) = (times.first(), times.len().checked_sub(1)) else {
        return Err(ReplayError::NoSnapshot("the recording has none".to_owned()));
    };
    let found = match from {
        Begin::Snapshot(number) => Some(number).filter(|number| u64::from(*number) <= last as u64),
        Begin::Time(at_ns) => {
            let at = times.iter().rposition(|time| *time <= at_ns);
            at.and_then(|at| u32::try_from(at).ok())
        }
    };
    let seconds = |ns: u64| {
        let time = Duration::from_nanos(ns);
        format!("{}.{:06} s", time.as_secs(), time.subsec_micros())
    };
    found.ok_or_else(|| {
        ReplayError::NoSnapshot(match from {
            Begin::Snapshot(number) => format!("there is no {number}, the last one is {last}"),
            Begin::Time(at_ns) => {
                format!("the first one is at {}, later than {}", seconds(*first), seconds(at_ns))
            }
        })
    })
}

/// The state of this number.
pub(super) fn state<R: Read + Seek>(
    reader: &mut Reader<R>,
    number: u32,
) -> Result<RecordedState, ReplayError> {
    let (at_ns, bytes) = reader.state(number)?;
    let state = postcard::from_bytes::<RecordedState>(&bytes);
    let unreadable = || ReplayError::Unsuitable(format!("snapshot {number} makes no sense"));
    let state = state.map_err(|_| unreadable())?;
    (state.snapshot.now_ns == at_ns).then_some(state).ok_or_else(unreadable)
}

/// Shared folders' state is about files of the host, of which a replay has none.
const HOSTS: &str = "9p";

impl Player {
    /// Saves the machine, as was done when it was recorded, and compares its state with the one that is in the
    /// recording, if it is there.
    pub(super) fn pass(&self, event: &Event) -> Option<Difference> {
        let own = self.machine.save();
        let state = self.passed.as_ref()?;
        let mut all = state.snapshot.devices.iter().filter(|(name, _)| !name.starts_with(HOSTS));
        let (name, saved) = all.find(|(name, saved)| own.get(*name) != Some(saved))?;
        let got = own.get(name).map(|saved| saved.bytes.as_slice()).unwrap_or_default();
        let same = saved.bytes.iter().zip(got).take_while(|(one, other)| one == other).count();
        let shown = |bytes: &[u8]| {
            let rest = bytes.get(same..).unwrap_or_default();
            let some = rest.get(..rest.len().min(8)).unwrap_or_default();
            format!("{some:02x?} from byte {same} on")
        };
        let what = format!("{name}: state at snapshot {}", event.record.value);
        Some(self.told(event, what, shown(&saved.bytes), shown(got)))
    }
}
