//! Which inputs an interrupt line ends in.
//!
//! The lines of a PC are counted in global system interrupts (ACPI 6.5, section 5.2.13). The first
//! sixteen are the ISA bus's, and each of them ends at an 8259 and at the I/O APIC, for the guest
//! uses one or the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use trapline_device::{Line, LineSink, Msi, MsiSink};

use crate::ioapic::{IoApic, regs};
use crate::pic::{self, Pic};

/// Number of lines of the ISA bus.
pub const ISA_LINES: u32 = 16;

/// One input a line ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An input of the 8259 pair, 0 to 15 without 2.
    Pic(u8),
    /// An input of the I/O APIC, 0 to 23.
    IoApic(u8),
    /// A message, sent when the line rises.
    Msi(Msi),
}

/// The controllers a table speaks of.
#[derive(Clone)]
pub struct Outputs {
    /// The 8259 pair.
    pub pic: Arc<Pic>,
    /// The I/O APIC.
    pub ioapic: Arc<IoApic>,
    /// The local APICs.
    pub messages: Arc<dyn MsiSink>,
}

/// A table that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The input does not exist, or is not to be had.
    #[error("interrupt {gsi} is routed to {target:?}, which can not take it")]
    NoSuchInput {
        /// The line.
        gsi: u32,
        /// The input.
        target: Target,
    },
    /// Two lines are wired to one input, or one line twice; share one line instead.
    #[error("interrupts {first} and {second} are both routed to {target:?}")]
    Shared {
        /// The line that has the input.
        first: u32,
        /// The line that wants it too.
        second: u32,
        /// The input.
        target: Target,
    },
}

/// The wiring of every PC with an I/O APIC: the ISA lines end at the 8259 pair and the I/O APIC
/// alike, but that the timer is at pin 2 of the I/O APIC (whose pin 0 is the 8259s' INTR); the
/// others end at the I/O APIC alone. Line 2 is the cascade's and ends nowhere.
pub fn pc_table() -> Vec<(u32, Target)> {
    let mut table = Vec::new();
    for pin in (0..pic::PINS).filter(|pin| *pin != pic::regs::CASCADE) {
        table.push((u32::from(pin), Target::Pic(pin)));
    }
    for gsi in (0..regs::PINS).filter(|gsi| *gsi != 2) {
        table.push((u32::from(gsi), Target::IoApic(if gsi == 0 { 2 } else { gsi })));
    }
    table
}

/// The lines of a machine, wired up.
#[derive(Debug)]
pub struct Routes {
    lines: BTreeMap<u32, Line>,
}

impl Routes {
    /// Wires the lines named in `table` to all the inputs it gives them.
    ///
    /// # Errors
    /// On an input that does not exist or is used twice.
    pub fn new(outputs: &Outputs, table: &[(u32, Target)]) -> Result<Self, RouteError> {
        let mut ends: BTreeMap<u32, Vec<Target>> = BTreeMap::new();
        for (row, &(gsi, target)) in table.iter().enumerate() {
            if !target.exists() {
                return Err(RouteError::NoSuchInput { gsi, target });
            }
            let before = table.iter().take(row).find(|(_, other)| *other == target);
            match (before, target) {
                (Some(&(first, _)), Target::Pic(_) | Target::IoApic(_)) => {
                    return Err(RouteError::Shared { first, second: gsi, target });
                }
                _ => ends.entry(gsi).or_default().push(target),
            }
        }
        let wire = |targets| Line::new(Fan { outputs: outputs.clone(), targets });
        Ok(Self { lines: ends.into_iter().map(|(gsi, targets)| (gsi, wire(targets))).collect() })
    }

    /// An end of line `gsi` for a device to hold; [`Line::unconnected`] for one that ends nowhere.
    /// All ends of one line are wired-OR.
    pub fn line(&self, gsi: u32) -> Line {
        self.lines.get(&gsi).map_or_else(Line::unconnected, Line::share)
    }
}

impl Target {
    const fn exists(self) -> bool {
        match self {
            Self::Pic(pin) => pin < pic::PINS && pin != pic::regs::CASCADE,
            Self::IoApic(pin) => pin < regs::PINS,
            Self::Msi(_) => true,
        }
    }
}

struct Fan {
    outputs: Outputs,
    targets: Vec<Target>,
}

