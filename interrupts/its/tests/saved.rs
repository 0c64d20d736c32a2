//! Saving and restoring where a driver's tables are not as they should be.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::redist::{RedistributorState, Redistributors};
use gicv3_its::{
    Blocked, Config, Cte, DeviceId, Dte, EventId, GuestMemory, Ite, Its, MemoryErrors, Progress,
    RestoreError, SaveError, State, TranslationCache,
};
use support::ram::Ram;
use support::{Bench, COLLECTIONS, CONFIG, DEVICES, ITT, PENDING, VALID, mapc, mapd, mapti};

fn restored(bench: &Bench, state: &State) -> Result<Bench, RestoreError> {
    let config = *bench.its.config();
    let mut to = Bench { its: Its::new(config).unwrap(), ..bench.clone() };
    let _left = to.its.restore(state, &to.ram, &mut to.redist.sink(&to.ram))?;
    Ok(to)
}

fn with_tables(devices: u64, collections: u64) -> Bench {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | devices);
    let _idle = bench.write(0x108, VALID | collections);
    let _idle = bench.write32(0, 1);
    bench
}

#[test]
fn tables_outside_ram_are_not_saved() {
    let mut bench = with_tables(DEVICES | 0x200, 0x9000_0000 | 0x200);
    assert!(bench.its.enabled(), "that there is no RAM shows later");
    bench.run(&[mapd(0, 1), mapti(0, 0, 8192, 3)]);
    assert_eq!(bench.its.save(&bench.ram, 4), Err(SaveError::Memory));
    let mut bench = with_tables(0x9000_0000 | 0x200, COLLECTIONS | 0x200);
    let refused = Err(SaveError::Inconsistent(RestoreError::Memory));
    assert_eq!(bench.its.save(&bench.ram, 4), refused);
    // A first level that leads out of RAM, and one that is there in part.
    let mut bench = with_tables(1 << 62 | DEVICES | 0x200, COLLECTIONS | 0x200);
    bench.ram.write(DEVICES, &(VALID | 0x9000_0000u64).to_le_bytes()).unwrap();
    assert_eq!(bench.its.save(&bench.ram, 4), refused);
    let mut bench = with_tables(1 << 62 | 0x9000_0000 | 0x200, COLLECTIONS | 0x200);
    assert_eq!(bench.its.save(&bench.ram, 4), refused);
}

#[test]
fn a_restore_voids_remembered_translations() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0)]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let mut cache = TranslationCache::new();
    let (device, event) = (DeviceId(0), EventId(0));
    let mut translate = |bench: &Bench| cache.translate(&bench.its, &bench.ram, device, event);
    assert_eq!(translate(&bench).map(|(lpi, _)| lpi.intid()), Ok(8192));
    // The RAM that comes with the state is another guest's.
    let other = Ite::new().with_intid(9000).with_next(1).into_bits();
    bench.ram.write(ITT, &other.to_le_bytes()).unwrap();
    assert_eq!(translate(&bench).map(|(lpi, _)| lpi.intid()), Ok(8192), "it was remembered");
    let sink = &mut bench.redist.sink(&bench.ram);
    let _idle = bench.its.restore(&state, &bench.ram, sink).unwrap();
    assert_eq!(translate(&bench).map(|(lpi, _)| lpi.intid()), Ok(9000));
}

#[test]
fn a_stalled_queue_is_saved_and_restored_as_one() {
    let config = Config { memory_errors: MemoryErrors::Stall, ..Config::new() };
    let mut bench = Bench::new(config);
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x80, VALID | 0x9000_0000);
    let _idle = bench.write32(0, 1);
    assert_eq!(bench.write32(0x88, 0x40), Progress::Stalled);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    assert_eq!(state.creadr, 1);
    let mut to = restored(&bench, &state).unwrap();
    assert_eq!(to.its.peek(0x90, 8), 1);
    let commands = to.its.counters().commands;
    assert_eq!(to.write32(0x88, 0x40), Progress::Stalled, "not without Retry");
    assert_eq!(to.its.counters().commands, commands, "nothing was tried");
    // An ITS that never stalls has no such state.
    let skips = Config { memory_errors: MemoryErrors::Skip, ..config };
    let mut never = Its::new(skips).unwrap();
    let refused = never.restore(&state, &to.ram, &mut to.redist.sink(&to.ram));
    assert_eq!(refused, Err(RestoreError::Register("GITS_CREADR")));
}

