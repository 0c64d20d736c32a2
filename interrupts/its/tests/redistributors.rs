//! The `RD_base` frames, register by register.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::redist::regs::{CTLR_CES, CTLR_IR, Typer, typer};
use gicv3_its::redist::{RedistConfig, RedistributorState, Redistributors};
use gicv3_its::{Config, GuestMemory, Lpi, LpiSink, Target};
use support::ram::Ram;
use support::{Bench, CONFIG, PENDING, int, mapc, mapd, mapti};

const CPU0: Target = Target(0);

fn redistributors(features: u32) -> (Redistributors, Ram) {
    let config = RedistConfig { features, ..RedistConfig::default() };
    (Redistributors::new(config, [typer(0, 1)]), Ram::default())
}

#[test]
fn a_processor_sleeps_with_its_children() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    assert_eq!(redist.read(CPU0, 0x14, 4), 6, "after reset");
    redist.write(CPU0, 0x14, 4, 0xffff_fffd, &ram);
    assert_eq!(redist.read(CPU0, 0x14, 4), 0, "only ProcessorSleep can be written");
    redist.write(CPU0, 0x14, 4, 2, &ram);
    assert_eq!(redist.read(CPU0, 0x14, 4), 6);
}

#[test]
fn every_register_has_its_name() {
    for (offset, name) in [(0x0, "GICR_CTLR"), (0x74, "GICR_PROPBASER"), (0xffe8, "GICR_PIDR2")] {
        assert_eq!(Redistributors::register_name(offset), Some(name));
    }
    assert_eq!(Redistributors::register_name(0x200), None);
}

#[test]
fn ptz_is_said_with_the_upper_half_only() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    let lpi = Lpi::new(8193).unwrap();
    ram.write(PENDING + 1024, &[2]).unwrap();
    let mut pending = |writes: &[(u64, u32, u64)]| {
        for (offset, size, value) in [(0, 4, 0), (0x70, 8, CONFIG | 15)].iter().chain(writes) {
            redist.write(CPU0, *offset, *size, *value, &ram);
        }
        ram.write(PENDING + 1024, &[2]).unwrap();
        redist.write(CPU0, 0, 4, 1, &ram);
        redist.pending(CPU0, lpi, &ram)
    };
    assert!(pending(&[(0x78, 8, PENDING)]));
    assert!(!pending(&[(0x78, 8, PENDING | 1 << 62)]));
    assert!(!pending(&[(0x7c, 4, 1 << 30), (0x78, 4, PENDING)]), "the lower half says nothing");
    assert!(pending(&[(0x78, 4, PENDING), (0x7c, 4, 0)]));
    assert!(pending(&[(0x78, 8, PENDING), (0x7c, 4, 1 << 29)]), "bit 61 is another one");
}

#[test]
fn ptz_is_said_of_one_table_at_one_time() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    let lpi = Lpi::new(8193).unwrap();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING | 1 << 62)] {
        redist.write(CPU0, offset, size, value, &ram);
    }
    redist.write(CPU0, 0, 4, 1, &ram);
    redist.sink(&ram).set_pending(CPU0, lpi);
    redist.write(CPU0, 0, 4, 0, &ram);
    redist.write(CPU0, 0, 4, 1, &ram);
    assert_eq!(redist.all_pending(CPU0, &ram), [lpi], "what was written back is read again");
    // Nor does it outlive a reset, or come over with a saved state.
    redist.write(CPU0, 0, 4, 0, &ram);
    redist.write(CPU0, 0x78, 8, PENDING | 1 << 62, &ram);
    let mut states = [RedistributorState::default()];
    redist.save(&ram, &mut states).unwrap();
    for reset in [true, false] {
        if reset {
            redist.reset();
        } else {
            redist.write(CPU0, 0x78, 8, PENDING | 1 << 62, &ram);
            redist.restore(&states, &ram).unwrap();
        }
        redist.write(CPU0, 0x70, 8, CONFIG | 15, &ram);
        redist.write(CPU0, 0x78, 4, PENDING, &ram);
        redist.write(CPU0, 0, 4, 1, &ram);
        assert_eq!(redist.all_pending(CPU0, &ram), [lpi], "reset: {reset}");
        redist.write(CPU0, 0, 4, 0, &ram);
    }
}

