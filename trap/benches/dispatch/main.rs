//! What one access costs through this registry and through other ways to find a device, in one
//! process and one run, so that the ratios mean something whatever the machine does meanwhile.
//!
//! `cargo bench -p trapline --bench dispatch` prints the tables and judges the goals; with words
//! after `--` (`pio 64`) it measures only those, and judges nothing. The words
//! of the tables: *hot* is one region again and again, *random* a different one each time;
//! *pipelined* lets the processor overlap accesses as far as their data allows (each address
//! depends on the value read before), *serialised* puts an LFENCE after each, as an exit from the
//! guest would. With two threads each has its own regions.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a benchmark that cannot go on stops, and its numbers are its own"
)]

mod device;
mod measure;
mod ours;
mod peers;
mod report;

use std::sync::mpsc;

use device::{Place, Population};
use measure::{Case, Cell, Pattern, measure};
use report::Report;

/// Numbers of regions.
const SIZES: [usize; 4] = [8, 64, 512, 4096];

fn main() {
    // glibc makes mutexes cheaper in a process that has only one thread; a VMM never has.
    let (unpark, parked) = mpsc::channel::<()>();
    let company = std::thread::spawn(move || parked.recv());

    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut report = Report::default();
    for place in [Place::Mmio, Place::Pio] {
        for regions in SIZES.into_iter().filter(|regions| wants(&wanted, place, *regions)) {
            let population = Population::new(place, regions);
            measure_all(&population, &mut report);
            measure::registration(&population, &mut report);
        }
    }
    report.print();
    if wanted.is_empty() && !report.goals() {
        println!("\nSome goals were missed in this run.");
    }

    drop(unpark);
    let _ = company.join();
}

/// Whether a population is among those asked for on the command line: `mmio`, `pio`, numbers of
/// regions; all of a kind of which none is named.
fn wants(wanted: &[String], place: Place, regions: usize) -> bool {
    let (counts, places): (Vec<_>, Vec<_>) =
        wanted.iter().partition(|word| word.parse::<usize>().is_ok());
    let among = |words: &[&String], name: &str| {
        words.is_empty() || words.iter().any(|word| word.eq_ignore_ascii_case(name))
    };
    among(&places, place.name()) && among(&counts, &regions.to_string())
}

/// Runs every implementation over one population, taking turns repetition by repetition.
fn measure_all(population: &Population, report: &mut Report) {
    let direct = peers::DirectIndex::new(population);
    let ours = ours::Ours::new(population);
    let coalescing = ours::Ours::coalescing(population);
    let frozen = peers::VmDevice::new(population);
    let locked = peers::VmDeviceLocked::new(population);
    let dbs = peers::Dbs::new(population);
    let dragonball = peers::Dragonball::new(population);
    let tree = peers::LockedTree::new(population);
    for case in Case::all(population) {
        let mut cells = vec![
            Cell::new("direct index", &direct, &case),
            Cell::new("trapline", &ours, &case),
            Cell::new("trapline, by value", ours.by_value(), &case),
            Cell::new("trapline, coalescing", &coalescing, &case),
            Cell::new("vm-device, frozen", &frozen, &case),
            Cell::new("vm-device, Arc<Mutex>", &locked, &case),
            Cell::new("dbs-device, frozen", &dbs, &case),
            Cell::new("dbs-device, ArcSwap cache", &dragonball, &case),
            Cell::new("Mutex<BTreeMap>", &tree, &case),
        ];
        measure(&mut cells, &case);
        for cell in &cells {
            report.add(&case, cell.name, cell.result());
        }
    }
}

/// Where the next access goes, for every pattern.
fn order(pattern: Pattern, regions: std::ops::Range<usize>) -> Vec<u32> {
    const LENGTH: usize = 1 << 14;
    let count = regions.len() as u64;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..LENGTH)
        .map(|_| match pattern {
            Pattern::Hot => regions.start + regions.len() / 2,
            Pattern::Random => {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                regions.start + ((state >> 33) % count) as usize
            }
        })
        .map(|region| u32::try_from(region).unwrap())
        .collect()
}
