//! What a person reads: reports, counters and reasons.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::report::Report;
use gicv3_its::{
    CollectionId, Config, ConfigError, DeviceId, EventId, Lpi, RestoreError, SaveError,
};
use support::{Bench, int, mapc, mapd, mapti};

/// Two devices, of four and of two events.
fn bench() -> Bench {
    let mut bench = Bench::new(Config::new());
    bench.run(&[mapc(1, 2), mapd(0, 1), mapd(3, 0)]);
    bench.run(&[mapti(0, 0, 8192, 1), mapti(0, 3, 8200, 1), mapti(3, 1, 9000, 7), int(9, 0)]);
    bench
}

#[test]
fn a_report_is_a_table_and_counts_only_what_happened() {
    let mut bench = bench();
    assert!(bench.signal(0, 0).is_ok());
    assert!(bench.signal(0, 1).is_err());
    let expected = "\
ITS enabled, CREADR 0xe0, CWRITER 0xe0
device      event     LPI  collection  target
0x0         4 events at 0x42500000, 2 mapped
            0x0       8192  0x1         0x2
            0x3       8200  0x1         0x2
0x3         2 events at 0x42503000, 1 mapped
            0x1       9000  0x7         none
collection  target
0x1         0x2
0x7         none
         7  commands
         1  refused: 0x010307 INT: event or its collection not mapped
         1  signals
         1  blocked: 0x030003 event not mapped
";
    let report = bench.its.report(&bench.ram, 1 << 20);
    assert_eq!(report.to_string(), expected);
    let mut counted: Report = report;
    let zero = counted.counters.clone();
    for (n, line) in [
        "accesses of a wrong width, alignment or place",
        "CWRITER values outside the queue",
        "enables without tables or queue",
        "collection tables not as they must be",
    ]
    .into_iter()
    .enumerate()
    {
        counted.counters = zero.clone();
        let counters = &mut counted.counters;
        *[
            &mut counters.bad_accesses,
            &mut counters.bad_cwriter,
            &mut counters.bad_enables,
            &mut counters.bad_collections,
        ]
        .into_iter()
        .nth(n)
        .unwrap() = 3;
        assert_eq!(counted.to_string(), format!("{expected}         3  {line}\n"));
    }
    let _idle = bench.write32(0, 0);
    let disabled = bench.its.report(&bench.ram, 1 << 20).to_string();
    assert!(disabled.starts_with("ITS disabled, CREADR"), "{disabled}");
}

/// A limit is a number of entries: of devices, mapped or not, and of their events.
#[test]
fn a_report_looks_at_no_more_entries_than_it_may_and_says_so() {
    let bench = bench();
    let report = |limit| {
        let report = bench.its.report(&bench.ram, limit);
        let mapped = report.devices.iter().map(|device| device.mapped.len()).sum::<usize>();
        (report.devices.len(), mapped, report.truncated)
    };
    // Device 0 and its four events are five entries, two more devices seven.
    for (limit, expected) in [
        (0, (0, 0, true)),
        (1, (1, 0, true)),
        (2, (1, 1, true)),
        (4, (1, 1, true)),
        (5, (1, 2, true)),
        (7, (1, 2, true)),
        (8, (2, 2, true)),
        (9, (2, 2, true)),
        (10, (2, 3, true)),
        (11, (2, 3, true)),
        // The table has 8,192 entries, and both devices six events.
        (8_198, (2, 3, true)),
        (8_199, (2, 3, false)),
        (1 << 20, (2, 3, false)),
    ] {
        assert_eq!(report(limit), expected, "{limit} entries");
    }
    let text = bench.its.report(&bench.ram, 5).to_string();
    assert!(text.contains("\n(more entries than were looked at)\n"), "{text}");
}

#[test]
fn what_is_refused_says_why() {
    for (error, text) in [
        (ConfigError::Virtual, "TYPER must say Physical and not Virtual"),
        (ConfigError::Targets, "TYPER must say PTA 0 and HCC 0"),
        (ConfigError::EntrySize, "table entries are at least 8 bytes"),
        (ConfigError::Bits, "at most 16 EventID bits and 20 DeviceID bits"),
        (ConfigError::Tables, "one device and one collection table, not valid at reset"),
        (ConfigError::Revision, "IIDR.Revision must be 0, the only table layout"),
        (ConfigError::Budget, "the budget is at least one command"),
    ] {
        assert_eq!(error.to_string(), text);
    }
    let memory = RestoreError::Memory.to_string();
    assert!(!memory.is_empty());
    assert!(RestoreError::Register("GITS_CBASER").to_string().contains("GITS_CBASER"));
    assert!(RestoreError::Collection(CollectionId(7)).to_string().contains("0x7"));
    let inconsistent = SaveError::Inconsistent(RestoreError::Memory).to_string();
    assert!(inconsistent.contains(&memory), "{inconsistent}");
    assert!(!SaveError::Memory.to_string().is_empty());
}

#[test]
fn numbers_are_hexadecimal_and_interrupts_decimal() {
    assert_eq!(DeviceId(0x1f).to_string(), "0x1f");
    assert_eq!(EventId(10).to_string(), "0xa");
    assert_eq!(Lpi::new(8192).unwrap().to_string(), "8192");
    assert_eq!(format!("{:>6}", Lpi::new(9000).unwrap()), "  9000");
}
