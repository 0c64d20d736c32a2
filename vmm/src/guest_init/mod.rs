//! Init: what this binary is when the kernel of a guest starts it as process 1, from an initramfs
//! of ours.
//!
//! It makes the guest usable (`/proc`, `/sys`, `/dev`, a controlling terminal), says what it found,
//! and runs a shell if the initramfs holds one. When the shell ends, or there is none, the guest is
//! powered off. `poweroff`, `reboot` and `halt` of busybox, which only send process 1 a signal,
//! work.

mod report;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions};
use rustix::system::{RebootCommand, reboot};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// Whether the name we were started under is init's.
pub fn is_init(arg0: Option<&OsString>) -> bool {
    arg0.is_some_and(|arg0| Path::new(arg0).file_name() == Some(OsStr::new("init")))
}

/// Does init's work. Does not return in a guest, unless the kernel refuses to power off.
pub fn main() -> ExitCode {
    mount_all();
    let console = report::console_name(&read("/sys/class/tty/console/active"));
    if let Err(error) = take_terminal(&console) {
        say(&format!("no terminal on {console}: {error}\n"));
    }
    if let Err(error) = obey_signals() {
        say(&format!("poweroff and reboot will not work: {error}\n"));
    }
    say(&report::banner(&facts()));
    match shell() {
        Some(shell) => {
            say("When the shell ends, the guest is powered off. Ctrl-a x ends it at once.\n\n");
            run_shell(shell);
        }
        None => say(&report::no_shell(&facts())),
    }
    end(RebootCommand::PowerOff)
}

/// Prints on the console; nobody is left to tell when that fails.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn facts() -> report::Facts {
    let uname = rustix::system::uname();
    let mut disks: Vec<String> = fs::read_dir("/sys/class/block")
        .map(|dir| dir.flatten().map(|disk| disk.file_name().to_string_lossy().into()).collect())
        .unwrap_or_default();
    disks.sort();
    report::Facts {
        release: uname.release().to_string_lossy().into_owned(),
        machine: uname.machine().to_string_lossy().into_owned(),
        cmdline: read("/proc/cmdline"),
        meminfo: read("/proc/meminfo"),
        cpus_online: read("/sys/devices/system/cpu/online"),
        interrupts: read("/proc/interrupts"),
        disks,
    }
}

fn mount_all() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        // Either may be there already; what is missing shows in the report.
        let _ = fs::create_dir_all(target);
        let _ = mount(kind, target, kind, MountFlags::empty(), None);
    }
}

/// Makes `console` our standard input and output, and the controlling terminal of our session, so
/// that Ctrl-c reaches what the shell runs. `/dev/console` itself can not be that.
fn take_terminal(console: &str) -> io::Result<()> {
    let open = |path: &str| rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
    let terminal = open(&format!("/dev/{console}")).or_else(|_| open("/dev/console"))?;
    rustix::stdio::dup2_stdin(&terminal)?;
    rustix::stdio::dup2_stdout(&terminal)?;
    rustix::stdio::dup2_stderr(&terminal)?;
    // Fails only when we lead a session already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::ioctl_tiocsctty(&terminal)?;
    Ok(())
}

/// Busybox tells process 1 by signals what to do; so does the kernel for Ctrl-Alt-Del (SIGINT).
fn obey_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1, SIGUSR2])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            end(match signal {
                SIGUSR1 | SIGUSR2 => RebootCommand::PowerOff,
                _ => RebootCommand::Restart,
            });
        }
    })?;
    Ok(())
}

fn shell() -> Option<Command> {
    let busybox = Path::new("/bin/busybox");
    if busybox.exists() {
        // Without the links the shell still runs its built-in commands.
        let _ = Command::new(busybox).args(["--install", "-s", "/bin"]).status();
        let mut shell = Command::new(busybox);
        shell.arg0("sh").arg("-i");
        return Some(shell);
    }
    let sh = Path::new("/bin/sh");
    sh.exists().then(|| {
        let mut shell = Command::new(sh);
        shell.arg("-i");
        shell
    })
}

fn run_shell(mut shell: Command) {
    shell.env("PATH", PATH).env("HOME", "/").env("TERM", "vt220").current_dir("/");
    let child = match shell.spawn() {
        Ok(child) => child,
        Err(error) => return say(&format!("the shell would not start: {error}\n")),
    };
    let shell = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Processes whose parents have ended are ours to bury.
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == shell && !status.stopped() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn end(how: RebootCommand) -> ExitCode {
    rustix::fs::sync();
    match reboot(how) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("the kernel would not power off: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
