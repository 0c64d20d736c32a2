//! The other ways to find a device: the published crates as they are, in the shapes their users
//! give them, and two yardsticks.

#![expect(clippy::disallowed_types, reason = "the peers' users lock with std's Mutex")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Cache};
use dbs_device::resources::Resource;
use trapline::NoRegions;
use trapline::{Handler, IoCx, Requester, Size};
use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager as VmIoManager, MmioManager, PioManager};

use crate::device::{Place, Population, Register};
use crate::measure::{Bus, Edited};

/// No search at all: the region's number out of the address, one bounds check.
pub(crate) struct DirectIndex {
    place: Place,
    devices: Vec<Arc<dyn Handler>>,
}

impl DirectIndex {
    pub(crate) fn new(population: &Population) -> Self {
        let devices = population.devices.iter().map(|d| Arc::clone(d) as Arc<dyn Handler>);
        Self { place: population.place, devices: devices.collect() }
    }

    #[inline]
    fn find(&self, addr: u64) -> Option<&Arc<dyn Handler>> {
        let region = match self.place {
            Place::Mmio => addr.wrapping_sub(Place::Mmio.base(0)) >> 12,
            Place::Pio => addr.wrapping_sub(Place::Pio.base(0)) >> 3,
        };
        self.devices.get(region as usize)
    }
}

impl Bus for DirectIndex {
    type View<'a> = &'a Self;

    fn view(&self) -> Self::View<'_> {
        self
    }

    #[inline]
    fn read<const PIO: bool>(bus: &mut &Self, addr: u64, data: &mut [u8; 4]) {
        if let Some(device) = bus.find(addr) {
            let value =
                device.read(&IoCx::new(Requester::Vcpu(0), &NoRegions), addr & 0xfff, Size::Dword);
            *data = (value as u32).to_le_bytes();
        }
    }

    #[inline]
    fn write<const PIO: bool>(bus: &mut &Self, addr: u64, data: [u8; 4]) {
        if let Some(device) = bus.find(addr) {
            let value = u32::from_le_bytes(data).into();
            device.write(
                &IoCx::new(Requester::Vcpu(0), &NoRegions),
                addr & 0xfff,
                Size::Dword,
                value,
            );
        }
    }
}

/// vm-device, set up once and then shared without a lock: it cannot change any more.
pub(crate) struct VmDevice(VmIoManager);

impl VmDevice {
    pub(crate) fn new(population: &Population) -> Self {
        Self(vm_device(population))
    }
}

fn vm_device(population: &Population) -> VmIoManager {
    let mut manager = VmIoManager::new();
    for (base, device) in population.iter() {
        register_vm_device(&mut manager, population.place, base, device);
    }
    manager
}

fn register_vm_device(manager: &mut VmIoManager, place: Place, base: u64, device: Arc<Register>) {
    match place {
        Place::Mmio => {
            let range = MmioRange::new(MmioAddress(base), place.len()).unwrap();
            manager.register_mmio(range, device).unwrap();
        }
        Place::Pio => {
            let range = PioRange::new(PioAddress(base as u16), place.len() as u16).unwrap();
            manager.register_pio(range, device).unwrap();
        }
    }
}

#[inline]
fn read_vm_device<const PIO: bool>(manager: &VmIoManager, addr: u64, data: &mut [u8; 4]) {
    let _ = match PIO {
        true => manager.pio_read(PioAddress(addr as u16), data),
        false => manager.mmio_read(MmioAddress(addr), data),
    };
}

#[inline]
fn write_vm_device<const PIO: bool>(manager: &VmIoManager, addr: u64, data: [u8; 4]) {
    let _ = match PIO {
        true => manager.pio_write(PioAddress(addr as u16), &data),
        false => manager.mmio_write(MmioAddress(addr), &data),
    };
}

impl Bus for VmDevice {
    type View<'a> = &'a Self;

    fn view(&self) -> Self::View<'_> {
        self
    }

    #[inline]
    fn read<const PIO: bool>(bus: &mut &Self, addr: u64, data: &mut [u8; 4]) {
        read_vm_device::<PIO>(&bus.0, addr, data);
    }

    #[inline]
    fn write<const PIO: bool>(bus: &mut &Self, addr: u64, data: [u8; 4]) {
        write_vm_device::<PIO>(&bus.0, addr, data);
    }
}

/// vm-device as its users share it when devices come and go.
pub(crate) struct VmDeviceLocked(Arc<Mutex<VmIoManager>>);

impl VmDeviceLocked {
    pub(crate) fn new(population: &Population) -> Self {
        Self(Arc::new(Mutex::new(vm_device(population))))
    }
}

impl Bus for VmDeviceLocked {
    type View<'a> = Arc<Mutex<VmIoManager>>;

    fn view(&self) -> Self::View<'_> {
        Arc::clone(&self.0)
    }

    #[inline]
    fn read<const PIO: bool>(bus: &mut Self::View<'_>, addr: u64, data: &mut [u8; 4]) {
        read_vm_device::<PIO>(&bus.lock().unwrap(), addr, data);
    }

    #[inline]
    fn write<const PIO: bool>(bus: &mut Self::View<'_>, addr: u64, data: [u8; 4]) {
        write_vm_device::<PIO>(&bus.lock().unwrap(), addr, data);
    }
}

impl Edited for VmDeviceLocked {
    fn add_and_remove(&self, place: Place, base: u64, device: &Arc<Register>) {
        register_vm_device(&mut self.0.lock().unwrap(), place, base, Arc::clone(device));
        let mut manager = self.0.lock().unwrap();
        match place {
            Place::Mmio => drop(manager.deregister_mmio(MmioAddress(base))),
            Place::Pio => drop(manager.deregister_pio(PioAddress(base as u16))),
        }
    }
}