#[test]
fn an_lpi_whose_configuration_byte_is_not_in_ram_is_not_enabled() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    ram.write(PENDING + 1024, &[2]).unwrap();
    for (offset, size, value) in [(0x70, 8, 0x9000_0000 | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        redist.write(CPU0, offset, size, value, &ram);
    }
    let (loaded, new) = (Lpi::new(8193).unwrap(), Lpi::new(8300).unwrap());
    assert_eq!(redist.all_pending(CPU0, &ram), [loaded]);
    assert_eq!(redist.next(CPU0, &ram), None, "looked for");
    redist.sink(&ram).set_pending(CPU0, new);
    assert_eq!(redist.next(CPU0, &ram), None, "told when it became pending");
    redist.sink(&ram).invalidate_all(CPU0);
    assert_eq!(redist.next(CPU0, &ram), None);
    assert_eq!(redist.all_pending(CPU0, &ram), [loaded, new], "pending nevertheless");
}

#[test]
fn movall_reads_the_configuration_of_what_arrives_anew() {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(0, 0), mapc(1, 1), mapd(0, 1), mapti(0, 0, 8192, 1), mapti(0, 1, 8200, 1)]);
    // Processor 1 has seen both bytes, and has one of the LPIs pending.
    bench.run(&[int(0, 0), int(0, 1)]);
    assert_eq!(bench.next_lpi(1), Some(8192));
    bench.redist.acknowledge(Target(1), Lpi::new(8192).unwrap());
    bench.ram.write(CONFIG, &[0x41]).unwrap();
    bench.ram.write(CONFIG + 8, &[0x21]).unwrap();
    let mut sink = bench.redist.sink(&bench.ram);
    for intid in [8192, 8200] {
        sink.set_pending(Target(0), Lpi::new(intid).unwrap());
    }
    sink.move_all_pending(Target(0), Target(1));
    let next = bench.redist.next(Target(1), &bench.ram).unwrap();
    assert_eq!((next.priority, next.lpi.intid()), (0x40, 8192), "8200 was there and is 0xa0");
}

#[test]
fn an_lpi_has_six_bits_of_priority() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    ram.write(CONFIG, &[0xa7, 0xa3, 0x9f]).unwrap();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        redist.write(CPU0, offset, size, value, &ram);
    }
    for (intid, next) in [(8192, (0xa4, 8192)), (8193, (0xa0, 8193)), (8194, (0x9c, 8194))] {
        redist.sink(&ram).set_pending(CPU0, Lpi::new(intid).unwrap());
        let found = redist.next(CPU0, &ram).unwrap();
        assert_eq!((found.priority, found.lpi.intid()), next);
    }
}

#[test]
fn lpis_are_not_disabled_where_they_can_not_be_nor_enabled_where_there_are_none() {
    let (mut redist, ram) = redistributors(0);
    assert!(!redist.enabled(CPU0) && !redist.enabled(Target(1)));
    redist.write(CPU0, 0, 4, 1, &ram);
    assert!(redist.enabled(CPU0));
    redist.write(CPU0, 0, 4, 0, &ram);
    assert_eq!(redist.read(CPU0, 0, 4), 1, "CES is 0");
    let mut without = Redistributors::new(RedistConfig::default(), [Typer::new()]);
    without.write(CPU0, 0, 4, 1, &ram);
    assert_eq!(without.read(CPU0, 0, 4), u64::from(CTLR_CES | CTLR_IR), "PLPIS is 0");
}

#[test]
fn writing_enable_again_reads_no_table_again() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        redist.write(CPU0, offset, size, value, &ram);
    }
    ram.write(PENDING + 1024, &[2]).unwrap();
    redist.write(CPU0, 0, 4, 1, &ram);
    assert_eq!(redist.all_pending(CPU0, &ram), []);
    redist.sink(&ram).set_pending(CPU0, Lpi::new(8192).unwrap());
    redist.write(CPU0, 0, 4, 1, &ram);
    assert_eq!(redist.all_pending(CPU0, &ram), [Lpi::new(8192).unwrap()]);
}

