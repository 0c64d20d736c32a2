//! The registers of a modern virtio function, found by its capabilities.
//!
//! Spec: virtio 1.3, section 4.1.

use trapline_device::{Size, Space};

use super::function::{Function, Room};
use super::{Access, QueueSetup, Transport};

/// Offsets in the common configuration.
pub mod common {
    /// Which features are shown.
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    /// Features offered.
    pub const DEVICE_FEATURE: u64 = 0x04;
    /// Which features are accepted.
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    /// Features accepted.
    pub const DRIVER_FEATURE: u64 = 0x0c;
    /// Vector of configuration changes.
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    /// How many queues.
    pub const NUM_QUEUES: u64 = 0x12;
    /// Device status.
    pub const DEVICE_STATUS: u64 = 0x14;
    /// Changes with the configuration.
    pub const CONFIG_GENERATION: u64 = 0x15;
    /// Which queue.
    pub const QUEUE_SELECT: u64 = 0x16;
    /// Its length.
    pub const QUEUE_SIZE: u64 = 0x18;
    /// Its vector.
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    /// Whether it is in use.
    pub const QUEUE_ENABLE: u64 = 0x1c;
    /// Its doorbell.
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    /// Its descriptors.
    pub const QUEUE_DESC: u64 = 0x20;
    /// Its driver area.
    pub const QUEUE_DRIVER: u64 = 0x28;
    /// Its device area.
    pub const QUEUE_DEVICE: u64 = 0x30;
    /// Resets it.
    pub const QUEUE_RESET: u64 = 0x3a;
}

const CAP_VENDOR: u32 = 0x09;

/// A structure: its first address, and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Structure {
    addr: u64,
    len: u64,
}

/// A modern function.
pub struct PciTransport<A> {
    function: Function<A>,
    common: Structure,
    notify: Structure,
    multiplier: u64,
    isr: Structure,
    device: Structure,
    /// Offset of the capability that is a window onto the BAR.
    window: Option<u16>,
}

impl<A: Access> PciTransport<A> {
    /// The function at `devfn`, with its memory BARs placed one behind the other from `memory` on.
    ///
    /// # Panics
    /// When a structure that every function has is missing.
    pub fn new(access: A, devfn: u8, memory: u64) -> Self {
        // Ports of a transitional function, which nobody uses here, are beyond all others.
        let none = Structure::default();
        let function = Function::new(access, devfn, &Room::new(memory, 0xf000));
        let mut this = Self {
            function,
            common: none,
            notify: none,
            multiplier: 0,
            isr: none,
            device: none,
            window: None,
        };
        for at in this.function.capabilities() {
            this.take_capability(at);
        }
        for (name, structure) in [
            ("common", this.common),
            ("notify", this.notify),
            ("isr", this.isr),
            ("device", this.device),
        ] {
            assert_ne!(structure, none, "there is a {name} structure");
        }
        assert!(this.window.is_some(), "there is a window");
        this
    }

    fn take_capability(&mut self, at: u16) {
        let config = |offset, size| self.function.config(offset, size);
        if config(at, Size::Byte) & 0xff != CAP_VENDOR {
            return;
        }
        let offset = u64::from(config(at + 8, Size::Dword));
        let len = u64::from(config(at + 12, Size::Dword));
        let addr = self.function.bar_at(config(at + 4, Size::Byte) & 0xff) + offset;
        let structure = Structure { addr, len };
        match config(at + 3, Size::Byte) & 0xff {
            1 => self.common = structure,
            2 => {
                self.notify = structure;
                self.multiplier = config(at + 16, Size::Dword).into();
            }
            3 => self.isr = structure,
            4 => self.device = structure,
            5 => self.window = Some(at),
            _ => {}
        }
    }

    /// Reads the common configuration.
    pub fn common_read(&self, offset: u64, size: Size) -> u64 {
        self.function.access.read(Space::Mmio, self.common.addr + offset, size)
    }

    /// Writes the common configuration.
    pub fn common_write(&self, offset: u64, size: Size, value: u64) {
        self.function.access.write(Space::Mmio, self.common.addr + offset, size, value);
    }

    /// Reads at an address relative to the BAR with the structures, by way of the window in
    /// configuration space; the common configuration is at `0`.
    pub fn window_read(&self, bar: u8, offset: u32, length: u32) -> u32 {
        let at = self.aim(bar, offset, length);
        self.function.config(at + 16, window_size(length))
    }

    /// Writes by way of the window.
    pub fn window_write(&self, bar: u8, offset: u32, length: u32, value: u32) {
        let at = self.aim(bar, offset, length);
        self.function.access.config_write(self.function.devfn, at + 16, window_size(length), value);
    }

