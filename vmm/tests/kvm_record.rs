//! Runs of small guests, recorded on the real `/dev/kvm` and played again without.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use support::guest::Guest;
use support::{Pty, trapline};
use trapline_device::Direction;
use trapline_machine::record::replay::{Begin, Fault, Options, Verdict, replay};
use trapline_testkit::realmode::Asm;

/// The first serial port.
const UART: u16 = 0x3f8;
/// ACPI's timer, where firmware finds it.
const PM_TIMER: u16 = 0xb008;

/// Accesses to a device of each kind whose registers depend on time, on the order of accesses, and on
/// each other.
fn busy() -> Asm {
    let clock =
        Asm::new().outb(0x70, 0x0a).inb(0x71).outb(0x70, 0x00).inb(0x71).outb(0x70, 0x0c).inb(0x71);
    let serial = Asm::new()
        .outb(UART + 3, 0x83)
        .outb(UART, 1)
        .outb(UART + 1, 0)
        .inb(UART)
        .outb(UART + 3, 3)
        .outb(UART + 2, 7)
        .outb(UART + 1, 2)
        .inb(UART + 2)
        .inb(UART + 5)
        .print(b"recorded\n");
    let times = Asm::new().inl(PM_TIMER).inl(PM_TIMER).inb(0x61).inb(0x61);
    let chips = Asm::new()
        .outb(0x20, 0x11)
        .outb(0x21, 0x20)
        .outb(0x21, 4)
        .outb(0x21, 1)
        .outb(0x20, 0x0a)
        .inb(0x20)
        .inb(0x21)
        .outb(0x43, 0x34)
        .outb(0x40, 0x10)
        .outb(0x40, 0x20)
        .inb(0x40)
        .inb(0x40);
    let bus = Asm::new().outl(0xcf8, 0x8000_0000).inl(0xcfc).outl(0xcf8, 0x8000_0008).inw(0xcfe);
    let others = Asm::new().inb(0x64).outb(0x64, 0xaa).inb(0x60).inb(0x520).outw(0x80, 0x1234);
    clock.then(&serial).then(&times).then(&chips).then(&bus).then(&others)
}

/// Runs `program` with a recording, and returns that.
fn recorded(program: &Asm, options: &[&str]) -> (Guest, PathBuf) {
    let guest = Guest::new(&program.clone().exit(0));
    let path = guest.file("recording", b"");
    let guest = guest.with(&["--exit-port", "--record", path.to_str().unwrap()]).with(options);
    guest.run().expect_status(1);
    (guest, path)
}

fn play(path: &Path, options: &Options) -> Verdict {
    replay(File::open(path).unwrap(), options).unwrap()
}

#[test]
fn a_recorded_run_is_the_same_without_kvm() {
    for chips in ["kernel", "split"] {
        for exact in [&[][..], &["--record-exact"]] {
            let options = [&["--irqchip", chips], exact].concat();
            let program = (0..20).fold(Asm::new(), |program, _| program.then(&busy()));
            let (_guest, path) = recorded(&program, &options);
            let verdict = play(&path, &Options::default());
            assert_eq!(verdict.difference, None, "{options:?}: {verdict:?}");
            assert_eq!((&verdict.incomplete, verdict.skipped), (&None, 0), "{options:?}");
            assert!(verdict.reads >= 20 * 14, "{options:?}: {verdict:?}");
            assert!(verdict.outputs >= 20, "{options:?}: {verdict:?}");
            let told = trapline(&["replay", path.to_str().unwrap()]);
            assert_eq!(told.0, 0, "{told:?}");
            assert!(told.1.contains("no difference\n"), "{told:?}");
            let counted = trapline(&["trace", "stat", path.to_str().unwrap()]);
            for register in ["LSR", "PM_TMR"] {
                assert!(counted.1.contains(register), "{counted:?}");
            }
        }
    }
}

