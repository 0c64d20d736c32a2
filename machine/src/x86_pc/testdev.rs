//! The test device on the PC, which drives every interrupt line there is.

use std::array;
use std::sync::Arc;

use trapline_platform::testdev::{IrqLines, PowerPort, Scratch, TestDev, regs};

use super::Source;
use super::layout::{self, port};
use crate::board::{Builder, Wiring};

/// Adds the device's windows.
pub(super) fn add(builder: &mut Builder, wiring: &Wiring, source: &Source) {
    let lines = array::from_fn(|at| source.lines.line(u32::try_from(at).unwrap_or(u32::MAX)));
    let device = TestDev::new(lines, Arc::clone(&wiring.power), Arc::clone(&source.pages));
    let lines = Arc::new(IrqLines(device.clone()));
    let power = Arc::new(PowerPort(device.clone()));
    let scratch = Arc::new(Scratch(device.clone()));
    let scratch_len = u64::from(regs::SCRATCH_LEN);
    builder
        .device("testdev", device.clone())
        .ports(port::TEST, 12, ("testdev", "registers"), device)
        .ports(port::TEST_LINES, regs::LINES as u64, ("testdev", "lines"), lines)
        .ports(port::BOCHS_POWER, 1, ("testdev", "power"), power)
        .mmio(layout::TEST_SCRATCH, scratch_len, ("testdev", "scratch"), scratch);
}
