//! Loading a PC's software: the kernel or firmware, the tables that describe the board to it, and the
//! state the first vCPU starts in.

use std::ops::Range;
use std::sync::Arc;

use trapline::Region;
use trapline_boot::cmdline::CmdlinePlace;
use trapline_boot::e820::{E820Kind, MemoryMap};
use trapline_boot::entry::{Entry, Gdt};
use trapline_boot::firmware::{FirmwareLayout, Rom, load_firmware, place_firmware};
use trapline_boot::kernel::{Bios, KernelRequest, X86Layout, load_kernel};
use trapline_boot::mptable::{self, MpConfig};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Start, Table};

use super::acpi::{Described, described, io_apic};
use super::layout::{self, boot, port};
use super::ram_ranges;
use crate::board::{Builder, Devices};
use crate::{Boot, Config, Error, PcIrqchip};

/// Puts the guest's software and the board's tables into memory, over whatever an earlier run
/// left there, and says where the first vCPU starts.
pub(crate) fn load(
    mem: &GuestMem,
    devices: &Devices,
    config: &Config,
    virtio_windows: u8,
    again: bool,
) -> Result<Start, Error> {
    match &config.boot {
        Boot::Firmware { path, .. } => {
            let firmware = load_firmware(mem, path, &FIRMWARE)?;
            // ROM is still there after a reset.
            if !again {
                add_rom(&firmware.rom, devices)?;
            }
            Ok(start(firmware.entry))
        }
        Boot::Kernel { path, initrd, cmdline } => {
            let tables = write_tables(mem, config, virtio_windows)?;
            let cmdline = &with_virtio_words(cmdline, virtio_windows);
            let map = memory_map(config.mem_bytes, &tables)?;
            let request = KernelRequest {
                path,
                initrd: crate::config::initrd(initrd),
                cmdline,
                layout: &kernel_layout(config),
                e820: map.entries(),
                rsdp: Some(layout::ACPI_TABLES),
                framebuffer: config.display.map(super::display::framebuffer),
            };
            Ok(start(load_kernel(mem, &request)?.entry))
        }
    }
}

/// Adds the chip that the firmware is in: the guest reads and executes it, and its writes vanish.
fn add_rom(rom: &Rom, devices: &Devices) -> Result<(), Error> {
    let chip = GuestMem::new(&[(rom.addr, rom.bytes.len() as u64)])?;
    chip.write(rom.addr, &rom.bytes)?;
    let mut builder = Builder::default();
    let part = builder.stateless("firmware");
    for piece in chip.pieces() {
        part.region(Region::rom(rom.addr, "firmware", "rom", Arc::new(piece)));
    }
    devices.add(builder)
}

/// Puts what of the firmware is below 1 MiB there, as it is in the flash now, and says where the
/// first vCPU starts.
pub(crate) fn start_flash(
    mem: &GuestMem,
    flash: &GuestMem,
    config: &Config,
) -> Result<Start, Error> {
    let len = flash.len().min(FIRMWARE.low_len);
    let mut tail = vec![0; usize::try_from(len).unwrap_or(0)];
    flash.read(flash.len() - len, &mut tail)?;
    let name = match &config.boot {
        Boot::Firmware { path, .. } | Boot::Kernel { path, .. } => path.display().to_string(),
    };
    Ok(start(place_firmware(mem, &name, &tail, &FIRMWARE)?.entry))
}

const FIRMWARE: FirmwareLayout = FirmwareLayout {
    low_end: layout::HIGH_MEMORY,
    low_len: layout::HIGH_MEMORY - layout::BIOS_AREA,
    high_end: layout::HOLE_END,
    high_len: layout::HOLE_END - layout::FIRMWARE_ROM,
};

/// Where a kernel finds what it is told, with the serial ports that are there.
fn kernel_layout(config: &Config) -> X86Layout {
    let mut layout = KERNEL;
    let count = layout::serial_ports(config.pc_legacy, config.console_kind);
    layout.bios.serial.iter_mut().skip(count).for_each(|base| *base = 0);
    layout
}

const KERNEL: X86Layout = X86Layout {
    zero_page: boot::ZERO_PAGE,
    start_info: boot::PVH_START_INFO,
    cmdline: CmdlinePlace { addr: boot::CMDLINE, room: boot::CMDLINE_MAX },
    gdt: boot::GDT,
    page_tables: boot::PAGE_TABLES,
    stack_top: boot::STACK_TOP,
    bios: Bios {
        code: layout::BIOS_CODE,
        ebda: layout::EBDA,
        pics: [low_port(port::PIC1), low_port(port::PIC2)],
        pit: low_port(port::PIT),
        serial: port::SERIAL,
        printers: port::LPT,
        reset: port::RESET_CONTROL,
    },
    kernel_floor: layout::HIGH_MEMORY,
    device_hole: layout::HOLE_START..layout::HOLE_END,
};

