//! What comes from outside, a key or a line typed, and makes a device interrupt the guest. The
//! device first gets what the guest wrote before, as a late write could be seen by whoever the
//! interrupt reaches.

use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_device::CharDevice;
use trapline_display::Input;

/// The way in to a device, past the registry's coalesced writes.
pub(crate) struct Arrival<D> {
    pub(crate) registry: Registry,
    pub(crate) device: D,
}

impl CharDevice for Arrival<Weak<dyn CharDevice>> {
    fn poll(&self) {
        if let Some(device) = self.device.upgrade() {
            self.registry.drain();
            device.poll();
        }
    }

    fn receive_break(&self) {
        if let Some(device) = self.device.upgrade() {
            self.registry.drain();
            device.receive_break();
        }
    }
}

impl Input for Arrival<Arc<dyn Input>> {
    fn key(&self, set2: &[u8]) {
        self.registry.drain();
        self.device.key(set2);
    }

    fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        self.registry.drain();
        self.device.movement(dx, dy, buttons);
    }
}
