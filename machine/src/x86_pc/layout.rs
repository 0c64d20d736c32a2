//! Where everything of the PC board is. The only place with guest addresses and interrupt
//! numbers; the memory and port map is kvmtool's, so that guests and scripts made for it fit.

use std::ops::RangeInclusive;

use trapline_boot::wiring::{IrqOverride, PciRoute, Trigger};
use trapline_device::PcInput;
use trapline_pci::{BridgeWindow, WindowKind};

use crate::ConsoleKind;

/// Conventional memory ends here: the extended BIOS data area and the option ROMs follow.
pub(crate) const EBDA: u64 = 0x9_fc00;
/// What a display adapter would have; nothing here.
pub(crate) const VGA_HOLE: u64 = 0xa_0000;
/// The BIOS area: ACPI and MP tables, or the firmware itself.
pub(crate) const BIOS_AREA: u64 = 0xe_0000;
/// RAM goes on here.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; devices live above.
pub(crate) const HOLE_START: u64 = 0xd000_0000;
/// RAM goes on here once more.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// What the boot protocols put into low memory, below the kernel.
pub(crate) mod boot {
    /// Global descriptor table.
    pub(crate) const GDT: u64 = 0x500;
    /// PVH start information, then its module list and memory map.
    pub(crate) const PVH_START_INFO: u64 = 0x6000;
    /// Linux `struct boot_params`.
    pub(crate) const ZERO_PAGE: u64 = 0x7000;
    /// Top of a small stack for kernels that expect one.
    pub(crate) const STACK_TOP: u64 = 0x8ff0;
    /// Page tables of an identity map of the first 4 GiB: six pages.
    pub(crate) const PAGE_TABLES: u64 = 0x9000;
    /// The command line (kvmtool's address).
    pub(crate) const CMDLINE: u64 = 0x2_0000;
    /// The most a command line can be, with its terminator.
    pub(crate) const CMDLINE_MAX: usize = 0x1_0000;
}

/// ACPI tables start here, with the RSDP; found by scanning the BIOS area.
pub(crate) const ACPI_TABLES: u64 = BIOS_AREA;
/// The most they can take.
pub(crate) const ACPI_TABLES_MAX: u64 = 0xf_0000 - ACPI_TABLES;
/// The Intel MP floating pointer and table.
pub(crate) const MPTABLE: u64 = 0xf_0000;
/// The most they can take.
pub(crate) const MPTABLE_MAX: u64 = BIOS_CODE - MPTABLE;
/// What little there is of a BIOS.
pub(crate) const BIOS_CODE: u64 = HIGH_MEMORY - 0x1000;

/// Configuration space by address, as kvmtool registers it: bus, device and function at bit 8.
pub(crate) const PCI_CAM: u64 = PCI_ECAM as u64;
/// Its length: 256 buses.
pub(crate) const PCI_CAM_LEN: u64 = 0x100_0000;
/// Configuration space with 4 KiB a function, on a board that has it so: in the same place, bus 0.
pub(crate) const PCI_ECAM: u32 = 0xd100_0000;
/// The display's frame buffer until the guest moves it (kvmtool's `VESA_MEM_ADDR`), and the window
/// for it.
pub(crate) const DISPLAY_FRAME: u32 = 0xd000_0000;
pub(crate) const DISPLAY_FRAMES: RangeInclusive<u32> = DISPLAY_FRAME..=0xd0ff_ffff;
/// The display's ports: the last ones, as others are handed out from the first.
pub(crate) const DISPLAY_PORTS: u16 = 0xff00;
/// The display's place on bus 0: the last one, for the same reason.
pub(crate) const DISPLAY_DEVICE: u8 = 31;
/// The PIIX' places on bus 0, device and function in a byte, where old boards and QEMU have them:
/// 00:01.0 the ISA bridge, 00:01.3 the power management.
pub(crate) const PIIX_ISA_BRIDGE: u8 = 1 << 3;
pub(crate) const PIIX_POWER: u8 = 1 << 3 | 3;
/// The page of the serial port in memory, behind the windows of virtio registers.
pub(crate) const SERIAL_MMIO: u32 = 0xfeb1_0000;
/// Windows of virtio registers (QEMU's address on its microvm board), and how long one is.
pub(crate) const VIRTIO: u32 = 0xfeb0_0000;
pub(crate) const VIRTIO_LEN: u32 = 0x200;
/// How many there are.
const VIRTIO_SLOTS: u8 = 32;
/// Memory BARs.
pub(crate) const PCI_MEMORY: RangeInclusive<u32> = 0xd200_0000..=VIRTIO - 1;
/// I/O BARs (from kvmtool's `PCI_IOPORT_START`).
pub(crate) const PCI_PORTS: RangeInclusive<u16> = 0x6200..=0xffff;

