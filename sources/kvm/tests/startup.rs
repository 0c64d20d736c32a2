//! Giving back what the start has needed, in a process where nothing else runs meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

/// KiB of this program's code that are resident, and in how many pieces of the address space it is.
fn resident_code() -> (u64, usize) {
    let program = fs::read_link("/proc/self/exe").unwrap();
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut ours, mut sum, mut pieces) = (false, 0, 0);
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            [range, rights, ..] if range.contains('-') => {
                let path = words.get(5).map(Path::new);
                ours = rights.contains('x') && path == Some(&program);
                pieces += usize::from(ours);
            }
            ["Rss:", kib, "kB"] if ours => sum += kib.parse::<u64>().unwrap(),
            _ => {}
        }
    }
    (sum, pieces)
}

#[test]
fn code_that_is_not_used_again_goes_and_the_program_goes_on() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let traced = !status.lines().any(|line| line == "TracerPid:\t0");
    let constants: Vec<String> = (0..64).map(|number| format!("{number:>4}")).collect();
    let (_, pieces_before) = resident_code();
    trapline_kvm::map_in_small_pieces();
    let (before, pieces_after) = resident_code();
    let huge = Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    assert_eq!(pieces_after > pieces_before, huge, "what is around a page stays away");
    trapline_kvm::release_startup_memory();
    let (after, pieces_released) = resident_code();
    assert!(before > 0);
    assert_eq!(after < before, !traced, "{before} KiB, then {after}");
    assert_eq!(pieces_released, pieces_after);
    assert_eq!(constants, (0..64).map(|number| format!("{number:>4}")).collect::<Vec<_>>());
    let (before, _) = resident_code();
    trapline_kvm::release_startup_memory();
    let (again, pieces_again) = resident_code();
    assert_eq!(again < before, !traced, "{before} KiB, then {again}, the second time");
    assert_eq!(pieces_again, pieces_after);
}
