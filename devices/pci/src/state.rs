//! What a snapshot of this crate's devices keeps.

use trapline_device::{StateError, saved_form};

use crate::regs::{ConfigAddress, ResetControl};

/// A function's configuration bytes. Masks, BAR sizes and reset values are its make, not its
/// state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigState {
    /// All 256 or 4,096 bytes.
    pub bytes: Vec<u8>,
}

/// Configuration mechanism #1. `default()` is power-on: both registers 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conf1State {
    /// CONFIG_ADDRESS.
    pub address: ConfigAddress,
    /// The reset control register.
    pub reset_control: ResetControl,
}

impl Conf1State {
    fn check(&self) -> Result<(), StateError> {
        let Self { address, reset_control } = *self;
        let check = StateError::check::<Conf1V1>;
        let possible = ConfigAddress::from_guest(address.into_bits()) == address;
        check(possible, "reserved bits of CONFIG_ADDRESS are 0")?;
        let possible = ResetControl::from_guest(reset_control.into_bits()) == reset_control;
        check(possible, "reserved bits of the reset control register are 0")
    }
}

saved_form! {
    /// [`Conf1State`], version 1.
    pub(crate) struct Conf1V1 of Conf1State, "pci-conf1" version 1 {
        address: u32,
        reset_control: u8,
    }
}

/// The reset control register without that mechanism. `default()` is power-on: 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetPortState {
    /// The register.
    pub control: ResetControl,
}

impl ResetPortState {
    fn check(&self) -> Result<(), StateError> {
        let possible = ResetControl::from_guest(self.control.into_bits()) == self.control;
        StateError::check::<ResetPortV1>(
            possible,
            "reserved bits of the reset control register are 0",
        )
    }
}

saved_form! {
    /// [`ResetPortState`], version 1.
    pub(crate) struct ResetPortV1 of ResetPortState, "pci-reset" version 1 {
        control: u8,
    }
}

saved_form! {
    /// [`ConfigState`], version 1: a part of the form of each function.
    pub struct ConfigV1 of ConfigState {
        bytes: Vec<u8>,
    }
}
