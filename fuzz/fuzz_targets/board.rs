//! The PC board under whatever bytes the fuzzer finds: `cargo +nightly fuzz run board`.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../machine/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::Victim;

fuzz_target!(|bytes: &[u8]| {
    Victim::new().suffer(bytes);
});
