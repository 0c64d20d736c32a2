//! Spec: Arm Server Base System Architecture (DEN0029) version 3.0, appendix "GICv2m architecture".
//!
//! Names and offsets of the registers of a message frame. No behaviour.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, Write};
use trapline_regs::{RegMap, row};

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Which interrupts the frame raises: [`Typer`].
    Typer,
    /// A write raises the interrupt whose INTID it is.
    SetSpi,
    /// Who implemented the frame.
    Iidr,
}

/// Length of the frame in bytes.
pub const WINDOW_LEN: u64 = 0x1000;
/// Offset of MSI_SETSPI_NS.
pub const SETSPI: u64 = 0x40;
/// Value of MSI_IIDR: nobody's (as kvmtool's).
pub const IIDR: u32 = 0;

/// The frame.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(0x1000, &[
    row(Reg::Typer,  "MSI_TYPER",     0x008, 4, Read),
    row(Reg::SetSpi, "MSI_SETSPI_NS", 0x040, 4, Write).prompt(),
    row(Reg::Iidr,   "MSI_IIDR",      0xfcc, 4, Read),
]);

/// MSI_TYPER.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Typer {
    /// How many interrupts, all in a row.
    #[bits(10)]
    pub count: u16,
    #[bits(6)]
    __: u8,
    /// INTID of the first.
    #[bits(10)]
    pub base: u16,
    #[bits(6)]
    __: u8,
}
