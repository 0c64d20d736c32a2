//! Devices that come to and go from a board's PCI bus while the machine is there, under names that
//! their user gives them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_block::{Disk, DiskOptions};
use trapline_device::{Clock, Device, EventLoop, Line, MsiController};
use trapline_guestmem::GuestMem;
use trapline_pci::{Bus, Devfn, Hotplug, Pin, Slot};
use trapline_virtio::VirtioDevice;
use trapline_virtio::balloon::Balloon;
use trapline_virtio::blk::Blk;
use trapline_virtio::pci::VirtioPci;

use super::pci::interface;
use super::virtio::{background, entropy};
use super::{EntropyFrom, Wiring};
use crate::{Error, VirtioTransport};

/// A device to be plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// What the user calls it, if anything.
    pub id: Option<String>,
    /// The slot, 0 to 31; the first free one, if not said.
    pub slot: Option<u8>,
    /// What registers its driver finds: one of those of PCI functions.
    pub transport: VirtioTransport,
    /// What it is.
    pub device: PlugDevice,
}

/// What can be plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlugDevice {
    /// A disk.
    Disk(DiskOptions),
    /// An entropy source whose bytes are the same in every run.
    Rng,
    /// A memory balloon, which is to hold nothing at first.
    Balloon,
}

/// The slots for such devices, with the wires that lead to them.
pub(crate) struct Plugs {
    bus: Arc<Bus>,
    registers: Arc<Hotplug>,
    pin: Box<dyn Fn(u8, Pin) -> Line + Send + Sync>,
    messages: Arc<dyn MsiController>,
    ram: GuestMem,
    event_loop: Arc<dyn EventLoop>,
    clock: Arc<dyn Clock>,
    awaits_disks: bool,
    /// By their slots.
    plugged: Mutex<BTreeMap<u8, Plugged>>,
}

struct Plugged {
    name: String,
    disk: Option<Arc<Blk>>,
}

impl Plugs {
    pub(crate) fn new(
        (bus, registers): (&Arc<Bus>, &Arc<Hotplug>),
        pin: impl Fn(u8, Pin) -> Line + Send + Sync + 'static,
        messages: &Arc<dyn MsiController>,
        wiring: &Wiring,
    ) -> Self {
        Self {
            bus: Arc::clone(bus),
            registers: Arc::clone(registers),
            pin: Box::new(pin),
            messages: Arc::clone(messages),
            ram: wiring.ram.clone(),
            event_loop: Arc::clone(&wiring.event_loop),
            clock: Arc::clone(&wiring.clock),
            awaits_disks: wiring.options.awaits_disks,
            plugged: Mutex::default(),
        }
    }

    /// Plugs a device in, and returns its name. `told` says whether the guest is to be told, which
    /// does not look for it by itself.
    pub(crate) fn plug(&self, plug: &Plug, told: bool) -> Result<String, Error> {
        let mut plugged = self.plugged.lock();
        let taken: Vec<u8> = self.bus.occupied().iter().map(|devfn| devfn.device()).collect();
        let free = || (1..32).find(|slot| !taken.contains(slot));
        let devfn = plug.slot.or_else(free).and_then(|slot| Devfn::new(slot, 0));
        let nameless = || plug.id.clone().unwrap_or_else(|| "a device".to_owned());
        let devfn = devfn.ok_or_else(|| Error::NoPciSlot(nameless()))?;
        let (slot, name) = (devfn.device(), plug.id.clone());
        let name = name.unwrap_or_else(|| format!("virtio-{devfn}"));
        if plugged.values().any(|other| other.name == name) {
            return Err(Error::DeviceName(name));
        }
        let (device, disk): (Arc<dyn VirtioDevice>, _) = match &plug.device {
            PlugDevice::Disk(options) => {
                let disk = Disk::open(options)?;
                let background = background(self.awaits_disks, &*self.event_loop);
                let blk = Blk::new(&disk, &self.clock, background).map_err(Error::EventLoop)?;
                (blk.clone(), Some(blk))
            }
            PlugDevice::Balloon => {
                (Balloon::new(self.ram.clone(), 0, Arc::clone(&self.clock)), None)
            }
            PlugDevice::Rng => (entropy(EntropyFrom::Sequence, &self.clock), None),
        };
        let pin = Some((self.pin)(slot, Pin::A));
        let place = Slot { name: &name, devfn, pin, messages: Some(&*self.messages) };
        let (interface, event_loop) = (interface(plug.transport), &*self.event_loop);
        let function = VirtioPci::function(place, device, interface, &self.ram, event_loop);
        self.bus.insert(devfn, function.map_err(Error::EventLoop)?)?;
        self.registers.plugged(slot, told);
        plugged.insert(slot, Plugged { name: name.clone(), disk });
        Ok(name)
    }

    /// Asks the guest to give a device back. Says whether there is one of this name.
    pub(crate) fn ask_back(&self, name: &str) -> bool {
        let plugged = self.plugged.lock();
        let found = plugged.iter().find(|(_, device)| device.name == name);
        found.inspect(|(slot, _)| self.registers.ask(**slot)).is_some()
    }

    /// Takes out what the guest has given back since the last call; its names. Not to be called
    /// from a handler.
    pub(crate) fn take_out(&self) -> Vec<String> {
        let mut gone = Vec::new();
        for slot in self.registers.take_ejected() {
            let device = self.plugged.lock().remove(&slot);
            if let Some(function) = Devfn::new(slot, 0).and_then(|devfn| self.bus.remove(devfn)) {
                // Whatever it has begun ends.
                function.reset();
            }
            gone.extend(device.map(|device| device.name));
        }
        gone
    }

    /// The disk of the device with this name.
    pub(crate) fn disk(&self, name: &str) -> Option<Arc<Blk>> {
        let plugged = self.plugged.lock();
        plugged.values().find(|device| device.name == name)?.disk.clone()
    }
}
