//! Owners, modes and devices that only the guest sees.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use support::errno::*;
use support::{Client, NOFID, ROOT, u64_at};
use trapline_ninep::kind;
use trapline_testkit::ninep::Field::{Str, U32, U64};

const RDWR: u32 = 2;
const CREAT: u32 = 0o100;

/// A client whose user is `uid`.
fn attached(client: &Client, fid: u32, uid: u32) {
    let fields = [U32(fid), U32(NOFID), Str(b"user"), Str(b""), U32(uid)];
    client.ask(kind::TATTACH, &fields).unwrap();
}

#[test]
fn new_files_are_the_guests_users_and_on_the_host_ours() {
    let dir = tempfile::tempdir().unwrap();
    let me = fs::metadata(dir.path()).unwrap().uid();
    let client = Client::mapped(dir.path());
    attached(&client, 1, 1000);
    attached(&client, 2, 1000);
    let create = [U32(1), Str(b"f"), U32(RDWR | CREAT), U32(0o4644), U32(100)];
    client.ask(kind::TLCREATE, &create).unwrap();
    assert_eq!(client.stat(1), Ok((0, 0o104_644, 1000, 100)));
    let host = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((host.mode(), host.uid()), (0o100_600, me));
    client.ask(kind::TMKDIR, &[U32(2), Str(b"d"), U32(0o1777), U32(100)]).unwrap();
    client.walk(ROOT, 3, &["d"]).unwrap();
    assert_eq!(client.stat(3).unwrap().1, 0o041_777);
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode(), 0o040_700);
    // Somebody else's, as only the guest sees.
    client.setattr(1, 1 | 2 | 4, (0o600, 7, 8, 0, 0)).unwrap();
    assert_eq!(client.stat(1), Ok((0, 0o100_600, 7, 8)));
    // What was there before is as it is.
    fs::write(dir.path().join("old"), "").unwrap();
    client.walk(ROOT, 4, &["old"]).unwrap();
    assert_eq!(client.stat(4).unwrap().2, me);
}

#[test]
fn links_and_devices_are_files_that_stand_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::mapped(dir.path());
    client.symlink(ROOT, "link", "/somewhere").unwrap();
    client.walk(ROOT, 1, &["link"]).unwrap();
    assert_eq!(
        (client.stat(1).unwrap().1, client.readlink(1)),
        (0o120_777, Ok("/somewhere".to_owned()))
    );
    assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_file());
    assert_eq!(client.open(1, 0), Err(ELOOP));
    client.mknod(ROOT, "null", 0o020_666, (1, 3)).unwrap();
    client.walk(ROOT, 2, &["null"]).unwrap();
    let reply = client.ask(kind::TGETATTR, &[U32(2), U64(0x7ff)]).unwrap();
    assert_eq!((client.stat(2).unwrap().1, u64_at(&reply, 41)), (0o020_666, 0x103));
    assert_eq!(client.open(2, RDWR), Err(ENXIO));
    assert!(fs::symlink_metadata(dir.path().join("null")).unwrap().is_file());
    assert_eq!(client.symlink(ROOT, "empty", ""), Err(ENOENT));
    assert_eq!(client.symlink(ROOT, "long", &"x".repeat(4096)), Err(ENAMETOOLONG));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "what failed has left nothing");
    // The listing does not say what the files are not.
    client.walk(ROOT, 3, &[]).unwrap();
    client.open(3, 0).unwrap();
    let entries = client.readdir(3, 0, 4096).unwrap();
    assert!(entries.iter().all(|(name, _, kind)| name.starts_with('.') || *kind == 0));
}

#[test]
fn what_is_kept_beside_a_file_is_not_the_guests() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::mapped(dir.path());
    client.mknod(ROOT, "f", 0o100_644, (0, 0)).unwrap();
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.setxattr(1, "user.own", b"x", 0).unwrap();
    let names = client.getxattr(1, "").unwrap();
    assert!(names.split(|byte| *byte == 0).any(|name| name == b"user.own"));
    assert!(!names.windows(6).any(|part| part == b"virtfs"));
    assert_eq!(client.getxattr(1, "user.virtfs.mode"), Err(ENODATA));
    assert_eq!(client.setxattr(1, "user.virtfs.mode", b"1234", 0), Err(EACCES));
    // A file is no folder whatever they say, and a folder is one.
    let mode = 0o040_755_u32.to_le_bytes();
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.path().join("f"), "user.virtfs.mode", &mode, none).unwrap();
    assert_eq!(client.stat(1).unwrap().1 & 0o170_000, 0o100_000);
    // QEMU's, which it has as little-endian numbers.
    let owner = 1234_u32.to_le_bytes();
    rustix::fs::setxattr(dir.path().join("f"), "user.virtfs.uid", &owner, none).unwrap();
    assert_eq!(client.stat(1).unwrap().2, 1234);
}
