//! Base address registers: what a function decodes, and how much of it.

use trapline_device::Space;

use crate::regs::{BAR_IO, BAR_MEM64, BAR_PREFETCHABLE};

/// BARs of a type 0 header.
pub const BARS: usize = 6;
/// The expansion ROM's number, after those of the BARs.
pub const ROM_BAR: usize = BARS;
/// BARs and expansion ROM.
pub(crate) const DECODERS: usize = BARS + 1;

/// A base address register: what it decodes, and how much (PCI 3.0, 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// I/O ports.
    Io {
        /// Length in bytes: a power of two, 4 to 256.
        len: u32,
    },
    /// Memory below 4 GiB.
    Mem32 {
        /// Length in bytes: a power of two, at least 16.
        len: u32,
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes the next BAR too.
    Mem64 {
        /// Length in bytes: a power of two, at least 16.
        len: u64,
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl Bar {
    /// Length in bytes.
    pub fn len_bytes(self) -> u64 {
        match self {
            Self::Io { len } | Self::Mem32 { len, .. } => u64::from(len),
            Self::Mem64 { len, .. } => len,
        }
    }

    /// I/O or memory.
    pub(crate) fn space(self) -> Space {
        if matches!(self, Self::Io { .. }) { Space::Pio } else { Space::Mmio }
    }

    pub(super) fn flags(self) -> u32 {
        let prefetch = |yes: bool| if yes { BAR_PREFETCHABLE } else { 0 };
        match self {
            Self::Io { .. } => BAR_IO,
            Self::Mem32 { prefetchable, .. } => prefetch(prefetchable),
            Self::Mem64 { prefetchable, .. } => BAR_MEM64 | prefetch(prefetchable),
        }
    }

    /// Registers it takes.
    pub(super) fn registers(self) -> usize {
        if matches!(self, Self::Mem64 { .. }) { 2 } else { 1 }
    }
}

/// Where an enabled BAR has been put, in addresses of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// Memory or I/O.
    pub space: Space,
    /// First address. Whatever the guest wrote: it need not be free, nor in range.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}
