//! The GICv2m frame of this board: a device, and where messages to its address go.

use std::sync::Arc;

use trapline_device::{MsiController, MsiSink};
use trapline_intc::v2m::V2m;
use trapline_intc::v2m::regs::{SETSPI, WINDOW_LEN};

use super::{Controllers, layout};
use crate::parts::{Lines, Parts};

/// INTID of the first shared peripheral interrupt.
const FIRST_SPI: u32 = 32;

/// The frame.
pub(super) struct Frame(Arc<V2m>);

impl Frame {
    /// A frame with the board's share of the interrupts.
    pub(super) fn new(lines: &dyn Lines) -> Self {
        let spis = layout::spi::V2M..layout::spi::V2M + layout::spi::V2M_COUNT;
        let base = u16::try_from(FIRST_SPI + spis.start).unwrap_or(u16::MAX);
        Self(Arc::new(V2m::new(base, spis.map(|spi| lines.line(spi)).collect())))
    }
}

impl Controllers for Frame {
    fn add(&self, parts: &mut Parts) {
        let frame = self.0.clone();
        parts.mmio(layout::GIC_V2M.start, WINDOW_LEN, ("gicv2m", "frame"), frame);
    }
}

impl MsiController for Frame {
    /// A frame does not ask who sends.
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(Messages(Arc::clone(&self.0)))
    }
}

struct Messages(Arc<V2m>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        if address == layout::GIC_V2M.start + SETSPI {
            self.0.set_spi(data);
        }
    }
}
