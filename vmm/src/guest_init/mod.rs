//! Init: what this binary is when the kernel of a guest starts it as process 1, from an initramfs
//! of ours.
//!
//! It makes the guest usable: drivers, the root file system, `/proc`, `/sys`, `/dev`, a controlling
//! terminal, the network; as the [`Task`] in the initramfs says. Then it runs a command for the VMM, or
//! a shell on the console. When that ends the guest is powered off. `poweroff`, `reboot` and `halt` of
//! busybox, which only send process 1 a signal, work.

mod command;
mod dhcp;
mod network;
mod port;
mod report;
mod root;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::system::{RebootCommand, reboot};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::task::wire::Frame;
use crate::task::{LIST, MODULES, Task};
use port::Port;

/// Where an initramfs of ours has busybox.
const BUSYBOX: &str = "/bin/busybox";

/// How long the VMM may take to end the guest when it knows how the command has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the name we were started under is init's.
pub fn is_init(arg0: Option<&OsString>) -> bool {
    arg0.is_some_and(|arg0| Path::new(arg0).file_name() == Some(OsStr::new("init")))
}

/// Does init's work. Does not return in a guest, unless the kernel refuses to power off.
pub fn main() -> ExitCode {
    root::mount_kernels();
    let task = task();
    let loaded = load(&task.modules);
    let console = report::console_name(&read("/sys/class/tty/console/active"));
    if let Err(error) = take_terminal(&console) {
        say(&format!("no terminal on {console}: {error}\n"));
    }
    if let Err(error) = obey_signals() {
        say(&format!("poweroff and reboot will not work: {error}\n"));
    }
    loaded.iter().for_each(|complaint| say(complaint));
    if let Some((columns, rows)) = task.size {
        command::set_size(columns, rows);
    }
    if let Err(complaint) = root::change(&task) {
        say(&format!("{complaint}\n"));
        if task.command.is_some() {
            return end(RebootCommand::PowerOff);
        }
    }
    network::configure(task.dhcp).iter().for_each(|complaint| say(complaint));
    match &task.command {
        Some(words) => run_command(words, &task),
        None => run_shell(&task),
    }
    end(RebootCommand::PowerOff)
}

/// What is to be done; in an initramfs without a list, nothing but a shell.
fn task() -> Task {
    let text = fs::read(format!("/{LIST}")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Loads modules; a sentence for each that the kernel refuses.
fn load(modules: &[String]) -> Vec<String> {
    let load = |name: &String| {
        let image = fs::read(format!("/{MODULES}/{name}.ko"))?;
        match rustix::system::init_module(&image, c"") {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        }
    };
    let refused = |name| Some((name, load(name).err()?));
    let refused = modules.iter().filter_map(refused);
    refused.map(|(name, error)| format!("the driver {name} cannot be loaded: {error}\n")).collect()
}

fn run_command(words: &[OsString], task: &Task) {
    if task.on_console.contains(&true) && task.user.uid != 0 {
        let _ =
            rustix::fs::fchown(rustix::stdio::stdin(), Some(Uid::from_raw(task.user.uid)), None);
    }
    let done = Port::open().and_then(|port| command::run(words, task, port));
    match done {
        // The VMM ends the guest now.
        Ok(()) => std::thread::sleep(PATIENCE),
        Err(error) => say(&format!("the command cannot be run: no way to the VMM: {error}\n")),
    }
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

/// A shell on the console, until it ends.
fn run_shell(task: &Task) {
    say(&report::banner(&facts()));
    let Some(mut shell) = shell(task) else {
        return say(&report::no_shell(&facts()));
    };
    say("When the shell ends, the guest is powered off. Ctrl-a x ends it at once.\n\n");
    // It may take a moment to be there, for which nobody has to wait.
    let listening = std::thread::Builder::new().name("port".to_owned()).spawn(|| {
        let Ok(mut port) = Port::open() else { return };
        if Frame::Ready.write(&mut port).is_ok() {
            command::listen(&mut port, None, &Mutex::default());
        }
    });
    if let Err(error) = listening {
        say(&format!("the terminal keeps its size: {error}\n"));
    }
    match shell.spawn() {
        Ok(child) => drop(command::wait_for(&child)),
        Err(error) => say(&format!("the shell would not start: {error}\n")),
    }
}

/// The user's shell in a shared root; in an initramfs what is there.
fn shell(task: &Task) -> Option<Command> {
    let is_there = |path: &str| Path::new(path).exists();
    let path = match &task.root {
        Some(_) if is_there(&task.user.shell) => task.user.shell.as_str(),
        None if is_there(BUSYBOX) => BUSYBOX,
        _ => Some("/bin/sh").filter(|path| is_there(path))?,
    };
    let mut shell = command::prepared(OsStr::new(path), task);
    if path == BUSYBOX {
        // Without the links the shell still runs its built-in commands.
        let _ = Command::new(BUSYBOX).args(["--install", "-s", "/bin"]).status();
        shell.arg0("sh");
    }
    shell.arg("-i");
    if task.user.uid != 0 {
        let user = Some(Uid::from_raw(task.user.uid));
        let _ = rustix::fs::fchown(rustix::stdio::stdin(), user, None);
    }
    Some(shell)
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
