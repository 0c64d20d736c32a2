//! A source that leaves no doorbell to the kernel, which does not tell when one was rung.

use std::sync::Arc;

use trapline::{CoalescedWrite, Offload, Zone};
use trapline_device::{Delivery, DirtyBitmap, Memory};

/// Around `source`, whose doorbells this process rings.
pub(crate) struct NoDoorbells(pub(crate) Arc<dyn Offload>);

impl Offload for NoDoorbells {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        match zone.delivery {
            Delivery::Doorbell { .. } => Ok(false),
            _ => self.0.install(zone),
        }
    }

    fn remove(&self, zone: &Zone) {
        self.0.remove(zone);
    }

    fn queued(&self) -> bool {
        self.0.queued()
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        self.0.pop()
    }

    fn log_dirty(&self, memory: &Arc<dyn Memory>, on: bool) -> Result<(), String> {
        self.0.log_dirty(memory, on)
    }

    fn page(&self, len: u64) -> Option<Arc<dyn Memory>> {
        self.0.page(len)
    }

    fn all_ones(&self, len: u64) -> Option<Arc<dyn Memory>> {
        self.0.all_ones(len)
    }

    fn take_dirty(&self, memory: &Arc<dyn Memory>, dirty: &mut DirtyBitmap) {
        self.0.take_dirty(memory, dirty);
    }
}
