//! Every message, as Linux' client sends it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use support::errno::*;
use support::{Bytes, Client, NOFID, ROOT, u32_at, u64_at};
use tempfile::tempdir;
use trapline_ninep::{MSIZE_MAX, ShareError, ShareOptions, kind};
use trapline_testkit::ninep::Field::{Str, U16, U32, U64};

const RDONLY: u32 = 0;
const WRONLY: u32 = 1;
const RDWR: u32 = 2;
const CREAT: u32 = 0o100;
const EXCL: u32 = 0o200;
const TRUNC: u32 = 0o1000;
const APPEND: u32 = 0o2000;

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn a_session_begins_with_a_version_and_forgets_the_one_before() {
    let dir = tempdir().unwrap();
    let client = Client::stranger(&ShareOptions::new(dir.path(), "t"));
    assert_eq!(client.attach(ROOT, ""), Err(EPROTO), "nothing is settled yet");
    let version = |size, name: &[u8]| client.ask(kind::TVERSION, &[U32(size), Str(name)]);
    assert_eq!(&version(8192, b"9P2000.u").unwrap()[4..], b"\x07\x00unknown");
    assert_eq!(client.attach(ROOT, ""), Err(EPROTO));
    assert_eq!(version(4095, b"9P2000.L"), Err(EMSGSIZE));
    assert_eq!(client.version(4096), Ok(4096));
    assert_eq!(client.version(u32::MAX), Ok(MSIZE_MAX));
    client.attach(ROOT, "").unwrap();
    assert_eq!(client.attach(ROOT, ""), Err(EBADF), "the number is in use");
    client.version(8192).unwrap();
    assert_eq!(client.stat(ROOT), Err(EBADF));
    client.attach(ROOT, "").unwrap();
    client.server.reset();
    assert_eq!(client.stat(ROOT), Err(EPROTO));
}

#[test]
fn what_is_no_message_of_this_protocol_is_refused() {
    let dir = tempdir().unwrap();
    let client = Client::new(dir.path());
    assert_eq!(client.ask(kind::TAUTH, &[U32(9), Str(b"root"), Str(b"")]), Err(EOPNOTSUPP));
    let with_afid = [U32(9), U32(3), Str(b"root"), Str(b""), U32(0)];
    assert_eq!(client.ask(kind::TATTACH, &with_afid), Err(EOPNOTSUPP));
    for unknown in [0, 6, 7, 106, 112, 124, 126, 255] {
        assert_eq!(client.ask(unknown, &[]), Err(EOPNOTSUPP));
    }
    for short in [kind::TLOPEN, kind::TWALK, kind::TGETATTR, kind::TLOCK, kind::TFLUSH] {
        assert_eq!(client.ask(short, &[]), Err(EINVAL));
    }
    // A message that says it is longer than it is, and one without a header.
    let long = [99, 0, 0, 0, kind::TCLUNK, 1, 0, 0, 0, 0, 0];
    let answer = client.server.answer(&long, &mut Bytes::default(), 100).unwrap();
    assert_eq!(answer.head, [11, 0, 0, 0, kind::RLERROR, 1, 0, 90, 0, 0, 0]);
    assert_eq!(client.server.answer(&long[..6], &mut Bytes::default(), 100), None);
    // There is no room for the reply, or not even for an error.
    let stat = |room| {
        let stat = trapline_testkit::ninep::message(kind::TGETATTR, 1, &[U32(ROOT), U64(0)]);
        client.server.answer(&stat, &mut Bytes::default(), room)
    };
    assert_eq!(stat(160).unwrap().head[4], kind::TGETATTR + 1);
    assert_eq!(stat(159).unwrap().head[4], kind::RLERROR);
    assert_eq!(stat(10), None);
    assert_eq!(client.ask(kind::TFLUSH, &[U16(7)]), Ok(vec![]));
}

