//! Images in a format: qcow2 with and without backing files, and VMDK, judged by `qemu-img`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on says where"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Driver, ENGINES, folder, image, pattern, qemu_img};
use trapline_block::{Disk, DiskOptions, Engine, Error, Failure, Format, Request, Zeroes};

const MIB: u64 = 1 << 20;

/// Makes an image; `None` where there is no `qemu-img` to make and to judge it.
fn create(folder: &Path, name: &str, args: &[&str]) -> Option<PathBuf> {
    let path = folder.join(name);
    let text = path.to_str().unwrap();
    let all: Vec<&str> = ["create", "-q"]
        .into_iter()
        .chain(args.iter().take_while(|arg| !arg.ends_with('M')).copied())
        .chain([text])
        .chain(args.iter().skip_while(|arg| !arg.ends_with('M')).copied())
        .collect();
    let Some((made, said)) = qemu_img(&all) else {
        eprintln!("there is no qemu-img: not tested");
        return None;
    };
    assert!(made, "qemu-img: {said}");
    Some(path)
}

fn check(path: &Path) {
    let (whole, said) = qemu_img(&["check", path.to_str().unwrap()]).unwrap();
    assert!(whole, "{said}");
}

/// That two images have the same in them.
fn compare(a: &Path, format: &str, b: &Path) {
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let (same, said) = qemu_img(&["compare", "-f", format, "-F", "raw", a, b]).unwrap();
    assert!(same, "{said}");
}

/// Writes, zeroes and discards here and there; returns what has to be there afterwards.
fn storm(driver: &mut Driver, mut model: Vec<u8>) -> Vec<u8> {
    let mut random = pattern(11, 4096).into_iter().map(u64::from);
    let sectors = model.len() as u64 / 512;
    for round in 0..80 {
        let mut number = || random.next().unwrap() + random.next().unwrap() * 256;
        let start = number() * 7 % sectors;
        let len = (1 + number() % 300).min(sectors - start);
        let (from, until) = (start * 512, (start + len) * 512);
        let place = from as usize..until as usize;
        match round % 8 {
            0 => {
                let zeroes = Zeroes { range: from..until, unmap: round % 16 == 0 };
                driver.request(Request::WriteZeroes(vec![zeroes])).unwrap();
                model[place].fill(0);
            }
            1 => {
                driver.request(Request::Discard(vec![from..until])).unwrap();
                // Nobody knows what is there now, until it is written again.
                let data = pattern(round, place.len());
                driver.write(from, &data).unwrap();
                model[place].copy_from_slice(&data);
            }
            2 => driver.request(Request::Flush).unwrap(),
            3 => assert!(driver.read(from, place.len()).unwrap() == model[place], "{round}"),
            _ => {
                let data = pattern(round, place.len());
                driver.write_as(from, &data, round % 5 == 0).unwrap();
                model[place].copy_from_slice(&data);
            }
        }
    }
    assert!(driver.read(0, model.len().min(4 << 20)).unwrap() == model[..model.len().min(4 << 20)]);
    model
}

#[test]
fn qcow2_has_what_was_written_and_stays_whole() {
    let folder = folder();
    let kinds: [&[&str]; 4] = [
        &["-f", "qcow2", "4M"],
        &["-f", "qcow2", "-o", "cluster_size=4096", "4M"],
        &["-f", "qcow2", "-o", "compat=0.10", "4M"],
        &["-f", "qcow2", "-o", "lazy_refcounts=on,extended_l2=off", "4M"],
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        let Some(path) = create(folder.path(), &format!("{n}.qcow2"), kind) else { return };
        for direct in [false, true] {
            let options = DiskOptions { direct, ..DiskOptions::new(&path) };
            let mut driver = Driver::new(&options, Engine::Ring);
            assert_eq!(driver.disk.capacity(), 4 * MIB);
            assert!(!driver.disk.can_erase(), "nobody knows where its bytes have been");
            let erased = driver.request(Request::Erase(vec![0..512; 1]));
            assert!(matches!(erased, Err(Failure::Unsupported)));
            let model = driver.read(0, 4 << 20).unwrap();
            let model = storm(&mut driver, model);
            driver.request(Request::Flush).unwrap();
            drop(driver);
            check(&path);
            let raw = image(folder.path(), "model.img", 4 * MIB, &model);
            compare(&path, "qcow2", &raw);
        }
    }
}

