//! What a snapshot keeps of the chip.

use trapline_device::{SavedBytes, StateError, saved_form};

use super::chip::{TICKS_PER_SECOND, tick_at};
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

impl State {
    fn check(&self) -> Result<(), StateError> {
        let Self { a, c, phase_ns, tick, .. } = self;
        let check = StateError::check::<SavedV1>;
        check(RegA::from_guest(a.into_bits()) == *a, "UIP is not kept")?;
        let flags = RegC::new().with_update(true).with_alarm(true).with_periodic(true);
        check(c.into_bits() & !flags.into_bits() == 0, "three flags are kept of register C")?;
        check(phase_ns.unsigned_abs() <= NS_PER_SECOND, "the phase is within one second of zero")?;
        let ticks = -TICKS_PER_SECOND..=tick_at(i128::from(u64::MAX)) + TICKS_PER_SECOND;
        check(ticks.contains(tick), "the tick is one of 584 years from 1970 on")
    }
}

const NS_PER_SECOND: u64 = 1_000_000_000;

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "mc146818" version 1 {
        index: u8,
        cmos: SavedBytes<CMOS_LEN>,
        a: u8,
        b: u8,
        c: u8,
        phase_ns: i64,
        tick: i64,
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

impl From<Cmos> for SavedBytes<CMOS_LEN> {
    fn from(cmos: Cmos) -> Self {
        cmos.0.into()
    }
}

impl From<SavedBytes<CMOS_LEN>> for Cmos {
    fn from(saved: SavedBytes<CMOS_LEN>) -> Self {
        Self(saved.into())
    }
}
