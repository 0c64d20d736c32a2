//! The real-time clock and CMOS RAM of a PC/AT: a Motorola MC146818A with 128 bytes.
//!
//! Spec: Motorola MC146818A data sheet (ADI 1026); IBM PC/AT Technical Reference for the RAM.
//!
//! ```text
//!  guest ── index, data ──► Rtc (lock, clock, timer) ──► Mc146818 ──► Outputs
//!                            │                                        │
//!                            └◄── wake at the deadline ◄──────────────┤ change_in_ns
//!                                 Line ◄──────────────────────────────┘ irq
//! ```
//!
//! [`Mc146818`] is the chip and is told the time; [`Rtc`] gives it a clock, a line and a lock. With
//! no interrupt enabled no host timer is armed; the registers are brought up to date by whoever
//! reads them.
//!
//! * The index latch reads back as written, NMI mask included. On an IBM AT the port is write-only
//!   and reads as an undriven bus; Intel's chip sets return the latch to software that saves and
//!   restores it, and that is what is done here.
//! * Registers C and D ignore writes, and so does bit 7 of register A.
//!
// Deviation: the daylight savings bit is stored and does nothing. The data sheet's dates (last
// Sundays of April and October, United States before 1987) are wrong everywhere today, every
// chip set still sold has made the bit inert, and Linux never sets it.
//
// Deviation: the time bytes stay readable and writable while UIP is set; they change when it falls.
// The chip takes them off its bus during an update, which "undefined" allows.
//
// Deviation: the century counts. In an MC146818A the byte is RAM that software maintains; QEMU,
// kvmtool and the later chips count it, and Linux trusts it.

mod calendar;
mod chip;
mod cmos;
pub mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Clock, Device, Direction, FdtDevice, FdtNode, Handler, IoCx, Line, Rules, SaveState, Saved,
    Size, StateError, Timer, Wake,
};

pub use chip::{Mc146818, Outputs};
pub use cmos::{BOOT_FLAGS_1, BOOT_FLAGS_2, CmosConfig, EQUIPMENT, SHUTDOWN_STATUS};
use state::SavedV1;
pub use state::{Cmos, State};

/// Length of the device in bytes: index and data.
pub const WINDOW_LEN: u64 = 2;

/// The chip in a machine.
pub struct Rtc {
    // Wiring
    line: Line,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    inner: Mutex<Inner>,
}

struct Inner {
    // Book-keeping
    armed: bool,
    // State
    chip: Mc146818,
}

impl Rtc {
    /// A clock that shows `clock`'s UTC, raises `line`, and whose RAM tells firmware `config`.
    pub fn new(line: Line, clock: Arc<dyn Clock>, config: CmosConfig) -> Arc<Self> {
        let chip = Mc146818::new(&config, clock.utc_ns());
        Arc::new_cyclic(|this: &Weak<Self>| {
            let timer = clock.timer(Weak::<Self>::clone(this));
            Self { line, clock, timer, inner: Mutex::new(Inner { armed: false, chip }) }
        })
    }

    /// What [`FdtDevice::fdt_node`] says of any clock.
    ///
    /// Spec: Linux `Documentation/devicetree/bindings/rtc/rtc-cmos.yaml`.
    pub fn node() -> FdtNode {
        FdtNode::new("rtc").text("compatible", "motorola,mc146818")
    }

    /// The name of the register that an access at `offset` reaches while the address latch holds `index`.
    pub fn register_of(index: u8, offset: u64) -> Option<&'static str> {
        match offset {
            regs::INDEX => Some("RTC index"),
            regs::DATA => Some(chip::selected_name(index)),
            _ => None,
        }
    }

    /// The board's own change to the CMOS RAM (boot order, shutdown status), with the checksum made
    /// good. `index` is one of the constants of this module or any other byte of RAM; the clock's
    /// registers are not touched.
    pub fn set_ram(&self, index: u8, value: u8) {
        self.with_chip(|chip, _| chip.set_ram(index, value));
    }

    /// The byte at `index` of the CMOS RAM, as the guest has left it.
    pub fn ram(&self, index: u8) -> u8 {
        self.inner.lock().chip.state().cmos.get(index)
    }

    /// A copy of everything a snapshot keeps.
    pub fn state(&self) -> State {
        self.inner.lock().chip.state().clone()
    }

    /// Does something to the chip and drives what follows from it. The lock is held throughout, so
    /// that line and timer see changes in their order.
    fn with_chip<R>(&self, act: impl FnOnce(&mut Mc146818, u64) -> R) -> R {
        let mut inner = self.inner.lock();
        // In this order, so that a thread that loses the processor in between arms too early a
        // deadline rather than too late a one; being woken early only means being armed again.
        let now = self.clock.now_ns();
        let utc = self.clock.utc_ns();
        let result = act(&mut inner.chip, utc);
        let Outputs { irq, change_in_ns } = inner.chip.sync(utc);
        self.line.set(irq);
        if inner.armed || change_in_ns.is_some() {
            inner.armed = change_in_ns.is_some();
            self.timer.arm(change_in_ns.map(|ns| now.saturating_add(ns)));
        }
        result
    }
}

impl Handler for Rtc {
    fn read(&self, cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let read = |chip: &mut Mc146818, utc| {
            cx.reaches(|| register(chip, offset));
            chip.read(utc, offset)
        };
        self.with_chip(read).into()
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let [value, ..] = value.to_le_bytes();
        self.with_chip(|chip, utc| {
            cx.reaches(|| register(chip, offset));
            chip.write(utc, offset, value);
        });
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        register(&self.inner.lock().chip, offset)
    }
}

fn register(chip: &Mc146818, offset: u64) -> Option<&'static str> {
    Rtc::register_of(chip.state().index, offset)
}

impl FdtDevice for Rtc {
    fn fdt_node(&self) -> FdtNode {
        Self::node()
    }
}

impl Wake for Rtc {
    fn wake(&self) {
        self.with_chip(|_, _| ());
    }
}

impl Device for Rtc {
    /// The RESET pin, see [`Mc146818::reset`]: what has a battery keeps its contents, so that
    /// firmware finds the shutdown status it left.
    fn reset(&self) {
        self.with_chip(Mc146818::reset);
    }
}

impl SaveState for Rtc {
    fn save(&self) -> Saved {
        self.with_chip(|chip, utc| {
            chip.sync(utc);
            Saved::encode(&SavedV1::from(chip.state()))
        })
    }

    /// The calendar makes up for the time since.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = State::try_from(saved.decode::<SavedV1>()?)?;
        self.with_chip(|chip, _| chip.restore(state));
        Ok(())
    }
}
