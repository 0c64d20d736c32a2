//! Our own GICv3 with an ITS, for qtest, where no hypervisor emulates one.

use std::sync::Arc;

use trapline_device::{Line, MsiController};
use trapline_guestmem::GuestMem;
use trapline_intc::gicv3::{Build, Config, GicV3, Outputs, TRANSLATER};

use super::{Controllers, layout};
use crate::Error;
use crate::board::Builder;

/// The most processors the space below the distributor, and kvmtool, have room for.
const CPUS_MAX: u32 = 512;

/// A GICv3 with an ITS, at the board's addresses.
pub(crate) struct Gic {
    chip: Arc<GicV3>,
    cpus: u32,
    /// The processors' interfaces are reachable by address.
    interfaces: bool,
}

impl Gic {
    /// A GIC whose processors' inputs `outputs` makes, given their numbers. A client that plays
    /// the processors wants their `interfaces`, too.
    pub(crate) fn new(
        cpus: u32,
        ram: GuestMem,
        interfaces: bool,
        outputs: impl Fn(u32) -> Outputs,
    ) -> Result<Self, Error> {
        let too_many = Error::TooManyCpus { wanted: cpus, max: CPUS_MAX };
        let processors = u16::try_from(cpus).ok().filter(|_| (1..=CPUS_MAX).contains(&cpus));
        let processors = processors.ok_or(too_many)?;
        let spis = u16::try_from(layout::spi::COUNT).unwrap_or(u16::MAX);
        let build = Build { processors, spis, its: Config::new() };
        let outputs = (0..cpus).map(outputs).collect();
        let chip = GicV3::new(&build, ram, outputs)
            .unwrap_or_else(|error| unreachable!("the ITS of the board: {error}"));
        Ok(Self { chip, cpus, interfaces })
    }

    /// The chip.
    pub(crate) fn chip(&self) -> &Arc<GicV3> {
        &self.chip
    }

    /// The line into shared peripheral interrupt `number`, counted from 0.
    pub(crate) fn line(&self, number: u32) -> Line {
        Line::new(self.chip.spi(number))
    }

    /// Where PCI functions' messages go.
    pub(crate) fn messages(&self) -> Arc<dyn MsiController> {
        self.chip.messages(layout::gic_its(self.cpus).start + TRANSLATER)
    }
}

impl Controllers for Gic {
    fn add(&self, builder: &mut Builder) {
        let part = builder.controller("gic", self.chip.clone());
        let mut add = |range: std::ops::Range<u64>, names, handler| {
            part.mmio(range.start, range.end - range.start, names, handler);
        };
        add(layout::GIC_DIST, ("gic", "distributor"), self.chip.distributor());
        let redistributors = layout::gic_redist(self.cpus);
        add(redistributors, ("gic", "redistributors"), self.chip.redistributors());
        add(layout::gic_its(self.cpus), ("its", "frames"), self.chip.its());
        if self.interfaces {
            let interfaces = layout::gic_interfaces(self.cpus);
            add(interfaces, ("gic", "interfaces"), self.chip.interfaces());
        }
    }
}
