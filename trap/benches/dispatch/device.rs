//! The device everybody dispatches to: one 32-bit register, in every peer's dialect.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use trapline::{Handler, IoCx, Size, Space};

/// Which address space, with the layout of the regions in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// 4 KiB each, side by side.
    Mmio,
    /// 8 ports each, side by side.
    Pio,
}

impl Place {
    pub(crate) const fn base(self, region: usize) -> u64 {
        match self {
            Self::Mmio => 0xd000_0000 + region as u64 * 0x1000,
            Self::Pio => 0x1000 + region as u64 * 8,
        }
    }

    pub(crate) const fn len(self) -> u64 {
        match self {
            Self::Mmio => 0x1000,
            Self::Pio => 8,
        }
    }

    pub(crate) const fn space(self) -> Space {
        match self {
            Self::Mmio => Space::Mmio,
            Self::Pio => Space::Pio,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mmio => "MMIO",
            Self::Pio => "PIO",
        }
    }
}

/// A set of regions with a device each.
pub(crate) struct Population {
    pub(crate) place: Place,
    pub(crate) devices: Vec<Arc<Register>>,
}

impl Population {
    pub(crate) fn new(place: Place, regions: usize) -> Self {
        Self { place, devices: (0..regions).map(|_| Arc::default()).collect() }
    }

    /// Base address and device of every region.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Arc<Register>)> + '_ {
        self.devices.iter().enumerate().map(|(i, device)| (self.place.base(i), Arc::clone(device)))
    }
}

/// A register on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Register(AtomicU32);

impl Register {
    #[inline]
    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    fn fill(&self, data: &mut [u8]) {
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.get().to_le_bytes();
        }
    }

    #[inline]
    fn take(&self, data: &[u8]) {
        if let Ok(data) = <[u8; 4]>::try_from(data) {
            self.set(u32::from_le_bytes(data));
        }
    }
}

impl Handler for Register {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.get().into()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.set(value as u32);
    }
}

impl vm_device::DeviceMmio for Register {
    fn mmio_read(&self, _: vm_device::bus::MmioAddress, _: u64, data: &mut [u8]) {
        self.fill(data);
    }

    fn mmio_write(&self, _: vm_device::bus::MmioAddress, _: u64, data: &[u8]) {
        self.take(data);
    }
}

impl vm_device::DevicePio for Register {
    fn pio_read(&self, _: vm_device::bus::PioAddress, _: u16, data: &mut [u8]) {
        self.fill(data);
    }

    fn pio_write(&self, _: vm_device::bus::PioAddress, _: u16, data: &[u8]) {
        self.take(data);
    }
}

impl dbs_device::DeviceIo for Register {
    fn read(&self, _: dbs_device::IoAddress, _: dbs_device::IoAddress, data: &mut [u8]) {
        self.fill(data);
    }

    fn write(&self, _: dbs_device::IoAddress, _: dbs_device::IoAddress, data: &[u8]) {
        self.take(data);
    }

    fn pio_read(&self, _: dbs_device::PioAddress, _: dbs_device::PioAddress, data: &mut [u8]) {
        self.fill(data);
    }

    fn pio_write(&self, _: dbs_device::PioAddress, _: dbs_device::PioAddress, data: &[u8]) {
        self.take(data);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
