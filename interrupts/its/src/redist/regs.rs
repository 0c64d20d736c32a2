//! Spec: Arm IHI 0069, "The Redistributor register map", frame `RD_base`; Arm DDI 0601.

use bitfield_struct::bitfield;
use trapline_regs::{Access, Class, RegMap, row};

/// Length of the `RD_base` frame, bytes.
pub const RD_FRAME: u64 = 0x1_0000;

/// A register of the `RD_base` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// `GICR_CTLR`: EnableLPIs.
    Ctlr,
    /// `GICR_IIDR`: who made it.
    Iidr,
    /// `GICR_TYPER`: features, number, affinity.
    Typer,
    /// `GICR_WAKER`: whether the processor sleeps.
    Waker,
    /// A register this model does not have: reads 0, ignores writes.
    Raz,
    /// `GICR_PROPBASER`: the LPI configuration table.
    Propbaser,
    /// `GICR_PENDBASER`: the LPI pending table.
    Pendbaser,
    /// `GICR_INVLPIR`: read one configuration byte again.
    Invlpir,
    /// `GICR_INVALLR`: read all configuration bytes again.
    Invallr,
    /// `GICR_SYNCR`: whether that is still going on.
    Syncr,
    /// A `PIDR` or `CIDR`.
    Id,
}

/// The frame.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(0x1_0000, &[
    row(Reg::Ctlr,      "GICR_CTLR",      0x0000, 4, Access::ReadWrite).prompt(),
    row(Reg::Iidr,      "GICR_IIDR",      0x0004, 4, Access::ReadWrite),
    row(Reg::Typer,     "GICR_TYPER",     0x0008, 8, Access::ReadWrite),
    row(Reg::Raz,       "GICR_STATUSR",   0x0010, 4, Access::ReadWrite),
    row(Reg::Waker,     "GICR_WAKER",     0x0014, 4, Access::ReadWrite).prompt(),
    row(Reg::Raz,       "GICR_MPAMIDR",   0x0018, 4, Access::ReadWrite),
    row(Reg::Raz,       "GICR_PARTIDR",   0x001c, 4, Access::ReadWrite),
    row(Reg::Raz,       "GICR_SETLPIR",   0x0040, 8, Access::ReadWrite),
    row(Reg::Raz,       "GICR_CLRLPIR",   0x0048, 8, Access::ReadWrite),
    row(Reg::Propbaser, "GICR_PROPBASER", 0x0070, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Pendbaser, "GICR_PENDBASER", 0x0078, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Invlpir,   "GICR_INVLPIR",   0x00a0, 8, Access::ReadWrite).prompt(),
    row(Reg::Invallr,   "GICR_INVALLR",   0x00b0, 8, Access::ReadWrite).prompt(),
    row(Reg::Syncr,     "GICR_SYNCR",     0x00c0, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR4",     0xffd0, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR5",     0xffd4, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR6",     0xffd8, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR7",     0xffdc, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR0",     0xffe0, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR1",     0xffe4, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR2",     0xffe8, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_PIDR3",     0xffec, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_CIDR0",     0xfff0, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_CIDR1",     0xfff4, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_CIDR2",     0xfff8, 4, Access::ReadWrite),
    row(Reg::Id,        "GICR_CIDR3",     0xfffc, 4, Access::ReadWrite),
]);

/// `GICR_CTLR.EnableLPIs`. IHI 0069, `GICR_CTLR`.
pub const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// `GICR_CTLR.CES`, read-only: EnableLPIs can be cleared. IHI 0069, `GICR_CTLR`.
pub const CTLR_CES: u32 = 1 << 1;
/// `GICR_CTLR.IR`, read-only: `INVLPIR` and `INVALLR` exist. IHI 0069, `GICR_CTLR`.
pub const CTLR_IR: u32 = 1 << 2;
/// `GICR_WAKER.ProcessorSleep`. IHI 0069, `GICR_WAKER`.
pub const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
/// `GICR_WAKER.ChildrenAsleep`, read-only. IHI 0069, `GICR_WAKER`.
pub const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// The bits of `GICR_PROPBASER` that are not RES0.
pub const PROPBASER_WRITABLE: u64 = Propbaser::new()
    .with_id_bits(0x1f)
    .with_inner_cache(7)
    .with_shareability(3)
    .with_page(0xff_ffff_ffff)
    .with_outer_cache(7)
    .into_bits();
/// The bits of `GICR_PENDBASER` that are not RES0 and can be read back.
pub const PENDBASER_WRITABLE: u64 = 7 << 56 | 0xf_ffff_ffff << 16 | 3 << 10 | 7 << 7;
/// `GICR_PENDBASER.PTZ`, write-only: the pending table is all zero. IHI 0069, `GICR_PENDBASER`.
pub const PENDBASER_PTZ: u64 = 1 << 62;
/// The address in `GICR_PENDBASER`.
pub const PENDBASER_ADDRESS: u64 = 0xf_ffff_ffff << 16;

/// `GICR_PROPBASER`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Propbaser {
    /// INTID bits, less one. Below 13 there are no LPIs.
    #[bits(5)]
    pub id_bits: u8,
    #[bits(2)]
    reserved0: u8,
    /// Inner cacheability.
    #[bits(3)]
    pub inner_cache: u8,
    /// Shareability.
    #[bits(2)]
    pub shareability: u8,
    /// Address bits 51:12 of the table; its first byte is INTID 8192's.
    #[bits(40)]
    pub page: u64,
    #[bits(4)]
    reserved1: u8,
    /// Outer cacheability.
    #[bits(3)]
    pub outer_cache: u8,
    #[bits(5)]
    reserved2: u8,
}

/// `GICR_TYPER`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Typer {
    /// Physical LPIs are supported.
    pub physical_lpis: bool,
    #[bits(2)]
    features0: u8,
    /// `SETLPIR` and `CLRLPIR` exist.
    pub direct_lpi: bool,
    /// The last redistributor of its region.
    pub last: bool,
    #[bits(3)]
    features1: u8,
    /// `Processor_Number`, what RDbase in commands means.
    pub number: u16,
    /// `CommonLPIAff`: which processors share a configuration table.
    #[bits(2)]
    pub common_lpi_affinity: u8,
    #[bits(6)]
    features2: u8,
    /// Affinity of the processor, Aff3.Aff2.Aff1.Aff0.
    pub affinity: u32,
}

/// `GICR_TYPER` of processor `number` of `count`, sixteen to a cluster.
pub const fn typer(number: u16, count: u32) -> Typer {
    let affinity = (number as u32 & 0xf) | (number as u32 >> 4) << 8;
    Typer::new()
        .with_physical_lpis(true)
        .with_last(number as u32 + 1 == count)
        .with_number(number)
        .with_common_lpi_affinity(1)
        .with_affinity(affinity)
}
