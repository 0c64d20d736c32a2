use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;

use cpio::newc::Reader;

use super::*;
use crate::kernel::testelf::ElfBuilder;

/// A pretended host.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        host.put("opt/init", &ElfBuilder::program(None, &[]));
        host
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn request<'a>(&'a self, init: &'a Path) -> InitramfsRequest<'a> {
        InitramfsRequest { init, host: self.dir.path(), shell: true, programs: &[], files: &[] }
    }

    fn build(&self) -> Result<(BTreeMap<String, Member>, Contents), Error> {
        let init = self.dir.path().join("opt/init");
        let request = self.request(&init);
        let (bytes, contents) = build(&request)?;
        Ok((unpack(&bytes), contents))
    }
}

#[derive(Debug, PartialEq)]
struct Member {
    mode: u32,
    device: (u32, u32),
    bytes: Vec<u8>,
}

/// What is in an archive; a path that comes twice, or before its directory, fails.
fn unpack(archive: &[u8]) -> BTreeMap<String, Member> {
    let mut members: BTreeMap<String, Member> = BTreeMap::new();
    let mut cursor = Cursor::new(archive);
    loop {
        let reader = Reader::new(cursor).unwrap();
        if reader.entry().is_trailer() {
            return members;
        }
        let entry = reader.entry().clone();
        if let Some((parent, _)) = entry.name().rsplit_once('/') {
            assert_eq!(members[parent].mode >> 12, 0o4, "{parent} is a directory");
        }
        let mut bytes = Vec::new();
        cursor = reader.to_writer(&mut bytes).unwrap();
        let device = (entry.rdev_major(), entry.rdev_minor());
        let member = Member { mode: entry.mode(), device, bytes };
        assert_eq!(members.insert(entry.name().to_owned(), member), None, "{}", entry.name());
    }
}

#[test]
fn the_init_program_directories_and_devices_are_there_without_a_shell() {
    let (members, contents) = Host::new().build().unwrap();
    assert_eq!(contents, Contents { shell: None, files: 1 });
    assert_eq!(members["init"].mode, 0o100_755);
    assert_eq!(members["init"].bytes, ElfBuilder::program(None, &[]));
    for directory in ["proc", "sys", "dev", "tmp", "etc"] {
        assert_eq!(members[directory].mode, 0o040_755, "{directory}");
    }
    assert_eq!(members["dev/console"].mode, 0o020_600);
    assert_eq!(members["dev/console"].device, (5, 1));
    assert_eq!(members["dev/null"].device, (1, 3));
    assert!(!members.contains_key("bin/sh"));
}

#[test]
fn a_static_busybox_is_preferred_to_everything() {
    let host = Host::new();
    host.put("lib64/ld.so", &ElfBuilder::program(None, &[]));
    host.put("bin/sh", &ElfBuilder::program(None, &[]));
    host.put("bin/busybox", &ElfBuilder::program(Some("/lib64/ld.so"), &[]));
    host.put("usr/bin/busybox", &ElfBuilder::program(None, &[]));
    let (members, contents) = host.build().unwrap();
    let shell = contents.shell.unwrap();
    assert_eq!(shell.host_path, host.dir.path().join("usr/bin/busybox"));
    assert!(shell.busybox && shell.is_static);
    assert_eq!(members["bin/sh"].mode, 0o120_777);
    assert_eq!(members["bin/sh"].bytes, b"busybox");
    assert!(members.contains_key("bin/busybox"));
    assert!(!members.contains_key("lib64/ld.so"), "nothing that is not needed");
}