#[test]
fn a_walk_goes_as_far_as_there_are_names() {
    let dir = tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), "text").unwrap();
    let client = Client::new(dir.path());
    assert_eq!(client.walk(ROOT, 1, &["a", "b", "file"]), Ok(3));
    assert_eq!(client.walk(ROOT, 2, &["a", "none", "file"]), Ok(1));
    assert_eq!(client.stat(2), Err(EBADF), "which makes no fid");
    assert_eq!(client.walk(ROOT, 2, &["none"]), Err(ENOENT));
    assert_eq!(client.walk(ROOT, 1, &["a"]), Err(EBADF), "the number is in use");
    assert_eq!(client.walk(1, 2, &["below"]), Err(ENOTDIR));
    assert_eq!(client.walk(1, 2, &[]), Ok(0), "a copy");
    client.clunk(1).unwrap();
    assert_eq!(client.stat(2).unwrap().0, 4);
    assert_eq!(client.walk(ROOT, ROOT, &["a"]), Ok(1), "it can move itself");
    assert_eq!(client.walk(ROOT, 3, &["b"]), Ok(1));
    assert_eq!(client.walk(3, 4, &["..", ".", "b", "file"]), Ok(4));
    let seventeen = ["."; 17];
    assert_eq!(client.walk(3, 5, &seventeen), Err(EINVAL));
    assert_eq!(client.walk(99, 5, &[]), Err(EBADF));
    assert_eq!(client.walk(3, NOFID, &[]), Err(EBADF));
    assert_eq!((client.clunk(2), client.clunk(2)), (Ok(vec![]), Err(EBADF)));
    // A subfolder can be the root.
    client.attach(6, "a/b").unwrap();
    assert_eq!(client.walk(6, 7, &["file"]), Ok(1));
    assert_eq!(client.attach(8, "a/none"), Err(ENOENT));
}

#[test]
fn files_are_made_written_and_read() {
    let dir = tempdir().unwrap();
    let client = Client::new(dir.path());
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "new", RDWR | CREAT | EXCL, 0o100_640).unwrap();
    assert_eq!(client.write(1, 3, b"hello"), Ok(5));
    assert_eq!(client.read(1, 0, 100).unwrap(), b"\0\0\0hello");
    assert_eq!(client.read(1, 6, 100).unwrap(), b"lo");
    assert_eq!(client.read(1, 8, 100).unwrap(), b"");
    assert_eq!(client.read(1, u64::MAX, 1), Err(EINVAL));
    assert_eq!(client.ask(kind::TFSYNC, &[U32(1), U32(0)]), Ok(vec![]));
    assert_eq!(client.ask(kind::TFSYNC, &[U32(1), U32(1)]), Ok(vec![]));
    let host = fs::metadata(dir.path().join("new")).unwrap();
    assert_eq!((host.len(), host.mode()), (8, 0o100_640), "whatever the umask is");
    assert_eq!(client.open(1, RDONLY), Err(EBADF), "it is open");
    for (fid, flags) in [(2, WRONLY | TRUNC), (3, RDONLY)] {
        client.walk(ROOT, fid, &["new"]).unwrap();
        client.open(fid, flags).unwrap();
    }
    assert_eq!(client.stat(3).unwrap().0, 0);
    assert_eq!(client.read(2, 0, 1), Err(EBADF), "it is write-only");
    assert_eq!(client.write(3, 0, b"x"), Err(EBADF), "it is read-only");
    // What is at the end goes to the end.
    client.write(2, 0, b"12").unwrap();
    client.walk(ROOT, 4, &["new"]).unwrap();
    client.open(4, WRONLY | APPEND).unwrap();
    client.write(4, 0, b"34").unwrap();
    assert_eq!(client.read(3, 0, 9).unwrap(), b"1234");
    // A file that is there is taken, unless it has to be new.
    client.walk(ROOT, 5, &[]).unwrap();
    assert_eq!(client.create(5, "new", RDONLY | CREAT | EXCL, 0o644), Err(EEXIST));
    client.create(5, "new", RDONLY | CREAT, 0o600).unwrap();
    assert_eq!(client.read(5, 0, 9).unwrap(), b"1234");
    // What is not open cannot be read.
    client.walk(ROOT, 6, &["new"]).unwrap();
    assert_eq!((client.read(6, 0, 1), client.write(6, 0, b"x")), (Err(EBADF), Err(EBADF)));
    assert_eq!(client.open(6, 3), Err(EINVAL));
    for name in [".", ".."] {
        assert_eq!(client.create(ROOT, name, CREAT, 0o644), Err(EEXIST));
    }
}

