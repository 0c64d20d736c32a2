//! The arm64 board with no vCPU.
//!
//! Every shared peripheral interrupt is a pin of `gic` that the client can watch and drive,
//! numbered from 0 (INTID 32) as QEMU's `virt` machine numbers its own. Behind them is our own
//! GICv3 with its ITS. What goes out of `gic` are the processors' interrupt inputs, numbered as
//! QEMU numbers them: IRQ of each, then FIQ of each.

use std::sync::Arc;

use trapline::Registry;
use trapline_device::Line;
use trapline_guestmem::{Backing, GuestMem};
use trapline_intc::gicv3::Outputs;
use trapline_platform::flash::FlashArray;
use trapline_qtest::{Pin, Side, Wires};

use super::edu::Edus;
use super::flash::FlashFile;
use super::gic::Gic;
use super::{Board, Options, Wiring, layout, ram};
use crate::Error;
use crate::parts::Lines;
use crate::qtest::{Behind, Bench, Config, OnBench};

/// Maps RAM and builds the board.
pub(crate) fn build(
    config: &Config,
    registry: &Registry,
    bench: &Bench,
) -> Result<(Box<dyn OnBench>, GuestMem), Error> {
    let mem = ram(layout::RAM, config.mem_bytes, &Backing::Private)?;
    let cpus = config.cpus;
    let output = |number| {
        let pin = Pin { device: "gic", side: Side::Out, number };
        bench.wires.line(pin, Behind(Line::unconnected()))
    };
    let outputs = |cpu| Outputs { irq: output(cpu), fiq: output(cpus + cpu) };
    let gic = Gic::new(cpus, mem.clone(), true, outputs)?;
    bench.gic.get_or_init(|| gic.chip().clone());
    let messages = gic.messages();
    let flash = config.flash.as_deref().map(FlashFile::open).transpose()?;
    let flash = flash.map(|file| -> Arc<dyn FlashArray> { Arc::new(file) });
    let lines = PinLines { wires: &bench.wires, gic: &gic };
    let wiring = Wiring {
        lines: &lines,
        msi: Some(&*messages),
        controllers: Some(&gic),
        clock: bench.clock.clone(),
        options: Options { console: config.console.clone(), flash, coalesce: false },
    };
    let mut board = Board::new(registry, &wiring)?;
    let edus = Edus::new(config.edu, registry, &board, &lines, Some(&*messages))?;
    board.devices.add_follower(move || edus.place());
    Ok((Box::new(board), mem))
}

/// Lines into the pins, and on into the GIC.
struct PinLines<'a> {
    wires: &'a Wires,
    gic: &'a Gic,
}

impl Lines for PinLines<'_> {
    fn line(&self, number: u32) -> Line {
        let pin = Pin { device: "gic", side: Side::In, number };
        self.wires.line(pin, Behind(self.gic.line(number)))
    }
}
