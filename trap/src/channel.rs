//! Accesses that somebody outside answers, in the manner of `ioregionfd`: a process behind a pair
//! of file descriptors, say. No kernel has `KVM_SET_IOREGION`, so it is the registry that calls the
//! channel, on the thread of the vCPU; a source that can do it itself is asked first.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trapline_device::{Handler, IoCx, Size};

use crate::region::{Delivery, Window};

/// A channel to whoever answers.
///
/// It is called with no lock of the registry held, by any vCPU, and for accesses of one vCPU in
/// the order they were made, after the coalesced writes that came before them. While a call lasts,
/// [`crate::Registry::remove_sync`] of that region waits, as it would for a handler.
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
#[non_exhaustive]
pub struct Forwarded {
    /// The vCPU that made it.
    pub vcpu: u32,
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

/// A window's channel in the place of its region's handler, for one access.
pub(crate) struct Forwarder<'a> {
    channel: &'a dyn Channel,
    user_data: u64,
    posted: bool,
    /// The offset that the region's handler would see at the start of the window.
    start: u64,
    gone: AtomicBool,
}

impl<'a> Forwarder<'a> {
    /// For `window` of a region with this device offset, if it is one to forward.
    pub(crate) fn new(window: &'a Window, device_offset: u64) -> Option<Self> {
        let Delivery::Forward { channel, user_data, posted } = &window.delivery else {
            return None;
        };
        Some(Self {
            channel: channel.get(),
            user_data: *user_data,
            posted: *posted,
            start: window.offset.wrapping_add(device_offset),
            gone: AtomicBool::new(false),
        })
    }

    /// Whether somebody has answered so far.
    pub(crate) fn is_alive(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    /// Passes on that something was written to a window of no length.
    pub(crate) fn ring(&self, vcpu: u32) -> bool {
        self.channel.write(&self.access(vcpu, self.start, None), 0)
    }

    fn access(&self, vcpu: u32, offset: u64, size: Option<Size>) -> Forwarded {
        let Self { user_data, posted, start, .. } = *self;
        Forwarded { vcpu, user_data, offset: offset.wrapping_sub(start), size, posted }
    }
}

impl Handler for Forwarder<'_> {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        // Once it is gone nothing is asked for any more, so the rest of the access is quick.
        let alive = self.is_alive();
        let access = Forwarded { posted: false, ..self.access(cx.vcpu(), offset, Some(size)) };
        let answer = alive.then(|| self.channel.read(&access)).flatten();
        self.gone.store(answer.is_none(), Ordering::Relaxed);
        answer.unwrap_or(u64::MAX)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let access = self.access(cx.vcpu(), offset, Some(size));
        let taken = self.is_alive() && self.channel.write(&access, value);
        self.gone.store(!taken, Ordering::Relaxed);
    }
}
