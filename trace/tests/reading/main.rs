//! What is told of a recording, and what it is turned into.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows tests this, and takes what they share for something else"
)]

mod diff;
mod tune;

use std::io::Cursor;

use trapline_access::record::{Access, Op, Outcome, Record, words_of};
use trapline_access::{Direction, Size, Space};
use trapline_trace::diff::cost::Costs;
use trapline_trace::diff::{Differences, Run, Tokens, compare};
use trapline_trace::export::{Format, Summary, export};
use trapline_trace::import::import;
use trapline_trace::stat::{Stats, stats};
use trapline_trace::tune::{Advice, deliveries, tune};
use trapline_trace::{
    Bank, Class, Field, Filter, Level, MapChange, MapRegion, Meta, Place, Reader, Register,
    Registers, Sites, Slot, Stream, Writer, show,
};

use Direction::{Read, Write};

/// A register of one byte, read and written, whose values are of `class`.
fn register(name: &str, offset: u64, class: Class) -> Register {
    Register {
        name: name.to_owned(),
        offset,
        width: 1,
        read: true,
        write: true,
        class,
        prompt: false,
        fields: Vec::new(),
    }
}

fn region(id: u64, device: &str, space: Space, base: u64, len: u64) -> MapRegion {
    MapRegion {
        id,
        device: device.to_owned(),
        region: device.to_owned(),
        space,
        base: Some(base),
        len,
        device_offset: 0,
        windows: Vec::new(),
    }
}

/// A UART at ports, and a clock in memory.
fn map() -> MapChange {
    let mut lsr = register("LSR", 5, Class::Exact);
    lsr.fields = vec![
        Field { name: "DR".to_owned(), bit: 0, bits: 1 },
        Field { name: "THRE".to_owned(), bit: 5, bits: 1 },
        Field { name: "TOP".to_owned(), bit: 6, bits: 2 },
    ];
    let uart = vec![register("THR", 0, Class::Payload), register("IER", 1, Class::Exact), lsr];
    let mut count = register("COUNT", 0, Class::Time);
    count.width = 4;
    MapChange {
        generation: 1,
        devices: vec!["serial0".to_owned(), "timer".to_owned()],
        regions: vec![
            region(1, "serial0", Space::Pio, 0x3f8, 8),
            region(2, "timer", Space::Mmio, 0xd000_0000, 0x1000),
        ],
        slots: [(0, 1), (1, 2)]
            .into_iter()
            .map(|(number, id)| Slot { number, place: Place::Region { id, page: 0 } })
            .chain([Slot { number: 2, place: Place::Unclaimed { space: Space::Pio, page: 0 } }])
            .collect(),
        registers: vec![
            Registers { id: 1, registers: uart },
            Registers { id: 2, registers: vec![count] },
        ],
        ..MapChange::default()
    }
}

/// An access, 1,600 ns after the one before.
fn access(slot: u16, offset: u16, direction: Direction, size: Size, value: u64) -> Record {
    let (space, outcome) = match slot {
        1 => (Space::Mmio, Outcome::Handled),
        2 => (Space::Pio, Outcome::Unclaimed),
        _ => (Space::Pio, Outcome::Handled),
    };
    let op = Op::Access(Access { direction, size, space, outcome });
    Record { op, slot, offset, delta: 100, value }
}

fn thr(character: u8) -> Record {
    access(0, 0, Write, Size::Byte, character.into())
}

fn lsr(value: u64) -> Record {
    access(0, 5, Read, Size::Byte, value)
}

fn recorded(records: &[Record]) -> Vec<u8> {
    recorded_with(&map(), records)
}

fn recorded_with(map: &MapChange, records: &[Record]) -> Vec<u8> {
    let meta = Meta { recorder: "a test".to_owned(), vcpus: 1, ..Meta::default() };
    let mut writer = Writer::new(Vec::new(), &meta).expect("memory takes it");
    writer.map(0, map).expect("memory takes it");
    let mut words = Vec::new();
    for record in records {
        words.push(record.encode());
        // A string's bytes are its numbers.
        let data: Vec<u8> = (0..record.raw_records() * 16).map(|n| n as u8).collect();
        words.extend(data.as_chunks::<16>().0.iter().map(|bytes| words_of(*bytes)));
    }
    writer.access(Stream::vcpu(0), 1_000_000_000, &words).expect("memory takes it");
    writer.finish().expect("memory takes it")
}

