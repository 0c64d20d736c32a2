//! The PC's ACPI tables: what they say of this board.

use trapline_boot::acpi::{
    self, AcpiConfig, IsaDevice, MemoryDevice, MemoryUart, PciBridge, PciConfig, PowerBlocks,
    RSDP_LEN, ResetRegister,
};
use trapline_boot::wiring::IoApic;
use trapline_platform::acpi_pm::regs::{PM_TMR_OFFSET, PM1_CNT_OFFSET, SLP_TYP_S5};
use trapline_platform::rtc::regs::CENTURY_INDEX;

use super::layout::{self, irq, port};
use crate::{ConsoleKind, PcConfigSpace};

/// What is not the same for every PC.
#[derive(Clone, Copy)]
pub(super) struct Described {
    /// Processors; their local APICs' numbers count from 0.
    pub(super) cpus: u32,
    /// The first port of the power management registers.
    pub(super) power: u16,
    /// Whether there is a display.
    pub(super) display: bool,
    /// Whether all legacy devices are there ([`crate::Config::pc_legacy`]).
    pub(super) legacy: bool,
    /// Which device the console is.
    pub(super) console: ConsoleKind,
    /// How configuration space is reached.
    pub(super) config_space: PcConfigSpace,
    /// How many virtio devices are behind windows of registers.
    pub(super) virtio_windows: u8,
}

/// Offsets of the blocks within the power management registers, as ports.
const PM1_CNT: u16 = u16_of(PM1_CNT_OFFSET);
const PM_TMR: u16 = u16_of(PM_TMR_OFFSET);

#[expect(clippy::cast_possible_truncation, reason = "evaluated by the compiler, and asserted")]
const fn u16_of(offset: u32) -> u16 {
    assert!(offset <= 0xffff);
    offset as u16
}

/// The I/O APIC, whose number is the first that no local APIC has.
pub(super) fn io_apic(cpus: u32) -> IoApic {
    IoApic { id: u8::try_from(cpus).unwrap_or(u8::MAX), addr: layout::IO_APIC, gsi_base: 0 }
}

