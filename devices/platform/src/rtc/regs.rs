//! Spec: Motorola MC146818A data sheet (ADI 1026), "Registers" and tables 4 to 6; IBM PC/AT
//! Technical Reference (6280070), "Real-Time Clock/CMOS RAM Information".
//!
//! Names, places and fields only; no behaviour.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite};
use trapline_regs::{Class, Field, RegMap, Select, bit, bits, row};

/// Device offset of the address latch (port 0x70 of a PC/AT).
pub const INDEX: u64 = 0;
/// Device offset of the selected register (port 0x71 of a PC/AT).
pub const DATA: u64 = 1;

/// Bit of the address latch that masks NMI on a PC/AT (Technical Reference, "NMI mask"). It is not
/// the chip's: the chip has seven address bits.
pub const NMI_MASK: u8 = 0x80;

/// Bytes behind the address latch: 14 registers and 114 bytes of RAM. The MC146818A has 64 in all;
/// every chip set since the PC/AT has 128.
pub const CMOS_LEN: usize = 128;

/// A register that is more than a byte of RAM, by its index. Ranges of time, calendar and alarm are
/// those of the data sheet's table "Time, calendar and alarm data modes".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// 0 to 59. Bit 7 is read-only (data sheet, "Time, calendar and alarm locations").
    Seconds,
    /// As [`Reg::Seconds`], or 0xc0 to 0xff for "any".
    SecondsAlarm,
    /// 0 to 59.
    Minutes,
    /// As [`Reg::Minutes`], or "any".
    MinutesAlarm,
    /// 0 to 23, or 1 to 12 with bit 7 for PM.
    Hours,
    /// As [`Reg::Hours`], or "any".
    HoursAlarm,
    /// 1 (Sunday) to 7.
    DayOfWeek,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12.
    Month,
    /// 0 to 99.
    Year,
    /// [`RegA`] (data sheet, "Register A").
    A,
    /// [`RegB`] (data sheet, "Register B").
    B,
    /// [`RegC`] (data sheet, "Register C").
    C,
    /// [`RegD`] (data sheet, "Register D").
    D,
    /// Why the processor was reset (PC/AT Technical Reference, "Shutdown status byte"). Plain RAM.
    ShutdownStatus,
    /// Hundreds of the year. RAM in an MC146818A, a counter in the chips and chip sets after it
    /// (Dallas DS12887A), which is what firmware and Linux expect of ACPI's century index.
    Century,
    /// The PS/2's place for the same byte. Windows XP looks here, so QEMU answers it as an alias.
    Ps2Century,
}

/// Index of the century byte, for the FADT. kvmtool and QEMU have it at the same place.
pub const CENTURY_INDEX: u8 = 0x32;

// The bits of registers A, B and C, by the data sheet's names, for recordings. That an update is under
// way is time's doing.
const A: &[Field] = &[bits("RS", 0, 4), bits("DV", 4, 3), bit("UIP", 7)];
#[rustfmt::skip]
const B: &[Field] = &[
    bit("DSE", 0), bit("24/12", 1), bit("DM", 2), bit("SQWE", 3), bit("UIE", 4), bit("AIE", 5),
    bit("PIE", 6), bit("SET", 7),
];
const C: &[Field] = &[bit("UF", 4), bit("AF", 5), bit("PF", 6), bit("IRQF", 7)];

/// What the data port leads to: [`MAP`] by index.
pub const SELECT: Select =
    Select { selector: 0, width: 1, enabled: 0, mask: 0x7f, shift: 0, first: 1, len: 1 };
/// What is not in [`MAP`].
pub const RAM_NAME: &str = "CMOS RAM";

/// Registers by index. What is not listed is RAM.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(128, &[
    row(Reg::Seconds,        "RTC seconds",          0x00, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::SecondsAlarm,   "RTC seconds alarm",    0x01, 1, ReadWrite).prompt(),
    row(Reg::Minutes,        "RTC minutes",          0x02, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::MinutesAlarm,   "RTC minutes alarm",    0x03, 1, ReadWrite).prompt(),
    row(Reg::Hours,          "RTC hours",            0x04, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::HoursAlarm,     "RTC hours alarm",      0x05, 1, ReadWrite).prompt(),
    row(Reg::DayOfWeek,      "RTC day of week",      0x06, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::DayOfMonth,     "RTC day of month",     0x07, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Month,          "RTC month",            0x08, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Year,           "RTC year",             0x09, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::A,              "Register A",           0x0a, 1, ReadWrite).class(Class::Time).prompt().fields(A),
    row(Reg::B,              "Register B",           0x0b, 1, ReadWrite).prompt().fields(B),
    row(Reg::C,              "Register C",           0x0c, 1, Read).class(Class::Time).fields(C),
    row(Reg::D,              "Register D",           0x0d, 1, Read).fields(&[bit("VRT", 7)]),
    row(Reg::ShutdownStatus, "CMOS shutdown status", 0x0f, 1, ReadWrite),
    row(Reg::Century,        "RTC century",          0x32, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Ps2Century,     "RTC century (PS/2)",   0x37, 1, ReadWrite).class(Class::Time).prompt(),
]);