/// The map, with a divisor latch behind bit 7 of register 3, and what register 6 says behind register 7.
fn banked() -> MapChange {
    let latch = Bank {
        id: 1,
        selector: 3,
        width: 1,
        enabled: 0x80,
        mask: 0,
        shift: 0,
        first: 0,
        len: 2,
        period: 0,
        registers: vec![register("DLL", 0, Class::Exact), register("DLM", 1, Class::Exact)],
        others: String::new(),
    };
    let mut wide = register("WIDE", 4, Class::Time);
    wide.width = 2;
    wide.fields = vec![Field { name: "LOW".to_owned(), bit: 0, bits: 4 }];
    let behind = Bank {
        selector: 6,
        enabled: 0,
        mask: 0xf,
        shift: 2,
        first: 7,
        len: 1,
        registers: vec![wide],
        others: "NOTHING".to_owned(),
        ..latch.clone()
    };
    let mut map = map();
    map.registers[0].registers.push(register("SELECT", 6, Class::Exact));
    map.registers[0].registers.push(register("DATA", 7, Class::Exact));
    let each = Bank {
        id: 2,
        width: 0,
        enabled: 0,
        first: 0,
        len: 0x1000,
        period: 0x20,
        registers: vec![register("LOW", 1, Class::Exact)],
        ..behind.clone()
    };
    map.banks = vec![latch, behind, each];
    map
}

#[test]
fn registers_behind_an_index_are_called_by_what_is_selected() {
    let at = |offset, direction, value| access(0, offset, direction, Size::Byte, value);
    let data = || at(7, Read, 5);
    let reset = Record { op: Op::Reset, slot: 0, offset: 0, delta: 1, value: 0 };
    let file = recorded_with(
        &banked(),
        &[
            // Nobody knows yet.
            data(),
            at(6, Write, 0xf1),
            data(),
            at(6, Write, 2),
            data(),
            // Index and data at once, and the index alone as half of a word.
            access(0, 6, Write, Size::Word, 0x0901),
            data(),
            access(0, 5, Write, Size::Word, 0x0200),
            data(),
            at(0, Write, 0x41),
            at(3, Write, 0x83),
            at(0, Write, 0x41),
            at(1, Read, 0),
            access(0, 0, Write, Size::Word, 1),
            at(3, Write, 3),
            at(1, Read, 0),
            at(3, Write, 0x83),
            reset,
            at(1, Read, 0),
            data(),
            access(1, 0xfe1, Read, Size::Byte, 0),
            access(1, 0xfe0, Read, Size::Byte, 0),
        ],
    );
    let named = |line: &String| line.split_whitespace().nth(4).map(str::to_owned);
    let names: Vec<_> = lines(&file, &Filter::default()).iter().filter_map(named).collect();
    let expected = "DATA SELECT WIDE SELECT NOTHING SELECT WIDE LSR NOTHING THR +0x3 DLL DLM DLL \
                    +0x3 IER +0x3 IER DATA LOW NOTHING";
    assert_eq!(names.join(" "), expected);
    let wide = Filter { registers: vec!["wide".to_owned()], ..Filter::default() };
    let shown = lines(&file, &wide);
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|line| line.contains("{LOW=0x5}")), "{shown:?}");
    // Deliveries are of offsets, whatever is behind them.
    let mut reader = reader(&file);
    let advice = tune(&mut reader, |_| {}).expect("it is valid");
    let late: Vec<_> = advice.late.iter().map(|late| late.register.as_str()).collect();
    assert!(late.contains(&"THR") && !late.contains(&"DLL"), "{late:?}");
}

#[test]
fn a_site_takes_no_more_of_a_file_than_can_be_shown() {
    let mut map = map();
    let field = |n: u8| Field { name: format!("\x1b{n}").repeat(1000), bit: n % 64, bits: 1 };
    map.registers[0].registers[2].fields = (0..=255).map(field).collect();
    map.registers[0].registers[2].name = "N".repeat(1000);
    let file = recorded_with(&map, &[lsr(1)]);
    let mut reader = reader(&file);
    let mut sites = Sites::new(reader.map());
    let event = reader.merged().expect("it is valid").next().expect("it is valid");
    sites.of(&event.expect("there is one"));
    let [site] = sites.all() else { panic!("{:?}", sites.all()) };
    assert_eq!((site.register.len(), site.fields.len()), (64, 64));
    assert!(site.fields.iter().all(|field| field.name.len() == 64 && field.name.starts_with('?')));
    assert_eq!(site.decode(1), "?0".repeat(32));
}

fn reader(file: &[u8]) -> Reader<Cursor<&[u8]>> {
    Reader::open(Cursor::new(file)).expect("it is valid")
}

