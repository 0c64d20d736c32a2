//! What an access costs that another thread answers behind a descriptor, beside one that is answered
//! where it is made: `cargo xtask bench ioregion`.
//!
//! A guest in real mode makes the same access again and again. The device is served on a thread, on the
//! processor of the vCPU or on another, by a stream, a socket that keeps messages apart, or pipes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a bench that cannot go on ends"
)]

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
#[path = "../guest/mod.rs"]
mod guest;
#[cfg(target_arch = "x86_64")]
mod pc;

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    pc::main()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    println!("SKIPPED ioregion: its guests are x86 machine code");
    ExitCode::SUCCESS
}
