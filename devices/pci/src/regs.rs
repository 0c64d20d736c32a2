//! Spec: PCI Local Bus Specification 3.0 (2004), chapters 3 and 6; PCI Bus Power Management
//! Interface 1.2; PCI Express Base 3.0, chapter 7; Intel 290549 (82441FX PMC);
//! QEMU, `docs/specs/edu.rst`, and `hw/misc/edu.c` for what it leaves out.
//!
//! Names, offsets and fields of the type 0 configuration header, of capabilities, of configuration
//! mechanism #1, of the host bridge, and of the educational device. No behaviour.

use bitfield_struct::bitfield;
use trapline_device::PowerEvent;
use trapline_regs::Access::{Read, ReadWrite};
use trapline_regs::{Access, RegMap, Select, row};

/// Vendor ID, 16 bits, read only (PCI 3.0, 6.2.1).
pub const VENDOR_ID: u16 = 0x00;
/// Device ID, 16 bits, read only (PCI 3.0, 6.2.1).
pub const DEVICE_ID: u16 = 0x02;
/// Command, 16 bits: [`Command`] (PCI 3.0, 6.2.2).
pub const COMMAND: u16 = 0x04;
/// Status, 16 bits, error bits cleared by writing ones (PCI 3.0, 6.2.3).
pub const STATUS: u16 = 0x06;
/// Revision ID, 8 bits, read only (PCI 3.0, 6.2.1).
pub const REVISION_ID: u16 = 0x08;
/// Class code: programming interface, sub-class, base class; 3 x 8 bits, read only (PCI 3.0,
/// 6.2.1).
pub const CLASS_CODE: u16 = 0x09;
/// Cache line size, 8 bits, in dwords (PCI 3.0, 6.2.4).
pub const CACHE_LINE_SIZE: u16 = 0x0c;
/// Latency timer, 8 bits, in bus clocks (PCI 3.0, 6.2.4).
pub const LATENCY_TIMER: u16 = 0x0d;
/// Header type, 8 bits, read only; bit 7 says that other functions exist (PCI 3.0, 6.2.1).
pub const HEADER_TYPE: u16 = 0x0e;
/// Base address registers, 6 x 32 bits (PCI 3.0, 6.2.5.1).
pub const BAR0: u16 = 0x10;
/// Subsystem vendor ID, 16 bits, read only (PCI 3.0, 6.2.4).
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Subsystem ID, 16 bits, read only (PCI 3.0, 6.2.4).
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// Offset of the first capability, 8 bits, read only (PCI 3.0, 6.7).
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line, 8 bits, for software's use only (PCI 3.0, 6.2.4).
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits, read only: 0 none, 1 INTA# ... 4 INTD# (PCI 3.0, 6.2.4).
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Bytes of a conventional function's configuration space (PCI 3.0, 6.1).
pub const CONFIG_LEN: usize = 256;
/// Header type bit 7: the device has more than function 0 (PCI 3.0, 6.2.1).
pub const MULTI_FUNCTION: u8 = 0x80;
/// Status bits a one clears: master data parity error, signalled and received target abort,
/// received master abort, signalled system error, detected parity error (PCI 3.0, 6.2.3).
pub const STATUS_ERRORS: u16 = 0xf900;

/// Status bit 4: there are capabilities (PCI 3.0, 6.2.3).
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Status bit 3: the function wants to interrupt by its pin, whether it may or not (PCI 3.0, 6.2.3).
pub const STATUS_INTERRUPT: u32 = 1 << 3;

/// Expansion ROM base address, 32 bits (PCI 3.0, 6.2.5.2).
pub const EXPANSION_ROM: u16 = 0x30;
/// Expansion ROM bit 0: it is decoded, if memory is (PCI 3.0, 6.2.5.2).
pub const ROM_ENABLE: u32 = 1 << 0;
/// Expansion ROM bits 31:11: its address (PCI 3.0, 6.2.5.2).
pub const ROM_ADDRESS: u32 = !0x7ff;

