//! The MP table (Intel MultiProcessor Specification 1.4): the processors and interrupts of a PC, for
//! software that does not use ACPI.
//!
//! Spec: Intel MultiProcessor Specification, version 1.4, chapter 4.

use std::ops::Range;

use trapline_guestmem::GuestMem;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use crate::error::{Error, below_4g, placing};
use crate::wiring::{IoApic, IrqOverride, PciRoute, Trigger};

/// Bytes of guest memory the floating pointer takes, at an address divisible by 16.
pub const POINTER_LEN: u64 = 16;

const SPEC_REV: u8 = 4;
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// The most processors the one-byte APIC IDs leave room for, beside the I/O APIC.
const CPUS_MAX: usize = 254;
/// ISA interrupts there are; number 2 is how the second 8259 reaches the first, no device's.
const ISA_IRQS: u8 = 16;
const CASCADE: u8 = 2;
/// Local interrupts of every processor.
const EVERY_APIC: u8 = 0xff;

/// A machine, as the MP specification sees one.
#[derive(Clone, Debug)]
pub struct MpConfig<'a> {
    /// Where the floating pointer goes: in the last KiB below the EBDA's end or of low memory, or
    /// in the BIOS area (section 4).
    pub pointer: u64,
    /// Where the table goes, below 4 GiB.
    pub table: Range<u64>,
    /// The local APIC ID of each processor; the first is the one that starts.
    pub apic_ids: &'a [u8],
    /// Guest physical address of every processor's own APIC.
    pub local_apic: u32,
    /// What a local APIC's version register says.
    pub local_apic_version: u8,
    /// CPUID leaf 1's EAX: family, model, stepping.
    pub cpu_signature: u32,
    /// CPUID leaf 1's EDX.
    pub cpu_features: u32,
    /// The I/O APIC.
    pub io_apic: IoApic,
    /// What its version register says.
    pub io_apic_version: u8,
    /// ISA interrupts that do not follow the rule.
    pub overrides: &'a [IrqOverride],
    /// Interrupts of PCI devices.
    pub routes: &'a [PciRoute],
}

/// Section 4.1, "MP Floating Pointer Structure".
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Pointer {
    signature: [u8; 4],
    table: U32,
    paragraphs: u8,
    spec_rev: u8,
    checksum: u8,
    features: [u8; 5],
}

/// Section 4.2, "MP Configuration Table Header".
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    len: U16,
    spec_rev: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: U32,
    oem_table_len: U16,
    entries: U16,
    local_apic: U32,
    extended_len: U16,
    extended_checksum: u8,
    reserved: u8,
}

/// Section 4.3.1, entry type 0.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic_id: u8,
    apic_version: u8,
    flags: u8,
    signature: U32,
    features: U32,
    reserved: [u8; 8],
}

const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOTSTRAP: u8 = 1 << 1;

/// Section 4.3.2, entry type 1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

/// Section 4.3.3, entry type 2.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApicEntry {
    kind: u8,
    id: u8,
    version: u8,
    flags: u8,
    addr: U32,
}

const IO_APIC_ENABLED: u8 = 1 << 0;

/// Sections 4.3.4 and 4.3.5, entry types 3 (I/O interrupt) and 4 (local interrupt).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Assignment {
    kind: u8,
    interrupt: u8,
    flags: U16,
    bus: u8,
    source: u8,
    apic_id: u8,
    pin: u8,
}

const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

// Section 4.3.4, "Interrupt Type".
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Makes the pointer and the table and writes them to guest memory.
///
/// # Errors
/// More processors or interrupts than one-byte numbers can name, no room, an address that does
/// not fit its pointer, or guest memory refuses.
pub fn write(mem: &GuestMem, config: &MpConfig<'_>) -> Result<(), Error> {
    let (what, addr) = ("MP table", config.table.start);
    if !config.pointer.is_multiple_of(16) {
        let why = "it must be divisible by 16 to be found";
        return Err(Error::BadAddress { what: "MP floating pointer", addr: config.pointer, why });
    }
    let table = table(config)?;
    let room = config.table.end.saturating_sub(addr);
    if table.len() as u64 > room {
        return Err(Error::NoRoom { what, need: table.len() as u64, room });
    }
    mem.write(addr, &table).map_err(placing(what))?;
    let mut pointer = Pointer {
        signature: *b"_MP_",
        table: below_4g(what, addr)?.into(),
        paragraphs: 1,
        spec_rev: SPEC_REV,
        checksum: 0,
        // Byte 1 = 0: there is a table. Byte 2, bit 7 = 0: virtual wire mode, no IMCR.
        features: [0; 5],
    };
    pointer.checksum = balance(pointer.as_bytes());
    mem.write(config.pointer, pointer.as_bytes()).map_err(placing(what))
}

