//! The display as a PCI function: a header, a window of ports with nothing behind it, and the frame
//! buffer.
//!
//! The guest may move both BARs, as any. The frame buffer is memory, so whoever gives memory to the
//! guest moves it ([`FrameMemory::place`]); the ports, and the frame buffer of machines without
//! such memory, are regions of the registry ([`Vesa::connect`]).

pub mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use trapline_device::{Device, Handler, IoCx, RegionId, Rules, SaveState, Saved, Size, StateError};
use trapline_pci::regs::{BAR_IO, BAR0, COMMAND, Command};
use trapline_pci::{Bar, ConfigSpace, Function, Identity};

use crate::{FrameMemory, Screen};
use regs::{CLASS, DEVICE_ID, FRAME_BAR, PORTS_BAR, PORTS_LEN, SUBSYSTEM_ID, VENDOR_ID};
use state::SavedV1;
pub use state::State;

/// Where the BARs are after power-on, when no firmware has placed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First port, a multiple of [`PORTS_LEN`].
    pub ports: u16,
    /// Guest physical address of the frame buffer, a multiple of its length.
    pub frame: u32,
}

/// The two BARs of the function.
const BARS: [usize; 2] = [PORTS_BAR, FRAME_BAR];

/// The function.
pub struct Vesa {
    // Wiring.
    memory: Arc<dyn FrameMemory>,
    screen: Arc<Screen>,
    regions: [OnceLock<RegionId>; BARS.len()],
    // What the guest changes. The lock is held while the frame buffer is moved, so that the last
    // move is the one the header tells of.
    config: Mutex<ConfigSpace>,
}

impl Vesa {
    /// A display that shows `screen`, whose frame buffer is already where `place` says.
    pub fn new(screen: Arc<Screen>, memory: Arc<dyn FrameMemory>, place: Place) -> Self {
        let identity = Identity {
            vendor: VENDOR_ID,
            device: DEVICE_ID,
            class: CLASS,
            subsystem_vendor: VENDOR_ID,
            subsystem: SUBSYSTEM_ID,
            ..Identity::default()
        };
        let frame = Bar::Mem32 { len: screen.mode().memory_len(), prefetchable: true };
        let mut config = ConfigSpace::new(&identity)
            .with_bar(PORTS_BAR, Bar::Io { len: PORTS_LEN })
            .with_bar(FRAME_BAR, frame);
        // A machine that starts a kernel has no firmware, so the BARs come placed and enabled.
        let flags = config.read(BAR0 + 4, Size::Dword);
        config.set(BAR0, &(u32::from(place.ports) | BAR_IO).to_le_bytes());
        config.set(BAR0 + 4, &(place.frame | flags).to_le_bytes());
        let enabled = Command::new().with_io(true).with_memory(true);
        config.set(COMMAND, &enabled.into_bits().to_le_bytes());
        let regions = [const { OnceLock::new() }; BARS.len()];
        Self { memory, screen, regions, config: Mutex::new(config) }
    }

    /// What it shows.
    pub fn screen(&self) -> &Arc<Screen> {
        &self.screen
    }

    /// Names the region behind [`PORTS_BAR`] or [`FRAME_BAR`], which is moved from then on. The
    /// first name counts.
    pub fn connect(&self, bar: usize, region: RegionId) {
        if let Some(slot) = self.regions.get(bar) {
            // Naming it twice is the board's mistake, and harmless.
            let _ = slot.set(region);
        }
    }

    /// Where the regions belong now. After a reset they may be elsewhere: there is no guest's
    /// access to move them through, so whoever resets the machine does it.
    pub fn places(&self) -> Vec<(RegionId, Option<u64>)> {
        self.moves(&self.config.lock())
    }

    /// What the guest has made of the header.
    pub fn state(&self) -> State {
        State::of(&self.config.lock())
    }

    fn moves(&self, config: &ConfigSpace) -> Vec<(RegionId, Option<u64>)> {
        let windows = config.windows();
        let place = |bar: usize| windows.get(bar).copied().flatten().map(|window| window.base);
        let connected = self.regions.iter().zip(BARS);
        connected.filter_map(|(id, bar)| Some((*id.get()?, place(bar)))).collect()
    }

    /// Puts the frame buffer where the header says.
    fn sync(&self, config: &ConfigSpace) {
        let [_, frame, ..] = config.windows();
        self.memory.place(frame.map(|window| window.base));
    }
}

impl Function for Vesa {
    fn config_read(&self, _cx: &IoCx<'_>, offset: u16, size: Size) -> u32 {
        self.config.lock().read(offset, size)
    }

    fn config_write(&self, cx: &IoCx<'_>, offset: u16, size: Size, value: u32) {
        let mut config = self.config.lock();
        let before = config.windows();
        config.write(offset, size, value);
        let after = config.windows();
        if before == after {
            return;
        }
        if before.get(FRAME_BAR) != after.get(FRAME_BAR) {
            self.sync(&config);
        }
        // One by one: a BAR on top of something else is nowhere, which is no reason for the other
        // one to stay behind.
        for (id, base) in self.moves(&config) {
            if cx.regions().place(&[(id, base)]).is_err() {
                let _ = cx.regions().place(&[(id, None)]);
            }
        }
    }
}

impl Device for Vesa {
    /// Power-on: the BARs where the board has them, and a black picture.
    fn reset(&self) {
        let mut config = self.config.lock();
        config.reset();
        self.sync(&config);
        self.screen.clear();
    }
}

impl SaveState for Vesa {
    /// The picture is memory, and saved with it.
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(self.state()))
    }

    /// [`Vesa::places`] says where the regions belong afterwards.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = State::from(saved.decode::<SavedV1>()?);
        let mut config = self.config.lock();
        *config = state.apply(&config)?;
        self.sync(&config);
        Ok(())
    }
}

/// The ports: reads are all ones, writes vanish.
///
/// Deviation: kvmtool's reads leave the guest with whatever was in its buffer.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyPorts;

impl Handler for EmptyPorts {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn rules(&self) -> Rules {
        Rules::ANY
    }
}
