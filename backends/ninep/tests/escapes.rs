//! Ways out of a shared folder: none is one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use support::errno::*;
use support::{Client, Outcome, ROOT, u64_at};
use trapline_ninep::{ShareOptions, kind};
use trapline_testkit::ninep::Field::{U32, U64};

const RDWR: u32 = 2;
const CREAT: u32 = 0o100;
const TRUNC: u32 = 0o1000;
const SECRET: &[u8] = b"the secret";

/// A folder that is shared, and what is around it.
struct World {
    dir: tempfile::TempDir,
    around: BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64, u64)>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (outside, share) = (dir.path().join("outside"), dir.path().join("share"));
        fs::create_dir_all(outside.join("folder")).unwrap();
        fs::write(outside.join("secret"), SECRET).unwrap();
        // Its name begins like the folder's.
        fs::create_dir(dir.path().join("share2")).unwrap();
        fs::write(dir.path().join("share2/secret"), SECRET).unwrap();
        fs::create_dir_all(share.join("d/e")).unwrap();
        fs::write(share.join("f"), "inside").unwrap();
        let links: [(&str, &Path); 13] = [
            ("abs", &outside),
            ("rel", Path::new("../outside")),
            ("root", Path::new("/")),
            ("chain", Path::new("rel")),
            ("d/up", Path::new("../..")),
            ("self", Path::new("/proc/self/root")),
            ("cwd", Path::new("/proc/self/cwd")),
            ("fd", Path::new("/proc/self/fd")),
            ("loop", Path::new("loop")),
            ("secret", &outside.join("secret")),
            ("rel-secret", Path::new("../outside/secret")),
            ("dangling", &outside.join("new")),
            ("inside", Path::new("d")),
        ];
        for (name, target) in links {
            symlink(target, share.join(name)).unwrap();
        }
        let mut world = Self { dir, around: BTreeMap::new() };
        world.around = world.look();
        world
    }

    fn share(&self) -> PathBuf {
        self.dir.path().join("share")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// What is around the share, with all that could be changed of it.
    fn look(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64, u64)> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![self.dir.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path == self.share() {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                let text = fs::read(&path).unwrap_or_default();
                let of = (text, meta.mode(), meta.nlink(), meta.mtime(), meta.ino());
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path, of);
            }
        }
        found
    }

    /// What has to be so whatever a client has tried.
    fn check(&self, client: &Client, way: &str) {
        assert_eq!(self.look(), self.around, "{way}: what is around the share is as it was");
        let inodes: Vec<u64> = self.around.values().map(|of| of.4).collect();
        let above = fs::metadata(self.dir.path()).unwrap().ino();
        for fid in 0..32 {
            let Ok(reply) = client.ask(kind::TGETATTR, &[U32(fid), U64(0x7ff)]) else { continue };
            let inode = u64_at(&reply, 13);
            assert!(inode != above && !inodes.contains(&inode), "{way}: fid {fid} is outside");
            let text = client.read(fid, 0, 100).unwrap_or_default();
            assert_ne!(text, SECRET, "{way}: fid {fid}");
            // Nor is anything reached from there.
            for name in ["secret", "outside", "share2"] {
                if client.walk(fid, 99, &[name]).is_ok() {
                    let reply = client.ask(kind::TGETATTR, &[U32(99), U64(0x7ff)]).unwrap();
                    client.clunk(99).unwrap();
                    assert!(!inodes.contains(&u64_at(&reply, 13)), "{way}: {name} from fid {fid}");
                }
            }
        }
    }
}

/// Paths to walk, as a client gives them.
fn paths(outside: &Path) -> Vec<Vec<String>> {
    let absolute = outside.to_str().unwrap();
    let secret = format!("{absolute}/secret");
    let long = ["..", "..", "..", "..", "..", "..", "..", "..", "..", "..", "..", "..", "etc"];
    let lists: Vec<Vec<&str>> = vec![
        vec![".."],
        vec!["..", ".."],
        vec!["..", "outside"],
        vec!["..", "outside", "secret"],
        vec![".", "..", "outside"],
        vec!["d", "..", "..", "outside"],
        vec!["d", "e", "..", "..", "..", "outside", "secret"],
        long.to_vec(),
        vec!["../outside"],
        vec!["../outside/secret"],
        vec!["d/../../outside"],
        vec!["/"],
        vec!["/etc"],
        vec![absolute],
        vec![&secret],
        vec!["abs"],
        vec!["abs", "secret"],
        vec!["abs", "..", "outside", "secret"],
        vec!["rel", "secret"],
        vec!["rel", "."],
        vec!["rel", ".."],
        vec!["root", "etc"],
        vec!["chain", "secret"],
        vec!["d", "up", "outside"],
        vec!["self", "etc"],
        vec!["cwd", "."],
        vec!["fd", "0"],
        vec!["loop", "x"],
        vec!["secret"],
        vec!["rel-secret"],
        vec!["dangling"],
        vec!["inside", "e"],
        vec!["..\0"],
        vec!["..\0", "outside"],
        vec!["%2e%2e", "outside"],
        vec!["..", "share2"],
        vec!["..", "share2", "secret"],
        vec!["", "outside"],
        vec![""],
        vec!["f", ".."],
        vec!["f", "..", "..", "outside"],
        vec![".. ", "outside"],
        vec!["...", "outside"],
        vec!["..\\outside"],
    ];
    lists.into_iter().map(|list| list.into_iter().map(str::to_owned).collect()).collect()
}