fn table(config: &MpConfig<'_>) -> Result<Vec<u8>, Error> {
    let entries = entries(config)?;
    let body: Vec<u8> = entries.concat();
    let no_room = || {
        let need = body.len() as u64;
        Error::NoRoom { what: "MP table", need, room: u64::from(u16::MAX) }
    };
    let len = u16::try_from(size_of::<Header>() + body.len()).map_err(|_| no_room())?;
    let mut header = Header {
        signature: *b"PCMP",
        len: len.into(),
        spec_rev: SPEC_REV,
        checksum: 0,
        oem: *b"TRAPLINE",
        product: *b"KVM PC      ",
        oem_table: 0.into(),
        oem_table_len: 0.into(),
        entries: u16::try_from(entries.len()).map_err(|_| no_room())?.into(),
        local_apic: config.local_apic.into(),
        extended_len: 0.into(),
        extended_checksum: 0,
        reserved: 0,
    };
    header.checksum = balance(header.as_bytes()).wrapping_add(balance(&body));
    Ok([header.as_bytes(), &body].concat())
}

/// All entries, in ascending order of type as section 4.3 demands.
fn entries(config: &MpConfig<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let count = config.apic_ids.len();
    if count > CPUS_MAX {
        return Err(Error::TooManyCpus { what: "the MP table", count, max: CPUS_MAX });
    }
    let mut entries = Vec::new();
    for (number, apic_id) in config.apic_ids.iter().enumerate() {
        let bootstrap = if number == 0 { CPU_BOOTSTRAP } else { 0 };
        let processor = Processor {
            kind: 0,
            apic_id: *apic_id,
            apic_version: config.local_apic_version,
            flags: CPU_ENABLED | bootstrap,
            signature: config.cpu_signature.into(),
            features: config.cpu_features.into(),
            reserved: [0; 8],
        };
        entries.push(processor.as_bytes().to_vec());
    }
    for (id, name) in [(PCI_BUS, *b"PCI   "), (ISA_BUS, *b"ISA   ")] {
        entries.push(Bus { kind: 1, id, name }.as_bytes().to_vec());
    }
    let io_apic = IoApicEntry {
        kind: 2,
        id: config.io_apic.id,
        version: config.io_apic_version,
        flags: IO_APIC_ENABLED,
        addr: config.io_apic.addr.into(),
    };
    entries.push(io_apic.as_bytes().to_vec());
    for line in io_interrupts(config)?.into_iter().chain(local_interrupts(config)) {
        entries.push(line.as_bytes().to_vec());
    }
    Ok(entries)
}

fn io_interrupts(config: &MpConfig<'_>) -> Result<Vec<Assignment>, Error> {
    let mut lines = Vec::new();
    for route in config.routes {
        // Appendix D.3: bits 1:0 the pin, 6:2 the device.
        let source = route.device << 2 | route.pin & 3;
        lines.push(io_interrupt(config, PCI_BUS, source, route.gsi, Trigger::Bus)?);
    }
    for irq in (0..ISA_IRQS).filter(|irq| *irq != CASCADE) {
        let special = config.overrides.iter().find(|line| line.irq == irq);
        let gsi = special.map_or(u32::from(irq), |line| line.gsi);
        // A line that PCI devices share is none of the ISA bus's, with its edges.
        if config.routes.iter().any(|route| route.gsi == gsi) {
            continue;
        }
        let trigger = special.map_or(Trigger::Bus, |line| line.trigger);
        lines.push(io_interrupt(config, ISA_BUS, irq, gsi, trigger)?);
    }
    Ok(lines)
}

fn io_interrupt(
    config: &MpConfig<'_>,
    bus: u8,
    source: u8,
    gsi: u32,
    trigger: Trigger,
) -> Result<Assignment, Error> {
    let pin = gsi.checked_sub(config.io_apic.gsi_base).and_then(|pin| u8::try_from(pin).ok());
    let pin = pin.ok_or(Error::BadAddress {
        what: "an interrupt's number",
        addr: u64::from(gsi),
        why: "it must be a pin of the I/O APIC",
    })?;
    Ok(Assignment {
        kind: IO_INTERRUPT,
        interrupt: INT,
        flags: trigger.flags().into(),
        bus,
        source,
        apic_id: config.io_apic.id,
        pin,
    })
}

/// The 8259 arrives at LINT0 of the first processor, NMI at LINT1 of all.
fn local_interrupts(config: &MpConfig<'_>) -> [Assignment; 2] {
    let first = config.apic_ids.first().copied().unwrap_or(0);
    let local = |interrupt, apic_id, pin| Assignment {
        kind: LOCAL_INTERRUPT,
        interrupt,
        flags: 0.into(),
        bus: ISA_BUS,
        source: 0,
        apic_id,
        pin,
    };
    [local(EXT_INT, first, 0), local(NMI, EVERY_APIC, 1)]
}

/// The byte that makes the sum of all 0.
fn balance(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
#[path = "mptable_tests.rs"]
mod tests;
