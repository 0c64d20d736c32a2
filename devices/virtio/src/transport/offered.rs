//! The features a device offers, by the kind of driver that asks.

use super::StatusBits;
use crate::features::{ANY_LAYOUT, RING_RESET, VERSION_1};

/// What kind of driver a register is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    /// Of version 1.0 and later.
    Modern,
    /// Of before.
    Legacy,
}

impl Interface {
    /// What a driver can set of the device status.
    pub(crate) const fn status_bits(self) -> u8 {
        match self {
            Self::Modern => StatusBits::DRIVERS,
            // It does not settle its features: they are what it wrote.
            Self::Legacy => StatusBits::DRIVERS & !StatusBits::FEATURES_OK,
        }
    }
}

/// Which kinds of drivers there are registers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interfaces {
    /// One kind.
    Only(Interface),
    /// Both, of which a driver uses one: a transitional device.
    Both,
}

/// The features offered at each interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    modern: Option<u64>,
    legacy: Option<u64>,
}

impl Offered {
    /// Those of a device, with the transport's own.
    pub(super) fn new(of_device: u64, interfaces: Interfaces) -> Self {
        let (only_modern, only_legacy) = (
            interfaces == Interfaces::Only(Interface::Modern),
            interfaces == Interfaces::Only(Interface::Legacy),
        );
        let modern = of_device | VERSION_1 | RING_RESET;
        let legacy = (of_device | ANY_LAYOUT) & u64::from(u32::MAX);
        Self { modern: (!only_legacy).then_some(modern), legacy: (!only_modern).then_some(legacy) }
    }

    /// Those offered at `interface`; none where there is no such interface.
    pub(super) fn at(&self, interface: Interface) -> u64 {
        match interface {
            Interface::Modern => self.modern.unwrap_or(0),
            Interface::Legacy => self.legacy.unwrap_or(0),
        }
    }

    /// Whether there is an interface for legacy drivers.
    pub(super) fn has_legacy(&self) -> bool {
        self.legacy.is_some()
    }
}
