//! Random batches of legal and illegal commands and signals, to this model and to QEMU's over
//! qtest, compared after every batch: `CREADR`, every pending table, and each
//! processor's highest priority pending LPI.
//!
//! `reconfigured.rs` does the same while the tables, the queue and the enable bits change.
//!
//! QEMU's processors never run; a pending LPI shows in the pending table, which QEMU keeps in
//! guest RAM. Two choices of QEMU's are taken over for the comparison (`Config::qemu`,
//! `mapd_checks_size_always`); tables stay inside RAM, as QEMU stalls where this model skips.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that can not go on fails"
)]

mod qemu;
mod reconfigured;
#[path = "../support/mod.rs"]
mod support;

use std::process::{Command as Process, Stdio};

use gicv3_its::redist::regs::typer;
use gicv3_its::redist::{RedistConfig, Redistributors};
use gicv3_its::{Config, GuestMemory};
use qemu::{CPUS, DISTRIBUTOR, ITS, PROGRAM, Qemu, REDISTRIBUTORS};
use support::{Bench, COLLECTIONS, CONFIG, DEVICES, PENDING, QUEUE, VALID};

/// Commands of each of the two runs, flat and two-level.
const COMMANDS: u64 = 8_000;
const TABLES: u64 = 0x4800_0000;
const LEVEL2: u64 = 0x4600_0000;

/// Numbers that are the same every time (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn of(&mut self, list: &[u64]) -> u64 {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }
}

/// A command, most of them legal or almost.
pub(crate) fn command(random: &mut Random) -> [u64; 4] {
    let odd = random.below(12) == 0;
    let device = if odd {
        random.of(&[9, 600, 0x1fff, 0x2000, 0x1_0000, 0xffff_ffff])
    } else {
        random.below(4)
    };
    let odd = random.below(12) == 0;
    let event =
        if odd { random.of(&[8, 31, 32, 0xffff, 0x1_0000, 0xffff_ffff]) } else { random.below(6) };
    let odd = random.below(12) == 0;
    let intid = if odd {
        random.of(&[0, 1023, 8191, 65_536, 0xffff_ffff])
    } else {
        8192 + random.below(200)
    };
    let odd = random.below(12) == 0;
    let icid = if odd { random.of(&[7, 0x1fff, 0x2000, 0xffff]) } else { random.below(4) };
    let odd = random.below(12) == 0;
    let target = if odd { random.of(&[3, 4, 0xffff, 0xf_ffff_ffff]) } else { random.below(3) };
    let valid = u64::from(random.below(5) != 0) << 63;
    let itt = TABLES + (device & 0xf) * 0x10_0000;
    let size = random.of(&[0, 1, 2, 2, 4, 7, 15, 16, 31]);
    let ids = |opcode: u64| opcode | device << 32;
    match random.below(22) {
        0 | 1 => [ids(0x08), size, itt | valid, 0],
        2 | 3 => [0x09, 0, icid | target << 16 | valid, 0],
        4..=7 => [ids(0x0a), event | intid << 32, icid, 0],
        8 => [ids(0x0b), random.of(&[event, 8192, 8200]), icid, 0],
        9..=11 => [ids(0x01), event, icid, 0],
        12 => [0x0e, 0, target << 16, random.below(4) << 16],
        13 => [ids(0x0f), event, 0, 0],
        14..=16 => [ids(0x03), event, 0, 0],
        17 => [ids(0x04), event, 0, 0],
        18 => [ids(0x0c), event, 0, 0],
        19 => [0x0d, 0, icid, 0],
        20 => [0x05, 0, target << 16, 0],
        _ => [random.below(256) & !0x20, random.next(), random.next(), random.next()],
    }
}

/// Both, set up alike.
fn both(name: &str, indirect: bool) -> (Qemu, Bench) {
    let mut qemu = Qemu::start(name);
    let mut bench = Bench::reset(Config { mapd_checks_size_always: true, ..Config::qemu() });
    let typers = (0..CPUS).map(|number| typer(number, CPUS.into()));
    bench.redist = Redistributors::new(RedistConfig::default(), typers);
    let level1 = if indirect { 1 << 62 } else { 0 };
    if indirect {
        // Only the first page of each table exists; 4 KiB pages hold 512 entries.
        for (table, page) in [(DEVICES, LEVEL2), (COLLECTIONS, LEVEL2 + 0x1000)] {
            let entry = (VALID | page).to_le_bytes();
            bench.ram.write(table, &entry).unwrap();
            qemu.ram(table, &entry);
        }
    }
    bench.ram.write(CONFIG, &[0xa3; 57_344]).unwrap();
    qemu.ask(&format!("memset {CONFIG:#x} 57344 0xa3"));
    for cpu in 0..u32::from(CPUS) {
        let pending = PENDING + u64::from(cpu) * 0x1_0000;
        for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, pending), (0, 4, 1)] {
            bench.redistributor(cpu, offset, value);
            qemu.write(REDISTRIBUTORS + u64::from(cpu) * 0x2_0000 + offset, size, value);
        }
    }
    // Group 1, or no interrupt is the highest of a processor.
    qemu.write(DISTRIBUTOR, 4, 2);
    let pages = if indirect { 0 } else { 0x200 };
    for (offset, value) in [
        (0x100, VALID | level1 | DEVICES | pages),
        (0x108, VALID | level1 | COLLECTIONS | pages),
        (0x80, VALID | QUEUE),
        (0x88, 0),
    ] {
        let _idle = bench.write(offset, value);
        qemu.write(ITS + offset, 8, value);
    }
    let _idle = bench.write32(0, 1);
    qemu.write(ITS, 4, 1);
    (qemu, bench)
}