/// Bytes of a PCI Express function's configuration space (PCI Express Base 3.0, 7.2).
pub const EXTENDED_CONFIG_LEN: usize = 4096;
/// The first extended capability (PCI Express Base 3.0, 7.9.1).
pub const EXTENDED_CAPABILITIES: u16 = 0x100;

/// Message control in the MSI capability, 16 bits (PCI 3.0, 6.8.1.3).
pub const MSI_CONTROL: u16 = 2;
/// Message control bit 0: messages instead of the pin (PCI 3.0, 6.8.1.3).
pub const MSI_ENABLE: u16 = 1 << 0;
/// Message control bit 7: 64 bits of address (PCI 3.0, 6.8.1.3).
pub const MSI_64_BIT: u16 = 1 << 7;
/// Message address in the capability, 64 bits, a multiple of 4 (PCI 3.0, 6.8.1.4).
pub const MSI_ADDRESS: u16 = 4;
/// Message data behind 64 bits of address, 16 bits (PCI 3.0, 6.8.1.6).
pub const MSI_DATA: u16 = 12;
/// Message data behind 32 bits of address, 16 bits (PCI 3.0, 6.8.1.6).
pub const MSI_DATA_32: u16 = 8;

/// Message control in the MSI-X capability, 16 bits (PCI 3.0, 6.8.2.3).
pub const MSIX_CONTROL: u16 = 2;
/// Message control bit 15: messages by the table (PCI 3.0, 6.8.2.3).
pub const MSIX_ENABLE: u16 = 1 << 15;
/// Message control bit 14: all vectors are masked (PCI 3.0, 6.8.2.3).
pub const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// Offset of the table, and in bits 2:0 its BAR; 32 bits (PCI 3.0, 6.8.2.4).
pub const MSIX_TABLE: u16 = 4;
/// Offset of the pending bits, and in bits 2:0 their BAR; 32 bits (PCI 3.0, 6.8.2.5).
pub const MSIX_PBA: u16 = 8;
/// The most vectors a table can have (PCI 3.0, 6.8.2.3).
pub const MSIX_VECTORS_MAX: u16 = 2048;
/// Bytes of a table entry: address, upper address, data, vector control (PCI 3.0, 6.8.2).
pub const MSIX_ENTRY_LEN: u64 = 16;
/// Vector control bit 0: masked (PCI 3.0, 6.8.2.9).
pub const MSIX_VECTOR_MASKED: u32 = 1 << 0;

/// Power management capabilities, 16 bits (PCI Power Management 1.2, 3.2.3).
pub const PM_CAPABILITIES: u16 = 2;
/// Power management capabilities bits 2:0: as in PCI Power Management 1.2.
pub const PM_VERSION: u16 = 3;
/// Power management control and status, 16 bits (PCI Power Management 1.2, 3.2.4).
pub const PM_CONTROL: u16 = 4;
/// Control and status bits 1:0: the power state, D0 to D3hot. What D0 is entered with is all reset
/// values, as bit 3 (No_Soft_Reset) is clear (PCI Power Management 1.2, 3.2.4 and 5.4).
pub const PM_STATE: u16 = 3;
/// D3hot.
pub const PM_D3HOT: u16 = 3;

/// PCI Express capabilities, 16 bits: version 2, root complex integrated endpoint (PCI Express Base
/// 3.0, 7.8.2).
pub const EXPRESS_CAPABILITIES: u16 = 2;
/// Version 2 of the capability, of a root complex integrated endpoint.
pub const EXPRESS_INTEGRATED_ENDPOINT: u16 = 9 << 4 | 2;
/// Length of the capability from its version 2 on.
pub const EXPRESS_LEN: usize = 0x3c;
/// Device capabilities, 32 bits (PCI Express Base 3.0, 7.8.3).
pub const EXPRESS_DEVICE_CAPABILITIES: u16 = 4;
/// Device capabilities bit 15: reports errors by their role, as all must (7.8.3).
pub const EXPRESS_ROLE_BASED_ERRORS: u32 = 1 << 15;
/// Device capabilities bit 28: has a function-level reset (7.8.3).
pub const EXPRESS_FLR: u32 = 1 << 28;
/// Device control, 16 bits (PCI Express Base 3.0, 7.8.4).
pub const EXPRESS_DEVICE_CONTROL: u16 = 8;
/// Device control's reset value: relaxed ordering, no snoop, read requests of 512 bytes (7.8.4).
pub const EXPRESS_CONTROL_RESET: u16 = 0x2810;
/// Device control bit 15: reset the function. Reads 0 (7.8.4).
pub const EXPRESS_INITIATE_FLR: u16 = 1 << 15;
/// Device control's writable bits: error reports, relaxed ordering, no snoop, read request size.
pub const EXPRESS_CONTROL_MASK: u16 = 0x781f;

