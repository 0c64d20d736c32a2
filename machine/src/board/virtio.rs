//! A board's virtio devices, whatever registers their drivers reach them by.

use std::path::PathBuf;
use std::sync::Arc;

use trapline_backends::{OpenOutlet, Outlet};
use trapline_block::{Disk, DiskOptions};
use trapline_device::{
    CharBackend, CharDevice, Clock, EventLoop, FdtDevice, FdtNode, Interrupt, NullBackend,
};
use trapline_net::{NetOptions, Nobody};
use trapline_virtio::VirtioDevice;
use trapline_virtio::balloon::Balloon;
use trapline_virtio::blk::{Background, Blk};
use trapline_virtio::console::{Console, PortSetup};
use trapline_virtio::mmio::VirtioMmio;
use trapline_virtio::mmio::regs::WINDOW_LEN;
use trapline_virtio::net::{Net, NetSetup};
use trapline_virtio::p9::{Answering, P9};
use trapline_virtio::rng::{Entropy, HostEntropy, Rng};
use trapline_virtio::vsock::Vsock;
use trapline_vsock::UnixSockets;

use super::{Builder, Wiring};
use crate::record::host::{JournaledEntropy, JournaledWitness, char_device};
use crate::record::journal::{Journal, JournaledBackend};
use crate::record::net::JournaledNet;
use crate::{ConsoleKind, Error, PortOptions, VirtioTransport, VsockOptions};

/// A virtio device on its way to a board.
pub(crate) struct NamedVirtio {
    /// What the user knows it by. No other device has the name.
    pub(crate) name: String,
    pub(crate) device: Arc<dyn VirtioDevice>,
    /// What registers it is to have.
    pub(crate) transport: VirtioTransport,
    /// What its queues are processed by.
    pub(crate) event_loop: Arc<dyn EventLoop>,
}

impl NamedVirtio {
    /// Whether it is a PCI function.
    pub(crate) fn is_on_bus(&self) -> bool {
        !matches!(self.transport, VirtioTransport::Mmio | VirtioTransport::MmioLegacy)
    }
}

/// Where an entropy source has its bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntropyFrom {
    /// The host's kernel.
    Host,
    /// A sequence that is the same in every run, for a machine that is to do the same then.
    Sequence,
}

/// A board's virtio devices.
pub(crate) struct ChosenVirtio {
    /// All of them, in the order in which drivers find them.
    pub(crate) devices: Vec<NamedVirtio>,
    /// Those of them that others have to do with.
    pub(crate) handles: VirtioHandles,
}

/// Virtio devices that others than the guest have to do with.
#[derive(Default)]
pub(crate) struct VirtioHandles {
    /// The disks, in the user's order.
    pub(crate) disks: Vec<Arc<Blk>>,
    /// The network cards, in the user's order.
    pub(crate) nets: Vec<Arc<Net>>,
    /// The console device, if there is one.
    pub(crate) console: Option<Arc<Console>>,
    /// The balloon, if there is one.
    pub(crate) balloon: Option<Arc<Balloon>>,
    /// Ports of the console device whose place on the host is the host's choice.
    pub(crate) places: Places,
    /// Ports of a replay, kept for the journal to call.
    _ports: Vec<Arc<dyn CharDevice>>,
}

/// Names of ports, and where they are on the host.
pub(crate) type Places = Vec<(String, PathBuf)>;

