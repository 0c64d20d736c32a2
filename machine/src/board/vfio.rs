//! Functions of the host on a board's PCI bus: what connects them to the machine, and their end, which
//! comes before the memory's that they reach.

use std::any::Any;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline::Registry;
use trapline_device::{MemoryListener, Regions};
use trapline_kvm::{ResampledInput, Vm};
use trapline_pci::{Bus, Devfn};
use trapline_vfio::{
    Assignment, Departure, Host, OnDeparture, OpenFunction, PinConnector, ResampledPin,
};

use crate::Error;

/// The functions that a guest is to have, and what the machine has for them. The default is none.
#[derive(Default)]
pub(crate) struct Vfio {
    opened: Mutex<Vec<OpenFunction>>,
    /// Has their DMA reach guest memory.
    memory: Option<Arc<dyn MemoryListener>>,
    /// Whose interrupt controllers their pins lead to, if they are in the kernel.
    vm: Option<Arc<Vm>>,
    plugged: Mutex<Vec<Devfn>>,
}

impl Vfio {
    /// Opens the functions, of which KVM is told.
    pub(crate) fn open(assignments: &[Assignment], vm: &Arc<Vm>) -> Result<Self, Error> {
        if assignments.is_empty() {
            return Ok(Self::default());
        }
        let kvm = Arc::clone(vm);
        let (opened, memory) = Host::open(assignments, move |group| kvm.add_vfio_group(group))?;
        Ok(Self {
            opened: Mutex::new(opened),
            memory: Some(memory),
            vm: Some(Arc::clone(vm)),
            plugged: Mutex::default(),
        })
    }

    /// The functions, to be plugged in.
    pub(crate) fn take(&self) -> Vec<OpenFunction> {
        std::mem::take(&mut self.opened.lock())
    }

    /// What connects a function's pin to this input of the interrupt controllers, where that can be.
    pub(crate) fn pin(&self, input: u32) -> Option<PinConnector> {
        let vm = self.vm.as_ref().filter(|vm| vm.can_resample(input)).cloned()?;
        Some(Arc::new(move || {
            let pin = vm.resampled_input(input).map_err(io::Error::other)?;
            Ok(Box::new(KernelPin(pin)) as Box<dyn ResampledPin>)
        }))
    }

    /// A function is in this place.
    pub(crate) fn plugged(&self, devfn: Devfn) {
        self.plugged.lock().push(devfn);
    }

    /// Has the functions' DMA reach all memory that the guest sees, now and later, until what is
    /// returned is dropped.
    pub(crate) fn start(
        &self,
        bus: &Arc<Bus>,
        registry: &Registry,
    ) -> Result<AssignedUntil, Error> {
        let memory = self.memory.clone();
        let memory = memory.map(|memory| Regions::listen(&registry.downgrade(), memory));
        let memory = memory.transpose().map_err(Error::Dma)?;
        Ok(AssignedUntil {
            bus: Arc::clone(bus),
            places: self.plugged.lock().clone(),
            _memory: memory,
        })
    }
}

/// Functions are assigned while this is there.
pub(crate) struct AssignedUntil {
    bus: Arc<Bus>,
    places: Vec<Devfn>,
    _memory: Option<Box<dyn Any + Send + Sync>>,
}

impl Drop for AssignedUntil {
    /// Quiet, reset and given back, before they cannot reach memory any more.
    fn drop(&mut self) {
        self.places.iter().for_each(|place| drop(self.bus.remove(*place)));
    }
}

/// Takes the function in this place off the bus when it goes: the guest finds nobody there from then
/// on, as when a card is pulled out, and the machine goes on.
pub(crate) fn on_departure(name: &str, bus: &Arc<Bus>, devfn: Devfn) -> OnDeparture {
    let (name, bus) = (name.to_owned(), Arc::downgrade(bus));
    Arc::new(move |why| {
        let Some(bus) = bus.upgrade() else { return };
        if bus.remove(devfn).is_some() {
            let why = match why {
                Departure::Requested => "the host wants it back",
                Departure::Failed => "it has failed",
            };
            tracing::warn!("{name} was taken from the guest: {why}");
        }
    })
}

/// An input in KVM.
struct KernelPin(ResampledInput);

impl ResampledPin for KernelPin {
    fn assert(&self) -> BorrowedFd<'_> {
        self.0.assert()
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.0.ended()
    }
}
