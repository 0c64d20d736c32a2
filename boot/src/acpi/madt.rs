//! The MADT (Multiple APIC Description Table): interrupt controllers and processors.
//!
//! Spec: ACPI 6.5, section 5.2.12, "Multiple APIC Description Table".

use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{AcpiConfig, table};

const REVISION: u8 = 5;
/// There are 8259s too, to be masked by a guest that uses the APICs (section 5.2.12).
const PCAT_COMPAT: u32 = 1 << 0;
/// A processor that can be used (section 5.2.12.2).
const ENABLED: u32 = 1 << 0;
/// The largest APIC ID, and the largest processor number, the one-byte structures hold; 255
/// means "all".
const BYTE_MAX: u32 = 254;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    local_apic: U32,
    flags: U32,
}

/// Type 0, section 5.2.12.2.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalApic {
    kind: u8,
    len: u8,
    processor: u8,
    apic_id: u8,
    flags: U32,
}

/// Type 1, section 5.2.12.3.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApicEntry {
    kind: u8,
    len: u8,
    id: u8,
    reserved: u8,
    addr: U32,
    gsi_base: U32,
}

/// Type 2, section 5.2.12.5.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct SourceOverride {
    kind: u8,
    len: u8,
    bus: u8,
    source: u8,
    gsi: U32,
    flags: U16,
}

/// Type 4, section 5.2.12.7.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct LocalNmi {
    kind: u8,
    len: u8,
    processor: u8,
    flags: U16,
    lint: u8,
}

/// Type 9, section 5.2.12.12.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalX2Apic {
    kind: u8,
    len: u8,
    reserved: U16,
    apic_id: U32,
    flags: U32,
    processor: U32,
}

/// Type 10, section 5.2.12.13.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalX2ApicNmi {
    kind: u8,
    len: u8,
    flags: U16,
    processor: U32,
    lint: u8,
    reserved: [u8; 3],
}

pub(super) fn build(config: &AcpiConfig<'_>) -> Vec<u8> {
    let head = Head { local_apic: config.local_apic.into(), flags: PCAT_COMPAT.into() };
    let mut body = head.as_bytes().to_vec();
    for (number, apic_id) in (0u32..).zip(config.apic_ids) {
        body.extend(processor(number, *apic_id));
    }
    let io_apic = IoApicEntry {
        kind: 1,
        len: 12,
        id: config.io_apic.id,
        reserved: 0,
        addr: config.io_apic.addr.into(),
        gsi_base: config.io_apic.gsi_base.into(),
    };
    body.extend(io_apic.as_bytes());
    for line in config.overrides {
        let entry = SourceOverride {
            kind: 2,
            len: 10,
            bus: 0,
            source: line.irq,
            gsi: line.gsi.into(),
            flags: line.trigger.flags().into(),
        };
        body.extend(entry.as_bytes());
    }
    body.extend(nmis(config));
    table(*b"APIC", REVISION, &body)
}

fn processor(number: u32, apic_id: u32) -> Vec<u8> {
    let flags = ENABLED.into();
    if let (Some(processor), Some(apic_id)) = (byte(number), byte(apic_id)) {
        LocalApic { kind: 0, len: 8, processor, apic_id, flags }.as_bytes().to_vec()
    } else {
        LocalX2Apic {
            kind: 9,
            len: 16,
            reserved: 0.into(),
            apic_id: apic_id.into(),
            flags,
            processor: number.into(),
        }
        .as_bytes()
        .to_vec()
    }
}

/// NMIs of all processors, in whichever of the two forms are in use.
fn nmis(config: &AcpiConfig<'_>) -> Vec<u8> {
    let lint = config.nmi_lint;
    let nmi = LocalNmi { kind: 4, len: 6, processor: u8::MAX, flags: 0.into(), lint };
    let mut bytes = nmi.as_bytes().to_vec();
    if config.apic_ids.iter().any(|id| byte(*id).is_none()) {
        let nmi = LocalX2ApicNmi {
            kind: 10,
            len: 12,
            flags: 0.into(),
            processor: u32::MAX.into(),
            lint,
            reserved: [0; 3],
        };
        bytes.extend(nmi.as_bytes());
    }
    bytes
}

fn byte(number: u32) -> Option<u8> {
    u8::try_from(number).ok().filter(|_| number <= BYTE_MAX)
}
