//! The contents of the PC's fw_cfg device: what firmware can read of the machine.

use std::sync::Arc;

use trapline_boot::acpi::FirmwareTables;
use trapline_boot::firmware_kernel::{FirmwareKernelRequest, for_firmware};
use trapline_guestmem::GuestMem;
use trapline_platform::fw_cfg::{FwCfg, Items, Layout, regs::key};

use super::acpi::{self, Described};
use super::layout::{self, port};
use super::ram_ranges;
use crate::board::{Builder, Options};
use crate::{Error, FirmwareKernel};

/// SeaBIOS: milliseconds until it tries again to boot, 32 bits.
const BOOT_FAIL_WAIT: &str = "etc/boot-fail-wait";
const NEVER_AGAIN: u32 = u32::MAX;

/// Types of entries in `etc/e820`, ACPI's.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Adds the device with the board's items and the user's files.
pub(super) fn add(
    builder: &mut Builder,
    options: &Options,
    mem: &GuestMem,
    virtio_windows: u8,
) -> Result<(), Error> {
    let items = items(options, virtio_windows)?;
    let device = Arc::new(FwCfg::new(Layout::Ports, items, mem.clone()));
    let len = u64::from(Layout::Ports.window_len());
    let part = builder.device("fw_cfg", device.clone());
    part.ports(port::FW_CFG, len, ("fw_cfg", "registers"), device);
    Ok(())
}

fn items(options: &Options, virtio_windows: u8) -> Result<Items, Error> {
    let mut items = Items::new();
    let cpus = u16::try_from(options.cpus).unwrap_or(u16::MAX);
    items.set(key::RAM_SIZE, options.mem_bytes.to_le_bytes());
    // Without a display SeaBIOS shows on the serial port what it and whatever it starts have for the
    // screen, and takes keys from there. Its debug output is on the same terminal, if it is wanted:
    // then that alone, as the two would get into each other's words.
    let display = options.firmware.as_ref().is_some_and(|firmware| firmware.display);
    let serial = !display && options.firmware_log.is_none();
    items.set(key::NOGRAPHIC, u16::from(serial).to_le_bytes());
    items.set(key::NB_CPUS, cpus.to_le_bytes());
    items.set(key::MAX_CPUS, cpus.to_le_bytes());
    // QEMU's defaults: SeaBIOS does not wait for a key at the start, nor does it try again later
    // when it has found nothing to boot.
    items.set(key::BOOT_MENU, 0u16.to_le_bytes());
    let user = |name: &str| options.fw_cfg.iter().any(|(users, _)| users == name);
    if !user(BOOT_FAIL_WAIT) {
        items.add_file(BOOT_FAIL_WAIT, NEVER_AGAIN.to_le_bytes().to_vec())?;
    }
    if let Some(firmware) = &options.firmware {
        let pc = Described {
            cpus: options.cpus,
            power: port::FIRMWARE_ACPI_PM,
            display: firmware.display,
            legacy: true,
            console: options.console_kind,
            config_space: options.config_space,
            virtio_windows,
        };
        add_tables(&mut items, pc)?;
        if let Some(kernel) = &firmware.kernel {
            add_kernel(&mut items, kernel, options.mem_bytes)?;
        }
    }
    items.set(key::IRQ0_OVERRIDE, 1u32.to_le_bytes());
    items.add_file("etc/e820", e820(options.mem_bytes)?)?;
    for (name, bytes) in &options.fw_cfg {
        items.add_file(name, bytes.clone())?;
    }
    Ok(items)
}

/// The ACPI tables, for firmware to put where it likes.
fn add_tables(items: &mut Items, pc: Described) -> Result<(), Error> {
    let FirmwareTables { rsdp, tables, loader } = acpi::for_firmware(pc)?;
    items.add_file(FirmwareTables::RSDP, rsdp)?;
    items.add_file(FirmwareTables::TABLES, tables)?;
    items.add_file(FirmwareTables::LOADER, loader)?;
    Ok(())
}

/// The kernel that firmware is to start, as QEMU hands it over.
fn add_kernel(items: &mut Items, kernel: &FirmwareKernel, mem_bytes: u64) -> Result<(), Error> {
    let parts = for_firmware(&FirmwareKernelRequest {
        path: &kernel.path,
        initrd: kernel.initrd.as_deref(),
        cmdline: &kernel.cmdline,
        low_ram: mem_bytes.min(layout::HOLE_START),
    })?;
    for (addr, size, data, part) in [
        (key::SETUP_ADDR, key::SETUP_SIZE, key::SETUP_DATA, parts.setup),
        (key::KERNEL_ADDR, key::KERNEL_SIZE, key::KERNEL_DATA, parts.kernel),
        (key::INITRD_ADDR, key::INITRD_SIZE, key::INITRD_DATA, parts.initrd),
        (key::CMDLINE_ADDR, key::CMDLINE_SIZE, key::CMDLINE_DATA, parts.cmdline),
    ] {
        let (place, bytes) = part;
        items.set(addr, place.to_le_bytes());
        items.set(size, u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        items.set(data, bytes);
    }
    Ok(())
}

/// RAM as the board has it and what else firmware cannot see for itself, 20 bytes an entry. The
/// holes below 1 MiB are firmware's own business.
fn e820(mem_bytes: u64) -> Result<Vec<u8>, Error> {
    let ram = ram_ranges(mem_bytes)?.into_iter().map(|(base, len)| (base, len, RAM));
    let tss = layout::FIRMWARE_TSS_END - layout::FIRMWARE_IDENTITY_MAP;
    let reserved = [
        (layout::PCI_CAM, layout::PCI_CAM_LEN, RESERVED),
        (layout::FIRMWARE_IDENTITY_MAP, tss, RESERVED),
    ];
    let entry = |(base, len, kind): (u64, u64, u32)| {
        let mut bytes = base.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes
    };
    Ok(ram.chain(reserved).flat_map(entry).collect())
}
