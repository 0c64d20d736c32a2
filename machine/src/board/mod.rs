//! Boards: devices, where they are mapped, and what they are wired to.
//!
//! ```text
//!   Wiring: registry, clock, loop, RAM  ───► X86Pc, Arm64Virt ──► Builder ──► Devices
//!   Source: Lines into the controllers, … ─┘  lists of devices     one edit     add, remove,
//!                                                                               reset, save
//! ```
//!
//! A board is the same whoever makes its accesses. Its `kvm.rs` and `qtest.rs` only say what its
//! interrupt lines lead to there, and what else differs.

mod builder;
mod consoles;
mod devices;
mod lines;
mod pci;
mod plugged;
mod vfio;
mod virtio;

use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_device::{CharBackend, CharDevice, Clock, EventLoop, Line, Power};
use trapline_display::{Input, Screen};
use trapline_guestmem::{Backing, GuestMem};

use crate::isolate::{Connections, Isolated, Isolates, Kind};
use crate::record::devices::StandIns;
use crate::record::host::{JournaledLoop, JournaledMemory};
use crate::record::journal::Journal;
use crate::{ConsoleKind, Error, FirmwareKernel, PcConfigSpace, PortOptions, VirtioTransports};

pub(crate) use builder::{BoardDevice, Builder, Part};
pub(crate) use consoles::{consoles, serial_backend};
pub(crate) use devices::{Devices, SavedDevices, Spared};
pub(crate) use lines::Lines;
pub(crate) use pci::PciSlots;
pub(crate) use plugged::Plugs;
pub use plugged::{Plug, PlugDevice, PlugPort};
pub(crate) use vfio::{AssignedUntil, Vfio};
pub(crate) use virtio::{ChosenVirtio, EntropyFrom, NamedVirtio, VirtioHandles, add_mmio};

/// A built board. Dropping it unmaps everything on it.
pub(crate) trait Board: Send + Sync {
    /// Its devices: what is reset and saved, and where others are added and removed.
    fn devices(&self) -> &Devices;

    /// The console, for its back end to call.
    fn console(&self) -> Weak<dyn CharDevice>;

    /// Those of its virtio devices that others than the guest have to do with.
    fn virtio(&self) -> &VirtioHandles;

    /// Where devices come and go, if they do.
    fn plugs(&self) -> Option<&Plugs> {
        None
    }

    /// The keyboard and the mouse, if there are any.
    fn input(&self) -> Option<Arc<dyn Input>> {
        None
    }

    /// The display, if there is one.
    fn screen(&self) -> Option<Arc<Screen>> {
        None
    }
}

/// What every board is built with, whoever makes its accesses.
pub(crate) struct Wiring {
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    /// The same time for back ends that have timers of their own, which no journal knows of.
    pub(crate) host_clock: Arc<dyn Clock>,
    /// What devices' back ends, doorbells and eventfds are called by.
    pub(crate) event_loop: Arc<dyn EventLoop>,
    pub(crate) power: Arc<dyn Power>,
    /// The guest's RAM, for devices that reach it by themselves.
    pub(crate) ram: GuestMem,
    /// Functions of the host that the guest is to have.
    pub(crate) vfio: Vfio,
    /// Which devices are in processes of their own.
    pub(crate) isolates: Arc<Isolates>,
    pub(crate) options: Options,
    /// Who writes down what crosses the line around the devices, if anybody does.
    pub(crate) journal: Option<Arc<dyn Journal>>,
}

impl Wiring {
    /// Starts a process for the device of this name, if it is to have one; what it is connected to
    /// here is as it would be.
    pub(crate) fn isolated(
        &self,
        name: &str,
        kind: Kind,
        backend: &Arc<dyn CharBackend>,
        lines: impl FnOnce() -> Vec<Line>,
    ) -> Result<Option<Arc<Isolated>>, Error> {
        self.isolates.start(name, kind, || Connections {
            lines: lines(),
            backend: Arc::clone(backend),
            power: Arc::clone(&self.power),
            clock: Arc::clone(&self.host_clock),
            event_loop: Arc::clone(&self.event_loop),
        })
    }

