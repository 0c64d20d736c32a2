//! `trapline qtest`: a machine without a CPU, for a client to drive.
//!
//! ```text
//!   client of qtest ──► Guarded ──► Session ──► Machine
//!   clients of QMP ───────┘  │                     ▲
//!                            └──► Console ─────────┘
//! ```
//!
//! All of it is one thread: while the session waits for its client's next command, monitors have
//! their turn, so that what they do is between two commands.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use trapline_device::{NullBackend, PowerEvent};
use trapline_machine::qtest::{Config, Machine};
use trapline_qtest::qmp::Monitor;
use trapline_qtest::{Door, End, Session, Way};

use crate::cli::{FwCfgFile, QtestOptions};
use crate::monitor::Console;
use crate::stream::{Patient, write_all};

/// Builds the machine and serves its clients; returns when there are none to come, or when the
/// machine has ended.
///
/// # Errors
/// Why it could not be built, or its client not be reached.
pub fn run(options: &QtestOptions) -> anyhow::Result<ExitCode> {
    let machine = machine(options)?;
    let recent = options.as_qemu.is_some_and(|qemu| qemu.recent);
    let (drives, chardevs) = (options.drives.clone(), options.chardevs.clone());
    let console = Console::new(&machine, (drives, chardevs, options.netdevs.clone()), recent);
    for device in &options.devices {
        console.plug(device, false).map_err(|reason| anyhow!("-device: {reason}"))?;
    }
    let ended = options.as_qemu.is_some().then(told_to_end).transpose()?;
    let mut session = Session::new(&machine);
    Ok(match serve(&mut session, options, &console, ended)? {
        End::Machine(PowerEvent::Exit(status)) => ExitCode::from(status),
        End::Machine(PowerEvent::Off | PowerEvent::Reset) | End::Closed => ExitCode::SUCCESS,
    })
}

fn machine(options: &QtestOptions) -> anyhow::Result<Machine> {
    Ok(Machine::new(&Config {
        board: options.board,
        cpus: options.cpus,
        virtio: options.virtio.clone(),
        rng: options.rng,
        edu: options.edu,
        disks: options.disks.clone(),
        nets: Vec::new(),
        shares: options.shares.clone(),
        vsock: options.vsock.clone(),
        plugs: options.as_qemu.is_some() || !options.qmp.is_empty(),
        mem_bytes: options.mem_bytes,
        utc_start_ns: options.utc_start_ns,
        console: Arc::new(NullBackend),
        console_kind: options.console,
        ports: options.ports.clone(),
        balloon: options.balloon,
        exit_port: options.exit_port,
        flash: options.flash.clone(),
        firmware: options.firmware.clone(),
        testdev: options.testdev,
        fw_cfg: options.fw_cfg.iter().map(FwCfgFile::load).collect::<Result<_, _>>()?,
    })?)
}

fn refused(way: &Way) -> String {
    match way {
        Way::Listen(address) => format!("cannot listen on {address}"),
        Way::Connect(address) => format!("cannot talk to {address}"),
    }
}

/// Something readable when this process is told to end, which QEMU takes for a reason to end well.
fn told_to_end() -> anyhow::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let theirs = theirs.try_clone().context("cannot make a pair of sockets")?;
        let caught = signal_hook::low_level::pipe::register(signal, theirs);
        caught.context("cannot catch signals")?;
    }
    Ok(ours)
}

/// Serves one client after the other, and whoever has a monitor meanwhile.
fn serve(
    session: &mut Session<'_, Machine>,
    options: &QtestOptions,
    console: &Console<'_>,
    ended: Option<UnixStream>,
) -> anyhow::Result<End> {
    // Whoever started us may wait for the first of these connections before it takes the others.
    let door = options.way.as_ref().map(|way| open(way, "a client")).transpose()?;
    let mut monitors = Monitors { console, ended, doors: Vec::new(), clients: Vec::new() };
    for way in &options.qmp {
        let door = open(way, "a monitor's client")?;
        monitors.add(door, way).with_context(|| refused(way))?;
    }
    let Some((door, way)) = door.zip(options.way.as_ref()) else {
        let input = Guarded { input: Some(stdin()?), monitors: &mut monitors };
        let ended = session.run(input, Patient(rustix::stdio::stdout()));
        return ended.context("cannot talk to standard input and output");
    };
    while let Some(stream) = monitors.next_client(&door).with_context(|| refused(way))? {
        match (run_client(session, stream, &mut monitors), way) {
            (Ok(end @ End::Machine(_)), _) => return Ok(end),
            (served, Way::Connect(_)) => return served.with_context(|| refused(way)),
            // What ails a client ends only it.
            (_, Way::Listen(_)) => {}
        }
    }
    Ok(End::Closed)
}

