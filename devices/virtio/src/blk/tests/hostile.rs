//! What no driver does: each request gets an answer where there is room for one, and the disk is as
//! it was.

use trapline_testkit::virtio::DESC_WRITE;

use super::*;
use crate::blk::regs::T_WRITE_ZEROES;

const IN: Part = Part::Read(HEADER, 16);
const OUT: Part = Part::Write(STATUS, 1);

/// Requests that fail, with what the driver is told.
#[test]
fn what_is_wrong_fails_and_changes_nothing() {
    let sectors = CAPACITY / 512;
    let far = u64::MAX / 512;
    let data = |len| Part::Read(DATA, len);
    let room = |len| Part::Write(DATA, len);
    let table: &[(&str, u32, u64, &[Part], u8)] = &[
        ("no header", T_IN, 0, &[room(512), OUT], S_IOERR),
        ("half a header", T_IN, 0, &[Part::Read(HEADER, 15), room(512), OUT], S_IOERR),
        ("header where no RAM is", T_IN, 0, &[Part::Read(RAM, 16), room(512), OUT], S_IOERR),
        ("header half in RAM", T_IN, 0, &[Part::Read(RAM - 8, 16), room(512), OUT], S_IOERR),
        ("data where no RAM is", T_IN, 0, &[IN, Part::Write(RAM, 512), OUT], S_IOERR),
        ("data half in RAM", T_IN, 0, &[IN, Part::Write(RAM - 256, 512), OUT], S_IOERR),
        (
            "data at the end of addresses",
            T_IN,
            0,
            &[IN, Part::Write(u64::MAX - 255, 512), OUT],
            S_IOERR,
        ),
        ("no whole sector to read", T_IN, 0, &[IN, room(511), OUT], S_IOERR),
        ("no whole sector to write", T_OUT, 8, &[IN, data(513), OUT], S_IOERR),
        ("a read at the end", T_IN, sectors, &[IN, room(512), OUT], S_IOERR),
        ("a read across the end", T_IN, sectors - 1, &[IN, room(1024), OUT], S_IOERR),
        ("a read far beyond", T_IN, far, &[IN, room(512), OUT], S_IOERR),
        ("a read whose offset has no bytes", T_IN, u64::MAX, &[IN, room(512), OUT], S_IOERR),
        ("a write at the end", T_OUT, sectors, &[IN, data(512), OUT], S_IOERR),
        ("a write across the end", T_OUT, sectors - 1, &[IN, data(1024), OUT], S_IOERR),
        ("a write far beyond", T_OUT, far + 1, &[IN, data(512), OUT], S_IOERR),
        ("a write from no RAM", T_OUT, 8, &[IN, Part::Read(RAM - 1, 512), OUT], S_IOERR),
        ("SCSI", 2, 0, &[IN, room(512), OUT], S_UNSUPP),
        ("type 3", 3, 0, &[IN, room(512), OUT], S_UNSUPP),
        ("type 5", 5, 0, &[IN, OUT], S_UNSUPP),
        ("type 9", 9, 0, &[IN, OUT], S_UNSUPP),
        ("secure erase", 14, 0, &[IN, data(16), OUT], S_UNSUPP),
        ("a zone's append", 15, 0, &[IN, data(512), OUT], S_UNSUPP),
        ("a zone's report", 16, 0, &[IN, room(512), OUT], S_UNSUPP),
        ("the last type", u32::MAX, 0, &[IN, OUT], S_UNSUPP),
        ("a legacy barrier", 0x8000_0000, 0, &[IN, room(512), OUT], S_UNSUPP),
        ("discard of nothing", T_DISCARD, 0, &[IN, OUT], S_IOERR),
        ("half a segment", T_DISCARD, 0, &[IN, data(8), OUT], S_IOERR),
        ("a segment and a half", T_WRITE_ZEROES, 0, &[IN, data(24), OUT], S_IOERR),
        ("segments where no RAM is", T_WRITE_ZEROES, 0, &[IN, Part::Read(RAM, 16), OUT], S_IOERR),
        ("too many segments", T_DISCARD, 0, &[IN, data(33 * 16), OUT], S_IOERR),
    ];
    let mut bench = Bench::started(|_| ());
    for (what, kind, sector, parts, expected) in table {
        let (status, _) = bench.request(*kind, *sector, parts);
        assert_eq!(status, *expected, "{what}");
        assert_eq!(bench.image(0, 1 << 20), contents(), "{what}");
        assert_eq!(bench.read(0, 512), (S_OK, 513), "{what}, and then something sensible");
    }
}

