//! A function's configuration space: values, and which bits of them a guest may change how.
//! Everything the specification says about writing (read-only fields, error bits cleared by ones,
//! BARs that tell their size) is in the masks.

mod bar;
mod capability;
#[cfg(test)]
mod tests;

use trapline_device::{Size, Space};

use crate::regs::{
    BAR0, CACHE_LINE_SIZE, CLASS_CODE, COMMAND, CONFIG_LEN, Command, DEVICE_ID, EXPANSION_ROM,
    EXTENDED_CONFIG_LEN, HEADER_TYPE, INTERRUPT_LINE, INTERRUPT_PIN, LATENCY_TIMER, MULTI_FUNCTION,
    REVISION_ID, ROM_ADDRESS, ROM_ENABLE, STATUS, STATUS_ERRORS, SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID,
    VENDOR_ID,
};
use crate::state::ConfigState;

pub(crate) use bar::DECODERS;
pub use bar::{BARS, Bar, BarWindow, ROM_BAR};
pub use capability::CapabilityId;

/// A function's interrupt pin (PCI 3.0, 6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pin {
    /// INTA#.
    A = 1,
    /// INTB#.
    B = 2,
    /// INTC#.
    C = 3,
    /// INTD#.
    D = 4,
}

/// What a function says it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code, 24 bits: base class, sub-class, programming interface.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// The interrupt pin it uses, if any.
    pub pin: Option<Pin>,
    /// Whether its device has functions beyond 0.
    pub multi_function: bool,
}

/// Configuration space of a type 0 (endpoint) function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    // Fixed make.
    reset: Vec<u8>,
    writable: Vec<u8>,
    cleared_by_ones: Vec<u8>,
    /// Bits the function itself changes.
    updated: Vec<u8>,
    bars: [Option<Bar>; BARS],
    /// Length of the expansion ROM.
    rom: Option<u32>,
    /// What capabilities take.
    capabilities: Vec<std::ops::Range<usize>>,
    // What the guest changes.
    state: ConfigState,
}

impl ConfigSpace {
    /// The 256 bytes of a conventional function, without BARs. Writable: bus master, parity, SERR# and INTx disable of the command
    /// register, cache line size, latency timer, interrupt line.
    ///
    /// # Panics
    /// When `class` is wider than 24 bits.
    pub fn new(id: &Identity) -> Self {
        Self::with_len(id, CONFIG_LEN)
    }

    /// The 4,096 bytes of a PCI Express function; where only 256 can be reached (configuration
    /// mechanism #1), the rest is out of sight.
    ///
    /// # Panics
    /// When `class` is wider than 24 bits.
    pub fn extended(id: &Identity) -> Self {
        Self::with_len(id, EXTENDED_CONFIG_LEN)
    }

