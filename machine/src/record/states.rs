//! Saved states in a recording: where a replay can begin.
//!
//! One is taken between two steps, so the records before it are all that has led to it, and only while
//! everything is at rest ([`SaveState::is_at_rest`](trapline_device::SaveState::is_at_rest)). What they
//! may cost is bounded by [`Pace`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trapline::{Recorder, Step};
use trapline_access::record::Op;
use trapline_trace::Meta;
use trapline_trace::chunk::RAW_MAX;

use super::journal::JournaledClock;
use super::settings::LACKING;
use crate::Snapshot;
use crate::board::SavedDevices;

/// A machine's state as a STATE chunk has it, in postcard's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedState {
    /// UTC at machine time 0, in nanoseconds since 1970, as devices were told last.
    pub(crate) utc_start_ns: u64,
    /// The devices' state.
    pub(crate) snapshot: Snapshot,
}

impl RecordedState {
    /// Its bytes in a file, if a chunk has room for them.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let bytes = postcard::to_allocvec(self).ok()?;
        (bytes.len() <= RAW_MAX).then_some(bytes)
    }
}

/// Who saves the state of a machine that is recorded.
pub(crate) struct Saver {
    pub(crate) devices: SavedDevices,
    pub(crate) clock: Arc<JournaledClock>,
}

impl Saver {
    /// Whether a replay could begin with the state that the machine has now.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.devices.is_at_rest()
    }

    /// The state in this step of `recorder`, if a replay can begin with it: as the one of this number in the
    /// recording. What devices do when they are saved, as setting a clock, is in the step.
    pub(crate) fn save(
        &self,
        recorder: &Recorder,
        step: &Step<'_>,
        number: u32,
    ) -> Option<RecordedState> {
        if !self.is_at_rest() {
            return None;
        }
        recorder.event(step, Op::Snapshot, 0, 0, number.into());
        let (now_ns, devices) = (step.at_ns(), self.devices.save());
        let snapshot = Snapshot { now_ns, devices, ..Snapshot::default() };
        Some(RecordedState { utc_start_ns: self.clock.utc_start_ns(), snapshot })
    }
}

/// So many records are between two saved states at least.
const RECORDS_BETWEEN: u64 = 16 << 10;

/// The file grows by so many times the size of a saved state before the next.
const BYTES_BETWEEN: u64 = 8;

/// When the next state is to be saved: not before there is something to skip, and so that all states together are a
/// small part of the file.
pub(crate) struct Pace {
    records: u64,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { records: RECORDS_BETWEEN, bytes: 0 }
    }
}

impl Pace {
    /// Of a recording of this description: one that cannot be replayed gets no state.
    pub(crate) fn of(meta: &Meta) -> Self {
        let mut pace = Self::default();
        if meta.setting(LACKING).is_some() {
            pace.stop();
        }
        pace
    }

    /// Whether a file of so many records and bytes is to get a state.
    pub(crate) fn is_due(&self, records: u64, bytes: u64) -> bool {
        records >= self.records && bytes >= self.bytes
    }

    /// There is not to be another.
    pub(crate) fn stop(&mut self) {
        self.records = u64::MAX;
    }

    /// A state of `len` bytes was written to a file that has so many records and bytes now.
    pub(crate) fn written(&mut self, len: u64, records: u64, bytes: u64) {
        self.records = records.saturating_add(RECORDS_BETWEEN);
        self.bytes = bytes.saturating_add(len.saturating_mul(BYTES_BETWEEN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_a_ninth_of_a_file_at_most() {
        let (mut pace, mut records, mut bytes, mut states) = (Pace::default(), 0, 0, 0);
        for _ in 0..1000 {
            (records, bytes) = (records + 1000, bytes + 2600);
            if pace.is_due(records, bytes) {
                states += 8000;
                bytes += 8000;
                pace.written(8000, records, bytes);
            }
        }
        assert!(states >= 8000 * 20, "{states}");
        assert!(states * 9 <= bytes, "{states} of {bytes}");
    }

    #[test]
    fn a_recording_that_cannot_be_replayed_gets_no_state() {
        let due =
            |settings| Pace::of(&Meta { settings, ..Meta::default() }).is_due(1 << 60, 1 << 60);
        assert!(due(Vec::new()));
        assert!(!due(vec![(LACKING.to_owned(), "flash".to_owned())]));
    }
}
