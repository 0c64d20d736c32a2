//! The same accesses over qtest to our PC and to QEMU's: an independent implementation of the same
//! chips, written from the same data sheets.
//!
//! Both are driven through their sockets by the same client. Random sequences have fixed seeds;
//! what may differ, and why, is `differences.toml`, every entry of which proves with a probe that
//! the difference is still there. Where QEMU is not installed, the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod client;
mod differences;
mod grammar;
mod machines;
mod pair;
mod steps;

use differences::Table;
use grammar::Grammar;
use pair::Pair;
use steps::Rng;

/// Sequences of each grammar.
const SEQUENCES: u64 = 16;
/// Steps of a sequence.
const LENGTH: usize = 250;

/// Runs `test`, or says why not.
fn with_qemu(name: &str, test: impl FnOnce(&Table)) {
    match machines::missing() {
        Some(reason) => println!("SKIPPED {name}: {reason}"),
        None => test(&Table::read()),
    }
}

fn compare(name: &str, grammar: &dyn Grammar) {
    with_qemu(name, |table| {
        let failures: Vec<String> = (0..SEQUENCES)
            .filter_map(|seed| {
                let report = sequence(table, grammar, seed).err()?;
                Some(format!("{} with seed {seed}:\n{report}", grammar.device()))
            })
            .collect();
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    });
}

fn sequence(table: &Table, grammar: &dyn Grammar, seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut pair = Pair::start(table, grammar.device());
    pair.begin()?;
    let mut left = LENGTH;
    while left > 0 {
        let phrase = grammar.phrase(&mut rng);
        left = left.saturating_sub(phrase.len().max(1));
        if !phrase.iter().any(|step| table.never(grammar.device(), *step)) {
            phrase.into_iter().try_for_each(|step| pair.step(step))?;
        }
    }
    Ok(())
}

#[test]
fn differential_16550() {
    compare("differential_16550", &grammar::Serial);
}

#[test]
fn differential_mc146818() {
    compare("differential_mc146818", &grammar::Rtc);
}

#[test]
fn differential_i8042() {
    compare("differential_i8042", &grammar::I8042);
}

#[test]
fn differential_8259() {
    compare("differential_8259", &grammar::Pic);
}

#[test]
fn differential_8254() {
    compare("differential_8254", &grammar::Pit);
}

/// A justified difference that is none any more has to leave the list.
#[test]
fn differential_list_is_not_stale() {
    with_qemu("differential_list_is_not_stale", |table| {
        let stale: Vec<&str> = table
            .entries()
            .iter()
            .filter(|entry| !Pair::start(&Table::default(), &entry.device).differs(&entry.probe))
            .map(|entry| entry.about.as_str())
            .collect();
        assert!(stale.is_empty(), "both machines do the same now: {stale:#?}");
    });
}
