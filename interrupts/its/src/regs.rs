//! Spec: Arm IHI 0069 (GICv3 and GICv4 architecture), "The ITS register map"; Arm DDI 0601, the
//! register pages.
//!
//! Names, offsets, widths and fields of the ITS control frame (64 KiB at offset 0) and of the one
//! register of the translation frame (64 KiB at offset 0x10000).

use bitfield_struct::bitfield;
use trapline_regs::{Access, Class, RegMap, row};

/// Length of the control frame, bytes.
pub const CONTROL_FRAME: u64 = 0x1_0000;
/// Length of both frames, bytes.
pub const FRAMES: u64 = 0x2_0000;
/// `GITS_TRANSLATER`, from the start of the control frame.
pub const TRANSLATER: u64 = 0x1_0040;
/// How many `GITS_BASER<n>` there are.
pub const BASERS: usize = 8;

/// A register of the control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// `GITS_CTLR`: Enabled and Quiescent.
    Ctlr,
    /// `GITS_IIDR`: implementer, revision, variant, product.
    Iidr,
    /// `GITS_TYPER`: features.
    Typer,
    /// An optional register this model does not have: reads 0, ignores writes.
    Raz,
    /// `GITS_CBASER`: the command queue's memory.
    Cbaser,
    /// `GITS_CWRITER`: the next command the driver will write.
    Cwriter,
    /// `GITS_CREADR`: the next command the ITS will execute.
    Creadr,
    /// `GITS_BASER<n>`: a table's memory.
    Baser(usize),
    /// A `PIDR` or `CIDR`.
    Id,
}

/// The control frame. Optional registers are listed so that a trace can name them.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(0x1_0000, &[
    row(Reg::Ctlr,     "GITS_CTLR",    0x0000, 4, Access::ReadWrite).prompt(),
    row(Reg::Iidr,     "GITS_IIDR",    0x0004, 4, Access::ReadWrite),
    row(Reg::Typer,    "GITS_TYPER",   0x0008, 8, Access::ReadWrite),
    row(Reg::Raz,      "GITS_MPAMIDR", 0x0010, 4, Access::ReadWrite),
    row(Reg::Raz,      "GITS_PARTIDR", 0x0014, 4, Access::ReadWrite),
    row(Reg::Raz,      "GITS_MPIDR",   0x0018, 4, Access::ReadWrite),
    row(Reg::Raz,      "GITS_STATUSR", 0x0040, 4, Access::ReadWrite),
    row(Reg::Raz,      "GITS_UMSIR",   0x0048, 8, Access::ReadWrite),
    row(Reg::Cbaser,   "GITS_CBASER",  0x0080, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Cwriter,  "GITS_CWRITER", 0x0088, 8, Access::ReadWrite).prompt(),
    row(Reg::Creadr,   "GITS_CREADR",  0x0090, 8, Access::ReadWrite),
    row(Reg::Baser(0), "GITS_BASER0",  0x0100, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(1), "GITS_BASER1",  0x0108, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(2), "GITS_BASER2",  0x0110, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(3), "GITS_BASER3",  0x0118, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(4), "GITS_BASER4",  0x0120, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(5), "GITS_BASER5",  0x0128, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(6), "GITS_BASER6",  0x0130, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Baser(7), "GITS_BASER7",  0x0138, 8, Access::ReadWrite).class(Class::Address).prompt(),
    row(Reg::Id,       "GITS_PIDR4",   0xffd0, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR5",   0xffd4, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR6",   0xffd8, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR7",   0xffdc, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR0",   0xffe0, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR1",   0xffe4, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR2",   0xffe8, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_PIDR3",   0xffec, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_CIDR0",   0xfff0, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_CIDR1",   0xfff4, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_CIDR2",   0xfff8, 4, Access::ReadWrite),
    row(Reg::Id,       "GITS_CIDR3",   0xfffc, 4, Access::ReadWrite),
]);

