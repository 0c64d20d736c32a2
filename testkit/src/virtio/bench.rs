//! A machine for one device: a registry, an event loop that is turned by hand, and messages that
//! are remembered.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline::{Handle, Registry};
use trapline_backends::PolledLoop;
use trapline_device::{MsiController, MsiSink, Regions, Size, Space};

/// Messages that were sent, as addresses and data. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Messages(Arc<Mutex<Vec<(u64, u32)>>>);

impl Messages {
    /// Those since the last call.
    pub fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().push((address, data));
    }
}

impl MsiController for Messages {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(self.clone())
    }
}

/// A registry with whoever makes its accesses.
pub struct Bench {
    registry: Registry,
    handle: Mutex<Handle>,
    /// The loop that queues are processed on.
    pub event_loop: Arc<PolledLoop>,
    /// What was sent.
    pub messages: Messages,
}

impl Default for Bench {
    fn default() -> Self {
        let registry = Registry::builder().build();
        let handle = Mutex::new(registry.handle(0));
        let messages = Messages::default();
        Self { registry, handle, event_loop: crate::event_loop(), messages }
    }
}

impl Bench {
    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The registry, for a bus to map regions in.
    pub fn regions(&self) -> Arc<dyn Regions> {
        Arc::new(self.registry.downgrade())
    }

    /// Calls whoever has something to do, until nobody has.
    ///
    /// # Panics
    /// When that never happens.
    pub fn settle(&self) {
        self.event_loop.settle(10_000);
        assert!(!self.event_loop.turn(), "somebody has something to do in every turn");
    }

    /// How often a doorbell has rung that did not have to go to its device.
    pub fn doorbells(&self) -> u64 {
        let stats = self.registry.stats();
        stats.regions.iter().map(|region| region.counts.doorbells).sum()
    }

    /// A guest's read.
    pub fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        self.handle.lock().read_value(space, addr, size)
    }

    /// A guest's write.
    pub fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        self.handle.lock().write_value(space, addr, size, value);
    }
}