#[test]
fn no_path_leads_out() {
    let world = World::new();
    let paths = paths(&world.outside());
    assert!(paths.len() > 40);
    for path in &paths {
        let client = Client::new(&world.share());
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let _ = client.walk(ROOT, 1, &path);
        // Name by name, with a fid for each.
        for (fid, name) in (2..).zip(&path) {
            let from = if fid == 2 { ROOT } else { fid - 1 };
            let _ = client.walk(from, fid, &[name]);
            let _ = client.open(fid, 0);
        }
        world.check(&client, &format!("{path:?}"));
    }
}

#[test]
fn no_attachment_is_outside() {
    let world = World::new();
    let outside = world.outside();
    let absolute = outside.to_str().unwrap();
    let names =
        ["..", "../outside", absolute, "abs", "abs/secret", "d/../../outside", "/..", "//", "d/up"];
    for aname in names {
        let client = Client::new(&world.share());
        let _ = client.attach(1, aname);
        let _ = client.walk(1, 2, &[".."]);
        let _ = client.open(1, 0);
        world.check(&client, aname);
    }
}

/// What a client can do with a name, or with a fid of a link.
type Act = fn(&Client, &str) -> Vec<Outcome>;

/// Acts on names.
const ACTS: &[(&str, Act)] = &[
    ("lcreate", |client, name| {
        client.walk(ROOT, 1, &[]).unwrap();
        vec![
            client.create(1, name, RDWR | CREAT | TRUNC, 0o666),
            client.write(1, 0, b"x").map(|_| vec![]),
        ]
    }),
    ("mkdir", |client, name| vec![client.mkdir(ROOT, name)]),
    ("mknod", |client, name| vec![client.mknod(ROOT, name, 0o100_666, (0, 0))]),
    ("symlink", |client, name| vec![client.symlink(ROOT, name, "/")]),
    ("link", |client, name| {
        client.walk(ROOT, 1, &["f"]).unwrap();
        vec![client.link(ROOT, 1, name)]
    }),
    ("renameat to", |client, name| vec![client.renameat((ROOT, "f"), (ROOT, name))]),
    ("renameat from", |client, name| vec![client.renameat((ROOT, name), (ROOT, "got"))]),
    ("rename", |client, name| {
        client.walk(ROOT, 1, &["f"]).unwrap();
        vec![client.rename(1, ROOT, name)]
    }),
    ("unlinkat", |client, name| vec![client.unlink(ROOT, name, 0)]),
    ("unlinkat of a folder", |client, name| vec![client.unlink(ROOT, name, 0x200)]),
];

#[test]
fn no_name_is_made_moved_or_removed_outside() {
    let names = [
        "..",
        ".",
        "",
        "/",
        "../new",
        "../outside",
        "../outside/new",
        "../outside/secret",
        "../outside/folder",
        "abs/new",
        "abs/secret",
        "d/up/outside/new",
        "/tmp/new-by-a-guest",
        "x\0/../../outside",
    ];
    for (what, act) in ACTS {
        for name in names {
            let world = World::new();
            let client = Client::new(&world.share());
            let outcomes = act(&client, name);
            assert!(outcomes[0].is_err(), "{what} {name:?}: {outcomes:?}");
            world.check(&client, &format!("{what} {name:?}"));
        }
    }
}

#[test]
fn links_are_not_followed_by_what_is_done_to_names() {
    for (what, act) in ACTS {
        for name in ["abs", "rel", "secret", "rel-secret", "dangling", "root", "self"] {
            let world = World::new();
            let client = Client::new(&world.share());
            let _ = act(&client, name);
            world.check(&client, &format!("{what} {name}"));
        }
    }
}

#[test]
fn a_fid_of_a_link_is_the_link() {
    let world = World::new();
    let client = Client::new(&world.share());
    for name in ["abs", "secret", "rel-secret", "root"] {
        client.walk(ROOT, 1, &[name]).unwrap();
        assert_eq!(client.open(1, 0), Err(ELOOP));
        assert_eq!(client.open(1, RDWR | TRUNC), Err(ELOOP));
        let _ = client.setattr(1, 1, (0o777, 0, 0, 0, 0));
        let _ = client.setattr(1, 2 | 4, (0, 1, 1, 0, 0));
        let _ = client.setattr(1, 8, (0, 0, 0, 0, 0));
        let _ = client.setattr(1, 0x1b0, (0, 0, 0, 0, 1));
        let _ = client.setxattr(1, "user.a", b"x", 0);
        let _ = client.getxattr(1, "");
        // As a folder it is none.
        assert_eq!(client.mkdir(1, "new"), Err(ENOTDIR));
        assert_eq!(client.create(1, "new", RDWR | CREAT, 0o666), Err(ENOTDIR));
        assert_eq!(client.link(1, ROOT, "new"), Err(ENOTDIR));
        assert_eq!(client.renameat((ROOT, "f"), (1, "f")), Err(ENOTDIR));
        assert_eq!(client.unlink(1, "secret", 0), Err(ENOTDIR));
        client.link(ROOT, 1, "another").unwrap();
        client.unlink(ROOT, "another", 0).unwrap();
        world.check(&client, name);
        client.clunk(1).unwrap();
    }
}

