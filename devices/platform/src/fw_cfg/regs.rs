//! Spec: QEMU, docs/specs/fw_cfg.rst, "QEMU Firmware Configuration (fw_cfg) Device"; Linux
//! `include/uapi/linux/qemu_fw_cfg.h` for the selector keys; QEMU, `hw/i386/fw_cfg.h`, for
//! those of x86.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{Class, RegMap, row};

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// "Selector (Control) Register": chooses an item, and its first byte. 16 bits.
    Selector,
    /// "Data Register": the next bytes of the item.
    Data,
    /// "DMA Address", the more significant half, big-endian.
    DmaHigh,
    /// The less significant half; writing it starts an operation.
    DmaLow,
}

/// Length of the window of ports.
pub const PORTS_LEN: u32 = 12;
/// Length of the window in memory.
pub const MMIO_LEN: u32 = 24;

/// "Register Locations", x86: ports. The data port lies under the upper half of the selector.
#[rustfmt::skip]
pub const PORTS: RegMap<Reg> = RegMap::new(PORTS_LEN, &[
    row(Reg::Selector, "SELECTOR", 0, 2, Write),
    row(Reg::Data,     "DATA",     1, 1, Read),
    row(Reg::DmaHigh,  "DMA_HIGH", 4, 4, ReadWrite).class(Class::Address),
    row(Reg::DmaLow,   "DMA_LOW",  8, 4, ReadWrite).class(Class::Address).prompt(),
]);

/// "Register Locations", Arm: memory. The selector is big-endian here.
#[rustfmt::skip]
pub const MMIO: RegMap<Reg> = RegMap::new(MMIO_LEN, &[
    row(Reg::Data,     "DATA",      0, 8, ReadWrite),
    row(Reg::Selector, "SELECTOR",  8, 2, Write),
    row(Reg::DmaHigh,  "DMA_HIGH", 16, 4, ReadWrite).class(Class::Address),
    row(Reg::DmaLow,   "DMA_LOW",  20, 4, ReadWrite).class(Class::Address).prompt(),
]);

/// What the DMA address register reads as: `QEMU CFG`, in the order of the addresses ("Signature").
pub const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// The control word of an operation ("Guest-side DMA Interface").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// Bit 0: something went wrong. Set by the device.
    pub error: bool,
    /// Bit 1: read from the item.
    pub read: bool,
    /// Bit 2: skip bytes of the item.
    pub skip: bool,
    /// Bit 3: select the item in the upper half first.
    pub select: bool,
    /// Bit 4: write to the item.
    pub write: bool,
    #[bits(11)]
    __: u16,
    /// Bits 16 to 31: the item for [`Control::select`].
    pub key: u16,
}

/// Bytes of an operation's structure in memory: control word, length, address, big-endian.
pub const ACCESS_LEN: usize = 16;

/// Bit 14 of a selector once allowed writes. It changes nothing any more ("Selector (Control)
/// Register", notes).
pub const WRITE_CHANNEL: u16 = 0x4000;
/// Bit 15 of a selector: the item is the architecture's own.
pub const ARCH_LOCAL: u16 = 0x8000;

/// Selector keys.
pub mod key {
    use super::ARCH_LOCAL;

    /// The four letters `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// 32 bits: which interfaces there are.
    pub const ID: u16 = 0x01;
    /// 64 bits: bytes of RAM.
    pub const RAM_SIZE: u16 = 0x03;
    /// 16 bits: 1 if there is no display.
    pub const NOGRAPHIC: u16 = 0x04;
    /// 16 bits: processors that are there at power-on.
    pub const NB_CPUS: u16 = 0x05;
    /// 32 bits: address of the kernel.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// 32 bits: bytes of the kernel.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// 32 bits: address of the initial RAM disk.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// 32 bits: bytes of it.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// 16 bits: 1 if firmware is to show its boot menu.
    pub const BOOT_MENU: u16 = 0x0e;
    /// 16 bits: processors there can be.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel, without its setup.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// 32 bits: address of the command line.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// 32 bits: bytes of it with its NUL.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// 32 bits: address of the kernel's setup.
    pub const SETUP_ADDR: u16 = 0x16;
    /// 32 bits: bytes of it.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The kernel's setup.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory of files.
    pub const FILE_DIR: u16 = 0x19;
    /// The first file.
    pub const FILE_FIRST: u16 = 0x20;
    /// x86, 32 bits: 1 if the timer's interrupt 0 is input 2 of the I/O APIC.
    pub const IRQ0_OVERRIDE: u16 = ARCH_LOCAL + 2;
}

/// What [`key::SIGNATURE`] holds.
pub const SIGNATURE: [u8; 4] = *b"QEMU";
/// What [`key::ID`] holds: the traditional interface (bit 0) and DMA (bit 1).
pub const ID: u32 = 0b11;

/// Bytes of one entry of the directory: size, key, nothing, name; after a count of entries.
pub const FILE_ENTRY_LEN: usize = 64;
/// Bytes of a name in it, the final NUL included.
pub const FILE_NAME_LEN: usize = 56;
/// Keys there are for files, up to where bit 14 begins.
pub const FILES_MAX: usize = (WRITE_CHANNEL - key::FILE_FIRST) as usize;
