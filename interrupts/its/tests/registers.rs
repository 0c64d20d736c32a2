//! Registers and commands where recordings of another implementation can not speak: what is
//! this model's own choice, and what goes beyond a guest's own mistakes.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::command::Command;
use gicv3_its::lint::{Finding, Linter};
use gicv3_its::redist::regs::typer;
use gicv3_its::redist::{RedistConfig, Redistributors};
use gicv3_its::{
    Blocked, CommandError, Config, ConfigError, DeviceId, EventId, GuestMemory, Its, Target,
    TranslationCache,
};
use support::{
    Bench, COLLECTIONS, CONFIG, DEVICES, ITT, PENDING, QUEUE, SYNC, VALID, int, mapc, mapd, mapti,
    unmapd,
};

#[test]
fn wrong_widths_and_alignments_read_zero_are_ignored_and_counted() {
    let mut bench = Bench::new(Config::new());
    let mut bad = 0;
    for (offset, size) in [
        (0, 1),
        (0, 2),
        (0, 8),
        (1, 4),
        (2, 4),
        (4, 8),
        (8, 1),
        (8, 2),
        (0x84, 8),
        (0x82, 4),
        (0x88, 3),
        (0x100, 16),
        (0xffe8, 1),
        (0xffe8, 8),
        (0x200, 4),
        (0x1_0040, 4),
        (0x1_0040, 2),
        (0x2_0000, 4),
        (u64::MAX, 4),
    ] {
        let before = bench.observe();
        assert_eq!(bench.read(offset, size), 0, "{size} bytes at {offset:#x}");
        let sink = &mut bench.redist.sink(&bench.ram);
        let _idle = bench.its.write(offset, size, u64::MAX, &bench.ram, sink);
        assert_eq!(bench.observe(), before, "{size} bytes at {offset:#x}");
        bad += 2;
        assert_eq!(bench.its.counters().bad_accesses, bad);
    }
}

#[test]
fn a_store_of_a_cpu_to_translater_signals_nothing() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0)]);
    let _idle = bench.write32(0x1_0040, 0);
    assert_eq!(bench.pending(0), []);
    assert!(bench.signal(0, 0).is_ok());
}

#[test]
fn memory_that_is_not_ram_is_skipped_and_counted() {
    let mut bench = Bench::new(Config::new());
    let itt = Command::Mapd { device: DeviceId(1), size: 3, itt: 0x9000_0000, valid: true };
    bench.run(&[mapc(0, 0), itt, mapti(1, 0, 8192, 0), int(1, 0), mapd(1, 3)]);
    assert_eq!(bench.its.counters().refused(CommandError::TableMemory), 2);
    assert_eq!(bench.read(0x90, 8), 5 * 32);
    assert_eq!(bench.signal(1, 0), Err(Blocked::Interrupt));
}

#[test]
fn refused_commands_carry_the_architectures_numbers_in_the_order_of_checks() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1)]);
    let invall = Command::Invall { collection: gicv3_its::CollectionId(9) };
    let virtual_command = Command::Virtual { name: "VMAPP", opcode: 0x29 };
    for (command, number) in [
        // Where two things are wrong, the first check in the table speaks.
        (mapd(0x1_0000, 31), 0x01_0801),
        (mapd(0, 16), 0x01_0802),
        (mapc(0xffff, 4), 0x01_0902),
        (mapc(0x2000, 0), 0x01_0903),
        (mapti(1, 99, 0, 0xffff), 0x01_0a04),
        (mapti(0, 4, 0, 0xffff), 0x01_0a05),
        (mapti(0, 0, 8191, 0xffff), 0x01_0a06),
        (mapti(0, 0, 8192, 0x2000), 0x01_0a03),
        (int(0, 0), 0x01_0307),
        (invall, 0x01_0d09),
        (virtual_command, 0x02_0001),
        (Command::Unknown { opcode: 0x77 }, 0x02_0002),
    ] {
        let before = bench.its.counters().clone();
        bench.run(&[command]);
        let error = CommandError::ALL.iter().find(|error| error.number() == number).unwrap();
        let refused = bench.its.counters().refused(*error) - before.refused(*error);
        assert_eq!(refused, 1, "{command}: {error}");
    }
}