#[test]
fn a_wrong_bit_is_found_by_the_name_of_its_register() {
    let (_guest, path) = recorded(&busy(), &["--irqchip", "split"]);
    let broken = [
        ("rtc/cmos Register A", 0x10, "rtc/cmos Register A"),
        ("rtc/cmos RTC seconds", 0x80, "rtc/cmos RTC seconds"),
        ("serial0/uart DLL", 2, "serial0/uart DLL"),
        ("serial0/uart IIR", 1, "serial0/uart IIR"),
        ("serial0/uart LSR", 0x40, "serial0/uart LSR"),
        ("serial0/uart THR", 1, "console: bytes sent"),
        ("acpi/pm PM_TMR", 0x10, "acpi/pm PM_TMR"),
        ("pci/conf1 VENDOR_ID", 1, "pci/conf1 VENDOR_ID"),
    ];
    for (register, bits, found) in broken {
        let direction = match register {
            "serial0/uart THR" => Direction::Write,
            _ => Direction::Read,
        };
        let fault = Some(Fault { register: register.to_owned(), direction, bits });
        let difference = play(&path, &Options { fault, ..Options::default() }).difference;
        let difference = difference.unwrap_or_else(|| panic!("{register} is not missed"));
        assert!(difference.what.starts_with(found), "{register}: {difference}");
        assert_ne!(difference.expected, difference.got);
    }
    let register = "nobody/has THIS".to_owned();
    let fault = Some(Fault { register, direction: Direction::Read, bits: 1 });
    assert_eq!(play(&path, &Options { fault, ..Options::default() }).difference, None);
}

#[test]
fn what_is_typed_is_in_the_recording_where_the_guest_took_it() {
    // Waits for a key, tells what it was, until a line ends.
    let key = Asm::new().wait_for(UART + 5, 1).inb(UART).send_al();
    let guest = Guest::new(&Asm::new().print(b"keys?").then(&Asm::new().repeat(6, key)).exit(0));
    let path = guest.file("recording", b"");
    let guest = guest.with(&["--exit-port", "--record", path.to_str().unwrap()]);
    let pty = Pty::new();
    let mut running = guest.start_in(&pty);
    running.expect("keys?");
    running.send(b"abcdef");
    let (_, screen) = running.wait();
    assert!(screen.contains("abcdef"), "{screen}");
    let verdict = play(&path, &Options::default());
    assert_eq!(verdict.difference, None, "{verdict:?}");
    assert!(verdict.inputs >= 2, "{verdict:?}");
}

#[test]
fn a_reset_is_in_the_recording() {
    // Through the keyboard controller the first time, and then out by the exit port.
    let program = busy();
    let again = Asm::new().outb(0x70, 0x40).inb(0x71);
    let program = program.then(&again).if_al_is(
        0,
        Asm::new().outb(0x70, 0x40).outb(0x71, 1).outb(0x64, 0xfe).forever(Asm::new()),
    );
    let (_guest, path) = recorded(&program, &["--reboot"]);
    let verdict = play(&path, &Options::default());
    assert_eq!(verdict.difference, None, "{verdict:?}");
    assert!(verdict.reads >= 2 * 14);
}

