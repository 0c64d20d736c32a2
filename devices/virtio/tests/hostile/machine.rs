//! A machine whose devices are all behind one kind of registers, for tests that are to be the same
//! behind each of them. Shared by unit tests, the hostile suite and a fuzz target.

use std::sync::Arc;

use trapline_device::{Interrupt, Region, RegionEdit, Size, Space};
use trapline_guestmem::GuestMem;
use trapline_pci::{BridgeWindow, Bus, Devfn, Slot, WindowKind};
use trapline_testkit::TestLine;
use trapline_testkit::virtio::{
    Access, Bench, LegacyPciTransport, MmioTransport, PciTransport, Room, Transport,
};
use trapline_virtio::VirtioDevice;
use trapline_virtio::mmio::VirtioMmio;
use trapline_virtio::mmio::regs::WINDOW_LEN;
use trapline_virtio::pci::{PciInterface, VirtioPci};

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

    /// What the function is that has them; `None` for a window of MMIO.
    pub(crate) fn interface(self) -> Option<PciInterface> {
        match self {
            Self::Pci => Some(PciInterface::Modern),
            Self::PciLegacy => Some(PciInterface::Legacy),
            Self::TransitionalModern | Self::TransitionalLegacy => Some(PciInterface::Transitional),
            Self::Mmio | Self::MmioLegacy => None,
        }
    }
}

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Device and function on the bus.
    pub(crate) devfn: u8,
    /// Address of the window, or from which on a driver puts the BARs of memory.
    pub(crate) memory: u64,
    /// From which port on it puts those of ports.
    pub(crate) ports: u64,
}

impl Place {
    /// For the first device, or the only one.
    pub(crate) const FIRST: Self = Self { devfn: 3 << 3, memory: 0xe000_0000, ports: 0xc000 };

    /// For a driver of a function.
    pub(crate) fn room(self) -> Room {
        Room::new(self.memory, self.ports)
    }
}

/// A device in the machine.
#[allow(dead_code, reason = "not everybody looks")]
pub(crate) struct Plugged {
    /// Its interrupt pin.
    pub(crate) line: TestLine,
    /// Its window, if it is behind one.
    pub(crate) window: Option<Arc<VirtioMmio>>,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) registers: Registers,
    pub(crate) bench: Bench,
    pub(crate) bus: Bus,
    pub(crate) mem: GuestMem,
}

impl Access for Machine {
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

impl Machine {
    /// One without devices, with `ram` bytes of RAM from address 0 on.
    pub(crate) fn new(registers: Registers, ram: u64) -> Self {
        let bench = Bench::default();
        let memory = BridgeWindow::identity(WindowKind::Memory, 0xc000_0000..0x1_0000_0000);
        let ports = BridgeWindow::identity(WindowKind::Io, 0..0x1_0000);
        let bus = Bus::new(bench.regions(), vec![ports, memory]);
        Self { registers, bench, bus, mem: GuestMem::new(&[(0, ram)]).unwrap() }
    }

    /// Puts `device` behind the registers.
    pub(crate) fn plug(
        &self,
        place: Place,
        name: &'static str,
        device: Arc<dyn VirtioDevice>,
    ) -> Plugged {
        let (line, event_loop) = (TestLine::default(), &*self.bench.event_loop);
        let Some(interface) = self.registers.interface() else {
            let (legacy, pin) = (self.registers.are_legacy(), Interrupt::pin(line.line()));
            let window = VirtioMmio::new(device, legacy, pin, &self.mem, event_loop).unwrap();
            let region = Region::mmio(place.memory, WINDOW_LEN, name, "registers", window.clone());
            let ids = self.bench.regions().edit(vec![RegionEdit::Map(region)]).unwrap();
            window.mapped(self.bench.regions(), ids[0]);
            return Plugged { line, window: Some(window) };
        };
        let (devfn, pin) = (Devfn::from_bits(place.devfn), Some(line.line()));
        let slot = Slot { name, devfn, pin, messages: Some(&self.bench.messages) };
        let function = VirtioPci::function(slot, device, interface, &self.mem, event_loop).unwrap();
        self.bus.insert(devfn, function).unwrap();
        Plugged { line, window: None }
    }

    /// The registers of the device there, which a driver has just found.
    pub(crate) fn transport(&self, place: Place) -> Box<dyn Transport + '_> {
        let Place { devfn, memory, .. } = place;
        match self.registers {
            Registers::Pci | Registers::TransitionalModern => {
                Box::new(PciTransport::new(self, devfn, memory))
            }
            Registers::PciLegacy | Registers::TransitionalLegacy => {
                Box::new(LegacyPciTransport::new(self, devfn, &place.room()))
            }
            Registers::Mmio | Registers::MmioLegacy => Box::new(MmioTransport::new(self, memory)),
        }
    }
}