#[test]
fn a_device_is_unmapped_whatever_its_size_says() {
    let mut bench = Bench::new(Config::new());
    let unmap = Command::Mapd { device: DeviceId(0), size: 31, itt: 0, valid: false };
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 3, 8192, 0), mapti(0, 2, 8193, 7)]);
    assert_eq!(bench.number(ITT + 24) >> 48, 0, "nothing comes after the last event");
    assert_eq!(bench.number(ITT + 16) >> 48, 1);
    let unmapped = bench.its.collections().find(|(id, _)| id.0 == 7);
    assert_eq!(unmapped, Some((gicv3_its::CollectionId(7), None)), "named, without a target");
    bench.run(&[unmap]);
    assert_eq!(bench.signal(0, 3), Err(Blocked::Device));
    assert_eq!(bench.its.counters().all_refused(), 0);
}

#[test]
fn every_command_of_gicv4_is_known_by_name_and_refused() {
    let mut bench = Bench::new(Config::new());
    for (opcode, name) in [
        (0x21, "VMOVI"),
        (0x22, "VMOVP"),
        (0x23, "VSGI"),
        (0x25, "VSYNC"),
        (0x29, "VMAPP"),
        (0x2a, "VMAPTI"),
        (0x2b, "VMAPI"),
        (0x2d, "VINVALL"),
        (0x2e, "INVDB"),
    ] {
        let command = Command::decode([opcode, 0, 0, 0]);
        assert_eq!(command.name(), name);
        bench.run(&[command]);
    }
    assert_eq!(bench.its.counters().refused(CommandError::Virtual), 9);
    for opcode in [0x20, 0x24, 0x26, 0x28, 0x2c, 0x2f, 0x00, 0x02, 0x10, 0xff] {
        let command = Command::decode([opcode, 0, 0, 0]);
        assert!(matches!(command, Command::Unknown { .. }), "{opcode:#x}");
    }
}

#[test]
fn reset_forgets_everything_but_what_was_counted() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0), int(5, 5)]);
    let mut cache = TranslationCache::new();
    assert!(cache.translate(&bench.its, &bench.ram, DeviceId(0), EventId(0)).is_ok());
    bench.its.reset();
    assert_eq!(bench.its.counters().commands, 4);
    assert_eq!(bench.its.counters().refused(CommandError::Int), 1);
    let values: Vec<u64> =
        [0x80, 0x88, 0x90, 0x100, 0x108].map(|at| bench.its.peek(at, 8)).to_vec();
    assert_eq!(values, [0, 0, 0, 0x0107_0000_0000_0200, 0x0407_0000_0000_0200]);
    assert_eq!(bench.its.peek(0, 4), 0x8000_0000);
    let cached = cache.translate(&bench.its, &bench.ram, DeviceId(0), EventId(0));
    assert_eq!(cached, Err(Blocked::Disabled));
}

#[test]
fn a_remembered_translation_is_one_of_its_device_event_and_time() {
    let mut bench = Bench::new(Config::new());
    let itt = |device: u32| 0x4600_0000 + u64::from(device) * 0x1_0000;
    let mapd = |device: u32| {
        let (id, itt) = (DeviceId(device), itt(device));
        Command::Mapd { device: id, size: 11, itt, valid: true }
    };
    bench.run(&[mapc(0, 0), mapd(0), mapd(1)]);
    for event in 0..2048 {
        bench.run(&[mapti(0, event, 8192 + event, 0), mapti(1, event, 20_000 + event, 0)]);
    }
    let mut cache = TranslationCache::new();
    for round in 0..2 {
        // Twice as many of each device as there are places, so they push one another out.
        for (device, first) in [(0, 8192), (1, 20_000)] {
            for event in (0..2048).chain((0..2048).rev()) {
                let (id, at) = (DeviceId(device), EventId(event));
                let to = cache.translate(&bench.its, &bench.ram, id, at).unwrap().0;
                assert_eq!(to.intid(), first + event, "round {round}");
            }
        }
    }
    // What is remembered is not looked up: this table entry was changed behind the ITS's back.
    let (id, at) = (DeviceId(1), EventId(0));
    bench.ram.write(itt(1), &(9000u64 << 16).to_le_bytes()).unwrap();
    assert_eq!(cache.translate(&bench.its, &bench.ram, id, at).unwrap().0.intid(), 20_000);
    bench.run(&[mapc(3, 0)]);
    assert_eq!(cache.translate(&bench.its, &bench.ram, id, at).unwrap().0.intid(), 9000);
}