#[test]
fn invalidation_by_register_is_there_if_ctlr_says_so_and_while_lpis_are_enabled() {
    for (features, offset, value, effect) in [
        (CTLR_CES | CTLR_IR, 0xa0, 8192, true),
        (CTLR_CES | CTLR_IR, 0xb0, 0, true),
        (CTLR_CES | CTLR_IR, 0xa4, 8192, false),
        (CTLR_CES | CTLR_IR, 0xb4, 0, false),
        (CTLR_CES | CTLR_IR, 0xa0, 8193, false),
        (CTLR_CES, 0xa0, 8192, false),
        (CTLR_CES, 0xb0, 0, false),
    ] {
        let (mut redist, ram) = redistributors(features);
        ram.write(CONFIG, &[0xa0]).unwrap();
        for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
            redist.write(CPU0, offset, size, value, &ram);
        }
        redist.sink(&ram).set_pending(CPU0, Lpi::new(8192).unwrap());
        ram.write(CONFIG, &[0xa1]).unwrap();
        assert_eq!(redist.next(CPU0, &ram), None);
        redist.write(CPU0, offset, 4, value, &ram);
        assert_eq!(redist.next(CPU0, &ram).is_some(), effect, "{features:#x} {offset:#x}");
        assert_eq!(redist.read(CPU0, offset, 4), 0);
        assert_eq!(redist.read(CPU0, 0xc0, 4), 0, "it is done");
    }
}

#[test]
fn a_new_lpi_is_next_at_once_if_its_byte_says_so() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    ram.write(CONFIG, &[0xa0, 0xa2, 0xa1, 0x81]).unwrap();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        redist.write(CPU0, offset, size, value, &ram);
    }
    assert_eq!(redist.next(CPU0, &ram), None);
    let steps =
        [(8192, None), (8193, None), (8194, Some((0xa0, 8194))), (8195, Some((0x80, 8195)))];
    for (intid, next) in steps {
        redist.sink(&ram).set_pending(CPU0, Lpi::new(intid).unwrap());
        let found = redist.next(CPU0, &ram).map(|next| (next.priority, next.lpi.intid()));
        assert_eq!(found, next, "after {intid}");
    }
}

#[test]
fn movall_moves_what_both_admit_and_leaves_what_was_there() {
    let mut bench = Bench::new(Config::new());
    let intids = [8192, 8255, 8256, 16_383, 16_384, 65_535];
    bench.run(&[mapc(0, 0), mapc(1, 1), mapd(0, 3), mapd(1, 3)]);
    for (event, intid) in (0..).zip(intids) {
        bench.run(&[mapti(0, event, intid, 0), int(0, event)]);
    }
    bench.run(&[mapti(1, 0, 8193, 1), int(1, 0), mapti(1, 1, 8192, 1), int(1, 1)]);
    bench.redistributor(1, 0, 0);
    bench.redistributor(1, 0x70, CONFIG | 13);
    bench.redistributor(1, 0, 1);
    // What arrives is looked up where it arrives.
    bench.ram.write(CONFIG + 63, &[0x03]).unwrap();
    let mut sink = bench.redist.sink(&bench.ram);
    sink.move_all_pending(Target(0), Target(1));
    sink.move_all_pending(Target(0), Target(9));
    sink.move_all_pending(Target(1), Target(1));
    assert_eq!(bench.pending(0), [16_384, 65_535]);
    assert_eq!(bench.pending(1), [8192, 8193, 8255, 8256, 16_383]);
    assert_eq!(bench.next_lpi(1), Some(8255), "it has the highest priority");
    assert_eq!(bench.next_lpi(0), Some(16_384));
}

#[test]
fn registers_have_a_width_and_an_alignment() {
    let (mut redist, ram) = redistributors(CTLR_CES | CTLR_IR);
    let mut bad = 0;
    for (offset, size, good) in [
        (0x0, 4, true),
        (0x0, 8, false),
        (0x0, 1, false),
        (0x2, 4, false),
        (0x2, 2, false),
        (0x70, 8, true),
        (0x70, 4, true),
        (0x74, 4, true),
        (0x74, 8, false),
        (0x72, 4, false),
        (0x70, 2, false),
        (0xfffc, 4, true),
        (0x1_0000, 4, false),
        (0x1_0000, 8, false),
    ] {
        redist.read(CPU0, offset, size);
        redist.write(CPU0, offset, size, 0, &ram);
        bad += if good { 0 } else { 2 };
        assert_eq!(redist.bad_accesses, bad, "{size} bytes at {offset:#x}");
    }
    redist.read(Target(1), 0, 4);
    assert_eq!(redist.bad_accesses, bad + 1, "there is one processor");
}

