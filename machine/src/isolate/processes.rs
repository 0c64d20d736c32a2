//! The processes: one thread starts them, hears of their deaths, and starts them again.
//!
//! It is one thread for all of a machine's, and lives as long as they: the kernel kills a process whose
//! parent's *thread* has ended (`PR_SET_PDEATHSIG`), so that none is left behind by a VMM that is killed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::Signal;
use trapline_remote::Ends;

use super::host_now_ns;
use super::proxy::Isolated;
use super::wires::{FromDevice, Wires};
use crate::remote::OnDeath;
use crate::{Control, Error};

/// How long a process may take until it is there.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// A process that has been there for so long was no failure.
const GOOD_LIFE: Duration = Duration::from_secs(5);
/// How long the next one has to wait after a first failure; twice as long after each further one.
const FIRST_DELAY: Duration = Duration::from_millis(10);
/// After so many failures in a row there is no other one.
const FAILURES_MAX: u32 = 8;

/// What the thread is told.
pub(super) enum Notice {
    /// A device is to have its first process.
    Start { device: Arc<Isolated>, done: SyncSender<Result<(), Error>> },
    /// A device is without its process.
    Gone { number: usize, has_let_go: bool, why: String, done: SyncSender<()> },
    /// The machine is over.
    End,
}

/// What all processes have in common.
pub(super) struct Options {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) on_death: OnDeath,
    pub(super) control: Control,
}

struct Process {
    device: Arc<Isolated>,
    child: Option<Child>,
    since: Instant,
    /// How many in a row have not been there for long.
    failures: u32,
    /// When there is to be another one.
    due: Option<Instant>,
}

/// The thread.
pub(super) fn look_after(options: &Options, notices: &Receiver<Notice>) {
    let mut processes: Vec<Process> = Vec::new();
    let mut has_told_of_landlock = false;
    loop {
        let due = processes.iter().filter_map(|process| process.due).min();
        let notice = match due.map(|due| due.saturating_duration_since(Instant::now())) {
            Some(time) => notices.recv_timeout(time),
            None => notices.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match notice {
            Ok(Notice::Start { device, done }) => {
                let since = Instant::now();
                let mut process = Process { device, child: None, since, failures: 0, due: None };
                let started = process.start(options, &mut has_told_of_landlock);
                processes.push(process);
                let _ = done.send(started);
            }
            Ok(Notice::Gone { number, has_let_go, why, done }) => {
                if let Some(process) = processes.get_mut(number) {
                    process.bury(options, has_let_go, &why);
                }
                let _ = done.send(());
            }
            Ok(Notice::End) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        for process in &mut processes {
            if process.due.is_some_and(|due| due <= now) {
                process.start_again(options, &mut has_told_of_landlock);
            }
        }
    }
    for process in &mut processes {
        process.end(false);
    }
}

impl Process {
    fn start(&mut self, options: &Options, has_told: &mut bool) -> Result<(), Error> {
        let device = Arc::clone(&self.device);
        let name = device.name();
        let failed = |reason: String| Error::Isolate { device: name.to_owned(), reason };
        let io = |error: io::Error| failed(error.to_string());
        let [accesses, their_accesses] = Wires::pair().map_err(io)?;
        let [wires, their_wires] = Wires::pair().map_err(io)?;
        self.child = Some(spawn(options, their_accesses, their_wires).map_err(io)?);
        self.since = Instant::now();
        let wires = Wires::new(wires);
        let introduction = self.device.introduction(self.device.epoch_ns(host_now_ns()));
        wires.send(&introduction).map_err(|broken| failed(broken.to_string()))?;
        let first = match wires.wait(PollFlags::IN, Some(START_PATIENCE)) {
            true => wires.receive::<FromDevice>(),
            false => Ok(None),
        };
        let landlock = match first {
            Ok(Some(FromDevice::Ready { landlock })) => landlock,
            Ok(Some(FromDevice::Failed(why))) => return Err(failed(shown(&why))),
            Ok(Some(_)) => return Err(failed("its process makes no sense".to_owned())),
            Ok(None) => return Err(failed("its process does not come up".to_owned())),
            Err(broken) => {
                let ended = self.end(true).map_or(broken.to_string(), told);
                return Err(failed(format!("its process does not come up: {ended}")));
            }
        };
        if !landlock && !std::mem::replace(has_told, true) {
            tracing::warn!(
                "this kernel has no Landlock: processes of devices are kept from files by seccomp \
                 alone"
            );
        }
        let ends = Ends::socket(accesses).map_err(io)?;
        self.device.install(ends, wires).map_err(io)
    }

    /// The device has no process: it is to be told of, and something done.
    fn bury(&mut self, options: &Options, has_let_go: bool, why: &str) {
        let device = Arc::clone(&self.device);
        let name = device.name();
        let status = self.end(has_let_go);
        let ended = status.map_or(why.to_owned(), told);
        match options.on_death {
            OnDeath::AllOnes => {
                tracing::warn!(
                    "the process of {name} is dead: {ended}; it reads as ones from now on"
                );
            }
            OnDeath::StopVm => {
                options.control.lose(format!("the process of {name} is dead: {ended}"));
            }
            OnDeath::Reconnect => self.plan(&ended),
        }
    }

    fn plan(&mut self, ended: &str) {
        let device = Arc::clone(&self.device);
        let name = device.name();
        self.failures = if self.since.elapsed() < GOOD_LIFE { self.failures + 1 } else { 0 };
        if self.failures >= FAILURES_MAX {
            tracing::error!(
                "the process of {name} is dead: {ended}; that was the {FAILURES_MAX}th in a row, and \
                 it reads as ones from now on"
            );
            return;
        }
        tracing::warn!(
            "the process of {name} is dead: {ended}; it reads as ones until there is another"
        );
        let delay = match self.failures {
            0 | 1 => Duration::ZERO,
            more => FIRST_DELAY * 2_u32.pow(more - 2),
        };
        self.due = Some(Instant::now() + delay);
    }

    fn start_again(&mut self, options: &Options, has_told: &mut bool) {
        self.due = None;
        match self.start(options, has_told) {
            Ok(()) => tracing::info!("{} has another process", self.device.name()),
            Err(error) => {
                self.end(false);
                self.plan(&error.to_string());
            }
        }
    }

    /// Ends the process if there is one. How it has ended, if that was its own doing: one that has let go
    /// of its sockets is about to.
    fn end(&mut self, has_let_go: bool) -> Option<ExitStatus> {
        const STEP: Duration = Duration::from_millis(5);
        const STEPS: u32 = 200;
        let mut child = self.child.take()?;
        for _ in 0..STEPS {
            match child.try_wait() {
                Ok(None) if has_let_go => std::thread::sleep(STEP),
                Ok(Some(status)) => return Some(status),
                _ => break,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }
}

/// Starts a process that has these two sockets and nothing else.
fn spawn(options: &Options, accesses: OwnedFd, wires: OwnedFd) -> io::Result<Child> {
    trapline_guestio::keep_from_children()?;
    Command::new(&options.program)
        .args(&options.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(accesses))
        .stdout(Stdio::from(wires))
        .stderr(Stdio::null())
        .spawn()
}

/// How a process has ended, in words.
fn told(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) if signal == Signal::SYS.as_raw() => {
            "it made a system call that it is not allowed".to_owned()
        }
        Some(signal) => format!("it was killed by signal {signal}"),
        None => format!("it has ended with status {}", status.code().unwrap_or_default()),
    }
}

/// What a process says, fit to be shown.
fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}
