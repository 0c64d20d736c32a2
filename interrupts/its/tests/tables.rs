//! Where entries are: flat and two-level tables of all page sizes, entry by entry.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::command::Command;
use gicv3_its::{CommandError, Config, DeviceId, GuestMemory, Its, RestoreError};
use support::{Bench, DEVICES, ITT, VALID, mapc, mapd, mapti};

const TABLE: u64 = 0x4710_0000;
const LEVEL2: u64 = 0x4720_0000;

fn with_devices(baser: u64) -> Bench {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | baser);
    let _idle = bench.write32(0, 1);
    bench
}

fn mapped(bench: &mut Bench, device: u32) -> bool {
    let refused = bench.its.counters().refused(CommandError::MapdDevice);
    bench.run(&[mapd(device, 1)]);
    bench.its.counters().refused(CommandError::MapdDevice) == refused
}

#[test]
fn a_flat_table_begins_where_its_page_does_and_ends_with_it() {
    for (page_size, bytes, odd) in
        [(0, 0x1000, 0x1000), (1, 0x4000, 0x4000), (2, 0x1_0000, 0x1_0000), (3, 0x1_0000, 0)]
    {
        for pages in [1, 3] {
            let table = TABLE + odd;
            let mut bench = with_devices(table | page_size << 8 | (pages - 1));
            let last = u32::try_from(pages * bytes / 8 - 1).unwrap();
            for device in [0, 1, last] {
                assert!(mapped(&mut bench, device), "{device} of {bytes:#x}");
                assert_eq!(bench.number(table + u64::from(device) * 8) >> 63, 1);
            }
            assert!(!mapped(&mut bench, last + 1), "{last} is the last of {bytes:#x}");
        }
    }
}

#[test]
fn a_two_level_table_has_its_entries_side_by_side_in_the_page_of_their_number() {
    for (page_size, bytes) in [(0, 0x1000u64), (1, 0x4000), (2, 0x1_0000)] {
        let mut bench = with_devices(1 << 62 | TABLE | page_size << 8);
        let per_page = u32::try_from(bytes / 8).unwrap();
        for n in [0, 1, 3] {
            let entry = VALID | (LEVEL2 + n * bytes);
            bench.ram.write(TABLE + n * 8, &entry.to_le_bytes()).unwrap();
        }
        for device in [0, 1, 2, per_page - 1, per_page, 3 * per_page + 1] {
            assert!(mapped(&mut bench, device), "{device} of {bytes:#x}");
            let entry = bench.number(LEVEL2 + u64::from(device) * 8);
            assert_eq!(entry >> 63, 1, "{device} of {bytes:#x}");
        }
        assert!(!mapped(&mut bench, 2 * per_page), "that page is not there");
        // An entry in the first page comes to no other one's harm.
        let unmap = Command::Mapd { device: DeviceId(1), size: 0, itt: 0, valid: false };
        bench.run(&[unmap]);
        assert_eq!(bench.number(LEVEL2 + 8), 0);
        assert_eq!(bench.number(LEVEL2) >> 63, 1);
        assert_eq!(bench.number(LEVEL2 + 16) >> 63, 1);
    }
}

#[test]
fn the_first_level_ends_with_its_pages_and_device_ids_with_their_bits() {
    // 512 entries of 512 devices each are more than 16 bits can say; a first level of one page
    // whose pages have 512 entries would reach to 2^18.
    let mut bench = with_devices(1 << 62 | TABLE);
    for n in 0..512u64 {
        bench.ram.write(TABLE + n * 8, &(VALID | LEVEL2).to_le_bytes()).unwrap();
    }
    assert!(mapped(&mut bench, 0xffff));
    assert!(!mapped(&mut bench, 0x1_0000));
    let narrow = Config { typer: Config::new().typer.with_device_bits(8), ..Config::new() };
    let mut bench = Bench::new(narrow);
    assert!(mapped(&mut bench, 511));
    assert!(!mapped(&mut bench, 512));
}