#[test]
fn reads_and_writes_are_as_long_as_a_message_lets_them_be() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("long"), vec![1; 10_000]).unwrap();
    let client = Client::stranger(&ShareOptions::new(dir.path(), "t"));
    client.version(4096).unwrap();
    client.attach(ROOT, "").unwrap();
    client.walk(ROOT, 1, &["long"]).unwrap();
    client.open(1, RDWR).unwrap();
    assert_eq!(client.read(1, 0, u32::MAX).unwrap().len(), 4096 - 11);
    // The data of a write is not where the message says.
    let fields = [U32(1), U64(0), U32(50)];
    let mut few = Bytes { sent: vec![0; 49], ..Bytes::default() };
    assert_eq!(client.send(kind::TWRITE, &fields, &mut few), Err(14));
    assert_eq!(fs::read(dir.path().join("long")).unwrap(), vec![1; 10_000]);
}

#[test]
fn an_open_file_outlives_its_name_and_its_permissions() {
    let dir = tempdir().unwrap();
    let client = Client::new(dir.path());
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "f", RDWR | CREAT, 0o400).unwrap();
    client.write(1, 0, b"long text").unwrap();
    client.setattr(1, 8, (0, 0, 0, 4, 0)).unwrap();
    client.unlink(ROOT, "f", 0).unwrap();
    assert_eq!(client.read(1, 0, 100).unwrap(), b"long");
    assert_eq!(client.stat(1).unwrap().0, 4);
    assert_eq!(client.remove(1), Err(ENOENT), "it has no name any more");
    assert_eq!(client.clunk(1), Err(EBADF), "the fid is gone all the same");
}

#[test]
fn a_folder_is_listed_in_parts_and_its_offsets_stay() {
    let dir = tempdir().unwrap();
    for n in 0..300 {
        fs::write(dir.path().join(format!("file-with-a-name-{n:03}")), "").unwrap();
    }
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
    let client = Client::new(dir.path());
    client.walk(ROOT, 1, &[]).unwrap();
    assert_eq!(client.readdir(1, 0, 4096), Err(EBADF), "it is not open");
    client.open(1, RDONLY | 0o200_000).unwrap();
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let some = client.readdir(1, offset, 1000).unwrap();
        let Some(last) = some.last() else { break };
        offset = last.1;
        all.extend(some);
    }
    let mut names: Vec<_> = all.iter().map(|(name, ..)| name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), all.len()), (304, 304), "each name once, . and .. among them");
    let kind = |name: &str| all.iter().find(|entry| entry.0 == name).unwrap().2;
    assert_eq!((kind("sub"), kind("link"), kind("file-with-a-name-007")), (4, 10, 8));
    // From any offset on it goes on as before, also when files have gone.
    let (at, rest) = (all[100].1, &all[101..]);
    let next = client.readdir(1, at, 4096).unwrap();
    assert_eq!(next[..], rest[..next.len()]);
    for gone in [50, 120] {
        fs::remove_file(dir.path().join(&all[gone].0)).ok();
    }
    let without = |entry: &&(String, u64, u8)| entry.0 != all[120].0;
    let next = client.readdir(1, at, 4096).unwrap();
    let names = |entries: &[(String, u64, u8)]| {
        entries.iter().filter(without).map(|entry| entry.0.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&next)[..], names(rest)[..next.len()]);
    // An entry that does not fit is no end of the folder.
    assert_eq!(client.readdir(1, 0, 24), Err(EINVAL));
    assert_eq!(client.readdir(1, u64::MAX, 4096), Err(EINVAL));
    assert_eq!(client.read(1, 0, 10), Err(EISDIR));
    assert_eq!(client.ask(kind::TFSYNC, &[U32(1), U32(0)]), Ok(vec![]));
    client.walk(ROOT, 2, &["sub"]).unwrap();
    assert_eq!(client.open(2, RDWR), Err(EISDIR));
    client.walk(ROOT, 3, &["link"]).unwrap();
    assert_eq!(client.open(3, RDONLY), Err(ELOOP));
}

