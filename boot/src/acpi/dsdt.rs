//! The DSDT, with the ACPI namespace in AML: processors, the PCI host bridge, ISA devices, how to
//! switch off.
//!
//! Spec: ACPI 6.5, chapters 6, 7 and 8; section 20.2 for the encoding, which `acpi_tables` does.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, PackageBuilder, ResourceTemplate, Scope,
};
use acpi_tables::{Aml, AmlSink};

use super::{
    AcpiConfig, ECAM_BUS_LEN, IsaDevice, MemoryDevice, MemoryUart, PciBridge, PciConfig, bytes_of,
    table,
};
use crate::wiring::PciRoute;

const REVISION: u8 = 2;
/// Letters of a plug-and-play ID.
const EISA_LEN: usize = 7;

/// Terms that are encoded already.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

pub(super) fn build(config: &AcpiConfig<'_>) -> Vec<u8> {
    let mut bus = Vec::new();
    for number in 0u32..config.apic_ids.len().try_into().unwrap_or(u32::MAX) {
        bus.extend(processor(number));
    }
    if let Some(pci) = &config.pci {
        bus.extend(bridge(pci));
        if let PciConfig::Ecam(base) = pci.config {
            bus.extend(reserved(base, ECAM_BUS_LEN));
        }
    }
    for device in config.isa {
        bus.extend(isa(device));
    }
    for device in config.memory {
        bus.extend(memory(device));
    }
    bus.extend(config.uart.iter().flat_map(uart));
    let mut body = switch_off(config.power.off);
    body.extend(bytes_of(&Scope::new("_SB_".into(), vec![&Encoded(bus)])));
    table(*b"DSDT", REVISION, &body)
}

/// `_S5`: the `SLP_TYP` of "soft off" (section 7.4.2.6).
fn switch_off(sleep_type: u8) -> Vec<u8> {
    let values = Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8]);
    bytes_of(&Name::new("_S5_".into(), &values))
}

/// A processor device (section 8.4); `_UID` is the number in the MADT.
fn processor(number: u32) -> Vec<u8> {
    let name = format!("C{number:03X}");
    let hid = Name::new("_HID".into(), &"ACPI0007");
    let uid = Name::new("_UID".into(), &number);
    bytes_of(&Device::new(name.as_str().into(), vec![&hid, &uid]))
}

fn bridge(pci: &PciBridge<'_>) -> Vec<u8> {
    let mut windows = bytes_of(&AddressSpace::new_bus_number(0u16, 0u16));
    if let PciConfig::Ports(first) = pci.config {
        windows.extend(bytes_of(&IO::new(first, first, 1, 8)));
    }
    for ports in pci.ports {
        let window = AddressSpace::new_io(*ports.start(), *ports.end(), None);
        windows.extend(bytes_of(&window));
    }
    for memory in pci.memory {
        let (first, last) = (*memory.start(), *memory.end());
        let cacheable = AddressSpaceCacheable::NotCacheable;
        let window = AddressSpace::new_memory(cacheable, true, first, last, None);
        windows.extend(bytes_of(&window));
    }
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &0u8);
    let segment = Name::new("_SEG".into(), &0u8);
    let number = Name::new("_BBN".into(), &0u8);
    let windows = Encoded(windows);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&windows]));
    let routing = Name::new("_PRT".into(), &routing(pci.routes));
    bytes_of(&Device::new("PCI0".into(), vec![&hid, &uid, &segment, &number, &resources, &routing]))
}

/// Addresses that are the board's own: PCI Firmware 3.2, section 4.1.2, wants those of configuration
/// space with a motherboard device, and Linux uses none that are not.
fn reserved(base: u32, len: u32) -> Vec<u8> {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
    let uid = Name::new("_UID".into(), &0u8);
    let memory = Memory32Fixed::new(true, base, len);
    let settings = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&memory]));
    bytes_of(&Device::new("MBRD".into(), vec![&hid, &uid, &settings]))
}

/// A 16550 in memory is found by the ID of one at ports.
fn uart(uart: &MemoryUart) -> Vec<u8> {
    let registers = Memory32Fixed::new(true, uart.base, uart.len);
    let interrupt = Encoded(isa_interrupt(uart.irq).to_vec());
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let uid = Name::new("_UID".into(), &0u8);
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let settings = Name::new("_CRS".into(), &resources);
    bytes_of(&Device::new("UAR0".into(), vec![&hid, &uid, &settings]))
}

/// `_PRT` (section 6.2.13): global interrupts, not link devices.
fn routing(routes: &[PciRoute]) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for route in routes {
        let every_function = u32::from(route.device) << 16 | 0xffff;
        let line: [&dyn Aml; 4] = [&every_function, &route.pin, &0u8, &route.gsi];
        table.add_element(&Package::new(line.to_vec()));
    }
    table
}

fn isa(device: &IsaDevice<'_>) -> Vec<u8> {
    let mut resources = Vec::new();
    for &(first, count) in device.ports {
        resources.extend(bytes_of(&IO::new(first, first, 1, count)));
    }
    if let Some(irq) = device.irq {
        resources.extend(isa_interrupt(irq));
    }
    let resources = Encoded(resources);
    let hid = hid(device.hid);
    let uid = Name::new("_UID".into(), &device.uid);
    let settings = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&resources]));
    bytes_of(&Device::new(device.name.into(), vec![&hid, &uid, &settings]))
}

fn memory(device: &MemoryDevice) -> Vec<u8> {
    let (consumer, edge_triggered, active_low, shared) = (true, false, true, true);
    let registers = Memory32Fixed::new(true, device.base, device.len);
    let interrupt = Interrupt::new(consumer, edge_triggered, active_low, shared, device.gsi);
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let hid = hid(device.hid);
    let uid = Name::new("_UID".into(), &device.uid);
    let settings = Name::new("_CRS".into(), &resources);
    bytes_of(&Device::new(device.name.as_str().into(), vec![&hid, &uid, &settings]))
}

/// "_HID (Hardware ID)", section 6.1.5: a plug-and-play ID is a number, an ACPI ID a string.
fn hid(id: &str) -> Name {
    if id.len() == EISA_LEN {
        Name::new("_HID".into(), &EISAName::new(id))
    } else {
        Name::new("_HID".into(), &id.to_owned())
    }
}

/// The two-byte interrupt descriptor (section 6.4.2.1): a number of the ISA bus, before any
/// override, edge triggered and active high. `acpi_tables` has the descriptor for global
/// interrupts only.
fn isa_interrupt(irq: u8) -> [u8; 3] {
    let [low, high] = 1u16.checked_shl(u32::from(irq)).unwrap_or(0).to_le_bytes();
    [0x22, low, high]
}
