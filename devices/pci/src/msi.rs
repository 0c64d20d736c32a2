//! The MSI capability: one message, 64 bits of address, no masks of single vectors.
//!
//! Spec: PCI Local Bus Specification 3.0, 6.8.1.

use trapline_device::{Msi, Size};

use crate::config::{CapabilityId, ConfigSpace};
use crate::regs::{MSI_64_BIT, MSI_ADDRESS, MSI_CONTROL, MSI_DATA, MSI_ENABLE};

/// Where a function has its MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsiCapability {
    offset: u16,
}

impl MsiCapability {
    /// Adds the capability, disabled.
    ///
    /// # Panics
    /// When there is no room for it.
    pub(crate) fn add(config: &mut ConfigSpace) -> Self {
        let [low, high] = MSI_64_BIT.to_le_bytes();
        let body = [low, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let offset = config.add_capability(CapabilityId::MSI, &body);
        config.allow(offset + MSI_CONTROL, &MSI_ENABLE.to_le_bytes());
        // Messages are aligned dwords.
        config.allow(offset + MSI_ADDRESS, &(!3u64).to_le_bytes());
        config.allow(offset + MSI_DATA, &u16::MAX.to_le_bytes());
        Self { offset }
    }

    /// The message, while messages are used instead of the pin.
    pub(crate) fn message(self, config: &ConfigSpace) -> Option<Msi> {
        let enabled = config.read(self.offset + MSI_CONTROL, Size::Word) & u32::from(MSI_ENABLE);
        let low = u64::from(config.read(self.offset + MSI_ADDRESS, Size::Dword));
        let high = u64::from(config.read(self.offset + MSI_ADDRESS + 4, Size::Dword));
        let data = config.read(self.offset + MSI_DATA, Size::Word);
        (enabled != 0).then_some(Msi { address: high << 32 | low, data })
    }
}