#[test]
fn what_the_host_moves_out_is_no_way_out() {
    let world = World::new();
    let client = Client::new(&world.share());
    client.walk(ROOT, 1, &["d", "e"]).unwrap();
    client.walk(ROOT, 2, &["f"]).unwrap();
    fs::rename(world.share().join("d/e"), world.outside().join("e")).unwrap();
    fs::rename(world.share().join("f"), world.outside().join("f")).unwrap();
    assert_eq!(client.walk(1, 3, &[".."]), Err(ENOENT));
    assert_eq!(client.walk(1, 3, &["..", "secret"]), Err(ENOENT));
    assert_eq!(client.remove(2), Err(ENOENT));
    assert_eq!(client.rename(1, ROOT, "back"), Err(ENOENT));
    assert!(world.outside().join("f").exists() && world.outside().join("e").exists());
    // One that takes a removed file's name is not that file.
    client.walk(ROOT, 4, &[]).unwrap();
    client.create(4, "g", RDWR | CREAT, 0o600).unwrap();
    fs::remove_file(world.share().join("g")).unwrap();
    fs::write(world.share().join("g (deleted)"), "").unwrap();
    assert_eq!(client.remove(4), Err(ENOENT));
    assert!(world.share().join("g (deleted)").exists());
}

#[test]
fn a_folder_that_becomes_a_link_while_it_is_walked_is_no_way_out() {
    let world = World::new();
    let (share, outside) = (world.share(), world.outside());
    fs::create_dir(share.join("swap")).unwrap();
    fs::write(share.join("swap/secret"), "inside").unwrap();
    symlink(&outside, share.join("other")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                exchange(&share);
            }
        });
        let client = Client::new(&share);
        for _ in 0..3000 {
            if client.walk(ROOT, 1, &["swap", "secret"]) == Ok(2) {
                client.open(1, 0).unwrap();
                assert_eq!(client.read(1, 0, 100).unwrap(), b"inside");
            }
            let _ = client.clunk(1);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Swaps the folder and the link.
fn exchange(share: &Path) {
    let (dir, flags) = (fs::File::open(share).unwrap(), rustix::fs::RenameFlags::EXCHANGE);
    rustix::fs::renameat_with(&dir, "swap", &dir, "other", flags).unwrap();
}

#[test]
fn only_files_and_folders_are_opened_and_nobody_waits() {
    let world = World::new();
    let client = Client::new(&world.share());
    client.mknod(ROOT, "fifo", 0o010_666, (0, 0)).unwrap();
    client.mknod(ROOT, "socket", 0o140_666, (0, 0)).unwrap();
    let device = client.mknod(ROOT, "null", 0o020_666, (1, 3)).is_ok();
    for name in ["fifo", "socket", "null"].into_iter().take(if device { 3 } else { 2 }) {
        client.walk(ROOT, 1, &[name]).unwrap();
        for flags in [0, 1, RDWR] {
            assert_eq!(client.open(1, flags), Err(ENXIO), "{name}");
        }
        client.clunk(1).unwrap();
        client.walk(ROOT, 1, &[]).unwrap();
        assert_eq!(client.create(1, name, CREAT, 0o666), Err(ENXIO), "{name}");
        client.clunk(1).unwrap();
    }
}

#[test]
fn processes_of_the_host_are_nobodys_business() {
    let client = Client::with(&ShareOptions { read_only: true, ..ShareOptions::new("/", "t") });
    let me = std::process::id().to_string();
    client.walk(ROOT, 1, &["proc"]).unwrap();
    for name in ["self", "1", &me, "sys", "kcore"] {
        assert_eq!(client.walk(1, 2, &[name]), Err(ENOENT), "{name}");
    }
    assert_eq!(client.walk(ROOT, 2, &["proc", &me, "mem"]), Ok(1));
    client.open(1, 0).unwrap();
    let names: Vec<_> =
        client.readdir(1, 0, 60_000).unwrap().into_iter().map(|entry| entry.0).collect();
    assert!(names.iter().all(|name| name == "." || name == ".."), "{names:?}");
    // Who shares them has shared them.
    let client = Client::with(&ShareOptions { read_only: true, ..ShareOptions::new("/proc", "t") });
    assert_eq!(client.walk(ROOT, 1, &[&me, "status"]), Ok(2));
}
