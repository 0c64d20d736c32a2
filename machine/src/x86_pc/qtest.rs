//! The PC board with no vCPU.
//!
//! Every interrupt line is a pin of `ioapic` that the client can watch and drive, numbered as the
//! global system interrupts are; behind the pins are our own 8259s and I/O APIC, whatever other
//! sources have. INTR of the 8259s is pin 0 of what `i8259` puts out. There are no local APICs to
//! take the I/O APIC's messages, and nobody ends its level-triggered interrupts.

use std::sync::Arc;

use trapline_device::{LineSink, MsiController, MsiSink};
use trapline_guestmem::GuestMem;
use trapline_intc::ioapic;
use trapline_platform::testdev::NoFlush;
use trapline_qtest::{Pin, Side, Wires};

use super::intc::Controllers;
use super::{FlashImages, Source, X86Pc};
use crate::Error;
use crate::board::{Lines, Wiring};
use crate::qtest::Behind;

/// Builds the board, with pins that the client of `wires` watches and drives.
pub(crate) fn build(
    wires: &Wires,
    wiring: &Wiring,
    images: FlashImages<'_>,
) -> Result<X86Pc, Error> {
    let flash = images.open()?;
    let controllers =
        Arc::new(Controllers::new(Arc::new(NoLocalApics), None, &wiring.clock, |pin0| {
            wires.line(Pin { device: "i8259", side: Side::Out, number: 0 }, End(pin0))
        })?);
    let (wires, behind) = (wires.clone(), Arc::clone(&controllers));
    let lines = Lines::new(move |number| {
        let pin = Pin { device: "ioapic", side: Side::In, number };
        wires.line(pin, Behind(behind.line(number)))
    });
    // The client can drive every pin, also those no device of the board holds.
    (0..u32::from(ioapic::regs::PINS)).for_each(|number| drop(lines.line(number)));
    let messages = Arc::new(Messages(wiring.ram.clone()));
    let (controllers, pages) = (Some(controllers), Arc::new(NoFlush));
    let lines = Arc::new(lines);
    X86Pc::new(wiring, &Source { lines, messages, controllers, pages, flash })
}

struct End(Box<dyn LineSink>);

impl LineSink for End {
    fn set_level(&self, level: bool) {
        self.0.set_level(level);
    }
}

/// Messages of PCI functions: writes of 32 bits, which anybody but a local APIC takes as such. A
/// client that plays the processor has them go to RAM, and looks there (QEMU's libqos does).
#[derive(Clone)]
struct Messages(GuestMem);

impl MsiController for Messages {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(self.clone())
    }
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        // Where there is no RAM nobody takes it.
        let _ = self.0.write(address, &data.to_le_bytes());
    }
}

struct NoLocalApics;

impl MsiSink for NoLocalApics {
    fn send(&self, _address: u64, _data: u32) {}
}
