//! How interrupts are wired, in words that both ACPI and the MP table can say.

/// The machine's I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its ID, different from every local APIC's.
    pub id: u8,
    /// Guest physical address of its registers.
    pub addr: u32,
    /// The global interrupt number of its pin 0.
    pub gsi_base: u32,
}

/// How a line asserts an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// As the bus it comes from has it; for ISA that is edge, high.
    Bus,
    /// Level triggered, asserted high.
    LevelHigh,
    /// Level triggered, asserted low, as PCI has it.
    LevelLow,
}

impl Trigger {
    /// The flags word which the MADT and the MP table share: bits 1:0 polarity, 3:2 trigger mode
    /// (ACPI 6.5, section 5.2.12.5; MP 1.4, section 4.3.4).
    pub(crate) fn flags(self) -> u16 {
        match self {
            Self::Bus => 0,
            Self::LevelHigh => 0b1101,
            Self::LevelLow => 0b1111,
        }
    }
}

/// An ISA interrupt that is not simply the global interrupt of the same number, edge, high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqOverride {
    /// The ISA interrupt.
    pub irq: u8,
    /// The global interrupt it arrives at.
    pub gsi: u32,
    /// How it is asserted.
    pub trigger: Trigger,
}

impl IrqOverride {
    /// The timer's, which a PC wires to another pin of the I/O APIC than of the 8259.
    pub fn timer(irq: u8, gsi: u32) -> Self {
        Self { irq, gsi, trigger: Trigger::Bus }
    }

    /// ACPI's own: level triggered and active high.
    ///
    /// A real chip set's SCI is active low; the inversion sits between the chip and the pin. A
    /// VMM raises a line to assert it and KVM ignores an I/O APIC pin's polarity, so "high" is
    /// both the truth and what an I/O APIC that does look at polarity needs. QEMU says the same.
    pub fn sci(irq: u8, gsi: u32) -> Self {
        Self { irq, gsi, trigger: Trigger::LevelHigh }
    }
}

/// Where one interrupt pin of one PCI device goes, always level triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciRoute {
    /// Device number on bus 0, 0 to 31.
    pub device: u8,
    /// 0 for INTA# to 3 for INTD#.
    pub pin: u8,
    /// The global interrupt it arrives at.
    pub gsi: u32,
}
