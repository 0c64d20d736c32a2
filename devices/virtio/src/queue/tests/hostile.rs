//! Drivers that break the rules of a ring: what can go back does, and nothing else happens; what
//! cannot retires the queue.

use trapline_testkit::virtio::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor};

use super::*;

const TABLE: u64 = BUFFERS + 0x1000;

fn descriptor(flags: u16, next: u16) -> Descriptor {
    Descriptor { addr: BUFFERS, len: 4, flags, next }
}

fn table(len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr: TABLE, len, flags: DESC_INDIRECT | flags, next }
}

/// The chain of `head` goes back with nothing written, and the queue goes on.
fn goes_back(mut pair: Pair, head: u16, why: &str) {
    pair.driver.offer(head);
    assert_eq!(pair.serve(), 0, "{why}: the device sees nothing of it");
    assert_eq!(pair.log.take(), [Event::Used], "{why}");
    assert_eq!(pair.driver.take_used(), Some((head.into(), 0)), "{why}");
    pair.driver.describe(7, descriptor(0, 0));
    pair.driver.offer(7);
    assert_eq!(pair.serve(), 1, "{why}: the queue goes on");
}

/// The queue is retired, and stays so.
fn retires(pair: &Pair, why: &str) {
    assert_eq!(pair.serve(), 0, "{why}");
    assert_eq!(pair.log.take(), [Event::Broken], "{why}");
    assert!(!pair.queue.is_live(), "{why}");
    assert_eq!(pair.driver.used_index(), 0, "{why}: nothing is published");
    assert_eq!((pair.serve(), pair.log.take()), (0, vec![]), "{why}");
}

#[test]
fn a_buffer_to_read_behind_one_to_write_goes_back() {
    let pair = started(0);
    pair.driver.describe(0, descriptor(DESC_WRITE | DESC_NEXT, 1));
    pair.driver.describe(1, descriptor(0, 0));
    goes_back(pair, 0, "read after write");

    let pair = started(INDIRECT_DESC);
    pair.driver.describe(0, descriptor(DESC_WRITE | DESC_NEXT, 1));
    pair.driver.describe(1, table(16, 0, 0));
    pair.driver.describe_at(TABLE, 0, descriptor(0, 0));
    goes_back(pair, 0, "read after write, in a table");
}

#[test]
fn a_chain_longer_than_32_bits_goes_back() {
    let pair = started(0);
    for index in 0..2 {
        let len = 0x8000_0000;
        let flags = if index == 0 { DESC_NEXT } else { 0 };
        pair.driver.describe(index, Descriptor { addr: 0, len, flags, next: 1 });
    }
    goes_back(pair, 0, "4 GiB");
}

