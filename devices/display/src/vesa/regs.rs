//! Spec: PCI Local Bus Specification 3.0 (2004), chapter 6; kvmtool `hw/vesa.c`, whose function this
//! is.
//!
//! What the function's header says, and its BARs. It has no registers of its own.

/// Vendor: Red Hat/Qumranet (PCI 3.0, 6.2.1; kvmtool `PCI_VENDOR_ID_REDHAT_QUMRANET`).
pub const VENDOR_ID: u16 = 0x1af4;
/// Device (kvmtool `PCI_DEVICE_ID_VESA`).
pub const DEVICE_ID: u16 = 0x2000;
/// Subsystem (kvmtool `PCI_SUBSYSTEM_ID_VESA`).
pub const SUBSYSTEM_ID: u16 = 0x0004;
/// VGA-compatible display controller (PCI 3.0, appendix D).
///
/// Deviation: there are no VGA registers behind it. kvmtool says the same class, and guests look for
/// the boot display by it.
pub const CLASS: u32 = 0x03_0000;

/// The BAR of the ports.
pub const PORTS_BAR: usize = 0;
/// How many ports there are (kvmtool `PCI_IO_SIZE`). Nothing is behind them.
pub const PORTS_LEN: u32 = 0x100;
/// The BAR of the frame buffer.
pub const FRAME_BAR: usize = 1;