fn lines(file: &[u8], filter: &Filter) -> Vec<String> {
    let mut reader = reader(file);
    let mut sites = Sites::new(reader.map());
    let mut merged = reader.merged().expect("it is valid");
    let mut lines = Vec::new();
    while let Some(event) = merged.next().expect("it is valid") {
        let site = sites.of(&event);
        if filter.wants(&event, site.and_then(|site| sites.get(site))) {
            lines.extend(show::line(&event, &sites, site));
        }
    }
    lines
}

/// One of each.
fn sample() -> Vec<u8> {
    let string = Op::String(Access {
        direction: Write,
        size: Size::Word,
        space: Space::Pio,
        outcome: Outcome::Handled,
    });
    let queued = Op::Access(Access {
        direction: Write,
        size: Size::Byte,
        space: Space::Pio,
        outcome: Outcome::Coalesced,
    });
    recorded(&[
        lsr(0x61),
        thr(b'A'),
        Record { op: queued, ..thr(b'B') },
        access(1, 0, Read, Size::Dword, 0xdead_beef),
        access(1, 2, Write, Size::Word, 7),
        access(2, 0x80, Write, Size::Byte, 3),
        Record { op: string, slot: 0, offset: 0, delta: 100, value: 4 },
        Record { op: Op::Edit, slot: 0, offset: 0, delta: 0, value: 2 },
    ])
}

#[test]
fn accesses_are_shown_by_register_with_their_fields() {
    let shown = lines(&sample(), &Filter::default());
    assert_eq!(
        shown,
        [
            "      1.000000 cpu0     read  serial0 LSR                  -> 0x61 {DR THRE TOP=0x1}",
            "      1.000001 cpu0     write serial0 THR                  <- 0x41",
            "      1.000003 cpu0     write serial0 THR                  <- 0x42 coalesced",
            "      1.000004 cpu0     read  timer COUNT                  -> 0xdeadbeef",
            "      1.000006 cpu0     write timer COUNT+2                <- 0x0007",
            "      1.000008 cpu0     write unclaimed pio 0x80           <- 0x03",
            "      1.000009 cpu0     write serial0 THR                  <- 2 x 2: 0100 0302",
            "      1.000009 cpu0     map 2",
        ]
    );
}

#[test]
fn filters_leave_what_they_say() {
    let file = sample();
    let count = |filter: Filter| lines(&file, &filter).len();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(count(Filter { devices: names(&["serial0"]), ..Filter::default() }), 4);
    assert_eq!(count(Filter { devices: names(&["timer", "unclaimed"]), ..Filter::default() }), 3);
    assert_eq!(count(Filter { registers: names(&["lsr"]), ..Filter::default() }), 1);
    assert_eq!(count(Filter { direction: Some(Read), ..Filter::default() }), 2);
    assert_eq!(count(Filter { value: Some((0x41, 0xff)), ..Filter::default() }), 1);
    assert_eq!(count(Filter { value: Some((1, 1)), ..Filter::default() }), 5);
    assert_eq!(count(Filter { from_ns: Some(1_000_004_800), ..Filter::default() }), 5);
    assert_eq!(count(Filter { until_ns: Some(1_000_004_800), ..Filter::default() }), 3);
    assert_eq!(count(Filter { vcpus: vec![0], ..Filter::default() }), 8);
    assert_eq!(count(Filter { vcpus: vec![1], ..Filter::default() }), 0);
}

fn counted(file: &[u8], filter: &Filter) -> Stats {
    let mut reader = reader(file);
    stats(&mut reader.merged().expect("it is valid"), filter, |_| {}).expect("it is valid")
}

#[test]
fn counts_are_by_register_the_most_exits_first() {
    let stats = counted(&sample(), &Filter::default());
    let row = |name: &str| {
        let row = stats.registers.iter().find(|row| row.register == name).expect("it is there");
        (row.reads, row.writes, row.coalesced, row.exits, row.until_next_ns)
    };
    assert_eq!(row("LSR"), (1, 0, 0, 1, 1_600));
    // Two elements are two writes and one exit; the queued write is none, and time goes on over it.
    assert_eq!(row("THR"), (0, 4, 1, 2, 3_200));
    assert_eq!(row("COUNT"), (1, 0, 0, 1, 1_600));
    assert_eq!(stats.total.exits, 6);
    assert_eq!((stats.first_ns, stats.last_ns), (1_000_000_000, 1_000_009_600));
    assert_eq!(stats.regions[0].region, "serial0");
    let only = Filter { devices: vec!["timer".to_owned()], ..Filter::default() };
    assert_eq!(counted(&sample(), &only).total.exits, 2);
    let table = stats.to_string();
    assert!(table.contains("  LSR") && table.contains("total"), "{table}");
}

