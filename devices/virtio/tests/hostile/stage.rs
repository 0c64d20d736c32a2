//! A machine with two devices behind one kind of transport: one that is attacked, and one that must
//! not notice.

use std::sync::Arc;

use trapline_device::{Interrupt, Region, RegionEdit, Size, Space};
use trapline_guestmem::GuestMem;
use trapline_pci::{BridgeWindow, Bus, Devfn, Slot, WindowKind};
use trapline_testkit::virtio::{
    Access, Bench, LegacyPciTransport, MmioTransport, PciTransport, Room, Transport,
};
use trapline_testkit::{TestClock, TestLine};
use trapline_virtio::VirtioDevice;
use trapline_virtio::mmio::VirtioMmio;
use trapline_virtio::mmio::regs::WINDOW_LEN;
use trapline_virtio::pci::{PciInterface, VirtioPci};
use trapline_virtio::rng::Rng;

use crate::victims::Constant;

/// Bytes of RAM, from address 0 on.
pub(crate) const RAM: u64 = 0x100_0000;

/// How drivers reach the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Pci,
    PciLegacy,
    TransitionalModern,
    TransitionalLegacy,
    Mmio,
    MmioLegacy,
}

impl Way {
    pub(crate) const ALL: [Self; 6] = [
        Self::Pci,
        Self::PciLegacy,
        Self::TransitionalModern,
        Self::TransitionalLegacy,
        Self::Mmio,
        Self::MmioLegacy,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::PciLegacy => "pci-legacy",
            Self::TransitionalModern => "pci-transitional-modern",
            Self::TransitionalLegacy => "pci-transitional-legacy",
            Self::Mmio => "mmio",
            Self::MmioLegacy => "mmio-legacy",
        }
    }

    pub(crate) fn is_legacy(self) -> bool {
        matches!(self, Self::PciLegacy | Self::TransitionalLegacy | Self::MmioLegacy)
    }

    pub(crate) fn is_transitional(self) -> bool {
        self.interface() == Some(PciInterface::Transitional)
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

/// The device that is attacked, and the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Victim,
    Bystander,
}

const MEMORY: u64 = 0xe000_0000;
const PORTS: u64 = 0xc000;

impl Who {
    fn devfn(self) -> u8 {
        match self {
            Self::Victim => 3 << 3,
            Self::Bystander => 4 << 3,
        }
    }

    fn room(self) -> (u64, u64) {
        match self {
            Self::Victim => (MEMORY, PORTS),
            Self::Bystander => (MEMORY + 0x100_0000, PORTS + 0x1000),
        }
    }
}

/// The machine.
pub(crate) struct Stage {
    pub(crate) way: Way,
    pub(crate) bench: Bench,
    bus: Bus,
    pub(crate) mem: GuestMem,
    pub(crate) clock: TestClock,
}

impl Access for Stage {
    fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        self.bench.read(space, addr, size)
    }

    fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        self.bench.write(space, addr, size, value);
    }

    fn config_read(&self, devfn: u8, offset: u16, size: Size) -> u32 {
        self.bus.config_read(Devfn::from_bits(devfn), offset, size)
    }

    fn config_write(&self, devfn: u8, offset: u16, size: Size, value: u32) {
        self.bus.config_write(Devfn::from_bits(devfn), offset, size, value);
    }
}

impl Stage {
    pub(crate) fn new(
        way: Way,
        make: impl FnOnce(&GuestMem, &TestClock) -> Arc<dyn VirtioDevice>,
    ) -> Self {
        let (bench, clock) = (Bench::default(), TestClock::default());
        let memory = BridgeWindow::identity(WindowKind::Memory, 0xc000_0000..0x1_0000_0000);
        let ports = BridgeWindow::identity(WindowKind::Io, 0..0x1_0000);
        let bus = Bus::new(bench.regions(), vec![ports, memory]);
        let mem = GuestMem::new(&[(0, RAM)]).unwrap();
        let victim = make(&mem, &clock);
        let stage = Self { way, bench, bus, mem, clock };
        stage.plug(Who::Victim, victim);
        let bystander = Rng::new(Constant, Arc::new(stage.clock.clone()));
        stage.plug(Who::Bystander, bystander);
        stage
    }

    fn plug(&self, who: Who, device: Arc<dyn VirtioDevice>) {
        let name = match who {
            Who::Victim => "victim",
            Who::Bystander => "bystander",
        };
        let (line, event_loop) = (TestLine::default(), &*self.bench.event_loop);
        let Some(interface) = self.way.interface() else {
            let (legacy, pin) = (self.way.is_legacy(), Interrupt::pin(line.line()));
            let device = VirtioMmio::new(device, legacy, pin, &self.mem, event_loop).unwrap();
            let base = who.room().0;
            let region = Region::mmio(base, WINDOW_LEN, name, "registers", device.clone());
            let regions = self.bench.regions();
            let ids = regions.edit(vec![RegionEdit::Map(region)]).unwrap();
            return device.mapped(regions, ids[0]);
        };
        let devfn = Devfn::from_bits(who.devfn());
        let messages: Option<&dyn trapline_device::MsiController> = Some(&self.bench.messages);
        let slot = Slot { name, devfn, pin: Some(line.line()), messages };
        let function = VirtioPci::function(slot, device, interface, &self.mem, event_loop).unwrap();
        self.bus.insert(devfn, function).unwrap();
    }

    /// A device's registers.
    pub(crate) fn transport(&self, who: Who) -> Box<dyn Transport + '_> {
        let (devfn, (memory, ports)) = (who.devfn(), who.room());
        match self.way {
            Way::Pci | Way::TransitionalModern => Box::new(PciTransport::new(self, devfn, memory)),
            Way::PciLegacy | Way::TransitionalLegacy => {
                Box::new(LegacyPciTransport::new(self, devfn, &Room::new(memory, ports)))
            }
            Way::Mmio | Way::MmioLegacy => Box::new(MmioTransport::new(self, memory)),
        }
    }

    /// Where the victim's registers are: spaces, addresses and lengths.
    pub(crate) fn registers(&self) -> Vec<(Space, u64, u64)> {
        let (memory, ports) = Who::Victim.room();
        match self.way.interface() {
            None => vec![(Space::Mmio, memory, WINDOW_LEN)],
            Some(_) => vec![(Space::Mmio, memory, 0x2_0000), (Space::Pio, ports, 0x100)],
        }
    }
}
