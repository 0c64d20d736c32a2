//! The FADT (Fixed ACPI Description Table): where the power management registers are.
//!
//! Spec: ACPI 6.5, section 5.2.9.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};

/// The plug-and-play ID of a PC keyboard.
const KEYBOARD: &str = "PNP0303";

// IAPC_BOOT_ARCH, section 5.2.9.3.
/// There are devices on an ISA bus for the guest to look for.
const LEGACY_DEVICES: u16 = 1 << 0;
/// There is a keyboard controller.
const I8042: u16 = 1 << 1;
/// There is no VGA to be probed for.
const NO_VGA: u16 = 1 << 2;
/// There is no clock with CMOS RAM.
const NO_CMOS_RTC: u16 = 1 << 5;

/// "Worst-case latency" values that say C2 and C3 are not supported.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

pub(super) fn build(config: &AcpiConfig<'_>, facs: u32, dsdt: u32) -> Vec<u8> {
    let power = &config.power;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // Set means "no such fixed button"; and the RTC wakes nobody through PM1.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    if !power.button {
        fadt = fadt.flag(Flags::PwrButton);
    }
    fadt.firmware_ctrl = facs.into();
    fadt.dsdt = dsdt.into();
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = u16::from(config.sci).into();
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();

    // The old 32-bit field and the new generic address of a block must agree.
    fadt.pm1a_evt_blk = u32::from(power.event).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(power.event, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(power.control).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(power.control, 16, AccessSize::WordAccess);
    if let Some(timer) = power.timer {
        fadt.pm_tmr_blk = u32::from(timer).into();
        fadt.pm_tmr_len = 4;
        fadt.x_pm_tmr_blk = port(timer, 32, AccessSize::DwordAccess);
    }
    if let Some(reset) = config.reset {
        fadt = fadt.flag(Flags::ResetRegSup);
        fadt.reset_reg = port(reset.port, 8, AccessSize::ByteAccess);
        fadt.reset_value = reset.value;
    }
    fadt.century = config.century.unwrap_or(0);
    fadt.iapc_boot_arch = boot_arch(config).into();
    bytes_of(&fadt.finalize())
}

fn boot_arch(config: &AcpiConfig<'_>) -> u16 {
    let mut flags = 0;
    if !config.isa.is_empty() {
        flags |= LEGACY_DEVICES;
    }
    if config.isa.iter().any(|device| device.hid == KEYBOARD) {
        flags |= I8042;
    }
    if !config.vga {
        flags |= NO_VGA;
    }
    if !config.cmos_rtc {
        flags |= NO_CMOS_RTC;
    }
    flags
}

fn port(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}
