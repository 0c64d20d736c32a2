//! A printer port with no printer: data, status and control, three bytes.
//!
//! Spec: IBM PC/AT Technical Reference (1984), "Serial/Parallel Adapter"; IEEE 1284-1994 annex D
//! calls the same registers the SPP mode (DATA, STATUS, CONTROL).

use parking_lot::Mutex;
use trapline_device::{
    Direction, Handler, IoCx, Rules, Size, StateError, device_state, saved_form,
};

use super::regs::{CONTROL_LATCHED, PRINTER, Printer, STATUS_OPEN};

/// Reset clears both latches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    data: u8,
    control: u8,
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let fits = self.control & !CONTROL_LATCHED == 0;
        StateError::check::<SavedV1>(fits, "CONTROL has five latches")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "printer-port" version 1 {
        data: u8,
        control: u8,
    }
}

/// A standard (one-directional) parallel port nothing is plugged into. The interrupt is enabled by
/// CONTROL bit 4 but caused by nACK, which never moves, so there is no line.
#[derive(Debug, Default)]
pub struct PrinterPort(Mutex<State>);

impl Handler for PrinterPort {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let state = self.0.lock();
        match PRINTER.for_read(offset).map(|row| row.reg) {
            Some(Printer::Data) => u64::from(state.data),
            Some(Printer::Status) => u64::from(STATUS_OPEN),
            Some(Printer::Control) => u64::from(state.control | !CONTROL_LATCHED),
            None => size.ones(),
        }
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let value = super::low_byte(value);
        let mut state = self.0.lock();
        match PRINTER.for_write(offset).map(|row| row.reg) {
            Some(Printer::Data) => state.data = value,
            Some(Printer::Control) => state.control = value & CONTROL_LATCHED,
            Some(Printer::Status) | None => {}
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        match direction {
            Direction::Read => PRINTER.for_read(offset),
            Direction::Write => PRINTER.for_write(offset),
        }
        .map(|row| row.name)
    }
}

device_state!(PrinterPort, SavedV1, 0);
