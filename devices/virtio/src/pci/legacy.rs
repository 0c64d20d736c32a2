//! The registers of drivers of before 1.0, in a BAR of ports.
//!
//! Spec: virtio 1.3, section 4.1.4.10; virtio 0.9.5, section 2.1.
//!
//! Deviation: the device's configuration is little-endian. It is the guest's order by the
//! specification, which is the same on the processors there are boards for, unless an arm64 guest is
//! a big-endian one.

use trapline_device::{Delivery, Direction, Size, Window};

use super::VirtioPci;
use super::regs::{LEGACY, LEGACY_NOTIFY, LEGACY_VECTORS, LEGACY_VECTORS_END, LegacyReg};
use crate::QueuePlace;
use crate::transport::{Change, Interface, LEGACY_PAGE, legacy_place};

/// The length of the BAR of a device with so many bytes of configuration.
pub(super) fn bar_len(config_len: u32) -> u32 {
    (LEGACY_VECTORS_END + config_len).next_power_of_two()
}

impl VirtioPci {
    /// Where the device's configuration begins: the registers of vectors are there only while MSI-X
    /// is enabled.
    fn legacy_config(&self) -> u64 {
        let begin = match self.interrupts.are_messages() {
            true => LEGACY_VECTORS_END,
            false => LEGACY_VECTORS,
        };
        begin.into()
    }

    /// The register at `offset`, if there is one that begins there and is as wide.
    fn legacy_reg(offset: u64, size: Size, direction: Direction) -> Option<LegacyReg> {
        let row = match direction {
            Direction::Read => LEGACY.for_read(offset),
            Direction::Write => LEGACY.for_write(offset),
        }?;
        let whole = offset == u64::from(row.offset) && size.bytes() == row.width as usize;
        whole.then_some(row.reg)
    }

    /// Answers a read; one that is not of the register's width is all ones.
    pub(super) fn legacy_read(&self, offset: u64, size: Size) -> u64 {
        if let Some(offset) = offset.checked_sub(self.legacy_config()) {
            return self.core.config_read(offset, size);
        }
        let Some(reg) = Self::legacy_reg(offset, size, Direction::Read) else {
            return size.ones();
        };
        let state = self.core.state();
        let (queue, select) = (state.queue(), state.queue_select);
        match reg {
            LegacyReg::HostFeatures => self.core.offered(Interface::Legacy, 0).into(),
            LegacyReg::GuestFeatures => state.accepted(0).into(),
            LegacyReg::QueuePfn => {
                let page = queue.map_or(0, |queue| queue.descriptors / u64::from(LEGACY_PAGE));
                page & u64::from(u32::MAX)
            }
            LegacyReg::QueueSize => queue.map_or(0, |queue| queue.size.into()),
            LegacyReg::QueueSelect => select.into(),
            LegacyReg::QueueNotify => 0,
            LegacyReg::Status => self.core.status(&state).into(),
            LegacyReg::IsrStatus => self.interrupts.take_isr().into(),
            LegacyReg::ConfigVector => self.interrupts.config_vector().into(),
            LegacyReg::QueueVector => self.interrupts.queue_vector(select).into(),
        }
    }

    /// Takes a write; one that is not of the register's width vanishes.
    pub(super) fn legacy_write(&self, offset: u64, size: Size, value: u64) -> Change {
        if let Some(offset) = offset.checked_sub(self.legacy_config()) {
            self.core.config_write(offset, size, value);
            return Change::None;
        }
        let Some(reg) = Self::legacy_reg(offset, size, Direction::Write) else {
            return Change::None;
        };
        let [a, b, c, d, ..] = value.to_le_bytes();
        let (word, dword) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([a, b, c, d]));
        match reg {
            LegacyReg::GuestFeatures => self.core.accept(Interface::Legacy, 0, dword),
            LegacyReg::QueuePfn => self.place_legacy_queue(dword),
            LegacyReg::QueueSelect => self.core.state().queue_select = word,
            // A doorbell that is not switched on.
            LegacyReg::QueueNotify => self.core.ring(word),
            LegacyReg::Status => return self.core.set_status(Interface::Legacy, a),
            LegacyReg::ConfigVector => self.interrupts.set_config_vector(word),
            LegacyReg::QueueVector => {
                let queue = self.core.state().queue_select;
                self.interrupts.set_queue_vector(queue, word);
            }
            LegacyReg::HostFeatures | LegacyReg::QueueSize | LegacyReg::IsrStatus => {}
        }
        Change::None
    }

    /// The selected queue begins at this page, or is nowhere.
    fn place_legacy_queue(&self, page: u32) {
        if page == 0 {
            self.core.disable_queue();
            self.core.move_queue(&QueuePlace::default());
            return;
        }
        let Some(size) = self.core.state().queue().map(|queue| queue.size) else { return };
        let base = u64::from(page) * u64::from(LEGACY_PAGE);
        self.core.move_queue(&legacy_place(base, size, LEGACY_PAGE));
        self.core.enable_queue();
    }

    /// The doorbells of the queues: the values written to one port.
    pub(super) fn legacy_doorbells(&self) -> Vec<Window> {
        let window = |queue| {
            let target = self.core.doorbell(queue)?;
            let delivery = Delivery::Doorbell { target, datamatch: Some(queue.into()) };
            Some(Window { offset: LEGACY_NOTIFY, len: 2, delivery })
        };
        (0..self.core.queue_count()).filter_map(window).collect()
    }

    pub(super) fn legacy_register(
        &self,
        offset: u64,
        direction: Direction,
    ) -> Option<&'static str> {
        if offset >= self.legacy_config() {
            return Some("device_cfg");
        }
        let row = match direction {
            Direction::Read => LEGACY.for_read(offset),
            Direction::Write => LEGACY.for_write(offset),
        };
        row.map(|row| row.name)
    }
}