fn run_client(
    session: &mut Session<'_, Machine>,
    stream: OwnedFd,
    monitors: &mut Monitors<'_, '_>,
) -> io::Result<End> {
    let output = Patient(stream.try_clone()?);
    session.run(Guarded { input: Some(stream), monitors }, output)
}

fn open(way: &Way, client: &str) -> anyhow::Result<Door> {
    let door = Door::open(way).with_context(|| refused(way))?;
    if let Some(address) = door.address().with_context(|| refused(way))? {
        tracing::info!("waiting for {client} on {address}");
    }
    Ok(door)
}

fn stdin() -> anyhow::Result<OwnedFd> {
    rustix::stdio::stdin().try_clone_to_owned().context("cannot talk to standard input")
}

/// Those who have a monitor.
struct Monitors<'a, 'm> {
    console: &'a Console<'m>,
    /// Readable when this process is told to end.
    ended: Option<UnixStream>,
    doors: Vec<Door>,
    clients: Vec<(OwnedFd, Monitor)>,
}

/// What there is to do.
enum Turn {
    /// The other descriptor can be read from.
    Other,
    /// That was all.
    Over,
}

impl Monitors<'_, '_> {
    fn add(&mut self, door: Door, way: &Way) -> io::Result<()> {
        match way {
            Way::Listen(_) => self.doors.push(door),
            Way::Connect(_) => door.accept()?.into_iter().for_each(|stream| self.greet(stream)),
        }
        Ok(())
    }

    fn greet(&mut self, stream: OwnedFd) {
        // One that has gone already is noticed when it is read from.
        let _ = write_all(&stream, &Monitor::greeting(), None);
        self.clients.push((stream, Monitor::default()));
    }

    /// Whether somebody wants the end.
    fn is_over(&self) -> bool {
        let ended = |ended: &UnixStream| is_readable(ended);
        self.console.has_quit() || self.ended.as_ref().is_some_and(ended)
    }

    /// Serves monitors until `other` can be read from, or it is over.
    fn wait(&mut self, other: BorrowedFd<'_>) -> io::Result<Turn> {
        loop {
            self.tell_events();
            if self.is_over() {
                return Ok(Turn::Over);
            }
            let all = self.doors.iter().map(Door::as_fd);
            let all = all.chain(self.clients.iter().map(|(stream, _)| stream.as_fd()));
            let all = all.chain(self.ended.as_ref().map(UnixStream::as_fd)).chain([other]);
            let mut fds: Vec<PollFd<'_>> =
                all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled?,
            };
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let (doors, rest) = ready.split_at(self.doors.len());
            let (clients, rest) = rest.split_at(self.clients.len());
            self.serve(clients);
            self.let_in(doors);
            // The other's commands are later than whatever has come before.
            if rest.last() == Some(&true) {
                self.tell_events();
                return Ok(if self.is_over() { Turn::Over } else { Turn::Other });
            }
        }
    }

    fn let_in(&mut self, ready: &[bool]) {
        let come = self.doors.iter().zip(ready).filter(|(_, ready)| **ready);
        // Who went while waiting has no need of a monitor.
        let come: Vec<_> = come.filter_map(|(door, _)| door.accept().ok().flatten()).collect();
        come.into_iter().for_each(|stream| self.greet(stream));
    }

    fn serve(&mut self, ready: &[bool]) {
        let console = self.console;
        let mut ready = ready.iter();
        self.clients.retain_mut(|(stream, monitor)| {
            if ready.next() != Some(&true) {
                return true;
            }
            let mut buffer = [0; 4096];
            let read = Patient(&*stream).read(&mut buffer).ok();
            let received = read.and_then(|len| buffer.get(..len)).unwrap_or_default();
            if received.is_empty() {
                return false;
            }
            let answers = monitor.receive(received, console);
            write_all(&*stream, &answers, None).is_ok()
        });
    }

    fn tell_events(&mut self) {
        let events = self.console.take_events().concat();
        let told = |(stream, monitor): &(OwnedFd, Monitor)| {
            !monitor.hears_events() || write_all(stream, &events, None).is_ok()
        };
        self.clients.retain(told);
    }

    /// The next client of the machine, unless it is over.
    fn next_client(&mut self, door: &Door) -> io::Result<Option<OwnedFd>> {
        loop {
            match self.wait(door.as_fd())? {
                Turn::Over => return Ok(None),
                Turn::Other => match door.accept()? {
                    None => {}
                    client => return Ok(client),
                },
            }
        }
    }
}

fn is_readable(fd: impl AsFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

/// What a client of the machine sends, between whose commands monitors are served.
struct Guarded<'a, 'c, 'm> {
    input: Option<OwnedFd>,
    monitors: &'a mut Monitors<'c, 'm>,
}

impl Read for Guarded<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(input) = &self.input else { return Ok(0) };
        match self.monitors.wait(input.as_fd())? {
            Turn::Other => Patient(input).read(buf),
            Turn::Over => {
                self.input = None;
                Ok(0)
            }
        }
    }
}
