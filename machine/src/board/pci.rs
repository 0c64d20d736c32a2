//! Plugging PCI functions into a board's bus 0, with their pins and message controller.

use std::sync::Arc;

use trapline_device::{EventLoop, Line, MsiController};
use trapline_guestmem::GuestMem;
use trapline_pci::{Bus, Devfn, Edu, Function, Pin, Slot};
use trapline_vfio::Wires;
use trapline_virtio::pci::{PciInterface, VirtioPci};

use super::{NamedVirtio, Wiring, vfio};
use crate::{Error, VirtioTransport};

/// The last device of a bus.
const LAST_DEVICE: u8 = 31;

/// The slots of a board's bus 0, with the wires that lead to them.
pub(crate) struct PciSlots<'a> {
    pub(crate) bus: &'a Arc<Bus>,
    /// Where a pin of a device goes.
    pub(crate) pin: &'a dyn Fn(u8, Pin) -> Line,
    /// Where messages go, if the interrupt controller takes any.
    pub(crate) messages: Option<&'a dyn MsiController>,
}

impl PciSlots<'_> {
    /// Plugs a function in, which is called `name` and interrupts by INTA#, if by a pin.
    pub(crate) fn plug(
        &self,
        name: &str,
        devfn: Devfn,
        make: impl FnOnce(Slot<'_>) -> Function,
    ) -> Result<(), Error> {
        Ok(self.bus.insert(devfn, make(self.slot(name, devfn)))?)
    }

    fn slot<'a>(&'a self, name: &'a str, devfn: Devfn) -> Slot<'a> {
        let pin = Some((self.pin)(devfn.device(), Pin::A));
        Slot { name, devfn, pin, messages: self.messages }
    }

    /// Plugs in what the user chose, as device `first` and those behind it: educational devices,
    /// virtio devices, then functions of the host. `input` is the number of the interrupt input that a
    /// device's pin leads to.
    pub(crate) fn plug_chosen(
        &self,
        first: u8,
        virtio: Vec<NamedVirtio>,
        wiring: &Wiring,
        input: &dyn Fn(u8, Pin) -> u32,
    ) -> Result<(), Error> {
        let mut devices = first..=LAST_DEVICE;
        let mut next = || devices.next().map(|device| Devfn::from_bits(device << 3));
        for (n, devfn) in (0..wiring.options.edu).zip(std::iter::from_fn(&mut next)) {
            let name = format!("edu{n}");
            let event_loop = wiring.event_loop_of(&name);
            let edu = Edu::function(self.slot(&name, devfn), &wiring.clock, &*event_loop);
            self.bus.insert(devfn, edu.map_err(Error::EventLoop)?)?;
        }
        for device in virtio {
            let devfn = next().ok_or_else(|| Error::NoPciSlot(device.name.clone()))?;
            let event_loop = Arc::clone(&device.event_loop);
            self.plug_virtio(devfn, device, (&wiring.dma(), &*event_loop))?;
        }
        for (n, opened) in wiring.vfio.take().into_iter().enumerate() {
            let name = format!("vfio{n}");
            let devfn = next().ok_or_else(|| Error::NoPciSlot(name.clone()))?;
            let pin = wiring.vfio.pin(input(devfn.device(), Pin::A));
            let on_departure = vfio::on_departure(&name, self.bus, devfn);
            let event_loop = Arc::clone(&wiring.event_loop);
            let wires = Wires { pin, event_loop, on_departure };
            tracing::info!("{name} is {} of the host, at {devfn}", opened.address());
            self.bus.insert(devfn, opened.function(self.slot(&name, devfn), wires)?)?;
            wiring.vfio.plugged(devfn);
        }
        Ok(())
    }

    /// Plugs a virtio device in, whose requests are in `ram`.
    pub(super) fn plug_virtio(
        &self,
        devfn: Devfn,
        NamedVirtio { name, device, transport, .. }: NamedVirtio,
        (ram, event_loop): (&GuestMem, &dyn EventLoop),
    ) -> Result<(), Error> {
        let (slot, interface) = (self.slot(&name, devfn), interface(transport));
        let function = VirtioPci::function(slot, device, interface, ram, event_loop);
        Ok(self.bus.insert(devfn, function.map_err(Error::EventLoop)?)?)
    }
}

/// The registers of a virtio device's function.
fn interface(transport: VirtioTransport) -> PciInterface {
    match transport {
        VirtioTransport::PciLegacy => PciInterface::Legacy,
        VirtioTransport::PciTransitional => PciInterface::Transitional,
        _ => PciInterface::Modern,
    }
}