fn exported(file: &[u8], format: Format) -> (Vec<u8>, Summary) {
    let mut reader = reader(file);
    let mut out = Vec::new();
    let mut merged = reader.merged().expect("it is valid");
    let summary = export(&mut merged, format, &Filter::default(), &mut out, |_| {});
    (out, summary.expect("memory takes it"))
}

fn text(file: &[u8], format: Format) -> String {
    String::from_utf8(exported(file, format).0).expect("text")
}

#[test]
fn scripts_make_the_accesses_again() {
    let script = text(&sample(), Format::Qtest);
    let commands: Vec<&str> = script.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        commands,
        [
            "clock_set 1000000000",
            "inb 0x3fd",
            "clock_set 1000001600",
            "outb 0x3f8 0x41",
            "clock_set 1000003200",
            "outb 0x3f8 0x42",
            "clock_set 1000004800",
            "readl 0xd0000000",
            "clock_set 1000006400",
            "writew 0xd0000002 0x7",
            "clock_set 1000008000",
            "outb 0x80 0x3",
            "clock_set 1000009600",
            "outw 0x3f8 0x100",
            "outw 0x3f8 0x302",
        ]
    );
    assert!(script.contains("# serial0 LSR -> 0x61\n"), "{script}");
    let plan = text(&sample(), Format::Plan);
    assert!(plan.contains("EVENT_TYPE_PIO_READ, 0x3fd, 0x1\n"), "{plan}");
    assert!(plan.contains("EVENT_TYPE_MMIO_WRITE, 0xd0000002, 0x2, 0x7\n"), "{plan}");
    assert!(plan.contains("EVENT_TYPE_CLOCK_STEP, 0x640\n"), "{plan}");
}

#[test]
fn mmiotrace_has_the_accesses_to_memory_and_counts_the_others() {
    let (_, summary) = exported(&sample(), Format::Mmiotrace);
    assert_eq!((summary.written, summary.ports, summary.nowhere), (2, 5, 0));
    let expected = "VERSION 20070824\n\
                    MAP 1.000004 1 0xd0000000 0xd0000000 0x1000 0x0 0\n\
                    MARK 1.000004 1 is timer\n\
                    R 4 1.000004 1 0xd0000000 0xdeadbeef 0x0 0\n\
                    W 2 1.000006 1 0xd0000002 0x7 0x0 0\n";
    assert_eq!(text(&sample(), Format::Mmiotrace), expected);
}

#[test]
fn json_has_an_object_a_line() {
    let text = text(&sample(), Format::Json);
    let objects: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(objects.len(), 9);
    assert_eq!(objects[0]["meta"]["recorder"], "a test");
    assert_eq!(objects[1]["register"], "LSR");
    assert_eq!(objects[1]["value"], 0x61);
    assert_eq!(objects[1]["fields"], "DR THRE TOP=0x1");
    assert_eq!(objects[7]["values"], serde_json::json!([0x100, 0x302]));
    assert_eq!(objects[8]["event"], "edit");
}

#[test]
fn pcapng_blocks_have_their_length_at_both_ends() {
    let (bytes, _) = exported(&sample(), Format::Pcapng);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let (mut at, mut kinds) = (0, Vec::new());
    while at < bytes.len() {
        let len = word(at + 4) as usize;
        assert!(len.is_multiple_of(4));
        assert_eq!(word(at + len - 4) as usize, len);
        kinds.push(word(at));
        at += len;
    }
    assert_eq!(kinds[..2], [0x0a0d_0d0a, 1]);
    assert_eq!(kinds[2..], [6; 7]);
    assert!(bytes.windows(12).any(|part| part == b"serial0\0LSR\0"));
}

/// The fields of a message of protobuf: number, and value or bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().expect("a number goes on");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let value = number(&mut bytes);
        let content = match key & 7 {
            0 => &[][..],
            2 => {
                let (content, rest) = bytes.split_at(value as usize);
                bytes = rest;
                content
            }
            wire => panic!("wire type {wire}"),
        };
        fields.push((key >> 3, value, content));
    }
    fields
}