#[test]
fn devices_that_share_a_place_in_the_cache_do_not_share_a_translation() {
    let mut bench = Bench::new(Config::new());
    let itt = |device: u32| 0x4600_0000 + u64::from(device) * 0x100;
    bench.run(&[mapc(0, 0)]);
    // More devices than the cache has places, all with the same event.
    for device in 0..2048 {
        let (id, itt) = (DeviceId(device), itt(device));
        let mapd = Command::Mapd { device: id, size: 0, itt, valid: true };
        bench.run(&[mapd, mapti(device, 1, 8192 + device, 0)]);
    }
    let mut cache = TranslationCache::new();
    for device in (0..2048).chain((0..2048).rev()) {
        let to = cache.translate(&bench.its, &bench.ram, DeviceId(device), EventId(1));
        assert_eq!(to.unwrap().0.intid(), 8192 + device);
    }
}

#[test]
fn a_16_bit_signal_is_an_event_of_16_bits() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 3, 8192, 0)]);
    let mut cache = TranslationCache::new();
    let mut signal = |size, data| {
        let (ram, sink) = (&bench.ram, &mut bench.redist.sink(&bench.ram));
        let plain = bench.its.msi(ram, sink, DeviceId(0), size, data);
        let cached = bench.its.msi_cached(&mut cache, ram, sink, DeviceId(0), size, data);
        assert_eq!(plain, cached);
        plain.map(|(lpi, _)| lpi.intid())
    };
    // What is on the other half of the bus is not part of the data.
    assert_eq!(signal(2, 0xabcd_0003), Ok(8192));
    assert_eq!(signal(4, 3), Ok(8192));
    assert_eq!(signal(4, 0x1_0003), Err(Blocked::Event));
    for size in [0, 1, 3, 8] {
        assert_eq!(signal(size, 3), Err(Blocked::Size));
    }
    assert_eq!(bench.its.counters().blocked(Blocked::Size), 8);
    assert_eq!(bench.its.counters().signals, 4);
}

#[test]
fn the_first_event_a_device_does_not_have_is_no_event() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 3, 8192, 0)]);
    // What is behind the translation table is not looked at, and could be anything.
    let stray = 1u64 << 48 | 8200 << 16;
    bench.ram.write(ITT + 4 * 8, &stray.to_le_bytes()).unwrap();
    assert!(bench.signal(0, 3).is_ok());
    assert_eq!(bench.signal(0, 4), Err(Blocked::Event));
    for (command, error) in [
        (int(0, 4), CommandError::Int),
        (Command::Clear { device: DeviceId(0), event: EventId(4) }, CommandError::Clear),
        (Command::Inv { device: DeviceId(0), event: EventId(4) }, CommandError::Inv),
        (Command::Discard { device: DeviceId(0), event: EventId(4) }, CommandError::Discard),
        (mapti(0, 4, 8192, 0), CommandError::MaptiEvent),
    ] {
        bench.run(&[command]);
        assert_eq!(bench.its.counters().refused(error), 1, "{command}");
    }
    assert_eq!(bench.number(ITT + 4 * 8), stray, "nor written");
}

