//! What boards are made of before they are mapped: devices and their regions, and where their
//! interrupt lines end.

use std::ops::Range;
use std::sync::Arc;

use trapline::{EditError, Handler, Mapping, Region, Registry};
use trapline_device::Line;

pub(crate) use crate::snapshot::{Devices, Part};

/// Where the devices' interrupt lines end.
pub(crate) trait Lines {
    /// The line into input `number` of the board's interrupt controllers, low: a global system
    /// interrupt on the PC, a shared peripheral interrupt (SPI, from 0) on arm64. Asked for once
    /// for each input; further holders share it.
    fn line(&self, number: u32) -> Line;
}

/// What is collected before the edit.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) devices: Devices,
    /// Each with the offsets of registers whose writes may be late.
    pub(crate) regions: Vec<(Region, Option<Range<u64>>)>,
}

impl Parts {
    /// Keeps a device that is to be reset and saved with the board, under a name of its own.
    pub(crate) fn device<D: Part + 'static>(&mut self, name: &str, device: D) -> Arc<D> {
        let device = Arc::new(device);
        self.devices.add(name, device.clone());
        device
    }

    /// Adds ports.
    pub(crate) fn ports(
        &mut self,
        base: u16,
        len: u64,
        (device, region): (&str, &str),
        handler: Arc<dyn Handler>,
    ) {
        self.regions.push((Region::pio(base, len, device, region, handler), None));
    }

    /// Adds guest physical addresses.
    pub(crate) fn mmio(
        &mut self,
        base: u64,
        len: u64,
        (device, region): (&str, &str),
        handler: Arc<dyn Handler>,
    ) {
        self.regions.push((Region::mmio(base, len, device, region, handler), None));
    }

    /// The writes to these offsets of the last region may be late: they change nothing that is
    /// seen before the next access, which fetches them.
    pub(crate) fn coalesce(&mut self, offsets: Range<u64>) {
        if let Some((_, late)) = self.regions.last_mut() {
            *late = Some(offsets);
        }
    }

    /// Maps everything, all in one edit. Writes that may be late are queued if `coalesce`.
    pub(crate) fn map(
        self,
        registry: &Registry,
        coalesce: bool,
    ) -> Result<(Devices, Vec<Mapping>), EditError> {
        let Self { devices, regions } = self;
        let mappings = registry.edit(|edit| {
            let mut mappings = Vec::with_capacity(regions.len());
            for (region, late) in regions {
                let region = match late.filter(|_| coalesce) {
                    Some(offsets) => region.coalesce(offsets),
                    None => region,
                };
                mappings.push(edit.map(region)?);
            }
            Ok(mappings)
        })?;
        Ok((devices, mappings))
    }
}
