//! Tables, and the goals judged.

use std::collections::BTreeMap;

use crate::SIZES;
use crate::device::Place;
use crate::measure::{Case, Key, Pattern, Timing};

/// The yardstick's row.
const DIRECT: &str = "direct index";
/// The row that is judged: accesses as bytes, as the sources make them.
const OURS: &str = "trapline";
/// The rows it is compared with.
const PEERS: [&str; 4] = [
    "vm-device, frozen",
    "vm-device, Arc<Mutex>",
    "dbs-device, frozen",
    "dbs-device, ArcSwap cache",
];

/// Everything measured: nanoseconds by case and implementation.
#[derive(Default)]
pub(crate) struct Report {
    cells: BTreeMap<Key, Vec<(&'static str, Timing)>>,
    registration: BTreeMap<(Place, usize), Vec<(&'static str, f64)>>,
}

impl Report {
    pub(crate) fn add(&mut self, case: &Case, name: &'static str, timing: Timing) {
        self.cells.entry(case.key).or_default().push((name, timing));
    }

    pub(crate) fn add_registration(
        &mut self,
        place: Place,
        regions: usize,
        name: &'static str,
        nanoseconds: f64,
    ) {
        self.registration.entry((place, regions)).or_default().push((name, nanoseconds));
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        println!(
            "Nanoseconds per access of 4 bytes, writes and reads in turn; in brackets the ratio"
        );
        println!(
            "to the direct index of the same column. One thread: minimum of all repetitions that"
        );
        println!("were not interrupted; two threads: their median.");
        for place in [Place::Mmio, Place::Pio] {
            for threads in [1, 2] {
                for serialised in [false, true] {
                    self.table(place, threads, serialised);
                }
            }
        }
        self.registration_table();
    }

    fn table(&self, place: Place, threads: usize, serialised: bool) {
        let columns: Vec<(&Key, &Vec<(&str, Timing)>)> = self
            .cells
            .iter()
            .filter(|(key, _)| {
                (key.place, key.threads, key.serialised) == (place, threads, serialised)
            })
            .collect();
        let Some((_, first)) = columns.first() else { return };
        let way = if serialised { "serialised" } else { "pipelined" };
        let plural = if threads == 1 { "thread" } else { "threads" };
        println!("\n## {}, {threads} {plural}, {way}\n", place.name());
        print!("{:<27}", "regions");
        for (key, _) in &columns {
            let pattern = if key.pattern == Pattern::Hot { "hot" } else { "random" };
            print!(" {:>16}", format!("{} {pattern}", key.regions));
        }
        println!();
        for (row, (name, _)) in first.iter().enumerate() {
            print!("{name:<27}");
            for (_, cells) in &columns {
                let [value, yardstick] = [row, 0].map(|row| cells[row].1.shown);
                let cell = format!("{value:.1} ({:.1}x)", value / yardstick);
                print!(" {:>16}", if value.is_nan() { "interrupted" } else { &cell });
            }
            println!();
        }
    }

    fn registration_table(&self) {
        println!("\n## Registration: adding a region and removing it again, nanoseconds\n");
        print!("{:<27}", "regions");
        for (place, regions) in self.registration.keys() {
            print!(" {:>10}", format!("{} {regions}", place.name()));
        }
        println!();
        let Some(first) = self.registration.values().next() else { return };
        for (row, (name, _)) in first.iter().enumerate() {
            print!("{name:<27}");
            for cells in self.registration.values() {
                print!(" {:>10.0}", cells[row].1);
            }
            println!();
        }
    }

    fn timing(&self, key: Key, name: &str) -> Option<Timing> {
        let cells = self.cells.get(&key)?;
        cells.iter().find(|(other, _)| *other == name).map(|(_, timing)| *timing)
    }

    fn value(&self, key: Key, name: &str) -> f64 {
        self.timing(key, name).map_or(f64::NAN, |timing| timing.shown)
    }

    /// Judges the goals; whether every one was met.
    pub(crate) fn goals(&self) -> bool {
        println!("\n## Goals (MMIO and PIO)\n");
        let mut met = true;
        for place in [Place::Mmio, Place::Pio] {
            met &= self.against_peers(place, 64, 2.5);
            met &= self.against_peers(place, 4096, 4.0);
            met &= self.two_threads(place);
            met &= self.against_direct(place);
            for (regions, limit) in [(64, 4_000.0), (4096, 20_000.0)] {
                let cells = self.registration.get(&(place, regions)).into_iter().flatten();
                let worst = cells
                    .filter(|(name, _)| name.starts_with(OURS))
                    .fold(0.0, |worst: f64, (_, value)| worst.max(*value));
                let what = format!("register+remove at {regions}, microseconds");
                met &= verdict(place, &what, worst / 1000.0, limit / 1000.0, worst < limit);
            }
        }
        met
    }

    /// How much faster than the fastest peer, random, one thread, pipelined.
    fn against_peers(&self, place: Place, regions: usize, goal: f64) -> bool {
        let pattern = Pattern::Random;
        let key = Key { place, serialised: false, threads: 1, regions, pattern };
        let ours = self.value(key, OURS);
        let fastest = PEERS.iter().map(|peer| self.value(key, peer)).fold(f64::NAN, f64::min);
        let what = format!("random at {regions}: times faster than the fastest peer crate");
        let ratio = fastest / ours;
        verdict(place, &what, ratio, goal, ratio >= goal)
    }

    /// The worst ratio of two threads to one, pipelined, by the medians of both. The direct index
    /// shares nothing at all between the threads: what it loses in the same case is the machine's
    /// doing, processors that share a core for example.
    fn two_threads(&self, place: Place) -> bool {
        let slowdown = |name, regions, pattern| {
            let two = Key { place, serialised: false, threads: 2, regions, pattern };
            let one = Key { threads: 1, ..two };
            let median = |key| self.timing(key, name).map_or(f64::NAN, |timing| timing.median);
            median(two) / median(one)
        };
        let worst = self.worst(|regions, pattern| slowdown(OURS, regions, pattern));
        let met = verdict(place, "two threads against one, worst case", worst, 1.2, worst <= 1.2);
        let direct = self.worst(|regions, pattern| slowdown(DIRECT, regions, pattern));
        let beyond = self.worst(|regions, pattern| {
            slowdown(OURS, regions, pattern) / slowdown(DIRECT, regions, pattern)
        });
        println!("{:11}the direct index's own worst case: {direct:.2}", "");
        println!("{:11}ours over the direct index's, case by case, worst: {beyond:.2}", "");
        met
    }

    /// The worst ratio to the direct index, one thread, serialised.
    fn against_direct(&self, place: Place) -> bool {
        let worst = self.worst(|regions, pattern| {
            let key = Key { place, serialised: true, threads: 1, regions, pattern };
            self.value(key, OURS) / self.value(key, DIRECT)
        });
        verdict(place, "direct index, serialised, worst case", worst, 1.7, worst <= 1.7)
    }

    fn worst(&self, ratio: impl Fn(usize, Pattern) -> f64) -> f64 {
        let patterns = [Pattern::Hot, Pattern::Random];
        let all = SIZES.iter().flat_map(|size| patterns.map(|pattern| ratio(*size, pattern)));
        // What could not be measured is not a goal met.
        all.fold(0.0, |worst, ratio| if worst.is_nan() || worst >= ratio { worst } else { ratio })
    }
}

fn verdict(place: Place, what: &str, value: f64, goal: f64, met: bool) -> bool {
    let mark = if met { "pass" } else { "FAIL" };
    println!("{mark}  {:<4} {what}: {value:.2} (goal {goal})", place.name());
    met
}