fn compare(name: &str, indirect: bool, seed: u64) {
    let (mut qemu, mut bench) = both(name, indirect);
    let mut random = Random(seed);
    let mut differences = Vec::new();
    let mut done = 0;
    let mut set = 0;
    let mut highest_seen = 0;
    while done < COMMANDS {
        let mut log = String::new();
        let mut batch: Vec<[u64; 4]> =
            (0..=random.below(30)).map(|_| command(&mut random)).collect();
        // Priorities and enables change, and INVALL on every processor says so.
        for _ in 0..random.below(6) {
            let at = CONFIG + random.below(200);
            let byte = u8::try_from(random.below(256)).unwrap();
            bench.ram.write(at, &[byte]).unwrap();
            qemu.ram(at, &[byte]);
        }
        for cpu in 0..u64::from(CPUS) {
            batch.push([0x09, 0, (16 + cpu) | cpu << 16 | VALID, 0]);
            batch.push([0x0d, 0, 16 + cpu, 0]);
        }
        for words in batch {
            let slot = bench.next;
            bench.queue_raw(words);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            qemu.ram(QUEUE + slot, &bytes);
            log += &format!("{}\n", gicv3_its::command::Command::decode(words));
            done += 1;
        }
        let next = bench.next;
        let _idle = bench.write32(0x88, next);
        qemu.write(ITS + 0x88, 4, next);
        for _ in 0..random.below(4) {
            // A qtest write has requester ID 0.
            let event = random.below(8);
            qemu.write(ITS + 0x1_0040, 4, event);
            let _blocked = bench.signal(0, u32::try_from(event).unwrap());
        }
        let (ours, theirs) = (bench.read(0x90, 8), qemu.read(ITS + 0x90));
        let mut same = ours == theirs && ours == next;
        for cpu in 0..CPUS {
            let (ours, theirs) = (bench.pending(cpu.into()), qemu.pending(cpu.into(), 8192));
            same &= ours == theirs;
            set += ours.len();
            if ours != theirs {
                log += &format!("processor {cpu}: ours {ours:?}, QEMU's {theirs:?}\n");
            }
        }
        let highest = qemu.highest().to_vec();
        for (cpu, theirs) in (0..u32::from(CPUS)).zip(highest) {
            let ours = bench.redist.next(gicv3_its::Target(cpu), &bench.ram);
            let ours = ours.map(|next| (next.lpi.intid(), next.priority));
            highest_seen += usize::from(ours.is_some());
            same &= ours == theirs;
            if ours != theirs {
                log += &format!("processor {cpu}: highest ours {ours:?}, QEMU's {theirs:?}\n");
            }
        }
        if !same {
            differences.push(format!("CREADR ours {ours:#x}, QEMU's {theirs:#x}\n{log}"));
            break;
        }
    }
    assert!(differences.is_empty(), "{name}: {}", differences.join("\n"));
    assert!(set > 1000, "the comparison saw {set} pending LPIs, too few to mean anything");
    assert!(highest_seen > 300, "{highest_seen} highest priority LPIs are too few");
    println!("{name}: {done} commands, 0 differences, {set} pending LPIs seen");
}

pub(crate) fn available(test: &str) -> bool {
    let found = Process::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        println!("SKIPPED {test}: {PROGRAM} is not installed (Debian: qemu-system-arm)");
    }
    found
}

#[test]
fn random_batches_do_the_same_with_flat_tables() {
    if available("random_batches_do_the_same_with_flat_tables") {
        compare("flat", false, 0x1234_5678_9abc_def1);
    }
}

#[test]
fn random_batches_do_the_same_with_two_level_tables() {
    if available("random_batches_do_the_same_with_two_level_tables") {
        compare("two-level", true, 0x0fed_cba9_8765_4321);
    }
}
