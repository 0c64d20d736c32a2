//! Replays that begin at a snapshot.

use super::*;

/// Plays a recording from each of its snapshots, and as a whole.
fn same_from_each_snapshot(recording: &[u8], snapshots: u32) {
    let whole = play(recording);
    assert_eq!((&whole.difference, whole.begun), (&None, None), "{whole:?}");
    let from = |from| {
        let options = ReplayOptions { from: Some(from), ..ReplayOptions::default() };
        replay(Cursor::new(recording), &options)
    };
    let mut reads = whole.reads;
    for number in 0..snapshots {
        let verdict = from(Begin::Snapshot(number)).unwrap();
        assert_eq!(verdict.difference, None, "{number}: {verdict:?}");
        let begun = verdict.begun.unwrap();
        assert_eq!((begun.snapshot, verdict.skipped), (number, 0));
        let before = begun.record.unwrap_or(whole.records);
        assert_eq!(before + verdict.records, whole.records, "{number}: {verdict:?}");
        assert!(
            verdict.reads <= reads && verdict.outputs <= whole.outputs,
            "{number}: {verdict:?}"
        );
        reads = verdict.reads;
        // By its time it is the same one.
        assert_eq!(from(Begin::Time(begun.at_ns)).unwrap(), verdict);
    }
    assert!(reads < whole.reads, "something was skipped");
    let told = from(Begin::Snapshot(snapshots)).unwrap_err().to_string();
    assert!(told.starts_with("no snapshot to begin at: there is no "), "{told}");
    let told = from(Begin::Time(0)).unwrap_err().to_string();
    assert!(told.contains("the first one is at 1.5"), "{told}");
}

#[test]
fn a_replay_begins_at_each_snapshot_of_a_disk_in_use() {
    let pc = Pc::new(with_disk);
    assert!(pc.recorded.save_now(), "nothing has happened");
    for _ in 0..3 {
        let mut disk = Disk::start(&pc);
        assert!(pc.recorded.save_now(), "started");
        disk.use_it();
        assert!(pc.recorded.save_now(), "reset");
    }
    let mut disk = Disk::start(&pc);
    for sector in 0..4 {
        assert_eq!(disk.ask(0, 0, sector, &[Part::Write(DATA, 512)]), 0);
        assert!(pc.recorded.save_now(), "in the middle");
    }
    assert_eq!(disk.ask(1, 4, 0, &[]), 0);
    drop(disk);
    let recording = pc.finish();
    same_from_each_snapshot(&recording, 11);
}

/// Registers that change by themselves, and that one has to write to for what another says.
fn use_chips(pc: &Pc, round: u64) {
    let write = |port, value| pc.write(Space::Pio, port, Size::Byte, value);
    let read = |port| pc.read(Space::Pio, port, Size::Byte);
    // The clock: its alarm, its periodic interrupt, its flags.
    for (index, value) in [(0x0b, 0x42 | round & 4), (0x0a, 0x26), (5, round)] {
        write(0x70, index);
        write(0x71, value);
    }
    for index in [0, 0x0c, 0x0b, 5] {
        write(0x70, index);
        read(0x71);
    }
    // The first channel of the 8254, and its latch half read.
    write(0x43, 0x34);
    write(0x40, 0x10 + round);
    write(0x40, 0x27);
    write(0x43, 0);
    read(0x40);
    // The 8259s: set up half the time, masks, an interrupt of the timer.
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, round & 1)] {
        write(port, value);
    }
    // The keyboard controller: a command whose argument is yet to come.
    write(0x64, 0x20);
    read(0x60);
    write(0x64, if round & 1 == 0 { 0xd2 } else { 0x60 });
    // The serial port: its divisor, its interrupts.
    for (port, value) in [(0x3fb, 0x83), (0x3f8, round), (0x3fb, 3), (0x3fc, 0x18), (0x3f9, 3)] {
        write(port, value);
    }
    // In its loop the byte comes back.
    write(0x3f8, 0x40 + round);
    pc.config_write(0, 0x3c, Size::Byte, 0x30 + u32::try_from(round).unwrap());
}