    /// The event loop for the device of this name, by way of the journal if there is one.
    pub(crate) fn event_loop_of(&self, name: &str) -> Arc<dyn EventLoop> {
        match &self.journal {
            Some(journal) => JournaledLoop::around(&self.event_loop, journal, name),
            None => Arc::clone(&self.event_loop),
        }
    }

    /// The guest's RAM for devices, by way of the journal if there is one.
    pub(crate) fn dma(&self) -> GuestMem {
        match &self.journal {
            Some(journal) => JournaledMemory::around(&self.ram, journal),
            None => self.ram.clone(),
        }
    }
}

/// What the user chooses about a board. Each board takes what concerns it.
pub(crate) struct Options {
    pub(crate) cpus: u32,
    pub(crate) mem_bytes: u64,
    /// Behind the console.
    pub(crate) console: Arc<dyn CharBackend>,
    /// Which device that is.
    pub(crate) console_kind: ConsoleKind,
    /// Further ports of a virtio console device.
    pub(crate) ports: Vec<PortOptions>,
    /// How many bytes of RAM a balloon is to hold at first, if there is one.
    pub(crate) balloon: Option<u64>,
    /// Behind the firmware's debug port, if there is one.
    pub(crate) firmware_log: Option<Arc<dyn CharBackend>>,
    /// Whether there is a port through which the guest ends the machine with a status.
    pub(crate) exit_port: bool,
    /// Whether there is the test device of kvm-unit-tests.
    pub(crate) testdev: bool,
    /// The user's files for firmware: names and contents.
    pub(crate) fw_cfg: Vec<(String, Vec<u8>)>,
    /// What there is for firmware, if the guest starts with it.
    pub(crate) firmware: Option<FirmwareOptions>,
    /// Whether a PC has all legacy devices ([`crate::Config::pc_legacy`]).
    pub(crate) legacy: bool,
    /// How the configuration space of a PC's bus is reached.
    pub(crate) config_space: PcConfigSpace,
    /// Whether a PC's first serial port is in memory, too ([`crate::Config::pc_earlycon`]).
    pub(crate) earlycon: bool,
    /// What registers virtio devices have.
    pub(crate) virtio: VirtioTransports,
    /// Whether there is an entropy source, and what is behind it.
    pub(crate) rng: Option<EntropyFrom>,
    /// How many educational PCI devices there are.
    pub(crate) edu: u8,
    /// Whether devices can come and go.
    pub(crate) plugs: bool,
    /// The disks.
    pub(crate) disks: Vec<trapline_block::DiskOptions>,
    /// The network cards.
    pub(crate) nets: Vec<trapline_net::NetOptions>,
    /// Folders of the host that the guest can mount.
    pub(crate) shares: Vec<trapline_ninep::ShareOptions>,
    /// The socket device, if there is one.
    pub(crate) vsock: Option<crate::VsockOptions>,
    /// What stands for disks, networks, shared folders and ports in a replay.
    pub(crate) stand_ins: Option<StandIns>,
    /// Whether an access that begins a request to the host's files waits for its end.
    pub(crate) awaits_files: bool,
    /// Which accesses the source spares us.
    pub(crate) spared: Spared,
}

/// What firmware is told of the machine, besides what it finds out itself.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the PC's firmware is"))]
#[derive(Default)]
pub(crate) struct FirmwareOptions {
    /// The kernel it is to start.
    pub(crate) kernel: Option<FirmwareKernel>,
    /// Whether there is a display.
    pub(crate) display: bool,
}

/// The guest's RAM: `ranges` are guest address and length of each piece.
pub(crate) fn map_ram(ranges: &[(u64, u64)], backing: &Backing) -> Result<GuestMem, Error> {
    let options = trapline_guestmem::Options { backing: backing.clone() };
    Ok(GuestMem::with_options(ranges, &options)?)
}
