//! The life of a machine: its states, and what can be asked of it in each.
//!
//! ```text
//!   built ──run──► running ◄──resume── paused ──save──► saved
//!                   │  │  └───pause──►   │                │
//!                   │  └──reset──► resetting ──► running  │ resume: running
//!                   └──────────── end, stop ──► ended ◄───┘
//! ```
//!
//! Time while paused: the machine's clock goes on, as do the processors' counters (TSC, the generic
//! timer) and the wall clock, so that all the clocks a guest can compare agree. To the guest, a
//! pause is a time in which it got no processor: deadlines that passed are late. A guest that uses
//! kvmclock is told, so that it reports no soft lockup (`KVM_KVMCLOCK_CTRL`). Timers of the kernel's
//! chips go on, too: KVM's 8254 catches up on its ticks, as it does for a guest that is late.

use std::fmt;

/// What a machine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has been built, and its vCPUs have not run yet.
    #[default]
    Built,
    /// Its vCPUs run, or are being started.
    Running,
    /// Its vCPUs, back ends and timers stand still, and nothing is on its way to a device.
    Paused,
    /// It is put back to power-on, or waits to be run once more after the guest reset it.
    Resetting,
    /// It is paused, and its state has been taken ([`crate::Control::save`]): it is not to change
    /// until it goes on. If somebody has gone on from the snapshot, that would be a second one of it.
    Saved,
    /// It is over.
    Ended,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "not running yet",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Resetting => "being reset",
            Self::Saved => "saved",
            Self::Ended => "over",
        })
    }
}

/// What can be asked of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Start over, as after the reset button; a paused machine stays paused.
    Reset,
    /// Let somebody look into it, and stay as it is; one that runs stands still meanwhile.
    Inspect,
    /// Give its state, and stay as it is.
    Save,
    /// End.
    Stop,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Reset => "reset",
            Self::Inspect => "looked into",
            Self::Save => "saved",
            Self::Stop => "stopped",
        })
    }
}

/// Why a machine did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It cannot, in the state it is in.
    #[error("the machine is {state} and cannot be {request}")]
    State {
        /// The machine's state.
        state: State,
        /// What was asked for.
        request: Request,
    },
    /// It has not done it in time.
    #[error(
        "the machine has not been {request} in time: a device or a back end of it does not return"
    )]
    Late {
        /// What was asked for.
        request: Request,
    },
    /// It tried, and ended of that.
    #[error("the machine could not be {request}: {reason}")]
    Failed {
        /// What was asked for.
        request: Request,
        /// The sentence that [`crate::Session::run`] ends with.
        reason: String,
    },
}

impl State {
    /// The state a machine in this one is in when it has done what was asked; `Err` if it cannot.
    /// What it is already, it is at once.
    ///
    /// # Errors
    /// [`ControlError::State`].
    pub const fn after(self, request: Request) -> Result<Self, ControlError> {
        Ok(match (self, request) {
            (_, Request::Stop) => Self::Ended,
            (Self::Running | Self::Paused, Request::Pause) => Self::Paused,
            (Self::Running | Self::Paused | Self::Saved, Request::Resume) => Self::Running,
            (Self::Running, Request::Reset) => Self::Running,
            (Self::Paused, Request::Reset) => Self::Paused,
            (state @ (Self::Running | Self::Paused | Self::Saved), Request::Inspect) => state,
            (Self::Paused | Self::Saved, Request::Save) => Self::Saved,
            (state, request) => return Err(ControlError::State { state, request }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 6] =
        [State::Built, State::Running, State::Paused, State::Resetting, State::Saved, State::Ended];

    #[test]
    fn what_can_be_asked_in_which_state() {
        use Request::{Inspect, Pause, Reset, Resume, Save, Stop};
        use State::{Ended, Paused, Running, Saved};
        let after = |request| STATES.map(|state| state.after(request).ok());
        let no = None;
        assert_eq!(after(Pause), [no, Some(Paused), Some(Paused), no, no, no]);
        assert_eq!(after(Resume), [no, Some(Running), Some(Running), no, Some(Running), no]);
        assert_eq!(after(Reset), [no, Some(Running), Some(Paused), no, no, no]);
        assert_eq!(after(Inspect), [no, Some(Running), Some(Paused), no, Some(Saved), no]);
        assert_eq!(after(Save), [no, no, Some(Saved), no, Some(Saved), no]);
        assert_eq!(after(Stop), [Some(Ended); 6]);
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let refused = State::Ended.after(Request::Pause).unwrap_err().to_string();
        assert_eq!(refused, "the machine is over and cannot be paused");
        let refused = State::Running.after(Request::Save).unwrap_err().to_string();
        assert_eq!(refused, "the machine is running and cannot be saved");
    }
}
