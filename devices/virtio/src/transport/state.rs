//! The state of the registers that all transports have, and what a snapshot keeps of it.

use trapline_device::{Saved, saved_form};

use crate::{QueuePlace, QueuePosition};

/// Bits of the device status (virtio 1.3, section 2.1).
pub(crate) struct StatusBits;

impl StatusBits {
    /// A driver has noticed the device.
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    /// It knows how to drive it.
    pub(crate) const DRIVER: u8 = 2;
    /// It is ready.
    pub(crate) const DRIVER_OK: u8 = 4;
    /// Features are settled.
    pub(crate) const FEATURES_OK: u8 = 8;
    /// The device has met an error.
    pub(crate) const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub(crate) const FAILED: u8 = 128;
    /// Those that the driver sets.
    pub(crate) const DRIVERS: u8 =
        Self::ACKNOWLEDGE | Self::DRIVER | Self::DRIVER_OK | Self::FEATURES_OK | Self::FAILED;
}

/// What a driver has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Without `DEVICE_NEEDS_RESET`, which is the device's.
    pub(crate) status: u8,
    pub(crate) device_feature_select: u32,
    pub(crate) driver_feature_select: u32,
    /// Those the driver has accepted, whether they were offered or not.
    pub(crate) features: u64,
    /// Whether it has accepted any past the 64th.
    pub(crate) beyond: bool,
    pub(crate) queue_select: u16,
    pub(crate) queues: Vec<QueueState>,
}

/// A part of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// The descriptor table.
    Descriptors,
    /// The driver area: the available ring.
    Driver,
    /// The device area: the used ring.
    Device,
}

/// One queue's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueState {
    /// The device's, and not the driver's to change.
    pub(crate) max_size: u16,
    pub(crate) size: u16,
    pub(crate) enabled: bool,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    /// Where a started queue is; in a snapshot only.
    pub(crate) position: Option<QueuePosition>,
}

impl State {
    pub(crate) fn new(sizes: &[u16]) -> Self {
        Self {
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            features: 0,
            beyond: false,
            queue_select: 0,
            queues: sizes.iter().map(|size| QueueState::new(*size)).collect(),
        }
    }

    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(&sizes);
    }

    /// What the driver has accepted: 32 features, as selected.
    pub(crate) fn accepted(&self, select: u32) -> u32 {
        half_of(self.features, select)
    }

    /// Whether the driver has started the device.
    pub(crate) fn is_running(&self) -> bool {
        self.status & StatusBits::DRIVER_OK != 0
    }

    /// The selected queue, if there is one.
    pub(crate) fn queue(&self) -> Option<&QueueState> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue, if there is one.
    pub(crate) fn queue_mut(&mut self) -> Option<&mut QueueState> {
        self.queues.get_mut(usize::from(self.queue_select))
    }
}

/// 32 of 64 features.
pub(super) fn half_of(features: u64, select: u32) -> u32 {
    let shifted = match select {
        0 => features,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(shifted & u64::from(u32::MAX)).unwrap_or(0)
}

impl QueueState {
    pub(crate) fn new(max_size: u16) -> Self {
        let (enabled, position) = (false, None);
        let size = max_size;
        Self { max_size, size, enabled, descriptors: 0, driver: 0, device: 0, position }
    }

    pub(crate) fn place(&self) -> QueuePlace {
        let Self { size, descriptors, driver, device, .. } = *self;
        QueuePlace { size, descriptors, driver, device }
    }

    /// Sets the size, if it is one the queue can have, and not in use.
    pub(crate) fn set_size(&mut self, size: u32) {
        if let Ok(size) = u16::try_from(size)
            && !self.enabled
            && size.is_power_of_two()
            && size <= self.max_size
        {
            self.size = size;
        }
    }

    fn area(&mut self, area: Area) -> &mut u64 {
        match area {
            Area::Descriptors => &mut self.descriptors,
            Area::Driver => &mut self.driver,
            Area::Device => &mut self.device,
        }
    }

    /// The lower or the upper half of an address.
    pub(crate) fn address(&self, area: Area, high: bool) -> u32 {
        let address = *self.clone().area(area);
        let half = if high { address >> 32 } else { address & u64::from(u32::MAX) };
        u32::try_from(half).unwrap_or(0)
    }

    /// Sets a half of an address, unless the queue is in use.
    pub(crate) fn set_address(&mut self, area: Area, high: bool, value: u32) {
        if self.enabled {
            return;
        }
        let address = self.area(area);
        *address = match high {
            false => *address & !u64::from(u32::MAX) | u64::from(value),
            true => *address & u64::from(u32::MAX) | u64::from(value) << 32,
        };
    }

    /// Whether a snapshot can say this of a queue.
    pub(super) fn is_possible(&self) -> bool {
        let size = self.size.is_power_of_two() && self.size <= self.max_size;
        let position = self.position.as_ref();
        size && position.is_none_or(|position| self.enabled && position.is_possible(self.size))
    }
}

/// What a snapshot keeps of a device behind whatever transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreState {
    pub(crate) state: State,
    pub(crate) needs_reset: bool,
    pub(crate) generation: u8,
    pub(crate) config_read: bool,
    pub(crate) device: Saved,
}

saved_form! {
    /// [`CoreState`], in a transport's version 1.
    pub(crate) struct CoreV1 of CoreState {
        state: StateV1,
        needs_reset: bool,
        generation: u8,
        config_read: bool,
        device: Saved,
    }
}

saved_form! {
    /// [`State`], in a transport's version 1.
    pub(crate) struct StateV1 of State {
        status: u8,
        device_feature_select: u32,
        driver_feature_select: u32,
        features: u64,
        beyond: bool,
        queue_select: u16,
        queues: Vec<QueueV1> => list,
    }
}

saved_form! {
    /// [`QueueState`], in a transport's version 1.
    pub(crate) struct QueueV1 of QueueState {
        max_size: u16,
        size: u16,
        enabled: bool,
        descriptors: u64,
        driver: u64,
        device: u64,
        position: Option<QueuePosition>,
    }
}
