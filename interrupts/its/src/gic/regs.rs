//! Spec: Arm IHI 0069, "The Distributor register map" and "The Redistributor register map", frame
//! `SGI_base`; Arm DDI 0601.
//!
//! Both frames have the same banks of per-interrupt registers at the same offsets; the first 32
//! interrupts are in `SGI_base`, the others in the distributor.

/// Length of the distributor's frame, bytes.
pub const GICD_FRAME: u64 = 0x1_0000;
/// Offset of `SGI_base` in a redistributor, bytes.
pub const SGI_BASE: u64 = 0x1_0000;
/// Length of a redistributor's two frames, bytes.
pub const GICR_FRAMES: u64 = 0x2_0000;

/// `GICD_IIDR`: product 0x54, implementer Arm, as the redistributors' and the ITS's.
pub const IIDR: u32 = 0x5400_043b;
/// `GICD_CTLR.EnableGrp0`. IHI 0069, `GICD_CTLR`.
pub const CTLR_ENABLE_GROUP0: u32 = 1 << 0;
/// `GICD_CTLR.EnableGrp1` (one security state). IHI 0069, `GICD_CTLR`.
pub const CTLR_ENABLE_GROUP1: u32 = 1 << 1;
/// `GICD_CTLR.ARE`, affinity routing: always 1 here. IHI 0069, `GICD_CTLR`.
pub const CTLR_ARE: u32 = 1 << 4;
/// `GICD_CTLR.DS`, one security state: always 1 here. IHI 0069, `GICD_CTLR`.
pub const CTLR_DS: u32 = 1 << 6;
/// `GICD_IROUTER<n>.Interrupt_Routing_Mode`: any processor. IHI 0069, `GICD_IROUTER<n>`.
pub const IROUTER_ANY: u64 = 1 << 31;
/// The bits of `GICD_IROUTER<n>` that are not RES0: Aff3, the mode, Aff2, Aff1, Aff0.
pub const IROUTER_WRITABLE: u64 = 0xff_80ff_ffff;

/// A bank: one register field per interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bank {
    /// `IGROUPR<n>`, 1 bit: Group 1.
    Group,
    /// `ISENABLER<n>`, 1 bit, write 1 to set.
    SetEnable,
    /// `ICENABLER<n>`, 1 bit, write 1 to clear.
    ClearEnable,
    /// `ISPENDR<n>`, 1 bit, write 1 to set.
    SetPending,
    /// `ICPENDR<n>`, 1 bit, write 1 to clear.
    ClearPending,
    /// `ISACTIVER<n>`, 1 bit, write 1 to set.
    SetActive,
    /// `ICACTIVER<n>`, 1 bit, write 1 to clear.
    ClearActive,
    /// `IPRIORITYR<n>`, 8 bits.
    Priority,
    /// `ICFGR<n>`, 2 bits, the upper of which says edge-triggered.
    Config,
}

impl Bank {
    /// The bank at an offset, and the offset in the bank.
    pub const fn at(offset: u64) -> Option<(Self, u64)> {
        Some(match offset {
            0x080..0x100 => (Self::Group, offset - 0x080),
            0x100..0x180 => (Self::SetEnable, offset - 0x100),
            0x180..0x200 => (Self::ClearEnable, offset - 0x180),
            0x200..0x280 => (Self::SetPending, offset - 0x200),
            0x280..0x300 => (Self::ClearPending, offset - 0x280),
            0x300..0x380 => (Self::SetActive, offset - 0x300),
            0x380..0x400 => (Self::ClearActive, offset - 0x380),
            0x400..0x800 => (Self::Priority, offset - 0x400),
            0xc00..0xd00 => (Self::Config, offset - 0xc00),
            _ => return None,
        })
    }

    /// Bits of the bank per interrupt.
    pub const fn bits(self) -> u64 {
        match self {
            Self::Priority => 8,
            Self::Config => 2,
            _ => 1,
        }
    }
}

/// The name of a register of the distributor, or (INTIDs 0 to 31) of `SGI_base`, for traces.
pub const fn name(offset: u64, distributor: bool) -> Option<&'static str> {
    if distributor {
        match offset & !3 {
            0x0 => return Some("GICD_CTLR"),
            0x4 => return Some("GICD_TYPER"),
            0x8 => return Some("GICD_IIDR"),
            0xc => return Some("GICD_TYPER2"),
            0x6100..0x8000 => return Some("GICD_IROUTER"),
            0xffd0..0xffe0 => return Some("GICD_PIDR4-7"),
            0xffe0..0xfff0 => return Some("GICD_PIDR0-3"),
            0xfff0..0x1_0000 => return Some("GICD_CIDR"),
            _ => {}
        }
    }
    let Some((bank, _)) = Bank::at(offset) else { return None };
    Some(match (bank, distributor) {
        (Bank::Group, true) => "GICD_IGROUPR",
        (Bank::SetEnable, true) => "GICD_ISENABLER",
        (Bank::ClearEnable, true) => "GICD_ICENABLER",
        (Bank::SetPending, true) => "GICD_ISPENDR",
        (Bank::ClearPending, true) => "GICD_ICPENDR",
        (Bank::SetActive, true) => "GICD_ISACTIVER",
        (Bank::ClearActive, true) => "GICD_ICACTIVER",
        (Bank::Priority, true) => "GICD_IPRIORITYR",
        (Bank::Config, true) => "GICD_ICFGR",
        (Bank::Group, false) => "GICR_IGROUPR0",
        (Bank::SetEnable, false) => "GICR_ISENABLER0",
        (Bank::ClearEnable, false) => "GICR_ICENABLER0",
        (Bank::SetPending, false) => "GICR_ISPENDR0",
        (Bank::ClearPending, false) => "GICR_ICPENDR0",
        (Bank::SetActive, false) => "GICR_ISACTIVER0",
        (Bank::ClearActive, false) => "GICR_ICACTIVER0",
        (Bank::Priority, false) => "GICR_IPRIORITYR",
        (Bank::Config, false) => "GICR_ICFGR",
    })
}
