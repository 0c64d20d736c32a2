//! Messages come to the server and go back, in whatever buffers, with their data in place.

use std::fs;
use std::path::Path;

use trapline_testkit::ninep::Field::{self, Bytes, Str, U16, U32, U64};
use trapline_testkit::ninep::message;
use trapline_testkit::virtio::Part;

use super::*;
use crate::alone::Alone;

const RAM: u64 = 0x20_0000;
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x12_0000;
const DATA: u64 = 0x14_0000;
const NOFID: u32 = u32::MAX;

struct Bench {
    alone: Alone<P9>,
    dir: tempfile::TempDir,
}

fn bench() -> Bench {
    with(Answering::InTurn)
}

fn with(answering: Answering) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "some text").unwrap();
    let device = P9::new(&ShareOptions::new(dir.path(), "host"), answering).unwrap();
    let mut alone = Alone::new(device, GuestMem::new(&[(0, RAM)]).unwrap());
    alone.start_with_all();
    Bench { alone, dir }
}

impl Bench {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives the device a message in one buffer, with room for a reply in another. How long that is.
    fn ask(&mut self, kind: u8, fields: &[Field<'_>]) -> u32 {
        self.alone.mem.write(REQUEST, &message(kind, 1, fields)).unwrap();
        self.give(message(kind, 1, fields).len())
    }

    fn give(&mut self, len: usize) -> u32 {
        let len = u32::try_from(len).unwrap();
        self.alone.add(0, &[Part::Read(REQUEST, len), Part::Write(REPLY, 0x1_0000)]);
        self.alone.used(0).unwrap()
    }

    /// Mounts the folder, and opens the file as fid 1.
    fn mount(&mut self) {
        self.ask(kind::TVERSION, &[U32(0x1_0000), Str(b"9P2000.L")]);
        self.ask(kind::TATTACH, &[U32(0), U32(NOFID), Str(b""), Str(b""), U32(0)]);
        self.ask(kind::TWALK, &[U32(0), U32(1), U16(1), Str(b"f")]);
        assert_eq!(self.ask(kind::TLOPEN, &[U32(1), U32(2)]), 24);
    }

    /// The bytes of the last reply.
    fn reply(&self, len: u32) -> Vec<u8> {
        self.alone.bytes(REPLY, len as usize)
    }
}

#[test]
fn a_driver_reads_the_tag_and_mounts_the_folder() {
    let mut bench = bench();
    let mut config = [0xff; 8];
    assert_eq!(bench.alone.device.config_len(), 6);
    bench.alone.device.config_read(0, &mut config[..6]);
    assert_eq!(&config, b"\x04\x00host\xff\xff");
    assert_eq!(bench.alone.device.features(), OF_QUEUES | F_MOUNT_TAG);
    let len = bench.ask(kind::TVERSION, &[U32(0x1_0000), Str(b"9P2000.L")]);
    assert_eq!(bench.reply(len), message(101, 1, &[U32(0x1_0000), Str(b"9P2000.L")]));
}

#[test]
fn data_is_read_and_written_where_the_driver_has_it() {
    let mut bench = bench();
    bench.mount();
    // As Linux' driver has it: the reply's head apart from pages of data.
    let read = message(kind::TREAD, 1, &[U32(1), U64(5), U32(100)]);
    bench.alone.mem.write(REQUEST, &read).unwrap();
    let parts = [
        Part::Read(REQUEST, 23),
        Part::Write(REPLY, 11),
        Part::Write(DATA + 4094, 2),
        Part::Write(DATA, 4094),
    ];
    bench.alone.add(0, &parts);
    assert_eq!(bench.alone.used(0), Some(15));
    assert_eq!(bench.reply(11), [15, 0, 0, 0, 117, 1, 0, 4, 0, 0, 0]);
    assert_eq!(bench.alone.bytes(DATA + 4094, 2), b"te");
    assert_eq!(bench.alone.bytes(DATA, 3), b"xt\0");
    // A write whose data is in other buffers than its head.
    let mut write = message(kind::TWRITE, 1, &[U32(1), U64(5), U32(6)]);
    write[0] = 29;
    bench.alone.mem.write(REQUEST, &write).unwrap();
    bench.alone.mem.write(DATA, b"things").unwrap();
    let parts = [
        Part::Read(REQUEST, 23),
        Part::Read(DATA, 1),
        Part::Read(DATA + 1, 5),
        Part::Write(REPLY, 11),
    ];
    bench.alone.add(0, &parts);
    assert_eq!(bench.alone.used(0), Some(11));
    assert_eq!(fs::read(bench.path().join("f")).unwrap(), b"some things");
}

#[test]
fn what_is_not_ram_or_not_there_is_an_error() {
    let mut bench = bench();
    bench.mount();
    let error = |errno: u8| [11, 0, 0, 0, 7, 1, 0, errno, 0, 0, 0];
    // Data of a read, of which a part is not RAM.
    let read = message(kind::TREAD, 1, &[U32(1), U64(0), U32(9)]);
    bench.alone.mem.write(REQUEST, &read).unwrap();
    bench.alone.add(0, &[Part::Read(REQUEST, 23), Part::Write(REPLY, 11), Part::Write(RAM - 1, 9)]);
    assert_eq!((bench.alone.used(0), bench.reply(11)), (Some(11), error(14).to_vec()));
    // Data of a write: not RAM, beyond the buffers, beyond the message.
    for (size, data, len) in [(32, RAM - 1, 9), (32, DATA, 8), (31, DATA, 9)] {
        let mut write = message(kind::TWRITE, 1, &[U32(1), U64(0), U32(9)]);
        write[0] = size;
        bench.alone.mem.write(REQUEST, &write).unwrap();
        let parts = [Part::Read(REQUEST, 23), Part::Read(data, len), Part::Write(REPLY, 11)];
        bench.alone.add(0, &parts);
        assert_eq!((bench.alone.used(0), bench.reply(11)), (Some(11), error(14).to_vec()));
    }
    assert_eq!(fs::read(bench.path().join("f")).unwrap(), b"some text");
    // A message that is longer than its buffer, or than any is.
    let long = message(kind::TCLUNK, 1, &[U32(0), Bytes(&[0; 40_000])]);
    bench.alone.mem.write(REQUEST, &long).unwrap();
    assert_eq!((bench.give(20), bench.reply(11)), (11, error(90).to_vec()));
    assert_eq!((bench.give(long.len()), bench.reply(11)), (11, error(90).to_vec()));
    // No message at all, and no room for a reply.
    assert_eq!(bench.give(6), 0);
    bench.alone.mem.write(REQUEST, &message(kind::TSTATFS, 1, &[U32(0)])).unwrap();
    bench.alone.add(0, &[Part::Read(REQUEST, 11), Part::Write(REPLY, 10)]);
    assert_eq!(bench.alone.used(0), Some(0));
    bench.alone.add(0, &[Part::Read(REQUEST, 11)]);
    assert_eq!(bench.alone.used(0), Some(0));
    bench.alone.add(0, &[Part::Read(RAM, 11), Part::Write(REPLY, 100)]);
    assert_eq!(bench.alone.used(0), Some(0));
    bench.alone.add(0, &[Part::Read(REQUEST, 11), Part::Write(RAM, 100)]);
    assert_eq!(bench.alone.used(0), Some(0));
}

/// Waits until the device has answered `count` requests; their replies' lengths, in order.
fn answers(bench: &mut Bench, count: usize) -> Vec<(u32, u32)> {
    let mut answered = Vec::new();
    while answered.len() < count {
        bench.alone.device.shared.settle();
        bench.alone.notify(0);
        answered.extend(std::iter::from_fn(|| bench.alone.rings[0].take_used()));
    }
    answered
}

#[test]
fn many_requests_are_under_way_at_a_time() {
    let mut bench = with(Answering::Threads);
    let say = |bench: &mut Bench, at: u64, kind, tag, fields: &[Field<'_>]| {
        let text = message(kind, tag, fields);
        bench.alone.mem.write(at, &text).unwrap();
        let len = u32::try_from(text.len()).unwrap();
        bench.alone.rings[0].add(&[Part::Read(at, len), Part::Write(at + 0x100, 0x100)])
    };
    for (kind, fields) in [
        (kind::TVERSION, vec![U32(0x1_0000), Str(b"9P2000.L")]),
        (kind::TATTACH, vec![U32(0), U32(NOFID), Str(b""), Str(b""), U32(0)]),
    ] {
        say(&mut bench, REQUEST, kind, 1, &fields);
        bench.alone.notify(0);
        answers(&mut bench, 1);
    }
    for n in 0..60 {
        say(&mut bench, REQUEST + u64::from(n) * 0x200, kind::TGETATTR, n, &[U32(0), U64(0)]);
    }
    bench.alone.notify(0);
    assert!(answers(&mut bench, 60).iter().all(|(_, written)| *written == 160));
    for n in 0..60_u16 {
        let reply = bench.alone.bytes(REQUEST + u64::from(n) * 0x200 + 0x100, 7);
        assert_eq!(reply[4..7], [25, n.to_le_bytes()[0], 0]);
    }
    // Who takes a request back hears of that after it.
    for _ in 0..50 {
        let first = say(&mut bench, REQUEST, kind::TGETATTR, 7, &[U32(0), U64(0)]);
        let flush = say(&mut bench, REQUEST + 0x200, kind::TFLUSH, 8, &[U16(7)]);
        let unknown = say(&mut bench, REQUEST + 0x400, kind::TFLUSH, 9, &[U16(99)]);
        bench.alone.notify(0);
        let order: Vec<u32> = answers(&mut bench, 3).iter().map(|(head, _)| *head).collect();
        let at = |head: u16| order.iter().position(|other| *other == u32::from(head)).unwrap();
        assert!(at(first) < at(flush), "{order:?}");
        assert!(order.contains(&unknown.into()));
        assert_eq!(bench.alone.bytes(REQUEST + 0x300, 7), [7, 0, 0, 0, 109, 8, 0]);
    }
}

#[test]
fn a_reset_waits_for_what_is_under_way_and_forgets_the_client() {
    let mut bench = with(Answering::Threads);
    for n in 0..20 {
        let text = message(kind::TVERSION, n, &[U32(0x1_0000), Str(b"9P2000.L")]);
        let at = REQUEST + u64::from(n) * 0x200;
        bench.alone.mem.write(at, &text).unwrap();
        let len = u32::try_from(text.len()).unwrap();
        bench.alone.rings[0].add(&[Part::Read(at, len), Part::Write(at + 0x100, 0x100)]);
    }
    bench.alone.notify(0);
    bench.alone.reset();
    assert_eq!(bench.alone.device.shared.mailbox.lock().under_way, 0);
    let before = bench.alone.bytes(REQUEST, 0x4000);
    bench.alone.start_with_all();
    assert_eq!(bench.alone.bytes(REQUEST, 0x4000), before, "nobody writes any more");
    assert_eq!(bench.alone.used(0), None);
    // Without a session there is nothing to ask for.
    bench.alone.mem.write(REQUEST, &message(kind::TCLUNK, 1, &[U32(0)])).unwrap();
    bench.alone.add(0, &[Part::Read(REQUEST, 11), Part::Write(REPLY, 100)]);
    assert_eq!(answers(&mut bench, 1)[0].1, 11);
    assert_eq!(bench.reply(11)[7], 71);
}

#[test]
fn files_and_answers_are_in_a_snapshot() {
    let mut bench = with(Answering::Threads);
    // A turn that begins it, and no other.
    let ask = |bench: &mut Bench, kind, fields: &[Field<'_>]| {
        let text = message(kind, 1, fields);
        bench.alone.mem.write(REQUEST, &text).unwrap();
        let len = u32::try_from(text.len()).unwrap();
        bench.alone.rings[0].add(&[Part::Read(REQUEST, len), Part::Write(REPLY, 0x1_0000)]);
        bench.alone.device.process(0);
    };
    let done = |bench: &mut Bench| answers(bench, 1)[0].1;
    for (kind, fields) in [
        (kind::TVERSION, vec![U32(0x1_0000), Str(b"9P2000.L")]),
        (kind::TATTACH, vec![U32(0), U32(NOFID), Str(b""), Str(b""), U32(0)]),
        (kind::TWALK, vec![U32(0), U32(1), U16(1), Str(b"f")]),
        (kind::TLOPEN, vec![U32(1), U32(2)]),
        (kind::TWALK, vec![U32(0), U32(2), U16(1), Str(b"f")]),
    ] {
        ask(&mut bench, kind, &fields);
        assert_ne!((done(&mut bench), bench.reply(5)[4]), (11, 7));
    }
    // Nobody has fetched what this one has come to.
    ask(&mut bench, kind::TMKDIR, &[U32(0), Str(b"d"), U32(0o755), U32(0)]);
    let saved = bench.alone.device.save();
    assert!(bench.path().join("d").exists());
    let position = bench.alone.queues[0].position().unwrap();
    // Another machine, which goes on from there.
    let options = ShareOptions::new(bench.path(), "host");
    let other = P9::new(&options, Answering::Threads).unwrap();
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved, "as it was");
    let place = bench.alone.place(0);
    let features = other.features();
    other.activate(&Activation { features, queues: &bench.alone.queues });
    bench.alone.queues[0].stop();
    bench.alone.queues[0].resume(&place, 0, &position).unwrap();
    bench.alone.device = other;
    bench.alone.notify(0);
    assert_eq!(bench.alone.used(0), Some(20), "the reply goes back once");
    ask(&mut bench, kind::TWRITE, &[U32(1), U64(0), U32(1), Bytes(b"S")]);
    assert_eq!((done(&mut bench), bench.reply(5)[4]), (11, 119), "it is open");
    ask(&mut bench, kind::TREAD, &[U32(2), U64(0), U32(1)]);
    assert_eq!((done(&mut bench), bench.reply(8)[7]), (11, 9), "it is not");
    assert_eq!(fs::read(bench.path().join("f")).unwrap(), b"Some text");
    let state = State { ready: vec![(QUEUE_SIZE, 0)], ..State::default() };
    let refused = bench.alone.device.restore(&Saved::encode(&SavedV1::from(&state)));
    assert!(matches!(refused, Err(StateError::Inconsistent { .. })));
}
