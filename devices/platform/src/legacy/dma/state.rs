//! What a snapshot of the DMA controller keeps.

use trapline_device::{StateError, saved_form};

use super::regs::{CHANNELS, MASK_ALL};

/// One channel. The data sheet leaves these undefined at power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// Base, and so current, address.
    pub address: u16,
    /// Base, and so current, word count.
    pub count: u16,
    /// Bits 2 to 7 of the mode register.
    pub mode: u8,
}

/// Everything the chip remembers. `Default` is the state after hardware reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The channels.
    pub channels: [Channel; CHANNELS],
    /// Command register.
    pub command: u8,
    /// Software requests, bit per channel.
    pub requests: u8,
    /// Mask register, bit per channel.
    pub mask: u8,
    /// The byte pointer (first/last flip-flop) is at the high byte.
    pub high_byte: bool,
}

impl State {
    /// "Software commands": master clear clears command, status, request, temporary and the byte
    /// pointer, and sets the mask. Addresses, counts and modes stay.
    pub fn master_clear(&mut self) {
        *self = Self { channels: self.channels, ..Self::default() };
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            channels: [Channel::default(); CHANNELS],
            command: 0,
            requests: 0,
            mask: MASK_ALL,
            high_byte: false,
        }
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let check = StateError::check::<SavedV1>;
        let modes = self.channels.iter().all(|channel| channel.mode & 3 == 0);
        check(modes, "a mode does not hold its channel's number")?;
        let bits = (self.requests | self.mask) & !MASK_ALL;
        check(bits == 0, "there are four channels")
    }
}

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "i8237" version 1 {
        channels: [ChannelV1; CHANNELS] => each,
        command: u8,
        requests: u8,
        mask: u8,
        high_byte: bool,
    }
}

saved_form! {
    struct ChannelV1 of Channel {
        address: u16,
        count: u16,
        mode: u8,
    }
}