#[test]
fn a_flush_leaves_an_image_that_is_whole_without_us() {
    let folder = folder();
    let Some(path) = create(folder.path(), "a.qcow2", &["-f", "qcow2", "8M"]) else { return };
    let mut driver = Driver::new(&DiskOptions::new(&path), Engine::Ring);
    let data = pattern(1, 1 << 20);
    driver.write(3 * MIB, &data).unwrap();
    driver.request(Request::Flush).unwrap();
    // As somebody finds it after our end without notice.
    let copy = folder.path().join("copy.qcow2");
    fs::copy(&path, &copy).unwrap();
    driver.write_as(5 * MIB, &data, true).unwrap();
    let durable = folder.path().join("durable.qcow2");
    fs::copy(&path, &durable).unwrap();
    for (copy, places) in [(copy, &[3 * MIB][..]), (durable, &[3 * MIB, 5 * MIB])] {
        let (sound, said) = qemu_img(&["check", copy.to_str().unwrap()]).unwrap();
        assert!(sound || said.contains("leaked clusters"), "{said}");
        let mut other = Driver::new(&DiskOptions::new(&copy), Engine::Ring);
        for &place in places {
            assert!(other.read(place, data.len()).unwrap() == data, "{place:#x}");
        }
    }
}

#[test]
fn backing_files_shine_through_and_are_never_written() {
    let folder = folder();
    let data = pattern(5, 3 << 20);
    let base = image(folder.path(), "base.img", 3 * MIB, &data);
    let on = |name: &str, below: &str, format: &str, size: &str| {
        let args = ["-f", "qcow2", "-b", below, "-F", format, size];
        create(folder.path(), name, &args)
    };
    let Some(middle) = on("middle.qcow2", "base.img", "raw", "3M") else { return };
    let top = on("top.qcow2", "middle.qcow2", "qcow2", "4M").unwrap();
    for direct in [false, true] {
        let options = DiskOptions { direct, ..DiskOptions::new(&top) };
        let mut driver = Driver::new(&options, Engine::Ring);
        let mut model = driver.read(0, 4 << 20).unwrap();
        if !direct {
            assert!(model[..3 << 20] == data);
            assert!(model[3 << 20..].iter().all(|byte| *byte == 0));
        }
        // Part of a cluster: the rest of it has to come from below.
        driver.write(MIB + 1024, &[0x77; 512]).unwrap();
        model[(1 << 20) + 1024..][..512].fill(0x77);
        let model = storm(&mut driver, model);
        drop(driver);
        check(&top);
        check(&middle);
        compare(&top, "qcow2", &image(folder.path(), "model.img", 4 * MIB, &model));
        assert!(fs::read(&base).unwrap() == data);
    }
}

#[test]
fn images_without_end_or_beginning_are_refused() {
    let folder = folder();
    let Some(path) = create(folder.path(), "a.qcow2", &["-f", "qcow2", "4M"]) else { return };
    let text = path.to_str().unwrap();
    let rebase = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2", text];
    assert!(qemu_img(&rebase).unwrap().0);
    let refusal = |path: &Path, read_only| {
        let options = DiskOptions { read_only, ..DiskOptions::new(path) };
        Disk::open(&options).unwrap_err()
    };
    let said = refusal(&path, true).to_string();
    assert!(said.contains("more than 32 images behind one another"), "{said}");
    let error = refusal(&path, false);
    assert!(matches!(error, Error::InUse { .. }), "it would be its own reader: {error}");

    for below in ["none.img", "/dev/zero", "."] {
        let rebase = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", below, text];
        assert!(qemu_img(&rebase).unwrap().0);
        let said = refusal(&path, false);
        assert!(matches!(said, Error::Format { format: Format::Qcow2, .. }), "{said}");
    }

    let bytes = fs::read(&path).unwrap();
    for len in [8, 72, 104, 512, 65536, bytes.len() / 2] {
        fs::write(&path, &bytes[..len.min(bytes.len())]).unwrap();
        // Some of it may be readable; nothing of it may be our end.
        if let Ok(disk) = Disk::open(&DiskOptions::new(&path)) {
            let mut driver = Driver::of(&disk, Engine::Ring);
            let _ = driver.read(0, 4096);
            let _ = driver.write(0, &[1; 4096]);
        }
    }
}