#[test]
fn perfetto_gets_an_event_on_a_track_for_each_access() {
    let (bytes, _) = exported(&sample(), Format::Perfetto);
    let packets = fields(&bytes);
    assert!(packets.iter().all(|(field, ..)| *field == 1));
    let (mut tracks, mut names, mut events) = (Vec::new(), Vec::new(), 0);
    for (_, _, packet) in packets {
        for (field, _, content) in fields(packet) {
            match field {
                60 => tracks.extend(fields(content).iter().find(|f| f.0 == 1).map(|f| f.1)),
                12 => {
                    for (_, _, name) in fields(content).into_iter().filter(|f| f.0 == 2) {
                        let of = fields(name);
                        names.push(String::from_utf8(of[1].2.to_vec()).expect("text"));
                    }
                }
                11 => {
                    let track = fields(content).iter().find(|f| f.0 == 11).map(|f| f.1);
                    assert!(tracks.contains(&track.expect("it has one")));
                    events += 1;
                }
                _ => {}
            }
        }
    }
    // The process, the vCPU, and three regions.
    assert_eq!(tracks.len(), 5);
    assert_eq!(events, 8);
    assert!(names.contains(&"read LSR".to_owned()) && names.contains(&"write THR".to_owned()));
}

#[test]
fn the_kernels_trace_becomes_a_recording() {
    let trace = "\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
       qemu-100     [001] .....  10.000000: kvm_entry: vcpu 1, rip 0xfff0
       qemu-100     [001] .....  10.000001: kvm_pio: pio_write at 0x3f8 size 1 count 1 val 0x41
       qemu-101     [000] .....  10.000002: kvm_entry: vcpu 0, rip 0xfff0
       qemu-101     [000] .....  10.000003: kvm_mmio: mmio unsatisfied-read len 4 gpa 0xd0000000 val 0x0
       qemu-101     [000] .....  10.000004: kvm_mmio: mmio read len 4 gpa 0xd0000000 val 0x1234
       qemu-101     [000] .....  10.500000: kvm_pio: pio_read at 0x3fd size 1 count 1 val 0x60
CPU:0 [LOST 17 EVENTS]
       qemu-101     [000] .....  10.500010: kvm_pio: pio_write at 0x3f8 size 2 count 3 val 0x4241 (...)
       qemu-101     [000] .....  10.500011: kvm_pio: pio_write at 0x3f8 size 1 count
       qemu-101     [000] .....  10.500012: kvm_mmio: mmio write len 3 gpa 0xfee00000 val 0x30201
";
    let (file, done) = import(&mut trace.as_bytes(), Vec::new(), Meta::default(), map(), |_| {})
        .expect("it is read");
    assert_eq!((done.accesses, done.claimed, done.vcpus), (5, 4, 2));
    assert_eq!((done.broken, done.lost), (1, 17));
    assert_eq!(
        lines(&file, &Filter::default()),
        [
            "      0.000000 cpu1     write serial0 THR                  <- 0x41",
            "      0.000003 cpu0     read  timer COUNT                  -> 0x00001234",
            "      0.499999 cpu0     read  serial0 LSR                  -> 0x60 {THRE TOP=0x1}",
            "      0.500009 cpu0     write serial0 THR                  <- 3 x 2: 4241 0000 0000",
            "      0.500011 cpu0     write unclaimed mmio 0xfee00000    <- 0x030201",
        ]
    );
    assert!(reader(&file).meta().unseen.len() == 2);
}

/// Parts of the trace that Linux 6.1's KVM made of a boot of Debian's kernel.
const BOOT: &str = include_str!("../data/linux-6.1-boot.txt");

#[test]
fn a_real_trace_of_a_boot_is_read_whole() {
    let (file, done) = import(&mut BOOT.as_bytes(), Vec::new(), Meta::default(), map(), |_| {})
        .expect("it is read");
    let comments = BOOT.lines().filter(|line| line.starts_with('#')).count() as u64;
    let unanswered = BOOT.lines().filter(|line| line.contains("unsatisfied-read")).count() as u64;
    assert_eq!((done.broken, done.lost, done.vcpus), (0, 0, 1));
    assert_eq!(done.other_lines, comments + unanswered);
    assert_eq!(done.accesses + done.other_lines, BOOT.lines().count() as u64);
    let stats = counted(&file, &Filter::default());
    assert_eq!(stats.total.reads + stats.total.writes, done.accesses);
    // The UART is where the map has it, and everything else is nobody's.
    assert!(
        stats.regions.iter().all(|row| ["serial0", "unclaimed"].contains(&row.region.as_str()))
    );
    assert!(stats.registers.iter().any(|row| row.register == "THR" && row.writes > 10));
    let mut tokens = Tokens::default();
    let runs = [&file, &file].map(|file| {
        let mut reader = reader(file);
        let mut merged = reader.merged().expect("it is valid");
        Run::read(&mut merged, &mut tokens, |_| {}).expect("it is valid")
    });
    assert_eq!(compare([&runs[0], &runs[1]], &tokens).regions, []);
}
