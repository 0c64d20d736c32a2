//! Spec: Intel 82093AA I/O Advanced Programmable Interrupt Controller data sheet, order number
//! 290566-001, section 3. The EOI register, the message format and version 0x20 are of Intel's
//! I/O Controller Hub 9 data sheet, order number 316972-004, section 13.5 and "Front Side Bus
//! Interrupt Delivery" (section 5.9).

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{Described, RegMap, Select, Traits, row};

/// Length of the window in bytes: one page, most of it reserved.
pub const WINDOW_LEN: u32 = 0x1000;

/// How many ends of a level-triggered interrupt in a row may find its pin still asserted before the
/// pin pauses (Linux `arch/x86/kvm/ioapic.c`, `IOAPIC_SUCCESSIVE_IRQ_MAX_COUNT`; QEMU
/// `hw/intc/ioapic.c`, `SUCCESSIVE_IRQ_MAX_COUNT`).
pub const SUCCESSIVE_ENDS_MAX: u16 = 10_000;
/// For how long, in nanoseconds: a hundredth of a second (both, as above).
pub const PAUSE_NS: u64 = 10_000_000;

/// Number of interrupt inputs.
pub const PINS: u8 = 24;

/// The version the chip reports: an I/O APIC with an EOI register. (0x11 would be one without.)
pub const VERSION: u8 = 0x20;

/// The registers the processor sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Which register IOWIN is (82093AA section 3.1.1; ICH9 IND).
    Select,
    /// The register IOREGSEL says (82093AA section 3.1.2; ICH9 DAT).
    Window,
    /// Ends the interrupts of a vector (ICH9 section 13.5.4). Write-only.
    Eoi,
}

/// The window.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Select, "IOREGSEL", 0x00, 4, ReadWrite),
    row(Reg::Window, "IOWIN",    0x10, 4, ReadWrite).prompt(),
    row(Reg::Eoi,    "EOIR",     0x40, 4, Write).prompt(),
]);

/// What IOWIN is: [`Indirect::described`] by index, four bytes each.
pub const SELECT: Select =
    Select { selector: 0, width: 1, enabled: 0, mask: 0xff, shift: 2, first: 0x10, len: 4 };

/// The registers behind IOWIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indirect {
    /// Identification (82093AA section 3.2.1).
    Id,
    /// Version (section 3.2.2).
    Version,
    /// Arbitration (section 3.2.3).
    Arbitration,
    /// The lower half of a pin's redirection entry (section 3.2.4).
    RedirectLow(u8),
    /// The upper half.
    RedirectHigh(u8),
}

/// Length of the index space in 32-bit registers.
pub const INDEX_LEN: u32 = 0x100;

const ID: Row = row(Indirect::Id, "IOAPICID", 0, 1, ReadWrite);
const VER: Row = row(Indirect::Version, "IOAPICVER", 1, 1, Read);
const ARB: Row = row(Indirect::Arbitration, "IOAPICARB", 2, 1, Read);
/// Index of the first redirection entry.
const REDIRECTION: u8 = 0x10;

type Row = trapline_regs::Row<Indirect>;

/// The registers that are not repeated per pin, by index.
pub const INDIRECT: RegMap<Indirect> = RegMap::new(INDEX_LEN, &[ID, VER, ARB]);

impl Indirect {
    /// The register at `index`.
    pub fn at(index: u8) -> Option<Self> {
        match index.checked_sub(REDIRECTION) {
            None => INDIRECT.for_read(u64::from(index)).map(|row| row.reg),
            Some(half) if half / 2 >= PINS => None,
            Some(half) if half & 1 == 0 => Some(Self::RedirectLow(half / 2)),
            Some(half) => Some(Self::RedirectHigh(half / 2)),
        }
    }

    /// All of them, as recordings know them: each four bytes from four times its index on.
    pub fn described() -> impl Iterator<Item = Described> {
        let all = (0..=u8::MAX).filter_map(|index| Some((index, Self::at(index)?)));
        all.map(|(index, register)| Described {
            name: register.name(),
            offset: u32::from(index) << SELECT.shift,
            width: 4,
            access: match register {
                Self::Version | Self::Arbitration => Read,
                Self::Id | Self::RedirectLow(_) | Self::RedirectHigh(_) => ReadWrite,
            },
            traits: Traits { prompt: true, ..Traits::PLAIN },
        })
    }

