//! The arm64 board of a replay: nobody at the ends of its lines and messages.

use std::sync::Arc;

use trapline_device::{Line, MsiController};

use super::frame::Frame;
use super::{Arm64Virt, Controllers, Source};
use crate::board::{Board, Lines, Wiring};
use crate::record::journal;
use crate::record::replay::board::{Nowhere, ReplayBoard};
use crate::record::settings::Settings;
use crate::{Error, Irqchip};

/// The arm64 board of a recording.
pub(crate) struct Replayed(Arm64Virt);

impl Replayed {
    /// Builds it as KVM's was built, so that everything is made in the same order.
    pub(crate) fn new(wiring: &Wiring, settings: &Settings) -> Result<Self, Error> {
        let journal = wiring.journal.clone();
        let lines = Lines::new(move |spi| match &journal {
            Some(journal) => journal::line(Line::unconnected(), journal, spi),
            None => Line::unconnected(),
        });
        let (messages, controllers): (Option<Arc<dyn MsiController>>, _) = match settings
            .irqchip
            .as_str()
        {
            // KVM's GICv2 and GICv3 take no messages.
            chip if chip == Irqchip::Gicv2.name() || chip == Irqchip::Gicv3.name() => (None, None),
            // Its frame is ours.
            chip if chip == Irqchip::Gicv2m.name() => {
                let frame = Arc::new(Frame::new(&lines));
                (Some(frame.clone()), Some(frame as Arc<dyn Controllers>))
            }
            _ => (Some(Arc::new(Nowhere)), None),
        };
        let messages = messages.map(|to| journal::messages(to, wiring.journal.as_ref()));
        let source = Source { lines, messages, controllers, flash: None };
        Ok(Self(Arm64Virt::new(wiring, &source)?))
    }
}

impl ReplayBoard for Replayed {
    fn board(&self) -> &dyn Board {
        &self.0
    }
}
