//! A 9P client that says whatever bytes have it say: `cargo +nightly fuzz run ninep`.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../backends/ninep/tests/storm/mod.rs"]
mod storm;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| storm::suffer(bytes));