/// Hands the description to `then`.
pub(super) fn described<T>(pc: Described, then: impl FnOnce(&AcpiConfig<'_>) -> T) -> T {
    let apic_ids: Vec<u32> = (0..pc.cpus).collect();
    let (overrides, routes) = (layout::overrides(), layout::pci_routes());
    let serial: Vec<_> = port::SERIAL
        .into_iter()
        .zip(irq::SERIAL)
        .zip(1..)
        .take(layout::serial_ports(pc.legacy, pc.console))
        .map(|((base, line), n)| (format!("COM{n}"), [(base, 8)], line))
        .collect();
    let keyboard = [(port::I8042, 1), (port::I8042 + 4, 1)];
    let mut devices: Vec<IsaDevice<'_>> = serial
        .iter()
        .zip(1..)
        .map(|((name, ports, line), uid)| device(name, "PNP0501", uid, ports, Some(*line)))
        .collect();
    // The clock is not listed: the FADT says whether there is one, and Linux then names its ports
    // itself (`rtc_cmos`), as it does on kvmtool's board. A guest on KVM has a clock without it.
    //
    // Who types does so on the display.
    let keys = pc.legacy || pc.display;
    if keys {
        devices.push(device("KBD0", "PNP0303", 0, &keyboard, Some(irq::KEYBOARD)));
    }
    // Linux' qemu_fw_cfg finds it by this ID.
    devices.push(device("FWCF", "QEMU0002", 0, &[(port::FW_CFG, 12)], None));
    if keys {
        devices.push(device("MOU0", "PNP0F13", 0, &[], Some(irq::MOUSE)));
    }
    let virtio: Vec<_> = (0..)
        .zip(layout::virtio_slots())
        .take(pc.virtio_windows.into())
        .map(|(uid, slot)| virtio(uid, slot))
        .collect();
    // The frame buffer must be in a window, or the guest moves it away from where it is shown.
    let windows = [layout::DISPLAY_FRAMES, layout::PCI_MEMORY];
    let windows = windows.get(usize::from(!pc.display)..).unwrap_or_default();
    then(&AcpiConfig {
        rsdp: layout::ACPI_TABLES,
        tables: layout::ACPI_TABLES + RSDP_LEN..layout::ACPI_TABLES + layout::ACPI_TABLES_MAX,
        apic_ids: &apic_ids,
        local_apic: layout::LOCAL_APIC,
        nmi_lint: 1,
        io_apic: io_apic(pc.cpus),
        overrides: &overrides,
        sci: irq::SCI,
        power: PowerBlocks {
            event: pc.power,
            control: pc.power + PM1_CNT,
            timer: Some(pc.power + PM_TMR),
            button: true,
            off: SLP_TYP_S5,
        },
        reset: Some(ResetRegister { port: port::RESET_CONTROL, value: 0x06 }),
        cmos_rtc: pc.legacy,
        century: pc.legacy.then_some(CENTURY_INDEX),
        vga: false,
        pci: Some(PciBridge {
            config: match pc.config_space {
                PcConfigSpace::Ports => PciConfig::Ports(port::PCI_CONF1),
                PcConfigSpace::Ecam => PciConfig::Ecam(layout::PCI_ECAM),
            },
            ports: &[layout::PCI_PORTS],
            memory: windows,
            routes: &routes,
        }),
        isa: &devices,
        memory: &virtio,
        uart: (pc.console == ConsoleKind::Mmio).then(uart),
    })
}

/// The serial port in memory, on the line of the first one.
fn uart() -> MemoryUart {
    let [irq, ..] = irq::SERIAL;
    MemoryUart { base: layout::SERIAL_MMIO, len: trapline_platform::serial::REGISTERS_LEN, irq }
}

/// A virtio device behind registers. Linux' virtio_mmio finds it by this ID, as on QEMU's boards.
fn virtio(uid: u32, slot: layout::VirtioSlot) -> MemoryDevice {
    let layout::VirtioSlot { base, irq } = slot;
    let name = format!("VR{uid:02X}");
    MemoryDevice { name, hid: "LNRO0005", uid, base, len: layout::VIRTIO_LEN, gsi: irq.into() }
}

fn device<'a>(
    name: &'a str,
    hid: &'a str,
    uid: u32,
    ports: &'a [(u16, u8)],
    irq: Option<u8>,
) -> IsaDevice<'a> {
    IsaDevice { name, hid, uid, ports, irq }
}

/// The tables as firmware gets them.
pub(super) fn for_firmware(pc: Described) -> Result<acpi::FirmwareTables, trapline_boot::Error> {
    described(pc, acpi::for_firmware)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a PC's devices at fixed ports, and of its clock.
    fn told(legacy: bool, display: bool) -> (Vec<String>, bool, Option<u8>) {
        let pc = Described {
            cpus: 1,
            power: port::ACPI_PM,
            display,
            legacy,
            console: ConsoleKind::Serial,
            config_space: PcConfigSpace::Ports,
            virtio_windows: 0,
        };
        described(pc, |acpi| {
            let names = acpi.isa.iter().map(|device| device.name.to_owned()).collect();
            (names, acpi.cmos_rtc, acpi.century)
        })
    }

    #[test]
    fn a_guest_is_told_of_legacy_devices_where_they_are_wanted() {
        let all = ["COM1", "COM2", "COM3", "COM4", "KBD0", "FWCF", "MOU0"].map(str::to_owned);
        assert_eq!(told(true, false), (all.to_vec(), true, Some(CENTURY_INDEX)));
        let few = ["COM1", "FWCF"].map(str::to_owned);
        assert_eq!(told(false, false), (few.to_vec(), false, None));
        let (typed_at, clock, _) = told(false, true);
        assert_eq!(
            (typed_at, clock),
            (["COM1", "KBD0", "FWCF", "MOU0"].map(str::to_owned).to_vec(), false)
        );
    }
}
