//! The command queue: when it is worked off, and what stalls it.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::command::Command;
use gicv3_its::{CommandError, Config, DeviceId, GuestMemory, MemoryErrors, Progress};
use support::{Bench, DEVICES, ITT, QUEUE, VALID, int, mapc, mapd, mapti};

#[test]
fn enabling_needs_both_tables_and_the_queue() {
    for missing in [0x100, 0x108, 0x80] {
        let mut bench = Bench::new(Config::new());
        let _idle = bench.write32(0, 0);
        let value = bench.read(missing, 8);
        let _idle = bench.write(missing, value & !VALID);
        let _idle = bench.write32(0, 1);
        assert_eq!(bench.read(0, 4), 0x8000_0000, "the driver sees that it failed");
        assert_eq!(bench.its.counters().bad_enables, 1);
    }
}

#[test]
fn cwriter_outside_the_queue_is_ignored_and_counted() {
    let mut bench = Bench::new(Config::new());
    for bad in [0x1000, 0x1fe0, 0xf_ffe0] {
        let _idle = bench.write(0x88, bad);
        assert_eq!(bench.read(0x88, 8), 0);
    }
    assert_eq!(bench.its.counters().bad_cwriter, 3);
    let _idle = bench.write(0x88, 0xfff0_0000_0000_0000 | 0x3f);
    assert_eq!(bench.read(0x88, 8), 0x20, "reserved bits and Retry read zero");
}

#[test]
fn a_full_queue_is_worked_off_within_the_budget_of_each_access() {
    let mut bench = Bench::new(Config { budget: 64, ..Config::new() });
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x80, VALID | QUEUE | 0xff);
    let _idle = bench.write32(0, 1);
    let mut progress = bench.write32(0x88, 0xf_ffe0);
    let mut accesses = 0;
    let mut before = 64;
    assert_eq!(bench.its.counters().commands, before);
    while bench.its.peek(0x90, 8) != 0xf_ffe0 {
        // A driver that only polls makes progress, and no access does more than the budget.
        bench.read(if accesses % 2 == 0 { 0x90 } else { 0 }, 4);
        accesses += 1;
        assert!(bench.its.counters().commands - before <= 64);
        before = bench.its.counters().commands;
        progress = bench.process(0);
    }
    assert_eq!((bench.its.counters().commands, accesses), (32_767, 511));
    assert_eq!(progress, Progress::Idle);
}

#[test]
fn a_stalling_its_waits_for_retry_and_goes_on() {
    let config = Config { memory_errors: MemoryErrors::Stall, ..Config::new() };
    let mut bench = Bench::new(config);
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | 1 << 62 | DEVICES | 0x200);
    let _idle = bench.write32(0, 1);
    bench.ram.write(DEVICES, &(VALID | 0x8000_0000u64).to_le_bytes()).unwrap();
    bench.queue(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0), int(0, 0)]);
    let next = bench.next;
    assert_eq!(bench.write32(0x88, next), Progress::Stalled);
    assert_eq!(bench.read(0x90, 8), 0x21, "at MAPD, Stalled");
    assert_eq!(bench.write32(0x88, next), Progress::Stalled, "not without Retry");
    assert_eq!(bench.write32(0x88, next | 1), Progress::Stalled, "and not with it in vain");
    bench.ram.write(DEVICES, &(VALID | 0x4700_0000u64).to_le_bytes()).unwrap();
    assert_eq!(bench.write32(0x88, next | 1), Progress::Idle);
    assert_eq!(bench.read(0x90, 8), 0x80);
    assert_eq!(bench.pending(0), [8192]);
    assert_eq!(bench.its.counters().refused(CommandError::TableMemory), 2);
}

#[test]
fn only_memory_stalls_a_queue_not_a_refused_command() {
    let config = Config { memory_errors: MemoryErrors::Stall, ..Config::new() };
    let mut bench = Bench::new(config);
    bench.queue(&[
        mapd(0x1_0000, 1),
        mapd(0, 16),
        mapc(0, 9),
        mapc(0x2000, 0),
        mapti(0, 0, 8192, 0),
        int(0, 0),
        Command::Unknown { opcode: 0x77 },
        Command::Virtual { name: "VSGI", opcode: 0x23 },
        mapc(1, 1),
    ]);
    let next = bench.next;
    assert_eq!(bench.write32(0x88, next), Progress::Idle);
    assert_eq!(bench.read(0x90, 8), next);
    assert_eq!(bench.its.counters().all_refused(), 8);
    assert_eq!(bench.its.collections().count(), 1, "what follows is executed");
    // A command that cannot be read stalls; where it is skipped, the queue goes on.
    for (memory_errors, creadr) in [(MemoryErrors::Stall, 1), (MemoryErrors::Skip, 0x20)] {
        let mut bench = Bench::new(Config { memory_errors, ..Config::new() });
        let _idle = bench.write32(0, 0);
        let _idle = bench.write(0x80, VALID | 0x9000_0000);
        let _idle = bench.write32(0, 1);
        let _progress = bench.write32(0x88, 0x20);
        assert_eq!(bench.read(0x90, 8), creadr);
        assert_eq!(bench.its.counters().refused(CommandError::QueueMemory), 1);
    }
}

#[test]
fn a_stalled_queue_goes_on_when_the_its_is_enabled_again_or_has_another_queue() {
    let config = Config { memory_errors: MemoryErrors::Stall, ..Config::new() };
    let mut bench = Bench::new(config);
    let outside = Command::Mapd { device: DeviceId(0), size: 1, itt: 0x9000_0000, valid: true };
    bench.queue(&[mapc(0, 0), outside, mapti(0, 0, 8192, 0), mapc(1, 1)]);
    let next = bench.next;
    assert_eq!(bench.write32(0x88, next), Progress::Stalled);
    assert_eq!(bench.read(0x90, 8), 0x41, "at MAPTI, whose table is not RAM");
    let _stalled = bench.write32(0, 0);
    assert_eq!(bench.read(0x90, 8), 0x41, "disabling does not help by itself");
    // The driver gives the device another table and the queue memory for the rest.
    let inside = ITT >> 8 << 5 | VALID | 1 << 49 | 1;
    bench.ram.write(DEVICES, &inside.to_le_bytes()).unwrap();
    assert_eq!(bench.write32(0, 1), Progress::Idle);
    assert_eq!(bench.read(0x90, 8), next);
    assert_eq!(bench.signal(0, 0).map(|(lpi, _)| lpi.intid()), Ok(8192));

    let mut bench = Bench::new(config);
    bench.queue(&[outside, mapti(0, 0, 8192, 0)]);
    assert_eq!(bench.write32(0x88, 0x40), Progress::Stalled);
    let _stalled = bench.write32(0, 0);
    let _idle = bench.write(0x80, VALID | QUEUE);
    assert_eq!(bench.read(0x90, 8), 0, "a new queue is empty and has not stalled");
}

#[test]
fn mapc_needs_memory_for_the_collection_now() {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x108, VALID | 0x9000_0000 | 0x200);
    let _idle = bench.write32(0, 1);
    assert!(bench.its.enabled());
    let unmap = Command::Mapc {
        collection: gicv3_its::CollectionId(1),
        target: gicv3_its::command::RdBase(0),
        valid: false,
    };
    bench.run(&[mapc(0, 0), unmap]);
    assert_eq!(bench.its.counters().refused(CommandError::TableMemory), 2);
    assert_eq!(bench.its.collections().count(), 0);
}
