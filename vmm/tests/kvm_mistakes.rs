//! What cannot be run: one sentence each, status 1, no backtrace.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::TRAPLINE;
use support::flat::{Flat, bzimage, multiboot, pvh};
use support::guest::{Ended, Guest, finish};
use tempfile::TempDir;
use trapline_testkit::realmode::Asm;
use trapline_testkit::skip;

/// A directory with files to name.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make(&self, name: &str, content: &[u8]) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A file of zeros that takes no room.
    fn make_long(&self, name: &str, len: u64) -> String {
        let path = self.make(name, b"");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        path
    }
}

fn trapline(args: &[&str]) -> Ended {
    let mut command = Command::new(TRAPLINE);
    command.args(args).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Runs trapline in vain; returns what it says after `Fatal: `.
#[track_caller]
fn refusal(args: &[&str]) -> String {
    sentence(trapline(args), &format!("{args:?}"))
}

#[track_caller]
fn sentence(ended: Ended, what: &str) -> String {
    let Ended { status, out, err } = ended;
    assert_eq!((status, out.as_slice()), (1, &b""[..]), "{what}: {err}");
    let line = err.strip_suffix('\n').unwrap_or_default();
    let said = line.strip_prefix("Fatal: ").unwrap_or_else(|| panic!("{what}: {err}"));
    assert!(!said.is_empty() && !said.contains('\n'), "{what}: {err}");
    said.to_owned()
}

fn kernel() -> Vec<u8> {
    bzimage(&Flat::new().exit(0))
}

#[test]
fn a_file_that_is_missing_is_named_in_kvmtools_words() {
    assert_eq!(refusal(&["run", "-k", "/no/such"]), "Unable to open kernel /no/such");
    assert_eq!(refusal(&["run", "/no/such"]), "Unable to open kernel /no/such");
    assert_eq!(refusal(&["run", "-f", "/no/such"]), "Unable to open firmware /no/such");
    let files = Files::new();
    let kernel = files.make("kernel", &kernel());
    let said = refusal(&["run", "-k", &kernel, "-i", "/no/such"]);
    assert_eq!(said, "Unable to open initrd /no/such");
}

/// Nobody writes to the pipe: who opened it to read would wait; and the zeros have no end.
#[test]
fn what_is_no_file_is_refused_before_it_is_read_by_every_option() {
    let files = Files::new();
    let pipe = files.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let kernel = files.make("kernel", &kernel());
    let rom = files.make("rom", &Asm::new().hlt().rom());
    let multiboot = files.make("multiboot", &multiboot(&Flat::new().exit(0)));
    let kinds = [
        (pipe.to_str().unwrap(), "it is a pipe; copy its contents to a file"),
        ("/dev/zero", "it is a character device, not a file"),
        ("/", "it is a directory"),
    ];
    for (file, why) in kinds {
        let opening = |what: &str| format!("Unable to open {what} {file}: {why}");
        let source = format!("name=opt/x,file={file}");
        let reading = format!("--fw-cfg opt/x: cannot read {file}: {why}");
        let modules = format!("{kernel} one,{file} two");
        let qtest = ["qtest", "--stdio", "--machine", "arm64-virt"];
        for (args, said) in [
            (&["run", "-k", file][..], opening("kernel")),
            (&["run", file], opening("kernel")),
            (&["run", "-k", &kernel, "-i", file], opening("initrd")),
            (&["run", "-k", &multiboot, "-i", &modules], opening("initrd")),
            (&["run", "-f", file], opening("firmware")),
            (&["run", "-f", &rom, "-k", file], opening("kernel")),
            (&["run", "-f", &rom, "-k", &kernel, "-i", file], opening("initrd")),
            (&["run", "-f", &rom, "--fw-cfg", &source], reading.clone()),
            (&["qtest", "--stdio", "--fw-cfg", &source], reading),
        ] {
            assert_eq!(refusal(args), said, "{args:?}");
        }
        let flash = refusal(&[&qtest[..], &["--flash", file]].concat());
        // A directory cannot be opened to be written to.
        let other = format!("Unable to open flash {file}: Is a directory");
        assert!(flash == opening("flash") || (file == "/" && flash == other), "{flash}");
    }
    let said = refusal(&["run", "-f", &rom, "--dev", pipe.to_str().unwrap()]);
    assert!(said.ends_with("is not a KVM device"), "{said}");
    let said = refusal(&["run", "-f", &rom, "--hugetlbfs", pipe.to_str().unwrap()]);
    assert!(said.contains(pipe.to_str().unwrap()), "{said}");
}

/// A file's length is looked at before there is memory for it.
#[test]
fn no_option_reads_more_than_anybody_can_use() {
    let files = Files::new();
    let rom = files.make("rom", &Asm::new().hlt().rom());
    let kernel = files.make("kernel", &kernel());
    let huge = files.make_long("huge", 1 << 42);
    let source = format!("opt/x,file={huge}");
    for (args, said) in [
        (&["run", "-f", &rom, "--fw-cfg", &source][..], "it has more than 64 MiB"),
        (&["run", "-f", &huge], "bytes, at most"),
        (&["run", "-f", &rom, "-k", &huge, "-m", "64"], "needs guest RAM"),
        (&["run", "-f", &rom, "-k", &kernel, "-i", &huge, "-m", "64"], "64 MiB of guest RAM"),
        (&["run", "-k", &huge, "-m", "64"], "is not a kernel"),
        (&["run", "-k", &kernel, "-i", &huge, "-m", "64"], "64 MiB of guest RAM"),
    ] {
        let refused = refusal(args);
        assert!(refused.contains(said), "{args:?}: {refused}");
    }
}

#[test]
fn a_file_that_is_no_kernel_is_refused_with_the_reason() {
    let files = Files::new();
    let kernel = kernel();
    let pvh = pvh(&Flat::new().exit(0));
    let mut old = kernel.clone();
    old[0x206] = 5;
    for (name, content, said) in [
        (
            "text",
            &b"#!/bin/sh\necho I am a script, and long enough to have a header\n"[..],
            "is not a kernel for this guest: a script",
        ),
        ("empty", b"", "is empty"),
        ("packed", b"\x1f\x8b\x08 vmlinux", "a file packed with gzip; unpack it first"),
        ("zeros", &[0; 0x1000], "is not a kernel"),
        ("cut", &kernel[..kernel.len() - 16], "is truncated, 16 bytes are missing"),
        ("header", &kernel[..0x210], "truncated"),
        ("old", &old, "bzImage protocol 2.05 is too old"),
        ("pvh-cut", &pvh[..pvh.len() - 1], "truncated"),
        ("elf-cut", &pvh[..40], "damaged ELF file"),
    ] {
        let path = files.make(name, content);
        let refused = refusal(&["run", "-k", &path, "-m", "16", "--nodefaults"]);
        assert!(refused.contains(said) && refused.contains(&path), "{name}: {refused}");
    }
    let refused = refusal(&["run", "-k", "/bin/true", "--nodefaults"]);
    assert!(refused.starts_with("/bin/true is not a kernel we can enter"), "{refused}");
}

#[test]
fn an_initrd_or_a_kernel_that_does_not_fit_is_refused() {
    let files = Files::new();
    let large = files.make_long("initrd", 32 << 20);
    for (name, image) in [("bzImage", kernel()), ("elf", pvh(&Flat::new().exit(0)))] {
        let kernel = files.make(name, &image);
        let said = refusal(&["run", "-k", &kernel, "-i", &large, "-m", "16"]);
        assert!(
            said.contains(&large) && said.contains("32 MiB") && said.contains("16 MiB"),
            "{said}"
        );
        let empty = files.make("empty", b"");
        let said = refusal(&["run", "-k", &kernel, "-i", &empty, "-m", "16"]);
        assert!(said.contains("is empty"), "{said}");
        // At 1 MiB there is no RAM.
        let said = refusal(&["run", "-k", &kernel, "-m", "1", "--nodefaults"]);
        assert!(said.contains("-m"), "{said}");
    }
}

#[test]
fn a_size_no_guest_can_have_is_refused() {
    let files = Files::new();
    let image = files.make("rom", &Asm::new().hlt().rom());
    let ram = refusal(&["run", "-f", &image, "-m", "1000000000"]);
    assert!(ram.contains("memory") || ram.contains("RAM"), "{ram}");
    for (option, value, said) in [
        ("-m", "0", "a guest needs memory"),
        ("-m", "", "not a memory size"),
        ("-m", "-1", "not a memory size"),
        ("-m", "lots", "not a memory size"),
        ("-m", "99999999999999999999P", "too much memory"),
        ("-m", "4K", "at least 1 MiB"),
        ("-c", "two", "not a number"),
        ("-c", "100000", "100000 vCPUs are too many"),
        ("-c", "99999999999999999999", "no guest can have that many CPUs"),
    ] {
        let refused = refusal(&["run", "-f", &image, option, value]);
        assert!(refused.contains(said), "{option} {value}: {refused}");
    }
}

#[test]
fn a_command_line_that_is_too_long_is_refused_with_both_lengths() {
    let files = Files::new();
    let long = "a".repeat(2048);
    for (name, image) in [("bzImage", kernel()), ("elf", pvh(&Flat::new().exit(0)))] {
        let kernel = files.make(name, &image);
        let args = ["run", "-k", &kernel, "-m", "16", "--nodefaults", "-p"];
        let said = refusal(&[&args[..], &[&long]].concat());
        assert!(said.contains("2048 bytes") && said.ends_with("at most 2047"), "{said}");
        let longest = Guest::kernel(&image).with(&["--exit-port", "-p", &long[1..]]);
        let ended = longest.run().expect_status(1);
        assert!(!ended.err.contains("Fatal"), "{}", ended.err);
    }
}

#[test]
fn a_device_file_that_is_not_kvms_is_refused() {
    let files = Files::new();
    let image = files.make("rom", &Asm::new().hlt().rom());
    let said = refusal(&["run", "-f", &image, "--dev", "/nonexistent"]);
    assert!(
        said.starts_with("/nonexistent does not exist: load the kernel's KVM module"),
        "{said}"
    );
    let said = refusal(&["run", "-f", &image, "--dev", "/dev/null"]);
    assert_eq!(said, "/dev/null is not a KVM device");
    let said = refusal(&["run", "-f", &image, "--dev", "/"]);
    assert!(said.starts_with("cannot open /: "), "{said}");
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs trapline as a user who may not open everything, as root may; `None` where that cannot be.
fn unprivileged(files: &Files, args: &[&str]) -> Option<Ended> {
    if !rustix::process::geteuid().is_root() {
        return Some(trapline(args));
    }
    // Nobody may not, once it can reach the files.
    allow(files.0.path(), 0o755);
    let program = files.path("trapline");
    std::fs::copy(TRAPLINE, &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&program).args(args).stdin(Stdio::null());
    match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => Some(finish(child)),
        Err(error) => {
            skip("kvm_mistakes without permission", &format!("runs as root, no setpriv: {error}"));
            None
        }
    }
}

#[test]
fn a_device_file_without_permission_is_refused_with_what_to_do() {
    let files = Files::new();
    let image = files.make("rom", &Asm::new().hlt().rom());
    let dev = files.make("kvm", b"");
    allow(Path::new(&dev), 0);
    let args = ["run", "-f", &image, "-m", "2", "--dev", &dev];
    let Some(ended) = unprivileged(&files, &args) else { return };
    let said = sentence(ended, "no permission");
    let wanted = format!("no permission on {dev}: only its owner may use it");
    assert!(said.starts_with(&wanted), "{said}");
}

#[test]
fn firmware_that_cannot_be_mapped_is_refused() {
    let files = Files::new();
    let empty = files.make("empty", b"");
    assert!(refusal(&["run", "-f", &empty]).contains("is empty"));
    let huge = files.make_long("huge", 1 << 30);
    let said = refusal(&["run", "-f", &huge]);
    assert!(said.contains("1073741824 bytes, at most"), "{said}");
    let said = refusal(&["run", "-f", "/"]);
    assert_eq!(said, "Unable to open firmware /: it is a directory");
}

#[test]
fn flash_that_cannot_be_used_is_refused_with_the_reason() {
    let files = Files::new();
    let code = files.make("code", &[vec![0x90; 0xff0], vec![0xf4; 16]].concat());
    let vars = files.make("vars", &[0xff; 0x2000]);
    let both = |code: &str, vars: &str| refusal(&["run", "-m", "2", "-f", code, "-F", vars]);
    assert_eq!(both(&code, "/no/such"), "Unable to open flash /no/such");
    assert_eq!(both(&code, "/"), "Unable to open flash /: it is a directory");
    let same = both(&code, &code);
    assert!(same.contains("that is the firmware itself; an image that is both"), "{same}");
    let alone = refusal(&["run", "-m", "2", "--flash", &vars]);
    assert_eq!(
        alone,
        format!(
            "{vars} is no firmware: nothing is at its end, where a processor starts; name another \
             file"
        )
    );
    assert!(both(&vars, &code).starts_with(&format!("{vars} is no firmware")));
    let odd = both(&code, &files.make("odd", &[0; 0x1001]));
    assert!(
        odd.ends_with("is a multiple of 4 KiB and no more than 16 MiB; this one has 4097 bytes")
    );
    let large = both(&code, &files.make_long("large", 16 << 20));
    assert!(large.starts_with("16781312 bytes of flash are too many"), "{large}");
    let used = std::fs::File::open(&vars).unwrap();
    used.lock().unwrap();
    assert_eq!(both(&code, &vars), format!("Unable to open flash {vars}: another machine uses it"));
}

#[test]
fn flash_that_cannot_be_written_is_refused_with_what_to_do() {
    let files = Files::new();
    let vars = files.make("vars", &[0xff; 0x2000]);
    allow(Path::new(&vars), 0o444);
    let Some(ended) = unprivileged(&files, &["qtest", "--stdio", "--flash", &vars]) else { return };
    let said = sentence(ended, "no permission");
    let wanted = format!(
        "Unable to open flash {vars}: Permission denied (os error 13); the guest changes it, so it \
         has to be a copy of your own"
    );
    assert_eq!(said, wanted);
}

#[test]
fn options_nobody_can_honour_are_refused_by_name() {
    for (args, said) in [
        (&["--frobnicate"][..], "--frobnicate: no such option"),
        (&["--balloon=lots"], "--balloon=lots: not a memory size"),
        (&["-d", "disk.img,rw"], "--disk disk.img,rw: rw is none of ro, direct,"),
        (&["-n", "mode=wild"], "mode=wild is none of user, tap and none"),
        (&["--console", "hv"], "--console hv: the hypervisor console does not exist yet"),
        (&["--irqchip", "gicv3"], "--irqchip gicv3: an arm64 guest's"),
        (&["-m"], "-m"),
    ] {
        let refused = refusal(&[&["run"], args].concat());
        assert!(refused.contains(said), "{args:?}: {refused}");
    }
}
