//! Parts of traces that Linux 6.1's KVM made of boots of Debian's kernel, on boards of ours: a guest of
//! QEMU's microvm, and one on an arm64 host. `cargo xtask test trace-import` makes whole ones again, in
//! `build/recordings`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::io::Cursor;

use trapline_machine::qtest::BoardKind;
use trapline_machine::recorded_map;
use trapline_trace::diff::{Run, Tokens, compare};
use trapline_trace::import::{Imported, import};
use trapline_trace::stat::stats;
use trapline_trace::{Filter, Meta, Reader};

const MICROVM: &str = include_str!("kernel_traces/qemu-7.2-microvm.txt");
const ARM64: &str = include_str!("kernel_traces/arm64-kvm.txt");

/// Imports a text, onto a board.
fn imported(text: &str, board: BoardKind) -> (Vec<u8>, Imported) {
    let map = recorded_map::of_board(board).unwrap();
    import(&mut text.as_bytes(), Vec::new(), Meta::default(), map, |_| {}).unwrap()
}

/// Reads and writes, by region and register.
fn counted(file: &[u8]) -> BTreeMap<String, (u64, u64)> {
    let mut reader = Reader::open(Cursor::new(file)).unwrap();
    let stats = stats(&mut reader.merged().unwrap(), &Filter::default(), |_| {}).unwrap();
    let of = stats.registers.into_iter();
    of.map(|row| (format!("{} {}", row.region, row.register), (row.reads, row.writes))).collect()
}

/// Writes to the UART's first register; while the divisor latch is there they are none of characters.
fn sent(counts: &BTreeMap<String, (u64, u64)>) -> u64 {
    let of = |name| counts.get(name).map_or(0, |(_, writes)| *writes);
    of("serial0/uart THR") + of("serial0/uart DLL")
}

/// How many lines of a text have this in them.
fn lines(text: &str, part: &str) -> u64 {
    text.lines().filter(|line| line.contains(part)).count() as u64
}

fn has_no_difference_to_itself(file: &[u8]) {
    let mut tokens = Tokens::default();
    let runs = [file, file].map(|file| {
        let mut reader = Reader::open(Cursor::new(file)).unwrap();
        Run::read(&mut reader.merged().unwrap(), &mut tokens, |_| {}).unwrap()
    });
    assert_eq!(compare([&runs[0], &runs[1]], &tokens).regions, []);
}

#[test]
fn a_guest_of_qemu_is_told_by_the_registers_of_our_board() {
    let (file, done) = imported(MICROVM, BoardKind::X86Pc);
    let made = lines(MICROVM, "kvm_pio:") + lines(MICROVM, "kvm_mmio:");
    let unanswered = lines(MICROVM, "unsatisfied-read");
    assert_eq!((done.accesses, done.broken, done.vcpus), (made - unanswered, 0, 1));
    let counts = counted(&file);
    let thr = lines(MICROVM, "pio_write at 0x3f8 size 1");
    assert!(thr > 50, "{thr}");
    assert_eq!(sent(&counts), thr);
    // It looks for PCI, which a microvm does not have, and reads the clock by its index.
    assert!(counts["pci/conf1 VENDOR_ID"].0 > 0, "{counts:?}");
    assert!(counts["pci/conf1 CONFIG_ADDRESS"].1 > 0, "{counts:?}");
    assert!(counts["rtc/cmos RTC index"].1 > 0, "{counts:?}");
    has_no_difference_to_itself(&file);
}

#[test]
fn a_guest_on_arm64_is_told_by_the_registers_of_its_board() {
    let (file, done) = imported(ARM64, BoardKind::Arm64Virt);
    let unanswered = lines(ARM64, "unsatisfied-read");
    assert_eq!(done.accesses, lines(ARM64, "kvm_mmio:") - unanswered);
    assert_eq!((done.broken, done.vcpus), (0, 1));
    let counts = counted(&file);
    let thr = lines(ARM64, "mmio write len 1 gpa 0x1000000 val");
    assert!(thr > 20, "{thr}");
    assert_eq!(sent(&counts), thr);
    assert!(counts["pci/ecam VENDOR_ID"].0 > 10, "{counts:?}");
    // The interrupt controller in the kernel is traced, too.
    assert!(counts.keys().any(|name| name.starts_with("gic/")), "{counts:?}");
    has_no_difference_to_itself(&file);
}
