//! The firmware configuration device: named and numbered blobs for firmware to read.
//!
//! Spec: see [`regs`].
//!
//! ```text
//! guest ── selector, data ──► FwCfg (lock) ──► Chip ──► items
//!          DMA address    ──►                       └──► guest memory
//! ```
//!
//! The registers are laid out in one of two ways, [`Layout`]; the chip behind them is the same.

mod chip;
mod items;
pub mod regs;
mod state;

#[cfg(test)]
mod tests;

use parking_lot::Mutex;
use trapline_device::{
    Device, Direction, Handler, IoCx, Limits, Rules, SaveState, Saved, Size, StateError,
};
use trapline_guestmem::GuestMem;
use trapline_regs::RegMap;

use self::chip::Chip;
pub use self::items::{ItemError, Items};
use self::regs::{DMA_SIGNATURE, MMIO, MMIO_LEN, PORTS, PORTS_LEN, Reg};
use self::state::SavedV1;
pub use self::state::State;

/// How the registers are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Ports, as on x86: a little-endian selector, and a data register of 8 bits.
    Ports,
    /// Memory, as on Arm: a big-endian selector, and a data register of up to 64 bits.
    Mmio,
}

impl Layout {
    const fn map(self) -> &'static RegMap<Reg> {
        match self {
            Self::Ports => &PORTS,
            Self::Mmio => &MMIO,
        }
    }

    /// Length of the window in bytes.
    pub const fn window_len(self) -> u32 {
        match self {
            Self::Ports => PORTS_LEN,
            Self::Mmio => MMIO_LEN,
        }
    }

    /// The widest access of the data register, in bytes.
    const fn data_width(self) -> usize {
        match self {
            Self::Ports => 1,
            Self::Mmio => 8,
        }
    }
}

/// The device.
pub struct FwCfg {
    // Wiring.
    layout: Layout,
    mem: GuestMem,
    chip: Mutex<Chip>,
}

impl FwCfg {
    /// The device after power-on, with `items` to read. Operations reach all of `mem`.
    pub fn new(layout: Layout, items: Items, mem: GuestMem) -> Self {
        let chip = Mutex::new(Chip { items: items.finish(), state: State::default() });
        Self { layout, mem, chip }
    }

    /// The register of which an access of `size` at `offset` is a valid one.
    fn reg(&self, offset: u64, size: Size, direction: Direction) -> Option<Reg> {
        let map = self.layout.map();
        let row = match direction {
            // A byte read of the port below the data port is one of the data port, too.
            Direction::Read if self.layout == Layout::Ports && offset == 0 => map.for_read(1),
            Direction::Read => map.for_read(offset),
            Direction::Write => map.for_write(offset),
        }?;
        let begins = offset == u64::from(row.offset);
        let (wide, bytes) = (usize::try_from(row.width).unwrap_or(0), size.bytes());
        let valid = match (row.reg, direction) {
            (Reg::Data, _) => bytes <= self.layout.data_width(),
            (Reg::Selector, _) => begins && bytes == wide,
            // The signature can be read in any pieces.
            (Reg::DmaHigh | Reg::DmaLow, Direction::Read) => true,
            (Reg::DmaHigh, Direction::Write) => begins && bytes >= wide,
            (Reg::DmaLow, Direction::Write) => begins && bytes == wide,
        };
        valid.then_some(row.reg)
    }

    fn start(&self, chip: &mut Chip, low: u32) {
        let high = std::mem::take(&mut chip.state.dma_high);
        chip.operate(&self.mem, u64::from(high) << 32 | u64::from(low));
    }
}

impl Handler for FwCfg {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut bytes = [0; 8];
        match self.reg(offset, size, Direction::Read) {
            Some(Reg::Data) => {
                let wanted = bytes.get_mut(..size.bytes()).unwrap_or_default();
                self.chip.lock().read(wanted);
            }
            Some(Reg::DmaHigh | Reg::DmaLow) => {
                // Both layouts align the register to its eight bytes' halves.
                let at = offset.wrapping_sub(u64::from(self.layout.window_len()) - 8);
                let from = DMA_SIGNATURE.iter().skip(usize::try_from(at).unwrap_or(8));
                bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            Some(Reg::Selector) | None => return size.ones(),
        }
        u64::from_le_bytes(bytes) & size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = value.to_le_bytes();
        let mut chip = self.chip.lock();
        match self.reg(offset, size, Direction::Write) {
            Some(Reg::Selector) => {
                let bytes = [b0, b1];
                chip.select(match self.layout {
                    Layout::Ports => u16::from_le_bytes(bytes),
                    Layout::Mmio => u16::from_be_bytes(bytes),
                });
            }
            Some(Reg::DmaHigh) => {
                chip.state.dma_high = u32::from_be_bytes([b0, b1, b2, b3]);
                if size == Size::Qword {
                    self.start(&mut chip, u32::from_be_bytes([b4, b5, b6, b7]));
                }
            }
            Some(Reg::DmaLow) => self.start(&mut chip, u32::from_be_bytes([b0, b1, b2, b3])),
            // "Writes ignored as of QEMU v2.4."
            Some(Reg::Data) | None => {}
        }
    }

    fn read_rep(&self, cx: &IoCx<'_>, offset: u64, size: Size, data: &mut [u8]) {
        if self.reg(offset, size, Direction::Read) == Some(Reg::Data) {
            self.chip.lock().read(data);
            return;
        }
        for element in data.chunks_exact_mut(size.bytes()) {
            let value = self.read(cx, offset, size).to_le_bytes();
            element.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
    }

    fn rules(&self) -> Rules {
        let max = match self.layout {
            Layout::Ports => Size::Dword,
            Layout::Mmio => Size::Qword,
        };
        let handled = Limits { min: Size::Byte, max, unaligned: false };
        Rules { valid: Limits::ANY, handled }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        match direction {
            Direction::Read => self.layout.map().for_read(offset),
            Direction::Write => self.layout.map().for_write(offset),
        }
        .map(|row| row.name)
    }
}

impl Device for FwCfg {
    fn reset(&self) {
        self.chip.lock().reset();
    }
}

impl SaveState for FwCfg {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&*self.chip.lock()))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode::<SavedV1>()?.apply(&mut self.chip.lock())
    }
}

impl std::fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FwCfg").field("state", &self.chip.lock().state).finish_non_exhaustive()
    }
}