/// Length of the advanced features capability (PCI ECN Advanced Capabilities, 2006).
pub const AF_LEN: u8 = 6;
/// Advanced features: capabilities, 8 bits (ECN Advanced Capabilities).
pub const AF_CAPABILITIES: u16 = 3;
/// Capabilities bits 1:0: tells whether transactions are pending, has a function-level reset.
pub const AF_TP_FLR: u8 = 3;
/// Advanced features: control, 8 bits.
pub const AF_CONTROL: u16 = 4;
/// Control bit 0: reset the function. Reads 0.
pub const AF_INITIATE_FLR: u8 = 1;

/// BAR bit 0: an I/O BAR (PCI 3.0, 6.2.5.1).
pub const BAR_IO: u32 = 1 << 0;
/// Memory BAR bits 2:1 = 2: 64 bits wide, with the next BAR (PCI 3.0, 6.2.5.1).
pub const BAR_MEM64: u32 = 2 << 1;
/// Memory BAR bit 3: reads have no side effects (PCI 3.0, 6.2.5.1).
pub const BAR_PREFETCHABLE: u32 = 1 << 3;

/// The type 0 header, for names in traces (PCI 3.0, figure 6-1). Past it comes what the function
/// itself defines.
#[rustfmt::skip]
pub const HEADER: RegMap<()> = RegMap::new(0x40, &[
    row((), "VENDOR_ID",           0x00, 2, Read),
    row((), "DEVICE_ID",           0x02, 2, Read),
    row((), "COMMAND",             0x04, 2, ReadWrite).prompt(),
    row((), "STATUS",              0x06, 2, ReadWrite).prompt(),
    row((), "REVISION_ID",         0x08, 1, Read),
    row((), "PROG_IF",             0x09, 1, Read),
    row((), "SUB_CLASS",           0x0a, 1, Read),
    row((), "BASE_CLASS",          0x0b, 1, Read),
    row((), "CACHE_LINE_SIZE",     0x0c, 1, ReadWrite),
    row((), "LATENCY_TIMER",       0x0d, 1, ReadWrite),
    row((), "HEADER_TYPE",         0x0e, 1, Read),
    row((), "BIST",                0x0f, 1, ReadWrite),
    row((), "BAR0",                0x10, 4, ReadWrite).prompt(),
    row((), "BAR1",                0x14, 4, ReadWrite).prompt(),
    row((), "BAR2",                0x18, 4, ReadWrite).prompt(),
    row((), "BAR3",                0x1c, 4, ReadWrite).prompt(),
    row((), "BAR4",                0x20, 4, ReadWrite).prompt(),
    row((), "BAR5",                0x24, 4, ReadWrite).prompt(),
    row((), "CARDBUS_CIS",         0x28, 4, Read),
    row((), "SUBSYSTEM_VENDOR_ID", 0x2c, 2, Read),
    row((), "SUBSYSTEM_ID",        0x2e, 2, Read),
    row((), "EXPANSION_ROM",       0x30, 4, ReadWrite).prompt(),
    row((), "CAPABILITIES",        0x34, 1, Read),
    row((), "INTERRUPT_LINE",      0x3c, 1, ReadWrite),
    row((), "INTERRUPT_PIN",       0x3d, 1, Read),
    row((), "MIN_GNT",             0x3e, 1, Read),
    row((), "MAX_LAT",             0x3f, 1, Read),
]);

