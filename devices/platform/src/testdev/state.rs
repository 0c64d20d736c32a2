//! What a snapshot of the test device keeps.

use serde::{Deserialize, Serialize};
use trapline_device::{Form, StateError};

use super::regs::{LATCH_LEN, LINES, SCRATCH_LEN, SHUTDOWN};

/// Everything the device remembers. `Default` is the state at power-on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The latch's bytes.
    pub latch: [u8; LATCH_LEN as usize],
    /// Which interrupt lines are high.
    pub lines: [bool; LINES],
    /// How many bytes of [`SHUTDOWN`] have been written.
    pub shutdown: usize,
    /// The scratch memory, [`SCRATCH_LEN`] bytes.
    pub scratch: Vec<u8>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            latch: [0; LATCH_LEN as usize],
            lines: [false; LINES],
            shutdown: 0,
            scratch: vec![0; SCRATCH_LEN as usize],
        }
    }
}

/// [`State`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedV1 {
    latch: [u8; LATCH_LEN as usize],
    lines: [bool; LINES],
    shutdown: u8,
    scratch: Vec<u8>,
}

impl Form for SavedV1 {
    const NAME: &'static str = "pc-testdev";
    const VERSION: u32 = 1;
}

impl From<&State> for SavedV1 {
    fn from(state: &State) -> Self {
        let State { latch, lines, shutdown, scratch } = state;
        let shutdown = u8::try_from(*shutdown).unwrap_or(0);
        Self { latch: *latch, lines: *lines, shutdown, scratch: scratch.clone() }
    }
}

impl TryFrom<SavedV1> for State {
    type Error = StateError;

    fn try_from(saved: SavedV1) -> Result<Self, StateError> {
        let SavedV1 { latch, lines, shutdown, scratch } = saved;
        let shutdown = usize::from(shutdown);
        let (written, length) = (shutdown < SHUTDOWN.len(), scratch.len());
        StateError::check::<SavedV1>(written, "the word to switch off is not complete")?;
        let whole = length == SCRATCH_LEN as usize;
        StateError::check::<SavedV1>(whole, "the scratch memory has its size")?;
        Ok(Self { latch, lines, shutdown, scratch })
    }
}
