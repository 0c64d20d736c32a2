//! The test device on the PC, which drives every interrupt line there is.

use std::array;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use trapline_device::Line;
use trapline_platform::testdev::{IrqLines, PowerPort, Scratch, TestDev, regs};

use super::Wiring;
use super::layout::{self, port};
use crate::parts::{Lines, Parts};

/// Adds the device's windows.
pub(super) fn add(parts: &mut Parts, wiring: &Wiring<'_>) {
    let lines = array::from_fn(|at| wiring.lines.line(u32::try_from(at).unwrap_or(u32::MAX)));
    let device = TestDev::new(lines, Arc::clone(&wiring.power), Arc::clone(&wiring.pages));
    parts.devices.add("testdev", device.clone());
    parts.ports(port::TEST, 12, ("testdev", "registers"), device.clone());
    let lines = Arc::new(IrqLines(device.clone()));
    parts.ports(port::TEST_LINES, regs::LINES as u64, ("testdev", "lines"), lines);
    let power = Arc::new(PowerPort(device.clone()));
    parts.ports(port::BOCHS_POWER, 1, ("testdev", "power"), power);
    let len = u64::from(regs::SCRATCH_LEN);
    let scratch = Arc::new(Scratch(device));
    parts.mmio(layout::TEST_SCRATCH, len, ("testdev", "scratch"), scratch);
}

/// Lines that can be asked for more than once: each time there is another holder.
pub(super) struct SharedLines<'a> {
    lines: &'a dyn Lines,
    taken: RefCell<BTreeMap<u32, Line>>,
}

impl<'a> SharedLines<'a> {
    pub(super) fn new(lines: &'a dyn Lines) -> Self {
        Self { lines, taken: RefCell::default() }
    }
}

impl Lines for SharedLines<'_> {
    fn line(&self, number: u32) -> Line {
        let mut taken = self.taken.borrow_mut();
        taken.entry(number).or_insert_with(|| self.lines.line(number)).share()
    }
}