/// A place for a virtio device that is not on the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtioSlot {
    /// The first of [`VIRTIO_LEN`] bytes of registers.
    pub(crate) base: u32,
    /// The interrupt line, which is level triggered, and not this device's alone.
    pub(crate) irq: u8,
}

/// The places for virtio devices, in order. Their lines are PCI's in turn, which there are also for a
/// guest that uses the 8259s.
pub(crate) fn virtio_slots() -> impl Iterator<Item = VirtioSlot> {
    let bases = (0..).map(|n| VIRTIO + n * VIRTIO_LEN);
    let slots = bases.zip(irq::PCI.into_iter().cycle());
    slots.map(|(base, irq)| VirtioSlot { base, irq }).take(VIRTIO_SLOTS.into())
}

/// The last address that PCI functions can have above RAM, and one: as far as the smallest
/// processors with 64 bits reach.
const PCI_HIGH_END: u64 = 1 << 40;

/// What the PCI host bridge passes on: every port, and what is not RAM below the I/O APIC and above
/// 4 GiB, as an 82441FX does. What of it is the board's own comes first. Guests are told less: the
/// windows from which they are to hand out addresses.
pub(crate) fn pci_windows(ram: &[(u64, u64)]) -> [BridgeWindow; 3] {
    let end_of = |limit: u64| {
        let ends = ram.iter().map(|(base, len)| base + len).filter(|end| *end <= limit);
        ends.max().unwrap_or(0)
    };
    let (low, high) = (end_of(HOLE_START), end_of(u64::MAX).max(HOLE_END));
    [
        BridgeWindow::identity(WindowKind::Io, 0..0x1_0000),
        BridgeWindow::identity(WindowKind::Memory, low..IO_APIC as u64),
        BridgeWindow::identity(WindowKind::Prefetchable, high..PCI_HIGH_END),
    ]
}

