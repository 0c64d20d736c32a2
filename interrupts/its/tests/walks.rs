//! What saves and restores write into a driver's tables, and what they leave alone.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::{CommandError, Config, Dte, GuestMemory, Ite, Its, RestoreError, State};
use support::{Bench, DEVICES, ITT, VALID, mapc, mapd, mapti};

fn restore(bench: &mut Bench, state: &State) -> Result<(), RestoreError> {
    let mut its = Its::new(*bench.its.config()).unwrap();
    its.restore(state, &bench.ram, &mut bench.redist.sink(&bench.ram)).map(|_| ())
}

fn put(bench: &Bench, address: u64, value: u64) {
    bench.ram.write(address, &value.to_le_bytes()).unwrap();
}

#[test]
fn a_restore_that_is_refused_has_written_nothing() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapti(0, 0, 8192, 0)]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    // An entry without an INTID, which a restore would clear; one that no LPI is in; and a device
    // whose `next` it would set.
    let vacant = Ite::new().with_collection(3).with_next(1).into_bits();
    let none = Ite::new().with_intid(70).with_next(0).into_bits();
    let device = Dte::from_bits(bench.number(DEVICES)).with_next(0).into_bits();
    for (address, value) in [(ITT + 8, vacant), (ITT + 24, none), (DEVICES, device)] {
        put(&bench, address, value);
    }
    assert_eq!(restore(&mut bench, &state), Err(RestoreError::Interrupt));
    let left = [ITT + 8, ITT + 24, DEVICES].map(|address| bench.number(address));
    assert_eq!(left, [vacant, none, device]);
    // Without the one that is wrong it does.
    put(&bench, ITT + 24, 0);
    assert_eq!(restore(&mut bench, &state), Ok(()));
    assert_eq!([ITT + 8, ITT + 24].map(|address| bench.number(address)), [0, 0]);
    assert_eq!(Dte::from_bits(bench.number(DEVICES)).next(), 1);
}

#[test]
fn entries_of_a_long_table_are_mended_in_their_place() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 7)]);
    for event in [0, 63, 64, 70, 255] {
        bench.run(&[mapti(0, event, 8192 + event, 0)]);
    }
    let good: Vec<u64> = (0..256).map(|event| bench.number(ITT + event * 8)).collect();
    let vacant = Ite::new().with_collection(3).with_next(1).into_bits();
    for event in [1, 62, 65, 128, 254] {
        put(&bench, ITT + event * 8, vacant);
    }
    bench.its.save(&bench.ram, 4).unwrap();
    assert!((0..256).map(|event| bench.number(ITT + event * 8)).eq(good));
    assert_eq!(bench.number(ITT + 256 * 8), 0);
}

#[test]
fn what_kvm_jumps_over_is_cleared_by_a_restore_and_by_nothing_else() {
    let mut bench = Bench::new(Config::kvm());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapd(1, 1), mapd(2, 1)]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let jump = Dte::from_bits(bench.number(DEVICES)).with_next(2).into_bits();
    put(&bench, DEVICES, jump);
    let over = bench.number(DEVICES + 8);
    assert_ne!(over, 0);
    bench.its.save(&bench.ram, 4).unwrap();
    assert_eq!(bench.number(DEVICES + 8), over, "a save takes every entry for itself");
    put(&bench, DEVICES, jump);
    // Refused by what comes after it.
    let wide = Dte::from_bits(bench.number(DEVICES + 16)).with_size(16).into_bits();
    let narrow = bench.number(DEVICES + 16);
    put(&bench, DEVICES + 16, wide);
    assert_eq!(restore(&mut bench, &state), Err(RestoreError::Device));
    assert_eq!(bench.number(DEVICES + 8), over);
    put(&bench, DEVICES + 16, narrow);
    assert_eq!(restore(&mut bench, &state), Ok(()));
    assert_eq!(bench.number(DEVICES + 8), 0);
    assert_ne!(bench.number(DEVICES + 16), 0);
}

#[test]
fn a_device_whose_events_are_not_in_ram_is_taken_out_by_a_save_and_refused_by_a_restore() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapd(0, 1), mapd(1, 1), mapti(1, 0, 8192, 0)]);
    let state = bench.its.save(&bench.ram, 4).unwrap();
    let outside = Dte::from_bits(bench.number(DEVICES)).with_itt(0x9000_0000 >> 8).into_bits();
    put(&bench, DEVICES, outside);
    assert_eq!(restore(&mut bench, &state), Err(RestoreError::Memory));
    assert_eq!(bench.number(DEVICES), outside);
    // Its commands say that it is no mistake of the driver's numbers.
    bench.run(&[mapti(0, 0, 8193, 0)]);
    let collection = gicv3_its::CollectionId(0);
    let (device, event) = (gicv3_its::DeviceId(0), gicv3_its::EventId(0));
    bench.run(&[gicv3_its::command::Command::Movi { device, event, collection }]);
    assert_eq!(bench.its.counters().refused(CommandError::TableMemory), 2);
    assert_eq!(bench.its.counters().all_refused(), 2);
    assert!(bench.its.save(&bench.ram, 4).is_ok());
    assert_eq!(bench.number(DEVICES), 0);
    assert_ne!(bench.number(DEVICES + 8), 0);
}

#[test]
fn a_device_table_that_is_not_in_ram_is_told_from_one_without_the_device() {
    let mut bench = Bench::new(Config::new());
    let _idle = bench.write32(0, 0);
    let _idle = bench.write(0x100, VALID | 0x9000_0000 | 0x200);
    let _idle = bench.write32(0, 1);
    bench.run(&[mapti(0, 0, 8192, 0)]);
    assert_eq!(bench.its.counters().refused(CommandError::TableMemory), 1);
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapti(0, 0, 8192, 0)]);
    assert_eq!(bench.its.counters().refused(CommandError::MaptiDevice), 1);
}

/// Linux, `arch/arm64/kvm/vgic/vgic-mmio-v3.c`, `vgic_sanitise_shareability`: outer shareable becomes
/// inner shareable.
#[test]
fn kvm_has_no_outer_shareable_tables() {
    let mut bench = Bench::reset(Config::kvm());
    let shareability = [0u64, 1, 2].map(|field| {
        let _idle = bench.write(0x100, DEVICES | field << 10);
        bench.its.peek(0x100, 8) >> 10 & 3
    });
    assert_eq!(shareability, [0, 1, 1]);
}
