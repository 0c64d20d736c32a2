//! Devices that come to and go from a board's PCI bus while the machine is there, and ports from
//! console devices among them, under names that their user gives them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_backends::{OpenOutlet, Outlet};
use trapline_block::DiskOptions;
use trapline_device::{CharBackend, Clock, Device, EventLoop, Line, MsiController, NullBackend};
use trapline_guestmem::GuestMem;
use trapline_net::NetOptions;
use trapline_pci::{Bus, Devfn, Hotplug, Pin};
use trapline_virtio::VirtioDevice;
use trapline_virtio::balloon::Balloon;
use trapline_virtio::blk::Blk;
use trapline_virtio::console::{Console, PortSetup};
use trapline_virtio::net::Net;

use super::virtio::{disk, entropy, net, open};
use super::{EntropyFrom, NamedVirtio, PciSlots, Wiring};
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
    /// A network card.
    Net(NetOptions),
    /// An entropy source whose bytes are the same in every run.
    Rng,
    /// A memory balloon, which is to hold nothing at first. There is one at most.
    Balloon,
    /// A console device without ports: those are plugged into it ([`PlugPort`]).
    Serial {
        /// How many it has places for, from 1 to
        /// [`PORTS_MAX`](trapline_virtio::console::PORTS_MAX).
        places: usize,
    },
}

/// A port to be plugged into a [`PlugDevice::Serial`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlugPort {
    /// What the user calls it, if anything.
    pub id: Option<String>,
    /// The name of the device; if not said, that in the first slot with such a device.
    pub device: Option<String>,
    /// Its number on the device; the first free one, if not said. 0 is for a console.
    pub number: Option<usize>,
    /// What the guest knows it by.
    pub name: Option<String>,
    /// Whether it is a console for people.
    pub is_console: bool,
    /// What is behind it, if anything is.
    pub outlet: Option<Outlet>,
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
    awaits_files: bool,
    /// Whether the board has a balloon of its own.
    has_balloon: bool,
    /// The names of the virtio devices that the board has of its own.
    own: Vec<String>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By their slots.
    plugged: BTreeMap<u8, Plugged>,
    /// The names of ports that have gone.
    gone: Vec<String>,
}

struct Plugged {
    name: String,
    handle: Handle,
}

/// What somebody can have to do with a device.
enum Handle {
    Disk(Arc<Blk>),
    Balloon(Arc<Balloon>),
    Net(Arc<Net>),
    /// With the names of its ports, by their numbers.
    Serial(Arc<Console>, BTreeMap<usize, String>),
    Nothing,
}