impl ChosenVirtio {
    /// The devices the user asked for. The first disk, which Linux calls `vda`, is `disk0`, and the first
    /// network card `net0`.
    pub(crate) fn new(wiring: &Wiring) -> Result<Self, Error> {
        let (options, awaited) = (&wiring.options, wiring.options.awaits_files);
        let disks = options.disks.iter().enumerate();
        let disks = disks.map(|(n, options)| wired_disk(n, options, wiring));
        let disks = disks.collect::<Result<Vec<_>, Error>>()?;
        let nets = options.nets.iter().enumerate();
        let nets = nets.map(|(n, options)| wired_net(n, options, wiring));
        let nets = nets.collect::<Result<Vec<_>, Error>>()?;
        let (console, places, ports) = console(wiring)?;
        let mut devices = Vec::new();
        let mut add_on = |name: &str, device: Arc<dyn VirtioDevice>, event_loop| {
            let transport = options.virtio.of(name);
            devices.push(NamedVirtio { name: name.to_owned(), device, transport, event_loop });
        };
        for (n, (disk, event_loop)) in disks.iter().enumerate() {
            add_on(&format!("disk{n}"), disk.clone(), Arc::clone(event_loop));
        }
        let mut add = |name: &str, device: Arc<dyn VirtioDevice>| {
            add_on(name, device, wiring.event_loop_of(name));
        };
        for (n, net) in nets.iter().enumerate() {
            add(&format!("net{n}"), net.clone());
        }
        for (n, share) in options.shares.iter().enumerate() {
            let name = format!("9p{n}");
            let answering = if awaited { Answering::InTurn } else { Answering::Threads };
            let p9 = match &options.stand_ins {
                Some(_) => P9::stand_in(&share.tag),
                None => P9::new(share, answering)?,
            };
            if let Some(journal) = &wiring.journal {
                p9.set_witness(JournaledWitness::of(journal, &name));
            }
            add(&name, p9);
        }
        if let Some(vsock) = &options.vsock {
            add("vsock", self::vsock(vsock, wiring)?);
        }
        if let Some(from) = options.rng {
            add("rng", entropy(from, &wiring.clock, wiring.journal.as_ref()));
        }
        if let Some(console) = &console {
            add("console", console.clone());
        }
        let balloon = options.balloon.map(|bytes| {
            let balloon = Balloon::new(wiring.dma(), bytes, Arc::clone(&wiring.clock));
            add("balloon", balloon.clone());
            balloon
        });
        check_names(&devices, wiring)?;
        let disks = disks.into_iter().map(|(disk, _)| disk).collect();
        Ok(Self {
            devices,
            handles: VirtioHandles { disks, nets, console, balloon, places, _ports: ports },
        })
    }

    /// The names of all of them.
    pub(crate) fn names(&self) -> Vec<String> {
        self.devices.iter().map(|device| device.name.clone()).collect()
    }

    /// Those on the PCI bus, those behind windows of registers, and what others have to
    /// do with of both.
    pub(crate) fn split(self) -> (Vec<NamedVirtio>, Vec<NamedVirtio>, VirtioHandles) {
        let (on_bus, behind_windows) = self.devices.into_iter().partition(NamedVirtio::is_on_bus);
        (on_bus, behind_windows, self.handles)
    }
}

/// Whether every device that the user names a transport for is there.
fn check_names(devices: &[NamedVirtio], wiring: &Wiring) -> Result<(), Error> {
    let is_there = |name: &str| devices.iter().any(|device| device.name == name);
    let missing = wiring.options.virtio.named.iter().find(|(name, _)| !is_there(name));
    let Some((name, transport)) = missing else { return Ok(()) };
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    Err(Error::NoVirtioDevice {
        name: name.clone(),
        transport: transport.name(),
        devices: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
    })
}

/// A console device, the places of its ports on the host, and those of its ports that nobody has.
type ConsoleParts = (Option<Arc<Console>>, Places, Vec<Arc<dyn CharDevice>>);