/// What they say after that.
fn look_at_chips(pc: &Pc) {
    for port in [0x40, 0x40, 0x20, 0x21, 0x61, 0x64, 0x60, 0x3f8, 0x3f9, 0x3fa, 0x3fd, 0x3fb] {
        pc.read(Space::Pio, port, Size::Byte);
    }
    for index in [0, 0x0c, 5] {
        pc.write(Space::Pio, 0x70, Size::Byte, index);
        pc.read(Space::Pio, 0x71, Size::Byte);
    }
    pc.read(Space::Pio, 0xb008, Size::Dword);
    pc.config_read(0, 0x3c, Size::Byte);
}

#[test]
fn a_replay_begins_at_each_snapshot_of_chips_in_the_middle_of_what_they_do() {
    let pc = Pc::new(|_, _| ());
    for round in 0..8 {
        use_chips(&pc, round);
        assert!(pc.recorded.save_now(), "{round}");
        look_at_chips(&pc);
        pc.clock.step_ns(317_000_000);
        pc.settle();
    }
    same_from_each_snapshot(&pc.finish(), 8);
}

#[test]
fn what_is_under_way_is_in_no_snapshot() {
    let pc = Pc::new(|config, folder| {
        with_disk(config, folder);
        config.disks[0].limits = Limits { iops: std::num::NonZeroU64::new(10), bps: None };
    });
    assert!(!pc.recorded.save_now(), "limits");
    let told = replay_from(&pc.finish(), 0).unwrap_err();
    assert!(matches!(told, ReplayError::NoSnapshot(_)), "{told}");
    let pc = Pc::new(|config, _| config.rng = true);
    let (rng, mut ring) = (pc.driver(RNG), pc.ring(0));
    rng.start(!0, &[&ring]);
    assert!(pc.recorded.save_now(), "nothing was asked for");
    ring.add(&[Part::Write(DATA, 10)]);
    rng.transport.notify(0);
    assert!(ring.take_used().is_some());
    assert!(!pc.recorded.save_now(), "bytes that nobody has got");
    rng.reset();
    assert!(pc.recorded.save_now(), "reset");
    same_from_each_snapshot(&pc.finish(), 2);
}

fn replay_from(recording: &[u8], number: u32) -> Result<Verdict, ReplayError> {
    let from = Some(Begin::Snapshot(number));
    replay(Cursor::new(recording), &ReplayOptions { from, ..ReplayOptions::default() })
}

#[test]
fn a_device_that_has_gone_wrong_inside_is_found_where_a_snapshot_is_passed() {
    let pc = Pc::new(|_, _| ());
    pc.write(Space::Pio, 0x3ff, Size::Byte, 0x5a);
    assert!(pc.recorded.save_now());
    pc.read(Space::Pio, 0x61, Size::Byte);
    let recording = pc.finish();
    let register = "serial0/uart SCR".to_owned();
    let fault = Some(Fault { register, direction: trapline_device::Direction::Write, bits: 1 });
    let options = ReplayOptions { fault: fault.clone(), ..ReplayOptions::default() };
    let difference = replay(Cursor::new(&recording), &options).unwrap().difference.unwrap();
    assert_eq!(difference.what, "serial0: state at snapshot 0");
    let values = (&difference.expected[..4], &difference.got[..4]);
    assert_eq!(values, ("[5a,", "[5b,"), "{difference}");
    // Behind it the device is as it was.
    let from = Some(Begin::Snapshot(0));
    let options = ReplayOptions { from, fault, ..ReplayOptions::default() };
    assert_eq!(replay(Cursor::new(&recording), &options).unwrap().difference, None);
}

#[test]
fn a_replay_that_ends_before_the_snapshot_is_refused() {
    let pc = Pc::new(|_, _| ());
    look_at_chips(&pc);
    assert!(pc.recorded.save_now());
    look_at_chips(&pc);
    let recording = pc.finish();
    let record = replay_from(&recording, 0).unwrap().begun.unwrap().record.unwrap();
    let until = |until| {
        let (from, until) = (Some(Begin::Snapshot(0)), Some(until));
        replay(Cursor::new(&recording), &ReplayOptions { from, until, ..ReplayOptions::default() })
    };
    assert_eq!(until(record + 1).unwrap().records, 1);
    let told = until(record).unwrap_err().to_string();
    assert!(told.contains(&format!("ends before record {record}")), "{told}");
}