impl Plugs {
    pub(crate) fn new(
        (bus, registers): (&Arc<Bus>, &Arc<Hotplug>),
        own: Vec<String>,
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
            awaits_files: wiring.options.awaits_files,
            has_balloon: wiring.options.balloon.is_some(),
            own,
            inner: Mutex::default(),
        }
    }

    /// Plugs a device in, and returns its name. `told` says whether the guest is to be told, which
    /// does not look for it by itself.
    pub(crate) fn plug(&self, plug: &Plug, told: bool) -> Result<String, Error> {
        let inner = &mut *self.inner.lock();
        let taken: Vec<u8> = self.bus.occupied().iter().map(|devfn| devfn.device()).collect();
        let free = || (1..32).find(|slot| !taken.contains(slot));
        let devfn = plug.slot.or_else(free).and_then(|slot| Devfn::new(slot, 0));
        let nameless = || plug.id.clone().unwrap_or_else(|| "a device".to_owned());
        let devfn = devfn.ok_or_else(|| Error::NoPciSlot(nameless()))?;
        let (slot, name) = (devfn.device(), plug.id.clone());
        let name = name.unwrap_or_else(|| format!("virtio-{devfn}"));
        self.check_name(inner, &name)?;
        if plug.device == PlugDevice::Balloon && (self.has_balloon || inner.balloon().is_some()) {
            return Err(Error::SecondBalloon);
        }
        let (device, handle) = self.make(&plug.device)?;
        let slots = PciSlots { bus: &self.bus, pin: &*self.pin, messages: Some(&*self.messages) };
        let (name, event_loop) = (name.clone(), Arc::clone(&self.event_loop));
        let named =
            NamedVirtio { name: name.clone(), device, transport: plug.transport, event_loop };
        slots.plug_virtio(devfn, named, (&self.ram, &*self.event_loop))?;
        self.registers.plugged(slot, told);
        inner.plugged.insert(slot, Plugged { name: name.clone(), handle });
        Ok(name)
    }

    /// Whether nothing that can be asked for has this name.
    fn check_name(&self, inner: &Inner, name: &str) -> Result<(), Error> {
        match inner.has(name) || self.own.iter().any(|own| own == name) {
            true => Err(Error::DeviceName(name.to_owned())),
            false => Ok(()),
        }
    }

    fn make(&self, device: &PlugDevice) -> Result<(Arc<dyn VirtioDevice>, Handle), Error> {
        let clock = Arc::clone(&self.clock);
        Ok(match device {
            PlugDevice::Disk(options) => {
                let blk = disk(options, self.awaits_files, &clock, &*self.event_loop)?;
                (blk.clone(), Handle::Disk(blk))
            }
            PlugDevice::Net(options) => {
                let net = net(options, &self.event_loop, &clock)?;
                (net.clone(), Handle::Net(net))
            }
            PlugDevice::Balloon => {
                let balloon = Balloon::new(self.ram.clone(), 0, clock);
                (balloon.clone(), Handle::Balloon(balloon))
            }
            PlugDevice::Rng => (entropy(EntropyFrom::Sequence, &clock, None), Handle::Nothing),
            PlugDevice::Serial { places } => {
                let console = Console::with_places(*places, clock);
                (console.clone(), Handle::Serial(console, BTreeMap::new()))
            }
        })
    }

    /// Plugs a port in, and returns its name.
    pub(crate) fn plug_port(&self, plug: &PlugPort) -> Result<String, Error> {
        let inner = &mut *self.inner.lock();
        if let Some(id) = &plug.id {
            self.check_name(inner, id)?;
        }
        let wanted = plug.device.as_deref();
        let mut devices = inner.plugged.values_mut();
        let found = devices.find_map(|Plugged { name, handle }| match handle {
            Handle::Serial(console, ports) if wanted.is_none_or(|wanted| *wanted == *name) => {
                Some((&*name, &*console, ports))
            }
            _ => None,
        });
        let (device, console, ports) = found.ok_or_else(|| match wanted {
            Some(wanted) => Error::NoDevice(wanted.to_owned()),
            None => Error::NoSerial,
        })?;
        let shown = plug.id.as_deref().or(plug.name.as_deref()).unwrap_or_default();
        let outlet = plug.outlet.as_ref().map(|outlet| open(outlet, shown, &self.event_loop));
        let outlet = outlet.transpose()?;
        let backend: Arc<dyn CharBackend> = match &outlet {
            Some(outlet) => Arc::<dyn OpenOutlet>::clone(outlet),
            None => Arc::new(NullBackend),
        };
        let setup = PortSetup { name: plug.name.clone(), is_console: plug.is_console, backend };
        let number = console.add_port(plug.number, setup)?;
        if let Some(outlet) = outlet {
            outlet.attach(console.port(number));
        }
        let name = plug.id.clone().unwrap_or_else(|| format!("{device}.port{number}"));
        ports.insert(number, name.clone());
        Ok(name)
    }

    /// Asks the guest to give a device back, or takes a port out, for which nobody is asked. Says
    /// whether there is one of this name.
    pub(crate) fn ask_back(&self, name: &str) -> bool {
        let Inner { plugged, gone } = &mut *self.inner.lock();
        for (slot, device) in plugged {
            if device.name == name {
                self.registers.ask(*slot);
                return true;
            }
            let Handle::Serial(console, ports) = &mut device.handle else { continue };
            let found = ports.iter().find(|(_, port)| *port == name).map(|(number, _)| *number);
            if let Some(number) = found {
                console.remove_port(number);
                gone.extend(ports.remove(&number));
                return true;
            }
        }
        false
    }

    /// Takes out what the guest has given back since the last call; its names, and those of ports
    /// that have gone. Not to be called from a handler.
    pub(crate) fn take_out(&self) -> Vec<String> {
        let mut gone = std::mem::take(&mut self.inner.lock().gone);
        for slot in self.registers.take_ejected() {
            let device = self.inner.lock().plugged.remove(&slot);
            if let Some(function) = Devfn::new(slot, 0).and_then(|devfn| self.bus.remove(devfn)) {
                // Whatever it has begun ends.
                function.reset();
            }
            let Some(Plugged { name, handle }) = device else { continue };
            if let Handle::Serial(console, ports) = handle {
                for (number, port) in ports {
                    console.remove_port(number);
                    gone.push(port);
                }
            }
            gone.push(name);
        }
        gone
    }

    /// The disk of the device with this name.
    pub(crate) fn disk(&self, name: &str) -> Option<Arc<Blk>> {
        let inner = self.inner.lock();
        let found = inner.plugged.values().find(|device| device.name == name)?;
        match &found.handle {
            Handle::Disk(disk) => Some(Arc::clone(disk)),
            _ => None,
        }
    }

    /// The network cards, by their names.
    pub(crate) fn nets(&self) -> Vec<(String, Arc<Net>)> {
        let inner = self.inner.lock();
        let net = |device: &Plugged| match &device.handle {
            Handle::Net(net) => Some((device.name.clone(), Arc::clone(net))),
            _ => None,
        };
        inner.plugged.values().filter_map(net).collect()
    }

    /// The balloon, if one was plugged in.
    pub(crate) fn balloon(&self) -> Option<Arc<Balloon>> {
        self.inner.lock().balloon().cloned()
    }
}

impl Inner {
    fn has(&self, name: &str) -> bool {
        let is_port = |device: &Plugged| match &device.handle {
            Handle::Serial(_, ports) => ports.values().any(|port| port == name),
            _ => false,
        };
        self.plugged.values().any(|device| device.name == name || is_port(device))
    }

    fn balloon(&self) -> Option<&Arc<Balloon>> {
        self.plugged.values().find_map(|device| match &device.handle {
            Handle::Balloon(balloon) => Some(balloon),
            _ => None,
        })
    }
}
