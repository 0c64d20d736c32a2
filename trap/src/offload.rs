//! What a source can take off the registry's hands.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use trapline_device::Space;

use crate::channel::ChannelRef;

/// A part of the address space that the source is asked to serve without coming to us.
#[derive(Clone, Debug)]
pub struct Zone {
    /// The space.
    pub space: Space,
    /// First address.
    pub addr: u64,
    /// Length in bytes. For a doorbell: the length of the write that rings it, 0 for any. For a
    /// posted forward 0 means writes of any length at `addr`, passed on without their value.
    pub len: u64,
    /// What happens to accesses in it.
    pub kind: ZoneKind,
}

/// What a source does with accesses in a [`Zone`].
#[derive(Clone, Debug)]
pub enum ZoneKind {
    /// Queue writes (KVM: `KVM_REGISTER_COALESCED_MMIO`, with its PIO flag); reads come to us.
    Coalesced,
    /// Signal an event instead of coming to us (KVM: `KVM_IOEVENTFD`).
    Doorbell {
        /// What to signal.
        event: EventFd,
        /// Only for writes of this value, compared at the length of the write.
        datamatch: Option<u64>,
    },
    /// Pass accesses on through a channel (`KVM_SET_IOREGION`, which no kernel has yet).
    Forward {
        /// Where to.
        channel: ChannelRef,
        /// What the other end knows the zone by.
        user_data: u64,
        /// Whether writes are not waited for.
        posted: bool,
    },
}

/// One write out of a source's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalescedWrite {
    /// The space.
    pub space: Space,
    /// The address.
    pub addr: u64,
    /// How many bytes of `data` were written, 1 to 8.
    pub len: u8,
    /// The bytes, lowest address first.
    pub data: [u8; 8],
}

impl CoalescedWrite {
    /// The bytes written.
    pub fn bytes(&self) -> &[u8] {
        self.data.get(..usize::from(self.len)).unwrap_or(&self.data)
    }
}

/// A source's side of delivery. The registry calls it while an edit commits, never on the path of
/// an access, but for [`Offload::queued`] and [`Offload::pop`].
pub trait Offload: Send + Sync {
    /// Takes the zone over. `Ok(true)`: done, [`Offload::remove`] follows one day. `Ok(false)`:
    /// this source cannot do that kind, so the registry does it itself with the same meaning.
    ///
    /// # Errors
    /// Why the zone cannot be had at all; the edit that wanted it fails then.
    fn install(&self, zone: &Zone) -> Result<bool, String>;

    /// Gives a zone back that `install` took.
    fn remove(&self, zone: &Zone);

    /// Whether a coalesced write may be waiting. Called before every access, so cheap; a stale
    /// `true` is harmless.
    fn queued(&self) -> bool {
        false
    }

    /// Takes the oldest waiting write. The registry never calls it twice at once.
    fn pop(&self) -> Option<CoalescedWrite> {
        None
    }
}

/// An eventfd. Clones signal the same event.
#[derive(Clone)]
pub struct EventFd(Arc<File>);

impl EventFd {
    /// Wraps an eventfd (see `eventfd(2)`); it should be non-blocking, so that a guest that rings
    /// without end cannot stall its vCPU here.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(File::from(fd)))
    }

    /// Adds one to the event's counter. A saturated counter is signalled already, so a refused
    /// write loses nothing.
    pub(crate) fn signal(&self) {
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventFd")
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}