#[test]
fn a_disabled_redistributors_pending_bits_are_those_in_ram() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    let (first, second) = (Lpi::new(8192).unwrap(), Lpi::new(8193).unwrap());
    ram.write(PENDING + 1024, &[0b10]).unwrap();
    redist.write(CPU0, 0x70, 8, CONFIG | 15, &ram);
    assert!(!redist.pending(CPU0, second, &ram), "it has no table");
    redist.write(CPU0, 0x78, 8, PENDING, &ram);
    assert!(redist.pending(CPU0, second, &ram) && !redist.pending(CPU0, first, &ram));
    assert_eq!(redist.all_pending(CPU0, &ram), [second]);
    redist.write(CPU0, 0, 4, 1, &ram);
    redist.sink(&ram).set_pending(CPU0, first);
    redist.sink(&ram).clear_pending(CPU0, second);
    assert_eq!(redist.all_pending(CPU0, &ram), [first]);
    redist.write(CPU0, 0, 4, 0, &ram);
    assert_eq!(redist.all_pending(CPU0, &ram), [first], "written back");
}

/// RAM from address 0 on, all of it ones.
struct Ones;

impl GuestMemory for Ones {
    fn read(&self, _address: u64, data: &mut [u8]) -> Result<(), gicv3_its::MemoryError> {
        data.fill(0xff);
        Ok(())
    }

    fn write(&self, _address: u64, _data: &[u8]) -> Result<(), gicv3_its::MemoryError> {
        Ok(())
    }
}

#[test]
fn without_an_address_there_is_no_pending_table_even_where_there_is_ram() {
    let (mut redist, _) = redistributors(CTLR_CES);
    redist.write(CPU0, 0x70, 8, 0x1_0000 | 13, &Ones);
    // The bits beside the address are there.
    redist.write(CPU0, 0x78, 8, 7 << 56 | 3 << 10, &Ones);
    assert_eq!(redist.all_pending(CPU0, &Ones), []);
    redist.write(CPU0, 0x78, 8, 0x1_0000, &Ones);
    assert_eq!(redist.all_pending(CPU0, &Ones).len(), 8192);
}

#[test]
fn invlpir_has_one_configuration_byte_read_again() {
    let (mut redist, ram) = redistributors(CTLR_CES | CTLR_IR);
    ram.write(CONFIG, &[0xa2, 0xa2]).unwrap();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        redist.write(CPU0, offset, size, value, &ram);
    }
    let [first, second] = [8192, 8193].map(|intid| Lpi::new(intid).unwrap());
    redist.sink(&ram).set_pending(CPU0, first);
    redist.sink(&ram).set_pending(CPU0, second);
    assert_eq!(redist.next(CPU0, &ram), None, "both are disabled");
    ram.write(CONFIG, &[0xa3, 0xa3]).unwrap();
    redist.write(CPU0, 0xa0, 8, 8193, &ram);
    assert_eq!(redist.next(CPU0, &ram).map(|next| next.lpi), Some(second));
    redist.write(CPU0, 0xa4, 4, 8192, &ram);
    assert_eq!(redist.next(CPU0, &ram).map(|next| next.lpi), Some(second), "the upper half");
    redist.write(CPU0, 0xb0, 8, 0, &ram);
    assert_eq!(redist.next(CPU0, &ram).map(|next| next.lpi), Some(first), "INVALLR: both");
}

#[test]
fn lpis_end_where_the_largest_propbaser_says() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    for (id_bits, end) in [(0, 0), (11, 0), (12, 0), (13, 1 << 14), (14, 1 << 15), (15, 1 << 16)] {
        redist.write(CPU0, 0x70, 8, CONFIG | id_bits, &ram);
        assert_eq!(redist.sink(&ram).lpi_end(), end, "IDbits {id_bits}");
    }
}

#[test]
fn a_wakeful_processor_is_restored_as_one() {
    let (mut redist, ram) = redistributors(CTLR_CES);
    for waker in [0, 6] {
        redist.write(CPU0, 0x14, 4, waker, &ram);
        let mut states = [RedistributorState::default()];
        redist.save(&ram, &mut states).unwrap();
        let (mut other, _) = redistributors(CTLR_CES);
        other.restore(&states, &ram).unwrap();
        assert_eq!(other.read(CPU0, 0x14, 4), waker);
    }
}

#[test]
fn sixteen_processors_are_a_cluster() {
    for (number, affinity) in [(0, 0), (15, 0xf), (16, 0x100), (31, 0x10f), (255, 0xf0f)] {
        assert_eq!(typer(number, 256).affinity(), affinity, "{number}");
    }
    assert!(typer(15, 16).last() && !typer(14, 16).last());
}