#[test]
fn every_register_has_its_name() {
    for (offset, name) in [
        (0x0, "GITS_CTLR"),
        (0x88, "GITS_CWRITER"),
        (0x8c, "GITS_CWRITER"),
        (0x138, "GITS_BASER7"),
        (0x1_0040, "GITS_TRANSLATER"),
        (0x1_0042, "GITS_TRANSLATER"),
    ] {
        assert_eq!(Its::register_name(offset), Some(name));
    }
    assert_eq!((Its::register_name(0x1_0044), Its::register_name(0x200)), (None, None));
}

#[test]
fn mapti_honours_propbaser_only_if_configured() {
    for (check_propbaser, refused) in [(true, 1), (false, 0)] {
        let mut bench = Bench::new(Config { check_propbaser, ..Config::new() });
        for cpu in 0..4 {
            bench.redistributor(cpu, 0, 0);
            bench.redistributor(cpu, 0x70, CONFIG | 13);
            bench.redistributor(cpu, 0, 1);
        }
        bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 16_384, 0), int(0, 0)]);
        assert_eq!(bench.its.counters().refused(CommandError::MaptiIntid), refused);
        assert_eq!(bench.pending(0), [], "beyond IDbits nothing becomes pending");
    }
}

#[test]
fn mapti_takes_what_any_redistributor_takes() {
    // Processors differ, and the collection may be mapped to another one later.
    let mut bench = Bench::new(Config::new());
    for (cpu, id_bits) in [(0, 13), (1, 15), (2, 14)] {
        bench.redistributor(cpu, 0, 0);
        bench.redistributor(cpu, 0x70, CONFIG | id_bits);
    }
    bench.redistributor(3, 0, 0);
    bench.redistributor(3, 0x70, 0);
    bench.run(&[mapc(0, 1), mapd(0, 1), mapti(0, 0, 65_535, 0)]);
    assert_eq!(bench.its.counters().all_refused(), 0);
    bench.redistributor(1, 0x70, CONFIG | 13);
    bench.run(&[mapti(0, 1, 32_767, 0), mapti(0, 1, 32_768, 0)]);
    assert_eq!(bench.its.counters().all_refused(), 1, "14 is the most now: 32,768 is beyond");
    for cpu in 0..3 {
        bench.redistributor(cpu, 0x70, CONFIG | 12);
    }
    bench.run(&[mapti(0, 1, 8192, 0)]);
    assert_eq!(bench.its.counters().refused(CommandError::MaptiIntid), 2, "none has LPIs");
}

#[test]
fn a_collection_unmapped_and_mapped_again_still_has_its_events() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(3, 0), mapd(0, 1), mapti(0, 0, 8192, 3)]);
    let unmap = Command::Mapc {
        collection: gicv3_its::CollectionId(3),
        target: gicv3_its::command::RdBase(0xffff),
        valid: false,
    };
    bench.run(&[unmap]);
    assert_eq!(bench.signal(0, 0), Err(Blocked::Collection));
    bench.run(&[mapc(3, 2)]);
    assert_eq!(bench.signal(0, 0).map(|(_, target)| target), Ok(Target(2)));
}

#[test]
fn remembered_translations_are_void_after_every_command_that_could_change_them() {
    let mut bench = Bench::new(Config::new());
    let mut cache = TranslationCache::new();
    let moved = Command::Movi {
        device: DeviceId(0),
        event: EventId(0),
        collection: gicv3_its::CollectionId(1),
    };
    let discard = Command::Discard { device: DeviceId(0), event: EventId(0) };
    bench.run(&[mapc(0, 0), mapc(1, 1), mapd(0, 1)]);
    for command in [
        mapti(0, 0, 8192, 0),
        moved,
        mapc(1, 2),
        mapti(0, 0, 8200, 1),
        unmapd(0),
        mapd(0, 1),
        discard,
        mapti(0, 0, 8192, 0),
    ] {
        bench.run(&[command]);
        for _ in 0..2 {
            let plain = bench.its.translate(&bench.ram, DeviceId(0), EventId(0));
            let cached = cache.translate(&bench.its, &bench.ram, DeviceId(0), EventId(0));
            assert_eq!(plain, cached, "after {command}");
        }
    }
    let _idle = bench.write32(0, 0);
    let cached = cache.translate(&bench.its, &bench.ram, DeviceId(0), EventId(0));
    assert_eq!(cached, Err(Blocked::Disabled));
}

