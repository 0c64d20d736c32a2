//! A device behind each kind of registers, for tests that are to be the same behind all of them.

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

use trapline_device::{Device, SaveState, Saved, StateError};
use trapline_guestmem::GuestMem;
use trapline_testkit::TestLine;
use trapline_testkit::virtio::{Driver, Ring, Transport};

use crate::VirtioDevice;
pub(crate) use crate::machine::Registers;
use crate::machine::{Machine, Place, Plugged};
use crate::mmio::VirtioMmio;

/// How much RAM there is, from address 0.
pub(crate) const RAM: u64 = 0x40_0000;
/// Where the first queue is, and how far it is to the next.
const RINGS: u64 = 0x1_0000;
const RING: u64 = 0x8000;

/// A machine with one device, whose interrupt is a pin.
pub(crate) struct Behind {
    machine: Machine,
    pub(crate) line: TestLine,
    window: Option<Arc<VirtioMmio>>,
}

impl Deref for Behind {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Behind {
    /// `device` behind these registers.
    pub(crate) fn new(registers: Registers, device: Arc<dyn VirtioDevice>) -> Self {
        Self::plugged(Machine::new(registers, RAM), device)
    }

    /// A device of the machine's memory behind these registers.
    pub(crate) fn with<D: VirtioDevice + 'static>(
        registers: Registers,
        make: impl FnOnce(&GuestMem) -> Arc<D>,
    ) -> (Self, Arc<D>) {
        let machine = Machine::new(registers, RAM);
        let device = make(&machine.mem);
        (Self::plugged(machine, device.clone()), device)
    }

    fn plugged(machine: Machine, device: Arc<dyn VirtioDevice>) -> Self {
        let Plugged { line, window } = machine.plug(Place::FIRST, "virtio0", device);
        Self { machine, line, window }
    }

    /// A driver that has just found it.
    pub(crate) fn driver(&self) -> Driver<Box<dyn Transport + '_>> {
        Driver::new(self.transport(Place::FIRST))
    }

    /// An empty ring for a queue, as long as the device has it.
    pub(crate) fn ring(
        &self,
        driver: &Driver<Box<dyn Transport + '_>>,
        queue: u16,
    ) -> Ring<GuestMem> {
        let size = driver.transport.queue_size_max(queue);
        Ring::new(self.mem.clone(), RINGS + u64::from(queue) * RING, size)
    }

    /// Lets the device do all it has to.
    pub(crate) fn settle(&self) {
        self.bench.settle();
    }

    /// As the board's reset.
    pub(crate) fn reset(&self) {
        match &self.window {
            None => self.bus.reset(),
            Some(window) => window.reset(),
        }
    }

    pub(crate) fn save(&self) -> Saved {
        match &self.window {
            None => self.bus.save(),
            Some(window) => window.save(),
        }
    }

    pub(crate) fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        match &self.window {
            None => self.bus.restore(saved),
            Some(window) => window.restore(saved),
        }
    }

    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }
}
