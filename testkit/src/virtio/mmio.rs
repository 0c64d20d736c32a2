//! The registers of a virtio device behind MMIO, of either version.
//!
//! Spec: virtio 1.3, section 4.2.

use trapline_device::{Size, Space};

use super::{Access, QueueSetup, Transport};

/// Offsets in the window.
pub mod reg {
    /// "virt".
    pub const MAGIC: u64 = 0x000;
    /// 2, or 1 of a legacy device.
    pub const VERSION: u64 = 0x004;
    /// Type of the device.
    pub const DEVICE_ID: u64 = 0x008;
    /// Features offered.
    pub const DEVICE_FEATURES: u64 = 0x010;
    /// Which of them.
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    /// Features accepted.
    pub const DRIVER_FEATURES: u64 = 0x020;
    /// Which of them.
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    /// Legacy: size of the driver's pages.
    pub const GUEST_PAGE_SIZE: u64 = 0x028;
    /// Which queue.
    pub const QUEUE_SEL: u64 = 0x030;
    /// The most descriptors it can have.
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    /// How many it has.
    pub const QUEUE_SIZE: u64 = 0x038;
    /// Legacy: alignment of the used ring.
    pub const QUEUE_ALIGN: u64 = 0x03c;
    /// Legacy: its first page.
    pub const QUEUE_PFN: u64 = 0x040;
    /// Whether it is in use.
    pub const QUEUE_READY: u64 = 0x044;
    /// The doorbell.
    pub const QUEUE_NOTIFY: u64 = 0x050;
    /// Why it interrupts.
    pub const INTERRUPT_STATUS: u64 = 0x060;
    /// What of it was dealt with.
    pub const INTERRUPT_ACK: u64 = 0x064;
    /// Device status.
    pub const STATUS: u64 = 0x070;
    /// Address of the descriptors.
    pub const QUEUE_DESC: u64 = 0x080;
    /// Of the driver area.
    pub const QUEUE_DRIVER: u64 = 0x090;
    /// Of the device area.
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    /// Resets the queue.
    pub const QUEUE_RESET: u64 = 0x0c0;
    /// Changes with the configuration.
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    /// The device's configuration.
    pub const CONFIG: u64 = 0x100;
}

/// Pages of a legacy driver, in bytes.
const PAGE: u64 = 4096;

/// A device behind a window at some address.
pub struct MmioTransport<A> {
    access: A,
    base: u64,
    legacy: bool,
}

impl<A: Access> MmioTransport<A> {
    /// The device whose window is at `base`, of the version it says.
    ///
    /// # Panics
    /// When there is none.
    pub fn new(access: A, base: u64) -> Self {
        let mut this = Self { access, base, legacy: false };
        assert_eq!(this.read(reg::MAGIC), 0x7472_6976, "a virtio device is at {base:#x}");
        this.legacy = match this.read(reg::VERSION) {
            1 => true,
            2 => false,
            version => panic!("there is no version {version}"),
        };
        // As Linux does it: once, before the first reset.
        if this.legacy {
            this.write(reg::GUEST_PAGE_SIZE, u32::try_from(PAGE).unwrap_or(0));
        }
        this
    }

    /// Reads a register.
    pub fn read(&self, offset: u64) -> u32 {
        let value = self.access.read(Space::Mmio, self.base + offset, Size::Dword);
        u32::try_from(value & 0xffff_ffff).unwrap_or(0)
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        self.access.write(Space::Mmio, self.base + offset, Size::Dword, value.into());
    }

    fn write_long(&self, offset: u64, value: u64) {
        let half = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        self.write(offset, half(value));
        self.write(offset + 4, half(value >> 32));
    }
}

impl<A: Access> Transport for MmioTransport<A> {
    fn is_legacy(&self) -> bool {
        self.legacy
    }

    fn status(&self) -> u8 {
        u8::try_from(self.read(reg::STATUS)).unwrap_or(u8::MAX)
    }

    fn set_status(&self, status: u8) {
        self.write(reg::STATUS, status.into());
    }

    fn device_features(&self) -> u64 {
        let half = |select| {
            self.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&self, features: u64) {
        for select in [0, 1] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            let half = features >> (32 * select) & 0xffff_ffff;
            self.write(reg::DRIVER_FEATURES, u32::try_from(half).unwrap_or(0));
        }
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        self.write(reg::QUEUE_SEL, queue.into());
        u16::try_from(self.read(reg::QUEUE_SIZE_MAX)).unwrap_or(0)
    }

    fn enable_queue(&self, queue: u16, setup: &QueueSetup) {
        self.write(reg::QUEUE_SEL, queue.into());
        self.write(reg::QUEUE_SIZE, setup.size.into());
        if self.legacy {
            self.write(reg::QUEUE_ALIGN, u32::try_from(PAGE).unwrap_or(0));
            self.write(reg::QUEUE_PFN, u32::try_from(setup.descriptors / PAGE).unwrap_or(0));
            return;
        }
        self.write_long(reg::QUEUE_DESC, setup.descriptors);
        self.write_long(reg::QUEUE_DRIVER, setup.driver);
        self.write_long(reg::QUEUE_DEVICE, setup.device);
        self.write(reg::QUEUE_READY, 1);
    }

    fn notify(&self, queue: u16) {
        self.write(reg::QUEUE_NOTIFY, queue.into());
    }

    fn config_read(&self, offset: u64, size: Size) -> u64 {
        self.access.read(Space::Mmio, self.base + reg::CONFIG + offset, size)
    }

    fn config_write(&self, offset: u64, size: Size, value: u64) {
        self.access.write(Space::Mmio, self.base + reg::CONFIG + offset, size, value);
    }

    fn generation(&self) -> u8 {
        if self.legacy {
            return 0;
        }
        u8::try_from(self.read(reg::CONFIG_GENERATION)).unwrap_or(u8::MAX)
    }

    fn take_interrupts(&self) -> u8 {
        let status = self.read(reg::INTERRUPT_STATUS);
        self.write(reg::INTERRUPT_ACK, status);
        u8::try_from(status).unwrap_or(u8::MAX)
    }
}
