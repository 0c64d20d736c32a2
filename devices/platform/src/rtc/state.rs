//! What a snapshot keeps of the chip.

use super::regs::{CMOS_LEN, NMI_MASK, RegA, RegB, RegC};

/// Everything the chip remembers. `Default` is a chip whose battery has just been put in: the
/// registers as the PC/AT's BIOS programs them, the RAM zero, the clock at tick 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The address latch, with the NMI mask in bit 7. NMI is masked at power-on.
    pub index: u8,
    /// Time, calendar, alarm and RAM bytes by index; the four of registers A to D are unused.
    pub cmos: Cmos,
    /// Register A, without UIP.
    pub a: RegA,
    /// Register B.
    pub b: RegB,
    /// Register C, without IRQF, which follows from the other flags and register B.
    pub c: RegC,
    /// Nanoseconds to add to UTC so that the update cycle ends at whole seconds of the sum. Moves
    /// when the divider is released from reset; within one second of zero.
    pub phase_ns: i64,
    /// The tick (1/32768 s of UTC plus phase) up to which the registers above have been brought.
    pub tick: i64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: NMI_MASK,
            cmos: Cmos::default(),
            a: RegA::PC_AT,
            b: RegB::PC_AT,
            c: RegC::new(),
            phase_ns: 0,
            tick: 0,
        }
    }
}

/// The bytes behind the address latch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmos([u8; CMOS_LEN]);

impl Default for Cmos {
    fn default() -> Self {
        Self([0; CMOS_LEN])
    }
}

impl Cmos {
    /// The byte at `index`; 0xff past the end.
    pub fn get(&self, index: u8) -> u8 {
        self.0.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    /// Stores the byte at `index`; nothing past the end.
    pub fn set(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.0.get_mut(usize::from(index)) {
            *byte = value;
        }
    }
}