    fn with_len(id: &Identity, len: usize) -> Self {
        assert!(id.class >> 24 == 0, "a class code has 24 bits");
        let zero = vec![0; len];
        let mut space = Self {
            reset: zero.clone(),
            writable: zero.clone(),
            cleared_by_ones: zero.clone(),
            updated: zero.clone(),
            bars: [None; BARS],
            rom: None,
            capabilities: Vec::new(),
            state: ConfigState { bytes: zero },
        };
        let [prog_if, sub_class, base_class, _] = id.class.to_le_bytes();
        space.set(VENDOR_ID, &id.vendor.to_le_bytes());
        space.set(DEVICE_ID, &id.device.to_le_bytes());
        space.set(REVISION_ID, &[id.revision]);
        space.set(CLASS_CODE, &[prog_if, sub_class, base_class]);
        space.set(HEADER_TYPE, &[if id.multi_function { MULTI_FUNCTION } else { 0 }]);
        space.set(SUBSYSTEM_VENDOR_ID, &id.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM_ID, &id.subsystem.to_le_bytes());
        space.set(INTERRUPT_PIN, &[id.pin.map_or(0, |pin| pin as u8)]);
        let command = Command::new()
            .with_master(true)
            .with_parity(true)
            .with_serr(true)
            .with_interrupt_disable(true);
        space.allow(COMMAND, &command.into_bits().to_le_bytes());
        space.allow_clear(STATUS, &STATUS_ERRORS.to_le_bytes());
        space.allow(CACHE_LINE_SIZE, &[0xff]);
        space.allow(LATENCY_TIMER, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR `index` (0 to 5), at address 0 and therefore nowhere until the guest places it and
    /// sets the command register's enable bit for its space.
    ///
    /// # Panics
    /// When the length is not one a BAR can have, or the register is taken or does not exist.
    #[must_use]
    pub fn with_bar(mut self, index: usize, bar: Bar) -> Self {
        let len = bar.len_bytes();
        let shortest = if bar.space() == Space::Pio { 4 } else { 16 };
        assert!(len.is_power_of_two() && len >= shortest, "a BAR decodes a power of two");
        assert!(bar.space() == Space::Mmio || len <= 256, "an I/O BAR decodes at most 256 ports");
        let taken = |i: usize| self.bar_registers(i);
        let wanted = index..index + bar.registers();
        assert!(wanted.end <= BARS, "a function has six BARs");
        assert!(!wanted.clone().any(taken), "two BARs share a register");
        let offset = BAR0 + 4 * u16::try_from(index).unwrap_or(0);
        self.set(offset, &bar.flags().to_le_bytes());
        let mask = (!(len - 1)).to_le_bytes();
        self.allow(offset, mask.get(..4 * bar.registers()).unwrap_or(&mask));
        let command = match bar.space() {
            Space::Pio => Command::new().with_io(true),
            Space::Mmio => Command::new().with_memory(true),
        };
        self.allow(COMMAND, &command.into_bits().to_le_bytes());
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = Some(bar);
        }
        self
    }

    /// Adds an expansion ROM of `len` bytes, disabled (PCI 3.0, 6.2.5.2).
    ///
    /// # Panics
    /// When the length is no power of two from 2 KiB to 16 MiB.
    #[must_use]
    pub fn with_rom(mut self, len: u32) -> Self {
        let possible = len.is_power_of_two() && (0x800..=0x100_0000).contains(&len);
        assert!(possible, "an expansion ROM has 2 KiB to 16 MiB");
        let mask = ROM_ADDRESS & !(len - 1) | ROM_ENABLE;
        self.allow(EXPANSION_ROM, &mask.to_le_bytes());
        self.allow(COMMAND, &Command::new().with_memory(true).into_bits().to_le_bytes());
        self.rom = Some(len);
        self
    }

    /// What BAR `index` decodes, if there is one; [`ROM_BAR`] is the expansion ROM.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        match self.rom {
            Some(len) if index == ROM_BAR => Some(Bar::Mem32 { len, prefetchable: true }),
            _ => self.bars.get(index).copied().flatten(),
        }
    }

    /// How many bytes there are: 256 or 4,096.
    pub fn len_bytes(&self) -> usize {
        self.reset.len()
    }

    /// Sets bytes and their reset values; for building a function.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn set(&mut self, offset: u16, bytes: &[u8]) {
        self.check(offset, bytes);
        put(&mut self.reset, offset, bytes, |_, new| new);
        put(&mut self.state.bytes, offset, bytes, |_, new| new);
    }

    /// Lets the guest write the bits set in `mask`.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn allow(&mut self, offset: u16, mask: &[u8]) {
        self.check(offset, mask);
        put(&mut self.writable, offset, mask, |old, new| old | new);
        put(&mut self.cleared_by_ones, offset, mask, |old, new| old & !new);
    }

    /// Lets the guest clear the bits set in `mask` by writing ones.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn allow_clear(&mut self, offset: u16, mask: &[u8]) {
        self.check(offset, mask);
        put(&mut self.cleared_by_ones, offset, mask, |old, new| old | new);
        put(&mut self.writable, offset, mask, |old, new| old & !new);
    }

    /// Takes write access to the bits set in `mask` away again.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn forbid(&mut self, offset: u16, mask: &[u8]) {
        self.check(offset, mask);
        put(&mut self.writable, offset, mask, |old, new| old & !new);
        put(&mut self.cleared_by_ones, offset, mask, |old, new| old & !new);
    }

    /// Says which bits [`ConfigSpace::update`] will change, so that a snapshot may hold them.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn allow_update(&mut self, offset: u16, mask: &[u8]) {
        self.check(offset, mask);
        put(&mut self.updated, offset, mask, |old, new| old | new);
    }

    /// Sets bytes from the function's side (a status bit, say), masks or no masks. A reset undoes
    /// it. Bytes past the end vanish.
    pub fn update(&mut self, offset: u16, bytes: &[u8]) {
        put(&mut self.state.bytes, offset, bytes, |_, new| new);
    }

    /// A guest's read. Bytes past the end of the space are all ones.
    pub fn read(&self, offset: u16, size: Size) -> u32 {
        let mut value = [0; 4];
        let bytes = self.state.bytes.iter().copied().skip(usize::from(offset));
        let bytes = bytes.chain(std::iter::repeat(0xff));
        value.iter_mut().take(size.bytes()).zip(bytes).for_each(|(to, from)| *to = from);
        u32::from_le_bytes(value)
    }

    /// All of it, as a guest reads it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.state.bytes
    }

    /// A guest's write.
    pub fn write(&mut self, offset: u16, size: Size, value: u32) {
        let masks = self.writable.iter().zip(&self.cleared_by_ones);
        let cells = self.state.bytes.iter_mut().zip(masks).skip(usize::from(offset));
        for ((cell, (&writable, &clears)), new) in cells.zip(value.to_le_bytes()).take(size.bytes())
        {
            let left = *cell & !(new & clears);
            *cell = (left & !writable) | (new & writable);
        }
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits(u16::try_from(self.read(COMMAND, Size::Word)).unwrap_or(0))
    }

    /// Where each BAR and, after them, the expansion ROM decodes now; `None` for one that is absent
    /// or switched off.
    pub fn windows(&self) -> [Option<BarWindow>; DECODERS] {
        let mut windows = [None; DECODERS];
        windows.iter_mut().enumerate().for_each(|(index, window)| *window = self.window(index));
        windows
    }

    fn window(&self, index: usize) -> Option<BarWindow> {
        let (bar, command) = (self.bar(index)?, self.command());
        let offset = BAR0 + 4 * u16::try_from(index).unwrap_or(0);
        let (enabled, value) = match bar {
            Bar::Mem32 { .. } if index == ROM_BAR => {
                let value = self.read(EXPANSION_ROM, Size::Dword);
                (command.memory() && value & ROM_ENABLE != 0, u64::from(value))
            }
            Bar::Mem64 { .. } => {
                let high = u64::from(self.read(offset + 4, Size::Dword));
                (command.memory(), high << 32 | u64::from(self.read(offset, Size::Dword)))
            }
            Bar::Mem32 { .. } => (command.memory(), self.read(offset, Size::Dword).into()),
            Bar::Io { .. } => (command.io(), self.read(offset, Size::Dword).into()),
        };
        let (space, len) = (bar.space(), bar.len_bytes());
        enabled.then_some(BarWindow { space, base: value & !(len - 1), len })
    }

    /// Puts every byte back to its reset value.
    pub fn reset(&mut self) {
        self.state.bytes.clone_from(&self.reset);
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> ConfigState {
        self.state.clone()
    }

    /// Whether a function of this make can be in `state`: it has as many bytes, and bits that
    /// neither the guest nor the function changes have their reset values.
    pub fn can_be(&self, state: &ConfigState) -> bool {
        if state.bytes.len() != self.len_bytes() {
            return false;
        }
        let masks = self.writable.iter().zip(&self.cleared_by_ones).zip(&self.updated);
        let changes = masks.map(|((writable, clears), updated)| writable | clears | updated);
        let bytes = state.bytes.iter().zip(&self.reset).zip(changes);
        bytes.into_iter().all(|((byte, reset), changes)| (byte ^ reset) & !changes == 0)
    }

    /// Goes back to what a snapshot of the same function kept, if it [can be](Self::can_be) in that
    /// state.
    pub fn restore(&mut self, state: ConfigState) {
        self.state = state;
    }

    fn bar_registers(&self, register: usize) -> bool {
        self.bars.iter().enumerate().any(|(index, bar)| {
            bar.is_some_and(|bar| (index..index + bar.registers()).contains(&register))
        })
    }

    fn check(&self, offset: u16, bytes: &[u8]) {
        let end = usize::from(offset) + bytes.len();
        assert!(end <= self.len_bytes(), "a configuration register lies inside the space");
    }
}

fn put(to: &mut [u8], offset: u16, bytes: &[u8], how: impl Fn(u8, u8) -> u8) {
    let cells = to.iter_mut().skip(usize::from(offset));
    cells.zip(bytes).for_each(|(cell, &new)| *cell = how(*cell, new));
}