#[test]
fn attributes_are_the_hosts_and_can_be_set() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "text").unwrap();
    let client = Client::new(dir.path());
    client.walk(ROOT, 1, &["f"]).unwrap();
    let reply = client.ask(kind::TGETATTR, &[U32(1), U64(0x3fff)]).unwrap();
    let host = fs::metadata(&path).unwrap();
    assert!(matches!(u64_at(&reply, 0), 0x7ff | 0xfff));
    assert_eq!((u32_at(&reply, 21), u64_at(&reply, 33)), (host.mode(), 1));
    assert_eq!((u32_at(&reply, 25), u32_at(&reply, 29)), (host.uid(), host.gid()));
    assert_eq!((u64_at(&reply, 49), u64_at(&reply, 65)), (4, host.blocks()));
    let block = u64_at(&reply, 57);
    assert!(
        block.is_multiple_of(host.blksize()) && block > 32 << 10 && block < 64 << 10,
        "{block}"
    );
    assert_eq!(u64_at(&reply, 89), host.mtime().cast_unsigned());
    assert_eq!(u64_at(&reply, 97), host.mtime_nsec().cast_unsigned());
    // Mode, size, and times of the client's.
    client.setattr(1, 1 | 8 | 0x1b0, (0o4750, 0, 0, 2, 1_000_000)).unwrap();
    let host = fs::metadata(&path).unwrap();
    assert_eq!((host.mode() & 0o7777, host.len()), (0o4750, 2));
    assert_eq!((host.mtime(), host.mtime_nsec(), host.atime_nsec()), (1_000_000, 6, 5));
    // The host's time.
    client.setattr(1, 0x20, (0, 0, 0, 0, 0)).unwrap();
    let host = fs::metadata(&path).unwrap();
    assert!(host.mtime() > 1_000_000 && host.atime() == 1_000_000);
    let ctime = (host.ctime(), host.ctime_nsec());
    while {
        client.setattr(1, 0x40, (0, 0, 0, 0, 0)).unwrap();
        let host = fs::metadata(&path).unwrap();
        (host.ctime(), host.ctime_nsec()) == ctime
    } {}
    let owner = client.setattr(1, 2 | 4, (0, 12_345, 54_321, 0, 0));
    let host = fs::metadata(&path).unwrap();
    match is_root() {
        true => assert_eq!((owner, host.uid(), host.gid()), (Ok(vec![]), 12_345, 54_321)),
        false => assert_eq!(owner, Err(EPERM)),
    }
    // Nanoseconds that there are not in a second.
    let mut bad = vec![U32(1), U32(0x1b0), U32(0), U32(0), U32(0), U64(0)];
    bad.extend([U64(0), U64(1_000_000_000), U64(0), U64(0)]);
    assert_eq!(client.ask(kind::TSETATTR, &bad), Err(EINVAL));
}

#[test]
fn a_links_attributes_are_its_own() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "text").unwrap();
    let client = Client::new(dir.path());
    client.symlink(ROOT, "link", "f").unwrap();
    client.walk(ROOT, 1, &["link"]).unwrap();
    assert_eq!(client.readlink(1).unwrap(), "f");
    assert_eq!(client.stat(1).unwrap().1, 0o120_777);
    client.setattr(1, 0x1b0, (0, 0, 0, 0, 1_000_000)).unwrap();
    assert_eq!(fs::symlink_metadata(dir.path().join("link")).unwrap().mtime(), 1_000_000);
    assert_ne!(fs::metadata(dir.path().join("f")).unwrap().mtime(), 1_000_000);
    assert_eq!(client.setattr(1, 1, (0o600, 0, 0, 0, 0)), Err(EOPNOTSUPP));
    assert_eq!(client.setattr(1, 8, (0, 0, 0, 1, 0)), Err(ELOOP));
    client.link(ROOT, 1, "link2").unwrap();
    assert_eq!(fs::read_link(dir.path().join("link2")).unwrap(), Path::new("f"));
    client.walk(ROOT, 2, &["f"]).unwrap();
    assert_eq!(client.readlink(2), Err(EINVAL));
    assert_eq!(client.symlink(ROOT, "link", "x"), Err(EEXIST));
    let long = "x".repeat(4096);
    assert_eq!(client.symlink(ROOT, "long", &long), Err(ENAMETOOLONG));
    assert_eq!(client.symlink(ROOT, "empty", ""), Err(ENOENT));
}