#[test]
fn the_collection_list_ends_where_it_ends_whatever_was_there_before() {
    let stale = Cte::new().with_collection(7).with_target(1).with_valid(true).into_bits();
    let dirty = |bench: &Bench| {
        for slot in 0..8 {
            bench.ram.write(COLLECTIONS + slot * 8, &stale.to_le_bytes()).unwrap();
        }
    };
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(2, 3), mapc(4, 0)]);
    dirty(&bench);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    assert_eq!(bench.number(COLLECTIONS + 16), 0, "saved");
    assert_eq!(restored(&bench, &state).unwrap().its.collections().count(), 2);
    dirty(&bench);
    let _idle = bench.write32(0, 0);
    assert_eq!(bench.number(COLLECTIONS + 16), 0, "disabled");
    let _idle = bench.write32(0, 1);
    assert_eq!(bench.its.collections().count(), 2);
    assert_eq!(bench.its.counters().bad_collections, 0);
    // Without any, too.
    let mut bench = Bench::new(Config::new());
    dirty(&bench);
    let _idle = bench.write32(0, 0);
    assert_eq!(bench.number(COLLECTIONS), 0);
}

#[test]
fn a_collection_table_too_short_for_its_list_is_not_saved() {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x108, VALID | COLLECTIONS);
    let _idle = bench.write32(0, 1);
    // 4 KiB hold 512 entries, and that many collections have a place.
    let all: Vec<_> = (0..512).map(|id| mapc(id, 1)).collect();
    for part in all.chunks(100) {
        bench.run(part);
    }
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let to = restored(&bench, &state).unwrap();
    assert_eq!(to.its.collections().count(), 512, "the list ends with the table");
    bench.run(&[mapc(512, 1)]);
    assert_eq!(bench.its.collections().count(), 512);
}

#[test]
fn entries_that_have_no_effect_are_taken_out_by_a_save() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 2), mapti(0, 0, 8192, 0), mapti(0, 7, 8193, 0)]);
    let ite = |intid: u32, collection: u16| {
        Ite::new().with_intid(intid).with_collection(collection).with_next(1).into_bits()
    };
    // No LPI; a collection without a place in its table (64 KiB: 8192).
    for (event, entry) in [(1, ite(8191, 0)), (2, ite(8200, 8192)), (3, ite(70_000, 0))] {
        bench.ram.write(ITT + event * 8, &entry.to_le_bytes()).unwrap();
    }
    let wide = Dte::new().with_size(16).with_itt(ITT >> 8).with_valid(true).with_next(1);
    bench.ram.write(DEVICES + 5 * 8, &wide.into_bits().to_le_bytes()).unwrap();
    let state = bench.its.save(&bench.ram, 4).unwrap();
    for event in [1, 2, 3] {
        assert_eq!(bench.number(ITT + event * 8), 0, "event {event}");
    }
    assert_eq!(bench.number(DEVICES + 5 * 8), 0);
    assert_eq!(bench.number(ITT) >> 48, 1);
    assert_eq!(bench.number(ITT + 56) >> 48, 0, "the last event has no next one");
    let mut to = restored(&bench, &state).unwrap();
    assert!(to.signal(0, 0).is_ok() && to.signal(0, 7).is_ok());
    assert_eq!(to.signal(0, 1), Err(Blocked::Interrupt));
}

#[test]
fn next_is_followed_in_kvms_tables_and_not_in_our_own() {
    for (config, followed) in [(Config::kvm(), true), (Config::new(), false)] {
        let mut bench = Bench::new(config);
        bench.run(&[mapc(0, 0), mapd(0, 2), mapd(1, 2), mapd(2, 2)]);
        bench.run(&[mapti(0, 0, 8192, 0), mapti(0, 1, 8193, 0), mapti(0, 2, 8194, 0)]);
        bench.run(&[mapti(1, 0, 8195, 0), mapti(2, 0, 8196, 0)]);
        let state = bench.its.save(&bench.ram, 4).unwrap();
        let jump = Ite::from_bits(bench.number(ITT)).with_next(2).into_bits();
        bench.ram.write(ITT, &jump.to_le_bytes()).unwrap();
        let jump = Dte::from_bits(bench.number(DEVICES)).with_next(2).into_bits();
        bench.ram.write(DEVICES, &jump.to_le_bytes()).unwrap();
        let mut to = restored(&bench, &state).unwrap();
        assert_eq!(to.signal(0, 1).is_err(), followed);
        assert_eq!(to.signal(1, 0).is_err(), followed);
        assert!(to.signal(0, 2).is_ok() && to.signal(2, 0).is_ok());
        // What is written says the same whatever is followed.
        assert_eq!(to.number(DEVICES) >> 49 & 0x3fff, 1);
    }
}

