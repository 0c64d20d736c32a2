//! The common configuration structure of virtio over PCI (virtio 1.3, section 4.1.4.3).

use trapline_device::Size;

use super::VirtioPci;
use super::regs::{COMMON_CFG, CommonReg};
use crate::transport::{Area, Change, Interface};

impl VirtioPci {
    /// Answers a read; one that is not of the register's width is all ones.
    pub(super) fn common_read(&self, offset: u64, size: Size) -> u64 {
        let Some(row) = COMMON_CFG.for_read(offset) else { return 0 };
        let Some(high) = half(offset, size, row.offset, row.width) else { return size.ones() };
        let state = self.core.state();
        let (queue, select) = (state.queue(), state.queue_select);
        let address = |area| queue.map_or(0, |queue| queue.address(area, high).into());
        match row.reg {
            CommonReg::DeviceFeatureSelect => state.device_feature_select.into(),
            CommonReg::DeviceFeature => {
                self.core.offered(Interface::Modern, state.device_feature_select).into()
            }
            CommonReg::DriverFeatureSelect => state.driver_feature_select.into(),
            CommonReg::DriverFeature => state.accepted(state.driver_feature_select).into(),
            CommonReg::ConfigMsixVector => self.interrupts.config_vector().into(),
            CommonReg::NumQueues => self.core.queue_count().into(),
            CommonReg::DeviceStatus => self.core.status(&state).into(),
            CommonReg::ConfigGeneration => self.core.generation().into(),
            CommonReg::QueueSelect => select.into(),
            CommonReg::QueueSize => queue.map_or(0, |queue| queue.size.into()),
            CommonReg::QueueMsixVector => self.interrupts.queue_vector(select).into(),
            CommonReg::QueueEnable => queue.is_some_and(|queue| queue.enabled).into(),
            // Each queue has the doorbell of its number.
            CommonReg::QueueNotifyOff => queue.map_or(0, |_| select.into()),
            CommonReg::QueueDesc => address(Area::Descriptors),
            CommonReg::QueueDriver => address(Area::Driver),
            CommonReg::QueueDevice => address(Area::Device),
            // A reset is over when the write returns.
            CommonReg::QueueReset => 0,
        }
    }

    /// Takes a write; one that is not of the register's width vanishes.
    pub(super) fn common_write(&self, offset: u64, size: Size, value: u64) -> Change {
        let Some(row) = COMMON_CFG.for_write(offset) else { return Change::None };
        let Some(high) = half(offset, size, row.offset, row.width) else { return Change::None };
        let [a, b, c, d, ..] = value.to_le_bytes();
        let (word, dword) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([a, b, c, d]));
        let address = |area| {
            if let Some(queue) = self.core.state().queue_mut() {
                queue.set_address(area, high, dword);
            }
        };
        match row.reg {
            CommonReg::DeviceFeatureSelect => self.core.state().device_feature_select = dword,
            CommonReg::DriverFeatureSelect => self.core.state().driver_feature_select = dword,
            CommonReg::DriverFeature => {
                let select = self.core.state().driver_feature_select;
                self.core.accept(Interface::Modern, select, dword);
            }
            CommonReg::ConfigMsixVector => self.interrupts.set_config_vector(word),
            CommonReg::DeviceStatus => return self.core.set_status(Interface::Modern, a),
            CommonReg::QueueSelect => self.core.state().queue_select = word,
            CommonReg::QueueSize => {
                if let Some(queue) = self.core.state().queue_mut() {
                    queue.set_size(word.into());
                }
            }
            CommonReg::QueueMsixVector => {
                let queue = self.core.state().queue_select;
                self.interrupts.set_queue_vector(queue, word);
            }
            // Drivers must not write anything else (4.1.4.3.2).
            CommonReg::QueueEnable if word == 1 => self.core.enable_queue(),
            CommonReg::QueueDesc => address(Area::Descriptors),
            CommonReg::QueueDriver => address(Area::Driver),
            CommonReg::QueueDevice => address(Area::Device),
            CommonReg::QueueReset if word == 1 => {
                let queue = self.core.state().queue_select;
                if self.core.reset_queue() {
                    self.interrupts.set_queue_vector(queue, super::regs::NO_VECTOR);
                }
            }
            CommonReg::QueueEnable | CommonReg::QueueReset => {}
            CommonReg::DeviceFeature
            | CommonReg::NumQueues
            | CommonReg::ConfigGeneration
            | CommonReg::QueueNotifyOff => {}
        }
        Change::None
    }
}

/// Whether an access is of the whole register, or of which half of one of 64 bits.
fn half(offset: u64, size: Size, start: u32, width: u32) -> Option<bool> {
    let inside = offset - u64::from(start);
    match (width, size, inside) {
        (8, Size::Dword, 0) => Some(false),
        (8, Size::Dword, 4) => Some(true),
        (_, _, 0) if size.bytes() == width as usize => Some(false),
        _ => None,
    }
}
