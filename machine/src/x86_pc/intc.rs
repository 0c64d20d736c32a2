//! Our own 8259s, I/O APIC and 8254: for `--irqchip split`, where KVM has the local APICs only, and for
//! qtest, where there is nothing.

use std::sync::Arc;

use trapline::{Handler, Region};
use trapline_device::{Clock, EoiSink, ExtInt, LevelRoutes, Line, LineSink, MsiSink};
use trapline_intc::ioapic::{self, IoApic};
use trapline_intc::pic::{Pic, regs as pic_regs};
use trapline_intc::pit::{self, Pit};
use trapline_intc::{Outputs, Routes};
use trapline_platform::i8042::Timer2;

use super::layout::{self, port};
use crate::Error;
use crate::board::Builder;

/// The 8259 pair and the I/O APIC, with the lines into both.
pub(crate) struct Controllers {
    outputs: Outputs,
    routes: Routes,
}

impl Controllers {
    /// Controllers after power-on, whose messages go to `messages`. `intr` makes the line at the
    /// end of the 8259s' INTR, which also is a pin of the I/O APIC, out of that pin.
    pub(crate) fn new(
        messages: Arc<dyn MsiSink>,
        level_routes: Option<Arc<dyn LevelRoutes>>,
        clock: &Arc<dyn Clock>,
        intr: impl FnOnce(Box<dyn LineSink>) -> Line,
    ) -> Result<Self, Error> {
        let ioapic = IoApic::new(messages, level_routes, Arc::clone(clock));
        let pic = Pic::new(intr(Box::new(ioapic.pin(layout::INTR_PIN))));
        let outputs = Outputs { pic, ioapic };
        let routes = Routes::new(&outputs, &layout::wiring())?;
        Ok(Self { outputs, routes })
    }

    /// The line into both controllers' inputs for a global system interrupt.
    pub(super) fn line(&self, gsi: u32) -> Line {
        self.routes.line(gsi)
    }

    /// The 8259s, as the processor's INTR and INTA pins see them.
    pub(crate) fn ext_int(&self) -> Arc<dyn ExtInt> {
        self.outputs.pic.clone()
    }

    /// Has these ISA lines be level triggered, bit per line, and no others.
    pub(crate) fn set_level_triggered(&self, lines: u16) {
        self.outputs.pic.set_level_triggered(lines);
    }

    /// The I/O APIC, which hears the local APICs' ends of interrupts.
    pub(crate) fn eoi_sink(&self) -> Arc<dyn EoiSink> {
        self.outputs.ioapic.clone()
    }

    /// What they are doing.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn pending(&self) -> super::pending::Chips {
        let Outputs { pic, ioapic } = &self.outputs;
        super::pending::Chips { pics: pic.state(), ioapic: ioapic.state() }
    }

    /// Adds the controllers with their registers.
    pub(super) fn add(&self, builder: &mut Builder) {
        let Outputs { pic, ioapic } = &self.outputs;
        let windows = [
            ("primary", port::PIC1, pic_regs::PRIMARY_OFFSET),
            ("secondary", port::PIC2, pic_regs::SECONDARY_OFFSET),
            ("elcr", port::ELCR, pic_regs::ELCR_OFFSET),
        ];
        let part = builder.controller("pic", pic.clone());
        for (name, base, offset) in windows {
            let handler: Arc<dyn Handler> = pic.clone();
            part.region(Region::pio(base, 2, "pic", name, handler).device_offset(offset));
        }
        let len = ioapic::regs::WINDOW_LEN.into();
        let part = builder.controller("ioapic", ioapic.clone());
        part.mmio(layout::IO_APIC.into(), len, ("ioapic", "registers"), ioapic.clone());
    }
}

/// Adds a timer, whose channel 2 is returned for port B.
pub(super) fn add_timer(
    builder: &mut Builder,
    line: Line,
    clock: Arc<dyn Clock>,
) -> Box<dyn Timer2> {
    let pit = Pit::new(Some(line), clock);
    let part = builder.device("pit", pit.clone());
    part.ports(port::PIT, pit::regs::WINDOW_LEN.into(), ("pit", "8254"), pit.clone());
    Box::new(Channel2(pit))
}

/// The timer's channel 2, as port B reaches it.
struct Channel2(Arc<Pit>);

impl Timer2 for Channel2 {
    fn gate(&self, on: bool) {
        self.0.gate2(on);
    }

    fn output(&self) -> bool {
        self.0.output2()
    }
}