#[test]
fn a_disabled_its_keeps_its_tables_in_ram_and_takes_what_makes_sense_when_enabled() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(2, 3), mapd(0, 1), mapti(0, 0, 8192, 2)]);
    let _idle = bench.write32(0, 0);
    assert_eq!(bench.its.collections().count(), 0);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let mut to = restored(&bench, &state).unwrap();
    let _idle = to.write32(0, 1);
    assert_eq!(to.signal(0, 0).map(|(_, target)| target.0), Ok(3));
    // A list that goes wrong in the middle is taken up to there, and counted.
    let _idle = to.write32(0, 0);
    let bad = Cte::new().with_collection(2).with_target(0).with_valid(true).into_bits();
    to.ram.write(COLLECTIONS + 8, &bad.to_le_bytes()).unwrap();
    let _idle = to.write32(0, 1);
    assert_eq!(to.signal(0, 0).map(|(_, target)| target.0), Ok(3));
    assert_eq!(to.its.counters().bad_collections, 1);
}

#[test]
fn every_redistributor_register_that_can_not_be_is_refused() {
    let (mut redist, ram) = (Redistributors::of(2), Ram::default());
    let good = RedistributorState { ctlr: 1, waker: 6, propbaser: CONFIG | 15, pendbaser: PENDING };
    assert_eq!(redist.restore(&[good; 2], &ram), Ok(()));
    for bad in [
        RedistributorState { ctlr: 2, ..good },
        RedistributorState { waker: 1, ..good },
        RedistributorState { waker: 8, ..good },
        RedistributorState { propbaser: 1 << 5, ..good },
        RedistributorState { propbaser: 1 << 63, ..good },
        RedistributorState { pendbaser: 1, ..good },
        RedistributorState { pendbaser: 1 << 62, ..good },
    ] {
        for states in [[bad, good], [good, bad]] {
            let refused = redist.restore(&states, &ram);
            assert_eq!(refused, Err(RestoreError::Register("a redistributor register")));
        }
        let mut kept = [RedistributorState::default(); 2];
        redist.save(&ram, &mut kept).unwrap();
        assert_eq!(kept, [good; 2], "nothing has changed");
    }
    assert!(redist.restore(&[good], &ram).is_err(), "one of two");
    let typer = |n| redist.typer(gicv3_its::Target(n)).unwrap();
    assert!(!typer(0).last() && typer(1).last());
}

#[test]
fn a_disabled_its_is_restored_disabled() {
    let mut bench = Bench::reset(Config::new());
    let state = bench.its.save(&bench.ram, 4).unwrap();
    assert_eq!(state.ctlr, 0x8000_0000, "quiescent");
    assert!(!restored(&bench, &state).unwrap().its.enabled());
    let _idle = bench.write(0x100, VALID | DEVICES | 0x200);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let to = restored(&bench, &state).unwrap();
    assert!(!to.its.enabled());
    assert_eq!(to.its.peek(0x100, 8), bench.its.peek(0x100, 8));
}

#[test]
fn a_reset_voids_remembered_translations() {
    let mut bench = Bench::new(Config::new());
    let mut cache = TranslationCache::new();
    let (device, event) = (DeviceId(0), EventId(0));
    let mut translate = |bench: &Bench| cache.translate(&bench.its, &bench.ram, device, event);
    for intid in [8192, 8193, 8194] {
        bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, intid, 0)]);
        assert_eq!(translate(&bench).map(|(lpi, _)| lpi.intid()), Ok(intid));
        // The next driver does the same as this one, as often.
        let fresh = Bench::new(Config::new());
        bench.its.reset();
        (bench.next, bench.ram) = (0, fresh.ram.clone());
        let _idle = bench.write(0x100, VALID | DEVICES | 0x200);
        let _idle = bench.write(0x108, VALID | COLLECTIONS | 0x200);
        let _idle = bench.write(0x80, VALID | support::QUEUE);
        let _idle = bench.write32(0, 1);
        assert_eq!(translate(&bench), Err(Blocked::Device));
    }
}

/// In KVM's tables `next` of the last entry is 0.
#[test]
fn what_kvm_reads_says_where_the_next_event_may_be() {
    let mut bench = Bench::new(Config::kvm());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0), mapti(0, 2, 8194, 0)]);
    bench.run(&[mapti(0, 3, 8195, 0)]);
    bench.its.save(&bench.ram, 4).unwrap();
    let next = |event: u64| Ite::from_bits(bench.number(ITT + event * 8)).next();
    assert_eq!([0, 2, 3].map(next), [1, 1, 0]);
    assert_eq!(bench.number(ITT + 8), 0, "event 1 is not mapped");
}
