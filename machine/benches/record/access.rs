//! An access through a vCPU's handle, without a vCPU.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use trapline::{Handle, Region, Registry};
use trapline_device::{Size, Space};

use crate::{Recorded, Recording, Register, goal};

/// Accesses of one repetition: short enough to fit between two interruptions.
const ACCESSES: u32 = 20_000;
const REPETITIONS: usize = 200;
const PORT: u64 = 0x3f8;
/// What one with recording off may take more than without a recorder, in nanoseconds: noise.
const NOISE: f64 = 1.0;

struct Bus {
    handle: Handle,
    recording: Recording,
    least_ns: f64,
    _recorded: Option<Recorded>,
}

impl Bus {
    fn new(recording: Recording, recorded: bool) -> Self {
        let registry = Registry::builder().build();
        let recorded = recorded.then(|| Recorded::start(&registry, recording));
        let region = Region::pio(0x3f8, 8, "serial0", "uart", Arc::new(Register));
        std::mem::forget(registry.map(region).unwrap());
        Self { handle: registry.handle(0), recording, least_ns: f64::MAX, _recorded: recorded }
    }

    fn repeat(&mut self) {
        let begin = Instant::now();
        for n in 0..ACCESSES {
            let port = PORT + u64::from(n & 7);
            black_box(self.handle.read_value(Space::Pio, port, Size::Byte));
        }
        let ns = begin.elapsed().as_secs_f64() * 1e9 / f64::from(ACCESSES);
        self.least_ns = self.least_ns.min(ns);
    }
}

/// Prints nanoseconds an access; whether the goal is met.
pub(crate) fn measure() -> bool {
    let none = Bus::new(Recording::Off, false);
    let mut all = vec![none];
    all.extend(Recording::EACH.map(|recording| Bus::new(recording, true)));
    for _ in 0..REPETITIONS {
        all.iter_mut().for_each(Bus::repeat);
    }
    println!("nanoseconds an access, the least of {REPETITIONS} repetitions of {ACCESSES} reads");
    println!("{:<18} {:>8.1}", "no recorder", all[0].least_ns);
    for bus in &all[1..] {
        println!("{:<18} {:>8.1}", bus.recording.name(), bus.least_ns);
    }
    println!();
    goal("off costs what none does", all[1].least_ns <= all[0].least_ns + NOISE)
}
