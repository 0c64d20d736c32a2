//! Runs a program in a pty of its own, types on it and watches it.
//!
//! The program gets the pty as its controlling terminal through util-linux's `setsid --ctty`,
//! which becomes the program, so signals and exit statuses are the program's own.

#![allow(dead_code, unreachable_pub, reason = "every test file includes it and uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy sees no test here")]

pub mod flat;
pub mod guest;
pub mod user;

use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{
    Action, OptionalActions, Termios, Winsize, tcflow, tcgetattr, tcgetpgrp, tcsetattr,
    tcsetwinsize,
};

/// How long anything may take. It is only ever used up by a failure, so it is for the busiest machine:
/// SeaBIOS needs four seconds of a processor where KVM interprets it, and two processors with a hundred
/// busy programs give it each second a fiftieth of one.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// The `trapline` binary under test.
pub const TRAPLINE: &str = env!("CARGO_BIN_EXE_trapline");

/// An example of this package, which `cargo test` has built next to the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name)
}

/// `program`, as a shell starts it in front: with the default disposition of every signal, whatever
/// the test runner has inherited. Under `nohup`, or in the background of a plain `sh`, that ignores
/// signals, and so would all that it starts. coreutils' `env` becomes the program.
pub fn command(program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program.into());
    command
}

/// A process that is killed when dropped, so that a test that fails leaves none behind.
#[derive(Debug)]
pub struct Owned(Child);

impl From<Child> for Owned {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for Owned {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All processes that come of a command, also those that have left its session or lost their parent:
/// they have a mark of its own in their environment.
struct Family(String);

impl Family {
    /// The variable with the mark.
    const MARK: &str = "TRAPLINE_TEST_FAMILY";

    /// Marks what `command` is going to start.
    fn mark(command: &mut Command) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}.{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        command.env(Self::MARK, &mark);
        Self(mark)
    }

    /// Those that are there. A zombie has no environment any more.
    fn members(&self) -> Vec<Pid> {
        let mark = format!("{}={}", Self::MARK, self.0);
        let is_ours = |pid: &Pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        processes().filter(is_ours).collect()
    }

    /// Kills them, until none is left that could start another.
    fn kill(&self) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let members = self.members();
            if members.is_empty() {
                return;
            }
            for pid in members {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// All processes of the host that can be seen.
pub fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(move |entry| Pid::from_raw(number(entry.ok()?)?))
}

/// What can be compared of a terminal's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings(String);

impl Settings {
    fn of(termios: &Termios) -> Self {
        Self(format!("{termios:?}"))
    }
}

/// A terminal, before and after a program runs in it.
pub struct Pty {
    user: std::fs::File,
    /// Keeps the terminal alive and its settings readable when no program has it open.
    program: OwnedFd,
}

impl Pty {
    /// A new terminal with the kernel's settings for one: line editing, echo, signals.
    pub fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let program = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
        Self { user: user.into(), program }
    }

    /// The settings now.
    pub fn settings(&self) -> Settings {
        Settings::of(&tcgetattr(&self.program).unwrap())
    }

    /// Changes the settings, as another program would.
    pub fn set(&self, settings: &Termios) {
        tcsetattr(&self.program, OptionalActions::Now, settings).unwrap();
    }

    /// The settings now, to look at.
    pub fn termios(&self) -> Termios {
        tcgetattr(&self.program).unwrap()
    }

    /// Stops its output, as Ctrl-s does where the terminal's settings know it.
    pub fn stop_output(&self) {
        tcflow(&self.program, Action::OOff).unwrap();
    }

    /// Gives it another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.user, size).unwrap();
    }

    /// The process group in its foreground.
    pub fn foreground(&self) -> Pid {
        tcgetpgrp(&self.user).unwrap()
    }

    /// One end of the terminal for a program's standard input, output or error.
    pub fn stdio(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }

