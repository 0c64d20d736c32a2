//! The 8237A DMA controller, as far as a driver can program it.
//!
//! Spec: Intel 8237A data sheet, order number 231466.
//!
//! Nothing here is wired to a DREQ pin, so no channel ever moves data and the current address and
//! count are the base address and count. Deviation: a software request is remembered and shown in
//! the status register, but not carried out; on a PC nobody makes one.

pub mod regs;
mod state;

#[cfg(test)]
mod tests;

use trapline_device::{
    Device, Direction, Handler, HandlerMut, IoCx, Locked, Rules, SaveState, Saved, Size, StateError,
};

use self::regs::{ChannelBit, MAP, Reg, WINDOW_LEN};
use self::state::SavedV1;
pub use self::state::{Channel, State};

/// The chip. Hardware reset makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chip {
    state: State,
}

impl Chip {
    fn read(&mut self, offset: u64) -> u8 {
        match MAP.for_read(offset).map(|row| row.reg) {
            Some(Reg::Address(channel)) => self.read_half(|channels| channels.address, channel),
            Some(Reg::Count(channel)) => self.read_half(|channels| channels.count, channel),
            // Bits 0 to 3, terminal count, are never set as nothing is transferred.
            Some(Reg::Status) => self.state.requests << 4,
            // Nothing has been moved since reset.
            Some(Reg::Temporary) => 0,
            // Illegal codes leave the data bus alone.
            _ => 0xff,
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        let state = &mut self.state;
        match MAP.for_write(offset).map(|row| row.reg) {
            Some(Reg::Address(channel)) => {
                self.write_half(|channels| &mut channels.address, channel, value);
            }
            Some(Reg::Count(channel)) => {
                self.write_half(|channels| &mut channels.count, channel, value);
            }
            Some(Reg::Command) => state.command = value,
            Some(Reg::Request) => {
                state.requests = ChannelBit::from_bits(value).apply(state.requests)
            }
            Some(Reg::SingleMask) => state.mask = ChannelBit::from_bits(value).apply(state.mask),
            Some(Reg::Mode) => {
                let channel = ChannelBit::from_bits(value).channel();
                if let Some(channel) = state.channels.get_mut(usize::from(channel)) {
                    channel.mode = value & !0x03;
                }
            }
            Some(Reg::ClearPointer) => state.high_byte = false,
            Some(Reg::MasterClear) => state.master_clear(),
            Some(Reg::ClearMask) => state.mask = 0,
            Some(Reg::AllMasks) => state.mask = value & regs::MASK_ALL,
            Some(Reg::Status | Reg::Temporary) | None => {}
        }
    }

    /// The half of a 16-bit register the byte pointer is at, low byte first; moves the pointer.
    fn read_half(&mut self, register: impl Fn(&Channel) -> u16, channel: u8) -> u8 {
        let value = self.state.channels.get(usize::from(channel)).map_or(0, register);
        let [low, high] = value.to_le_bytes();
        let at_high = self.state.high_byte;
        self.state.high_byte = !at_high;
        if at_high { high } else { low }
    }

    fn write_half(&mut self, register: impl Fn(&mut Channel) -> &mut u16, channel: u8, value: u8) {
        let state = &mut self.state;
        if let Some(register) = state.channels.get_mut(usize::from(channel)).map(register) {
            let [low, high] = register.to_le_bytes();
            let halves = if state.high_byte { [low, value] } else { [value, high] };
            *register = u16::from_le_bytes(halves);
        }
        state.high_byte = !state.high_byte;
    }
}

/// An 8237A on a PC's bus.
#[derive(Debug)]
pub struct Dma(Locked<OnBus>);

#[derive(Debug)]
struct OnBus {
    chip: Chip,
    /// How far apart registers are, as a power of two.
    stride_log2: u32,
}

impl Dma {
    /// The first controller, for byte channels 0 to 3, at consecutive ports. 32 bytes: A4 is not
    /// decoded, so the sixteen registers appear twice.
    pub fn bytes() -> Self {
        Self::with_stride(0)
    }

    /// The second controller, for word channels 4 to 7, at every other port. 32 bytes.
    pub fn words() -> Self {
        Self::with_stride(1)
    }

    fn with_stride(stride_log2: u32) -> Self {
        Self(Locked::new(OnBus { chip: Chip::default(), stride_log2 }))
    }
}

impl OnBus {
    fn decode(&self, offset: u64) -> u64 {
        (offset >> self.stride_log2) % u64::from(WINDOW_LEN)
    }
}

impl HandlerMut for OnBus {
    fn read(&mut self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        u64::from(self.chip.read(self.decode(offset)))
    }

    fn write(&mut self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        self.chip.write(self.decode(offset), super::low_byte(value));
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let offset = self.decode(offset);
        match direction {
            Direction::Read => MAP.for_read(offset),
            Direction::Write => MAP.for_write(offset),
        }
        .map(|row| row.name)
    }
}

impl Handler for Dma {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.0.read(cx, offset, size)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.0.write(cx, offset, size, value);
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.0.register(offset, direction)
    }
}

impl Device for Dma {
    fn reset(&self) {
        self.0.lock().chip = Chip::default();
    }
}

impl SaveState for Dma {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&self.0.lock().chip.state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = State::try_from(saved.decode::<SavedV1>()?)?;
        self.0.lock().chip = Chip { state };
        Ok(())
    }
}
