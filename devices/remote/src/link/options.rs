//! How a channel behaves, and why a device is taken for dead.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::wire::Layout;

/// How a channel behaves.
#[derive(Clone)]
pub struct LinkOptions {
    /// How commands are laid out, without ids.
    pub layout: Layout,
    /// Whether commands have ids, and several are on their way at a time: what the device has agreed to
    /// ([`Ends::negotiate`](crate::Ends::negotiate)), and any that takes its place.
    pub ids: bool,
    /// How long a response may take; `None`: any time. Time in which the vCPU is stopped does not count.
    pub reply_patience: Option<Duration>,
    /// How long a posted write may wait for room.
    pub post_patience: Duration,
    /// What happens to one that has waited so long.
    pub when_full: WhenFull,
    /// Called once for each death of the device, on the thread that notices, with no lock held.
    pub on_death: Arc<dyn Fn(&Death) + Send + Sync>,
}

/// What happens to a posted write for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The device has stalled, and counts as dead.
    #[default]
    Dead,
    /// The write is lost, and counted.
    Drop,
}

/// Why a device is not to be reckoned with any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Death {
    /// It has closed its end, or ended.
    Closed,
    /// It has said what it could not have been asked.
    Protocol(&'static str),
    /// It has not answered for so long.
    Timeout(Duration),
    /// It has taken nothing for so long.
    Stalled(Duration),
    /// The descriptor fails.
    Io(Errno),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("it has ended"),
            Self::Protocol(what) => f.write_str(what),
            Self::Timeout(time) => write!(f, "it has not answered for {time:?}"),
            Self::Stalled(time) => write!(f, "it has taken no command for {time:?}"),
            Self::Io(error) => write!(f, "the channel to it fails: {error}"),
        }
    }
}

impl Default for LinkOptions {
    /// v3, five seconds for either.
    fn default() -> Self {
        const PATIENCE: Duration = Duration::from_secs(5);
        Self {
            layout: Layout::default(),
            ids: false,
            reply_patience: Some(PATIENCE),
            post_patience: PATIENCE,
            when_full: WhenFull::default(),
            on_death: Arc::new(|_| {}),
        }
    }
}