    /// Starts `program` with the terminal as its standard input, output and error.
    pub fn spawn(&self, program: impl Into<PathBuf>, args: &[&str]) -> Running<'_> {
        self.spawn_with(program, args, |_| {})
    }

    /// As [`Pty::spawn`], after `change` has changed the command, its standard output for one.
    pub fn spawn_with(
        &self,
        program: impl Into<PathBuf>,
        args: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Running<'_> {
        let mut command = command("setsid");
        command.arg("--ctty").arg("--").arg(program.into()).args(args);
        command.stdin(self.stdio()).stdout(self.stdio()).stderr(self.stdio());
        change(&mut command);
        Running::start(self, command)
    }

    /// Starts `program` with `stdin` as its standard input and the terminal as its standard output
    /// and error only.
    pub fn spawn_shown(
        &self,
        program: impl Into<PathBuf>,
        args: &[&str],
        stdin: impl Into<Stdio>,
    ) -> Running<'_> {
        let mut command = command(program);
        command.args(args).stdin(stdin).stdout(self.stdio()).stderr(self.stdio());
        Running::start(self, command)
    }
}

/// A program that runs in a [`Pty`]. Killed when dropped, with all that it has started, unless it was
/// waited for.
pub struct Running<'a> {
    pty: &'a Pty,
    child: Owned,
    family: Family,
    /// It has ended by itself: what it has left running is meant to be.
    ended: bool,
    screen: Vec<u8>,
}

impl<'a> Running<'a> {
    fn start(pty: &'a Pty, mut command: Command) -> Self {
        let family = Family::mark(&mut command);
        let child = command.spawn().unwrap().into();
        Self { pty, child, family, ended: false, screen: Vec::new() }
    }

    /// Types.
    pub fn send(&mut self, keys: &[u8]) {
        (&self.pty.user).write_all(keys).unwrap();
    }

    /// Types `keys` again and again until `text` has appeared.
    pub fn send_until(&mut self, keys: &[u8], text: &str) {
        let start = Instant::now();
        while find(&self.screen, text.as_bytes()).is_none() {
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {:?}", self.screen());
            self.send(keys);
            self.read(Duration::from_millis(100));
        }
    }

    /// Reads until `text` has appeared; returns everything up to its end, and forgets that much.
    pub fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = find(&self.screen, text.as_bytes()) {
                let seen: Vec<u8> = self.screen.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&seen).into_owned();
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && self.read(left), "no {text:?} in {:?}", self.screen());
        }
    }

    /// What has appeared since the last call, after a moment.
    pub fn take(&mut self) -> Vec<u8> {
        self.read(Duration::from_millis(20));
        std::mem::take(&mut self.screen)
    }

    /// Everything that has appeared and was not [expected](Self::expect).
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the program's state in `/proc/PID/stat` is `state`, such as 'T' for stopped.
    pub fn until_state(&self, state: char) {
        until_state(self.pid(), state);
    }

    /// Waits until the terminal's settings are `settings`.
    pub fn until_settings(&self, settings: &Settings) {
        until("the terminal has those settings", || self.pty.settings() == *settings);
    }

    /// Waits for the end; returns the exit status and what is left on the screen.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            // A full terminal would keep the program from ending.
            while self.read(Duration::ZERO) {}
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "still running, with {:?}", self.screen());
            self.read(Duration::from_millis(5));
        };
        while self.read(Duration::ZERO) {}
        self.ended = true;
        (status, self.screen())
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Reads what there is within `timeout`; says whether there was anything.
    fn read(&mut self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).unwrap();
        let mut fds = [PollFd::new(&self.pty.user, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout)).unwrap_or(0) == 0 {
            return false;
        }
        let mut buf = [0; 4096];
        let count = (&self.pty.user).read(&mut buf).unwrap_or(0);
        self.screen.extend_from_slice(&buf[..count]);
        count > 0
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended || std::thread::panicking() {
            self.family.kill();
        }
    }
}

/// Waits until a process's state in `/proc/PID/stat` is `state`.
pub fn until_state(pid: Pid, state: char) {
    let stat = format!("/proc/{pid}/stat");
    until("the process changes state", || {
        let text = std::fs::read_to_string(&stat).unwrap();
        text.rsplit(')').next().unwrap().trim_start().starts_with(state)
    });
}

/// Waits until `done`, and fails when it takes too long.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The status a shell would show: 128 plus the signal for a process a signal has killed.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs the `trapline` binary without a terminal; returns exit status, standard output and error.
pub fn trapline(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(TRAPLINE).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (shell_status(output.status), text(output.stdout), text(output.stderr))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
