//! The PC board with no vCPU: what a qtest client drives.
//!
//! Every interrupt line is a pin of `ioapic` that the client can watch and drive, numbered as the
//! global system interrupts are; behind the pins are our own 8259s and I/O APIC, whatever other
//! sources have. INTR of the 8259s is pin 0 of what `i8259` puts out. There are no local APICs to
//! take the I/O APIC's messages, and nobody ends its level-triggered interrupts.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline::Registry;
use trapline_device::{CharBackend, Line, LineSink, MsiSink, NullBackend, Power, PowerEvent};
use trapline_guestmem::GuestMem;
use trapline_qtest::{Pin, Side, Target, VirtualClock, Wires};

use crate::Error;
use crate::x86_pc::{self, Board, Controllers, Lines, Options, Wiring};

/// One handle for the client, one for whoever else wants to make accesses.
const HANDLES: usize = 2;

/// A machine without vCPUs, as its user describes it.
#[derive(Clone)]
pub struct Config {
    /// RAM in bytes, a multiple of 4 KiB.
    pub mem_bytes: u64,
    /// What UTC is when the machine starts, in nanoseconds since 1970.
    pub utc_start_ns: u64,
    /// Behind the first serial port.
    pub console: Arc<dyn CharBackend>,
    /// Whether the port is there that ends the machine with a status.
    pub exit_port: bool,
}

/// The PC board, its RAM, and time that stands still.
pub struct Machine {
    board: Board,
    registry: Registry,
    ram: GuestMem,
    clock: VirtualClock,
    wires: Wires,
    asked: Arc<Asked>,
}

impl Machine {
    /// Maps RAM and builds the board.
    ///
    /// # Errors
    /// What cannot be had, in a sentence.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let ram = x86_pc::ram(config.mem_bytes)?;
        let registry = Registry::builder().handles(HANDLES).build();
        let clock = VirtualClock::new(config.utc_start_ns);
        let (wires, asked) = (Wires::default(), Arc::<Asked>::default());
        let options = Options {
            cpus: 1,
            mem_bytes: config.mem_bytes,
            console: Arc::clone(&config.console),
            firmware_log: Arc::new(NullBackend),
            exit_port: config.exit_port,
            coalesce: false,
        };
        let controllers = Controllers::new(Arc::new(NoLocalApics), None, |pin0| {
            wires.line(Pin { device: "i8259", side: Side::Out, number: 0 }, End(pin0))
        })?;
        let wiring = Wiring {
            lines: &PinLines { wires: &wires, controllers: &controllers },
            controllers: Some(&controllers),
            clock: Arc::new(clock.clone()),
            power: asked.clone(),
            options,
        };
        let board = Board::new(&registry, &wiring)?;
        Ok(Self { board, registry, ram, clock, wires, asked })
    }

    /// Everything on the board back to power-on; RAM and time stay.
    pub fn reset(&self) {
        self.board.reset();
    }
}

impl Target for Machine {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn ram(&self) -> &GuestMem {
        &self.ram
    }

    fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    fn wires(&self) -> &Wires {
        &self.wires
    }

    fn settle(&self) -> Option<PowerEvent> {
        let event = self.asked.0.lock().take()?;
        if event == PowerEvent::Reset {
            self.reset();
            return None;
        }
        Some(event)
    }
}

/// What the client asked of the machine as a whole; the first request counts.
#[derive(Default)]
struct Asked(Mutex<Option<PowerEvent>>);

impl Power for Asked {
    fn request(&self, event: PowerEvent, _device: &'static str) {
        self.0.lock().get_or_insert(event);
    }
}

/// Lines into the pins, and on into the controllers.
struct PinLines<'a> {
    wires: &'a Wires,
    controllers: &'a Controllers,
}

impl Lines for PinLines<'_> {
    fn line(&self, gsi: u32) -> Line {
        let pin = Pin { device: "ioapic", side: Side::In, number: gsi };
        self.wires.line(pin, Behind(self.controllers.line(gsi)))
    }
}

/// What is behind a pin.
struct Behind(Line);

impl LineSink for Behind {
    fn set_level(&self, level: bool) {
        self.0.set(level);
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
