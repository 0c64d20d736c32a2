//! Raw images: plain files, files in memory, loop devices, with and without the page cache.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on says where"
)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use support::{Driver, ENGINES, folder, image, pattern};
use trapline_block::{Disk, DiskOptions, Error, Failure, Format, Request, Zeroes};

const LEN: u64 = 4 << 20;

/// A loop device, for as long as this lives. `None` where there is none to be had.
struct Loop(String);

impl Loop {
    fn new(path: &std::path::Path, sector: &str) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--show", "-f", "--sector-size", sector])
            .arg(path)
            .output()
            .ok()?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Writes and reads here and there, and compares with what a plain array would have.
fn storm(options: &DiskOptions) {
    for engine in ENGINES {
        let mut driver = Driver::new(options, engine);
        let mut model = driver.read(0, 1 << 20).unwrap();
        let mut random = pattern(7, 4096).into_iter().map(usize::from);
        for round in 0..60 {
            let mut number = || random.next().unwrap() + random.next().unwrap() * 256;
            let (start, sectors) = (number() % 2000, 1 + number() % 40);
            let start = if round % 3 == 0 { start / 8 * 8 } else { start };
            let len = sectors.min(2048 - start) * 512;
            let data = pattern(round, len);
            driver.write_as(start as u64 * 512, &data, round % 5 == 0).unwrap();
            model[start * 512..][..len].copy_from_slice(&data);
            if round % 10 == 3 {
                let range = start as u64 * 512..(start * 512 + len) as u64;
                let zeroes = Zeroes { range, unmap: round % 20 == 3 };
                driver.request(Request::WriteZeroes(vec![zeroes])).unwrap();
                model[start * 512..][..len].fill(0);
            }
            let from = number() % 1024;
            let len = (1 + number() % 1024) * 512;
            let read = driver.read(from as u64 * 512, len).unwrap();
            assert!(read == model[from * 512..][..len], "{options:?} {engine:?} round {round}");
            if round % 8 == 0 {
                driver.request(Request::Flush).unwrap();
            }
        }
        assert!(driver.read(0, 1 << 20).unwrap() == model);
        drop(driver);
        // Whoever opens it afterwards finds the same.
        let mut again = Driver::new(options, engine);
        assert!(again.read(0, 1 << 20).unwrap() == model);
    }
}

#[test]
fn a_file_has_what_was_written() {
    let folder = folder();
    let path = image(folder.path(), "a.img", LEN, &pattern(1, 5000));
    storm(&DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(&path) });
    assert_eq!(path.metadata().unwrap().len(), LEN, "no write made it longer");
}

#[test]
fn a_file_in_memory_has_what_was_written() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = image(folder.path(), "a.img", LEN, &[]);
    storm(&DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(&path) });
    // Without anybody else's help.
    let mut driver = Driver::new(&DiskOptions::new(&path), ENGINES[0]);
    let buffers = driver.buffers(&[(0, 4096)]);
    let done = driver.queue.submit(1, Request::Read { offset: 0, buffers });
    assert!(matches!(done, Some(Ok(()))));
    assert!(matches!(driver.queue.submit(2, Request::Flush), Some(Ok(()))));
}

#[test]
fn what_the_page_cache_has_is_read_at_once() {
    let folder = folder();
    let path = image(folder.path(), "a.img", LEN, &pattern(1, 8192));
    let _cached = fs::read(&path).unwrap();
    let mut driver = Driver::new(&DiskOptions::new(&path), ENGINES[0]);
    let buffers = driver.buffers(&[(0, 4096), (0x2000, 4096)]);
    let done = driver.queue.submit(1, Request::Read { offset: 0, buffers });
    assert!(matches!(done, Some(Ok(()))));
    let mut half = [0; 4096];
    driver.mem.read(0x2000, &mut half).unwrap();
    assert_eq!(half[..], pattern(1, 8192)[4096..]);
}

#[test]
fn without_the_page_cache_everything_is_the_same() {
    let folder = folder();
    let path = image(folder.path(), "a.img", LEN, &pattern(1, 5000));
    let raw = DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(&path) };
    let direct = DiskOptions { direct: true, ..raw.clone() };
    storm(&direct);
    // A last block that is not whole stays so.
    let path = image(folder.path(), "b.img", LEN + 512 * 3, &[]);
    let mut driver = Driver::new(&DiskOptions { path: path.clone(), ..direct }, ENGINES[0]);
    driver.write(LEN + 512, &[7; 1024]).unwrap();
    assert_eq!(driver.read(LEN, 1536).unwrap()[512..], [7; 1024]);
    assert_eq!(path.metadata().unwrap().len(), LEN + 512 * 3);
}

