//! Two ends of a channel, a device that remembers, and the registry of a VMM.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use trapline::{Handler, IoCx, Registry, Size};
use trapline_remote::{Death, Ends, IoRegions, KvmIoregion, LinkOptions, ServeError, Server};

/// Long enough for everything here; nothing is expected to take it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a channel can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Seqpacket,
    Pipes,
}

pub const KINDS: [Kind; 3] = [Kind::Stream, Kind::Seqpacket, Kind::Pipes];

/// One end's descriptors: what is read, and what is written if that is another.
pub struct Fds {
    pub from: OwnedFd,
    pub to: Option<OwnedFd>,
}

impl Fds {
    pub fn ends(self) -> Ends {
        match self.to {
            Some(to) => Ends::pair(self.from, to).unwrap(),
            None => Ends::socket(self.from).unwrap(),
        }
    }

    pub fn write_fd(&self) -> i32 {
        self.to.as_ref().unwrap_or(&self.from).as_raw_fd()
    }

    pub fn read_fd(&self) -> i32 {
        self.from.as_raw_fd()
    }
}

/// The VMM's end and the device's.
pub fn channel(kind: Kind) -> (Fds, Fds) {
    let sockets = |kind| {
        let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        (Fds { from: a, to: None }, Fds { from: b, to: None })
    };
    match kind {
        Kind::Stream => sockets(SocketType::STREAM),
        Kind::Seqpacket => sockets(SocketType::SEQPACKET),
        Kind::Pipes => {
            let (commands, to_device) = std::io::pipe().unwrap();
            let (responses, to_vmm) = std::io::pipe().unwrap();
            let vmm = Fds { from: responses.into(), to: Some(to_device.into()) };
            (vmm, Fds { from: commands.into(), to: Some(to_vmm.into()) })
        }
    }
}

/// Registers that keep what is written, byte by byte, and remember every access.
#[derive(Default)]
pub struct Registers {
    pub bytes: Mutex<Vec<u8>>,
    pub log: Mutex<Vec<String>>,
}

impl Registers {
    pub fn new(len: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; len]), log: Mutex::default() })
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock())
    }
}

impl Handler for Registers {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.log.lock().push(format!("read {offset:#x}/{size}"));
        let at = usize::try_from(offset).unwrap();
        let mut value = [0; 8];
        value[..size.bytes()].copy_from_slice(&self.bytes.lock()[at..at + size.bytes()]);
        u64::from_le_bytes(value)
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.log.lock().push(format!("write {offset:#x}/{size} {value:#x}"));
        let at = usize::try_from(offset).unwrap();
        self.bytes.lock()[at..at + size.bytes()]
            .copy_from_slice(&value.to_le_bytes()[..size.bytes()]);
    }
}

/// A registry with regions behind descriptors, and the deaths that were reported.
pub struct Vmm {
    pub registry: Registry,
    pub regions: IoRegions,
    pub deaths: Arc<Mutex<Vec<Death>>>,
}

impl Vmm {
    pub fn new(options: LinkOptions) -> Self {
        let deaths = Arc::<Mutex<Vec<Death>>>::default();
        let log = Arc::clone(&deaths);
        let on_death = Arc::new(move |death: &Death| log.lock().push(death.clone()));
        let registry = Registry::builder().build();
        let options = LinkOptions { on_death, ..options };
        let regions = IoRegions::new(Arc::new(registry.downgrade()), options);
        Self { registry, regions, deaths }
    }

    pub fn set(&self, fds: &Fds, args: KvmIoregion) {
        self.regions.set_ioregion(&with_fds(fds, args)).unwrap();
    }
}

pub fn with_fds(fds: &Fds, args: KvmIoregion) -> KvmIoregion {
    KvmIoregion { read_fd: fds.read_fd(), write_fd: fds.write_fd(), ..args }
}

/// Serves `device` as region `user_data` on a thread of its own.
pub fn serve(
    fds: Fds,
    user_data: u64,
    len: u64,
    device: Arc<dyn Handler>,
) -> JoinHandle<Result<(), ServeError>> {
    thread::spawn(move || {
        let mut server = Server::new();
        server.region(user_data, len, device).unwrap();
        server.serve(&fds.ends(), None)
    })
}

/// Waits until `done`, or fails.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never happened");
        thread::sleep(Duration::from_millis(1));
    }
}