#[test]
fn disabling_lpis_writes_the_pending_table_back_and_leaves_the_first_kib() {
    let mut bench = Bench::new(Config::new());
    bench.ram.write(PENDING, &[0x5a; 1024]).unwrap();
    bench.run(&[mapc(0, 0), mapd(0, 3), mapti(0, 0, 8192, 0), mapti(0, 1, 65_535, 0)]);
    bench.run(&[int(0, 0), int(0, 1)]);
    bench.redistributor(0, 0, 0);
    assert_eq!(bench.number(PENDING + 1024), 1);
    assert_eq!(bench.number(PENDING + 8184), 1 << 63);
    assert_eq!(bench.number(PENDING + 1016), 0x5a5a_5a5a_5a5a_5a5a);
    bench.run(&[int(0, 1), SYNC]);
    bench.redistributor(0, 0, 1);
    assert_eq!(bench.pending(0), [8192, 65_535]);
    // A table that is said to be zero is not read.
    bench.redistributor(0, 0, 0);
    bench.redistributor(0, 0x78, PENDING | 1 << 62);
    assert_eq!(bench.redist.read(Target(0), 0x78, 8), PENDING, "PTZ reads zero");
    bench.redistributor(0, 0, 1);
    assert_eq!(bench.pending(0), []);
}

#[test]
fn configuration_bytes_are_kept_until_they_are_invalidated() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 3), mapti(0, 0, 8192, 0), mapti(0, 1, 8193, 0)]);
    bench.ram.write(CONFIG, &[0xa2, 0xa2]).unwrap();
    bench.run(&[int(0, 0), int(0, 1)]);
    assert_eq!(bench.next_lpi(0), None);
    bench.ram.write(CONFIG, &[0xa3, 0x83]).unwrap();
    assert_eq!(bench.next_lpi(0), None, "nobody said that they changed");
    bench.run(&[int(0, 0)]);
    assert_eq!(bench.next_lpi(0), None, "pending already, nothing new");
    let inv = Command::Inv { device: DeviceId(0), event: EventId(0) };
    bench.run(&[inv]);
    assert_eq!(bench.next_lpi(0), Some(8192), "one of them did");
    bench.redistributor(0, 0xa0, 8191);
    bench.redistributor(0, 0xa0, 0xffff_ffff);
    assert_eq!(bench.next_lpi(0), Some(8192), "no LPI, no effect");
    bench.redistributor(0, 0xa0, 8193);
    assert_eq!(bench.next_lpi(0), Some(8193), "the other one too, and it has priority");
    bench.ram.write(CONFIG, &[0x03, 0x02]).unwrap();
    bench.redistributor(0, 0xb0, 0);
    assert_eq!(bench.next_lpi(0), Some(8192));
}

#[test]
fn tables_of_64_kib_pages_have_52_address_bits() {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | DEVICES | 0x1000 | 0x200);
    let _idle = bench.write32(0, 1);
    bench.run(&[mapd(0, 1)]);
    assert_eq!(bench.its.counters().refused(CommandError::TableMemory), 1, "1 << 48 is not RAM");
}

#[test]
fn a_table_longer_than_its_numbers_does_not_make_more_of_them() {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | 0x4600_0000 | 0x20f);
    let _idle = bench.write32(0, 1);
    bench.run(&[mapd(0xffff, 1), mapd(0x1_0000, 1)]);
    assert_eq!(bench.its.counters().refused(CommandError::MapdDevice), 1);
}

