//! The property test's storm for as long as wanted: `storm --seconds 600`.
//!
//! Prints the number of machines, actions and actions per second. A finding is a panic; the seed
//! behind it brings it back with `--seed`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::Victim;
use trapline_machine::qtest::BoardKind;

/// Bytes thrown at one machine.
const BYTES: usize = 4096;

/// The seed at work.
static SEED: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (seconds, first) = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => (Some(10), 0),
        ["--seconds", n] => (n.parse().ok(), 0),
        ["--seconds", n, "--seed", seed] => (n.parse().ok(), seed.parse().unwrap_or_default()),
        _ => (None, 0),
    };
    let Some(seconds) = seconds else {
        eprintln!("usage: storm [--seconds N [--seed N]]");
        return ExitCode::FAILURE;
    };
    // A release build does not unwind: what there is to say is said at once.
    let describe = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |bug| {
        describe(bug);
        eprintln!("found with --seed {}", SEED.load(Ordering::Relaxed));
    }));
    let start = Instant::now();
    let (mut seed, mut actions) = (first, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let bytes = bytes(seed);
        // Even seeds are for the PC, odd ones for arm64.
        let board = if seed % 2 == 0 { BoardKind::X86Pc } else { BoardKind::Arm64Virt };
        SEED.store(seed, Ordering::Relaxed);
        actions += Victim::on(board).suffer(&bytes);
        seed += 1;
    }
    let rate = actions as f64 / start.elapsed().as_secs_f64();
    println!("{} machines, {actions} actions, {rate:.0} actions/s", seed - first);
    ExitCode::SUCCESS
}

/// The same bytes for the same seed.
fn bytes(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