#[test]
fn a_recording_that_is_cut_is_played_as_far_as_it_goes_and_never_more() {
    let few = Asm::new().outb(0x70, 0).inb(0x71).inl(PM_TIMER).inb(0x61).outb(0x80, 1);
    let program = Asm::new().repeat(3000, few);
    let (_guest, path) = recorded(&program, &[]);
    let whole = std::fs::read(&path).unwrap();
    let all = play(&path, &Options::default()).records;
    let mut seen = Vec::new();
    for part in 0..64 {
        let cut = &whole[..whole.len() * part / 64];
        match replay(Cursor::new(cut), &Options::default()) {
            Ok(verdict) => {
                assert_eq!(verdict.difference, None, "{part}: {verdict:?}");
                assert!(verdict.incomplete.is_some() && verdict.records <= all);
                seen.push(verdict.records);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(seen.is_sorted());
}

#[test]
fn a_replay_stops_where_it_is_told_to_and_tells_states() {
    let (_guest, path) = recorded(&busy(), &[]);
    let name = path.to_str().unwrap();
    let (status, out, err) = trapline(&["replay", name, "--until", "5", "--dump", "rtc"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("rtc: "), "{out}");
    assert!(out.contains("\n5 records up to"), "{out}");
    let (status, _, err) = trapline(&["replay", name, "--dump", "nothing"]);
    assert_eq!(status, 1);
    assert!(err.contains("the board has no device nothing; there are"), "{err}");
    let (status, _, err) = trapline(&["replay", "/nowhere/at/all"]);
    assert_eq!(status, 1);
    assert!(err.contains("cannot open /nowhere/at/all"), "{err}");
}

#[test]
fn a_replay_begins_at_a_snapshot() {
    // More than a ring has room for, so that somebody has to have written in between.
    let few = Asm::new().outb(0x70, 0).inb(0x71).inl(PM_TIMER).inb(0x61).outb(0x80, 1).inb(0x64);
    let program = Asm::new().repeat(30_000, few).then(&busy());
    for chips in ["kernel", "split"] {
        let (_guest, path) = recorded(&program, &["--irqchip", chips]);
        let name = path.to_str().unwrap();
        let about = trapline(&["trace", name]).1;
        assert!(about.contains("\nsnapshots    0 at "), "{about}");
        let whole = play(&path, &Options::default());
        assert_eq!(whole.difference, None, "{whole:?}");
        let from = Some(Begin::Snapshot(0));
        let part = play(&path, &Options { from, ..Options::default() });
        assert_eq!(part.difference, None, "{part:?}");
        let before = part.begun.unwrap().record.unwrap_or(whole.records);
        assert!(before >= 16 << 10, "{part:?}");
        assert_eq!(before + part.records, whole.records, "{part:?} of {whole:?}");
        let (status, out, err) = trapline(&["replay", name, "--from-snapshot", "0"]);
        assert_eq!(status, 0, "{err}");
        assert!(out.contains("began at snapshot 0, at ") && out.contains("no difference"), "{out}");
        let (status, _, err) = trapline(&["replay", name, "--from-snapshot", "0s"]);
        assert_eq!(status, 1);
        assert!(err.contains("no snapshot to begin at: the first one is at "), "{err}");
    }
    let (_guest, path) = recorded(&busy(), &[]);
    let (status, _, err) = trapline(&["replay", path.to_str().unwrap(), "--from-snapshot", "0"]);
    assert_eq!(status, 1);
    assert!(err.contains("no snapshot to begin at: the recording has none"), "{err}");
}

/// Which lines are level triggered, and which line a function's pin is on: nobody has said so to a guest that is
/// firmware itself.
#[test]
fn interrupts_are_as_they_were_before_firmware_has_set_them_up() {
    let at = |register: u32| 0x8000_0000 | register;
    let look = (0..8_u32).fold(Asm::new().inb(0x4d0).inb(0x4d1), |asm, device| {
        asm.outl(0xcf8, at(device << 11 | 0x3c)).inl(0xcfc)
    });
    for chips in ["kernel", "split"] {
        let (_guest, path) = recorded(&look, &["--irqchip", chips]);
        let verdict = play(&path, &Options::default());
        assert_eq!(verdict.difference, None, "{chips}: {verdict:?}");
    }
}

#[test]
fn a_file_that_cannot_be_written_ends_the_run_before_it_starts() {
    let options = ["--exit-port", "--record", "/nowhere/at/all"];
    let ended = Guest::new(&Asm::new().exit(0)).with(&options).run().expect_status(2);
    assert!(ended.err.contains("cannot record to /nowhere/at/all: No such file"), "{}", ended.err);
}

#[test]
fn what_tune_says_is_played() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../machine/tests/recordings");
    let recording = folder.join("pc-split-2.trp");
    let told = trapline(&["tune", recording.to_str().unwrap()]);
    assert_eq!(told.0, 0, "{told:?}");
    let played = "\nplayed with each of them late, and all: no other read, no other output\n";
    assert!(told.1.contains(played) && told.1.contains("serial0/uart LCR"), "{told:?}");
}
