//! The entries of the tables in guest RAM: KVM's published layout, ABI revision 0.
//!
//! Spec: Linux, `Documentation/virt/kvm/devices/arm-vgic-its.rst`, "ITS Table ABI REV0". Eight
//! bytes each, little endian. Contents come from guest RAM, so they are checked at every use.

use bitfield_struct::bitfield;

/// Bytes of every entry.
pub(crate) const ENTRY: u64 = 8;
/// `Cte::target` of a collection that interrupts name but that has no target.
pub const CTE_UNMAPPED: u64 = 0xffff_ffff;

/// A device table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Dte {
    /// EventID bits, less one.
    #[bits(5)]
    pub size: u8,
    /// ITT address bits 51:8.
    #[bits(44)]
    pub itt: u64,
    /// DeviceIDs to the next valid entry; 1 says "look at the next one" and is always right.
    #[bits(14)]
    pub next: u16,
    /// The device is mapped.
    pub valid: bool,
}

impl Dte {
    /// Number of EventIDs.
    pub(crate) fn events(self) -> u64 {
        2u64 << self.size()
    }

    /// Address of the translation table.
    pub(crate) fn address(self) -> u64 {
        self.itt() << 8
    }
}

/// An interrupt translation table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Ite {
    /// The collection.
    pub collection: u16,
    /// The LPI's INTID; 0: not mapped.
    pub intid: u32,
    /// EventIDs to the next valid entry; 0: this is the last.
    pub next: u16,
}

/// A collection table entry. They form a packed list, not indexed by ICID, that ends with an
/// entry that is not valid or with the table.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cte {
    /// The collection's number.
    pub collection: u16,
    /// The target's number, or [`CTE_UNMAPPED`].
    #[bits(36)]
    pub target: u64,
    #[bits(11)]
    reserved: u16,
    /// An entry is here.
    pub valid: bool,
}
