//! The remarks of the review of KVM's first ITS register handlers (linux-arm-kernel, 7 April
//! 2016), R1 to R11, each answered by a test that names it.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::id_registers::{Component, IdRegisters};
use gicv3_its::{CommandError, Config, DeviceId, EventId, Lpi, Progress, State, Target};
use support::{Bench, DEVICES, SYNC, VALID, int, mapc, mapd, mapti};

#[test]
fn r1_the_documentation_is_reviewed_too() {
    // Spelling is for readers; what a test can hold is that the public documentation says where
    // its facts come from, and does not repeat the patch's "hold".
    let sources = [
        include_str!("../src/lib.rs"),
        include_str!("../src/queue.rs"),
        include_str!("../README.md"),
    ];
    for text in sources {
        assert!(!text.contains("only\n//! hold for"), "hold -> held");
    }
    for text in [
        include_str!("../src/regs.rs"),
        include_str!("../src/redist/regs.rs"),
        include_str!("../src/command.rs"),
        include_str!("../src/table.rs"),
    ] {
        assert!(text.contains("Spec: "), "a source is cited");
    }
}

#[test]
fn r2_registers_have_explicit_sizes() {
    // Fails to compile if a field of the saved state gets a width that depends on the machine.
    let State { version, ctlr, iidr, cbaser, cwriter, creadr, basers } = State::default();
    let _: (u16, u32, u32, u64, u64, u64, [u64; 8]) =
        (version, ctlr, iidr, cbaser, cwriter, creadr, basers);
    let _: (u32, u32, u32) = (DeviceId(0).0, EventId(0).0, Target(0).0);
    assert!(Lpi::new(8191).is_none() && Lpi::new(65_536).is_none());
    assert_eq!(Lpi::new(8192).map(Lpi::intid), Some(8192));
}

#[test]
fn r3_quiescent_is_true_only_when_it_is() {
    let mut bench = Bench::new(Config { budget: 4, ..Config::new() });
    bench.queue(&[SYNC; 20]);
    assert_eq!(bench.write32(0x88, 640), Progress::More);
    assert_eq!(bench.its.peek(0, 4), 1, "not quiescent while commands are being processed");
    // Disabling stops the queue between two commands, so a driver that polls Quiescent with
    // unread commands in the queue is not left waiting for ever.
    let read = bench.its.peek(0x90, 8);
    let _left = bench.write32(0, 0);
    assert_eq!(bench.read(0, 4), 0x8000_0000);
    assert_eq!(bench.read(0x90, 8), read, "nothing runs while it is disabled");
    assert_eq!(bench.process(64), Progress::Idle);
    assert_eq!(bench.read(0x90, 8), read);
    assert_ne!(read, 640);
}

#[test]
fn r4_whitespace_is_the_formatters_business() {
    for text in [include_str!("../src/its/registers.rs"), include_str!("../src/regs.rs")] {
        assert!(text.lines().all(|line| line == line.trim_end() && !line.contains('\t')));
    }
}

#[test]
fn r5_tables_are_in_guest_memory_with_their_real_entry_sizes_and_a_version() {
    let mut bench = Bench::new(Config::new());
    let typer = bench.its.config().typer;
    assert_eq!(typer.hcc(), 0, "no collection without memory in the guest");
    assert_eq!(typer.itt_entry_size(), 7, "eight bytes");
    assert_eq!(bench.its.config().iidr >> 12 & 0xf, 0, "layout revision 0");
    bench.run(&[mapc(3, 1), mapd(2, 4), mapti(2, 5, 8200, 3)]);
    let itt = support::ITT + 0x2000;
    assert_eq!(bench.number(DEVICES + 2 * 8), VALID | 1 << 49 | itt >> 8 << 5 | 4);
    assert_eq!(bench.number(itt + 5 * 8), 1 << 48 | 8200 << 16 | 3);
    // The collection table is there as soon as anybody but the ITS may look at it.
    let _left = bench.write32(0, 0);
    assert_eq!(bench.number(support::COLLECTIONS), VALID | 1 << 16 | 3);
    assert_eq!(bench.number(support::COLLECTIONS + 8), 0);
}

#[test]
fn r6_pidr2_says_who_and_which_revision() {
    assert_eq!(Bench::reset(Config::new()).its.peek(0xffe8, 4), 0x3b);
}

#[test]
fn r7_pidr4_says_64_kib_and_arm() {
    assert_eq!(Bench::reset(Config::new()).its.peek(0xffd0, 4), 0x44);
}

#[test]
fn r8_every_identification_register_has_its_value() {
    let its = Bench::reset(Config::new()).its;
    let values: Vec<u64> = (0xffd0..0x1_0000).step_by(4).map(|at| its.peek(at, 4)).collect();
    let expected = [0x44, 0, 0, 0, 0x94, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];
    assert_eq!(values, expected);
}

#[test]
fn r9_one_handler_serves_the_whole_gic() {
    let parts =
        [(Component::Distributor, 0x92), (Component::Redistributor, 0x93), (Component::Its, 0x94)];
    for (component, part) in parts {
        let ids = IdRegisters::new(component);
        assert_eq!(ids.read(0xffe0), Some(part));
        assert_eq!(ids.read(0xffe8), Some(0x3b));
        assert_eq!(ids.read(0xffcc), None);
    }
    let mut bench = Bench::reset(Config::new());
    for at in (0xffd0..0x1_0000).step_by(4) {
        let ids = IdRegisters::new(Component::Redistributor);
        assert_eq!(bench.redist.read(Target(0), at, 4), ids.read(at).unwrap().into());
    }
}

#[test]
fn r10_the_queue_base_changes_in_one_piece_with_the_rest_of_the_queue() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), SYNC]);
    let before = bench.its.peek(0x80, 8);
    let _left = bench.write(0x80, VALID | 0x4300_0000);
    assert_eq!(bench.its.peek(0x80, 8), before, "not while the ITS is enabled");
    let _left = bench.write32(0, 0);
    let _left = bench.write(0x80, VALID | 0x4300_0000);
    assert_eq!((bench.its.peek(0x88, 8), bench.its.peek(0x90, 8)), (0, 0), "the ring is empty");
    // Enabling executes nothing that was meant for the old ring.
    let commands = bench.its.counters().commands;
    let _left = bench.write32(0, 1);
    assert_eq!(bench.its.counters().commands, commands);
}

#[test]
fn r11_a_queue_that_is_not_empty_is_not_taken_for_one_that_is_being_processed() {
    // The compiler proves the rest: see the module `queue` and tests/loom_queue.rs. This is the
    // lost wake-up the patch had: commands queued while disabled, then a later writer.
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0)]);
    let _left = bench.write32(0, 0);
    bench.queue(&[int(0, 0)]);
    let next = bench.next;
    assert_eq!(bench.write32(0x88, next), Progress::Idle);
    assert_eq!(bench.pending(0), []);
    let _left = bench.write32(0, 1);
    assert_eq!(bench.pending(0), [8192]);
    // And a queue whose memory cannot be read does not stop either, nor drop what follows.
    let _left = bench.write32(0, 0);
    let _left = bench.write(0x80, VALID | 0x3fff_f000 | 1);
    let _left = bench.write32(0, 1);
    let mut progress = bench.write32(0x88, 0x1000);
    while progress == Progress::More {
        progress = bench.process(64);
    }
    assert_eq!(bench.its.peek(0x90, 8), 0x1000, "the unreadable slots were skipped");
    assert_eq!(bench.its.counters().refused(CommandError::QueueMemory), 128);
}
