//! Registers of virtio over PCI.
//!
//! Spec: virtio 1.3, section 4.1.

use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{Class, RegMap, row};

use crate::DeviceType;

/// Vendor of every virtio function (4.1.2).
pub const VENDOR_ID: u16 = 0x1af4;
/// Device of a modern function, less its type (4.1.2.1).
pub const MODERN_DEVICE_ID: u16 = 0x1040;
/// Revision of a modern function: 1 or more (4.1.2.1).
pub const MODERN_REVISION: u8 = 1;
/// Subsystem of a modern function: 0x40 or more (4.1.2.1). This is QEMU's.
pub const MODERN_SUBSYSTEM: u16 = 0x1100;

/// Revision of a function that legacy drivers know (4.1.2.3).
pub const LEGACY_REVISION: u8 = 0;

/// Device of a function that legacy drivers know, if there is one for this type (4.1.2.1, and what
/// Linux' and QEMU's makers have agreed upon for sockets). Those drivers tell devices apart by the
/// subsystem, which is the type.
pub const fn legacy_device_id(kind: DeviceType) -> Option<u16> {
    Some(match kind {
        DeviceType::Net => 0x1000,
        DeviceType::Block => 0x1001,
        DeviceType::Balloon => 0x1002,
        DeviceType::Console => 0x1003,
        DeviceType::Scsi => 0x1004,
        DeviceType::Rng => 0x1005,
        DeviceType::P9 => 0x1009,
        DeviceType::Vsock => 0x1012,
        DeviceType::Fs => return None,
    })
}

/// `VIRTIO_MSI_NO_VECTOR`: no message for this (4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// BAR of the legacy registers: ports (4.1.4.10).
pub const LEGACY_BAR: u8 = 0;
/// BAR of the MSI-X table.
pub const MSIX_BAR: u8 = 1;
/// BAR of everything of version 1.0, 64 bits wide. All are where QEMU has them.
pub const MODERN_BAR: u8 = 4;
/// Its length: a page for each of four structures.
pub const MODERN_BAR_LEN: u64 = 4 * PAGE;
/// Length of a structure.
pub const PAGE: u64 = 0x1000;

/// The common configuration (4.1.4.3).
pub const COMMON: u64 = 0;
/// The interrupt status (4.1.4.5).
pub const ISR: u64 = PAGE;
/// The device's configuration (4.1.4.6).
pub const DEVICE: u64 = 2 * PAGE;
/// The doorbells (4.1.4.4).
pub const NOTIFY: u64 = 3 * PAGE;
/// Bytes from one queue's doorbell to the next (`notify_off_multiplier`).
pub const NOTIFY_MULTIPLIER: u32 = 4;

/// Types of structures in capabilities (4.1.4, `cfg_type`).
pub const CAP_COMMON_CFG: u8 = 1;
/// Doorbells, with their multiplier.
pub const CAP_NOTIFY_CFG: u8 = 2;
/// Interrupt status.
pub const CAP_ISR_CFG: u8 = 3;
/// The device's configuration.
pub const CAP_DEVICE_CFG: u8 = 4;
/// A window onto a BAR in configuration space.
pub const CAP_PCI_CFG: u8 = 5;

/// `struct virtio_pci_cap`: offset of the BAR's number.
pub const CAP_BAR: u16 = 4;
/// Of the offset in the BAR.
pub const CAP_OFFSET: u16 = 8;
/// Of the structure's length.
pub const CAP_LENGTH: u16 = 12;
/// Of the window's data (`struct virtio_pci_cfg_cap`), and of the doorbells' multiplier (`struct
/// virtio_pci_notify_cap`).
pub const CAP_DATA: u16 = 16;

/// Interrupt status: buffers of some queue were used.
pub const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration changed.
pub const ISR_CONFIG: u8 = 2;

/// Registers of the common configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommonReg {
    /// Which 32 features `DeviceFeature` shows.
    DeviceFeatureSelect,
    /// Features the device offers.
    DeviceFeature,
    /// Which 32 features `DriverFeature` is.
    DriverFeatureSelect,
    /// Features the driver accepts.
    DriverFeature,
    /// Vector of configuration changes.
    ConfigMsixVector,
    /// How many queues there are.
    NumQueues,
    /// Device status.
    DeviceStatus,
    /// Changes with the configuration.
    ConfigGeneration,
    /// Which queue the following are of.
    QueueSelect,
    /// Its length.
    QueueSize,
    /// Its vector.
    QueueMsixVector,
    /// Whether it is in use.
    QueueEnable,
    /// Its doorbell, times the multiplier.
    QueueNotifyOff,
    /// Address of its descriptors.
    QueueDesc,
    /// Address of its driver area.
    QueueDriver,
    /// Address of its device area.
    QueueDevice,
    /// Resets it.
    QueueReset,
}

