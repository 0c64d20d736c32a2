//! What a guest does while its machine is paused again and again: it counts, says what it hears,
//! sleeps, and watches its clocks. `xtask/src/pauses.rs` judges what it says.
//!
//! It begins with the word `go` on its standard input and ends with `stop`.

#![forbid(unsafe_code)]

mod clocks;

use std::io::{self, BufRead, Lines, StdinLock};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use clocks::{Latest, Moment};

/// How long the counter rests between two lines.
const REST: Duration = Duration::from_millis(5);
/// How long each sleep is to be.
const SLEEP: Duration = Duration::from_millis(3);
/// So often the clocks are read in a row.
const READINGS: u64 = 50;

/// What the processors' timer interrupts are called in `/proc/interrupts`, on x86-64 and on arm64.
const TIMERS: [&str; 2] = ["LOC:", "arch_timer"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("METRONOME: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut typed = io::stdin().lock().lines();
    println!("METRONOME: ready");
    while typed.next().transpose()?.is_some_and(|line| line != "go") {}
    let (stop, latest) = (AtomicBool::new(false), Latest::default());
    let watchers = available_parallelism()?.get();
    let (interrupts, start) = (timer_interrupts()?, Moment::now());
    println!("METRONOME: begins");
    thread::scope(|scope| {
        let counter = scope.spawn(|| count(&stop));
        let sleeper = scope.spawn(|| sleep(&stop));
        let watchers: Vec<_> =
            (0..watchers).map(|_| scope.spawn(|| watch(&stop, &latest))).collect();
        let heard = listen(&mut typed);
        stop.store(true, Ordering::SeqCst);
        let counted = counter.join().unwrap_or_default();
        let Sleeps { count, early, late } = sleeper.join().unwrap_or_default();
        let (readings, back) = watchers
            .into_iter()
            .map(|watcher| watcher.join().unwrap_or_default())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let (elapsed, ticks) = (Moment::now().since(&start), timer_interrupts()? - interrupts);
        println!("METRONOME: counted {counted}, heard {}", heard?);
        println!(
            "METRONOME: slept {count} times, {early} too short, {} us too long",
            late.as_micros()
        );
        println!("METRONOME: {ticks} timer interrupts");
        println!("METRONOME: {readings} readings, {back} went back");
        println!("METRONOME: elapsed {elapsed}");
        println!("METRONOME: over");
        Ok(())
    })
}

/// Says every line again, until it is told to stop; says how many there were.
fn listen(typed: &mut Lines<StdinLock<'_>>) -> io::Result<u64> {
    let mut heard = 0;
    while let Some(line) = typed.next().transpose()?.filter(|line| line != "stop") {
        heard += 1;
        println!("heard {line}");
    }
    Ok(heard)
}

/// Numbers lines, each with a checksum of all lines so far.
fn count(stop: &AtomicBool) -> u64 {
    let (mut number, mut sum) = (0, FNV_OFFSET);
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        sum = fnv1a(sum, &format!("count {number:06}"));
        println!("count {number:06} {sum:08x}");
        thread::sleep(REST);
    }
    number
}

/// The first sum of [`fnv1a`].
const FNV_OFFSET: u32 = 0x811c_9dc5;

/// Goes on with a checksum (FNV-1a, 32 bits).
fn fnv1a(sum: u32, text: &str) -> u32 {
    text.bytes().fold(sum, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// How sleeping went.
#[derive(Default)]
struct Sleeps {
    count: u64,
    /// Shorter than they were to be.
    early: u64,
    /// How much the longest was too long.
    late: Duration,
}

fn sleep(stop: &AtomicBool) -> Sleeps {
    let mut sleeps = Sleeps::default();
    while !stop.load(Ordering::SeqCst) {
        let start = Instant::now();
        thread::sleep(SLEEP);
        let time = start.elapsed();
        sleeps.count += 1;
        sleeps.early += u64::from(time < SLEEP);
        sleeps.late = sleeps.late.max(time.saturating_sub(SLEEP));
    }
    sleeps
}

/// Reads the clocks again and again; says how often, and how often one had gone back.
fn watch(stop: &AtomicBool, latest: &Latest) -> (u64, u64) {
    let (mut readings, mut back) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        back += (0..READINGS).map(|_| latest.read()).sum::<u64>();
        readings += READINGS;
        thread::sleep(Duration::from_millis(1));
    }
    (readings, back)
}

/// How many interrupts the timers of all processors have made.
fn timer_interrupts() -> io::Result<u64> {
    let table = std::fs::read_to_string("/proc/interrupts")?;
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let timers = rows.filter(|row| row.iter().any(|word| TIMERS.contains(word)));
    let counts = timers
        .map(|row| row.iter().skip(1).map_while(|word| word.parse::<u64>().ok()).sum::<u64>());
    Ok(counts.sum())
}
