//! Recordings of real guests in `tests/recordings`, played into today's devices: whatever behaves in
//! another way is named. `cargo xtask test record` makes them again, in `build/recordings`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use trapline_device::Direction::{self, Read, Write};
use trapline_machine::deliveries::LateWrites;
use trapline_machine::record::replay::{Fault, Options, replay};
use trapline_trace::{Reader, Sites};

/// What the file itself has a record's register called.
fn named_in_file(bytes: &[u8], record: u64) -> String {
    let mut reader = Reader::open(Cursor::new(bytes)).unwrap();
    let mut sites = Sites::new(reader.map());
    let mut merged = reader.merged().unwrap();
    loop {
        let event = merged.next().unwrap().unwrap();
        let site = sites.of(&event);
        if event.number == record {
            return site.and_then(|site| sites.get(site)).unwrap().name();
        }
    }
}

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
    assert!(all.len() >= 20, "{}", all.len());
    for (path, bytes) in all {
        let verdict = replay(Cursor::new(bytes), &Options::default()).unwrap();
        assert_eq!(verdict.difference, None, "{}", path.display());
        assert_eq!((verdict.incomplete, verdict.skipped), (None, 0), "{}", path.display());
        assert!(verdict.reads > 40 && verdict.outputs > 10, "{}", path.display());
    }
}

/// A register, of whose value in one direction some bits are wrong, and what a report of that begins with.
type Broken = (&'static str, Direction, u64, &'static str);

/// Registers that every boot of Linux on a PC reads or writes.
const BROKEN: [Broken; 20] = [
    ("serial0/uart LSR", Read, 0x20, "serial0/uart LSR"),
    ("serial0/uart IIR", Read, 1, "serial0/uart IIR"),
    ("serial0/uart IER", Read, 1, "serial0/uart IER"),
    ("serial0/uart MCR", Read, 8, "serial0/uart MCR"),
    ("serial0/uart MSR", Read, 0x80, "serial0/uart MSR"),
    ("serial0/uart LCR", Read, 1, "serial0/uart LCR"),
    ("serial2/uart LCR", Read, 1, "serial2/uart LCR"),
    ("serial0/uart THR", Write, 1, "console: bytes sent"),
    ("serial1/uart IIR", Read, 1, "serial1/uart IIR"),
    ("rtc/cmos RTC seconds", Read, 1, "rtc/cmos RTC seconds"),
    ("rtc/cmos RTC minutes", Read, 1, "rtc/cmos RTC minutes"),
    ("rtc/cmos RTC year", Read, 1, "rtc/cmos RTC year"),
    ("rtc/cmos Register A", Read, 0x10, "rtc/cmos Register A"),
    ("rtc/cmos Register B", Read, 2, "rtc/cmos Register B"),
    ("rtc/cmos Register C", Read, 1, "rtc/cmos Register C"),
    ("pic/elcr ELCR1", Read, 8, "pic/elcr ELCR1"),
    ("acpi/pm PM_TMR", Read, 0x10, "acpi/pm PM_TMR"),
    ("acpi/pm PM1_CNT", Read, 1, "acpi/pm PM1_CNT"),
    ("pci/conf1 VENDOR_ID", Read, 1, "pci/conf1 VENDOR_ID"),
    ("pci/conf1 HEADER_TYPE", Read, 0x80, "pci/conf1 HEADER_TYPE"),
];

/// The same on arm64: of a GICv2m frame, of functions and virtio devices on PCI and in memory, and of the
/// devices beside them.
const BROKEN_ARM64: [(&str, Broken); 24] = [
    ("arm64-v2m", ("gicv2m/frame MSI_TYPER", Read, 1, "gicv2m/frame MSI_TYPER")),
    ("arm64-v2m", ("gicv2m/frame MSI_IIDR", Read, 1, "gicv2m/frame MSI_IIDR")),
    ("arm64-v2m", ("serial0/uart LSR", Read, 0x20, "serial0/uart LSR")),
    ("arm64-v2m", ("serial0/uart IIR", Read, 1, "serial0/uart IIR")),
    ("arm64-v2m", ("serial0/uart THR", Write, 1, "console: bytes sent")),
    ("arm64-four", ("serial0/uart IER", Write, 2, "serial0/uart IIR")),
    ("arm64-its", ("serial0/uart MSR", Read, 0x80, "serial0/uart MSR")),
    ("arm64-its-2", ("serial0/uart LCR", Read, 1, "serial0/uart LCR")),
    ("arm64-reboot", ("serial0/uart RBR", Read, 1, "serial0/uart RBR")),
    ("arm64-devices", ("pci/ecam VENDOR_ID", Read, 1, "pci/ecam VENDOR_ID")),
    ("arm64-devices", ("pci/ecam COMMAND", Read, 2, "pci/ecam COMMAND")),
    ("arm64-devices", ("pci/ecam STATUS", Read, 8, "pci/ecam STATUS")),
    ("arm64-devices", ("disk0/bar4 device_feature", Read, 2, "disk0/bar4 device_feature")),
    ("arm64-devices", ("disk0/bar4 queue_size", Read, 8, "disk0/bar4 queue_size")),
    ("arm64-devices", ("disk0/bar4 device_cfg", Read, 1, "disk0/bar4 device_cfg")),
    ("arm64-devices", ("disk0/bar4 queue_desc", Write, 0x10_0000, "messages: ")),
    ("arm64-devices", ("disk0/msix-table MSIX_DATA", Write, 1, "disk0/msix-table MSIX_DATA")),
    ("arm64-devices", ("rng/bar4 queue_size", Read, 1, "rng/bar4 queue_size")),
    ("arm64-devices", ("balloon/bar4 device_status", Read, 4, "balloon/bar4 device_status")),
    (
        "arm64-devices",
        ("console/msix-table MSIX_VECTOR_CONTROL", Read, 1, "console/msix-table MSIX"),
    ),
    ("arm64-devices", ("disk1/registers MagicValue", Read, 1, "disk1/registers MagicValue")),
    ("arm64-devices", ("disk1/registers DeviceID", Read, 1, "disk1/registers DeviceID")),
    (
        "arm64-devices",
        ("disk1/registers InterruptStatus", Read, 1, "disk1/registers InterruptStatus"),
    ),
    ("arm64-devices", ("disk1/registers QueueDescLow", Write, 0x1000, "memory: ")),
];

#[test]
fn a_device_with_a_wrong_bit_is_caught_by_name() {
    let all = recordings();
    let of_pc = BROKEN.map(|broken| ("pc-split", broken));
    let mut missed = Vec::new();
    for (name, (register, direction, bits, found)) in of_pc.into_iter().chain(BROKEN_ARM64) {
        let is_it = |path: &Path| path.file_stem().is_some_and(|stem| stem == name);
        let (_, bytes) = all.iter().find(|(path, _)| is_it(path)).unwrap();
        let fault = Some(Fault { register: register.to_owned(), direction, bits });
        let options = Options { fault, ..Options::default() };
        let difference = replay(Cursor::new(bytes), &options).unwrap().difference;
        let Some(difference) = difference else {
            missed.push(format!("{name} {register}: nothing"));
            continue;
        };
        // The file may say how far into the register the access was.
        let named =
            found != register || named_in_file(bytes, difference.record).starts_with(register);
        if !named || !difference.what.starts_with(found) {
            missed.push(format!("{name} {register}: {difference}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
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
