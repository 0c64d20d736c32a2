//! From addresses on the bus to those of the processors: what a host bridge passes on.

use std::ops::Range;

use trapline_device::Space;

use crate::config::BarWindow;

/// What kind of cycles a window passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// I/O cycles.
    Io,
    /// Memory cycles.
    Memory,
    /// Memory cycles, for BARs whose reads have no side effects. The bridge passes on what is not
    /// prefetchable all the same: only software that places BARs tells the difference.
    Prefetchable,
}

/// A window of a host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeWindow {
    /// What it passes on.
    pub kind: WindowKind,
    /// Addresses on the bus.
    pub bus: Range<u64>,
    /// Where the processors have them: ports, or memory.
    pub space: Space,
    /// The first one's address there.
    pub cpu: u64,
}

impl BridgeWindow {
    /// A window where addresses on the bus are the processors' own, I/O and memory alike.
    pub const fn identity(kind: WindowKind, bus: Range<u64>) -> Self {
        let space = match kind {
            WindowKind::Io => Space::Pio,
            WindowKind::Memory | WindowKind::Prefetchable => Space::Mmio,
        };
        let cpu = bus.start;
        Self { kind, bus, space, cpu }
    }

    fn translate(&self, bar: &BarWindow) -> Option<(Space, u64)> {
        let same = (self.kind == WindowKind::Io) == (bar.space == Space::Pio);
        let end = bar.base.checked_add(bar.len)?;
        let inside = self.bus.start <= bar.base && end <= self.bus.end;
        (same && inside).then(|| (self.space, self.cpu + (bar.base - self.bus.start)))
    }
}

/// Where the processors find a BAR: nowhere, unless one window has all of it.
pub(crate) fn translate(windows: &[BridgeWindow], bar: &BarWindow) -> Option<(Space, u64)> {
    windows.iter().find_map(|window| window.translate(bar))
}
