//! Our path, with a registry of the size of a PC's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use trapline::Region;
use trapline_device::{Handler, IoCx, Size};
use trapline_kvm::Stop;

use crate::cases::{ANSWER, Case, MARK, Offloaded, PORT, REGISTER};
use crate::support::{Asm, MMIO, Machine, eventfd};
use crate::{Contender, Pass};

/// Regions beside those of the benchmark, in each space.
const NEIGHBOURS: u16 = 24;

pub(crate) struct Ours {
    machine: Machine,
    code: Asm,
    device: Arc<Device>,
    marks: Arc<Marks>,
    /// Exits up to the last pass.
    exits: u64,
}

/// Adds up what it is given.
#[derive(Default)]
struct Device(AtomicU64);

/// Remembers when it was written to.
#[derive(Default)]
struct Marks(Mutex<Vec<Instant>>);

impl Handler for Device {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        ANSWER
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        // One writer at a time: the vCPU, or whoever has the registry's turn to drain.
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(value);
        self.0.store(sum, Ordering::Relaxed);
    }
}

impl Handler for Marks {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        ANSWER
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        self.0.lock().push(Instant::now());
    }
}

impl Ours {
    pub(crate) fn new(case: &Case) -> Self {
        let mut machine = Machine::new();
        let (device, marks) = (Arc::new(Device::default()), Arc::new(Marks::default()));
        machine.map(Region::pio(MARK, 1, "marks", "mark", marks.clone()));
        let ports = Region::pio(PORT, 8, "device", "ports", device.clone());
        let memory = Region::mmio(MMIO, 0x1000, "device", "memory", device.clone());
        let register = u64::from(REGISTER);
        let (ports, memory) = match case.offloaded {
            Offloaded::Nothing => (ports, memory),
            Offloaded::Coalesced => (ports.coalesce(0..1), memory.coalesce(register..register + 4)),
            Offloaded::Doorbell => (
                ports.doorbell(0, 0, None, eventfd()),
                memory.doorbell(register, 0, None, eventfd()),
            ),
        };
        machine.map(ports);
        machine.map(memory);
        for i in 0..NEIGHBOURS {
            let other = Arc::new(Device::default());
            machine.map(Region::pio(0x1000 + i * 0x20, 0x20, "other", "ports", other.clone()));
            let base = 0xd000_0000 + u64::from(i) * 0x4000;
            machine.map(Region::mmio(base, 0x4000, "other", "memory", other));
        }
        Self { machine, code: case.code.clone().hlt(), device, marks, exits: 0 }
    }
}

impl Contender for Ours {
    fn pass(&mut self) -> Pass {
        self.device.0.store(0, Ordering::Relaxed);
        let running = self.machine.start(&self.code);
        assert_eq!(running.wait(), Stop::Halted);
        let vcpus = running.set.stop().unwrap();
        let total = running.set.stats()[0].total();
        let exits = total - std::mem::replace(&mut self.exits, total);
        self.machine.give_back(vcpus);
        let marks = std::mem::take(&mut *self.marks.0.lock());
        let [begin, end] = marks[..] else { panic!("{} marks", marks.len()) };
        Pass { time: end - begin, exits, sum: self.device.0.load(Ordering::Relaxed) }
    }
}