use CommonReg as C;

/// The common configuration (4.1.4.3).
#[rustfmt::skip]
pub const COMMON_CFG: RegMap<CommonReg> = RegMap::new(0x1000, &[
    row(C::DeviceFeatureSelect, "device_feature_select", 0x00, 4, ReadWrite),
    row(C::DeviceFeature,       "device_feature",        0x04, 4, Read),
    row(C::DriverFeatureSelect, "driver_feature_select", 0x08, 4, ReadWrite),
    row(C::DriverFeature,       "driver_feature",        0x0c, 4, ReadWrite),
    row(C::ConfigMsixVector,    "config_msix_vector",    0x10, 2, ReadWrite).prompt(),
    row(C::NumQueues,           "num_queues",            0x12, 2, Read),
    row(C::DeviceStatus,        "device_status",         0x14, 1, ReadWrite).prompt(),
    row(C::ConfigGeneration,    "config_generation",     0x15, 1, Read),
    row(C::QueueSelect,         "queue_select",          0x16, 2, ReadWrite),
    row(C::QueueSize,           "queue_size",            0x18, 2, ReadWrite),
    row(C::QueueMsixVector,     "queue_msix_vector",     0x1a, 2, ReadWrite).prompt(),
    row(C::QueueEnable,         "queue_enable",          0x1c, 2, ReadWrite).prompt(),
    row(C::QueueNotifyOff,      "queue_notify_off",      0x1e, 2, Read),
    row(C::QueueDesc,           "queue_desc",            0x20, 8, ReadWrite).class(Class::Address),
    row(C::QueueDriver,         "queue_driver",          0x28, 8, ReadWrite).class(Class::Address),
    row(C::QueueDevice,         "queue_device",          0x30, 8, ReadWrite).class(Class::Address),
    row(C::QueueReset,          "queue_reset",           0x3a, 2, ReadWrite).prompt(),
]);

/// Legacy: where the registers of vectors are while MSI-X is enabled, and the device's configuration
/// while it is not.
pub const LEGACY_VECTORS: u32 = 0x14;
/// Legacy: where they end, and the device's configuration begins while MSI-X is enabled.
pub const LEGACY_VECTORS_END: u32 = 0x18;
/// Legacy: the doorbell.
pub const LEGACY_NOTIFY: u64 = 0x10;

/// Legacy registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyReg {
    /// Features the device offers.
    HostFeatures,
    /// Features the driver accepts.
    GuestFeatures,
    /// The selected queue's first page; 0 is none.
    QueuePfn,
    /// Its length, which is the device's to say.
    QueueSize,
    /// Which queue that is.
    QueueSelect,
    /// Notifies the device of new buffers of a queue, whichever is selected.
    QueueNotify,
    /// Device status.
    Status,
    /// Interrupt status.
    IsrStatus,
    /// Vector of configuration changes.
    ConfigVector,
    /// The selected queue's vector.
    QueueVector,
}

use LegacyReg as L;

/// The legacy registers (4.1.4.10), the last two of which are there while MSI-X is enabled.
#[rustfmt::skip]
pub const LEGACY: RegMap<LegacyReg> = RegMap::new(LEGACY_VECTORS_END, &[
    row(L::HostFeatures,  "host_features",  0x00, 4, Read),
    row(L::GuestFeatures, "guest_features", 0x04, 4, ReadWrite),
    row(L::QueuePfn,      "queue_pfn",      0x08, 4, ReadWrite).class(Class::Address).prompt(),
    row(L::QueueSize,     "queue_size",     0x0c, 2, Read),
    row(L::QueueSelect,   "queue_select",   0x0e, 2, ReadWrite),
    row(L::QueueNotify,   "queue_notify",   0x10, 2, Write).prompt(),
    row(L::Status,        "device_status",  0x12, 1, ReadWrite).prompt(),
    row(L::IsrStatus,     "isr_status",     0x13, 1, Read),
    row(L::ConfigVector,  "config_vector",  0x14, 2, ReadWrite).prompt(),
    row(L::QueueVector,   "queue_vector",   0x16, 2, ReadWrite).prompt(),
]);
