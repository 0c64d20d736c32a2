//! A device behind each kind of registers, for tests that are to be the same behind all of them.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use trapline_device::{
    Device, Interrupt, Region, RegionEdit, SaveState, Saved, Size, Space, StateError,
};
use trapline_guestmem::GuestMem;
use trapline_pci::{BridgeWindow, Bus, Devfn, Slot, WindowKind};
use trapline_testkit::TestLine;
use trapline_testkit::virtio::{
    Access, Bench, Driver, LegacyPciTransport, MmioTransport, PciTransport, Ring, Room, Transport,
};

use crate::VirtioDevice;
use crate::mmio::VirtioMmio;
use crate::mmio::regs::WINDOW_LEN;
use crate::pci::{PciInterface, VirtioPci};

const DEVFN: u8 = 3 << 3;
const MEMORY: u64 = 0xe000_0000;
const PORTS: u64 = 0xc000;
const WINDOW: u64 = 0x1_0000_0000;
/// How much RAM there is, from address 0.
pub(crate) const RAM: u64 = 0x40_0000;
/// Where the first queue is, and how far it is to the next.
const RINGS: u64 = 0x1_0000;
const RING: u64 = 0x8000;

/// What registers a driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    Pci,
    PciLegacy,
    /// Those of version 1.0 of a transitional function.
    TransitionalModern,
    /// Those of before.
    TransitionalLegacy,
    Mmio,
    MmioLegacy,
}

impl Registers {
    pub(crate) const ALL: [Self; 6] = [
        Self::Pci,
        Self::PciLegacy,
        Self::TransitionalModern,
        Self::TransitionalLegacy,
        Self::Mmio,
        Self::MmioLegacy,
    ];

    /// Whether they are those of before version 1.0.
    pub(crate) fn are_legacy(self) -> bool {
        matches!(self, Self::PciLegacy | Self::TransitionalLegacy | Self::MmioLegacy)
    }

    fn interface(self) -> Option<PciInterface> {
        match self {
            Self::Pci => Some(PciInterface::Modern),
            Self::PciLegacy => Some(PciInterface::Legacy),
            Self::TransitionalModern | Self::TransitionalLegacy => Some(PciInterface::Transitional),
            Self::Mmio | Self::MmioLegacy => None,
        }
    }
}

/// What the device is plugged into.
enum Place {
    Bus(Bus),
    Window(Arc<VirtioMmio>),
}

/// A machine with one device, whose interrupt is a pin.
pub(crate) struct Behind {
    pub(crate) bench: Bench,
    pub(crate) mem: GuestMem,
    pub(crate) line: TestLine,
    registers: Registers,
    place: Place,
}

impl Access for Behind {
    fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        self.bench.read(space, addr, size)
    }

    fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        self.bench.write(space, addr, size, value);
    }

    fn config_read(&self, devfn: u8, offset: u16, size: Size) -> u32 {
        match &self.place {
            Place::Bus(bus) => bus.config_read(Devfn::from_bits(devfn), offset, size),
            Place::Window(_) => u32::MAX,
        }
    }

    fn config_write(&self, devfn: u8, offset: u16, size: Size, value: u32) {
        if let Place::Bus(bus) = &self.place {
            bus.config_write(Devfn::from_bits(devfn), offset, size, value);
        }
    }
}

impl Behind {
    /// `device` behind these registers.
    pub(crate) fn new(registers: Registers, device: Arc<dyn VirtioDevice>) -> Self {
        let (bench, line) = (Bench::default(), TestLine::default());
        let mem = GuestMem::new(&[(0, RAM)]).unwrap();
        let place = match registers.interface() {
            Some(interface) => {
                let windows = vec![
                    BridgeWindow::identity(WindowKind::Io, 0..0x1_0000),
                    BridgeWindow::identity(WindowKind::Memory, MEMORY..WINDOW),
                ];
                let bus = Bus::new(bench.regions(), windows);
                let devfn = Devfn::from_bits(DEVFN);
                let pin = Some(line.line());
                let slot = Slot { name: "virtio0", devfn, pin, messages: Some(&bench.messages) };
                let function =
                    VirtioPci::function(slot, device, interface, &mem, &*bench.event_loop);
                bus.insert(devfn, function.unwrap()).unwrap();
                Place::Bus(bus)
            }
            None => {
                let (legacy, interrupt) = (registers.are_legacy(), Interrupt::pin(line.line()));
                let made = VirtioMmio::new(device, legacy, interrupt, &mem, &*bench.event_loop);
                let window = made.unwrap();
                let region =
                    Region::mmio(WINDOW, WINDOW_LEN, "virtio0", "registers", window.clone());
                let ids = bench.regions().edit(vec![RegionEdit::Map(region)]).unwrap();
                window.mapped(bench.regions(), ids[0]);
                Place::Window(window)
            }
        };
        Self { bench, mem, line, registers, place }
    }

    /// A driver that has just found it.
    pub(crate) fn driver(&self) -> Driver<Box<dyn Transport + '_>> {
        Driver::new(match self.registers {
            Registers::Pci | Registers::TransitionalModern => {
                Box::new(PciTransport::new(self, DEVFN, MEMORY))
            }
            Registers::PciLegacy | Registers::TransitionalLegacy => {
                Box::new(LegacyPciTransport::new(self, DEVFN, &Room::new(MEMORY, PORTS)))
            }
            Registers::Mmio | Registers::MmioLegacy => Box::new(MmioTransport::new(self, WINDOW)),
        })
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

    /// How often a doorbell has rung that did not have to go to the device.
    pub(crate) fn doorbells(&self) -> u64 {
        let stats = self.bench.registry().stats();
        stats.regions.iter().map(|region| region.counts.doorbells).sum()
    }

    /// Lets the device do all it has to.
    pub(crate) fn settle(&self) {
        self.bench.settle();
    }

    /// As the board's reset.
    pub(crate) fn reset(&self) {
        match &self.place {
            Place::Bus(bus) => bus.reset(),
            Place::Window(window) => window.reset(),
        }
    }

    pub(crate) fn save(&self) -> Saved {
        match &self.place {
            Place::Bus(bus) => bus.save(),
            Place::Window(window) => window.save(),
        }
    }

    pub(crate) fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        match &self.place {
            Place::Bus(bus) => bus.restore(saved),
            Place::Window(window) => window.restore(saved),
        }
    }

    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }
}
