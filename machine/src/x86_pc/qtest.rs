//! The PC board with no vCPU.
//!
//! Every interrupt line is a pin of `ioapic` that the client can watch and drive, numbered as the
//! global system interrupts are; behind the pins are our own 8259s and I/O APIC, whatever other
//! sources have. INTR of the 8259s is pin 0 of what `i8259` puts out. There are no local APICs to
//! take the I/O APIC's messages, and nobody ends its level-triggered interrupts.

use std::sync::Arc;

use trapline::Registry;
use trapline_device::{Line, LineSink, MsiSink, NullBackend};
use trapline_guestmem::{Backing, GuestMem};
use trapline_intc::ioapic;
use trapline_platform::testdev::NoFlush;
use trapline_qtest::{Pin, Side, Wires};

use super::{Board, Controllers, Options, Wiring, ram};
use crate::Error;
use crate::parts::Lines;
use crate::qtest::{Behind, Bench, Config, OnBench};

/// Maps RAM and builds the board.
pub(crate) fn build(
    config: &Config,
    registry: &Registry,
    bench: &Bench,
) -> Result<(Box<dyn OnBench>, GuestMem), Error> {
    let mem = ram(config.mem_bytes, &Backing::Private)?;
    let options = Options {
        cpus: 1,
        mem_bytes: config.mem_bytes,
        console: Arc::clone(&config.console),
        firmware_log: Arc::new(NullBackend),
        exit_port: config.exit_port,
        testdev: config.testdev,
        fw_cfg: config.fw_cfg.clone(),
        coalesce: false,
    };
    let controllers = Controllers::new(Arc::new(NoLocalApics), None, &bench.clock, |pin0| {
        bench.wires.line(Pin { device: "i8259", side: Side::Out, number: 0 }, End(pin0))
    })?;
    let lines = PinLines { wires: &bench.wires, controllers: &controllers };
    // The client can drive every pin, also those no device of the board holds.
    (0..u32::from(ioapic::regs::PINS)).for_each(|number| drop(lines.line(number)));
    let wiring = Wiring {
        lines: &lines,
        controllers: Some(&controllers),
        clock: Arc::clone(&bench.clock),
        power: Arc::clone(&bench.power),
        mem: mem.clone(),
        pages: Arc::new(NoFlush),
        options,
    };
    Ok((Box::new(Board::new(registry, wiring)?), mem))
}

/// Lines into the pins, and on into the controllers.
struct PinLines<'a> {
    wires: &'a Wires,
    controllers: &'a Controllers,
}

impl Lines for PinLines<'_> {
    fn line(&self, number: u32) -> Line {
        let pin = Pin { device: "ioapic", side: Side::In, number };
        self.wires.line(pin, Behind(self.controllers.line(number)))
    }
}

struct End(Box<dyn LineSink>);

impl LineSink for End {
    fn set_level(&self, level: bool) {
        self.0.set_level(level);
    }
}

struct NoLocalApics;

impl MsiSink for NoLocalApics {
    fn send(&self, _address: u64, _data: u32) {}
}
