//! What holds whatever a driver does.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::precedence,
    reason = "a test that can not go on fails"
)]

mod support;

use gicv3_its::command::Command;
use gicv3_its::redist::{RedistributorState, Redistributors};
use gicv3_its::{Config, Cte, Dte, GuestMemory, Ite, Its, Progress, RestoreError, Target};
use proptest::prelude::*;
use support::{
    Bench, COLLECTIONS, CONFIG, DEVICES, ITT, PENDING, QUEUE, SYNC, VALID, int, mapc, mapd, mapti,
};

/// Four numbers, mostly of a command that could make sense.
fn words() -> impl Strategy<Value = [u64; 4]> {
    let device = prop_oneof![9 => 0u32..6, 1 => any::<u32>()];
    let event = prop_oneof![9 => 0u32..6, 1 => any::<u32>()];
    let intid = prop_oneof![9 => 8192u32..8300, 1 => any::<u32>()];
    let icid = prop_oneof![9 => 0u16..5, 1 => any::<u16>()];
    let target = prop_oneof![9 => 0u64..4, 1 => 0u64..1 << 36];
    let opcode = prop_oneof![
        20 => prop::sample::select(vec![1u64, 3, 4, 5, 8, 8, 9, 9, 0xa, 0xa, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf]),
        1 => 0u64..256,
    ];
    (device, event, intid, icid, target, opcode, 0u64..18, any::<bool>(), 0u64..8).prop_map(
        |(device, event, intid, icid, target, opcode, size, valid, itt)| {
            let dw1 = match opcode {
                8 => size,
                0xb => u64::from(event) + if valid { 8192 } else { 0 },
                _ => u64::from(event) | u64::from(intid) << 32,
            };
            let dw2 = match opcode {
                8 => ITT + itt * 0x1000 | u64::from(valid) << 63,
                _ => u64::from(icid) | target << 16 | u64::from(valid) << 63,
            };
            [opcode | u64::from(device) << 32, dw1, dw2, (target & 3) << 16]
        },
    )
}

/// Stops a machine, moves it, and gives what comes out at the other end.
fn migrate(mut from: Bench) -> Bench {
    let mut states = [RedistributorState::default(); 4];
    from.redist.save(&from.ram, &mut states).unwrap();
    let state = from.its.save(&from.ram, 4).unwrap();
    assert_eq!(from.its.save(&from.ram, 4), Ok(state), "saving twice is saving once");
    kvm_accepts(&from);
    let mut to = Bench { its: Its::new(*from.its.config()).unwrap(), ..from.clone() };
    to.redist = Redistributors::of(4);
    to.redist.restore(&states, &to.ram).unwrap();
    let _left = to.its.restore(&state, &to.ram, &mut to.redist.sink(&to.ram)).unwrap();
    to
}

