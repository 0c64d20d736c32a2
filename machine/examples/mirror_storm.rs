//! The storm of `tests/kvm_mirror.rs` for as long as wanted: `mirror_storm --seconds 600`.
//!
//! Prints the number of programs and how often a page was shown. A finding is a panic that names the
//! seed.

#[cfg(target_arch = "x86_64")]
#[path = "../tests/mirror_storm/mod.rs"]
mod mirror_storm;

use std::process::ExitCode;

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    eprintln!("its guests are x86 programs");
    ExitCode::FAILURE
}

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    use std::time::{Duration, Instant};

    use mirror_storm::{compare, type_in};

    let args: Vec<String> = std::env::args().skip(1).collect();
    let (seconds, first) = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => (Some(10), 1000),
        ["--seconds", n] => (n.parse().ok(), 1000),
        ["--seconds", n, "--seed", seed] => (n.parse().ok(), seed.parse().unwrap_or(1000)),
        _ => (None, 0),
    };
    let Some(seconds) = seconds else {
        eprintln!("usage: mirror_storm [--seconds N [--seed N]]");
        return ExitCode::FAILURE;
    };
    let start = Instant::now();
    let (mut seed, mut programs, mut shown) = (first, 0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        for tally in [compare(seed, 20), type_in(seed, 200, 5000)] {
            programs += tally.programs;
            shown += tally.times_shown;
        }
        seed += 1;
    }
    println!(
        "{} seeds, {programs} programs, pages shown {shown} times, no difference",
        seed - first
    );
    ExitCode::SUCCESS
}
