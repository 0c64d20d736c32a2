//! The registers of a virtio function that legacy drivers know: ports in its first BAR.
//!
//! Spec: virtio 1.3, section 4.1.4.10.

use std::cell::Cell;

use trapline_device::{Size, Space};

use super::function::{Function, Room};
use super::{Access, QueueSetup, Transport};

/// Offsets in the BAR.
pub mod port {
    /// Features offered.
    pub const HOST_FEATURES: u64 = 0x00;
    /// Features accepted.
    pub const GUEST_FEATURES: u64 = 0x04;
    /// The queue's first page.
    pub const QUEUE_PFN: u64 = 0x08;
    /// Its length.
    pub const QUEUE_SIZE: u64 = 0x0c;
    /// Which queue.
    pub const QUEUE_SELECT: u64 = 0x0e;
    /// The doorbell.
    pub const QUEUE_NOTIFY: u64 = 0x10;
    /// Device status.
    pub const STATUS: u64 = 0x12;
    /// Interrupt status.
    pub const ISR: u64 = 0x13;
    /// Vector of configuration changes, while MSI-X is enabled.
    pub const CONFIG_VECTOR: u64 = 0x14;
    /// The queue's vector, while MSI-X is enabled.
    pub const QUEUE_VECTOR: u64 = 0x16;
    /// The device's configuration while MSI-X is not enabled.
    pub const CONFIG: u64 = 0x14;
    /// The device's configuration while it is.
    pub const CONFIG_WITH_MSIX: u64 = 0x18;
}

/// Pages of a legacy driver, in bytes.
const PAGE: u64 = 4096;

/// A function by its legacy registers.
pub struct LegacyPciTransport<A> {
    function: Function<A>,
    /// Where the BAR is, for the processor.
    base: (Space, u64),
    /// Whether the driver has enabled MSI-X.
    msix: Cell<bool>,
}

impl<A: Access> LegacyPciTransport<A> {
    /// The function at `devfn`, with its BARs placed in `room`.
    ///
    /// # Panics
    /// When its first BAR is none of ports.
    pub fn new(access: A, devfn: u8, room: &Room) -> Self {
        let function = Function::new(access, devfn, room);
        assert_eq!(function.config(0x10, Size::Dword) & 1, 1, "the first BAR is one of ports");
        let (space, from) = room.ports_at;
        let base = (space, from + function.bar_at(0));
        Self { function, base, msix: Cell::new(false) }
    }

    /// Reads a register.
    pub fn read(&self, offset: u64, size: Size) -> u64 {
        let (space, base) = self.base;
        self.function.access.read(space, base + offset, size) & size.ones()
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, size: Size, value: u64) {
        let (space, base) = self.base;
        self.function.access.write(space, base + offset, size, value);
    }

    /// Selects a queue.
    pub fn select(&self, queue: u16) {
        self.write(port::QUEUE_SELECT, Size::Word, queue.into());
    }

    /// The port of the doorbell, as the processor reaches it.
    pub fn doorbell(&self) -> (Space, u64) {
        let (space, base) = self.base;
        (space, base + port::QUEUE_NOTIFY)
    }

    /// Enables MSI-X, with `messages` as the first vectors' addresses and data, all unmasked.
    ///
    /// # Panics
    /// When the function has none.
    pub fn enable_msix(&self, messages: &[(u64, u32)]) {
        self.function.enable_msix(messages);
        self.msix.set(true);
    }

    /// Disables MSI-X.
    pub fn disable_msix(&self) {
        self.function.disable_msix();
        self.msix.set(false);
    }

    /// Gives configuration changes a vector; what the register says then.
    pub fn set_config_vector(&self, vector: u16) -> u16 {
        self.write(port::CONFIG_VECTOR, Size::Word, vector.into());
        word(self.read(port::CONFIG_VECTOR, Size::Word))
    }

    /// Gives a queue a vector; what the register says then.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) -> u16 {
        self.select(queue);
        self.write(port::QUEUE_VECTOR, Size::Word, vector.into());
        word(self.read(port::QUEUE_VECTOR, Size::Word))
    }

    fn config(&self) -> u64 {
        if self.msix.get() { port::CONFIG_WITH_MSIX } else { port::CONFIG }
    }
}

fn word(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(0)
}

fn byte(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

impl<A: Access> Transport for LegacyPciTransport<A> {
    fn is_legacy(&self) -> bool {
        true
    }

    fn status(&self) -> u8 {
        byte(self.read(port::STATUS, Size::Byte))
    }

    fn set_status(&self, status: u8) {
        self.write(port::STATUS, Size::Byte, status.into());
    }

    fn device_features(&self) -> u64 {
        self.read(port::HOST_FEATURES, Size::Dword)
    }

    fn set_driver_features(&self, features: u64) {
        self.write(port::GUEST_FEATURES, Size::Dword, features & 0xffff_ffff);
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        self.select(queue);
        word(self.read(port::QUEUE_SIZE, Size::Word))
    }

    /// The length is the device's: a ring of any other is not what the device takes it for.
    fn enable_queue(&self, queue: u16, setup: &QueueSetup) {
        self.select(queue);
        self.write(port::QUEUE_PFN, Size::Dword, setup.descriptors / PAGE);
    }

    fn notify(&self, queue: u16) {
        self.write(port::QUEUE_NOTIFY, Size::Word, queue.into());
    }

    /// No processor has a wider access to ports than one of 32 bits.
    fn config_read(&self, offset: u64, size: Size) -> u64 {
        let at = self.config() + offset;
        match size {
            Size::Qword => self.read(at, Size::Dword) | self.read(at + 4, Size::Dword) << 32,
            _ => self.read(at, size),
        }
    }

    fn config_write(&self, offset: u64, size: Size, value: u64) {
        let at = self.config() + offset;
        if size == Size::Qword {
            self.write(at, Size::Dword, value & 0xffff_ffff);
            self.write(at + 4, Size::Dword, value >> 32);
        } else {
            self.write(at, size, value);
        }
    }

    fn generation(&self) -> u8 {
        0
    }

    fn take_interrupts(&self) -> u8 {
        byte(self.read(port::ISR, Size::Byte))
    }
}
