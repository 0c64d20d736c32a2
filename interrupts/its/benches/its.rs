//! Translations and commands per second.
//!
//! `cargo bench -p gicv3-its` prints a table: for 1 to 1,000,000 mapped events, nanoseconds per
//! translation with the tables in RAM, and with the translation remembered; then nanoseconds per
//! command. Random events, as many devices as 4,096 events each need.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Instant;

use gicv3_its::command::{Command, RdBase};
use gicv3_its::redist::Redistributors;
use gicv3_its::{
    CollectionId, Config, DeviceId, EventId, GuestMemory, Its, MemoryError, Progress,
    TranslationCache,
};

const QUEUE: u64 = 0;
const DEVICES: u64 = 0x10_0000;
const COLLECTIONS: u64 = 0x20_0000;
const ITTS: u64 = 0x100_0000;
const PER_DEVICE: u32 = 4096;
const ROUNDS: u32 = 2_000_000;

struct Ram(RefCell<Vec<u8>>);

impl GuestMemory for Ram {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(address).map_err(|_| MemoryError)?;
        let ram = self.0.borrow();
        data.copy_from_slice(ram.get(start..start + data.len()).ok_or(MemoryError)?);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(address).map_err(|_| MemoryError)?;
        let mut ram = self.0.borrow_mut();
        ram.get_mut(start..start + data.len()).ok_or(MemoryError)?.copy_from_slice(data);
        Ok(())
    }
}

struct Machine {
    its: Its,
    redist: Redistributors,
    ram: Ram,
    next: u64,
}

impl Machine {
    fn new() -> Option<Self> {
        let its = Its::new(Config { check_propbaser: false, ..Config::new() }).ok()?;
        let ram = Ram(RefCell::new(vec![0; 64 << 20]));
        let mut machine = Self { its, redist: Redistributors::of(4), ram, next: 0 };
        for (offset, value) in [
            (0x100, 1 << 63 | DEVICES | 0x200),
            (0x108, 1 << 63 | COLLECTIONS | 0x200),
            (0x80, 1 << 63 | QUEUE | 0xff),
        ] {
            machine.write(offset, 8, value);
        }
        machine.write(0, 4, 1);
        Some(machine)
    }

    fn write(&mut self, offset: u64, size: u32, value: u64) {
        let sink = &mut self.redist.sink(&self.ram);
        let mut progress = self.its.write(offset, size, value, &self.ram, sink);
        while progress == Progress::More {
            progress = self.its.process(&self.ram, sink, 1024);
        }
    }

    /// Fills the queue up to a batch and has it executed.
    fn run(&mut self, commands: impl Iterator<Item = Command>) {
        for (n, command) in (1u32..).zip(commands) {
            for (word, value) in (0u64..).zip(command.encode()) {
                let at = QUEUE + self.next + word * 8;
                let _in_ram = self.ram.write(at, &value.to_le_bytes());
            }
            self.next = (self.next + 32) % 0x10_0000;
            if n.is_multiple_of(1024) {
                self.write(0x88, 8, self.next);
            }
        }
        self.write(0x88, 8, self.next);
    }
}

fn place(n: u32) -> (DeviceId, EventId) {
    (DeviceId(n / PER_DEVICE), EventId(n % PER_DEVICE))
}

fn nanoseconds(rounds: u32, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
}

fn main() {
    let Some(mut machine) = Machine::new() else { return };
    let collection = |n: u32| CollectionId(u16::try_from(n % 4).unwrap_or(0));
    machine.run((0..4).map(|n| Command::Mapc {
        collection: collection(n),
        target: RdBase(n.into()),
        valid: true,
    }));
    println!("{:>9}  {:>12}  {:>12}  {:>10}", "events", "in RAM, ns", "cached, ns", "MAPTI, ns");
    let mut mapped = 0u32;
    for events in [1u32, 10, 100, 1000, 10_000, 100_000, 1_000_000] {
        machine.run((mapped.div_ceil(PER_DEVICE)..events.div_ceil(PER_DEVICE)).map(|device| {
            let itt = ITTS + u64::from(device) * u64::from(PER_DEVICE) * 8;
            Command::Mapd { device: DeviceId(device), size: 11, itt, valid: true }
        }));
        let commands = nanoseconds(events - mapped, || {
            machine.run((mapped..events).map(|n| {
                let (device, event) = place(n);
                let intid = 8192 + n % 57_344;
                Command::Mapti { device, event, intid, collection: collection(n) }
            }));
        });
        mapped = events;
        let (its, ram) = (&machine.its, &machine.ram);
        let mut n = 12_345u32;
        let mut random = || {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            place((n >> 8) % events)
        };
        let plain = nanoseconds(ROUNDS, || {
            for _ in 0..ROUNDS {
                let (device, event) = random();
                let _ = black_box(its.translate(ram, device, event));
            }
        });
        let mut cache = TranslationCache::new();
        let (device, event) = place(events - 1);
        let cached = nanoseconds(ROUNDS, || {
            for _ in 0..ROUNDS {
                let (device, event) = black_box((device, event));
                let _ = black_box(cache.translate(its, ram, device, event));
            }
        });
        println!("{events:>9}  {plain:>12.1}  {cached:>12.1}  {commands:>10.1}");
    }
}