#[test]
fn block_devices_are_disks() {
    let folder = folder();
    for sector in ["512", "4096"] {
        let path = image(folder.path(), sector, LEN, &[]);
        let Some(device) = Loop::new(&path, sector) else {
            eprintln!("no loop device to be had: not tested");
            return;
        };
        let options = DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(&device.0) };
        storm(&options);
        let direct = DiskOptions { direct: true, ..options };
        storm(&direct);
        let disk = Disk::open(&direct).unwrap();
        assert_eq!(disk.capacity(), LEN);
        assert_eq!(disk.topology().logical_block.to_string(), sector);
        assert!(disk.can_discard());
        assert!(!disk.can_erase(), "a loop device cannot");
        assert!(disk.resize(LEN * 2).is_err(), "a device has the size it has");
        disk.resize(LEN / 2).unwrap();
        assert_eq!(disk.capacity(), LEN / 2);
        drop(disk);
        let mut driver = Driver::new(&direct, ENGINES[0]);
        driver.write(0, &pattern(3, 64 << 10)).unwrap();
        driver.request(Request::Discard(vec![4096..32 << 10])).unwrap();
        assert_eq!(driver.read(0, 4096).unwrap(), pattern(3, 64 << 10)[..4096]);
    }
}

#[test]
fn discarded_space_is_given_back_and_reads_as_zeroes() {
    let folder = folder();
    let data = pattern(1, LEN as usize);
    for engine in ENGINES {
        let path = image(folder.path(), "a.img", LEN, &data);
        let mut driver = Driver::new(&DiskOptions::new(&path), engine);
        assert!(driver.disk.can_discard());
        driver.request(Request::Flush).unwrap();
        let before = path.metadata().unwrap().blocks();
        driver.request(Request::Discard(vec![1 << 20..2 << 20, 3 << 20..4 << 20])).unwrap();
        assert!(path.metadata().unwrap().blocks() <= before - 2048, "in units of 512 bytes");
        assert_eq!(driver.read(1 << 20, 1 << 20).unwrap(), vec![0; 1 << 20]);
        let zeroes = vec![
            Zeroes { range: 512..1024, unmap: false },
            Zeroes { range: 2 << 20..3 << 20, unmap: true },
        ];
        driver.request(Request::WriteZeroes(zeroes)).unwrap();
        let first = driver.read(0, 2048).unwrap();
        assert_eq!(first[..512], data[..512]);
        assert_eq!(first[512..1024], [0; 512]);
        assert_eq!(first[1024..], data[1024..2048]);
        assert_eq!(driver.read(2 << 20, 1 << 20).unwrap(), vec![0; 1 << 20]);
        let blocks = path.metadata().unwrap().blocks();
        assert!(blocks <= before - 3 * 2048, "what may be unmapped is: {before} {blocks}");
    }
}

#[test]
fn requests_beyond_the_end_and_writes_to_what_is_read_only_fail() {
    let folder = folder();
    let path = image(folder.path(), "a.img", 4096 + 100, &[]);
    let mut driver = Driver::new(&DiskOptions::new(&path), ENGINES[0]);
    assert_eq!(driver.disk.capacity(), 4096, "whole sectors only");
    let end = u64::MAX - 511;
    assert!(matches!(driver.read(4096, 512), Err(Failure::OutOfRange)));
    assert!(matches!(driver.read(3584, 1024), Err(Failure::OutOfRange)));
    assert!(matches!(driver.write(end, &[0; 1024]), Err(Failure::OutOfRange)));
    let backwards = std::ops::Range { start: 1024, end: 512 };
    for range in [4096..8192, 0..end, backwards] {
        let discard = Request::Discard(vec![0..512, range.clone()]);
        assert!(matches!(driver.request(discard), Err(Failure::OutOfRange)));
        let zeroes = Request::WriteZeroes(vec![Zeroes { range, unmap: true }]);
        assert!(matches!(driver.request(zeroes), Err(Failure::OutOfRange)));
    }
    for (range, outcome) in [(0..8192, Failure::OutOfRange), (0..512, Failure::Unsupported)] {
        let erased = driver.request(Request::Erase(vec![range])).unwrap_err();
        assert_eq!(erased.to_string(), outcome.to_string(), "a file's bytes can be anywhere");
    }
    drop(driver);

    let options = DiskOptions { read_only: true, ..DiskOptions::new(&path) };
    let mut driver = Driver::new(&options, ENGINES[0]);
    assert!(!driver.disk.can_discard());
    assert!(matches!(driver.write(0, &[1; 512]), Err(Failure::ReadOnly)));
    assert!(matches!(driver.request(Request::Discard(vec![0..512])), Err(Failure::ReadOnly)));
    assert!(matches!(driver.request(Request::Erase(vec![0..512])), Err(Failure::ReadOnly)));
    driver.request(Request::Flush).unwrap();
    assert_eq!(driver.read(0, 512).unwrap(), [0; 512]);
    assert!(driver.disk.resize(512).is_err());
}

