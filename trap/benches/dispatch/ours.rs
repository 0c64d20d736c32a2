//! This registry, reached with bytes (as the sources reach it) and by value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use trapline::{Handle, Mapping, Offload, Region, Registry, Size, Space, Zone};

use crate::device::{Place, Population, Register};
use crate::measure::{Bus, Edited};

/// The registry with a whole population mapped.
pub(crate) struct Ours {
    by_value: ByValue,
    mappings: Vec<Mapping>,
}

/// A source that coalesces and has nothing queued, as KVM's ring most of the time.
struct Idle(AtomicU32);

impl Offload for Idle {
    fn install(&self, _zone: &Zone) -> Result<bool, String> {
        Ok(true)
    }

    fn remove(&self, _zone: &Zone) {}

    fn queued(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// The same registry; accesses by value.
pub(crate) struct ByValue(Registry);

impl Ours {
    pub(crate) fn new(population: &Population) -> Self {
        Self::with(population, Registry::builder().build())
    }

    /// With a source that some region, not one of the population, has coalesce.
    pub(crate) fn coalescing(population: &Population) -> Self {
        let source = Arc::new(Idle(AtomicU32::new(0)));
        let registry = Registry::builder().offload(source).build();
        let mut ours = Self::with(population, registry);
        let other = region(population.place, 0, Arc::default()).coalesce(0..1);
        ours.mappings.push(ours.by_value.0.map(other).unwrap());
        ours
    }

    fn with(population: &Population, registry: Registry) -> Self {
        let mappings = registry
            .edit(|edit| {
                population
                    .iter()
                    .map(|(base, device)| edit.map(region(population.place, base, device)))
                    .collect::<Result<Vec<_>, _>>()
            })
            .unwrap();
        Self { by_value: ByValue(registry), mappings }
    }

    pub(crate) fn by_value(&self) -> &ByValue {
        &self.by_value
    }

    /// The same registry, edited by a manager who waits for running handlers.
    pub(crate) fn waiting(&self) -> &ByValue {
        &self.by_value
    }
}

fn region(place: Place, base: u64, device: Arc<Register>) -> Region {
    Region::new(place.space(), Some(base), place.len(), ("bench", "register"), device)
}

const fn space(pio: bool) -> Space {
    if pio { Space::Pio } else { Space::Mmio }
}

impl Bus for Ours {
    type View<'a> = Handle;

    fn view(&self) -> Handle {
        self.by_value.view()
    }

    #[inline]
    fn read<const PIO: bool>(handle: &mut Handle, addr: u64, data: &mut [u8; 4]) {
        handle.read(space(PIO), addr, data);
    }

    #[inline]
    fn write<const PIO: bool>(handle: &mut Handle, addr: u64, data: [u8; 4]) {
        handle.write(space(PIO), addr, &data);
    }
}

impl Bus for ByValue {
    type View<'a> = Handle;

    fn view(&self) -> Handle {
        self.0.handle(0)
    }

    #[inline]
    fn read<const PIO: bool>(handle: &mut Handle, addr: u64, data: &mut [u8; 4]) {
        let value = handle.read_value(space(PIO), addr, Size::Dword);
        *data = (value as u32).to_le_bytes();
    }

    #[inline]
    fn write<const PIO: bool>(handle: &mut Handle, addr: u64, data: [u8; 4]) {
        handle.write_value(space(PIO), addr, Size::Dword, u32::from_le_bytes(data).into());
    }
}

impl Edited for Ours {
    fn add_and_remove(&self, place: Place, base: u64, device: &Arc<Register>) {
        drop(self.by_value.0.map(region(place, base, Arc::clone(device))).unwrap());
    }
}

impl Edited for ByValue {
    fn add_and_remove(&self, place: Place, base: u64, device: &Arc<Register>) {
        self.0.remove_sync(self.0.map(region(place, base, Arc::clone(device))).unwrap());
    }
}
