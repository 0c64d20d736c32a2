//! The MSI capability: one message, 64 or 32 bits of address, no masks of single vectors.
//!
//! Spec: PCI Local Bus Specification 3.0, 6.8.1.

use trapline_device::{Msi, Size};

use crate::config::{CapabilityId, ConfigSpace};
use crate::regs::{MSI_64_BIT, MSI_ADDRESS, MSI_CONTROL, MSI_DATA, MSI_DATA_32, MSI_ENABLE};

/// How a function is to have its MSI capability. The default is wherever there is room, with 64 bits
/// of address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MsiLayout {
    /// Where, if that is said.
    pub(crate) offset: Option<u16>,
    /// Whether the address has 32 bits.
    pub(crate) narrow: bool,
}

/// Where a function has its MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsiCapability {
    offset: u16,
    narrow: bool,
}

impl MsiCapability {
    /// Adds the capability, disabled.
    ///
    /// # Panics
    /// When there is no room for it.
    pub(crate) fn add(layout: MsiLayout, config: &mut ConfigSpace) -> Self {
        let narrow = layout.narrow;
        let [low, high] = if narrow { [0, 0] } else { MSI_64_BIT.to_le_bytes() };
        let body = [low, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let body = if narrow { &body[..8] } else { &body[..] };
        let offset = config.add_capability_maybe_at(layout.offset, CapabilityId::MSI, body);
        let capability = Self { offset, narrow };
        config.allow(offset + MSI_CONTROL, &MSI_ENABLE.to_le_bytes());
        // Messages are aligned dwords.
        let aligned = (!3u64).to_le_bytes();
        let address = if narrow { &aligned[..4] } else { &aligned[..] };
        config.allow(offset + MSI_ADDRESS, address);
        config.allow(capability.data(), &u16::MAX.to_le_bytes());
        capability
    }

    /// Offset of the message's data.
    fn data(self) -> u16 {
        self.offset + if self.narrow { MSI_DATA_32 } else { MSI_DATA }
    }

    /// The message, while messages are used instead of the pin.
    pub(crate) fn message(self, config: &ConfigSpace) -> Option<Msi> {
        let enabled = config.read(self.offset + MSI_CONTROL, Size::Word) & u32::from(MSI_ENABLE);
        let half = |at| u64::from(config.read(self.offset + at, Size::Dword));
        let high = if self.narrow { 0 } else { half(MSI_ADDRESS + 4) };
        let address = high << 32 | half(MSI_ADDRESS);
        let data = config.read(self.data(), Size::Word);
        (enabled != 0).then_some(Msi { address, data })
    }
}