/// `GITS_CTLR.Enabled`. IHI 0069, `GITS_CTLR`.
pub const CTLR_ENABLED: u32 = 1 << 0;
/// `GITS_CTLR.Quiescent`, read-only. IHI 0069, `GITS_CTLR`.
pub const CTLR_QUIESCENT: u32 = 1 << 31;
/// `GITS_CWRITER.Retry`, write-only. IHI 0069, `GITS_CWRITER`.
pub const CWRITER_RETRY: u64 = 1 << 0;
/// `GITS_CREADR.Stalled`. IHI 0069, `GITS_CREADR`.
pub const CREADR_STALLED: u64 = 1 << 0;
/// The offset field of `CWRITER` and `CREADR`.
pub const QUEUE_OFFSET: u64 = 0xf_ffe0;
/// The bits of `GITS_CBASER` that are not RES0. IHI 0069, `GITS_CBASER`.
pub const CBASER_WRITABLE: u64 = Cbaser::new()
    .with_size(0xff)
    .with_shareability(3)
    .with_page(0xff_ffff_ffff)
    .with_outer_cache(7)
    .with_inner_cache(7)
    .with_valid(true)
    .into_bits();
/// The read-only fields of `GITS_BASER<n>`: Type and Entry_Size. IHI 0069, `GITS_BASER<n>`.
pub const BASER_READ_ONLY: u64 = Baser::new().with_kind(7).with_entry_size(0x1f).into_bits();

/// `GITS_TYPER`. Fields this model does not use are part of `features`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Typer {
    /// Physical LPIs are supported.
    pub physical: bool,
    /// Virtual LPIs are supported (GICv4).
    pub virtual_lpis: bool,
    #[bits(2)]
    features0: u8,
    /// Bytes of a translation table entry, less one.
    #[bits(4)]
    pub itt_entry_size: u8,
    /// EventID bits, less one.
    #[bits(5)]
    pub id_bits: u8,
    /// DeviceID bits, less one.
    #[bits(5)]
    pub device_bits: u8,
    /// System errors are reported.
    pub seis: bool,
    /// RDbase is a physical address.
    pub pta: bool,
    #[bits(4)]
    features1: u8,
    /// Collections held without a table.
    pub hcc: u8,
    /// Collection number bits, less one, if `cil`.
    #[bits(4)]
    pub collection_bits: u8,
    /// The number of collection bits is limited to `collection_bits`.
    pub cil: bool,
    #[bits(27)]
    features2: u32,
}

/// `GITS_CBASER`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cbaser {
    /// 4 KiB pages, less one.
    pub size: u8,
    #[bits(2)]
    reserved0: u8,
    /// Shareability of the queue's memory.
    #[bits(2)]
    pub shareability: u8,
    /// Physical address bits 51:12.
    #[bits(40)]
    pub page: u64,
    #[bits(1)]
    reserved1: u8,
    /// Outer cacheability.
    #[bits(3)]
    pub outer_cache: u8,
    #[bits(3)]
    reserved2: u8,
    /// Inner cacheability.
    #[bits(3)]
    pub inner_cache: u8,
    #[bits(1)]
    reserved3: u8,
    /// The queue has memory.
    pub valid: bool,
}

/// `GITS_BASER<n>`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Baser {
    /// Pages, less one.
    pub size: u8,
    /// 0: 4 KiB, 1: 16 KiB, 2 and 3: 64 KiB.
    #[bits(2)]
    pub page_size: u8,
    /// Shareability of the table's memory.
    #[bits(2)]
    pub shareability: u8,
    /// Physical address bits 47:12; with 64 KiB pages the low four are address bits 51:48.
    #[bits(36)]
    pub page: u64,
    /// Bytes of an entry, less one. Read-only.
    #[bits(5)]
    pub entry_size: u8,
    /// Outer cacheability.
    #[bits(3)]
    pub outer_cache: u8,
    /// 0: none, 1: devices, 4: collections. Read-only.
    #[bits(3)]
    pub kind: u8,
    /// Inner cacheability.
    #[bits(3)]
    pub inner_cache: u8,
    /// Two levels.
    pub indirect: bool,
    /// The table has memory.
    pub valid: bool,
}

/// `GITS_BASER<n>.Type` of the device table.
pub const KIND_DEVICE: u8 = 1;
/// `GITS_BASER<n>.Type` of the collection table.
pub const KIND_COLLECTION: u8 = 4;