#[test]
fn a_disk_grows_and_shrinks_with_its_image() {
    let folder = folder();
    let path = image(folder.path(), "a.img", 4096, &[]);
    let mut driver = Driver::new(&DiskOptions::new(&path), ENGINES[0]);
    driver.disk.resize(1 << 20).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 1 << 20);
    driver.write((1 << 20) - 512, &[5; 512]).unwrap();
    driver.disk.resize(8192).unwrap();
    assert!(matches!(driver.read(8192, 512), Err(Failure::OutOfRange)));
    assert!(matches!(driver.disk.resize(1000), Err(Error::Resize { size: 1000, .. })));
    assert_eq!(driver.disk.capacity(), 8192);
    assert!(!driver.disk.look_again().unwrap());
    fs::File::options().write(true).open(&path).unwrap().set_len(16384 + 1).unwrap();
    assert!(driver.disk.look_again().unwrap());
    assert_eq!(driver.disk.capacity(), 16384);
    assert_eq!(driver.read(8192, 8192).unwrap(), [0; 8192]);
}

#[test]
fn an_image_that_others_make_shorter_fails_and_one_that_vanishes_does_not() {
    let folder = folder();
    for engine in ENGINES {
        for direct in [false, true] {
            let path = image(folder.path(), "a.img", 1 << 20, &pattern(1, 1 << 20));
            let options = DiskOptions { direct, ..DiskOptions::new(&path) };
            let mut driver = Driver::new(&options, engine);
            fs::File::options().write(true).open(&path).unwrap().set_len(8192 + 512).unwrap();
            let failed = driver.read(8192, 4096).unwrap_err();
            let Failure::Io(error) = failed else { panic!("{failed}") };
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            assert_eq!(driver.read(8192, 512).unwrap(), pattern(1, 1 << 20)[8192..][..512]);

            fs::remove_file(&path).unwrap();
            driver.write(4096, &[9; 4096]).unwrap();
            driver.request(Request::Flush).unwrap();
            assert_eq!(driver.read(4096, 4096).unwrap(), [9; 4096]);
        }
    }
}

/// What a guest could write to have its image taken for another the next time.
fn qcow2_header() -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header
}

#[test]
fn a_guest_cannot_turn_a_raw_image_into_another_format() {
    let folder = folder();
    let others: [&[u8]; 4] =
        [b"QFI\xfb\0\0\0\x02", b"KDMV", b"# Disk DescriptorFile\n", b"vhdxfile"];
    for (direct, engine) in [(false, ENGINES[0]), (true, ENGINES[0]), (false, ENGINES[1])] {
        let path = image(folder.path(), "a.img", 1 << 20, &pattern(1, 1 << 20));
        let options = DiskOptions { direct, ..DiskOptions::new(&path) };
        let mut driver = Driver::new(&options, engine);
        for first in others {
            let mut data = pattern(2, 4096);
            data[..first.len()].copy_from_slice(first);
            let failed = driver.write(0, &data).unwrap_err();
            assert!(matches!(failed, Failure::Io(_)), "{failed}");
        }
        assert_eq!(fs::read(&path).unwrap(), pattern(1, 1 << 20), "nothing of it was written");
        // A boot sector is none of them.
        let mut data = pattern(3, 8192);
        driver.write_as(0, &data, direct).unwrap();
        assert_eq!(driver.read(0, 8192).unwrap(), data);
        data[512..1024].copy_from_slice(&qcow2_header());
        driver.write(512, &data[512..2048]).unwrap();
        assert_eq!(driver.read(0, 8192).unwrap(), data);
        drop(driver);
        // Whoever says that it is raw has it raw, and nobody guesses.
        let raw = DiskOptions { format: Some(Format::Raw), ..options };
        let mut driver = Driver::new(&raw, engine);
        driver.write(0, &qcow2_header()).unwrap();
        drop(driver);
        let mut driver = Driver::new(&raw, engine);
        assert_eq!(driver.read(0, 512).unwrap(), qcow2_header());
    }
}

