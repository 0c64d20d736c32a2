//! ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, and MCFG and SPCR where there is something
//! to say in them.
//!
//! Spec: Advanced Configuration and Power Interface 6.5, chapter 5.

mod dsdt;
mod fadt;
mod loader;
mod madt;
mod roots;
mod spcr;
#[cfg(test)]
mod tests;

use std::ops::{Range, RangeInclusive};

use acpi_tables::Aml;
use trapline_guestmem::GuestMem;

pub use self::loader::{FirmwareTables, for_firmware};
use crate::error::{Error, below_4g, placing};
use crate::wiring::{IoApic, IrqOverride, PciRoute};

/// Bytes of guest memory the root pointer takes, at an address divisible by 16.
pub const RSDP_LEN: u64 = 36;

/// Who made the tables, in every header.
const OEM_ID: [u8; 6] = *b"TRAPLN";
const OEM_TABLE_ID: [u8; 8] = *b"TRAPLINE";
const OEM_REVISION: u32 = 1;

/// A machine, as ACPI sees one.
#[derive(Clone, Debug)]
pub struct AcpiConfig<'a> {
    /// Where the root pointer goes. A guest that is not told looks for it between 0xe0000 and
    /// 1 MiB, at multiples of 16 (ACPI 6.5, section 5.2.5.1).
    pub rsdp: u64,
    /// Where all other tables go, below 4 GiB.
    pub tables: Range<u64>,
    /// The local APIC ID of each processor. A processor's number in ACPI is its place here.
    pub apic_ids: &'a [u32],
    /// Guest physical address of every processor's own APIC.
    pub local_apic: u32,
    /// Which local interrupt, 0 or 1, non-maskable interrupts arrive at.
    pub nmi_lint: u8,
    /// The I/O APIC.
    pub io_apic: IoApic,
    /// ISA interrupts that do not follow the rule; the timer's and ACPI's own usually.
    pub overrides: &'a [IrqOverride],
    /// ACPI's interrupt, an ISA interrupt number.
    pub sci: u8,
    /// The power management registers.
    pub power: PowerBlocks,
    /// How to reset, in one port write.
    pub reset: Option<ResetRegister>,
    /// Whether there is a clock with CMOS RAM for the guest to use.
    pub cmos_rtc: bool,
    /// The offset in CMOS RAM of the century.
    pub century: Option<u8>,
    /// Whether a VGA adapter may be probed for.
    pub vga: bool,
    /// The PCI host bridge.
    pub pci: Option<PciBridge<'a>>,
    /// Devices at fixed ports.
    pub isa: &'a [IsaDevice<'a>],
    /// Devices at fixed addresses.
    pub memory: &'a [MemoryDevice],
    /// A UART at a fixed address, for the console.
    pub uart: Option<MemoryUart>,
}

/// Fixed power management registers, as I/O ports (ACPI 6.5, section 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerBlocks {
    /// PM1a event block: status and enable, 2 bytes each.
    pub event: u16,
    /// PM1a control block, 2 bytes. The machine is in ACPI mode from the start (there is no SMI
    /// command port), so `SCI_EN` must read as 1.
    pub control: u16,
    /// The 24-bit power management timer, 4 bytes.
    pub timer: Option<u16>,
    /// Whether the event block has a power button.
    pub button: bool,
    /// The `SLP_TYP` value that switches off, 0 to 7.
    pub off: u8,
}

/// FADT's `RESET_REG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetRegister {
    /// An 8-bit port.
    pub port: u16,
    /// What to write to it.
    pub value: u8,
}

/// The PCI host bridge of segment 0, bus 0.
#[derive(Clone, Debug)]
pub struct PciBridge<'a> {
    /// How configuration space is reached.
    pub config: PciConfig,
    /// Ports devices may be given, without [`Self::config`].
    pub ports: &'a [RangeInclusive<u16>],
    /// Addresses devices may be given.
    pub memory: &'a [RangeInclusive<u32>],
    /// Interrupts of the devices.
    pub routes: &'a [PciRoute],
}

/// How the configuration space of a host bridge is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciConfig {
    /// By configuration mechanism 1, from this port on.
    Ports(u16),
    /// As memory, 4 KiB a function, from this guest physical address on (PCI Firmware 3.2, section
    /// 4.1). Bus 0 only.
    Ecam(u32),
}

/// Bytes of configuration space of a bus, as memory.
const ECAM_BUS_LEN: u32 = 1 << 20;

/// A 16550 UART at a fixed address, a byte for each register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUart {
    /// Guest physical address of its registers.
    pub base: u32,
    /// Their length in bytes.
    pub len: u32,
    /// ISA interrupt number, edge triggered and active high.
    pub irq: u8,
}

