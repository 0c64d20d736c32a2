//! Recordings of real guests in `tests/recordings`, played into today's devices: whatever behaves in
//! another way is named. `cargo xtask test record` makes them again, in `build/recordings`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use trapline_device::Direction;
use trapline_machine::deliveries::LateWrites;
use trapline_machine::record::replay::{Fault, Options, replay};

fn recordings() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "trp")).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_recording_is_the_same_today() {
    let all = recordings();
    assert!(!all.is_empty());
    for (path, bytes) in all {
        let verdict = replay(Cursor::new(bytes), &Options::default()).unwrap();
        assert_eq!(verdict.difference, None, "{}", path.display());
        assert_eq!((verdict.incomplete, verdict.skipped), (None, 0), "{}", path.display());
        assert!(verdict.reads > 100 && verdict.outputs > 10, "{}", path.display());
    }
}

/// Registers that every boot of Linux on a PC reads or writes.
const BROKEN: [(&str, Direction, u64, &str); 20] = [
    ("serial0/uart LSR", Direction::Read, 0x20, "serial0/uart LSR"),
    ("serial0/uart IIR", Direction::Read, 1, "serial0/uart IIR"),
    ("serial0/uart IER", Direction::Read, 1, "serial0/uart IER"),
    ("serial0/uart MCR", Direction::Read, 8, "serial0/uart MCR"),
    ("serial0/uart MSR", Direction::Read, 0x80, "serial0/uart MSR"),
    ("serial0/uart LCR", Direction::Read, 1, "serial0/uart LCR"),
    ("serial2/uart LCR", Direction::Read, 1, "serial2/uart LCR"),
    ("serial0/uart THR", Direction::Write, 1, "console: bytes sent"),
    ("serial1/uart IIR", Direction::Read, 1, "serial1/uart IIR"),
    ("rtc/cmos RTC seconds", Direction::Read, 1, "rtc/cmos RTC seconds"),
    ("rtc/cmos RTC minutes", Direction::Read, 1, "rtc/cmos RTC minutes"),
    ("rtc/cmos RTC year", Direction::Read, 1, "rtc/cmos RTC year"),
    ("rtc/cmos Register A", Direction::Read, 0x10, "rtc/cmos Register A"),
    ("rtc/cmos Register B", Direction::Read, 2, "rtc/cmos Register B"),
    ("rtc/cmos Register C", Direction::Read, 1, "rtc/cmos Register C"),
    ("pic/elcr ELCR1", Direction::Read, 8, "pic/elcr ELCR1"),
    ("acpi/pm PM_TMR", Direction::Read, 0x10, "acpi/pm PM_TMR"),
    ("acpi/pm PM1_CNT", Direction::Read, 1, "acpi/pm PM1_CNT"),
    ("pci/conf1 VENDOR_ID", Direction::Read, 1, "pci/conf1 VENDOR_ID"),
    ("pci/conf1 HEADER_TYPE", Direction::Read, 0x80, "pci/conf1 HEADER_TYPE"),
];

#[test]
fn a_device_with_one_wrong_bit_is_found_by_the_name_of_the_register() {
    let all = recordings();
    let (_, bytes) = all.iter().find(|(path, _)| path.ends_with("pc-split.trp")).unwrap();
    for (register, direction, bits, found) in BROKEN {
        let fault = Some(Fault { register: register.to_owned(), direction, bits });
        let options = Options { fault, ..Options::default() };
        let difference = replay(Cursor::new(bytes), &options).unwrap().difference;
        let difference = difference.unwrap_or_else(|| panic!("{register} is not missed"));
        assert!(difference.what.starts_with(found), "{register}: {difference}");
    }
}

#[test]
fn a_write_that_comes_late_makes_a_difference_where_somebody_can_tell() {
    let all = recordings();
    let (_, bytes) = all.iter().find(|(path, _)| path.ends_with("pc-split.trp")).unwrap();
    let late = |device: &str, region: &str, offset| {
        let (device, region) = (device.to_owned(), region.to_owned());
        let late = LateWrites { device, region, register: String::new(), offset, len: 1 };
        let options = Options { late: vec![late], ..Options::default() };
        replay(Cursor::new(bytes), &options).unwrap().difference
    };
    for (device, region, offset) in [("rtc", "cmos", 0), ("serial1", "uart", 3), ("nobody", "x", 0)]
    {
        assert_eq!(late(device, region, offset), None, "{device}/{region} {offset}");
    }
    // An interrupt is enabled, and does not come.
    let what = late("serial0", "uart", 1).unwrap().to_string();
    assert!(what.contains("pic: interrupt acknowledge: vector 0x34 was recorded"), "{what}");
}

#[test]
fn a_recording_that_is_cut_or_damaged_is_played_as_far_as_it_is_whole() {
    let (_, bytes) = recordings().swap_remove(0);
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..60 {
        let (at, bit) = (random.usize(..bytes.len()), random.u32(..8));
        let mut damaged = bytes.clone();
        if round % 2 == 0 {
            damaged.truncate(at);
        } else {
            damaged[at] ^= 1 << bit;
        }
        match replay(Cursor::new(damaged), &Options::default()) {
            Ok(verdict) => assert_eq!(verdict.difference, None, "{at} {bit}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
