//! Everything a snapshot keeps of the display, besides its memory.

use trapline_device::{Form, Size, StateError, saved_form};
use trapline_pci::ConfigSpace;
use trapline_pci::regs::{BAR0, CACHE_LINE_SIZE, COMMAND, INTERRUPT_LINE, LATENCY_TIMER};

/// The second BAR.
const BAR1: u16 = BAR0 + 4;

/// What a guest can change of the header. The rest is its make; status bits, which only errors on
/// the bus set, are never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Command register.
    pub command: u16,
    /// Cache line size.
    pub cache_line_size: u8,
    /// Latency timer.
    pub latency_timer: u8,
    /// The ports' BAR.
    pub ports: u32,
    /// The frame buffer's BAR.
    pub frame: u32,
    /// Interrupt line.
    pub interrupt_line: u8,
}

impl State {
    /// The header's state.
    pub(super) fn of(config: &ConfigSpace) -> Self {
        let byte = |offset| low_byte(config.read(offset, Size::Byte));
        Self {
            command: config.command().into_bits(),
            cache_line_size: byte(CACHE_LINE_SIZE),
            latency_timer: byte(LATENCY_TIMER),
            ports: config.read(BAR0, Size::Dword),
            frame: config.read(BAR1, Size::Dword),
            interrupt_line: byte(INTERRUPT_LINE),
        }
    }

    /// A header of the same make in this state: as if a guest had written it.
    pub(super) fn apply(self, make: &ConfigSpace) -> Result<ConfigSpace, StateError> {
        let mut config = make.clone();
        config.reset();
        config.write(COMMAND, Size::Word, self.command.into());
        config.write(CACHE_LINE_SIZE, Size::Byte, self.cache_line_size.into());
        config.write(LATENCY_TIMER, Size::Byte, self.latency_timer.into());
        config.write(BAR0, Size::Dword, self.ports);
        config.write(BAR1, Size::Dword, self.frame);
        config.write(INTERRUPT_LINE, Size::Byte, self.interrupt_line.into());
        let same = Self::of(&config) == self;
        StateError::check::<SavedV1>(same, "every register holds what a guest can write to it")?;
        Ok(config)
    }
}

fn low_byte(value: u32) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State {
        command: u16,
        cache_line_size: u8,
        latency_timer: u8,
        ports: u32,
        frame: u32,
        interrupt_line: u8,
    }
}

impl Form for SavedV1 {
    const NAME: &'static str = "vesa";
    const VERSION: u32 = 1;
}
