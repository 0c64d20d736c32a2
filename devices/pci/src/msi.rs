//! The MSI capability: one message, 64 bits of address, no masks of single vectors.
//!
//! Spec: PCI Local Bus Specification 3.0, 6.8.1.

use trapline_device::{Msi, Size};

use crate::config::ConfigSpace;
use crate::regs::{
    CAPABILITIES, MSI_64_BIT, MSI_ADDRESS, MSI_CAPABILITY_ID, MSI_CONTROL, MSI_DATA, MSI_ENABLE,
    STATUS, STATUS_CAPABILITIES,
};

/// Where a function has its MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiCapability {
    offset: u16,
}

impl MsiCapability {
    /// Bytes it takes.
    pub const LEN: u16 = 14;

    /// Adds the capability at `offset`, in front of those the function has already.
    ///
    /// # Panics
    /// When it does not lie behind the header, at a multiple of 4, within the space.
    pub fn add(config: &mut ConfigSpace, offset: u16) -> Self {
        assert!(offset >= 0x40 && offset.is_multiple_of(4), "a capability lies behind the header");
        let [next, ..] = config.read(CAPABILITIES, Size::Byte).to_le_bytes();
        let [start, _] = offset.to_le_bytes();
        let [status, ..] = config.read(STATUS, Size::Byte).to_le_bytes();
        config.set(CAPABILITIES, &[start]);
        config.set(STATUS, &[status | STATUS_CAPABILITIES]);
        config.set(offset, &[MSI_CAPABILITY_ID, next]);
        config.set(offset + MSI_CONTROL, &MSI_64_BIT.to_le_bytes());
        config.allow(offset + MSI_CONTROL, &MSI_ENABLE.to_le_bytes());
        // Messages are aligned dwords.
        config.allow(offset + MSI_ADDRESS, &(!3u64).to_le_bytes());
        config.allow(offset + MSI_DATA, &u16::MAX.to_le_bytes());
        Self { offset }
    }

    /// Whether messages are used instead of the pin.
    pub fn enabled(self, config: &ConfigSpace) -> bool {
        config.read(self.offset + MSI_CONTROL, Size::Word) & u32::from(MSI_ENABLE) != 0
    }

    /// The message, if it may be sent: MSI is enabled, and the function may write to memory.
    pub fn message(self, config: &ConfigSpace) -> Option<Msi> {
        let low = u64::from(config.read(self.offset + MSI_ADDRESS, Size::Dword));
        let high = u64::from(config.read(self.offset + MSI_ADDRESS + 4, Size::Dword));
        let data = config.read(self.offset + MSI_DATA, Size::Word);
        let may = self.enabled(config) && config.command().master();
        may.then_some(Msi { address: high << 32 | low, data })
    }
}
