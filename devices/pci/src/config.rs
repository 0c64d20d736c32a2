//! A function's 256 bytes of configuration space: values, and which bits of them a guest may
//! change how. Everything the specification says about writing (read-only fields, error bits
//! cleared by ones, BARs that tell their size) is in the masks.

use trapline_device::{Size, Space};

use crate::regs::{
    BAR_IO, BAR_MEM64, BAR_PREFETCHABLE, BAR0, CACHE_LINE_SIZE, CLASS_CODE, COMMAND, CONFIG_LEN,
    Command, DEVICE_ID, HEADER_TYPE, INTERRUPT_LINE, INTERRUPT_PIN, LATENCY_TIMER, MULTI_FUNCTION,
    REVISION_ID, STATUS, STATUS_ERRORS, SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID, VENDOR_ID,
};
use crate::state::ConfigState;

const BARS: usize = 6;

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

    fn space(self) -> Space {
        if matches!(self, Self::Io { .. }) { Space::Pio } else { Space::Mmio }
    }

    fn flags(self) -> u32 {
        let prefetch = |yes: bool| if yes { BAR_PREFETCHABLE } else { 0 };
        match self {
            Self::Io { .. } => BAR_IO,
            Self::Mem32 { prefetchable, .. } => prefetch(prefetchable),
            Self::Mem64 { prefetchable, .. } => BAR_MEM64 | prefetch(prefetchable),
        }
    }

    fn registers(self) -> usize {
        if matches!(self, Self::Mem64 { .. }) { 2 } else { 1 }
    }
}

/// Where an enabled BAR has been put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// Memory or I/O.
    pub space: Space,
    /// First address. Whatever the guest wrote: it need not be free, nor in range.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Configuration space of a type 0 (endpoint) function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    // Fixed make.
    reset: [u8; CONFIG_LEN],
    writable: [u8; CONFIG_LEN],
    cleared_by_ones: [u8; CONFIG_LEN],
    /// Bits the function itself changes.
    updated: [u8; CONFIG_LEN],
    bars: [Option<Bar>; BARS],
    // What the guest changes.
    state: ConfigState,
}

impl ConfigSpace {
    /// A header without BARs. Writable: bus master, parity, SERR# and INTx disable of the command
    /// register, cache line size, latency timer, interrupt line.
    ///
    /// # Panics
    /// When `class` is wider than 24 bits.
    pub fn new(id: &Identity) -> Self {
        assert!(id.class >> 24 == 0, "a class code has 24 bits");
        let zero = [0; CONFIG_LEN];
        let state = ConfigState { bytes: zero };
        let mut space = Self {
            reset: zero,
            writable: zero,
            cleared_by_ones: zero,
            updated: zero,
            bars: [None; BARS],
            state,
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

    /// Sets bytes and their reset values; for building a function.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn set(&mut self, offset: u16, bytes: &[u8]) {
        Self::check(offset, bytes);
        put(&mut self.reset, offset, bytes, |_, new| new);
        put(&mut self.state.bytes, offset, bytes, |_, new| new);
    }

    /// Lets the guest write the bits set in `mask`.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn allow(&mut self, offset: u16, mask: &[u8]) {
        Self::check(offset, mask);
        put(&mut self.writable, offset, mask, |old, new| old | new);
        put(&mut self.cleared_by_ones, offset, mask, |old, new| old & !new);
    }

    /// Lets the guest clear the bits set in `mask` by writing ones.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn allow_clear(&mut self, offset: u16, mask: &[u8]) {
        Self::check(offset, mask);
        put(&mut self.cleared_by_ones, offset, mask, |old, new| old | new);
        put(&mut self.writable, offset, mask, |old, new| old & !new);
    }

    /// Takes write access to the bits set in `mask` away again.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn forbid(&mut self, offset: u16, mask: &[u8]) {
        Self::check(offset, mask);
        put(&mut self.writable, offset, mask, |old, new| old & !new);
        put(&mut self.cleared_by_ones, offset, mask, |old, new| old & !new);
    }

    /// Says which bits [`ConfigSpace::update`] will change, so that a snapshot may hold them.
    ///
    /// # Panics
    /// When they run past the end of the space.
    pub fn allow_update(&mut self, offset: u16, mask: &[u8]) {
        Self::check(offset, mask);
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

    /// Where each BAR answers now; `None` for one that is absent or switched off. Compare before
    /// and after a write to learn what has to be moved.
    pub fn windows(&self) -> [Option<BarWindow>; BARS] {
        let mut windows = [None; BARS];
        let command = self.command();
        for ((window, bar), offset) in windows.iter_mut().zip(self.bars).zip((BAR0..).step_by(4)) {
            let Some(bar) = bar else { continue };
            let enabled = match bar.space() {
                Space::Pio => command.io(),
                Space::Mmio => command.memory(),
            };
            let low = u64::from(self.read(offset, Size::Dword));
            let high = match bar {
                Bar::Mem64 { .. } => u64::from(self.read(offset + 4, Size::Dword)),
                Bar::Io { .. } | Bar::Mem32 { .. } => 0,
            };
            let base = (high << 32 | low) & !(bar.len_bytes() - 1);
            let place = BarWindow { space: bar.space(), base, len: bar.len_bytes() };
            *window = enabled.then_some(place);
        }
        windows
    }

    /// Puts every byte back to its reset value.
    pub fn reset(&mut self) {
        self.state.bytes = self.reset;
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> ConfigState {
        self.state
    }

    /// Whether a function of this make can be in `state`: bits that neither the guest nor the
    /// function changes have their reset values.
    pub fn can_be(&self, state: &ConfigState) -> bool {
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

    fn check(offset: u16, bytes: &[u8]) {
        let end = usize::from(offset) + bytes.len();
        assert!(end <= CONFIG_LEN, "a configuration register lies inside the space");
    }
}

fn put(to: &mut [u8; CONFIG_LEN], offset: u16, bytes: &[u8], how: impl Fn(u8, u8) -> u8) {
    let cells = to.iter_mut().skip(usize::from(offset));
    cells.zip(bytes).for_each(|(cell, &new)| *cell = how(*cell, new));
}
