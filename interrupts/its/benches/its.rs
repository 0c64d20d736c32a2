//! Translations and commands per second.
//!
//! `cargo xtask bench its` prints a table: for 1 to 1,000,000 mapped events, nanoseconds per
//! translation of a random event with the tables in RAM, with the translation remembered, and for
//! the whole of a signal (translated, pending on its redistributor, taken by the processor); beside
//! them what the memory alone costs, a read of a random eight bytes of the same tables, and what a
//! `HashMap` of the same events takes. Then nanoseconds per command.
//!
//! All that over guest RAM as Trapline has it, mapped by `vm-memory`; and once more over plain
//! bytes of the program, which cost next to nothing to reach, to see the ITS itself.
//! `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, which xtask sets, has those in huge pages.
//!
//! Every number is the best of many short rounds, in several passes some seconds apart, as other
//! programs can only make a round longer: those that fill the cache all processors share do so for
//! whole passes.

#[path = "../tests/support/plain.rs"]
#[allow(unreachable_pub, reason = "tests include it, too")]
mod plain;

use std::collections::HashMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use gicv3_its::command::{Command, RdBase};
use gicv3_its::redist::Redistributors;
use gicv3_its::{
    CollectionId, Config, DeviceId, EventId, GuestMemory, Its, Lpi, MemoryError, Progress, Target,
    TranslationCache,
};
use plain::Plain;
use trapline_guestmem::GuestMem;

const QUEUE: u64 = 0;
const DEVICES: u64 = 0x10_0000;
const COLLECTIONS: u64 = 0x20_0000;
const CONFIG: u64 = 0x30_0000;
const PENDING: u64 = 0x40_0000;
const ITTS: u64 = 0x100_0000;
const PER_DEVICE: u32 = 4096;
/// Random events of a round, and how many rounds.
const ROUND: usize = 4096;
const ROUNDS: usize = 100;
/// How often everything is measured.
const PASSES: usize = 8;
/// The goals, nanoseconds and times.
const MOST_IN_RAM: f64 = 100.0;
const MOST_CACHED: f64 = 15.0;
const MOST_GROWTH: f64 = 2.0;

/// How much RAM the guest has.
const RAM_BYTES: u64 = 64 << 20;

/// A guest's RAM, all zeroes.
trait Ram: GuestMemory + Sized {
    fn new() -> Option<Self>;
}

/// RAM as Trapline has it.
struct Mapped(GuestMem);

impl Ram for Mapped {
    fn new() -> Option<Self> {
        GuestMem::new(&[(0, RAM_BYTES)]).ok().map(Self)
    }
}

impl GuestMemory for Mapped {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read(address, data).map_err(|_| MemoryError)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.0.write(address, data).map_err(|_| MemoryError)
    }

    fn read_u64(&self, address: u64) -> Result<u64, MemoryError> {
        self.0.read_u64(address).map_err(|_| MemoryError)
    }
}

impl Ram for Plain {
    fn new() -> Option<Self> {
        Some(Self::new(usize::try_from(RAM_BYTES).ok()?))
    }
}

struct Machine<R> {
    its: Its,
    redist: Redistributors,
    ram: R,
    next: u64,
}

impl<R: Ram> Machine<R> {
    fn new() -> Option<Self> {
        let its = Its::new(Config { check_propbaser: false, ..Config::new() }).ok()?;
        let mut machine = Self { its, redist: Redistributors::of(4), ram: R::new()?, next: 0 };
        for cpu in 0..4 {
            let pending = PENDING + u64::from(cpu) * 0x1_0000;
            for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, pending), (0, 4, 1)] {
                machine.redist.write(Target(cpu), offset, size, value, &machine.ram);
            }
        }
        // Every LPI is enabled.
        let _in_ram = machine.ram.write(CONFIG, &[0xa3; 57_344]);
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

