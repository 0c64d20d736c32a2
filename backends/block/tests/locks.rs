//! Two programs and one image.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on says where"
)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use support::{folder, image, qemu_img};
use trapline_block::{Disk, DiskOptions, Error};

#[test]
fn an_image_has_one_writer_or_any_number_of_readers() {
    let folder = folder();
    let path = image(folder.path(), "a.img", 1 << 20, &[]);
    let write = DiskOptions::new(&path);
    let read = DiskOptions { read_only: true, ..write.clone() };
    let refused = |options: &DiskOptions| match Disk::open(options) {
        Err(Error::InUse { writing, .. }) => assert_eq!(writing, !options.read_only),
        other => panic!("{other:?}"),
    };
    let writer = Disk::open(&write).unwrap();
    refused(&write);
    refused(&read);
    let said = Disk::open(&write).unwrap_err().to_string();
    let said = said.replace(&*folder.path().to_string_lossy(), "DIR");
    let expected =
        "disk image DIR/a.img is in use by another program; two writers would destroy it";
    assert_eq!(said, expected);
    drop(writer);
    let readers = [Disk::open(&read).unwrap(), Disk::open(&read).unwrap()];
    refused(&write);
    drop(readers);
    Disk::open(&write).unwrap();
}

#[test]
fn qemu_and_we_keep_out_of_each_others_way() {
    let folder = folder();
    let path = image(folder.path(), "a.img", 1 << 20, &[]);
    let text = path.to_str().unwrap();
    let copy = path.with_extension("copy");
    let reads = || qemu_img(&["convert", "-f", "raw", "-O", "raw", text, copy.to_str().unwrap()]);
    let Some((free, said)) = reads() else {
        eprintln!("there is no qemu-img: not tested");
        return;
    };
    assert!(free, "{said}");
    let ours = Disk::open(&DiskOptions::new(&path)).unwrap();
    let (free, said) = reads().unwrap();
    assert!(!free && said.contains("lock"), "{said}");
    drop(ours);
    let reader = DiskOptions { read_only: true, ..DiskOptions::new(&path) };
    let ours = Disk::open(&reader).unwrap();
    assert!(reads().unwrap().0, "readers do not mind each other");
    drop(ours);
    theirs(&path);
}

/// Opens the image while QEMU's storage daemon has it.
fn theirs(path: &Path) {
    let socket = path.with_extension("sock");
    let node = format!("driver=file,node-name=f,filename={}", path.display());
    let export = format!(
        "type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={}",
        socket.display()
    );
    let mut command = Command::new("qemu-storage-daemon");
    let Ok(mut daemon) = command.args(["--blockdev", &node, "--export", &export]).spawn() else {
        eprintln!("there is no qemu-storage-daemon: not tested");
        return;
    };
    // It listens when it has the image, or has ended.
    while !socket.exists() && daemon.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let read = DiskOptions { read_only: true, ..DiskOptions::new(path) };
    let refusals = [Disk::open(&DiskOptions::new(path)), Disk::open(&read)];
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for refusal in refusals {
        assert!(matches!(refusal, Err(Error::InUse { .. })), "{refusal:?}");
    }
    Disk::open(&DiskOptions::new(path)).unwrap();
}

#[test]
fn the_files_behind_an_image_are_locked_as_well() {
    let folder = folder();
    let base = image(folder.path(), "base.img", 1 << 20, &[]);
    let top = folder.path().join("top.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw"];
    let Some((made, said)) = qemu_img(&[&args[..], &[top.to_str().unwrap()]].concat()) else {
        eprintln!("there is no qemu-img: not tested");
        return;
    };
    assert!(made, "{said}");
    let disk = Disk::open(&DiskOptions::new(&top)).unwrap();
    assert!(matches!(Disk::open(&DiskOptions::new(&base)), Err(Error::InUse { .. })));
    let reader = DiskOptions { read_only: true, ..DiskOptions::new(&base) };
    Disk::open(&reader).unwrap();
    drop(disk);
    let writer = Disk::open(&DiskOptions::new(&base)).unwrap();
    let error = Disk::open(&DiskOptions::new(&top)).unwrap_err();
    let Error::InUse { path, .. } = &error else { panic!("{error}") };
    assert!(path.ends_with("base.img"), "{error}");
    drop(writer);
    let file = std::fs::File::options().write(true).open(&base).unwrap();
    file.write_all_at(&[1], 0).unwrap();
    Disk::open(&DiskOptions::new(&top)).unwrap();
}
