//! How a driver starts a device, over any transport.
//!
//! Spec: virtio 1.3, section 3.1.

use trapline_device::{Size, Space};

use super::{Ram, Ring};

/// Bits of the device status.
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// It knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// It is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are settled.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// A guest's accesses: whoever makes them.
pub trait Access {
    /// Reads `size` bytes at an address.
    fn read(&self, space: Space, addr: u64, size: Size) -> u64;

    /// Writes `size` bytes at an address.
    fn write(&self, space: Space, addr: u64, size: Size, value: u64);

    /// Reads the configuration space of a function of bus 0.
    fn config_read(&self, devfn: u8, offset: u16, size: Size) -> u32;

    /// Writes it.
    fn config_write(&self, devfn: u8, offset: u16, size: Size, value: u32);
}

impl<A: Access + ?Sized> Access for &A {
    fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        (**self).read(space, addr, size)
    }

    fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        (**self).write(space, addr, size, value);
    }

    fn config_read(&self, devfn: u8, offset: u16, size: Size) -> u32 {
        (**self).config_read(devfn, offset, size)
    }

    fn config_write(&self, devfn: u8, offset: u16, size: Size, value: u32) {
        (**self).config_write(devfn, offset, size, value);
    }
}

/// Where a queue is, as a driver tells a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSetup {
    /// How many descriptors.
    pub size: u16,
    /// Guest physical address of their table.
    pub descriptors: u64,
    /// Of the driver area.
    pub driver: u64,
    /// Of the device area.
    pub device: u64,
}

impl<R: Ram> From<&Ring<R>> for QueueSetup {
    fn from(ring: &Ring<R>) -> Self {
        Self {
            size: ring.size(),
            descriptors: ring.descriptors(),
            driver: ring.driver(),
            device: ring.device(),
        }
    }
}

/// A device's registers.
pub trait Transport {
    /// Whether they are those of before version 1.0.
    fn is_legacy(&self) -> bool {
        false
    }

    /// The device status.
    fn status(&self) -> u8;

    /// Writes it.
    fn set_status(&self, status: u8);

    /// The features the device offers.
    fn device_features(&self) -> u64;

    /// Accepts features.
    fn set_driver_features(&self, features: u64);

    /// The most descriptors of a queue; 0 when there is no such queue.
    fn queue_size_max(&self, queue: u16) -> u16;

    /// Sets a queue up and enables it.
    fn enable_queue(&self, queue: u16, setup: &QueueSetup);

    /// Notifies the device of new buffers.
    fn notify(&self, queue: u16);

    /// Reads the device's configuration.
    fn config_read(&self, offset: u64, size: Size) -> u64;

    /// Writes it.
    fn config_write(&self, offset: u64, size: Size, value: u64);

    /// What changes with the configuration; 0 where there is no such register.
    fn generation(&self) -> u8;

    /// What the device interrupts for: bit 0 used buffers, bit 1 its configuration. Acknowledges it.
    fn take_interrupts(&self) -> u8;
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn is_legacy(&self) -> bool {
        (**self).is_legacy()
    }

    fn status(&self) -> u8 {
        (**self).status()
    }

    fn set_status(&self, status: u8) {
        (**self).set_status(status);
    }

    fn device_features(&self) -> u64 {
        (**self).device_features()
    }

    fn set_driver_features(&self, features: u64) {
        (**self).set_driver_features(features);
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        (**self).queue_size_max(queue)
    }

    fn enable_queue(&self, queue: u16, setup: &QueueSetup) {
        (**self).enable_queue(queue, setup);
    }

    fn notify(&self, queue: u16) {
        (**self).notify(queue);
    }

    fn config_read(&self, offset: u64, size: Size) -> u64 {
        (**self).config_read(offset, size)
    }

    fn config_write(&self, offset: u64, size: Size, value: u64) {
        (**self).config_write(offset, size, value);
    }

    fn generation(&self) -> u8 {
        (**self).generation()
    }

    fn take_interrupts(&self) -> u8 {
        (**self).take_interrupts()
    }
}

/// A driver that keeps to the rules.
pub struct Driver<T> {
    /// The registers.
    pub transport: T,
}

impl<T: Transport> Driver<T> {
    /// A driver of the device with these registers.
    pub fn new(transport: T) -> Self {
        Self { transport }
    }

    /// Resets the device, and waits until it is.
    pub fn reset(&self) {
        self.transport.set_status(0);
        assert_eq!(self.transport.status(), 0, "a reset is over at once");
    }

    /// From a reset to settled features: of those wanted, the ones the device offers. `None` when
    /// it refuses them.
    pub fn negotiate(&self, wanted: u64) -> Option<u64> {
        self.reset();
        let transport = &self.transport;
        transport.set_status(status::ACKNOWLEDGE);
        transport.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = wanted & transport.device_features();
        transport.set_driver_features(features);
        if transport.is_legacy() {
            return Some(features);
        }
        let settled = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        transport.set_status(settled);
        (transport.status() == settled).then_some(features)
    }

    /// Says that the driver is ready.
    pub fn ready(&self) {
        self.transport.set_status(self.transport.status() | status::DRIVER_OK);
    }

    /// Starts the device from a reset, with these queues at least; the features it has then.
    ///
    /// # Panics
    /// When it refuses them.
    pub fn start<R: Ram>(&self, wanted: u64, rings: &[&Ring<R>]) -> u64 {
        let features = self.negotiate(wanted);
        let features = features.unwrap_or_else(|| panic!("features {wanted:#x} are refused"));
        for (queue, ring) in (0..).zip(rings) {
            self.transport.enable_queue(queue, &QueueSetup::from(*ring));
        }
        self.ready();
        features
    }
}