/// Where the entry of an event is: what a reader of raw memory has to know.
fn entry((device, event): (DeviceId, EventId)) -> u64 {
    ITTS + u64::from(device.0 * PER_DEVICE + event.0) * 8
}

/// Nanoseconds per call of `work` on each of `list`, the best of many rounds.
fn best<T: Copy, R>(lists: &[Vec<T>], mut work: impl FnMut(T) -> R) -> f64 {
    let round = |list: &Vec<T>| {
        let start = Instant::now();
        for item in list {
            black_box(work(black_box(*item)));
        }
        start.elapsed().as_secs_f64() * 1e9 / ROUND as f64
    };
    lists.iter().map(round).fold(f64::INFINITY, f64::min)
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Row {
    events: u32,
    in_ram: f64,
    cached: f64,
    signal: f64,
    memory: f64,
    hash_map: f64,
    mapti: f64,
}

impl Row {
    /// The events are mapped already, which took `mapti` nanoseconds each.
    fn measure(machine: &mut Machine<impl Ram>, events: u32, mapti: f64) -> Self {
        let mut n = 12_345u32;
        let mut random = || {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            place((n >> 8) % events)
        };
        let lists: Vec<Vec<_>> =
            (0..ROUNDS).map(|_| (0..ROUND).map(|_| random()).collect()).collect();
        let same = vec![vec![place(events - 1); ROUND]; ROUNDS];
        let mut cache = TranslationCache::new();
        let Machine { its, redist, ram, .. } = machine;
        let in_ram = best(&lists, |(device, event)| its.translate(ram, device, event));
        let memory = best(&lists, |event| ram.read_u64(entry(event)));
        let cached = best(&same, |(device, event)| cache.translate(its, ram, device, event));
        let signal = best(&lists, |(device, event)| {
            let to = its.msi(ram, &mut redist.sink(ram), device, 4, event.0);
            if let Ok((lpi, target)) = to {
                redist.acknowledge(target, lpi);
            }
            to
        });
        let map: HashMap<(DeviceId, EventId), Option<(Lpi, Target)>> =
            (0..events).map(place).map(|(d, e)| ((d, e), its.translate(ram, d, e).ok())).collect();
        let hash_map = best(&lists, |event| map.get(&event).copied());
        Self { events, in_ram, cached, signal, memory, hash_map, mapti }
    }

    /// The best of both.
    fn or(self, other: Self) -> Self {
        Self {
            events: self.events,
            in_ram: self.in_ram.min(other.in_ram),
            cached: self.cached.min(other.cached),
            signal: self.signal.min(other.signal),
            memory: self.memory.min(other.memory),
            hash_map: self.hash_map.min(other.hash_map),
            mapti: self.mapti.min(other.mapti),
        }
    }

    fn print(&self) {
        let Self { events, in_ram, cached, signal, memory, hash_map, mapti } = self;
        println!(
            "{events:>9}  {in_ram:>10.1}  {cached:>10.1}  {signal:>10.1}  {memory:>12.1}  \
             {hash_map:>11.1}  {mapti:>10.1}"
        );
    }
}

fn main() -> ExitCode {
    let Some(mut guest) = Case::<Mapped>::new() else { return ExitCode::FAILURE };
    let Some(mut plain) = Case::<Plain>::new() else { return ExitCode::FAILURE };
    for pass in 1..PASSES {
        eprintln!("pass {} of {PASSES}", pass + 1);
        guest.again();
        plain.again();
    }
    guest.print("Guest RAM");
    plain.print("Plain bytes in its place");
    judge(&guest.rows, &plain.rows);
    ExitCode::SUCCESS
}

/// A machine with its events, and what was measured.
struct Case<R> {
    machine: Machine<R>,
    rows: Vec<Row>,
}

impl<R: Ram> Case<R> {
    /// Maps more and more events, and measures in between.
    fn new() -> Option<Self> {
        let mut machine = Machine::<R>::new()?;
        let collection = |n: u32| CollectionId(u16::try_from(n % 4).unwrap_or(0));
        machine.run((0..4).map(|n| Command::Mapc {
            collection: collection(n),
            target: RdBase(n.into()),
            valid: true,
        }));
        let (mut mapped, mut rows) = (0u32, Vec::new());
        for events in [1u32, 10, 100, 1000, 10_000, 100_000, 1_000_000] {
            machine.run((mapped.div_ceil(PER_DEVICE)..events.div_ceil(PER_DEVICE)).map(|device| {
                let itt = ITTS + u64::from(device) * u64::from(PER_DEVICE) * 8;
                Command::Mapd { device: DeviceId(device), size: 11, itt, valid: true }
            }));
            let start = Instant::now();
            machine.run((mapped..events).map(|n| {
                let (device, event) = place(n);
                let intid = 8192 + n % 57_344;
                Command::Mapti { device, event, intid, collection: collection(n) }
            }));
            let mapti = start.elapsed().as_secs_f64() * 1e9 / f64::from(events - mapped);
            mapped = events;
            rows.push(Row::measure(&mut machine, events, mapti));
        }
        Some(Self { machine, rows })
    }

    /// Measures once more, always among the first so many of all events.
    fn again(&mut self) {
        for row in &mut self.rows {
            *row = row.or(Row::measure(&mut self.machine, row.events, row.mapti));
        }
    }

    fn print(&self, name: &str) {
        println!("\n{name}:");
        println!(
            "   events  in RAM, ns  cached, ns  signal, ns   8 bytes, ns  HashMap, ns   MAPTI, ns"
        );
        self.rows.iter().for_each(Row::print);
    }
}

/// Says which goals are met, over guest RAM.
fn judge(rows: &[Row], plain: &[Row]) {
    let worst = |of: fn(&Row) -> f64| rows.iter().map(of).fold(0.0, f64::max);
    let at = |rows: &[Row], events: u32, of: fn(&Row) -> f64| {
        rows.iter().find(|row| row.events == events).map_or(f64::NAN, of)
    };
    let growth = |rows: &[Row], of: fn(&Row) -> f64| at(rows, 1_000_000, of) / at(rows, 1000, of);
    let (in_ram, cached) = (worst(|row| row.in_ram), worst(|row| row.cached));
    println!();
    println!(
        "{:.1} million translations and {:.1} million commands a second at 1,000,000 events",
        1e3 / at(rows, 1_000_000, |row| row.in_ram),
        1e3 / at(rows, 1_000_000, |row| row.mapti)
    );
    println!("from 1,000 to 1,000,000 events, times as long:");
    for (name, rows) in [("guest RAM", rows), ("plain bytes", plain)] {
        println!(
            "  {name}: translation {:.2}, signal {:.2}, eight bytes of the same memory {:.2}, \
             HashMap {:.2}",
            growth(rows, |row| row.in_ram),
            growth(rows, |row| row.signal),
            growth(rows, |row| row.memory),
            growth(rows, |row| row.hash_map),
        );
    }
    let goals = [
        (
            format!("under {MOST_IN_RAM} ns with the table in RAM ({in_ram:.1})"),
            in_ram < MOST_IN_RAM,
        ),
        (format!("under {MOST_CACHED} ns on a cache hit ({cached:.1})"), cached < MOST_CACHED),
        (
            format!("flat within {MOST_GROWTH} times from 1,000 to 1,000,000 events"),
            growth(rows, |row| row.in_ram) <= MOST_GROWTH,
        ),
        (
            "over plain bytes, no more growth than the memory has of its own".to_owned(),
            growth(plain, |row| row.in_ram) <= growth(plain, |row| row.memory).max(MOST_GROWTH),
        ),
    ];
    for (goal, met) in &goals {
        println!("goal: {goal}: {}", if *met { "met" } else { "MISSED" });
    }
}
