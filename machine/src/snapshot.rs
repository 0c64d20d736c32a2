//! A board's devices as a whole: reset, saved and restored together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trapline_device::{Device, SaveState, Saved, StateError};

/// What the guest and time have made of a machine's devices. RAM and processors are not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The machine's time in nanoseconds.
    pub now_ns: u64,
    /// Each device's name on its board, and its state.
    pub devices: Vec<(String, Saved)>,
}

/// Why a machine did not take a snapshot. It is as it was before, then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The snapshot is of another board.
    #[error("the snapshot is of another board: it has {found} where this one has {wanted}")]
    Board {
        /// The device this board has next, or `nothing`.
        wanted: String,
        /// The device the snapshot has next, or `nothing`.
        found: String,
    },
    /// A device refuses its state.
    #[error("{device}: {reason}")]
    State {
        /// The device's name on its board.
        device: String,
        /// Its words.
        reason: StateError,
    },
}

/// A device on a board.
pub(crate) trait Part: Device + SaveState {}

impl<D: Device + SaveState> Part for D {}

/// The devices of a board, in the order in which they are reset and restored: the interrupt
/// controllers last, whose state then is what it was, whatever the lines did meanwhile.
#[derive(Default)]
pub(crate) struct Devices {
    parts: Vec<(String, Arc<dyn Part>)>,
    followers: Vec<Box<dyn Fn() + Send + Sync>>,
}

impl Devices {
    /// Adds a device under a name that no other device of the board has.
    pub(crate) fn add(&mut self, name: &str, device: Arc<dyn Part>) {
        let taken = self.parts.iter().any(|(other, _)| other == name);
        assert!(!taken, "two devices are called {name}");
        self.parts.push((name.to_owned(), device));
    }

    /// Has `follow` called after each reset and restore, to put what is outside of the devices
    /// where they say.
    pub(crate) fn add_follower(&mut self, follow: impl Fn() + Send + Sync + 'static) {
        self.followers.push(Box::new(follow));
    }

    /// Everything back to power-on.
    pub(crate) fn reset(&self) {
        self.parts.iter().for_each(|(_, device)| device.reset());
        self.followers.iter().for_each(|follow| follow());
    }

    /// Every device's state.
    pub(crate) fn save(&self) -> Vec<(String, Saved)> {
        self.parts.iter().map(|(name, device)| (name.clone(), device.save())).collect()
    }

    /// Restores every device. On an error some are restored and others are not.
    pub(crate) fn restore(&self, saved: &[(String, Saved)]) -> Result<(), SnapshotError> {
        let name = |name: Option<&String>| name.map_or("nothing", String::as_str).to_owned();
        for at in 0..self.parts.len().max(saved.len()) {
            let (part, state) = (self.parts.get(at), saved.get(at));
            let (wanted, found) = (part.map(|(name, _)| name), state.map(|(name, _)| name));
            let (Some((_, part)), Some((device, state)), true) = (part, state, wanted == found)
            else {
                return Err(SnapshotError::Board { wanted: name(wanted), found: name(found) });
            };
            part.restore(state).map_err(|reason| {
                let device = device.clone();
                SnapshotError::State { device, reason }
            })?;
        }
        self.followers.iter().for_each(|follow| follow());
        Ok(())
    }
}