#[test]
fn lpis_are_of_the_lower_half_where_there_are_two_security_states() {
    let mut bench = Bench::new(Config::new());
    let config = RedistConfig { two_security_states: true, ..RedistConfig::default() };
    bench.redist = Redistributors::new(config, [typer(0, 1)]);
    for (offset, value) in [(0x70, CONFIG | 15), (0x78, PENDING), (0, 1)] {
        bench.redistributor(0, offset, value);
    }
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0), int(0, 0)]);
    let next = bench.redist.next(Target(0), &bench.ram).unwrap();
    assert_eq!((next.lpi.intid(), next.priority), (8192, 0xa0 >> 1 | 0x80));
}

#[test]
fn the_tables_of_lpis_do_not_change_while_they_are_enabled() {
    let mut bench = Bench::new(Config::new());
    bench.redistributor(0, 0x70, 0);
    bench.redistributor(0, 0x78, 0);
    let read = |bench: &mut Bench, at| bench.redist.read(Target(0), at, 8);
    assert_eq!((read(&mut bench, 0x70), read(&mut bench, 0x78)), (CONFIG | 15, PENDING));
}

#[test]
fn kvms_identity_lets_only_kvms_bits_stick() {
    let mut bench = Bench::reset(Config::kvm());
    assert_eq!((bench.read(8, 8), bench.read(4, 4)), (0x1_ef71, 0x4b00_043b));
    let _idle = bench.write(0x108, VALID | 1 << 62 | COLLECTIONS | 0x100);
    assert_eq!(bench.read(0x108, 8) >> 62, 2, "no indirect collections");
    assert_eq!(bench.read(0x108, 8) >> 8 & 3, 2, "64 KiB pages");
    let _idle = bench.write(0x80, VALID | 2 << 10 | (QUEUE + 0x3000));
    let cbaser = bench.read(0x80, 8);
    assert_eq!((cbaser & 0xff_ffff_f000, cbaser >> 10 & 3), (QUEUE, 1));
    // Inner cacheability: device and non-cacheable become write-back; outer: as inner, or none.
    for (inner, kept) in [(0, 5), (1, 5), (2, 2), (3, 3), (5, 5), (7, 7)] {
        for (outer, kept_outer) in [(0, 0), (1, 1), (2, 0), (5, 0), (7, 0)] {
            let attributes = inner << 59 | outer << 53;
            let _idle = bench.write(0x80, VALID | QUEUE | attributes);
            let _idle = bench.write(0x100, VALID | DEVICES | attributes);
            for offset in [0x80, 0x100] {
                let value = bench.read(offset, 8);
                assert_eq!((value >> 59 & 7, value >> 53 & 7), (kept, kept_outer));
            }
        }
    }
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let good = Config::new();
    let typer = good.typer;
    for (config, error) in [
        (Config { typer: typer.with_virtual_lpis(true), ..good }, ConfigError::Virtual),
        (Config { typer: typer.with_pta(true), ..good }, ConfigError::Targets),
        (Config { typer: typer.with_itt_entry_size(6), ..good }, ConfigError::EntrySize),
        (Config { typer: typer.with_id_bits(16), ..good }, ConfigError::Bits),
        (Config { iidr: 0x1000, ..good }, ConfigError::Revision),
        (Config { budget: 0, ..good }, ConfigError::Budget),
    ] {
        assert_eq!(Its::new(config).err(), Some(error));
    }
}

#[test]
fn the_report_shows_devices_collections_and_refusals() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 1), mapd(2, 1), mapti(2, 3, 8200, 0), int(9, 9), int(2, 3)]);
    let _blocked = bench.signal(2, 1);
    let report = bench.its.report(&bench.ram, 1 << 20);
    assert_eq!(report.devices.len(), 1);
    let text = report.to_string();
    for part in [
        "ITS enabled, CREADR 0xa0, CWRITER 0xa0",
        &format!("0x2         4 events at {:#x}, 1 mapped", ITT + 0x2000),
        "refused: 0x010307 INT: event or its collection not mapped",
        "blocked: 0x030003 event not mapped",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(bench.its.report(&bench.ram, 3).truncated);
}

