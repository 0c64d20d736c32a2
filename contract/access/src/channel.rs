//! Channels: accesses that another process answers, as with `ioregionfd`. No kernel has
//! `KVM_SET_IOREGION`, so it is the registry that calls the channel, on the thread of the vCPU; a
//! source that can do it itself is asked first.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{Requester, Size};

/// A channel to whoever answers.
///
/// It is called with no lock of the registry held, by any vCPU, and for accesses of one vCPU in
/// the order they were made, after the coalesced writes that came before them. While a call lasts,
/// the registry's `remove_sync` of that region waits, as it would for a handler.
pub trait Channel: Send + Sync {
    /// Has a read answered: bits above the access' size are ignored. `None` when nobody is there
    /// any more, which the guest reads as all ones.
    fn read(&self, access: &Forwarded) -> Option<u64>;

    /// Hands a write over; whether somebody is there to take it. Unless the access is
    /// [`Forwarded::posted`], it returns when the write has been done.
    fn write(&self, access: &Forwarded, value: u64) -> bool;

    /// What a source that forwards by itself reads responses from and writes commands to
    /// (`read_fd` and `write_fd` of `struct kvm_ioregion`), if the channel is such a pair.
    fn fds(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        None
    }
}

/// One access as it goes through a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Who made it.
    pub requester: Requester,
    /// What the window was given, for the other end to know it by.
    pub user_data: u64,
    /// The offset in the window.
    pub offset: u64,
    /// Its width; `None` for a write of any width to a window of length 0, whose value is not
    /// looked at (and 0).
    pub size: Option<Size>,
    /// Whether the guest goes on without waiting for the write to be done.
    pub posted: bool,
}

/// A [`Channel`], shared. Clones are the same one.
#[derive(Clone)]
pub struct ChannelRef(Arc<dyn Channel>);

impl ChannelRef {
    /// Shares a channel.
    pub fn new(channel: Arc<dyn Channel>) -> Self {
        Self(channel)
    }

    /// The channel.
    pub fn get(&self) -> &dyn Channel {
        &*self.0
    }
}

impl fmt::Debug for ChannelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelRef")
    }
}

impl PartialEq for ChannelRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