#[test]
fn segments_that_are_wrong_fail_and_change_nothing() {
    let sectors = CAPACITY / 512;
    let mut bench = Bench::started(|_| ());
    for (what, kind, segments, expected) in [
        ("unmap of a discard", T_DISCARD, &[(0, 8, 1)][..], S_UNSUPP),
        ("unknown flags", T_DISCARD, &[(0, 8, 0), (0, 8, 2)], S_UNSUPP),
        ("unknown flags", T_WRITE_ZEROES, &[(0, 8, 0x8000_0001)], S_UNSUPP),
        ("across the end", T_DISCARD, &[(0, 8, 0), (sectors - 1, 2, 0)], S_IOERR),
        ("across the end", T_WRITE_ZEROES, &[(sectors, 1, 1)], S_IOERR),
        ("more than there may be", T_WRITE_ZEROES, &[(0, 0x40_0000, 0)], S_IOERR),
        ("more than there may be", T_DISCARD, &[(0, u32::MAX, 0)], S_IOERR),
        ("no bytes", T_WRITE_ZEROES, &[(u64::MAX, 1, 0)], S_IOERR),
        ("an end that wraps", T_DISCARD, &[(u64::MAX / 512, 8, 0)], S_IOERR),
        ("nothing", T_DISCARD, &[(0, 0, 0)], S_OK),
        ("nothing at the end", T_WRITE_ZEROES, &[(sectors, 0, 0)], S_OK),
    ] {
        assert_eq!(bench.segments(kind, segments), expected, "{what}");
        assert_eq!(bench.image(0, 1 << 20), contents(), "{what}");
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_not() {
    let mut bench = Bench::started(|options| options.read_only = true);
    assert_eq!(bench.write(0, &[0; 512]), (S_IOERR, 1));
    assert_eq!(bench.segments(T_DISCARD, &[(0, 8, 0)]), S_UNSUPP, "it is not offered");
    assert_eq!(bench.segments(T_WRITE_ZEROES, &[(0, 8, 0)]), S_UNSUPP);
    assert_eq!(bench.image(0, 1 << 20), contents());
}

#[test]
fn what_was_not_accepted_does_not_exist() {
    let mut bench = Bench::new(|_| ());
    bench.start(F_FLUSH);
    assert_eq!(bench.segments(T_DISCARD, &[(0, 8, 0)]), S_UNSUPP);
    assert_eq!(bench.segments(T_WRITE_ZEROES, &[(0, 8, 0)]), S_UNSUPP);
}

#[test]
fn without_room_for_a_status_nothing_is_written_anywhere() {
    let mut bench = Bench::started(|_| ());
    bench.header(T_IN, 0);
    for parts in [
        &[IN][..],
        &[IN, Part::Write(RAM, 1)],
        &[IN, Part::Write(u64::MAX, 1)],
        &[Part::Read(HEADER, 16), Part::Read(DATA, 512)],
        &[IN, Part::Write(STATUS, 0)],
    ] {
        let before = bench.bytes(HEADER, 0x1_0000);
        bench.rings[0].add(parts);
        bench.notify(0);
        assert_eq!(bench.rings[0].take_used().unwrap().1, 0, "{parts:?}");
        assert_eq!(bench.bytes(HEADER, 0x1_0000), before, "{parts:?}");
    }
}

#[test]
fn data_may_lie_on_the_ring_or_on_itself() {
    let mut bench = Bench::started(|_| ());
    // The status is in the middle of what is read, twice the same memory.
    let parts = [IN, Part::Write(DATA, 512), Part::Write(DATA, 512), Part::Write(DATA + 5, 1)];
    let (_, written) = bench.request(T_IN, 2, &parts);
    assert_eq!(written, 1025);
    assert_eq!(bench.bytes(DATA + 5, 1), [S_OK]);
    // What is read comes from the image over the descriptors: the next turn sees what it sees.
    let parts = [IN, Part::Write(bench.rings[0].descriptors(), 4096), OUT];
    bench.header(T_IN, 0);
    bench.rings[0].add(&parts);
    bench.notify(0);
    bench.reset();
    bench.start_with_all();
    assert_eq!(bench.read(1, 512), (S_OK, 513));
}

#[test]
fn a_request_longer_than_the_disk_is_refused_before_anything_is_read() {
    let mut bench = Bench::started(|_| ());
    // Every part is RAM, the same one; together they are more than the disk has.
    let mut parts = vec![IN];
    parts.extend([Part::Write(DATA, 0x1_0000); 100]);
    parts.push(OUT);
    bench.mem.write(DATA, &[0xee; 0x1_0000]).unwrap();
    let (status, _) = bench.request(T_IN, 0, &parts);
    assert_eq!(status, S_IOERR);
    assert_eq!(bench.bytes(DATA, 0x1_0000), [0xee; 0x1_0000]);
}

#[test]
fn a_chain_that_is_broken_breaks_the_queue_and_not_the_device() {
    let mut bench = Bench::started(|_| ());
    let endless = trapline_testkit::virtio::Descriptor {
        addr: DATA,
        len: 512,
        flags: DESC_WRITE | trapline_testkit::virtio::DESC_NEXT,
        next: 200,
    };
    bench.rings[0].describe(200, endless);
    bench.rings[0].offer(200);
    bench.notify(0);
    assert_eq!(std::mem::take(&mut *bench.events.broken.lock()), 1);
    assert_eq!(bench.rings[0].take_used(), None);
    bench.reset();
    bench.start_with_all();
    assert_eq!(bench.read(0, 512), (S_OK, 513));
}
