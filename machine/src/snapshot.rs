//! A machine's saved state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trapline_device::{Saved, StateError};

/// What the guest and time have made of a machine. RAM is not in it.
///
/// Everything has a name of its own and its own version ([`Saved::version`]), so that what a
/// snapshot holds and a machine lacks, or the other way round, is found and named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The machine's time in nanoseconds.
    pub now_ns: u64,
    /// Each device's state, by the device's name on its board.
    pub devices: BTreeMap<String, Saved>,
    /// Each vCPU's state, by its index. Empty on a machine whose client plays the processors, and
    /// on KVM, which is not asked for it yet.
    pub vcpus: BTreeMap<u32, Saved>,
    /// The state of the interrupt controllers and timers in the kernel, by their names. Empty on a
    /// machine that has none there, and on KVM, which is not asked for it yet.
    pub kernel_chips: BTreeMap<String, Saved>,
}

/// Why a machine did not take a snapshot. It is as it was before, then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The board has something the snapshot does not.
    #[error("the snapshot is of another machine: it has no {0}")]
    Missing(String),
    /// The snapshot has something the board does not.
    #[error("the snapshot is of another machine: this one has no {0}")]
    Unknown(String),
    /// A device refuses its state.
    #[error("{device}: {reason}")]
    State {
        /// The device's name on its board.
        device: String,
        /// Its words.
        reason: StateError,
    },
}