#[test]
fn names_are_made_moved_and_removed() {
    let dir = tempdir().unwrap();
    let host = |name: &str| dir.path().join(name);
    let client = Client::new(dir.path());
    client.mkdir(ROOT, "d").unwrap();
    client.mkdir(ROOT, "e").unwrap();
    assert_eq!(client.mkdir(ROOT, "d"), Err(EEXIST));
    assert_eq!(fs::metadata(host("d")).unwrap().mode(), 0o040_755);
    client.walk(ROOT, 1, &["d"]).unwrap();
    client.walk(ROOT, 2, &["e"]).unwrap();
    client.mknod(1, "fifo", 0o010_644, (0, 0)).unwrap();
    client.mknod(1, "socket", 0o140_600, (0, 0)).unwrap();
    client.mknod(1, "file", 0o100_604, (0, 0)).unwrap();
    client.mknod(1, "plain", 0o604, (0, 0)).unwrap();
    assert_eq!(fs::metadata(host("d/file")).unwrap().mode(), 0o100_604);
    assert_eq!(fs::metadata(host("d/plain")).unwrap().mode(), 0o100_604);
    assert_eq!(fs::metadata(host("d/fifo")).unwrap().mode(), 0o010_644);
    assert_eq!(client.mknod(1, "dir", 0o040_755, (0, 0)), Err(EINVAL));
    let device = client.mknod(1, "null", 0o020_666, (1, 3));
    assert!(if is_root() { device.is_ok() } else { device == Err(EPERM) });
    if is_root() {
        client.walk(1, 9, &["null"]).unwrap();
        let reply = client.ask(kind::TGETATTR, &[U32(9), U64(0x7ff)]).unwrap();
        assert_eq!(u64_at(&reply, 41), 0x103);
    }
    client.walk(1, 3, &["file"]).unwrap();
    client.link(2, 3, "second").unwrap();
    assert_eq!(fs::metadata(host("e/second")).unwrap().nlink(), 2);
    assert_eq!(client.link(2, 3, "second"), Err(EEXIST));
    // A fid follows its file.
    client.renameat((1, "file"), (2, "moved")).unwrap();
    client.rename(3, ROOT, "again").unwrap();
    assert!(host("again").exists() && !host("e/moved").exists());
    client.rename(1, 2, "d").unwrap();
    client.mknod(1, "in", 0o100_600, (0, 0)).unwrap();
    assert!(host("e/d/in").exists());
    assert_eq!(client.rename(ROOT, 2, "root"), Err(EBUSY));
    assert_eq!(client.renameat((ROOT, "e"), (1, "loop")), Err(EINVAL));
    assert_eq!(client.renameat((ROOT, "none"), (1, "x")), Err(ENOENT));
    // Removing.
    assert_eq!(client.unlink(ROOT, "e", 0x200), Err(ENOTEMPTY));
    assert_eq!(client.unlink(ROOT, "e", 0), Err(EISDIR));
    assert_eq!(client.unlink(ROOT, "again", 0x200), Err(ENOTDIR));
    assert_eq!(client.unlink(ROOT, "again", 0x100), Err(EINVAL));
    client.remove(3).unwrap();
    assert!(!host("again").exists());
    client.walk(ROOT, 4, &["e", "second"]).unwrap();
    fs::rename(host("e/second"), host("by the host")).unwrap();
    client.remove(4).unwrap();
    assert!(!host("by the host").exists(), "the host's renames count as well");
    client.mkdir(2, "empty").unwrap();
    client.walk(2, 5, &["empty"]).unwrap();
    client.remove(5).unwrap();
    assert!(!host("e/empty").exists());
}