/// KVM's rules for tables it restores, followed from `next` to `next` as it does.
fn kvm_accepts(bench: &Bench) {
    let mut listed = std::collections::BTreeSet::new();
    for slot in 0..8192u64 {
        let cte = Cte::from_bits(bench.number(COLLECTIONS + slot * 8));
        if !cte.valid() {
            break;
        }
        assert!(cte.target() < 4 || cte.target() == 0xffff_ffff);
        assert!(listed.insert(cte.collection()), "a collection is listed once");
        assert!(cte.collection() < 8192);
    }
    let mut device = 0u64;
    while device < 8192 {
        let dte = Dte::from_bits(bench.number(DEVICES + device * 8));
        device += if dte.valid() { u64::from(dte.next()) } else { 1 };
        if !dte.valid() {
            continue;
        }
        assert!(dte.size() < 16);
        let events = 2u64 << dte.size();
        let mut event = 0u64;
        while event < events {
            let ite = Ite::from_bits(bench.number((dte.itt() << 8) + event * 8));
            if ite.intid() == 0 {
                event += 1;
                continue;
            }
            assert!(ite.intid() >= 8192);
            assert!(event + u64::from(ite.next()) < events, "next stays in the table");
            assert!(listed.contains(&ite.collection()), "the collection is listed");
            if ite.next() == 0 {
                break;
            }
            event += u64::from(ite.next());
        }
        if dte.next() == 0 {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_move_at_any_command_boundary_changes_nothing(
        commands in prop::collection::vec(words(), 1..60),
        at in 0usize..60,
        signals in prop::collection::vec((0u32..6, 0u32..6), 0..8),
    ) {
        let mut stayed = Bench::new(Config { budget: 1, ..Config::new() });
        stayed.run(&[mapc(0, 0), mapc(1, 1), mapd(0, 3), mapti(0, 0, 8192, 0)]);
        commands.iter().for_each(|words| stayed.queue_raw(*words));
        let next = stayed.next;
        let mut progress = stayed.write32(0x88, next);
        for _ in 1..at.min(commands.len()) {
            progress = stayed.process(1);
        }
        let mut moved = migrate(stayed.clone());
        let mut later = progress;
        while later == Progress::More {
            later = moved.process(7);
        }
        while progress == Progress::More {
            progress = stayed.process(1);
        }
        for (device, event) in signals {
            prop_assert_eq!(stayed.signal(device, event), moved.signal(device, event));
        }
        prop_assert_eq!(stayed.observe(), moved.observe());
    }

    #[test]
    fn no_bytes_anywhere_panic_or_cost_more_than_stated(
        accesses in prop::collection::vec(
            (any::<u8>(), any::<u64>(), any::<u64>(), 0u32..9, 0u32..5),
            1..200,
        ),
        queue in prop::collection::vec(words(), 128),
    ) {
        let mut bench = Bench::new(Config { budget: 16, ..Config::new() });
        queue.iter().for_each(|words| bench.queue_raw(*words));
        for (what, place, value, size, cpu) in accesses {
            hostile(&mut bench, what, place, value, size, cpu);
        }
    }
}

fn hostile(bench: &mut Bench, what: u8, place: u64, value: u64, size: u32, cpu: u32) {
    let commands = bench.its.counters().commands;
    let registers = [0, 4, 8, 0x80, 0x84, 0x88, 0x8c, 0x90, 0x100, 0x104, 0x108, 0x10c, 0x1_0040];
    let gicr = [0, 4, 8, 0x14, 0x70, 0x74, 0x78, 0x7c, 0xa0, 0xa4, 0xb0, 0xc0];
    let pick = |list: &[u64]| list[usize::try_from(place % list.len() as u64).unwrap()];
    let plausible = [value, value & 0xfff | VALID | QUEUE, value & 0x1fe0, 1, 0];
    let value = plausible[usize::try_from(value >> 32 & 0xff).unwrap() % plausible.len()];
    match what % 8 {
        0 => drop(bench.read(place, size)),
        1 => drop(bench.read(pick(&registers), 4 + size % 2 * 4)),
        2 | 3 => {
            let offset = pick(&registers);
            let sink = &mut bench.redist.sink(&bench.ram);
            let _left = bench.its.write(offset, 4 + size % 2 * 4, value, &bench.ram, sink);
        }
        4 => {
            let offset = pick(&gicr);
            bench.redist.write(Target(cpu), offset, 4 + size % 2 * 4, value, &bench.ram);
            bench.redist.read(Target(cpu), offset, size);
        }
        5 => {
            let tables = [DEVICES, COLLECTIONS, ITT, CONFIG, PENDING + 1024, QUEUE];
            bench.ram.write(pick(&tables) + (place >> 32) % 64 * 8, &value.to_le_bytes()).unwrap();
        }
        6 => drop(bench.signal(u32::from(what >> 4), size)),
        _ => {
            let progress = bench.process(16);
            bench.next_lpi(cpu);
            assert!(progress != Progress::Stalled);
            let report = bench.its.report(&bench.ram, 1000);
            assert!(report.devices.len() <= 1000);
        }
    }
    assert!(bench.its.counters().commands - commands <= 16, "one access, one budget");
    let collections = bench.its.collections().count();
    assert!(collections * 4 <= Its::MEMORY_BOUND);
    assert_eq!(bench.its.peek(0, 4) == 0x8000_0000, !bench.its.enabled());
    for cpu in 0..4 {
        assert!(bench.pending(cpu).iter().all(|lpi| (8192..65_536).contains(lpi)));
    }
}

#[test]
fn inconsistent_tables_are_refused_and_nothing_changes() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapc(1, 3), mapd(2, 1), mapti(2, 0, 8192, 0), mapti(2, 3, 8193, 1)]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let itt = ITT + 0x2000;
    let cte = |id: u16, target| Cte::new().with_collection(id).with_target(target).with_valid(true);
    let dte = Dte::new().with_itt(itt >> 8).with_next(1).with_valid(true);
    let ite = Ite::new().with_intid(8192).with_next(1);
    let far = dte.with_itt(0x10_0000).with_size(1);
    let id = gicv3_its::CollectionId;
    for (address, value, error, errno) in [
        (COLLECTIONS, cte(0, 4).into_bits(), RestoreError::Target(id(0)), 22),
        (COLLECTIONS, cte(1, 0).into_bits(), RestoreError::Duplicate(id(1)), 17),
        (COLLECTIONS, cte(8192, 0).into_bits(), RestoreError::Collection(id(8192)), 22),
        (COLLECTIONS, cte(5, 0).into_bits(), RestoreError::Collection(id(0)), 22),
        (COLLECTIONS, 0, RestoreError::Collection(id(0)), 22),
        (DEVICES, dte.with_size(16).into_bits(), RestoreError::Device, 22),
        (DEVICES, far.into_bits(), RestoreError::Memory, 14),
        (itt, ite.with_intid(8191).into_bits(), RestoreError::Interrupt, 22),
        (itt, ite.with_intid(65_536).into_bits(), RestoreError::Interrupt, 22),
        (itt, ite.with_next(4).into_bits(), RestoreError::Next, 22),
        (itt + 24, ite.into_bits(), RestoreError::Next, 22),
        (itt, ite.with_collection(7).into_bits(), RestoreError::Collection(id(7)), 22),
    ] {
        let mut to = Bench::reset(Config::new());
        to.ram = bench.ram.clone();
        to.ram.write(address, &value.to_le_bytes()).unwrap();
        let before = to.observe();
        let result = to.its.restore(&state, &to.ram, &mut to.redist.sink(&to.ram));
        assert_eq!(result, Err(error), "{value:#x} at {address:#x}");
        assert_eq!(error.errno(), errno);
        assert_eq!(to.observe(), before);
    }
}

