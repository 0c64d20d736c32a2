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
///
/// A call may wait for the other end, and while it does, `waiter` says whether the caller is wanted
/// elsewhere. Then the call returns [`Answer::Interrupted`], and the caller makes the same call again
/// as soon as it can, or never ([`Channel::forget`]). What the other end was asked already, the channel does not ask
/// again: a read may have changed something there. Without a `waiter` the call lasts as long as the
/// channel is patient.
pub trait Channel: Send + Sync {
    /// Has a read answered: bits above the access' size are ignored.
    fn read(&self, access: &Forwarded, waiter: Option<&dyn Waiter>) -> Answer;

    /// Hands a write over. Unless the access is [`Forwarded::posted`], it returns when the write has
    /// been done.
    fn write(&self, access: &Forwarded, value: u64, waiter: Option<&dyn Waiter>) -> Answer;

    /// The call of `requester` that was interrupted is not made again: what is answered to it is nobody's,
    /// and its next call is another, even if it is the same.
    fn forget(&self, _requester: Requester) {}

    /// Sends what was kept back because more was to follow ([`Forwarded::more`]).
    fn flush(&self) {}

    /// What a source that forwards by itself reads responses from and writes commands to
    /// (`read_fd` and `write_fd` of `struct kvm_ioregion`), if the channel is such a pair.
    fn fds(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        None
    }
}

/// What became of an access that went to a [`Channel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done; of a read, the value.
    Done(u64),
    /// Nobody is there any more: the guest reads all ones, and what it writes is lost.
    Gone,
    /// The caller is wanted elsewhere; the access goes on when it is made again.
    Interrupted,
}

/// Whoever makes an access, and may be wanted elsewhere while it waits for the answer: a vCPU that is
/// to stop.
///
/// To be asked again after every interrupted system call (`EINTR`), and now and then besides.
pub trait Waiter: Send + Sync {
    /// Whether it is wanted elsewhere. It stays so until the call has come back.
    fn is_wanted(&self) -> bool;
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
    /// Its width; `None` for an access of any width to a window without data, or of length 0, which
    /// is a write whose value is not looked at (and 0).
    pub size: Option<Size>,
    /// Whether the guest goes on without waiting for the write to be done.
    pub posted: bool,
    /// Whether another posted write, or [`Channel::flush`], follows at once: until then this one may
    /// be kept back.
    pub more: bool,
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