/// The I/O APIC.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page for the identity map that old Intel processors need in real mode.
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for the task state segment they need (kvmtool's address).
pub(crate) const TSS: u64 = 0xfffb_d000;
/// Where both end.
pub(crate) const TSS_END: u64 = TSS + 0x3000;
/// The same pages when there is firmware, whose ROM may begin below kvmtool's addresses. These are
/// QEMU's.
pub(crate) const FIRMWARE_IDENTITY_MAP: u64 = 0xfeff_c000;
pub(crate) const FIRMWARE_TSS: u64 = 0xfeff_d000;
pub(crate) const FIRMWARE_TSS_END: u64 = FIRMWARE_TSS + 0x3000;
/// The test device's scratch memory: the first 64 KiB above all that.
pub(crate) const TEST_SCRATCH: u64 = 0xff00_0000;
/// The lowest address a firmware ROM may begin at.
pub(crate) const FIRMWARE_ROM: u64 = TEST_SCRATCH + 0x1_0000;

/// Ports.
pub(crate) mod port {
    pub(crate) const DMA1: u16 = 0x00;
    pub(crate) const PIC1: u16 = 0x20;
    pub(crate) const PIT: u16 = 0x40;
    pub(crate) const I8042: u16 = 0x60;
    pub(crate) const RTC: u16 = 0x70;
    pub(crate) const POST: u16 = 0x80;
    pub(crate) const DMA_PAGES: u16 = 0x81;
    pub(crate) const SYSTEM_CONTROL_A: u16 = 0x92;
    pub(crate) const PIC2: u16 = 0xa0;
    pub(crate) const DMA2: u16 = 0xc0;
    pub(crate) const KVMTOOL_DEBUG: u16 = 0xe0;
    /// The test device's registers, over [`KVMTOOL_DEBUG`].
    pub(crate) const TEST: u16 = 0xe0;
    pub(crate) const DELAY: u16 = 0xed;
    pub(crate) const FPU: u16 = 0xf0;
    pub(crate) const EXIT: u16 = 0xf4;
    /// Command and control block of the two ATA channels.
    pub(crate) const ATA: [(u16, u16); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];
    pub(crate) const LPT: [u16; 2] = [0x378, 0x278];
    pub(crate) const CRT: u16 = 0x3d4;
    pub(crate) const SERIAL: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
    pub(crate) const FIRMWARE_DEBUG: u16 = 0x402;
    /// Edge/level control registers of both 8259s.
    pub(crate) const ELCR: u16 = 0x4d0;
    /// Selector, data and DMA address of the firmware configuration.
    pub(crate) const FW_CFG: u16 = 0x510;
    /// ACPI's fixed registers: event block, control block, timer.
    pub(crate) const ACPI_PM: u16 = 0x600;
    /// The same for firmware, which has it in the power management function of the PIIX: where
    /// SeaBIOS puts it.
    pub(crate) const FIRMWARE_ACPI_PM: u16 = 0xb000;
    /// ACPI's registers about hot-plug on the PCI bus (QEMU's piix4).
    pub(crate) const PCI_HOTPLUG: u16 = 0xae00;
    pub(crate) const PCI_CONF1: u16 = 0xcf8;
    /// In the middle of configuration mechanism #1, but for byte accesses only.
    pub(crate) const RESET_CONTROL: u16 = 0xcf9;
    /// A port for each interrupt line, the test device's.
    pub(crate) const TEST_LINES: u16 = 0x2000;
    /// Where Bochs is switched off.
    pub(crate) const BOCHS_POWER: u16 = 0x8900;
}

/// Interrupts of the ISA bus, which are also the numbers of the lines ([`wiring`]).
pub(crate) mod irq {
    pub(crate) const TIMER: u8 = 0;
    pub(crate) const KEYBOARD: u8 = 1;
    pub(crate) const SERIAL: [u8; 4] = [4, 3, 4, 3];
    pub(crate) const RTC: u8 = 8;
    /// ACPI's system control interrupt.
    pub(crate) const SCI: u8 = 9;
    pub(crate) const MOUSE: u8 = 12;
    /// The four lines that the interrupt pins of PCI devices share.
    pub(crate) const PCI: [u8; 4] = [10, 11, 5, 14];

    /// The line of a pin (0 for INTA# to 3 for INTD#) of a device on PCI's bus 0. Pins of one
    /// device are on different lines, and so are the INTA# of neighbours, as on boards with a PIIX.
    pub(crate) const fn pci(device: u8, pin: u8) -> u8 {
        let [a, b, c, d] = PCI;
        // PIRQA# is INTA# of device 1.
        match (device + pin) % 4 {
            1 => a,
            2 => b,
            3 => c,
            _ => d,
        }
    }

    /// Lines that are level triggered: what firmware sets in the 8259s' edge/level registers, bit
    /// per line.
    pub(crate) const LEVEL: u16 = {
        let [a, b, c, d] = PCI;
        1 << SCI | 1 << a | 1 << b | 1 << c | 1 << d
    };
}

/// How many serial ports there are at ports: only the console without legacy devices, and none if that
/// is in memory.
pub(crate) fn serial_ports(legacy: bool, console: ConsoleKind) -> usize {
    match console {
        ConsoleKind::Mmio => 0,
        _ if legacy => port::SERIAL.len(),
        _ => 1,
    }
}

/// How many interrupt lines there are.
pub(crate) const LINES: u8 = 24;
/// The I/O APIC's pin that the 8259s' INTR is wired to, for a guest that wants it there.
pub(crate) const INTR_PIN: u8 = 0;
/// The I/O APIC's pin of the timer.
pub(crate) const TIMER_PIN: u8 = 2;
/// The line and the input of the first 8259 by which the second one reaches it: no device's.
const CASCADE: u8 = 2;
/// Lines of the ISA bus.
const ISA_LINES: u8 = 16;

/// The devices that hold a line, for people; nothing, where it is nobody's.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "of a PC on KVM"))]
pub(crate) fn devices_of(line: u32) -> &'static str {
    let [first, second, ..] = irq::SERIAL;
    match u8::try_from(line) {
        Ok(irq::TIMER) => "pit",
        Ok(irq::KEYBOARD) => "i8042",
        Ok(line) if line == first => "serial0, serial2",
        Ok(line) if line == second => "serial1, serial3",
        Ok(irq::RTC) => "rtc",
        Ok(irq::SCI) => "acpi",
        Ok(irq::MOUSE) => "i8042, the mouse",
        Ok(line) if irq::PCI.contains(&line) => "PCI",
        _ => "",
    }
}

