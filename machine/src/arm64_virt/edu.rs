//! Educational devices on bus 0, for a machine whose devices a client plays.

use std::sync::Arc;

use trapline::{Mapping, Region, Registry};
use trapline_device::Space;
use trapline_pci::regs::EDU_BAR_LEN;
use trapline_pci::{Bus, Devfn, Edu};

use super::{Source, layout};
use crate::Error;

/// Devices on bus 0 besides the one that would be a host bridge.
pub(crate) const MOST: u8 = 31;

/// The devices, at 00:01.0 and up.
pub(crate) struct Edus {
    registry: Registry,
    functions: Vec<Arc<Edu>>,
    _regions: Vec<Mapping>,
}

impl Edus {
    /// Puts `count` of them on the board's bus.
    pub(super) fn new(
        count: u8,
        registry: &Registry,
        bus: &Bus,
        source: &Source,
    ) -> Result<Self, Error> {
        let (mut functions, mut regions) = (Vec::new(), Vec::new());
        for (number, device) in (0..).zip(1..=count.min(MOST)) {
            let devfn = Devfn::from_bits(device << 3);
            let pin = source.lines.line(layout::spi::pci(device));
            let sink =
                source.messages.as_ref().map(|messages| messages.sink(devfn.into_bits().into()));
            let edu = Arc::new(Edu::new(pin, sink));
            bus.insert(devfn, edu.clone())?;
            let name = format!("edu{number}");
            let names = (name.as_str(), "registers");
            let region = Region::new(Space::Mmio, None, EDU_BAR_LEN.into(), names, edu.clone());
            let mapping = registry.map(region)?;
            edu.connect(mapping.id());
            regions.push(mapping);
            functions.push(edu);
        }
        Ok(Self { registry: registry.clone(), functions, _regions: regions })
    }

    /// Puts the registers where the functions' headers say: after a reset, nowhere.
    pub(crate) fn place(&self) {
        let moved = self.registry.edit(|edit| {
            let places = self.functions.iter().filter_map(|edu| edu.place());
            places.for_each(|(id, base)| edit.place(id, base));
            Ok(())
        });
        if let Err(error) = moved {
            tracing::warn!("the educational devices' registers stay where they were: {error}");
        }
    }
}