/// The console device with its ports, if any are wanted, and the places that the host has chosen for
/// them.
fn console(wiring: &Wiring) -> Result<ConsoleParts, Error> {
    let options = &wiring.options;
    let console = (options.console_kind == ConsoleKind::Virtio).then(|| PortSetup {
        name: None,
        is_console: true,
        backend: Arc::clone(&options.console),
    });
    let (mut outlets, mut setups, mut places) = (Vec::new(), Vec::new(), Vec::new());
    let mut handles = Vec::new();
    for PortOptions { name, outlet } in &options.ports {
        let open = match &options.stand_ins {
            Some(_) => None,
            None => Some(open(outlet, name, &wiring.event_loop)?),
        };
        let place = open.as_ref().and_then(|open| open.place());
        places.extend(place.map(|place| (name.clone(), place)));
        let backend: Arc<dyn CharBackend> = match &open {
            Some(open) => open.clone(),
            None => Arc::new(NullBackend),
        };
        let backend = match &wiring.journal {
            Some(journal) => JournaledBackend::around(&backend, journal, &port_name(name)),
            None => backend,
        };
        setups.push(PortSetup { name: Some(name.clone()), is_console: false, backend });
        outlets.push((name, open));
    }
    if console.is_none() && setups.is_empty() {
        return Ok((None, places, handles));
    }
    let console = Console::new(console, setups, Arc::clone(&wiring.clock));
    for (number, (name, outlet)) in (1..).zip(outlets) {
        let mut port = console.port(number);
        if let Some(journal) = &wiring.journal {
            port = char_device(port, journal, &port_name(name));
        }
        match outlet {
            Some(outlet) => OpenOutlet::attach(&*outlet, port),
            // The one who calls it is the journal.
            None => handles.push(port),
        }
    }
    Ok((Some(console), places, handles))
}

/// What a journal calls a port of the console device.
fn port_name(name: &str) -> String {
    format!("port {name}")
}

/// Disk `n` of the board, and its event loop.
fn wired_disk(
    n: usize,
    options: &DiskOptions,
    wiring: &Wiring,
) -> Result<(Arc<Blk>, Arc<dyn EventLoop>), Error> {
    let (name, clock) = (format!("disk{n}"), &wiring.clock);
    let event_loop = wiring.event_loop_of(&name);
    let stand_in = wiring.options.stand_ins.as_ref().and_then(|all| all.disks.get(n));
    let blk = match stand_in {
        Some(shape) => {
            let disk = Disk::stand_in(options, shape.clone());
            Blk::new(&disk, clock, Background::Loop(&*event_loop)).map_err(Error::EventLoop)?
        }
        None => disk(options, wiring.options.awaits_files, clock, &*event_loop)?,
    };
    if let Some(journal) = &wiring.journal {
        blk.set_witness(|queue| JournaledWitness::of(journal, &format!("{name} queue {queue}")));
    }
    Ok((blk, event_loop))
}

/// Network card `n` of the board.
fn wired_net(n: usize, options: &NetOptions, wiring: &Wiring) -> Result<Arc<Net>, Error> {
    let Some(journal) = &wiring.journal else {
        return net(options, &wiring.event_loop, &wiring.host_clock);
    };
    let stand_in = wiring.options.stand_ins.as_ref().and_then(|all| all.nets.get(n));
    let backend = match stand_in {
        Some(abilities) => Arc::new(Nobody(*abilities)),
        None => options.open(&wiring.event_loop, &wiring.host_clock)?,
    };
    let backend = JournaledNet::around(backend, journal, &format!("net{n}"));
    let NetOptions { mac, mtu, speed, .. } = *options;
    Ok(Net::new(NetSetup { mac, mtu, speed }, backend))
}

/// The socket device.
fn vsock(options: &VsockOptions, wiring: &Wiring) -> Result<Arc<Vsock>, Error> {
    let VsockOptions { cid, socket } = options;
    let vsock = match &wiring.options.stand_ins {
        Some(_) => Vsock::stand_in(*cid),
        None => {
            let refused = |reason| Error::Vsock { path: socket.clone(), reason };
            let sockets = UnixSockets::listen(socket, &wiring.event_loop).map_err(refused)?;
            Vsock::new(*cid, sockets)
        }
    };
    if let Some(journal) = &wiring.journal {
        vsock.set_witness(JournaledWitness::of(journal, "vsock"));
    }
    Ok(vsock)
}

