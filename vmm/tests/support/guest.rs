//! Small guests run by the `trapline` command on the real `/dev/kvm`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use trapline_testkit::realmode::Asm;

use super::{Owned, PATIENCE, Pty, Running, TRAPLINE, shell_status};

/// A command in a directory of its own: `trapline run` with what the guest starts from.
pub struct Guest {
    dir: TempDir,
    args: Vec<String>,
}

/// What is left of a run.
#[derive(Debug)]
pub struct Ended {
    /// As a shell shows it.
    pub status: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Guest {
    /// One that starts with `program`, as firmware.
    pub fn new(program: &Asm) -> Self {
        Self::of("--firmware", &program.rom(), "2")
    }

    /// One that starts with the firmware image at `path`.
    pub fn firmware(path: &Path) -> Self {
        let args = ["run", "--firmware", path.to_str().unwrap(), "-m", "64", "-c", "1"];
        Self { dir: tempfile::tempdir().unwrap(), args: args.map(str::to_owned).into() }
    }

    /// One that starts with this kernel, with nothing to say to it and no initrd of ours.
    pub fn kernel(image: &[u8]) -> Self {
        let guest = Self::of("--kernel", image, "16");
        let initrd = guest.file("initrd", b"nothing");
        guest.with(&["--nodefaults", "--initrd", initrd.to_str().unwrap()])
    }

    fn of(how: &str, image: &[u8], mib: &str) -> Self {
        let mut guest = Self { dir: tempfile::tempdir().unwrap(), args: Vec::new() };
        let path = guest.file("guest", image);
        let args = ["run", how, path.to_str().unwrap(), "-m", mib, "-c", "1"];
        guest.args = args.map(str::to_owned).into();
        guest
    }

    /// The same with more options.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.args.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Writes a file next to the guest's.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The command.
    pub fn command(&self) -> Command {
        let mut command = super::command(TRAPLINE);
        command.args(&self.args).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        command
    }

    /// Starts it without a terminal, for [`finish`].
    pub fn start(&self) -> Owned {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap().into()
    }

    /// Runs it to its end without a terminal.
    pub fn run(&self) -> Ended {
        finish(self.start())
    }

    /// Starts the shell on a terminal with a script in which `"$@"` is the command.
    pub fn start_script<'a>(&self, pty: &'a Pty, script: &str) -> Running<'a> {
        let args = self.args.iter().map(String::as_str);
        let args: Vec<&str> = ["-c", script, "sh", TRAPLINE].into_iter().chain(args).collect();
        pty.spawn("sh", &args)
    }

    /// Starts it on a terminal.
    pub fn start_in<'a>(&self, pty: &'a Pty) -> Running<'a> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        pty.spawn(TRAPLINE, &args)
    }
}

/// ACPI's control register, where firmware finds it, and what switches off: SLP_TYP 5 and SLP_EN
/// (ACPI 6.5, 4.8.3.2.1).
const PM1_CNT: u16 = 0xb004;
const SLEEP_S5: u16 = 5 << 10 | 1 << 13;

/// Switches the machine off; for guests that start as firmware.
pub fn off() -> Asm {
    Asm::new().outw(PM1_CNT, SLEEP_S5)
}

/// Runs `program` with these options.
pub fn run(program: &Asm, options: &[&str]) -> Ended {
    Guest::new(program).with(options).run()
}

/// Waits for the end of a child whose outputs, as far as they are pipes, nobody reads yet.
pub fn finish(child: impl Into<Owned>) -> Ended {
    let mut child = child.into();
    let out = child.stdout.take().map(read_all);
    let err = child.stderr.take().map(read_all);
    let start = Instant::now();
    let (status, in_time) = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break (shell_status(status), true);
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            break (shell_status(child.wait().unwrap()), false);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let all = |reader: Option<JoinHandle<Vec<u8>>>| reader.map(|r| r.join().unwrap());
    let err = String::from_utf8(all(err).unwrap_or_default()).unwrap();
    let ended = Ended { status, out: all(out).unwrap_or_default(), err };
    assert!(in_time, "the guest does not end: {ended:?}");
    ended
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

impl Ended {
    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}{}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    /// The number in column `column` of the statistics' line about `region`.
    #[track_caller]
    pub fn stat(&self, region: &str, column: &str) -> u64 {
        let lines = || self.err.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let header = lines().find(|words| words.contains(&"device/region"));
        let header = header.unwrap_or_else(|| panic!("no statistics: {}", self.err));
        let line = lines().find(|words| words.contains(&region));
        let line = line.unwrap_or_else(|| panic!("no {region}: {}", self.err));
        let at = |words: &[&str], what| words.iter().position(|word| *word == what).unwrap();
        // The lines begin with one word more than the header.
        let cell = line[at(&line, region) + at(&header, column) - at(&header, "device/region")];
        cell.parse().unwrap_or_else(|_| panic!("{region} {column}: {cell:?}"))
    }

    /// How many exits of this kind the statistics show; none are not shown.
    pub fn exits(&self, kind: &str) -> u64 {
        let exits = self.err.lines().find_map(|line| line.strip_prefix("exits: ")).unwrap();
        let mut counts = exits.split(", ").filter_map(|part| part.rsplit_once(' '));
        counts.find(|(name, _)| *name == kind).map_or(0, |(_, count)| count.parse().unwrap())
    }
}

/// Opens `path` to see whether it is there to be used.
pub fn there(path: &Path) -> bool {
    File::open(path).is_ok()
}