impl LineSink for Fan {
    fn set_level(&self, level: bool) {
        for target in &self.targets {
            match *target {
                Target::Pic(pin) => self.outputs.pic.set_pin(pin, level),
                Target::IoApic(pin) => self.outputs.ioapic.set_pin(pin, level),
                Target::Msi(Msi { address, data }) if level => {
                    self.outputs.messages.send(address, data);
                }
                Target::Msi(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use trapline_device::{Handler, Size};
    use trapline_testkit::{CX, TestClock, TestLine, outb};

    use super::*;

    #[derive(Default)]
    struct Log(parking_lot::Mutex<Vec<u32>>);

    impl MsiSink for Log {
        fn send(&self, _address: u64, data: u32) {
            self.0.lock().push(data & 0xff);
        }
    }

    struct Board {
        outputs: Outputs,
        log: Arc<Log>,
        intr: TestLine,
    }

    impl Board {
        /// The 8259s and pins 2 and 20 of the I/O APIC are ready for edges.
        fn new() -> Self {
            let (log, intr) = (Arc::new(Log::default()), TestLine::default());
            let messages: Arc<dyn MsiSink> = Arc::clone(&log) as _;
            let pic = Pic::new(intr.line());
            let ioapic = IoApic::new(Arc::clone(&messages), None, Arc::new(TestClock::default()));
            for (offset, value) in [(0, 0x11), (1, 0x20), (1, 4), (1, 1)] {
                outb(&*pic, offset, value);
            }
            for (pin, vector) in [(0, 0x30), (2, 0x32), (20, 0x44)] {
                ioapic.write(&CX, 0x00, Size::Dword, 0x10 + 2 * pin);
                ioapic.write(&CX, 0x10, Size::Dword, vector);
            }
            Self { outputs: Outputs { pic, ioapic, messages }, log, intr }
        }
    }

    #[test]
    fn the_timer_is_at_input_0_of_the_8259_and_at_pin_2_of_the_io_apic() {
        let board = Board::new();
        let routes = Routes::new(&board.outputs, &pc_table()).unwrap();
        let timer = routes.line(0);
        timer.set(true);
        assert!(board.intr.level());
        assert_eq!(*board.log.0.lock(), [0x32]);
        timer.set(false);
        let pci = routes.line(20);
        pci.set(true);
        assert_eq!(*board.log.0.lock(), [0x32, 0x44]);
        assert!(!board.intr.level(), "lines past 15 do not reach the 8259s");
    }

    #[test]
    fn the_cascade_and_lines_past_the_last_end_nowhere() {
        let board = Board::new();
        let routes = Routes::new(&board.outputs, &pc_table()).unwrap();
        for gsi in [2, 24, u32::MAX] {
            routes.line(gsi).set(true);
        }
        assert!(!board.intr.level() && board.log.0.lock().is_empty());
    }

    #[test]
    fn ends_of_one_line_are_wired_or() {
        let board = Board::new();
        let routes = Routes::new(&board.outputs, &pc_table()).unwrap();
        let (a, b) = (routes.line(20), routes.line(20));
        a.set(true);
        b.set(true);
        a.set(false);
        a.set(true);
        assert_eq!(*board.log.0.lock(), [0x44], "one edge");
    }

    #[test]
    fn a_line_can_end_in_a_message() {
        let board = Board::new();
        let message = Msi { address: 0xfee0_0000, data: 0x77 };
        let routes = Routes::new(&board.outputs, &[(30, Target::Msi(message))]).unwrap();
        let line = routes.line(30);
        for level in [true, false, true] {
            line.set(level);
        }
        assert_eq!(*board.log.0.lock(), [0x77, 0x77]);
    }

    #[test]
    fn inputs_that_do_not_exist_or_are_taken_are_refused() {
        let board = Board::new();
        for target in [Target::Pic(2), Target::Pic(16), Target::IoApic(24)] {
            let error = Routes::new(&board.outputs, &[(5, target)]).unwrap_err();
            assert_eq!(error, RouteError::NoSuchInput { gsi: 5, target });
        }
        let target = Target::IoApic(7);
        let error = Routes::new(&board.outputs, &[(7, target), (8, target)]).unwrap_err();
        assert_eq!(error, RouteError::Shared { first: 7, second: 8, target });
    }
}