#[test]
fn registers_that_can_not_be_are_refused() {
    let mut bench = Bench::new(Config::new());
    let good = bench.its.save(&bench.ram, 4).unwrap();
    let bad = [
        gicv3_its::State { version: 2, ..good },
        gicv3_its::State { iidr: good.iidr | 0x1000, ..good },
        gicv3_its::State { creadr: 0x1000, ..good },
        gicv3_its::State { cwriter: 0x10, ..good },
        gicv3_its::State { cbaser: good.cbaser | 0x100, ..good },
        gicv3_its::State { ctlr: 2, ..good },
        gicv3_its::State { creadr: 1, ..good },
        gicv3_its::State { basers: [0; 8], ..good },
        gicv3_its::State { cbaser: good.cbaser & !VALID, ..good },
    ];
    for state in bad {
        let mut to = Bench::reset(Config::new());
        let result = to.its.restore(&state, &bench.ram, &mut to.redist.sink(&bench.ram));
        assert!(result.is_err(), "{state:x?}");
        assert!(!to.its.enabled());
    }
}

#[test]
fn entries_kvm_skips_over_do_not_come_to_life() {
    // KVM leaves stale entries between those its `next` fields connect.
    let mut bench = Bench::new(Config::kvm());
    bench.run(&[mapc(0, 0), mapd(0, 2), mapti(0, 0, 8192, 0), mapti(0, 2, 8193, 0)]);
    bench.run(&[mapti(0, 5, 8194, 0), mapd(3, 1), mapd(5, 1), int(0, 2)]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let skip = |address: u64, shift: u32, next: u64| {
        let value = bench.number(address) & ((1 << shift) - 1 | VALID * u64::from(shift == 49));
        bench.ram.write(address, &(value | next << shift).to_le_bytes()).unwrap();
    };
    skip(ITT, 48, 5);
    skip(ITT + 5 * 8, 48, 0);
    skip(DEVICES, 49, 5);
    // What is stale need not even make sense.
    let stale = Dte::new().with_size(31).with_valid(true).into_bits();
    bench.ram.write(DEVICES + 3 * 8, &stale.to_le_bytes()).unwrap();
    let mut to = Bench { its: Its::new(Config::kvm()).unwrap(), ..bench.clone() };
    let _idle = to.its.restore(&state, &to.ram, &mut to.redist.sink(&to.ram)).unwrap();
    assert!(to.signal(0, 0).is_ok() && to.signal(0, 5).is_ok());
    assert!(to.signal(0, 2).is_err(), "a stale event");
    to.run(&[mapti(3, 0, 8200, 0), mapti(5, 0, 8201, 0), SYNC]);
    assert!(to.signal(3, 0).is_err(), "a stale device");
    assert!(to.signal(5, 0).is_ok());
}

#[test]
fn devices_that_share_a_table_of_different_lengths_are_moved() {
    let mut bench = Bench::new(Config::new());
    let shared = |device, size| Command::Mapd {
        device: gicv3_its::DeviceId(device),
        size,
        itt: ITT,
        valid: true,
    };
    bench.run(&[
        mapc(0, 0),
        shared(1, 3),
        shared(2, 2),
        mapti(1, 7, 8192, 0),
        mapti(2, 7, 8193, 0),
    ]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let mut to = Bench { its: Its::new(Config::new()).unwrap(), ..bench.clone() };
    let _idle = to.its.restore(&state, &to.ram, &mut to.redist.sink(&to.ram)).unwrap();
    assert_eq!(to.signal(2, 7), bench.signal(2, 7));
    assert_eq!(to.signal(1, 7), bench.signal(1, 7));
}

#[test]
fn commands_read_back_as_they_were_written() {
    for command in [mapd(1, 5), mapc(2, 3), mapti(1, 2, 8192, 4), int(5, 6), SYNC] {
        assert_eq!(Command::decode(command.encode()), command);
    }
}
