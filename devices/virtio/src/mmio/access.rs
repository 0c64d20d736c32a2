//! The registers, one by one.

use trapline_device::Direction;

use super::regs::{LEGACY_VERSION, MAGIC, MmioReg, VENDOR, VERSION};
use super::{NOTHING, VirtioMmio};
use crate::QueuePlace;
use crate::transport::{Area, Change, legacy_place};

impl VirtioMmio {
    pub(super) fn register_read(&self, offset: u64) -> u32 {
        let Some(reg) = self.reg(offset, Direction::Read) else { return NOTHING };
        let state = self.core.state();
        match reg {
            MmioReg::MagicValue => MAGIC,
            MmioReg::Version if self.is_legacy() => LEGACY_VERSION,
            MmioReg::Version => VERSION,
            MmioReg::DeviceId => self.core.device_type() as u32,
            MmioReg::VendorId => VENDOR,
            MmioReg::DeviceFeatures => {
                self.core.offered(self.interface, state.device_feature_select)
            }
            MmioReg::QueueSizeMax => state.queue().map_or(0, |queue| queue.max_size.into()),
            MmioReg::QueueReady => state.queue().is_some_and(|queue| queue.enabled).into(),
            MmioReg::QueuePfn => {
                let page = u64::from(self.pages.lock().size).max(1);
                let pfn = state.queue().map_or(0, |queue| queue.descriptors / page);
                u32::try_from(pfn).unwrap_or(0)
            }
            MmioReg::InterruptStatus => *self.interrupt.status.lock(),
            MmioReg::Status => self.core.status(&state).into(),
            MmioReg::ConfigGeneration => self.core.generation().into(),
            // A region that there is not has all ones of everything.
            MmioReg::ShmLenLow
            | MmioReg::ShmLenHigh
            | MmioReg::ShmBaseLow
            | MmioReg::ShmBaseHigh => u32::MAX,
            // QueueReset: a reset is over when the write returns. All others are for writing.
            _ => NOTHING,
        }
    }

    pub(super) fn register_write(&self, offset: u64, value: u32) -> Change {
        let Some(reg) = self.reg(offset, Direction::Write) else { return Change::None };
        let address = |area, high| {
            if let Some(queue) = self.core.state().queue_mut() {
                queue.set_address(area, high, value);
            }
        };
        match reg {
            MmioReg::DeviceFeaturesSel => self.core.state().device_feature_select = value,
            MmioReg::DriverFeaturesSel => self.core.state().driver_feature_select = value,
            MmioReg::DriverFeatures => {
                let select = self.core.state().driver_feature_select;
                self.core.accept(self.interface, select, value);
            }
            // Whatever has no 16 bits is no queue.
            MmioReg::QueueSel => {
                self.core.state().queue_select = u16::try_from(value).unwrap_or(u16::MAX);
            }
            MmioReg::QueueSize => {
                if let Some(queue) = self.core.state().queue_mut() {
                    queue.set_size(value);
                }
            }
            MmioReg::QueueReady if value == 1 => self.core.enable_queue(),
            MmioReg::QueueReady if value == 0 => self.core.disable_queue(),
            MmioReg::QueueNotify => {
                if let Ok(queue) = u16::try_from(value) {
                    self.core.ring(queue);
                }
            }
            MmioReg::InterruptAck => self.interrupt.acknowledge(value),
            MmioReg::Status => {
                let [status, ..] = value.to_le_bytes();
                return self.core.set_status(self.interface, status);
            }
            MmioReg::QueueDescLow => address(Area::Descriptors, false),
            MmioReg::QueueDescHigh => address(Area::Descriptors, true),
            MmioReg::QueueDriverLow => address(Area::Driver, false),
            MmioReg::QueueDriverHigh => address(Area::Driver, true),
            MmioReg::QueueDeviceLow => address(Area::Device, false),
            MmioReg::QueueDeviceHigh => address(Area::Device, true),
            MmioReg::QueueReset if value == 1 => {
                self.core.reset_queue();
            }
            MmioReg::GuestPageSize => self.pages.lock().size = value,
            MmioReg::QueueAlign => self.set_align(value),
            MmioReg::QueuePfn => self.set_pfn(value),
            _ => {}
        }
        Change::None
    }

    fn set_align(&self, align: u32) {
        let queue = usize::from(self.core.state().queue_select);
        if let Some(own) = self.pages.lock().aligns.get_mut(queue) {
            *own = align;
        }
    }

    /// A legacy driver says where a queue is, all of it behind each other, or that it is nowhere.
    fn set_pfn(&self, pfn: u32) {
        if pfn == 0 {
            self.core.disable_queue();
            self.core.move_queue(&QueuePlace::default());
            return;
        }
        let (select, size) = {
            let state = self.core.state();
            let Some(queue) = state.queue() else { return };
            (usize::from(state.queue_select), queue.size)
        };
        let (page, align) = {
            let pages = self.pages.lock();
            (pages.size, pages.aligns.get(select).copied().unwrap_or(0))
        };
        let place = legacy_place(u64::from(pfn) * u64::from(page), size, align);
        self.core.move_queue(&place);
        self.core.enable_queue();
    }
}
