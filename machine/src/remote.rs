//! Devices of other processes: regions whose accesses go to a socket that somebody serves.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use trapline::Registry;
use trapline_device::{Space, thread_builder};
use trapline_remote::wire::Features;
use trapline_remote::{
    DATAMATCH, Death, Ends, FAST_MMIO, IoRegions, KvmIoregion, Link, LinkOptions, PIO,
    POSTED_WRITES,
};

use crate::{Control, Error};

/// A region that another process answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoRegion {
    /// The space of its addresses.
    pub space: Space,
    /// Its first address or port.
    pub base: u64,
    /// Bytes; 0 for an access of any width at `base`.
    pub len: u64,
    /// What the device is.
    pub socket: Socket,
    /// The guest does not wait for writes.
    pub posted: bool,
    /// The device is told of an access and no more.
    pub fast: bool,
    /// What the device knows the region by.
    pub user_data: u64,
    /// Only writes of this value.
    pub datamatch: Option<u64>,
}

/// Where a device listens. Regions of the same socket are on one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its name in the file system.
    pub path: PathBuf,
    /// Whether it keeps the borders of messages: `SOCK_SEQPACKET` in the place of `SOCK_STREAM`.
    pub seqpacket: bool,
    /// What of it goes beyond the patches, which the device is asked for.
    pub features: Features,
    /// What is to happen when the device dies.
    pub on_death: OnDeath,
}

/// How long a device may take to say what it does beyond the patches.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

impl Socket {
    /// Connects, and asks for what goes beyond the patches. A device that has less of it is refused.
    fn connect(&self) -> std::io::Result<Ends> {
        let ends = Ends::connect(&self.path, self.seqpacket)?;
        if self.features == Features::NONE {
            return Ok(ends);
        }
        let (ends, granted) = ends.negotiate(self.features, HELLO_PATIENCE)?;
        if granted != self.features {
            return Err(std::io::Error::other("the device has no such thing as ids or a ring"));
        }
        Ok(ends)
    }
}

/// What is to happen when a device of another process dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeath {
    /// Its registers read as ones, and the guest goes on.
    #[default]
    AllOnes,
    /// The machine ends, with an error.
    StopVm,
    /// As with ones, until somebody listens on the socket again.
    Reconnect,
}

/// The regions of a machine that other processes answer.
pub(crate) struct Remotes {
    _regions: IoRegions,
    _links: Vec<(Socket, Arc<Link>)>,
}

impl Remotes {
    /// Connects to all sockets and puts the regions into the registry, in front of whatever is there.
    pub(crate) fn connect(
        wanted: &[IoRegion],
        registry: &Registry,
        control: &Control,
    ) -> Result<Self, Error> {
        let regions = IoRegions::new(Arc::new(registry.downgrade()), LinkOptions::default());
        let mut links: Vec<(Socket, Arc<Link>)> = Vec::new();
        for region in wanted {
            let known = links.iter().find(|(socket, _)| socket.path == region.socket.path);
            let link = match known {
                Some((socket, link)) if *socket == region.socket => Arc::clone(link),
                Some(_) => return Err(Error::TwoKindsOfSocket(region.socket.path.clone())),
                None => {
                    let link = connect(&region.socket, control)?;
                    links.push((region.socket.clone(), Arc::clone(&link)));
                    link
                }
            };
            let args = arguments(region);
            regions.assign(&args, link).map_err(|error| Error::IoRegion {
                space: region.space,
                base: region.base,
                reason: std::io::Error::from(error),
            })?;
        }
        Ok(Self { _regions: regions, _links: links })
    }
}

fn arguments(region: &IoRegion) -> KvmIoregion {
    let flags = [
        (region.space == Space::Pio, PIO),
        (region.posted, POSTED_WRITES),
        (region.fast, FAST_MMIO),
        (region.datamatch.is_some(), DATAMATCH),
    ];
    let flags = flags.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag);
    KvmIoregion {
        guest_paddr: region.base,
        memory_size: region.len,
        user_data: region.user_data,
        flags,
        datamatch: region.datamatch.unwrap_or_default(),
        ..KvmIoregion::default()
    }
}

/// A channel to a device, which is looked after when the device dies.
fn connect(socket: &Socket, control: &Control) -> Result<Arc<Link>, Error> {
    let failed = |reason| Error::Socket { path: socket.path.clone(), reason };
    let ends = socket.connect().map_err(failed)?;
    let (deaths, deaths_to_see_to) = channel();
    let on_death = obituary(socket.clone(), control.clone(), deaths);
    let ids = socket.features.has(Features::IDS);
    let options = LinkOptions { on_death, ids, ..LinkOptions::default() };
    let link = Arc::new(Link::new(ends, options));
    if socket.on_death == OnDeath::Reconnect {
        let (link, socket) = (Arc::downgrade(&link), socket.clone());
        thread_builder("reconnect")
            .spawn(move || reconnect(&socket, &link, &deaths_to_see_to))
            .map_err(failed)?;
    }
    Ok(link)
}

/// What is done about a death, on the thread of the vCPU that notices it.
fn obituary(
    socket: Socket,
    control: Control,
    deaths: Sender<()>,
) -> Arc<dyn Fn(&Death) + Send + Sync> {
    Arc::new(move |death| {
        let path = socket.path.display();
        match socket.on_death {
            OnDeath::AllOnes => {
                tracing::warn!(
                    "the device on {path} is dead: {death}; it reads as ones from now on"
                );
            }
            OnDeath::StopVm => {
                control.lose(format!("the device on {path} is dead: {death}"));
            }
            OnDeath::Reconnect => {
                tracing::warn!("the device on {path} is dead: {death}; waiting for another");
                let _ = deaths.send(());
            }
        }
    })
}

/// Connects to the socket again after each death, as long as somebody has the channel.
fn reconnect(socket: &Socket, link: &Weak<Link>, deaths: &Receiver<()>) {
    /// How long it waits between two attempts.
    const INTERVAL: Duration = Duration::from_millis(20);
    while deaths.recv().is_ok() {
        loop {
            let Some(link) = link.upgrade() else { return };
            if let Ok(ends) = socket.connect() {
                link.replace(ends);
                tracing::info!("there is another device on {}", socket.path.display());
                break;
            }
            drop(link);
            thread::sleep(INTERVAL);
        }
    }
}

/// Why the machine has to end, for whoever ends it.
#[derive(Clone, Default)]
pub(crate) struct Loss(Arc<OnceLock<String>>);

impl Loss {
    /// The first reason counts.
    pub(crate) fn set(&self, reason: String) {
        let _ = self.0.set(reason);
    }

    pub(crate) fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}