#[test]
fn extended_attributes_are_read_and_written() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let client = Client::new(dir.path());
    client.walk(ROOT, 1, &["f"]).unwrap();
    assert_eq!(client.getxattr(1, "user.a"), Err(ENODATA));
    client.setxattr(1, "user.a", b"value", 0).unwrap();
    let long = [7; 3000];
    client.setxattr(1, "user.long", &long, 1).unwrap();
    assert_eq!(client.setxattr(1, "user.long", b"x", 1), Err(EEXIST));
    assert_eq!(client.setxattr(1, "user.new", b"x", 2), Err(ENODATA));
    assert_eq!(client.setxattr(1, "user.new", b"x", 4), Err(EINVAL));
    assert_eq!(client.getxattr(1, "user.a").unwrap(), b"value");
    assert_eq!(client.getxattr(1, "user.long").unwrap(), long);
    let names = client.getxattr(1, "").unwrap();
    let mut names: Vec<_> =
        names.split(|byte| *byte == 0).filter(|n| n.starts_with(b"user")).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"user.a"[..], b"user.long"]);
    // Nothing is a value; replaced by nothing, it is removed.
    client.setxattr(1, "user.empty", b"", 0).unwrap();
    assert_eq!(client.getxattr(1, "user.empty").unwrap(), b"");
    client.setxattr(1, "user.a", b"", 2).unwrap();
    assert_eq!(client.getxattr(1, "user.a"), Err(ENODATA));
    // A part of the value is not written.
    client.walk(1, 2, &[]).unwrap();
    let create = [U32(2), Str(b"user.part"), U64(10), U32(0)];
    client.ask(kind::TXATTRCREATE, &create).unwrap();
    assert_eq!(client.write(2, 1, b"x"), Err(EINVAL), "parts come in order");
    assert_eq!(client.write(2, 0, b"12345678901"), Err(ENOSPC));
    client.write(2, 0, b"12345").unwrap();
    assert_eq!(client.clunk(2), Err(EINVAL));
    assert_eq!(client.getxattr(1, "user.part"), Err(ENODATA));
    for (name, len, error) in [
        (&b""[..], 1, ERANGE),
        (&[b'x'; 256], 1, ERANGE),
        (b"user.\0", 1, EINVAL),
        (b"user.big", 65_537, E2BIG),
    ] {
        let fields = [U32(1), Str(name), U64(len), U32(0)];
        assert_eq!(client.ask(kind::TXATTRCREATE, &fields), Err(error));
    }
}

#[test]
fn locks_are_an_owners_and_come_free_with_its_last_fid() {
    const READ: u8 = 0;
    const WRITE: u8 = 1;
    const UNLOCK: u8 = 2;
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "text").unwrap();
    let (client, other) = (Client::new(dir.path()), Client::new(dir.path()));
    for (client, fid) in [(&client, 1), (&client, 2), (&other, 1)] {
        client.walk(ROOT, fid, &["f"]).unwrap();
        client.open(fid, RDWR).unwrap();
    }
    assert_eq!(client.lock(1, WRITE, (0, 10), 100), Ok(0));
    assert_eq!(client.lock(2, WRITE, (5, 10), 100), Ok(0), "its own, by another fid");
    assert_eq!(client.lock(1, READ, (14, 1), 200), Ok(1), "another process's");
    assert_eq!(other.lock(1, READ, (9, 1), 100), Ok(1), "another guest's");
    assert_eq!(other.lock(1, READ, (15, 0), 100), Ok(0));
    assert_eq!(client.getlock(1, WRITE, (0, 0), 100), Ok((READ, 15, 0)));
    assert_eq!(client.getlock(1, WRITE, (0, 15), 100), Ok((UNLOCK, 0, 15)));
    assert_eq!(other.getlock(1, READ, (0, 0), 1), Ok((WRITE, 0, 15)));
    assert_eq!(client.lock(1, UNLOCK, (0, 5), 100), Ok(0));
    assert_eq!(other.lock(1, WRITE, (0, 5), 100), Ok(0));
    client.clunk(1).unwrap();
    assert_eq!(other.lock(1, WRITE, (5, 5), 100), Ok(1), "there is another fid");
    client.clunk(2).unwrap();
    assert_eq!(other.lock(1, WRITE, (5, 5), 100), Ok(0));
    other.server.reset();
    client.walk(ROOT, 1, &["f"]).unwrap();
    assert_eq!(client.lock(1, READ, (0, 0), 1), Err(EBADF), "it is not open");
    client.open(1, RDONLY).unwrap();
    assert_eq!(client.lock(1, READ, (0, 0), 1), Ok(0), "who is gone has none");
    assert_eq!(client.lock(1, WRITE, (0, 0), 1), Ok(2), "it cannot be written");
    assert_eq!(client.lock(1, 3, (0, 0), 1), Err(EINVAL));
    assert_eq!(client.lock(1, READ, (u64::MAX, 1), 1), Err(EINVAL));
}