/// Opens what is behind the port with this name.
pub(super) fn open(
    outlet: &Outlet,
    name: &str,
    event_loop: &Arc<dyn EventLoop>,
) -> Result<Arc<dyn OpenOutlet>, Error> {
    let refused = |reason| Error::Port { name: name.to_owned(), outlet: outlet.clone(), reason };
    outlet.open(event_loop).map_err(refused)
}

/// A disk. What the host completes later of its requests is taken in by an access that waits for it
/// if it is `awaited`, or else by the event loop.
pub(super) fn disk(
    options: &DiskOptions,
    awaited: bool,
    clock: &Arc<dyn Clock>,
    event_loop: &dyn EventLoop,
) -> Result<Arc<Blk>, Error> {
    let background = if awaited { Background::Awaited } else { Background::Loop(event_loop) };
    Blk::new(&Disk::open(options)?, clock, background).map_err(Error::EventLoop)
}

/// A network card.
pub(super) fn net(
    options: &NetOptions,
    event_loop: &Arc<dyn EventLoop>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Net>, Error> {
    let NetOptions { mac, mtu, speed, .. } = *options;
    Ok(Net::new(NetSetup { mac, mtu, speed }, options.open(event_loop, clock)?))
}

/// An entropy source.
pub(super) fn entropy(
    from: EntropyFrom,
    clock: &Arc<dyn Clock>,
    journal: Option<&Arc<dyn Journal>>,
) -> Arc<dyn VirtioDevice> {
    match from {
        EntropyFrom::Host => source(HostEntropy, clock, journal),
        EntropyFrom::Sequence => source(Sequence::default(), clock, journal),
    }
}

fn source(
    inner: impl Entropy + 'static,
    clock: &Arc<dyn Clock>,
    journal: Option<&Arc<dyn Journal>>,
) -> Arc<dyn VirtioDevice> {
    let clock = Arc::clone(clock);
    let Some(journal) = journal.cloned() else { return Rng::new(inner, clock) };
    let port = journal.port("rng");
    Rng::new(JournaledEntropy { inner, journal, port }, clock)
}

/// Adds a device behind a window of registers at `base`, with a level-triggered interrupt. What it
/// says of itself, for a device tree.
pub(crate) fn add_mmio(
    NamedVirtio { name, device, transport, event_loop }: NamedVirtio,
    (base, interrupt): (u64, Interrupt),
    wiring: &Wiring,
    builder: &mut Builder,
) -> Result<FdtNode, Error> {
    let legacy = transport == VirtioTransport::MmioLegacy;
    let registers = VirtioMmio::new(device, legacy, interrupt, &wiring.dma(), &*event_loop);
    let registers = registers.map_err(Error::EventLoop)?;
    let node = registers.fdt_node();
    let (registry, mapped) = (wiring.registry.downgrade(), Arc::clone(&registers));
    builder
        .device(&name, Arc::clone(&registers))
        .mmio(base, WINDOW_LEN, (&name, "registers"), registers)
        .when_mapped(move |region| mapped.mapped(Arc::new(registry), region));
    Ok(node)
}

/// See [`EntropyFrom::Sequence`].
#[derive(Default)]
struct Sequence(std::sync::atomic::AtomicU64);

impl Entropy for Sequence {
    fn fill(&self, buf: &mut [u8]) -> std::io::Result<()> {
        use std::sync::atomic::Ordering;
        for chunk in buf.chunks_mut(8) {
            // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
            let gamma = 0x9e37_79b9_7f4a_7c15;
            let mut mixed = self.0.fetch_add(gamma, Ordering::Relaxed).wrapping_add(gamma);
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.iter_mut().zip(mixed.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_same_each_time_and_does_not_repeat_itself() {
        let draw = || {
            let (sequence, mut bytes) = (Sequence::default(), [0; 33]);
            sequence.fill(&mut bytes).unwrap();
            let first = bytes;
            sequence.fill(&mut bytes).unwrap();
            (first, bytes)
        };
        let (first, second) = draw();
        assert_eq!(draw(), (first, second));
        assert_ne!(first, second);
        // The first number from seed 0, by its authors' program.
        assert_eq!(first[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }
}