/// Command register, offset 0x04 (PCI 3.0, 6.2.2). Bits a conventional function need not have
/// (special cycles, memory write and invalidate, VGA snoop, fast back-to-back) stay 0.
#[bitfield(u16)]
pub struct Command {
    /// Bit 0: answers its I/O BARs.
    pub io: bool,
    /// Bit 1: answers its memory BARs.
    pub memory: bool,
    /// Bit 2: may be a bus master.
    pub master: bool,
    #[bits(3)]
    __: u8,
    /// Bit 6: reports parity errors.
    pub parity: bool,
    __: bool,
    /// Bit 8: may assert SERR#.
    pub serr: bool,
    __: bool,
    /// Bit 10: does not assert INTx#.
    pub interrupt_disable: bool,
    #[bits(5)]
    __: u8,
}

/// CONFIG_ADDRESS, port 0xcf8 (PCI 3.0, 3.2.2.3.2 and figure 3-2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ConfigAddress {
    /// Bits 1:0: read-only zeros, by the specification. QEMU keeps what is written, and QEMU's own
    /// tests (libqos) choose a byte of the dword by it: so do we, and do not show it.
    #[bits(2)]
    pub byte: u8,
    /// Bits 7:2: the dword in the function's configuration space.
    #[bits(6)]
    pub dword: u8,
    /// Bits 15:8: device and function, as [`crate::Devfn`] has them.
    pub devfn: u8,
    /// Bits 23:16: the bus.
    pub bus: u8,
    #[bits(7)]
    __: u8,
    /// Bit 31: CONFIG_DATA is translated to configuration cycles.
    pub enable: bool,
}

impl ConfigAddress {
    /// What stays of `value` in the register: reserved bits are read-only zeros.
    pub const fn from_guest(value: u32) -> Self {
        Self::from_bits(value & 0x80ff_ffff)
    }

    /// What a guest reads.
    pub const fn to_guest(self) -> u32 {
        self.with_byte(0).into_bits()
    }
}

/// Reset control register, port 0xcf9 (Intel 290550, 82371SB PIIX3, RC; bit 3 as in the ICH
/// family, RST_CNT).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ResetControl {
    __: bool,
    /// Bit 1: the reset is of the whole system, not of the processor only.
    pub system: bool,
    /// Bit 2: going from 0 to 1 resets.
    pub cpu: bool,
    /// Bit 3: the power is cycled with it.
    pub full: bool,
    #[bits(4)]
    __: u8,
}

impl ResetControl {
    /// What stays of `value` in the register.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x0e)
    }

    /// Takes a write; says what it asks for. Bit 2 going up resets.
    ///
    /// Deviation: with bit 1 clear the chip would only send INIT to the processor (Intel 290550,
    /// RC). A guest that asks for it wants to start over from the reset vector, and the
    /// machine knows one way to do that.
    pub const fn write(&mut self, value: u8) -> Option<PowerEvent> {
        let was_up = self.cpu();
        *self = Self::from_guest(value);
        if self.cpu() && !was_up { Some(PowerEvent::Reset) } else { None }
    }
}

/// Offsets within the port region: CONFIG_ADDRESS at 0xcf8 (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_ADDRESS: u64 = 0;
/// The byte of CONFIG_ADDRESS's ports that is the reset control register: 0xcf9.
pub const RESET_CONTROL: u64 = 1;
/// CONFIG_DATA at 0xcfc, four bytes (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_DATA: u64 = 4;

/// What CONFIG_DATA leads to while bit 31 of CONFIG_ADDRESS is set: [`HEADER`], of every function (PCI 3.0,
/// 3.2.2.3.2).
pub const CONF1_SELECT: Select =
    Select { selector: 0, width: 4, enabled: 1 << 31, mask: 0xfc, shift: 0, first: 4, len: 4 };