/// Register A (data sheet, "Register A"): not affected by RESET.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct RegA {
    /// RS3 to RS0: which divider tap makes the periodic interrupt (table 5); see
    /// [`RegA::period_ticks`].
    #[bits(4)]
    pub rate: u8,
    /// DV2 to DV0: time base and divider reset (table 4); see [`RegA::time_base`].
    #[bits(3)]
    pub divider: u8,
    /// UIP: an update is under way or begins within 244 µs. Read-only; computed on each read and
    /// zero in the stored register.
    pub uip: bool,
}

impl RegA {
    /// As the PC/AT's BIOS leaves it: 32.768 kHz time base, 1024 Hz.
    pub const PC_AT: Self = Self::from_bits(0x26);

    /// What a guest's write stores: everything but UIP.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value).with_uip(false)
    }

    /// What DV selects (table 4). The codes it reserves for test stop the clock here as the reset
    /// codes do.
    pub const fn time_base(self) -> Option<TimeBase> {
        match self.divider() {
            0b000 | 0b001 => Some(TimeBase::Megahertz),
            0b010 => Some(TimeBase::Kilohertz32),
            _ => None,
        }
    }

    /// The period RS selects (table 5), in ticks of 1/32768 s; none for code 0.
    pub const fn period_ticks(self, base: TimeBase) -> Option<u16> {
        match (self.rate(), base) {
            (0, _) => None,
            // The two fastest taps lie before a 32.768 kHz time base enters the chain, so these
            // codes select the taps of 0b1000 and 0b1001 instead.
            (rate @ 1..=2, TimeBase::Kilohertz32) => Some(1 << (rate + 6)),
            (rate, _) => Some(1 << (rate - 1)),
        }
    }
}

/// The oscillator DV says is there (table 4). One is always there: whichever the guest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeBase {
    /// 4.194304 MHz or 1.048576 MHz.
    Megahertz,
    /// 32.768 kHz, a PC's.
    Kilohertz32,
}

impl TimeBase {
    /// tUC, the length of an update cycle, in ticks of 1/32768 s: 248 µs or 1984 µs (table 6).
    pub const fn update_ticks(self) -> u16 {
        match self {
            Self::Megahertz => 8,
            Self::Kilohertz32 => 65,
        }
    }
}

/// tBUC, how long before the update cycle UIP rises, in ticks of 1/32768 s: 244 µs (table 6).
pub const BEFORE_UPDATE_TICKS: u16 = 8;

/// Register B (data sheet, "Register B"). RESET clears the enables and SQWE and leaves the rest.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct RegB {
    /// DSE: two hour changes a year at the United States' dates of 1984. Stored only.
    pub daylight: bool,
    /// 24/12: hours run 0 to 23.
    pub hours_24: bool,
    /// DM: the time, calendar and alarm bytes are binary, not BCD.
    pub binary: bool,
    /// SQWE: the square wave is on its pin. A PC leaves the pin unconnected.
    pub square_wave: bool,
    /// UIE: update-ended interrupt enable. Cleared by RESET and by SET going high.
    pub update_enable: bool,
    /// AIE: alarm interrupt enable.
    pub alarm_enable: bool,
    /// PIE: periodic interrupt enable.
    pub periodic_enable: bool,
    /// SET: no update cycles, the program is setting the time.
    pub set: bool,
}

impl RegB {
    /// As the PC/AT's BIOS leaves it: BCD, 24 hours, no interrupts.
    pub const PC_AT: Self = Self::from_bits(0x02);
}

/// Register C (data sheet, "Register C"): read-only; reading it and RESET clear it.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct RegC {
    #[bits(4)]
    __: u8,
    /// UF: an update cycle has ended.
    pub update: bool,
    /// AF: the time has matched the alarm.
    pub alarm: bool,
    /// PF: an edge of the selected divider tap has passed.
    pub periodic: bool,
    /// IRQF: a flag is set whose enable is set; drives the interrupt pin.
    pub irq: bool,
}

/// Register D (data sheet, "Register D"): read-only.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct RegD {
    #[bits(7)]
    __: u8,
    /// VRT: RAM and time are valid, the battery has never failed.
    pub valid: bool,
}

impl RegD {
    /// The battery of a virtual machine is good.
    pub const GOOD_BATTERY: Self = Self::from_bits(0x80);
}
