//! Registers of virtio over MMIO.
//!
//! Spec: virtio 1.3, sections 4.2.2 and 4.2.4.

use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{Class, RegMap, row};

/// Length of a device's window.
pub const WINDOW_LEN: u64 = 0x200;
/// Where the device's configuration begins.
pub const CONFIG: u64 = 0x100;
/// "virt", little-endian.
pub const MAGIC: u32 = 0x7472_6976;
/// The version of the registers.
pub const VERSION: u32 = 2;
/// The version of those of before 1.0.
pub const LEGACY_VERSION: u32 = 1;
/// The vendor: QEMU's, as of other devices' makers that guests know.
pub const VENDOR: u32 = 0x554d_4551;
/// Interrupt status: buffers of some queue were used.
pub const INTERRUPT_QUEUE: u32 = 1;
/// Interrupt status: the configuration changed.
pub const INTERRUPT_CONFIG: u32 = 2;

/// Registers below the configuration, all of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioReg {
    /// [`MAGIC`].
    MagicValue,
    /// Of the registers.
    Version,
    /// Type of the device.
    DeviceId,
    /// [`VENDOR`].
    VendorId,
    /// Features the device offers.
    DeviceFeatures,
    /// Which 32 of them.
    DeviceFeaturesSel,
    /// Features the driver accepts.
    DriverFeatures,
    /// Which 32 of them.
    DriverFeaturesSel,
    /// Legacy: the driver's page size.
    GuestPageSize,
    /// Which queue the following are of.
    QueueSel,
    /// The most descriptors it can have.
    QueueSizeMax,
    /// How many it has.
    QueueSize,
    /// Legacy: alignment of its used ring.
    QueueAlign,
    /// Legacy: its first page.
    QueuePfn,
    /// Whether it is in use.
    QueueReady,
    /// Notifies the device of new buffers, whichever queue is selected.
    QueueNotify,
    /// Why the device interrupts.
    InterruptStatus,
    /// Bits of it that the driver has dealt with.
    InterruptAck,
    /// Device status.
    Status,
    /// Lower half of the descriptors' address.
    QueueDescLow,
    /// Upper half.
    QueueDescHigh,
    /// Lower half of the driver area's address.
    QueueDriverLow,
    /// Upper half.
    QueueDriverHigh,
    /// Lower half of the device area's address.
    QueueDeviceLow,
    /// Upper half.
    QueueDeviceHigh,
    /// Which shared memory region the following are of.
    ShmSel,
    /// Lower half of its length: there is none.
    ShmLenLow,
    /// Upper half.
    ShmLenHigh,
    /// Lower half of its address: there is none.
    ShmBaseLow,
    /// Upper half.
    ShmBaseHigh,
    /// Resets the queue.
    QueueReset,
    /// Changes with the configuration.
    ConfigGeneration,
}

use MmioReg as M;

/// The registers of version 2 (4.2.2).
#[rustfmt::skip]
pub const MODERN: RegMap<MmioReg> = RegMap::new(0x100, &[
    row(M::MagicValue,        "MagicValue",        0x000, 4, Read),
    row(M::Version,           "Version",           0x004, 4, Read),
    row(M::DeviceId,          "DeviceID",          0x008, 4, Read),
    row(M::VendorId,          "VendorID",          0x00c, 4, Read),
    row(M::DeviceFeatures,    "DeviceFeatures",    0x010, 4, Read),
    row(M::DeviceFeaturesSel, "DeviceFeaturesSel", 0x014, 4, Write),
    row(M::DriverFeatures,    "DriverFeatures",    0x020, 4, Write),
    row(M::DriverFeaturesSel, "DriverFeaturesSel", 0x024, 4, Write),
    row(M::QueueSel,          "QueueSel",          0x030, 4, Write),
    row(M::QueueSizeMax,      "QueueSizeMax",      0x034, 4, Read),
    row(M::QueueSize,         "QueueSize",         0x038, 4, Write),
    row(M::QueueReady,        "QueueReady",        0x044, 4, ReadWrite).prompt(),
    row(M::QueueNotify,       "QueueNotify",       0x050, 4, Write).prompt(),
    row(M::InterruptStatus,   "InterruptStatus",   0x060, 4, Read),
    row(M::InterruptAck,      "InterruptACK",      0x064, 4, Write).prompt(),
    row(M::Status,            "Status",            0x070, 4, ReadWrite).prompt(),
    row(M::QueueDescLow,      "QueueDescLow",      0x080, 4, Write).class(Class::Address),
    row(M::QueueDescHigh,     "QueueDescHigh",     0x084, 4, Write).class(Class::Address),
    row(M::QueueDriverLow,    "QueueDriverLow",    0x090, 4, Write).class(Class::Address),
    row(M::QueueDriverHigh,   "QueueDriverHigh",   0x094, 4, Write).class(Class::Address),
    row(M::QueueDeviceLow,    "QueueDeviceLow",    0x0a0, 4, Write).class(Class::Address),
    row(M::QueueDeviceHigh,   "QueueDeviceHigh",   0x0a4, 4, Write).class(Class::Address),
    row(M::ShmSel,            "SHMSel",            0x0ac, 4, Write),
    row(M::ShmLenLow,         "SHMLenLow",         0x0b0, 4, Read),
    row(M::ShmLenHigh,        "SHMLenHigh",        0x0b4, 4, Read),
    row(M::ShmBaseLow,        "SHMBaseLow",        0x0b8, 4, Read),
    row(M::ShmBaseHigh,       "SHMBaseHigh",       0x0bc, 4, Read),
    row(M::QueueReset,        "QueueReset",        0x0c0, 4, ReadWrite).prompt(),
    row(M::ConfigGeneration,  "ConfigGeneration",  0x0fc, 4, Read),
]);

/// The registers of version 1 (4.2.4).
#[rustfmt::skip]
pub const LEGACY: RegMap<MmioReg> = RegMap::new(0x100, &[
    row(M::MagicValue,        "MagicValue",       0x000, 4, Read),
    row(M::Version,           "Version",          0x004, 4, Read),
    row(M::DeviceId,          "DeviceID",         0x008, 4, Read),
    row(M::VendorId,          "VendorID",         0x00c, 4, Read),
    row(M::DeviceFeatures,    "HostFeatures",     0x010, 4, Read),
    row(M::DeviceFeaturesSel, "HostFeaturesSel",  0x014, 4, Write),
    row(M::DriverFeatures,    "GuestFeatures",    0x020, 4, Write),
    row(M::DriverFeaturesSel, "GuestFeaturesSel", 0x024, 4, Write),
    row(M::GuestPageSize,     "GuestPageSize",    0x028, 4, Write),
    row(M::QueueSel,          "QueueSel",         0x030, 4, Write),
    row(M::QueueSizeMax,      "QueueNumMax",      0x034, 4, Read),
    row(M::QueueSize,         "QueueNum",         0x038, 4, Write),
    row(M::QueueAlign,        "QueueAlign",       0x03c, 4, Write),
    row(M::QueuePfn,          "QueuePFN",         0x040, 4, ReadWrite).class(Class::Address).prompt(),
    row(M::QueueNotify,       "QueueNotify",      0x050, 4, Write).prompt(),
    row(M::InterruptStatus,   "InterruptStatus",  0x060, 4, Read),
    row(M::InterruptAck,      "InterruptACK",     0x064, 4, Write).prompt(),
    row(M::Status,            "Status",           0x070, 4, ReadWrite).prompt(),
]);
