//! The arm64 board of a replay: nobody at the ends of its lines and messages.

use std::sync::Arc;

use trapline_device::{Line, MsiController};

use super::{Arm64Virt, Source};
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
        // KVM's GICv2 and GICv3 take no messages.
        let none = [Irqchip::Gicv2, Irqchip::Gicv3];
        let takes_messages = none.iter().all(|irqchip| irqchip.name() != settings.irqchip);
        let nowhere: Arc<dyn MsiController> = Arc::new(Nowhere);
        let messages = takes_messages.then(|| journal::messages(nowhere, wiring.journal.as_ref()));
        let source = Source { lines, messages, controllers: None, flash: None };
        Ok(Self(Arm64Virt::new(wiring, &source)?))
    }
}

impl ReplayBoard for Replayed {
    fn board(&self) -> &dyn Board {
        &self.0
    }
}