#[test]
fn what_is_behind_a_hole_in_the_first_level_is_found_by_saves_restores_and_reports() {
    let config = Config { check_propbaser: false, ..Config::kvm() };
    let mut bench = Bench::new(config);
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | 1 << 62 | TABLE | 0x200);
    let _idle = bench.write32(0, 1);
    // Pages of 8192 entries: the first and the last but one of 16 bits of DeviceIDs.
    for n in [0, 6] {
        let entry = VALID | (LEVEL2 + n * 0x1_0000);
        bench.ram.write(TABLE + n * 8, &entry.to_le_bytes()).unwrap();
    }
    let itt = 0x4600_0000;
    let mut commands = vec![mapc(0, 0)];
    for (n, device) in [(0, 3), (1, 6 * 8192), (2, 7 * 8192 - 1)] {
        let itt = itt + n * 0x1000;
        commands.push(Command::Mapd { device: DeviceId(device), size: 1, itt, valid: true });
        commands.push(mapti(device, 2, 8192 + u32::try_from(n).unwrap(), 0));
    }
    // An event of a collection nobody mapped is what a save must note.
    commands.push(mapti(6 * 8192, 1, 8200, 9));
    bench.run(&commands);
    assert_eq!(bench.its.counters().all_refused(), 0);
    let report = bench.its.report(&bench.ram, 1 << 20);
    let devices: Vec<u32> = report.devices.iter().map(|one| one.device.0).collect();
    assert_eq!(devices, [3, 6 * 8192, 7 * 8192 - 1]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let mut to = Bench { its: Its::new(config).unwrap(), ..bench.clone() };
    let _idle = to.its.restore(&state, &to.ram, &mut to.redist.sink(&to.ram)).unwrap();
    for device in [3, 6 * 8192, 7 * 8192 - 1] {
        assert_eq!(to.signal(device, 2), bench.signal(device, 2));
    }
    assert!(to.its.collections().any(|(id, target)| id.0 == 9 && target.is_none()));
    // What is behind the hole is checked, too.
    to.ram.write(itt + 0x1000 + 8, &(5u64 << 16).to_le_bytes()).unwrap();
    let refused = to.its.restore(&state, &to.ram, &mut to.redist.sink(&to.ram));
    assert_eq!(refused, Err(RestoreError::Interrupt));
}

#[test]
fn a_table_that_is_not_valid_has_no_entries() {
    let mut bench = with_devices(TABLE);
    assert!(mapped(&mut bench, 5));
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, TABLE);
    let _idle = bench.write32(0, 1);
    assert!(!bench.its.enabled(), "nor can it be used");
}

/// 4 KiB of pointers to pages of 4 KiB: 512 times 512 entries, fewer than 20 bits of DeviceID name.
#[test]
fn a_two_level_table_has_as_many_entries_as_its_first_level_leads_to() {
    let mut config = Config::new();
    config.typer = config.typer.with_device_bits(19);
    let mut bench = Bench::new(config);
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | 1 << 62 | DEVICES);
    let _idle = bench.write32(0, 1);
    let page = 0x4280_0000u64;
    bench.ram.write(DEVICES + 511 * 8, &(VALID | page).to_le_bytes()).unwrap();
    // What is behind the first level is not a part of it.
    bench.ram.write(DEVICES + 512 * 8, &(VALID | page).to_le_bytes()).unwrap();
    let mapd = |device| Command::Mapd { device: DeviceId(device), size: 1, itt: ITT, valid: true };
    bench.run(&[mapd(0x3_ffff)]);
    assert_eq!(bench.its.counters().all_refused(), 0);
    assert_ne!(bench.number(page + 511 * 8), 0);
    bench.run(&[mapd(0x4_0000)]);
    assert_eq!(bench.its.counters().all_refused(), 1);
    assert_eq!(bench.number(page), 0);
}
