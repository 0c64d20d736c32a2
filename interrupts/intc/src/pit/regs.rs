//! Spec: Intel 8254 Programmable Interval Timer data sheet, order number 231164-005,
//! "Programming the 8254", "Read operations" and figures 4 to 12.

use bitfield_struct::bitfield;
use trapline_regs::Access::{ReadWrite, Write};
use trapline_regs::{Class, RegMap, row};

/// Length of the window in bytes.
pub const WINDOW_LEN: u32 = 4;

/// Number of counters.
pub const CHANNELS: usize = 3;

/// The clock on a PC's CLK inputs in Hz: a third of 3.579545 MHz.
pub const PIT_HZ: u64 = 1_193_182;

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// The count of a counter (0 to 2), or what is latched of it ("Write operations", "Read
    /// operations").
    Counter(usize),
    /// Control words and commands ("Control word register", figure 7). Write-only: reads leave the bus alone.
    Control,
}

/// The window.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Counter(0), "COUNTER0", 0, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Counter(1), "COUNTER1", 1, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Counter(2), "COUNTER2", 2, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Control,    "CONTROL",  3, 1, Write).prompt(),
]);

/// SC of a command that is a read-back command (figure 10).
pub const READ_BACK: u8 = 3;

/// RW of a control word that is a counter latch command (figure 7).
pub const LATCH: u8 = 0;
/// RW: the least significant byte only.
pub const LSB: u8 = 1;
/// RW: the most significant byte only.
pub const MSB: u8 = 2;
/// RW: the least significant byte, then the most significant one.
pub const BOTH: u8 = 3;

/// Control word (figure 7), and its lower six bits as the status byte shows them (figure 11).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// BCD: four decades, not 16 bits.
    pub bcd: bool,
    /// M: the mode. 6 and 7 are also 2 and 3.
    #[bits(3)]
    pub mode: u8,
    /// RW: which bytes are read and written.
    #[bits(2)]
    pub rw: u8,
    /// SC: the counter, or [`READ_BACK`]. Not kept.
    #[bits(2)]
    pub sc: u8,
}

/// Status byte (figure 11), above the lower six bits of the control word.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// The control word as it was written, without SC.
    #[bits(6)]
    pub control: u8,
    /// NULL COUNT: the last count written is not in the counting element yet.
    pub null_count: bool,
    /// OUT: the level of the pin.
    pub out: bool,
}

/// Read-back command (figure 10).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ReadBack {
    __: bool,
    /// CNT 0 to CNT 2: for these counters.
    #[bits(3)]
    pub counters: u8,
    /// /STATUS: 0 latches the status.
    pub no_status: bool,
    /// /COUNT: 0 latches the count.
    pub no_count: bool,
    #[bits(2)]
    __: u8,
}