/// A device at fixed ports with at most one interrupt.
#[derive(Clone, Debug)]
pub struct IsaDevice<'a> {
    /// Its name in the namespace: 4 upper-case letters or digits.
    pub name: &'a str,
    /// Its plug-and-play ID (3 upper-case letters, 4 hexadecimal digits) or its ACPI ID (8
    /// characters).
    pub hid: &'a str,
    /// Tells devices of one ID apart.
    pub uid: u32,
    /// First port and number of ports.
    pub ports: &'a [(u16, u8)],
    /// ISA interrupt number, edge triggered and active high.
    pub irq: Option<u8>,
}

/// A device at a fixed address with one interrupt, level triggered, active low, and shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryDevice {
    /// Its name in the namespace: 4 upper-case letters or digits.
    pub name: String,
    /// Its ACPI ID.
    pub hid: &'static str,
    /// Tells devices of one ID apart.
    pub uid: u32,
    /// Guest physical address of its registers.
    pub base: u32,
    /// Their length in bytes.
    pub len: u32,
    /// Its global system interrupt.
    pub gsi: u32,
}

/// A table and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its signature, as text.
    pub signature: &'static str,
    /// Its guest physical address.
    pub addr: u64,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// Makes the tables and writes them to guest memory. Returns them for whoever wants to look.
///
/// # Errors
/// They do not fit into [`AcpiConfig::tables`], an address does not fit its pointer, or guest
/// memory refuses.
pub fn write(mem: &GuestMem, config: &AcpiConfig<'_>) -> Result<Vec<Table>, Error> {
    let tables = build(config)?;
    for table in &tables {
        mem.write(table.addr, &table.bytes).map_err(placing("ACPI tables"))?;
    }
    Ok(tables)
}

/// Makes the tables without writing them anywhere.
///
/// # Errors
/// As [`write()`].
pub fn build(config: &AcpiConfig<'_>) -> Result<Vec<Table>, Error> {
    if !config.rsdp.is_multiple_of(16) {
        let why = "it must be divisible by 16 to be found";
        return Err(Error::BadAddress { what: "ACPI root pointer", addr: config.rsdp, why });
    }
    let mut place = Placer { next: config.tables.start, end: config.tables.end, tables: vec![] };
    let facs = place.put("FACS", 64, bytes_of(&acpi_tables::facs::FACS::new()))?;
    let dsdt = place.put("DSDT", 16, dsdt::build(config))?;
    let fadt = place.put("FACP", 16, fadt::build(config, facs, dsdt))?;
    let madt = place.put("APIC", 16, madt::build(config))?;
    let mut named = vec![fadt, madt];
    if let Some(PciBridge { config: PciConfig::Ecam(base), .. }) = config.pci {
        named.push(place.put("MCFG", 16, mcfg(base))?);
    }
    if let Some(uart) = &config.uart {
        named.push(place.put("SPCR", 16, spcr::build(uart))?);
    }
    let rsdt = place.put("RSDT", 16, roots::rsdt(&named))?;
    let xsdt = place.put("XSDT", 16, roots::xsdt(&named))?;
    let mut tables = place.tables;
    let bytes = roots::rsdp(rsdt, xsdt);
    tables.push(Table { signature: "RSD PTR ", addr: config.rsdp, bytes });
    Ok(tables)
}

/// Where configuration space is as memory (PCI Firmware 3.2, section 4.1.2): segment 0, bus 0.
fn mcfg(base: u32) -> Vec<u8> {
    let mut mcfg = acpi_tables::mcfg::MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(base.into(), 0, 0, 0);
    bytes_of(&mcfg)
}

/// Gives tables addresses, one after the other.
struct Placer {
    next: u64,
    end: u64,
    tables: Vec<Table>,
}

impl Placer {
    fn put(&mut self, signature: &'static str, align: u64, bytes: Vec<u8>) -> Result<u32, Error> {
        let what = "an ACPI table";
        let addr = self.next.next_multiple_of(align);
        self.next = addr + bytes.len() as u64;
        if self.next > self.end {
            let room = self.end.saturating_sub(addr);
            return Err(Error::NoRoom { what, need: bytes.len() as u64, room });
        }
        self.tables.push(Table { signature, addr, bytes });
        below_4g(what, addr)
    }
}

fn bytes_of(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// A description table: the common header, then `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    const HEADER_LEN: u32 = 36;
    let mut sdt = acpi_tables::sdt::Sdt::new(
        signature,
        HEADER_LEN,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    sdt.append_slice(body);
    sdt.as_slice().to_vec()
}
