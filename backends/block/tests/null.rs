//! A disk without an image, as of `null-co`: zeroes to read, and nothing that is written stays.

#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on says where"
)]

mod support;

use support::{Driver, ENGINES, pattern};
use trapline_block::{Disk, DiskOptions, Format, Request, Zeroes};

const GIB: u64 = 1 << 30;

/// What such a disk is made of. There is nothing of this name, nor in that folder.
fn options() -> DiskOptions {
    DiskOptions { format: Some(Format::Null), ..DiskOptions::new("/nowhere/null-co://") }
}

#[test]
fn it_reads_as_zeroes_whatever_was_written() {
    for engine in ENGINES {
        let mut driver = Driver::new(&options(), engine);
        assert_eq!(driver.disk.capacity(), GIB);
        for offset in [0, 512, GIB / 2, GIB - 9 * 4096] {
            // What memory has from the last round is not zero.
            driver.write(offset, &pattern(1, 9 * 4096)).unwrap();
            let read = driver.read(offset, 9 * 4096).unwrap();
            assert!(read.iter().all(|byte| *byte == 0), "{offset}");
        }
        let zeroes = Zeroes { range: 0..GIB, unmap: true };
        assert!(driver.disk.can_erase());
        for request in [
            Request::Flush,
            Request::Discard(vec![(0..GIB)]),
            Request::Erase(vec![(0..GIB)]),
            Request::WriteZeroes(vec![zeroes]),
        ] {
            driver.request(request).unwrap();
        }
    }
}

#[test]
fn a_request_is_done_when_it_was_made_and_buffers_are_filled_to_their_ends() {
    for engine in ENGINES {
        let mut driver = Driver::new(&options(), engine);
        driver.mem.write(0x1000, &[0xff; 0x3000]).unwrap();
        let buffers = driver.buffers(&[(0x1001, 4098), (0x3000, 510)]);
        let done = driver.queue.submit(7, Request::Read { offset: 0, buffers });
        assert!(matches!(done, Some(Ok(()))), "nobody has to wait for it: {done:?}");
        let mut memory = vec![1; 0x3000];
        driver.mem.read(0x1000, &mut memory).unwrap();
        let expected: Vec<u8> = (0x1000..0x4000_u64)
            .map(|at| match at {
                0x1001..0x2003 | 0x3000..0x31fe => 0,
                _ => 0xff,
            })
            .collect();
        assert!(memory == expected, "these bytes and no others");
        let buffers = driver.buffers(&[(0x1000, 4096)]);
        let write = Request::Write { offset: 0, buffers, durable: true };
        assert!(matches!(driver.queue.submit(8, write), Some(Ok(()))));
        assert!(driver.queue.completed().is_none());
    }
}

#[test]
fn everybody_has_one_of_their_own_whose_size_can_be_changed() {
    let (one, other) = (Disk::open(&options()).unwrap(), Disk::open(&options()).unwrap());
    for size in [512, 0, 4 * GIB] {
        one.resize(size).unwrap();
        assert_eq!((one.capacity(), other.capacity()), (size, GIB));
        assert!(!one.look_again().unwrap(), "that is all there is to see");
        assert_eq!(one.capacity(), size);
    }
}
