//! Devices in processes of their own, which we start: `--isolate`.
//!
//! The board makes an `Isolated` in the place of the device, with the device's name, addresses and
//! interrupts. Its accesses go by the registry's forwarded windows to a process of the same program
//! (`child.rs`), which has the device itself, does not know of the machine, and is confined to the two
//! sockets it was given (`confine.rs`). Lines, characters, keys and what else a device has to do with go
//! through the second socket (`wires.rs`), in the order in which they happen.

mod child;
mod confine;
mod kind;
mod processes;
mod proxy;
#[cfg(test)]
mod tests;
mod wires;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use trapline_device::thread_builder;

use crate::remote::OnDeath;
use crate::{Control, Error};
use processes::{Notice, Options, look_after};

pub use child::{ARGUMENTS, main};
pub(crate) use kind::{Kind, Made, Wired};
pub(crate) use proxy::{Connections, Isolated};

/// Which devices are in processes of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolate {
    /// Their names on the board.
    pub devices: Vec<String>,
    /// What happens when a process dies.
    pub on_death: OnDeath,
    /// The program that is a device's process when it is started with [`ARGUMENTS`].
    pub program: PathBuf,
}

/// The processes of a machine. They end with it.
#[derive(Default)]
pub(crate) struct Isolates {
    wanted: Vec<String>,
    on_death: OnDeath,
    thread: Option<Running>,
    devices: Mutex<Vec<Arc<Isolated>>>,
}

struct Running {
    notices: Sender<Notice>,
    thread: Option<JoinHandle<()>>,
}

/// The names of all devices that can be isolated, for who asks for another one.
const ALL: &str = "serial0 to serial3, rtc, i8042 and crt";

impl Isolates {
    /// As the user wants it. None is started yet.
    pub(crate) fn new(wanted: &Isolate, control: &Control) -> Result<Self, Error> {
        if wanted.devices.is_empty() {
            return Ok(Self::default());
        }
        let (notices, to_look_after) = channel();
        let options = Options {
            program: wanted.program.clone(),
            arguments: ARGUMENTS.map(str::to_owned).to_vec(),
            on_death: wanted.on_death,
            control: control.clone(),
        };
        let thread = thread_builder("isolate")
            .spawn(move || look_after(&options, &to_look_after))
            .map_err(Error::EventLoop)?;
        let thread = Some(Running { notices, thread: Some(thread) });
        Ok(Self {
            wanted: wanted.devices.clone(),
            on_death: wanted.on_death,
            thread,
            devices: Mutex::default(),
        })
    }

    /// Starts a process for the device of this name, if it is to have one.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(
        &self,
        name: &str,
        kind: Kind,
        connections: impl FnOnce() -> Connections,
    ) -> Result<Option<Arc<Isolated>>, Error> {
        let is_wanted = self.wanted.iter().any(|wanted| wanted == name);
        let Some(running) = self.thread.as_ref().filter(|_| is_wanted) else { return Ok(None) };
        let mut devices = self.devices.lock();
        let identity = (devices.len(), name, kind);
        let device =
            Isolated::new(identity, connections(), (running.notices.clone(), self.on_death));
        let (done, started) = sync_channel(1);
        let _ = running.notices.send(Notice::Start { device: Arc::clone(&device), done });
        let ended = |_| Error::Isolate {
            device: name.to_owned(),
            reason: "the thread that starts processes has ended".to_owned(),
        };
        started.recv().map_err(ended)??;
        devices.push(Arc::clone(&device));
        Ok(Some(device))
    }

    /// That a device cannot be isolated on this board, if it is to be.
    ///
    /// # Errors
    /// It is to be.
    pub(crate) fn refuse(&self, name: &str, reason: &str) -> Result<(), Error> {
        match self.wanted.iter().find(|wanted| *wanted == name) {
            Some(name) => Err(Error::Isolate { device: name.clone(), reason: reason.to_owned() }),
            None => Ok(()),
        }
    }

    /// Whether all devices that were to be isolated are.
    ///
    /// # Errors
    /// One is not: `is_there` says whether the board has a device of that name.
    pub(crate) fn check(&self, is_there: impl Fn(&str) -> bool) -> Result<(), Error> {
        let devices = self.devices.lock();
        let is_isolated = |name: &String| devices.iter().any(|device| device.name() == name);
        let Some(missing) = self.wanted.iter().find(|name| !is_isolated(name)) else {
            return Ok(());
        };
        let reason = match is_there(missing) {
            true => format!(
                "it is none of the devices that have to do with nothing but their registers, lines and \
                 characters, and never with the guest's memory: {ALL}"
            ),
            false => format!("this machine has no such device; what can be isolated is {ALL}"),
        };
        Err(Error::Isolate { device: missing.clone(), reason })
    }

    /// Waits until all devices have done what the guest has asked of them.
    pub(crate) fn settle(&self) {
        self.devices.lock().iter().for_each(|device| device.settle());
    }

    /// Has the devices' own time stand still, or go on.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.devices.lock().iter().for_each(|device| device.pause(is_paused));
    }
}

/// What all processes of the host agree on as the time: `CLOCK_MONOTONIC`, in nanoseconds.
fn host_now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.notices.send(Notice::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
