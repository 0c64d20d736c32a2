//! What a snapshot of this crate's devices keeps.

use crate::regs::{CONFIG_LEN, ConfigAddress, ResetControl};

/// A function's configuration bytes. Masks, BAR sizes and reset values are its make, not its
/// state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigState {
    /// All 256 bytes, as a guest reads them.
    pub bytes: [u8; CONFIG_LEN],
}

/// Configuration mechanism #1. `default()` is power-on: both registers 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conf1State {
    /// CONFIG_ADDRESS.
    pub address: ConfigAddress,
    /// The reset control register.
    pub reset_control: ResetControl,
}
