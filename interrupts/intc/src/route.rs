//! Which inputs an interrupt line ends in.
//!
//! The lines of a PC are counted in global system interrupts (ACPI 6.5, section 5.2.13). The first
//! sixteen are the ISA bus's, and each of them ends at an 8259 and at the I/O APIC, for the guest
//! uses one or the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use trapline_device::{Line, LineSink, PcInput};

use crate::ioapic::{IoApic, regs};
use crate::pic::{self, Pic};

/// The controllers a table speaks of.
#[derive(Clone)]
pub struct Outputs {
    /// The 8259 pair.
    pub pic: Arc<Pic>,
    /// The I/O APIC.
    pub ioapic: Arc<IoApic>,
}

/// A table that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The input does not exist, or is not to be had.
    #[error("interrupt {gsi} is routed to {input:?}, which can not take it")]
    NoSuchInput {
        /// The line.
        gsi: u32,
        /// The input.
        input: PcInput,
    },
    /// Two lines are wired to one input, or one line twice; share one line instead.
    #[error("interrupts {first} and {second} are both routed to {input:?}")]
    Shared {
        /// The line that has the input.
        first: u32,
        /// The line that wants it too.
        second: u32,
        /// The input.
        input: PcInput,
    },
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
    pub fn new(outputs: &Outputs, table: &[(u32, PcInput)]) -> Result<Self, RouteError> {
        let mut ends: BTreeMap<u32, Vec<PcInput>> = BTreeMap::new();
        for (row, &(gsi, input)) in table.iter().enumerate() {
            if !exists(input) {
                return Err(RouteError::NoSuchInput { gsi, input });
            }
            let before = table.iter().take(row).find(|(_, other)| *other == input);
            if let Some(&(first, _)) = before {
                return Err(RouteError::Shared { first, second: gsi, input });
            }
            ends.entry(gsi).or_default().push(input);
        }
        let wire = |inputs| Line::new(Fan { outputs: outputs.clone(), inputs });
        Ok(Self { lines: ends.into_iter().map(|(gsi, inputs)| (gsi, wire(inputs))).collect() })
    }

    /// An end of line `gsi` for a device to hold; [`Line::unconnected`] for one that ends nowhere.
    /// All ends of one line are wired-OR.
    pub fn line(&self, gsi: u32) -> Line {
        self.lines.get(&gsi).map_or_else(Line::unconnected, Line::share)
    }
}

fn exists(input: PcInput) -> bool {
    match input {
        PcInput::Pic(pin) => pin < pic::PINS && pin != pic::regs::CASCADE,
        PcInput::IoApic(pin) => pin < regs::PINS,
    }
}

struct Fan {
    outputs: Outputs,
    inputs: Vec<PcInput>,
}

impl LineSink for Fan {
    fn set_level(&self, level: bool) {
        for input in &self.inputs {
            match *input {
                PcInput::Pic(pin) => self.outputs.pic.set_pin(pin, level),
                PcInput::IoApic(pin) => self.outputs.ioapic.set_pin(pin, level),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use trapline_device::{Handler, MsiSink, Size};
    use trapline_testkit::{CX, TestClock, TestLine, outb};

    use super::*;

    #[derive(Default)]
    struct Log(parking_lot::Mutex<Vec<u32>>);

    impl MsiSink for Log {
        fn send(&self, _address: u64, data: u32) {
            self.0.lock().push(data & 0xff);
        }
    }

    /// The timer as PCs have it, and a line of no ISA device's.
    const TABLE: [(u32, PcInput); 3] =
        [(0, PcInput::Pic(0)), (0, PcInput::IoApic(2)), (20, PcInput::IoApic(20))];

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
            Self { outputs: Outputs { pic, ioapic }, log, intr }
        }
    }

    #[test]
    fn a_line_ends_in_every_input_that_the_table_gives_it() {
        let board = Board::new();
        let routes = Routes::new(&board.outputs, &TABLE).unwrap();
        let timer = routes.line(0);
        timer.set(true);
        assert!(board.intr.level());
        assert_eq!(*board.log.0.lock(), [0x32]);
        timer.set(false);
        let pci = routes.line(20);
        pci.set(true);
        assert_eq!(*board.log.0.lock(), [0x32, 0x44]);
        assert!(!board.intr.level(), "that line does not reach the 8259s");
    }

    #[test]
    fn lines_that_are_not_in_the_table_end_nowhere() {
        let board = Board::new();
        let routes = Routes::new(&board.outputs, &TABLE).unwrap();
        for gsi in [2, 24, u32::MAX] {
            routes.line(gsi).set(true);
        }
        assert!(!board.intr.level() && board.log.0.lock().is_empty());
    }

    #[test]
    fn ends_of_one_line_are_wired_or() {
        let board = Board::new();
        let routes = Routes::new(&board.outputs, &TABLE).unwrap();
        let (a, b) = (routes.line(20), routes.line(20));
        a.set(true);
        b.set(true);
        a.set(false);
        a.set(true);
        assert_eq!(*board.log.0.lock(), [0x44], "one edge");
    }

    #[test]
    fn inputs_that_do_not_exist_or_are_taken_are_refused() {
        let board = Board::new();
        for input in [PcInput::Pic(2), PcInput::Pic(16), PcInput::IoApic(24)] {
            let error = Routes::new(&board.outputs, &[(5, input)]).unwrap_err();
            assert_eq!(error, RouteError::NoSuchInput { gsi: 5, input });
        }
        let input = PcInput::IoApic(7);
        let error = Routes::new(&board.outputs, &[(7, input), (8, input)]).unwrap_err();
        assert_eq!(error, RouteError::Shared { first: 7, second: 8, input });
    }
}