#[test]
fn bad_indirect_tables_go_back() {
    let all_next = |entries: u16| {
        move |pair: &Pair| {
            pair.driver.describe(0, table(u32::from(entries) * 16, 0, 0));
            for index in 0..entries {
                let next = (index + 1) % entries;
                pair.driver.describe_at(TABLE, index, descriptor(DESC_NEXT, next));
            }
        }
    };
    type Case = (&'static str, Box<dyn Fn(&Pair)>);
    let cases: Vec<Case> = vec![
        ("empty", Box::new(|pair| pair.driver.describe(0, table(0, 0, 0)))),
        (
            "no whole number of descriptors",
            Box::new(|pair| pair.driver.describe(0, table(24, 0, 0))),
        ),
        (
            "not RAM",
            Box::new(|pair| pair.driver.describe(0, Descriptor { addr: RAM, ..table(16, 0, 0) })),
        ),
        (
            "at the end of addresses",
            Box::new(|pair| {
                pair.driver.describe(0, Descriptor { addr: u64::MAX - 7, ..table(16, 0, 0) });
            }),
        ),
        (
            "both flags",
            Box::new(|pair| {
                pair.driver.describe(0, table(16, DESC_NEXT, 1));
                pair.driver.describe_at(TABLE, 0, descriptor(0, 0));
                pair.driver.describe(1, descriptor(0, 0));
            }),
        ),
        (
            "nested",
            Box::new(|pair| {
                pair.driver.describe(0, table(16, 0, 0));
                pair.driver.describe_at(TABLE, 0, table(16, 0, 0));
            }),
        ),
        (
            "next outside of the table",
            Box::new(|pair| {
                pair.driver.describe(0, table(16, 0, 0));
                pair.driver.describe_at(TABLE, 0, descriptor(DESC_NEXT, 1));
            }),
        ),
        ("a loop of one", Box::new(all_next(1))),
        ("a loop of four", Box::new(all_next(4))),
        (
            "longer than any chain may be",
            Box::new(|pair| {
                pair.driver.describe(0, table(2000 * 16, 0, 0));
                for index in 0..2000 {
                    let flags = if index == 1999 { 0 } else { DESC_NEXT };
                    pair.driver.describe_at(TABLE, index, descriptor(flags, index + 1));
                }
            }),
        ),
    ];
    for (why, prepare) in cases {
        let pair = started(INDIRECT_DESC);
        prepare(&pair);
        goes_back(pair, 0, why);
    }
    let pair = started(0);
    pair.driver.describe(0, table(16, 0, 0));
    pair.driver.describe_at(TABLE, 0, descriptor(0, 0));
    goes_back(pair, 0, "a table that was not negotiated");
}

#[test]
fn chains_without_an_end_retire_the_queue() {
    for (why, chain) in [
        ("a loop of one", &[0][..]),
        ("a loop of two", &[1, 0]),
        ("next outside of the table", &[SIZE]),
        ("next far outside of the table", &[1, u16::MAX]),
    ] {
        let mut pair = started(0);
        for (index, next) in (0..).zip(chain) {
            pair.driver.describe(index, descriptor(DESC_NEXT, *next));
        }
        pair.driver.offer(0);
        retires(&pair, why);
    }
}

#[test]
fn a_head_out_of_range_retires_the_queue() {
    for head in [SIZE, u16::MAX] {
        let mut pair = started(0);
        pair.driver.offer(head);
        retires(&pair, "head out of range");
    }
}

#[test]
fn a_head_that_the_device_has_already_retires_the_queue() {
    let mut pair = started(0);
    pair.driver.describe(0, descriptor(0, 0));
    pair.driver.offer(0);
    let kept = pair.queue.serve().unwrap().pop();
    pair.driver.offer(0);
    retires(&pair, "head in flight");
    drop(kept);
}

#[test]
fn an_index_that_jumps_ahead_or_back_retires_the_queue() {
    for index in [SIZE + 1, 0x8000, u16::MAX] {
        let pair = started(0);
        pair.driver.set_avail_index(index);
        retires(&pair, "index jump");
    }
    // A whole queue at once is none.
    let mut pair = started(0);
    for head in 0..SIZE {
        pair.driver.describe(head, descriptor(0, 0));
        pair.driver.offer(head);
    }
    assert_eq!(pair.serve(), usize::from(SIZE));
}

#[test]
fn buffers_that_are_not_ram_are_the_devices_to_answer() {
    let mut pair = started(0);
    let far = u64::MAX - 3;
    for (addr, len) in [(RAM, 4), (RAM - 2, 4), (far, 4), (far, 8)] {
        pair.driver.add(&[Part::Read(addr, len), Part::Write(addr, len)]);
        let mut serving = pair.queue.serve().unwrap();
        let chain = serving.pop().unwrap();
        let mut buf = [0; 4];
        assert_eq!(chain.read_at(&pair.mem, 0, &mut buf), Err(ChainError::NotRam));
        assert_eq!(chain.write_at(&pair.mem, 0, &buf), Err(ChainError::NotRam));
        assert_eq!(chain.readable_slices(&pair.mem, 0..4).unwrap_err(), ChainError::NotRam);
        assert_eq!(chain.writable_slices(&pair.mem, 0..4).unwrap_err(), ChainError::NotRam);
        serving.complete(chain, 0);
        drop(serving);
        pair.driver.take_used().unwrap();
    }
    // The part that is RAM can be reached.
    pair.driver.add(&[Part::Write(RAM - 2, 4)]);
    let mut serving = pair.queue.serve().unwrap();
    let chain = serving.pop().unwrap();
    assert_eq!(chain.write_at(&pair.mem, 0, &[1, 2]), Ok(()));
    let end = u64::MAX;
    assert_eq!(chain.write_at(&pair.mem, end, &[1, 2]), Err(ChainError::TooShort));
    serving.complete(chain, 2);
}

#[test]
fn a_device_that_gives_up_retires_its_queue() {
    let mut pair = started(0);
    pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    let mut serving = pair.queue.serve().unwrap();
    let chain = serving.pop().unwrap();
    serving.fail();
    serving.complete(chain, 1);
    assert!(serving.pop().is_none());
    drop(serving);
    assert_eq!((pair.log.take(), pair.driver.used_index()), (vec![Event::Broken], 0));
}
