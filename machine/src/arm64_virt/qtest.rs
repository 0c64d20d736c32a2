//! The arm64 board with no vCPU.
//!
//! Every shared peripheral interrupt is a pin of `gic` that the client can watch and drive,
//! numbered from 0 (INTID 32) as QEMU's `virt` machine numbers its own.

use trapline::Registry;
use trapline_device::{Device, Line};
use trapline_guestmem::GuestMem;
use trapline_qtest::{Pin, Side, Wires};

use super::{Board, Options, Wiring, layout, ram};
use crate::Error;
use crate::parts::Lines;
use crate::qtest::{Behind, Bench, Config};

/// Maps RAM and builds the board.
pub(crate) fn build(
    config: &Config,
    registry: &Registry,
    bench: &Bench,
) -> Result<(Box<dyn Device>, GuestMem), Error> {
    let mem = ram(layout::RAM, config.mem_bytes)?;
    let wiring = Wiring {
        lines: &PinLines { wires: &bench.wires },
        msi: None,
        controllers: None,
        clock: bench.clock.clone(),
        options: Options { console: config.console.clone(), coalesce: false },
    };
    Ok((Box::new(Board::new(registry, &wiring)?), mem))
}

/// Lines into the pins. Nothing is behind them.
struct PinLines<'a> {
    wires: &'a Wires,
}

impl Lines for PinLines<'_> {
    fn line(&self, number: u32) -> Line {
        let pin = Pin { device: "gic", side: Side::In, number };
        self.wires.line(pin, Behind(Line::unconnected()))
    }
}
