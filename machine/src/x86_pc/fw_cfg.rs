//! What the PC's firmware can ask about the machine.

use std::sync::Arc;

use trapline_guestmem::GuestMem;
use trapline_platform::fw_cfg::{FwCfg, Items, Layout, regs::key};

use super::layout::{self, port};
use super::ram_ranges;
use crate::Error;
use crate::board::{Builder, Options};

/// Types of entries in `etc/e820`, ACPI's.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Adds the device with the board's items and the user's files.
pub(super) fn add(builder: &mut Builder, options: &Options, mem: &GuestMem) -> Result<(), Error> {
    let items = items(options)?;
    let device = Arc::new(FwCfg::new(Layout::Ports, items, mem.clone()));
    let len = u64::from(Layout::Ports.window_len());
    let part = builder.device("fw_cfg", device.clone());
    part.ports(port::FW_CFG, len, ("fw_cfg", "registers"), device);
    Ok(())
}

fn items(options: &Options) -> Result<Items, Error> {
    let mut items = Items::new();
    let cpus = u16::try_from(options.cpus).unwrap_or(u16::MAX);
    items.set(key::RAM_SIZE, options.mem_bytes.to_le_bytes());
    // NOGRAPHIC stays 0, whatever there is: SeaBIOS would show everything on the serial port too,
    // which is the same terminal as its debug output.
    items.set(key::NB_CPUS, cpus.to_le_bytes());
    items.set(key::MAX_CPUS, cpus.to_le_bytes());
    // There is no disk to prefer, so firmware may as well ask.
    items.set(key::BOOT_MENU, 1u16.to_le_bytes());
    items.set(key::IRQ0_OVERRIDE, 1u32.to_le_bytes());
    items.add_file("etc/e820", e820(options.mem_bytes)?)?;
    for (name, bytes) in &options.fw_cfg {
        items.add_file(name, bytes.clone())?;
    }
    Ok(items)
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
