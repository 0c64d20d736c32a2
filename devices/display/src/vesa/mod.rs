//! The display as a PCI function: a header, a window of ports with nothing behind it, and the frame
//! buffer.
//!
//! The guest may move both BARs, as any.

pub mod regs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trapline_device::{Device, Form, Memory, SaveState, Saved, StateError};
use trapline_pci::regs::{BAR_IO, BAR_PREFETCHABLE, BAR0, COMMAND, Command};
use trapline_pci::{Bar, Function, FunctionBuilder, Identity, PciDevice, Slot};

use crate::Screen;
use regs::{CLASS, DEVICE_ID, FRAME_BAR, PORTS_BAR, PORTS_LEN, SUBSYSTEM_ID, VENDOR_ID};

/// Where the BARs are after power-on, when no firmware has placed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First port, a multiple of [`PORTS_LEN`].
    pub ports: u16,
    /// Guest physical address of the frame buffer, a multiple of its length.
    pub frame: u32,
}

/// The device. It has no registers: nothing answers its ports, reads are all ones.
///
/// Deviation: kvmtool's reads leave the guest with whatever was in its buffer.
pub struct Vesa {
    screen: Arc<Screen>,
}

impl Vesa {
    /// A display in `slot` that shows `screen`, whose frame buffer is `memory`.
    pub fn function(
        slot: Slot<'_>,
        screen: Arc<Screen>,
        memory: Arc<dyn Memory>,
        place: Place,
    ) -> Function {
        let identity = Identity {
            vendor: VENDOR_ID,
            device: DEVICE_ID,
            class: CLASS,
            subsystem_vendor: VENDOR_ID,
            subsystem: SUBSYSTEM_ID,
            ..Identity::default()
        };
        let frame = Bar::Mem32 { len: screen.mode().memory_len(), prefetchable: true };
        let mut builder = FunctionBuilder::new(slot, &identity)
            .bar(PORTS_BAR, Bar::Io { len: PORTS_LEN })
            .bar_memory(FRAME_BAR, frame, memory);
        // A machine that starts a kernel has no firmware, so the BARs come placed and enabled.
        let config = builder.config();
        config.set(BAR0, &(u32::from(place.ports) | BAR_IO).to_le_bytes());
        config.set(BAR0 + 4, &(place.frame | BAR_PREFETCHABLE).to_le_bytes());
        let enabled = Command::new().with_io(true).with_memory(true);
        config.set(COMMAND, &enabled.into_bits().to_le_bytes());
        builder.build(Arc::new(Self { screen }))
    }
}

impl PciDevice for Vesa {}

impl Device for Vesa {
    /// A black picture.
    fn reset(&self) {
        self.screen.clear();
    }
}

/// Nothing, version 2: the picture is memory, and saved with it; the rest is configuration space.
#[derive(Debug, Serialize, Deserialize)]
struct SavedV2 {}

impl Form for SavedV2 {
    const NAME: &'static str = "vesa";
    const VERSION: u32 = 2;
}

impl SaveState for Vesa {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV2 {})
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode().map(|SavedV2 {}| ())
    }
}