#[test]
fn a_corrupt_image_fails_requests_and_nothing_else() {
    let folder = folder();
    let Some(path) = create(folder.path(), "a.qcow2", &["-f", "qcow2", "4M"]) else { return };
    let mut driver = Driver::new(&DiskOptions::new(&path), Engine::Ring);
    driver.write(0, &pattern(1, 1 << 20)).unwrap();
    drop(driver);
    let whole = fs::read(&path).unwrap();
    let mut failed = 0;
    for round in 0..40u64 {
        let mut bytes = whole.clone();
        // Behind the header: tables, and what they lead to.
        let places = pattern(round, 64);
        for place in places.chunks(4) {
            let at = 104 + u32::from_le_bytes(place.try_into().unwrap()) as usize % 0x6_0000;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x81;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let Ok(disk) = Disk::open(&DiskOptions::new(&path)) else {
            failed += 1;
            continue;
        };
        let mut driver = Driver::of(&disk, Engine::Ring);
        failed += u32::from(driver.read(0, 1 << 20).is_err());
        failed += u32::from(driver.write(2 * MIB, &[1; 65536]).is_err());
        failed += u32::from(driver.request(Request::Flush).is_err());
    }
    assert!(failed > 0, "some of that must have been noticed");
}

#[test]
fn qcow2_disks_grow() {
    let folder = folder();
    let Some(path) = create(folder.path(), "a.qcow2", &["-f", "qcow2", "4M"]) else { return };
    let mut driver = Driver::new(&DiskOptions::new(&path), Engine::Ring);
    driver.write(0, &[1; 4096]).unwrap();
    driver.disk.resize(1 << 30).unwrap();
    driver.write((1 << 30) - 4096, &[2; 4096]).unwrap();
    assert_eq!(driver.read(1 << 29, 4096).unwrap(), [0; 4096]);
    assert_eq!(driver.read((1 << 30) - 4096, 4096).unwrap(), [2; 4096]);
    assert_eq!(driver.read(0, 4096).unwrap(), [1; 4096]);
    drop(driver);
    check(&path);
    assert_eq!(Disk::open(&DiskOptions::new(&path)).unwrap().capacity(), 1 << 30);
}

#[test]
fn vmdk_can_be_read_and_nothing_else() {
    let folder = folder();
    let data = pattern(3, 2 << 20);
    let raw = image(folder.path(), "a.img", 2 * MIB, &data);
    for kind in ["monolithicSparse", "monolithicFlat", "streamOptimized"] {
        let path = folder.path().join(format!("{kind}.vmdk"));
        let option = format!("subformat={kind}");
        let (from, to) = (raw.to_str().unwrap(), path.to_str().unwrap());
        let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &option, from, to];
        let Some((made, said)) = qemu_img(&args) else { return };
        assert!(made, "{said}");
        let refused = Disk::open(&DiskOptions::new(&path)).unwrap_err();
        let options = DiskOptions { read_only: true, ..DiskOptions::new(&path) };
        if kind != "monolithicFlat" {
            for refused in [refused, Disk::open(&options).unwrap_err()] {
                assert!(
                    refused.to_string().contains("looks like a sparse VMDK image"),
                    "{refused}"
                );
            }
            continue;
        }
        assert!(matches!(refused, Error::ReadOnlyFormat { .. }), "{refused}");
        let mut driver = Driver::of(&Disk::open(&options).unwrap(), Engine::Ring);
        assert!(driver.read(0, 2 << 20).unwrap() == data);
        assert!(matches!(driver.write(0, &[0; 512]), Err(Failure::ReadOnly)));
    }
}

#[test]
fn many_requests_of_a_format_are_under_way_at_once() {
    let folder = folder();
    let Some(path) = create(folder.path(), "a.qcow2", &["-f", "qcow2", "4M"]) else { return };
    for engine in ENGINES {
        let mut driver = Driver::new(&DiskOptions::new(&path), engine);
        for n in 0..256u64 {
            driver.mem.write(n * 4096, &[n as u8; 4096]).unwrap();
            let buffers = driver.buffers(&[(n * 4096, 4096)]);
            let offset = n * 97 % 256 * 4096;
            let write = Request::Write { offset, buffers, durable: n % 64 == 0 };
            assert!(driver.queue.submit(n, write).is_none());
        }
        assert!(driver.outcomes(256).into_values().all(|outcome| outcome.is_ok()));
        for n in 0..256u64 {
            let page = driver.read(n * 97 % 256 * 4096, 4096).unwrap();
            assert_eq!(page, [n as u8; 4096], "{n}");
        }
        drop(driver);
        check(&path);
    }
}
