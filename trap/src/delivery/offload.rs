//! The trait of a source that delivers accesses without the registry (KVM: coalesced zones,
//! ioeventfds, memory slots).

use std::sync::Arc;

use trapline_access::{Delivery, DirtyBitmap, Memory, Space, Window};

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
    /// What happens to accesses in it. What is left of them comes to us: reads of what is
    /// [`Delivery::Coalesced`], writes to read-only memory.
    pub delivery: Delivery,
}

impl Zone {
    /// The zone of `window` while its region is at `base`.
    pub(crate) fn new(space: Space, base: u64, window: &Window) -> Self {
        let Window { offset, len, delivery } = window.clone();
        Self { space, addr: base + offset, len, delivery }
    }
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

/// A source's side of delivery. The registry calls it while an edit commits, for a dirty log, or to
/// show a page of registers and to withdraw it; otherwise never on the path of an access, but for
/// [`Offload::queued`] and [`Offload::pop`].
pub trait Offload: Send + Sync {
    /// Takes the zone over. `Ok(true)`: done, [`Offload::remove`] follows one day. `Ok(false)`:
    /// this source cannot do that kind, so the registry does it itself with the same meaning.
    ///
    /// # Errors
    /// Why the zone cannot be had at all; the edit that wanted it fails then.
    fn install(&self, zone: &Zone) -> Result<bool, String>;

    /// Gives a zone back that `install` took: on return the source serves the guest nothing there any
    /// more. One that cannot do that must not let the guest go on, as it would see what is not so.
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

    /// Has the source log the guest's writes to `memory` in every zone of it, now and later, or no
    /// longer. A source that takes memory over has this and [`Offload::take_dirty`].
    ///
    /// # Errors
    /// Why it cannot.
    fn log_dirty(&self, _memory: &Arc<dyn Memory>, _on: bool) -> Result<(), String> {
        Ok(())
    }

    /// Memory of `len` bytes for the values of registers, which [`Offload::install`] will take as
    /// read-only memory. It may be called for that, and to give it back, whenever a device runs, and
    /// by any thread. `None`: such memory can not be shown.
    fn page(&self, _len: u64) -> Option<Arc<dyn Memory>> {
        None
    }

    /// The same, of ones, which nobody writes to. It may be the same few pages again and again.
    fn all_ones(&self, _len: u64) -> Option<Arc<dyn Memory>> {
        None
    }

    /// Adds the pages of `memory` to `dirty` that the guest has written since the last call without
    /// coming to the registry, and maybe others.
    fn take_dirty(&self, _memory: &Arc<dyn Memory>, _dirty: &mut DirtyBitmap) {}
}
