//! The SPCR (Serial Port Console Redirection table): the UART that a kernel may take for its console
//! before it has drivers (Linux' `earlycon` without more).
//!
//! Spec: Microsoft, "Serial Port Console Redirection Table (SPCR)", revision 2, which ACPI 6.5 names
//! in section 5.2.6.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{MemoryUart, table};

const REVISION: u8 = 2;
/// "Interface Type": a 16550.
const FULL_16550: u8 = 0;
/// "Interrupt Type": by the 8259s' input, and by the I/O APIC's.
const PIC_AND_IO_APIC: u8 = 1 << 0 | 1 << 1;
/// "Baud Rate": 115,200.
const BAUD_115200: u8 = 7;
const ONE_STOP_BIT: u8 = 1;
/// "Terminal Type": ANSI.
const ANSI: u8 = 3;
/// Of a UART that is no PCI function.
const NO_PCI_ID: u16 = 0xffff;
/// Generic Address Structure (ACPI 6.5, section 5.2.3.2): in memory, by bytes.
const SYSTEM_MEMORY: u8 = 0;
const BYTE_ACCESS: u8 = 1;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Body {
    interface: u8,
    reserved: [u8; 3],
    address_space: u8,
    bits: u8,
    bit_offset: u8,
    access: u8,
    address: U64,
    interrupt: u8,
    irq: u8,
    gsi: U32,
    baud: u8,
    parity: u8,
    stop: u8,
    flow: u8,
    terminal: u8,
    language: u8,
    pci_device: U16,
    pci_vendor: U16,
    pci_place: [u8; 3],
    pci_flags: U32,
    pci_segment: u8,
    clock: U32,
}

pub(super) fn build(uart: &MemoryUart) -> Vec<u8> {
    let body = Body {
        interface: FULL_16550,
        reserved: [0; 3],
        address_space: SYSTEM_MEMORY,
        bits: 8,
        bit_offset: 0,
        access: BYTE_ACCESS,
        address: u64::from(uart.base).into(),
        interrupt: PIC_AND_IO_APIC,
        irq: uart.irq,
        gsi: u32::from(uart.irq).into(),
        baud: BAUD_115200,
        parity: 0,
        stop: ONE_STOP_BIT,
        flow: 0,
        terminal: ANSI,
        language: 0,
        pci_device: NO_PCI_ID.into(),
        pci_vendor: NO_PCI_ID.into(),
        pci_place: [0; 3],
        pci_flags: 0.into(),
        pci_segment: 0,
        clock: 0.into(),
    };
    table(*b"SPCR", REVISION, body.as_bytes())
}
