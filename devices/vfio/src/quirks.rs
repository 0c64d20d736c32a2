//! What is wrong with some devices, as data.
//!
//! What the host's kernel knows of them (resets that hang, vital product data that is no such) it keeps
//! from its users itself.

/// Devices, and what is to be done about them.
struct Quirk {
    vendor: u16,
    /// The device IDs, by those bits of them that are set in the mask.
    device: u16,
    mask: u16,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Its expansion ROM cannot be read.
    NoRom,
    /// The MSI-X capability is wrong about where in its BAR the pending bits are, which is here.
    PendingBits(u32),
}

const QUIRKS: &[Quirk] = &[
    // Broadcom BCM57810: reading the ROM stops the function (QEMU, hw/vfio/pci-quirks.c,
    // rom_denylist).
    Quirk { vendor: 0x14e4, device: 0x168e, mask: 0xffff, what: What::NoRom },
    // Chelsio T5 virtual functions: the capability places the pending bits past the end of a BAR of 8
    // KiB (QEMU, hw/vfio/pci.c, vfio_msix_early_setup).
    Quirk { vendor: 0x1425, device: 0x5800, mask: !0xff, what: What::PendingBits(0x1000) },
];

/// Those of one device.
pub(crate) struct Quirks(Vec<What>);

impl Quirks {
    pub(crate) fn of(vendor: u16, device: u16) -> Self {
        let fits =
            |quirk: &&Quirk| quirk.vendor == vendor && (quirk.device ^ device) & quirk.mask == 0;
        Self(QUIRKS.iter().filter(fits).map(|quirk| quirk.what).collect())
    }

    pub(crate) fn hides_rom(&self) -> bool {
        self.0.contains(&What::NoRom)
    }

    /// Where the pending bits are, if not where the device says.
    pub(crate) fn pending_bits(&self) -> Option<u32> {
        self.0.iter().find_map(|what| match what {
            What::PendingBits(offset) => Some(*offset),
            What::NoRom => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quirks_are_those_of_the_device_and_of_no_other() {
        let broadcom = Quirks::of(0x14e4, 0x168e);
        assert!(broadcom.hides_rom() && broadcom.pending_bits().is_none());
        assert!(!Quirks::of(0x14e4, 0x168f).hides_rom());
        assert_eq!(Quirks::of(0x1425, 0x5801).pending_bits(), Some(0x1000));
        assert_eq!(Quirks::of(0x1425, 0x5401).pending_bits(), None);
        assert_eq!(Quirks::of(0x8086, 0x5801).pending_bits(), None);
    }
}
