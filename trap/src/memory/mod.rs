//! Memory that the guest sees: logs of which pages of it are written, and listeners to where it is.

mod dirty_log;
mod listeners;

pub(crate) use dirty_log::DirtyLogs;
pub(crate) use listeners::{Listeners, Listening, MemoryChange, section};