    fn aim(&self, bar: u8, offset: u32, length: u32) -> u16 {
        let at = self.window.unwrap_or(0);
        self.function.access.config_write(self.function.devfn, at + 4, Size::Byte, bar.into());
        self.function.access.config_write(self.function.devfn, at + 8, Size::Dword, offset);
        self.function.access.config_write(self.function.devfn, at + 12, Size::Dword, length);
        at
    }

    /// Enables MSI-X, with `messages` as the first vectors' addresses and data, all unmasked.
    ///
    /// # Panics
    /// When the function has none.
    pub fn enable_msix(&self, messages: &[(u64, u32)]) {
        self.function.enable_msix(messages);
    }

    /// Disables MSI-X.
    pub fn disable_msix(&self) {
        self.function.disable_msix();
    }

    /// Gives configuration changes a vector; what the register says then.
    pub fn set_config_vector(&self, vector: u16) -> u16 {
        self.common_write(common::CONFIG_MSIX_VECTOR, Size::Word, vector.into());
        self.word(common::CONFIG_MSIX_VECTOR)
    }

    /// Gives a queue a vector; what the register says then.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) -> u16 {
        self.select(queue);
        self.common_write(common::QUEUE_MSIX_VECTOR, Size::Word, vector.into());
        self.word(common::QUEUE_MSIX_VECTOR)
    }

    /// Selects a queue.
    pub fn select(&self, queue: u16) {
        self.common_write(common::QUEUE_SELECT, Size::Word, queue.into());
    }

    /// A register of 16 bits.
    pub fn word(&self, offset: u64) -> u16 {
        let value = self.common_read(offset, Size::Word) & 0xffff;
        u16::try_from(value).unwrap_or(0)
    }

    /// Writes a register of 64 bits, lower half first.
    fn set_long(&self, offset: u64, value: u64) {
        self.common_write(offset, Size::Dword, value & 0xffff_ffff);
        self.common_write(offset + 4, Size::Dword, value >> 32);
    }

    /// Resets one queue.
    pub fn reset_queue(&self, queue: u16) {
        self.select(queue);
        self.common_write(common::QUEUE_RESET, Size::Word, 1);
    }

    /// The address of a queue's doorbell.
    pub fn doorbell(&self, queue: u16) -> u64 {
        self.select(queue);
        self.notify.addr + u64::from(self.word(common::QUEUE_NOTIFY_OFF)) * self.multiplier
    }
}

/// How wide a driver accesses the data of a window of this length.
fn window_size(length: u32) -> Size {
    let size = Size::new(length as usize).filter(|size| *size <= Size::Dword);
    size.unwrap_or(Size::Dword)
}

fn byte(value: u64) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(0)
}

impl<A: Access> Transport for PciTransport<A> {
    fn status(&self) -> u8 {
        byte(self.common_read(common::DEVICE_STATUS, Size::Byte))
    }

    fn set_status(&self, status: u8) {
        self.common_write(common::DEVICE_STATUS, Size::Byte, status.into());
    }

    fn device_features(&self) -> u64 {
        let half = |select| {
            self.common_write(common::DEVICE_FEATURE_SELECT, Size::Dword, select);
            self.common_read(common::DEVICE_FEATURE, Size::Dword) & 0xffff_ffff
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&self, features: u64) {
        for select in [0, 1] {
            self.common_write(common::DRIVER_FEATURE_SELECT, Size::Dword, select);
            let half = features >> (32 * select) & 0xffff_ffff;
            self.common_write(common::DRIVER_FEATURE, Size::Dword, half);
        }
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        self.select(queue);
        self.word(common::QUEUE_SIZE)
    }

    fn enable_queue(&self, queue: u16, setup: &QueueSetup) {
        self.select(queue);
        self.common_write(common::QUEUE_SIZE, Size::Word, setup.size.into());
        self.set_long(common::QUEUE_DESC, setup.descriptors);
        self.set_long(common::QUEUE_DRIVER, setup.driver);
        self.set_long(common::QUEUE_DEVICE, setup.device);
        self.common_write(common::QUEUE_ENABLE, Size::Word, 1);
    }

    fn notify(&self, queue: u16) {
        self.function.access.write(Space::Mmio, self.doorbell(queue), Size::Word, queue.into());
    }

    fn config_read(&self, offset: u64, size: Size) -> u64 {
        self.function.access.read(Space::Mmio, self.device.addr + offset, size)
    }

    fn config_write(&self, offset: u64, size: Size, value: u64) {
        self.function.access.write(Space::Mmio, self.device.addr + offset, size, value);
    }

    fn generation(&self) -> u8 {
        byte(self.common_read(common::CONFIG_GENERATION, Size::Byte))
    }

    fn take_interrupts(&self) -> u8 {
        byte(self.function.access.read(Space::Mmio, self.isr.addr, Size::Byte))
    }
}