#[test]
fn a_file_system_says_what_room_it_has() {
    let dir = tempdir().unwrap();
    let reply = Client::new(dir.path()).ask(kind::TSTATFS, &[U32(ROOT)]).unwrap();
    let host = rustix::fs::statfs(dir.path()).unwrap();
    assert_eq!(reply.len(), 60);
    assert_eq!(u64::from(u32_at(&reply, 0)), host.f_type as u64);
    assert_eq!(u64_at(&reply, 8), host.f_blocks);
    assert_eq!(u64_at(&reply, 32), host.f_files);
    assert_eq!(u32_at(&reply, 56), 255);
}

#[test]
fn what_is_to_be_read_only_is_not_changed() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "text").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let before = fs::metadata(dir.path().join("f")).unwrap();
    let client = Client::read_only(dir.path());
    client.walk(ROOT, 1, &["f"]).unwrap();
    for flags in [WRONLY, RDWR, RDONLY | TRUNC] {
        assert_eq!(client.open(1, flags), Err(EROFS));
    }
    let refused = [
        client.create(ROOT, "new", RDONLY | CREAT, 0o644),
        client.mkdir(ROOT, "new"),
        client.symlink(ROOT, "new", "f"),
        client.mknod(ROOT, "new", 0o100_644, (0, 0)),
        client.link(ROOT, 1, "new"),
        client.rename(1, ROOT, "new"),
        client.renameat((ROOT, "f"), (ROOT, "new")),
        client.unlink(ROOT, "f", 0),
        client.unlink(ROOT, "d", 0x200),
        client.setattr(1, 1, (0o777, 0, 0, 0, 0)),
        client.setattr(1, 8, (0, 0, 0, 0, 0)),
        client.setxattr(1, "user.a", b"x", 0),
    ];
    assert!(refused.iter().all(|outcome| *outcome == Err(EROFS)), "{refused:?}");
    client.open(1, RDONLY | CREAT).unwrap();
    assert_eq!(client.write(1, 0, b"x"), Err(EROFS));
    assert_eq!(client.read(1, 0, 9).unwrap(), b"text");
    assert_eq!(client.remove(1), Err(EROFS));
    let after = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((after.mode(), after.ctime_nsec()), (before.mode(), before.ctime_nsec()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_folder_that_has_vanished_is_an_error_to_the_guest() {
    let dir = tempdir().unwrap();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("f"), "text").unwrap();
    let client = Client::new(&share);
    client.walk(ROOT, 1, &["f"]).unwrap();
    client.open(1, RDONLY).unwrap();
    fs::remove_dir_all(&share).unwrap();
    assert_eq!(client.walk(ROOT, 2, &["f"]), Err(ENOENT));
    assert_eq!(client.mkdir(ROOT, "d"), Err(ENOENT));
    assert_eq!(client.read(1, 0, 9).unwrap(), b"text");
    // One of the same name is another one.
    fs::create_dir(&share).unwrap();
    fs::write(share.join("f"), "text").unwrap();
    assert_eq!(client.walk(ROOT, 2, &["f"]), Err(ENOENT));
}

#[test]
fn what_cannot_be_shared_is_one_sentence() {
    let dir = tempdir().unwrap();
    let (file, none) = (dir.path().join("f"), dir.path().join("none"));
    fs::write(&file, "").unwrap();
    let refused = |path: &Path| {
        trapline_ninep::Share::open(&ShareOptions::new(path, "t")).unwrap_err().to_string()
    };
    let said = format!("cannot share {}: No such file or directory (os error 2)", none.display());
    assert_eq!(refused(&none), said);
    assert_eq!(
        refused(&file),
        format!("cannot share {}: Not a directory (os error 20)", file.display())
    );
    let mapped = ShareOptions {
        security: trapline_ninep::SecurityModel::Mapped,
        ..ShareOptions::new("/proc", "t")
    };
    let error = trapline_ninep::Share::open(&mapped).unwrap_err();
    assert!(matches!(error, ShareError::NoAttributes { .. }), "{error}");
}

#[test]
fn modes_are_as_wanted_whatever_the_folder_hands_down() {
    let dir = tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    let client = Client::new(dir.path());
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    client.ask(kind::TMKDIR, &[U32(ROOT), Str(b"d"), U32(0o1777), U32(NOFID)]).unwrap();
    assert_eq!(mode("d"), 0o3777, "the folder's group goes on");
    client.create(ROOT, "f", RDONLY | CREAT, 0o4711).unwrap();
    assert_eq!(mode("f"), 0o4711);
}