#[test]
fn a_shell_comes_with_its_interpreter_and_its_libraries_libraries() {
    let host = Host::new();
    let interpreter = Some("/lib64/ld.so");
    host.put("lib64/ld.so", &ElfBuilder::program(None, &[]));
    host.put("bin/sh", &ElfBuilder::program(interpreter, &["liba.so", "libc.so"]));
    host.put("usr/lib/liba.so", &ElfBuilder::program(None, &["libb.so", "ld.so"]));
    host.put("lib/libb.so", &ElfBuilder::program(None, &["liba.so", "libc.so"]));
    host.put("usr/lib64/libc.so", &ElfBuilder::program(None, &[]));
    // Of another architecture, in a directory that is looked into earlier.
    host.put("lib64/libc.so", &ElfBuilder { machine: 40, ..ElfBuilder::default() }.build());
    let (members, contents) = host.build().unwrap();
    let shell = contents.shell.unwrap();
    assert!(!shell.busybox && !shell.is_static);
    assert_eq!(contents.files, 6);
    for path in ["bin/sh", "lib64/ld.so", "usr/lib/liba.so", "lib/libb.so", "usr/lib64/libc.so"] {
        assert_eq!(members[path].mode, 0o100_755, "{path}");
    }
}

#[test]
fn a_shell_that_lacks_a_library_or_is_no_program_is_passed_over() {
    let host = Host::new();
    host.put("bin/busybox", b"#!/bin/sh\n");
    host.put("bin/sh", &ElfBuilder::program(None, &["libgone.so"]));
    assert_eq!(host.build().unwrap().1.shell, None);
    host.put("bin/bash", &ElfBuilder::program(None, &[]));
    let shell = host.build().unwrap().1.shell.unwrap();
    assert_eq!(shell.host_path, host.dir.path().join("bin/bash"));
}

#[test]
fn an_init_that_cannot_run_is_an_error() {
    let host = Host::new();
    host.put("opt/init", &ElfBuilder::program(None, &["libgone.so"]));
    let text = host.build().unwrap_err().to_string();
    assert!(text.starts_with("cannot put "), "{text}");
    assert!(text.ends_with("its library libgone.so is not in the usual directories"), "{text}");
    host.put("opt/init", b"no program");
    assert!(matches!(host.build(), Err(Error::Initramfs { .. })));
}

#[test]
fn the_same_host_makes_the_same_bytes() {
    let host = Host::new();
    host.put("bin/busybox", &ElfBuilder::program(None, &[]));
    let init = host.dir.path().join("opt/init");
    let request = host.request(&init);
    assert_eq!(build(&request).unwrap().0, build(&request).unwrap().0);
}

#[test]
fn further_files_and_programs_come_along_and_a_shell_only_if_wanted() {
    let host = Host::new();
    host.put("bin/sh", &ElfBuilder::program(None, &[]));
    host.put("usr/bin/tool", &ElfBuilder::program(None, &["liba.so"]));
    host.put("usr/lib/liba.so", &ElfBuilder::program(None, &[]));
    host.put("usr/bin/script", b"#!/bin/sh\n");
    let init = host.dir.path().join("opt/init");
    let programs = ["/usr/bin/tool", "/usr/bin/script", "/usr/bin/gone"].map(PathBuf::from);
    let list = File { path: "run/list".to_owned(), mode: 0o640, contents: b"{}".to_vec() };
    let request = InitramfsRequest {
        shell: false,
        programs: &programs,
        files: &[list],
        ..host.request(&init)
    };
    let (bytes, contents) = build(&request).unwrap();
    let members = unpack(&bytes);
    assert_eq!(contents, Contents { shell: None, files: 4 });
    assert_eq!((members["run/list"].mode, &members["run/list"].bytes[..]), (0o100_640, &b"{}"[..]));
    assert!(members.contains_key("usr/bin/tool") && members.contains_key("usr/lib/liba.so"));
    assert!(!members.contains_key("usr/bin/script") && !members.contains_key("bin/sh"));
}

/// Symbols and line numbers are behind what is loaded.
#[test]
fn init_is_as_long_as_what_is_loaded_of_it() {
    let host = Host::new();
    let program = ElfBuilder::program(None, &[]);
    let with_more = [&program[..], &[7; 5000]].concat();
    host.put("opt/init", &with_more);
    let (members, _) = host.build().unwrap();
    assert_eq!(members["init"].bytes, program);
}