/// What the interrupt lines are wired to, whichever the interrupt controllers are: the ISA lines
/// to the 8259s and to the I/O APIC, for the guest uses one or the other, the others to the I/O
/// APIC alone. Guests learn of it by [`overrides`].
pub(crate) fn wiring() -> Vec<(u32, PcInput)> {
    let isa = (0..ISA_LINES).map(|line| (line, PcInput::Pic(line)));
    let pin = |line| if line == irq::TIMER { TIMER_PIN } else { line };
    let all = (0..LINES).map(|line| (line, PcInput::IoApic(pin(line))));
    let lines = isa.chain(all).filter(|(line, _)| *line != CASCADE);
    lines.map(|(line, input)| (line.into(), input)).collect()
}

/// The lines of the ISA bus that are not the I/O APIC's pin of that number, or not edge triggered.
pub(crate) fn overrides() -> Vec<IrqOverride> {
    let level = |irq: u8| IrqOverride { irq, gsi: irq.into(), trigger: Trigger::LevelLow };
    let timer = IrqOverride::timer(irq::TIMER, TIMER_PIN.into());
    let sci = IrqOverride::sci(irq::SCI, irq::SCI.into());
    [timer, sci].into_iter().chain(irq::PCI.map(level)).collect()
}

/// Where the pins of all devices on PCI's bus 0 go.
pub(crate) fn pci_routes() -> Vec<PciRoute> {
    let pins = (0..32).flat_map(|device| (0..4).map(move |pin| (device, pin)));
    let route = |(device, pin)| PciRoute { device, pin, gsi: irq::pci(device, pin).into() };
    pins.map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_in_inputs_of_its_own_and_the_timer_at_pin_2() {
        let wiring = wiring();
        assert!(wiring.contains(&(0, PcInput::Pic(0))));
        assert!(wiring.contains(&(0, PcInput::IoApic(2))));
        assert!(
            wiring.contains(&(9, PcInput::Pic(9))) && wiring.contains(&(9, PcInput::IoApic(9)))
        );
        assert!(wiring.contains(&(23, PcInput::IoApic(23))));
        assert!(!wiring.contains(&(16, PcInput::Pic(16))));
        assert!(wiring.iter().all(|(line, _)| *line != 2), "the cascade is nobody's line");
        assert_eq!(wiring.len(), 15 + 23);
        let mut inputs: Vec<_> = wiring.iter().map(|(_, input)| format!("{input:?}")).collect();
        inputs.sort();
        inputs.dedup();
        assert_eq!(inputs.len(), wiring.len());
    }

    /// QEMU's `hw/pci-host/i440fx.c`, `pci_slot_get_pirq`: `(pin + slot - 1) & 3`.
    #[test]
    fn pins_take_turns_on_the_four_lines_as_behind_a_piix() {
        for (device, pin, line) in [
            (1, 0, 10),
            (1, 1, 11),
            (1, 2, 5),
            (1, 3, 14),
            (2, 0, 11),
            (4, 0, 14),
            (5, 0, 10),
            (31, 3, 11),
        ] {
            assert_eq!(irq::pci(device, pin), line, "{device} {pin}");
        }
        let routes = pci_routes();
        assert_eq!(routes.len(), 128);
        assert_eq!(routes[5], PciRoute { device: 1, pin: 1, gsi: 11 });
    }

    #[test]
    fn virtio_windows_are_behind_each_other_on_the_lines_of_pci_and_below_the_io_apic() {
        let slots: Vec<_> = virtio_slots().collect();
        assert_eq!(slots.len(), 32);
        assert_eq!(slots[0], VirtioSlot { base: 0xfeb0_0000, irq: 10 });
        assert_eq!(slots[5], VirtioSlot { base: 0xfeb0_0a00, irq: 11 });
        assert!(slots[31].base + VIRTIO_LEN <= SERIAL_MMIO && SERIAL_MMIO < IO_APIC);
        assert!(slots.iter().all(|slot| !PCI_MEMORY.contains(&slot.base)));
    }

    #[test]
    fn the_lines_of_pci_are_nobody_elses_and_level_triggered_for_everybody() {
        let isa = [irq::TIMER, irq::KEYBOARD, irq::RTC, irq::SCI, irq::MOUSE];
        let taken: Vec<u8> = isa.into_iter().chain(irq::SERIAL).collect();
        assert!(irq::PCI.iter().all(|line| !taken.contains(line)));
        let told: u16 = overrides()
            .iter()
            .filter(|line| line.trigger != Trigger::Bus)
            .fold(0, |bits, line| bits | 1 << line.irq);
        assert_eq!(told, irq::LEVEL);
        // 0, 1, 2, 8 and 13 cannot be (82371AB, section 4.2.5.4).
        assert_eq!(irq::LEVEL & 0x2107, 0);
    }
}
