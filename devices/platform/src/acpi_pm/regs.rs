//! Spec: Advanced Configuration and Power Interface (ACPI) Specification, release 6.5 (August
//! 2022), section 4.8.3 "Fixed Hardware Registers" and tables 4.11 to 4.13 in it.
//!
//! Three register blocks, laid out one after the other in one window. The tables the machine
//! writes (FADT) give each block's address and length separately.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite};
use trapline_regs::{Class, Field, RegMap, bit, bits, row};

/// Length of the window in bytes.
pub const WINDOW_LEN: u32 = 12;

/// Offset of the PM1a event block (FADT `PM1a_EVT_BLK`) in the window.
pub const PM1_EVT_OFFSET: u32 = 0;
/// Length of the PM1a event block in bytes (FADT `PM1_EVT_LEN`): status, then enable.
pub const PM1_EVT_LEN: u8 = 4;
/// Offset of the PM1a control block (FADT `PM1a_CNT_BLK`) in the window.
pub const PM1_CNT_OFFSET: u32 = 4;
/// Length of the PM1a control block in bytes (FADT `PM1_CNT_LEN`).
pub const PM1_CNT_LEN: u8 = 2;
/// Offset of the power management timer (FADT `PM_TMR_BLK`) in the window.
pub const PM_TMR_OFFSET: u32 = 8;
/// Length of the power management timer block in bytes (FADT `PM_TMR_LEN`).
pub const PM_TMR_LEN: u8 = 4;

/// The power management timer's frequency in Hz (section 4.8.2.1).
pub const PM_TMR_HZ: u64 = 3_579_545;

/// The value of SLP_TYP that means soft-off, for the `\_S5` object of the DSDT (section 7.4.2.6;
/// the encoding is each machine's own).
pub const SLP_TYP_S5: u8 = 5;

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// PM1 status (section 4.8.3.1.1).
    Pm1Sts,
    /// PM1 enable (section 4.8.3.1.2).
    Pm1En,
    /// PM1 control (section 4.8.3.2.1).
    Pm1Cnt,
    /// Power management timer (section 4.8.3.3).
    PmTmr,
}

// The bits, by the specification's names, for recordings.
#[rustfmt::skip]
const STS: &[Field] = &[
    bit("TMR", 0), bit("BM", 4), bit("GBL", 5), bit("PWRBTN", 8), bit("SLPBTN", 9), bit("RTC", 10),
    bit("WAK", 15),
];
#[rustfmt::skip]
const EN: &[Field] =
    &[bit("TMR", 0), bit("GBL", 5), bit("PWRBTN", 8), bit("SLPBTN", 9), bit("RTC", 10)];
#[rustfmt::skip]
const CNT: &[Field] = &[
    bit("SCI_EN", 0), bit("BM_RLD", 1), bit("GBL_RLS", 2), bits("SLP_TYP", 10, 3), bit("SLP_EN", 13),
];

/// The window.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Pm1Sts, "PM1_STS", 0, 2, ReadWrite).prompt().fields(STS),
    row(Reg::Pm1En,  "PM1_EN",  2, 2, ReadWrite).prompt().fields(EN),
    row(Reg::Pm1Cnt, "PM1_CNT", 4, 2, ReadWrite).prompt().fields(CNT),
    row(Reg::PmTmr,  "PM_TMR",  8, 4, Read).class(Class::Time),
]);

/// PM1 status register (section 4.8.3.1.1): set by events, cleared by writing 1. Reset value 0.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Pm1Status {
    /// TMR_STS: the timer's highest bit has changed.
    pub tmr: bool,
    #[bits(3)]
    __: u8,
    /// BM_STS: a bus master has asked for memory; no processor sleep state here makes it matter.
    pub bm: bool,
    /// GBL_STS: the firmware wants attention; there is none.
    pub gbl: bool,
    #[bits(2)]
    __: u8,
    /// PWRBTN_STS: the power button has been pressed.
    pub pwrbtn: bool,
    /// SLPBTN_STS: there is no sleep button.
    pub slpbtn: bool,
    /// RTC_STS: the real-time clock's alarm wakes nobody here, as there is no sleep.
    pub rtc: bool,
    #[bits(4)]
    __: u8,
    /// WAK_STS: the machine has left a sleep state.
    pub wak: bool,
}

/// PM1 enable register (section 4.8.3.1.2): which status bits raise the system control interrupt.
/// Reset value 0.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Pm1Enable {
    /// TMR_EN.
    pub tmr: bool,
    #[bits(4)]
    __: u8,
    /// GBL_EN.
    pub gbl: bool,
    #[bits(2)]
    __: u8,
    /// PWRBTN_EN.
    pub pwrbtn: bool,
    /// SLPBTN_EN.
    pub slpbtn: bool,
    /// RTC_EN.
    pub rtc: bool,
    #[bits(5)]
    __: u8,
}

impl Pm1Enable {
    /// What the register holds after a guest wrote `value`: reserved bits are 0.
    pub const fn from_guest(value: u16) -> Self {
        Self::from_bits(value & 0x0721)
    }
}

/// PM1 control register (section 4.8.3.2.1). Reset value 0x0001.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Pm1Control {
    /// SCI_EN: events raise the system control interrupt, not a system management interrupt. The
    /// hardware's to change, not the operating system's.
    pub sci: bool,
    /// BM_RLD: bus masters wake the processor from C3.
    pub bm_rld: bool,
    /// GBL_RLS: tells the firmware that the global lock is free. Write-only.
    pub gbl_rls: bool,
    #[bits(7)]
    __: u8,
    /// SLP_TYP: which sleep state SLP_EN enters.
    #[bits(3)]
    pub slp_typ: u8,
    /// SLP_EN: enters it. Write-only.
    pub slp_en: bool,
    #[bits(2)]
    __: u8,
}

impl Pm1Control {
    /// What a guest wrote, without reserved bits.
    pub const fn from_guest(value: u16) -> Self {
        Self::from_bits(value & 0x3c07)
    }

    /// What the register holds after this was written to it: the write-only bits read 0, and
    /// SCI_EN stays 1.
    pub const fn kept(self) -> Self {
        self.with_sci(true).with_gbl_rls(false).with_slp_en(false)
    }
}