#[test]
fn the_linter_finds_what_works_here_by_luck() {
    let mut linter = Linter::new();
    let mut judge = |command: Command| linter.decoded(&command);
    let (device, event) = (DeviceId(1), EventId(0));
    let inv = Command::Inv { device, event };
    assert_eq!(judge(mapti(1, 0, 8192, 0)), [Finding::UnmappedDevice(device)]);
    assert_eq!(judge(mapd(1, 0)), []);
    assert_eq!(judge(inv), [Finding::UnmappedEvent(device, event)]);
    let collection = gicv3_its::CollectionId(0);
    assert_eq!(judge(mapti(1, 0, 8192, 0)), [Finding::UnmappedCollection(collection)]);
    assert_eq!(judge(mapc(0, 0)), []);
    assert_eq!(judge(mapti(1, 0, 8193, 0)), [Finding::Remapped(device, event)]);
    assert_eq!(
        judge(mapti(1, 1, 8193, 0)),
        [Finding::SharedLpi(gicv3_its::Lpi::new(8193).unwrap())]
    );
    assert_eq!(judge(mapti(1, 2, 8193, 0)), [Finding::EventOutOfRange(device, EventId(2))]);
    assert_eq!(judge(mapc(0, 1)), [Finding::PendingLeftBehind(collection)]);
    assert_eq!(judge(unmapd(1)), [Finding::EventsLeft(device, 2)]);
    assert_eq!(judge(SYNC), [Finding::SyncOfNobody(gicv3_its::command::RdBase(0))]);
    let overlap = Command::Mapd { device: DeviceId(3), size: 9, itt: ITT, valid: true };
    assert_eq!(judge(mapd(0, 1)), []);
    assert_eq!(judge(overlap), [Finding::OverlappingTables(DeviceId(3), DeviceId(0))]);
    assert_eq!(judge(mapti(0, 0, 8300, 0)), []);
    assert_eq!(linter.signal(DeviceId(0), event), [Finding::NoSync(DeviceId(0), event)]);
    let sync = Command::Sync { target: gicv3_its::command::RdBase(1) };
    assert_eq!(linter.decoded(&sync), []);
    assert_eq!(linter.signal(DeviceId(0), event), []);
    let mut words = sync.encode();
    words[1] = 1;
    assert_eq!(linter.command(words), [Finding::ReservedBits]);
}

#[test]
fn what_the_new_target_can_not_have_pending_stays_with_the_old_one() {
    let mut bench = Bench::new(Config { check_propbaser: false, ..Config::new() });
    bench.redistributor(1, 0, 0);
    bench.redistributor(1, 0x70, CONFIG | 13);
    bench.redistributor(1, 0, 1);
    bench.run(&[mapc(0, 0), mapc(1, 1), mapd(0, 1), mapti(0, 0, 8192, 0), mapti(0, 1, 16_384, 0)]);
    let movi = Command::Movi {
        device: DeviceId(0),
        event: EventId(1),
        collection: gicv3_its::CollectionId(1),
    };
    let (from, to) = (gicv3_its::command::RdBase(0), gicv3_its::command::RdBase(1));
    bench.run(&[int(0, 0), int(0, 1), movi]);
    assert_eq!((bench.pending(0), bench.pending(1)), (vec![8192, 16_384], vec![]));
    bench.run(&[Command::Movall { from, to }]);
    assert_eq!((bench.pending(0), bench.pending(1)), (vec![16_384], vec![8192]));
}

#[test]
fn a_half_of_a_register_replaces_that_half() {
    let mut bench = Bench::reset(Config::new());
    for (offset, mask) in [(0x100, 0x0000_ffff_ffff_0000u64), (0x80, 0x000f_ffff_ffff_f000)] {
        for value in [0x0005_5555_5555_5000, 0x000a_aaaa_aaaa_a000, 0] {
            let _idle = bench.write32(offset, value & 0xffff_ffff);
            let _idle = bench.write32(offset + 4, value >> 32);
            assert_eq!(bench.its.peek(offset, 8) & mask, value & mask, "{offset:#x}");
        }
    }
}