    /// Its name in the data sheet.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Id => ID.name,
            Self::Version => VER.name,
            Self::Arbitration => ARB.name,
            Self::RedirectLow(_) => "IOREDTBL[31:0]",
            Self::RedirectHigh(_) => "IOREDTBL[63:32]",
        }
    }
}

/// Delivery mode of a redirection entry (82093AA section 3.2.4, bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To all processors named.
    Fixed,
    /// To the one that does the least urgent work.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// Initialization.
    Init,
    /// The processor is to ask the 8259s for the vector.
    ExtInt,
    /// Codes 3 and 6: nothing is sent.
    Reserved,
}

impl Delivery {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// Redirection entry (82093AA section 3.2.4; ICH9 section 13.5.7). Reset value: masked.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Redirection {
    /// Vector.
    pub vector: u8,
    /// Delivery mode as it was written; [`Redirection::delivery`] reads it.
    #[bits(3)]
    pub delivery_code: u8,
    /// Destination mode: logical, not physical.
    pub logical: bool,
    /// Delivery status: waits to be sent. Read-only; always 0, as sending takes no time.
    pub pending: bool,
    /// Polarity: active low. Kept; see the module's note.
    pub active_low: bool,
    /// Remote IRR: a local APIC has accepted the interrupt and has not ended it. Read-only.
    pub remote_irr: bool,
    /// Trigger mode: level, not edge.
    pub level: bool,
    /// Mask.
    pub mask: bool,
    #[bits(31)]
    __: u32,
    /// Extended destination: bits 11 to 4 of the message's address (ICH9).
    pub extended: u8,
    /// Destination.
    pub destination: u8,
}

/// The bits of a redirection entry that can be written.
const WRITABLE: u64 = 0xffff_0000_0001_afff;

impl Redirection {
    /// After reset.
    pub const RESET: Self = Self::new().with_mask(true);

    /// The entry after a guest wrote `value`: read-only bits stay, reserved ones are 0.
    pub const fn written(self, value: u64) -> Self {
        Self::from_bits((value & WRITABLE) | (self.into_bits() & !WRITABLE))
    }

    /// Whether no guest could not have made it.
    pub const fn is_possible(self) -> bool {
        let read_only = Self::new().with_remote_irr(true).into_bits();
        self.into_bits() & !(WRITABLE | read_only) == 0
    }

    /// Delivery mode.
    pub const fn delivery(self) -> Delivery {
        Delivery::from_bits(self.delivery_code())
    }
}

/// Message address (ICH9, "Interrupt message address format"; Intel SDM volume 3, "Message address
/// register format"), lower 32 bits.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MessageAddress {
    #[bits(2)]
    __: u8,
    /// Destination mode: logical.
    pub logical: bool,
    /// Redirection hint: to one of several processors.
    pub redirect: bool,
    /// Extended destination.
    pub extended: u8,
    /// Destination.
    pub destination: u8,
    /// Always 0xfee.
    #[bits(12, default = 0xfee)]
    pub prefix: u16,
}

/// Message data (ICH9, "Interrupt message data format"; Intel SDM volume 3, "Message data register
/// format").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MessageData {
    /// Vector.
    pub vector: u8,
    /// Delivery mode.
    #[bits(3)]
    pub delivery_code: u8,
    #[bits(3)]
    __: u8,
    /// Assert: always 1, as only the start of an interrupt is sent.
    #[bits(default = true)]
    pub assert: bool,
    /// Trigger mode: level.
    pub level: bool,
    #[bits(16)]
    __: u16,
}

/// Identification and arbitration register (82093AA sections 3.2.1 and 3.2.3). Reset value 0.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Id {
    #[bits(24)]
    __: u32,
    /// The number on the APIC bus.
    #[bits(4)]
    pub id: u8,
    #[bits(4)]
    __: u8,
}

impl Id {
    /// What the register holds after a guest wrote `value`.
    pub const fn from_guest(value: u32) -> Self {
        Self::from_bits(value & 0x0f00_0000)
    }
}
