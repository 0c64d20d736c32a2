//! Where everything of the PC board is. The only place with guest addresses and interrupt
//! numbers; the memory and port map is kvmtool's, so that guests and scripts made for it fit.

use std::ops::RangeInclusive;

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
pub(crate) const PCI_CAM: u64 = 0xd100_0000;
/// Its length: 256 buses.
pub(crate) const PCI_CAM_LEN: u64 = 0x100_0000;
/// The display's frame buffer until the guest moves it (kvmtool's `VESA_MEM_ADDR`), and the window
/// for it.
pub(crate) const DISPLAY_FRAME: u32 = 0xd000_0000;
pub(crate) const DISPLAY_FRAMES: RangeInclusive<u32> = DISPLAY_FRAME..=0xd0ff_ffff;
/// The display's ports: the last ones, as others are handed out from the first.
pub(crate) const DISPLAY_PORTS: u16 = 0xff00;
/// The display's place on bus 0: the last one, for the same reason.
pub(crate) const DISPLAY_DEVICE: u8 = 31;
/// Memory BARs.
pub(crate) const PCI_MEMORY: RangeInclusive<u32> = 0xd200_0000..=IO_APIC - 1;
/// I/O BARs (from kvmtool's `PCI_IOPORT_START`).
pub(crate) const PCI_PORTS: RangeInclusive<u16> = 0x6200..=0xffff;

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
    pub(crate) const PCI_CONF1: u16 = 0xcf8;
    /// In the middle of configuration mechanism #1, but for byte accesses only.
    pub(crate) const RESET_CONTROL: u16 = 0xcf9;
    /// A port for each interrupt line, the test device's.
    pub(crate) const TEST_LINES: u16 = 0x2000;
    /// Where Bochs is switched off.
    pub(crate) const BOCHS_POWER: u16 = 0x8900;
}

/// ISA interrupts. The global system interrupt is the same number, but for the timer's.
pub(crate) mod irq {
    pub(crate) const TIMER: u8 = 0;
    /// The timer's pin of the I/O APIC, where pin 0 is the 8259s'.
    pub(crate) const TIMER_GSI: u32 = 2;
    pub(crate) const KEYBOARD: u8 = 1;
    pub(crate) const SERIAL: [u8; 4] = [4, 3, 4, 3];
    pub(crate) const RTC: u8 = 8;
    /// ACPI's system control interrupt.
    pub(crate) const SCI: u8 = 9;
    pub(crate) const MOUSE: u8 = 12;
}
