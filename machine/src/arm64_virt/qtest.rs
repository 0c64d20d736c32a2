//! The arm64 board with no vCPU.
//!
//! Every shared peripheral interrupt is a pin of `gic` that the client can watch and drive,
//! numbered from 0 (INTID 32) as QEMU's `virt` machine numbers its own. Behind them is our own
//! GICv3 with its ITS. What goes out of `gic` are the processors' interrupt inputs, numbered as
//! QEMU numbers them: IRQ of each, then FIQ of each.

use std::path::Path;
use std::sync::Arc;

use trapline_device::Line;
use trapline_intc::gicv3::{GicV3, Outputs};
use trapline_qtest::{Pin, Side, Wires};

use super::gic::Gic;
use super::{Arm64Virt, FLASH, Source};
use crate::Error;
use crate::board::{Lines, Wiring};
use crate::flash::{Access, FlashFile, FlashImage};
use crate::qtest::Behind;

/// Builds the board, with pins that the client of `wires` watches and drives.
pub(crate) fn build(
    wires: &Wires,
    wiring: &Wiring,
    flash: Option<&Path>,
) -> Result<(Arm64Virt, Arc<GicV3>), Error> {
    let cpus = wiring.options.cpus;
    let output = |number| {
        let pin = Pin { device: "gic", side: Side::Out, number };
        wires.line(pin, Behind(Line::unconnected()))
    };
    let outputs = |cpu| Outputs { irq: output(cpu), fiq: output(cpus + cpu) };
    let gic = Arc::new(Gic::new(cpus, wiring.ram.clone(), true, outputs)?);
    let chip = gic.chip().clone();
    let flash = flash.map(|path| FlashFile::open(path, FLASH, Access::ReadWrite)).transpose()?;
    let (wires, behind) = (wires.clone(), Arc::clone(&gic));
    let source = Source {
        lines: Lines::new(move |number| {
            let pin = Pin { device: "gic", side: Side::In, number };
            wires.line(pin, Behind(behind.line(number)))
        }),
        messages: Some(gic.messages()),
        controllers: Some(gic),
        flash: flash.map(FlashImage::new),
    };
    Ok((Arm64Virt::new(wiring, &source)?, chip))
}
