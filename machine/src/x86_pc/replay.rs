//! The PC board of a replay: nobody at the ends of its lines and messages.

use std::sync::Arc;

use trapline_device::{Line, LineSink};
use trapline_platform::testdev::NoFlush;

use super::intc::Controllers;
use super::{Source, X86Pc, display, layout};
use crate::Error;
use crate::board::{Board, Lines, Wiring};
use crate::record::journal;
use crate::record::replay::board::{Nowhere, ReplayBoard};
use crate::record::settings::{SPLIT, Settings};

/// The PC of a recording.
pub(crate) struct Replayed {
    board: X86Pc,
    controllers: Option<Arc<Controllers>>,
    /// The guest has firmware, which sets up interrupts itself.
    firmware: bool,
}

impl Replayed {
    /// Builds it as KVM's was built, so that everything is made in the same order.
    pub(crate) fn new(wiring: &Wiring, settings: &Settings) -> Result<Self, Error> {
        let journal = wiring.journal.as_ref();
        let controllers = match settings.irqchip.as_str() {
            SPLIT => {
                let sink = journal::sink(Arc::new(Nowhere), journal);
                let controllers =
                    Controllers::new(sink, None, &wiring.clock, |pin0| Line::new(Intr(pin0)))?;
                Some(Arc::new(controllers))
            }
            _ => None,
        };
        let lines = match controllers.clone() {
            Some(controllers) => Lines::new(move |gsi| controllers.line(gsi)),
            None => {
                let journal = wiring.journal.clone();
                Lines::new(move |gsi| match &journal {
                    Some(journal) => journal::line(Line::unconnected(), journal, gsi),
                    None => Line::unconnected(),
                })
            }
        };
        let messages = journal::messages(Arc::new(Nowhere), journal);
        let (lines, pages, flash) = (Arc::new(lines), Arc::new(NoFlush), Vec::new());
        let source = Source { lines, messages, controllers: controllers.clone(), pages, flash };
        let mut board = X86Pc::new(wiring, &source)?;
        if let Some(mode) = settings.display {
            display::add(mode, &wiring.registry, &mut board)?;
        }
        Ok(Self { board, controllers, firmware: settings.firmware })
    }
}

impl ReplayBoard for Replayed {
    fn board(&self) -> &dyn Board {
        &self.board
    }

    fn power_on(&self) {
        if self.firmware {
            return;
        }
        if let Some(controllers) = &self.controllers {
            controllers.set_level_triggered(layout::irq::LEVEL);
        }
        self.board.tell_interrupt_lines();
    }

    fn eoi(&self, vector: u8) {
        if let Some(controllers) = &self.controllers {
            controllers.eoi_sink().eoi(vector);
        }
    }

    fn acknowledge(&self) -> Option<u8> {
        self.controllers.as_ref()?.ext_int().acknowledge()
    }
}

/// The wire from the 8259s' INTR to pin 0 of the I/O APIC.
struct Intr(Box<dyn LineSink>);

impl LineSink for Intr {
    fn set_level(&self, level: bool) {
        self.0.set_level(level);
    }
}