/// The first vCPU's state in KVM's words.
fn start(entry: Entry) -> Start {
    let table = |gdt: &Gdt| Table { base: gdt.base, limit: gdt.limit };
    match entry {
        Entry::Real { cs, ip } => Start::Real { cs, ip, ds: 0, sp: 0 },
        Entry::Protected { eip, eax, ebx, esi, gdt } => {
            Start::Protected { eip, esp: 0, eax, ebx, esi, gdt: table(&gdt) }
        }
        Entry::Long { rip, rsi, rsp, cr3, gdt } => {
            Start::Long { rip, rsp, rsi, cr3, gdt: table(&gdt) }
        }
    }
}

/// The command line, with a word for each virtio device behind a window of registers where the kernel
/// is told not to look into ACPI (Linux, `Documentation/admin-guide/kernel-parameters.txt`,
/// `virtio_mmio.device`). Where it looks, a word would be the same device once more.
fn with_virtio_words(cmdline: &str, virtio_windows: u8) -> String {
    let mut line = cmdline.to_owned();
    if !cmdline.split_whitespace().any(|word| word == "acpi=off") {
        return line;
    }
    for slot in layout::virtio_slots().take(virtio_windows.into()) {
        let layout::VirtioSlot { base, irq } = slot;
        line.push_str(&format!(" virtio_mmio.device={}@{base:#x}:{irq}", layout::VIRTIO_LEN));
    }
    line
}

/// RAM, and what of it the guest must not use.
fn memory_map(mem_bytes: u64, acpi: &Range<u64>) -> Result<MemoryMap, Error> {
    let ram = ram_ranges(mem_bytes)?;
    let map = ram
        .into_iter()
        .fold(MemoryMap::new(), |map, (base, len)| map.with(base..base + len, E820Kind::Ram));
    Ok(map
        .with(layout::EBDA..layout::BIOS_AREA, E820Kind::Reserved)
        .without(layout::VGA_HOLE..layout::BIOS_AREA)
        .with(layout::BIOS_AREA..layout::HIGH_MEMORY, E820Kind::Reserved)
        .with(acpi.clone(), E820Kind::AcpiReclaimable)
        .with(layout::PCI_CAM..layout::PCI_CAM + layout::PCI_CAM_LEN, E820Kind::Reserved)
        .with(layout::IDENTITY_MAP..layout::TSS_END, E820Kind::Reserved))
}

/// A port as an instruction names it in a byte.
#[expect(clippy::cast_possible_truncation, reason = "evaluated by the compiler, and asserted")]
const fn low_port(port: u16) -> u8 {
    assert!(port <= 0xff);
    port as u8
}

/// What KVM's APICs say of themselves.
const LOCAL_APIC_VERSION: u8 = 0x14;
const KVM_IO_APIC_VERSION: u8 = 0x11;
/// A P6 with an FPU and an APIC. Guests old enough to look here want no more than that.
const MP_CPU_SIGNATURE: u32 = 0x600;
const MP_CPU_FEATURES: u32 = 0x201;

/// ACPI for guests that know it, the MP table for those that do not. Returns what ACPI occupies.
fn write_tables(mem: &GuestMem, config: &Config, virtio_windows: u8) -> Result<Range<u64>, Error> {
    let cpus = config.cpus;
    let display = config.display.is_some();
    let pc = Described {
        cpus,
        power: port::ACPI_PM,
        display,
        legacy: config.pc_legacy,
        console: config.console_kind,
        config_space: config.pc_config_space,
        virtio_windows,
    };
    described(pc, |acpi| trapline_boot::acpi::write(mem, acpi))?;
    let (overrides, routes) = (layout::overrides(), layout::pci_routes());
    let apic_ids: Vec<u8> = (0..cpus).filter_map(|id| u8::try_from(id).ok()).collect();
    let mp = MpConfig {
        pointer: layout::MPTABLE,
        table: layout::MPTABLE + mptable::POINTER_LEN..layout::MPTABLE + layout::MPTABLE_MAX,
        apic_ids: &apic_ids,
        local_apic: layout::LOCAL_APIC,
        local_apic_version: LOCAL_APIC_VERSION,
        cpu_signature: MP_CPU_SIGNATURE,
        cpu_features: MP_CPU_FEATURES,
        io_apic: io_apic(cpus),
        io_apic_version: match config.pc_irqchip {
            PcIrqchip::Kernel => KVM_IO_APIC_VERSION,
            PcIrqchip::Split => trapline_intc::ioapic::regs::VERSION,
        },
        overrides: &overrides,
        routes: &routes,
    };
    mptable::write(mem, &mp)?;
    Ok(layout::ACPI_TABLES..layout::ACPI_TABLES + layout::ACPI_TABLES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_look_into_acpi_is_told_of_virtio_by_words() {
        let line = |cmdline: &str| with_virtio_words(cmdline, 2);
        assert_eq!(line("quiet"), "quiet");
        assert_eq!(line("quiet acpi=offline xacpi=off"), "quiet acpi=offline xacpi=off");
        assert_eq!(
            line("acpi=off quiet"),
            "acpi=off quiet virtio_mmio.device=512@0xfeb00000:10 \
             virtio_mmio.device=512@0xfeb00200:11"
        );
        assert_eq!(with_virtio_words("acpi=off", 0), "acpi=off");
    }
}
