//! Either board under whatever bytes the fuzzer finds: `cargo +nightly fuzz run board`. The first
//! byte says which: even for the PC, odd for arm64.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../machine/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::Victim;
use trapline_machine::qtest::BoardKind;

fuzz_target!(|bytes: &[u8]| {
    if let Some((first, bytes)) = bytes.split_first() {
        let board = if first & 1 == 0 { BoardKind::X86Pc } else { BoardKind::Arm64Virt };
        Victim::on(board).suffer(bytes);
    }
});