/// Configuration mechanism #1's ports (PCI 3.0, 3.2.2.3.2). What CONFIG_DATA leads to may be any
/// register.
#[rustfmt::skip]
pub const CONF1: RegMap<()> = RegMap::new(8, &[
    row((), "CONFIG_ADDRESS", 0, 4, ReadWrite),
    row((), "CONFIG_DATA",    4, 4, ReadWrite).prompt(),
]);

/// The 82441FX's vendor: Intel (290549, VID).
pub const PMC_VENDOR_ID: u16 = 0x8086;
/// The 82441FX PMC (290549, DID).
pub const PMC_DEVICE_ID: u16 = 0x1237;
/// Its revision as most firmware knows it (290549, RID).
pub const PMC_REVISION: u8 = 0x02;
/// Class code of a host bridge (PCI 3.0, appendix D).
pub const CLASS_HOST_BRIDGE: u32 = 0x06_0000;
/// Command register's reset value: memory and bus master, both hard-wired (290549, PCICMD).
pub const PMC_COMMAND: Command = Command::new().with_memory(true).with_master(true);
/// Status register's reset value: fast back-to-back, medium DEVSEL# (290549, PCISTS).
pub const PMC_STATUS: u16 = 0x0280;
/// Programmable attribute map, PAM0 to PAM6 (290549, PAM).
pub const PAM0: u16 = 0x59;
/// Length of the attribute map in bytes.
pub const PAM_LEN: u16 = 7;
/// Writable bits of each PAM byte: read and write enable of its two halves; bits 2, 3, 6 and 7 are
/// reserved (290549, PAM).
pub const PAM_MASK: u8 = 0x33;
/// PAM0's low half is reserved (290549, PAM0).
pub const PAM0_MASK: u8 = 0x30;
/// System management RAM control: [`Smram`] (290549, SMRAM).
pub const SMRAM: u16 = 0x72;

/// SMRAM control, offset 0x72 (290549, SMRAM).
#[bitfield(u8)]
pub struct Smram {
    /// Bits 2:0: the segment, hard-wired to 2 (0xa0000).
    #[bits(3, default = 2)]
    pub base_segment: u8,
    /// Bit 3: SMRAM is enabled.
    pub enable: bool,
    /// Bit 4: locked until the next reset.
    pub lock: bool,
    /// Bit 5: closed to data accesses.
    pub close: bool,
    /// Bit 6: open outside SMM.
    pub open: bool,
    __: bool,
}

impl Smram {
    /// What stays of `value` in the register.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x78 | Self::new().into_bits())
    }
}

/// The host bridge's own registers, for names in traces (290549, configuration space).
#[rustfmt::skip]
pub const PMC: RegMap<()> = RegMap::new(0x100, &[
    row((), "PAM0",  0x59, 1, ReadWrite).prompt(),
    row((), "PAM1",  0x5a, 1, ReadWrite).prompt(),
    row((), "PAM2",  0x5b, 1, ReadWrite).prompt(),
    row((), "PAM3",  0x5c, 1, ReadWrite).prompt(),
    row((), "PAM4",  0x5d, 1, ReadWrite).prompt(),
    row((), "PAM5",  0x5e, 1, ReadWrite).prompt(),
    row((), "PAM6",  0x5f, 1, ReadWrite).prompt(),
    row((), "SMRAM", 0x72, 1, ReadWrite).prompt(),
]);

/// The registers of the PIIX' functions past the header, of those there are (290550; 290562).
#[rustfmt::skip]
pub const PIIX: RegMap<()> = RegMap::new(0x100, &[
    row((), "PMBA",      0x40, 4, Read),
    row((), "DEVACTB",   0x58, 4, Read),
    row((), "PIRQRCA",   0x60, 1, ReadWrite).prompt(),
    row((), "PIRQRCB",   0x61, 1, ReadWrite).prompt(),
    row((), "PIRQRCC",   0x62, 1, ReadWrite).prompt(),
    row((), "PIRQRCD",   0x63, 1, ReadWrite).prompt(),
    row((), "PMREGMISC", 0x80, 1, Read),
]);

