//! Types for the architecture's numbers: DeviceID, EventID, collection and interrupt IDs.
//!
//! Spec: Arm IHI 0069, "Interrupt translation service": DeviceID, EventID, ICID and INTID are
//! different name spaces, and a mix-up is a security bug, not a typing slip.

use core::fmt;

/// The first INTID that is an LPI.
pub const LPI_BASE: u32 = 8192;
/// One past the last INTID of an implementation with 16 INTID bits, the most this model has.
pub const LPI_END: u32 = 1 << 16;
/// How many LPIs that are: 57,344.
pub const LPI_COUNT: u32 = LPI_END - LPI_BASE;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&alloc::format!("{:#x}", self.0))
            }
        }
    };
}

number! {
    /// Who signals: 32 bits in commands, of which `TYPER.Devbits + 1` exist. The bus layer
    /// provides it (PCI: the requester ID); it is never part of the written data.
    DeviceId(u32)
}
number! {
    /// What is signalled: the 32 bits a device writes to `GITS_TRANSLATER`.
    EventId(u32)
}
number! {
    /// An interrupt collection (ICID), 16 bits.
    CollectionId(u16)
}
number! {
    /// A processing element as `GICR_TYPER.Processor_Number` numbers it (`TYPER.PTA` is 0).
    Target(u32)
}

/// The INTID of a locality-specific peripheral interrupt, 8192 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lpi(u32);

impl Lpi {
    /// The LPI with this INTID, if it is one.
    pub const fn new(intid: u32) -> Option<Self> {
        if intid >= LPI_BASE && intid < LPI_END { Some(Self(intid)) } else { None }
    }

    /// Its INTID.
    pub const fn intid(self) -> u32 {
        self.0
    }

    /// Its place among the LPIs, 0 to 57,343.
    pub const fn index(self) -> u32 {
        self.0 - LPI_BASE
    }
}

impl fmt::Display for Lpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