/// dbs-device, set up once and then shared without a lock.
pub(crate) struct Dbs(dbs_device::device_manager::IoManager);

impl Dbs {
    pub(crate) fn new(population: &Population) -> Self {
        Self(dbs_device(population))
    }
}

fn dbs_device(population: &Population) -> dbs_device::device_manager::IoManager {
    let mut manager = dbs_device::device_manager::IoManager::new();
    for (base, device) in population.iter() {
        manager.register_device_io(device, &[resource(population.place, base)]).unwrap();
    }
    manager
}

fn resource(place: Place, base: u64) -> Resource {
    match place {
        Place::Mmio => Resource::MmioAddressRange { base, size: place.len() },
        Place::Pio => Resource::PioAddressRange { base: base as u16, size: place.len() as u16 },
    }
}

#[inline]
fn read_dbs<const PIO: bool>(
    manager: &dbs_device::device_manager::IoManager,
    addr: u64,
    data: &mut [u8; 4],
) {
    let _ = match PIO {
        true => manager.pio_read(addr as u16, data),
        false => manager.mmio_read(addr, data),
    };
}

#[inline]
fn write_dbs<const PIO: bool>(
    manager: &dbs_device::device_manager::IoManager,
    addr: u64,
    data: [u8; 4],
) {
    let _ = match PIO {
        true => manager.pio_write(addr as u16, &data),
        false => manager.mmio_write(addr, &data),
    };
}

impl Bus for Dbs {
    type View<'a> = &'a Self;

    fn view(&self) -> Self::View<'_> {
        self
    }

    #[inline]
    fn read<const PIO: bool>(bus: &mut &Self, addr: u64, data: &mut [u8; 4]) {
        read_dbs::<PIO>(&bus.0, addr, data);
    }

    #[inline]
    fn write<const PIO: bool>(bus: &mut &Self, addr: u64, data: [u8; 4]) {
        write_dbs::<PIO>(&bus.0, addr, data);
    }
}

type Shared = Arc<ArcSwap<dbs_device::device_manager::IoManager>>;

/// dbs-device in Dragonball's shape: every vCPU keeps a cache of the shared manager, an edit
/// clones the manager, changes the clone and swaps it in.
pub(crate) struct Dragonball {
    current: Shared,
    edits: Mutex<()>,
}

impl Dragonball {
    pub(crate) fn new(population: &Population) -> Self {
        let current = Arc::new(ArcSwap::from_pointee(dbs_device(population)));
        Self { current, edits: Mutex::new(()) }
    }
}

impl Bus for Dragonball {
    type View<'a> = Cache<Shared, Arc<dbs_device::device_manager::IoManager>>;

    fn view(&self) -> Self::View<'_> {
        Cache::new(Arc::clone(&self.current))
    }

    #[inline]
    fn read<const PIO: bool>(bus: &mut Self::View<'_>, addr: u64, data: &mut [u8; 4]) {
        read_dbs::<PIO>(bus.load(), addr, data);
    }

    #[inline]
    fn write<const PIO: bool>(bus: &mut Self::View<'_>, addr: u64, data: [u8; 4]) {
        write_dbs::<PIO>(bus.load(), addr, data);
    }
}

impl Edited for Dragonball {
    fn add_and_remove(&self, place: Place, base: u64, device: &Arc<Register>) {
        let resources = [resource(place, base)];
        let _turn = self.edits.lock().unwrap();
        let mut next = (**self.current.load()).clone();
        next.register_device_io(Arc::clone(device) as _, &resources).unwrap();
        self.current.store(Arc::new(next));
        let mut next = (**self.current.load()).clone();
        next.unregister_device_io(&resources).unwrap();
        self.current.store(Arc::new(next));
    }
}

type Tree = BTreeMap<u64, (u64, Arc<dyn Handler>)>;

/// What one writes first: a map behind a lock, which is let go of before the device runs.
pub(crate) struct LockedTree(Mutex<Tree>);

impl LockedTree {
    pub(crate) fn new(population: &Population) -> Self {
        let len = population.place.len();
        let tree = population.iter().map(|(base, device)| (base, (len, device as _)));
        Self(Mutex::new(tree.collect()))
    }

    #[inline]
    fn find(&self, addr: u64) -> Option<(u64, Arc<dyn Handler>)> {
        let tree = self.0.lock().unwrap();
        let (base, (len, device)) = tree.range(..=addr).next_back()?;
        (addr - base < *len).then(|| (addr - base, Arc::clone(device)))
    }
}

impl Bus for LockedTree {
    type View<'a> = &'a Self;

    fn view(&self) -> Self::View<'_> {
        self
    }

    #[inline]
    fn read<const PIO: bool>(bus: &mut &Self, addr: u64, data: &mut [u8; 4]) {
        if let Some((offset, device)) = bus.find(addr) {
            let value =
                device.read(&IoCx::new(Requester::Vcpu(0), &NoRegions), offset, Size::Dword);
            *data = (value as u32).to_le_bytes();
        }
    }

    #[inline]
    fn write<const PIO: bool>(bus: &mut &Self, addr: u64, data: [u8; 4]) {
        if let Some((offset, device)) = bus.find(addr) {
            let value = u32::from_le_bytes(data).into();
            device.write(&IoCx::new(Requester::Vcpu(0), &NoRegions), offset, Size::Dword, value);
        }
    }
}

impl Edited for LockedTree {
    fn add_and_remove(&self, place: Place, base: u64, device: &Arc<Register>) {
        let device = Arc::clone(device) as Arc<dyn Handler>;
        self.0.lock().unwrap().insert(base, (place.len(), device));
        let gone = self.0.lock().unwrap().remove(&base);
        drop(gone);
    }
}