#[test]
fn hundreds_of_requests_at_a_time_all_complete() {
    let folder = folder();
    let data = pattern(1, LEN as usize);
    let path = image(folder.path(), "a.img", LEN, &data);
    for engine in ENGINES {
        for direct in [false, true] {
            let options = DiskOptions { direct, ..DiskOptions::new(&path) };
            let mut driver = Driver::new(&options, engine);
            let mut under_way = 0;
            for n in 0..600u64 {
                let buffers = driver.buffers(&[(n * 4096, 4096)]);
                let request = match n % 3 {
                    0 => Request::Flush,
                    _ => Request::Read { offset: n * 4096, buffers },
                };
                match driver.queue.submit(n, request) {
                    None => under_way += 1,
                    Some(outcome) => outcome.unwrap(),
                }
            }
            let outcomes = driver.outcomes(under_way);
            assert!(outcomes.into_values().all(|outcome| outcome.is_ok()));
            assert!(driver.queue.is_empty());
            for n in (0..600u64).filter(|n| n % 3 != 0) {
                let mut page = vec![0; 4096];
                driver.mem.read(n * 4096, &mut page).unwrap();
                let at = n as usize * 4096;
                assert!(page == data[at..at + 4096], "page {n}");
            }
        }
    }
}

#[test]
fn what_is_no_disk_is_refused_in_a_sentence() {
    let folder = folder();
    let path = folder.path();
    let open = |name: &str| {
        let options = DiskOptions::new(path.join(name));
        Disk::open(&options).unwrap_err().to_string().replace(&*path.to_string_lossy(), "DIR")
    };
    assert_eq!(
        open("none"),
        "cannot open disk image DIR/none: No such file or directory (os error 2)"
    );
    assert_eq!(open("."), "DIR/. is a directory and no disk image; a guest can have it by --9p");
    Command::new("mkfifo").arg(path.join("pipe")).status().unwrap();
    assert_eq!(open("pipe"), "disk image DIR/pipe is neither a regular file nor a block device");
    image(path, "vhdx", 512, b"vhdxfile");
    assert_eq!(
        open("vhdx"),
        "disk image DIR/vhdx looks like a VHDX image, which is not supported; convert it (qemu-img \
         convert), or add ,format=raw if it is not"
    );
    image(path, "vmdk", 512, b"# Disk DescriptorFile\nversion=1\n");
    assert_eq!(
        open("vmdk"),
        "disk image DIR/vmdk is in VMDK format, which can only be read; add ,ro"
    );
    image(path, "empty", 0, b"");
    let options = DiskOptions::new(path.join("empty"));
    assert_eq!(Disk::open(&options).unwrap().capacity(), 0);
    let zero = DiskOptions::new("/dev/zero");
    let said = Disk::open(&zero).unwrap_err().to_string();
    assert_eq!(said, "disk image /dev/zero is neither a regular file nor a block device");
}

#[test]
fn a_disk_says_who_it_is() {
    let folder = folder();
    let path = image(folder.path(), "a.img", 512, &[]);
    let disk = Disk::open(&DiskOptions { serial: Some("x7".into()), ..DiskOptions::new(&path) });
    assert_eq!(&disk.unwrap().serial(), b"x7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let serial = Disk::open(&DiskOptions::new(&path)).unwrap().serial();
    let stat = path.metadata().unwrap();
    let mut expected = format!("{}{}{}", stat.dev(), stat.rdev(), stat.ino()).into_bytes();
    expected.resize(20, 0);
    assert_eq!(serial[..], expected);
}