/// The educational device's vendor, QEMU (edu.rst).
pub const EDU_VENDOR_ID: u16 = 0x1234;
/// The educational device (edu.rst).
pub const EDU_DEVICE_ID: u16 = 0x11e8;
/// Its revision (edu.c).
pub const EDU_REVISION: u8 = 0x10;
/// Its class code: nothing that there was a class for when classes came (edu.c).
pub const EDU_CLASS: u32 = 0x00_ff00;
/// Offsets of the DMA registers, which we have not (edu.rst).
pub const EDU_DMA: std::ops::Range<u64> = 0x80..0xa0;
/// Length of its BAR in bytes (edu.rst).
pub const EDU_BAR_LEN: u32 = 1 << 20;
/// Length of the BAR of its MSI-X table and, in the second half, the pending bits.
pub const EDU_MSIX_BAR_LEN: u32 = 0x1000;
/// How many MSI-X vectors it has.
pub const EDU_VECTORS: u16 = 4;
/// What its identification register says: version 1.0 (edu.rst; the version, edu.c).
pub const EDU_IDENTIFICATION: u32 = 0x0100_00ed;
/// Status bit 0: a factorial is being computed (edu.rst).
pub const EDU_STATUS_COMPUTING: u32 = 0x01;
/// Status bit 7: raise an interrupt when a factorial is done (edu.rst).
pub const EDU_STATUS_IRQ: u32 = 0x80;
/// The interrupt status bit of that interrupt (edu.c, `FACT_IRQ`).
pub const FACTORIAL_IRQ: u32 = 0x01;

/// A register of the educational device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EduReg {
    /// Which device and version it is.
    Identification,
    /// Reads the complement of what was written.
    Liveness,
    /// Reads the factorial of what was written, once it is computed.
    Factorial,
    /// [`EDU_STATUS_COMPUTING`] and [`EDU_STATUS_IRQ`].
    Status,
    /// Which interrupts were raised.
    InterruptStatus,
    /// Raises interrupts.
    Raise,
    /// Takes them back.
    Acknowledge,
}

/// The educational device's registers (edu.rst, "MMIO area spec").
#[rustfmt::skip]
pub const EDU: RegMap<EduReg> = RegMap::new(EDU_BAR_LEN, &[
    row(EduReg::Identification,  "IDENTIFICATION",   0x00, 4, Read),
    row(EduReg::Liveness,        "LIVENESS",         0x04, 4, ReadWrite),
    row(EduReg::Factorial,       "FACTORIAL",        0x08, 4, ReadWrite).prompt(),
    row(EduReg::Status,          "STATUS",           0x20, 4, ReadWrite).prompt(),
    row(EduReg::InterruptStatus, "INTERRUPT_STATUS", 0x24, 4, Read),
    row(EduReg::Raise,           "INTERRUPT_RAISE",  0x60, 4, Access::Write).prompt(),
    row(EduReg::Acknowledge,     "INTERRUPT_ACK",    0x64, 4, Access::Write).prompt(),
]);

/// Length of the window of [`HOTPLUG`] in bytes.
pub const HOTPLUG_LEN: u32 = 0x14;

/// A register about hot-plug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotplugReg {
    /// Slots that have come; a read clears it.
    Up,
    /// Slots that are to go.
    Down,
    /// A write gives slots back; a read is the features.
    Eject,
    /// Slots that can go.
    Removable,
    /// The bus that the others are about.
    Bus,
}

/// ACPI's registers about the hot-plug of PCI functions (QEMU, `acpi_pci_hotplug.rst`).
#[rustfmt::skip]
pub const HOTPLUG: RegMap<HotplugReg> = RegMap::new(HOTPLUG_LEN, &[
    row(HotplugReg::Up,        "PCI_UP",    0x00, 4, Read),
    row(HotplugReg::Down,      "PCI_DOWN",  0x04, 4, Read),
    row(HotplugReg::Eject,     "PCI_EJECT", 0x08, 4, ReadWrite).prompt(),
    row(HotplugReg::Removable, "PCI_RMV",   0x0c, 4, Read),
    row(HotplugReg::Bus,       "PCI_SEL",   0x10, 4, ReadWrite),
]);
