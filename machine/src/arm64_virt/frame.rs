//! The GICv2m frame of a board with KVM's GICv2: its register frame, and the MSI controller that
//! sends PCI functions' messages there.

use std::sync::Arc;

use trapline_device::{MsiController, MsiSink};
use trapline_intc::v2m::V2m;
use trapline_intc::v2m::regs::{SETSPI, WINDOW_LEN};

use super::{Controllers, layout};
use crate::board::{Builder, Lines};

/// The register that messages are written to.
pub(super) const DOORBELL: u64 = layout::GIC_V2M.start + SETSPI;

/// The frame.
pub(super) struct Frame {
    chip: Arc<V2m>,
}

impl Frame {
    /// A frame with the board's share of the interrupts.
    pub(super) fn new(lines: &Lines) -> Self {
        let spis = layout::spi::V2M..layout::spi::V2M + layout::spi::V2M_COUNT;
        let base = u16::try_from(layout::spi::FIRST_INTID + spis.start).unwrap_or(u16::MAX);
        let chip = V2m::new(base, spis.map(|spi| lines.line(spi)).collect());
        Self { chip: Arc::new(chip) }
    }
}

impl Controllers for Frame {
    fn add(&self, builder: &mut Builder) {
        let part = builder.stateless("gicv2m");
        part.mmio(layout::GIC_V2M.start, WINDOW_LEN, ("gicv2m", "frame"), self.chip.clone());
    }
}

impl MsiController for Frame {
    /// A frame does not ask who sends.
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(Messages(Arc::clone(&self.chip)))
    }
}

struct Messages(Arc<V2m>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        if address == DOORBELL {
            self.0.set_spi(data);
        }
    }
}
