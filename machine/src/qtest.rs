//! A board with no vCPU: what a qtest client drives.
//!
//! Every interrupt line of the board is a pin of its interrupt controller that the client can watch
//! and drive. What the pins are called, and what is behind them, is the board's: see `qtest.rs`
//! beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline::Registry;
use trapline_backends::{NoQueuedWrites, PolledLoop};
use trapline_block::DiskOptions;
use trapline_device::{
    CharBackend, CharDevice, Clock, Line, LineSink, NullBackend, Power, PowerEvent,
};
use trapline_display::{Input, NoInput};
use trapline_guestmem::{Backing, GuestMem};
use trapline_intc::gicv3::GicV3;
use trapline_net::NetOptions;
use trapline_ninep::ShareOptions;
use trapline_qtest::{Target, VirtualClock, Wires};
use trapline_virtio::balloon::Balloon;
use trapline_virtio::blk::Blk;
use trapline_virtio::net::{Announcer, Net};

use crate::board::{
    self, Board, EntropyFrom, FirmwareOptions, Options, Plug, PlugPort, Plugs, Spared, Vfio, Wiring,
};
use crate::x86_pc::FlashImages;
use crate::{
    ConsoleKind, Error, PortOptions, Snapshot, SnapshotError, VirtioTransports, VsockOptions,
    arm64_virt, x86_pc,
};

/// How often back ends are called after one command at most: a queue that is handled piece by piece
/// is done with long before, and a descriptor that stays ready does not stop the client.
const TURNS_MAX: u32 = 1024;

/// Which board it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BoardKind {
    /// The PC.
    #[default]
    X86Pc,
    /// The arm64 board.
    Arm64Virt,
}

/// A machine without vCPUs, as its user describes it.
#[derive(Clone)]
pub struct Config {
    /// The board.
    pub board: BoardKind,
    /// Processors that the interrupt controller serves. None of them runs; the PC has one.
    pub cpus: u32,
    /// What registers virtio devices have.
    pub virtio: VirtioTransports,
    /// Whether there is an entropy source, whose bytes are the same in every run.
    pub rng: bool,
    /// Educational devices on PCI bus 0, from 00:01.0 on, at most 31.
    pub edu: u8,
    /// The disks, which are virtio devices.
    pub disks: Vec<DiskOptions>,
    /// The network cards, which are virtio devices.
    pub nets: Vec<NetOptions>,
    /// Folders of the host that a driver can reach (virtio-9p).
    pub shares: Vec<ShareOptions>,
    /// The socket device, if there is one.
    pub vsock: Option<VsockOptions>,
    /// Whether devices can come to PCI bus 0 and go while the machine is there ([`Machine::plug`]).
    /// The PC's only.
    pub plugs: bool,
    /// RAM in bytes, a multiple of 4 KiB.
    pub mem_bytes: u64,
    /// What UTC is when the machine starts, in nanoseconds since 1970.
    pub utc_start_ns: u64,
    /// Behind the console.
    pub console: Arc<dyn CharBackend>,
    /// Which device that is.
    pub console_kind: ConsoleKind,
    /// Ports of a virtio console device, besides the console.
    pub ports: Vec<PortOptions>,
    /// How many bytes of RAM a balloon is to hold at first, if there is one.
    pub balloon: Option<u64>,
    /// Whether the port is there that ends the machine with a status. The PC's only.
    pub exit_port: bool,
    /// What is in the flash, if there is one.
    pub flash: Option<PathBuf>,
    /// What is in the flash above that one, which cannot be changed, if there is one. The PC's only.
    pub firmware: Option<PathBuf>,
    /// Whether the test device is there, which brings the exit port. The PC's only.
    pub testdev: bool,
    /// Files for firmware to read by fw_cfg: names and contents. The PC's only.
    pub fw_cfg: Vec<(String, Vec<u8>)>,
}

/// A board, its RAM, and time that stands still.
pub struct Machine {
    board: Box<dyn Board>,
    registry: Registry,
    ram: GuestMem,
    clock: VirtualClock,
    /// What back ends are called by, between the client's commands.
    event_loop: Arc<PolledLoop>,
    wires: Wires,
    asked: Arc<Asked>,
    gic: Option<Arc<GicV3>>,
    announcer: Arc<Announcer>,
    /// Whether back ends rest.
    stopped: AtomicBool,
    /// The names of devices that have gone.
    gone: Mutex<Vec<String>>,
}

impl Config {
    /// Whether there is any flash. A PC with flash is one for firmware.
    fn has_flash(&self) -> bool {
        self.flash.is_some() || self.firmware.is_some()
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            cpus: match config.board {
                BoardKind::X86Pc => 1,
                BoardKind::Arm64Virt => config.cpus,
            },
            mem_bytes: config.mem_bytes,
            console: Arc::clone(&config.console),
            console_kind: config.console_kind,
            ports: config.ports.clone(),
            balloon: config.balloon,
            firmware_log: Some(Arc::new(NullBackend)),
            exit_port: config.exit_port,
            testdev: config.testdev,
            legacy: true,
            config_space: crate::PcConfigSpace::Ports,
            earlycon: false,
            fw_cfg: config.fw_cfg.clone(),
            firmware: (config.board == BoardKind::X86Pc && config.has_flash())
                .then(FirmwareOptions::default),
            virtio: config.virtio.clone(),
            rng: config.rng.then_some(EntropyFrom::Sequence),
            edu: config.edu,
            plugs: config.plugs,
            disks: config.disks.clone(),
            nets: config.nets.clone(),
            shares: config.shares.clone(),
            vsock: config.vsock.clone(),
            stand_ins: None,
            awaits_files: true,
            spared: Spared { writes: false, reads: false },
        }
    }
}

impl Machine {
    /// Maps RAM and builds the board.
    ///
    /// # Errors
    /// What cannot be had, in a sentence.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let registry = Registry::builder().build();
        let clock = VirtualClock::new(config.utc_start_ns);
        let event_loop = PolledLoop::new(NoQueuedWrites).map_err(Error::EventLoop)?;
        let (wires, asked) = (Wires::default(), Arc::<Asked>::default());
        let ranges = match config.board {
            BoardKind::X86Pc => x86_pc::ram_ranges(config.mem_bytes)?,
            BoardKind::Arm64Virt => arm64_virt::ram_ranges(None, config.mem_bytes)?,
        };
        let ram = board::map_ram(&ranges, &Backing::Private)?;
        let wiring = Wiring {
            isolates: Arc::default(),
            vfio: Vfio::default(),
            registry: registry.clone(),
            clock: Arc::new(clock.clone()),
            host_clock: Arc::new(clock.clone()),
            event_loop: event_loop.clone(),
            power: Arc::<Asked>::clone(&asked),
            ram: ram.clone(),
            options: Options::from(config),
            journal: None,
        };
        let flash = config.flash.as_deref();
        let (board, gic): (Box<dyn Board>, _) = match config.board {
            BoardKind::X86Pc => {
                let images = FlashImages { code: config.firmware.as_deref(), variables: flash };
                (Box::new(x86_pc::build(&wires, &wiring, images)?), None)
            }
            BoardKind::Arm64Virt => {
                let (board, gic) = arm64_virt::build(&wires, &wiring, flash)?;
                (Box::new(board), Some(gic))
            }
        };
        let (stopped, gone) = (AtomicBool::new(false), Mutex::default());
        let announcer = Announcer::new(Arc::new(clock.clone()));
        Ok(Self {
            board,
            registry,
            ram,
            clock,
            event_loop,
            wires,
            asked,
            gic,
            announcer,
            stopped,
            gone,
        })
    }

    /// Everything on the board back to power-on; RAM and time stay.
    pub fn reset(&self) {
        self.board.devices().reset();
    }

    /// The devices' state as of now; RAM is not in it.
    pub fn save(&self) -> Snapshot {
        Snapshot {
            now_ns: self.clock.now_ns(),
            devices: self.board.devices().save(),
            vcpus: BTreeMap::new(),
            kernel_chips: BTreeMap::new(),
        }
    }

    /// Goes on from a snapshot of such a machine, at the time it was taken.
    ///
    /// # Errors
    /// What is wrong with the snapshot. Nothing has changed then.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        if let Some(index) = snapshot.vcpus.keys().next() {
            return Err(SnapshotError::Unknown(format!("vCPU {index}")));
        }
        if let Some(chip) = snapshot.kernel_chips.keys().next() {
            return Err(SnapshotError::Unknown(chip.clone()));
        }
        let before = self.save();
        self.put(snapshot).inspect_err(|_| {
            let undone = self.put(&before);
            assert!(undone.is_ok(), "a machine takes back what it has just saved: {undone:?}");
        })
    }

    fn put(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        self.clock.set(snapshot.now_ns);
        self.board.devices().restore(&snapshot.devices)
    }

    /// Plugs a device in, and returns its name: its id, if it has one. `told` says whether the guest
    /// is told, as of whatever comes after the start.
    ///
    /// # Errors
    /// The board has no slots for it, the name or the slot is taken, or the device cannot be had.
    pub fn plug(&self, plug: &Plug, told: bool) -> Result<String, Error> {
        self.plugs()?.plug(plug, told)
    }

    /// Plugs a port into a console device that was plugged in, and returns its name: its id, if it
    /// has one. The device's driver is told.
    ///
    /// # Errors
    /// There is no such device, the name or the number is taken, or what is to be behind the port
    /// cannot be had.
    pub fn plug_port(&self, plug: &PlugPort) -> Result<String, Error> {
        self.plugs()?.plug_port(plug)
    }

    /// Asks the driver for a device that was plugged in. It goes when the driver has given it back,
    /// at the latest with the next reset: see [`Self::take_gone`]. A port goes at once.
    ///
    /// # Errors
    /// There is no such device.
    pub fn ask_back(&self, name: &str) -> Result<(), Error> {
        match self.plugs()?.ask_back(name) {
            true => Ok(()),
            false => Err(Error::NoDevice(name.to_owned())),
        }
    }

    /// The names of devices that have gone since the last call.
    pub fn take_gone(&self) -> Vec<String> {
        std::mem::take(&mut self.gone.lock())
    }

    fn plugs(&self) -> Result<&Plugs, Error> {
        self.board.plugs().ok_or(Error::NoPlugs)
    }

    /// A disk: that of a device that was plugged in, or, as `disk0` and so on, one of
    /// [`Config::disks`].
    pub fn disk(&self, name: &str) -> Option<Arc<Blk>> {
        if let Some(disk) = self.board.plugs().and_then(|plugs| plugs.disk(name)) {
            return Some(disk);
        }
        let number: usize = name.strip_prefix("disk")?.parse().ok()?;
        self.board.virtio().disks.get(number).cloned()
    }

    /// The network cards, by their names: those that were plugged in, and, as `net0` and so on, those of
    /// [`Config::nets`].
    pub fn nets(&self) -> Vec<(String, Arc<Net>)> {
        let own = self.board.virtio().nets.iter().enumerate();
        let own = own.map(|(number, net)| (format!("net{number}"), Arc::clone(net)));
        let plugged = self.board.plugs().map(Plugs::nets).unwrap_or_default();
        own.chain(plugged).collect()
    }

    /// Has network cards announce themselves.
    pub fn announcer(&self) -> &Announcer {
        &self.announcer
    }

    /// Has back ends rest, or go on. A doorbell that rings meanwhile is heard then.
    pub fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
    }

    /// Whether back ends rest.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The keyboard and the mouse, if the board has any.
    pub fn input(&self) -> Arc<dyn Input> {
        self.board.input().unwrap_or_else(|| Arc::new(NoInput))
    }

    /// The balloon, if there is one: [`Config::balloon`], or the one that was plugged in.
    pub fn balloon(&self) -> Option<Arc<Balloon>> {
        let own = self.board.virtio().balloon.clone();
        own.or_else(|| self.board.plugs()?.balloon())
    }

    /// The device behind [`Config::console`], to be polled by it.
    pub fn console_device(&self) -> Weak<dyn CharDevice> {
        self.board.console()
    }
}

impl Target for Machine {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn ram(&self) -> &GuestMem {
        &self.ram
    }

    fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    fn wires(&self) -> &Wires {
        &self.wires
    }

    fn info(&self, what: &str) -> Option<String> {
        let gic = self.gic.as_ref().filter(|_| what == "its")?;
        Some(gic.report().to_string())
    }

    fn run_back_ends(&self) {
        if !self.is_stopped() {
            self.event_loop.settle(TURNS_MAX);
        }
        if let Some(plugs) = self.board.plugs() {
            self.gone.lock().extend(plugs.take_out());
        }
    }

    fn settle(&self) -> Option<PowerEvent> {
        // What one access left of the ITS's command queue: a ring at most, in slices.
        if let Some(gic) = &self.gic {
            while gic.work() {}
        }
        let event = self.asked.0.lock().take()?;
        if event == PowerEvent::Reset {
            self.reset();
            return None;
        }
        Some(event)
    }
}

/// What the client asked of the machine as a whole; the first request counts.
#[derive(Default)]
struct Asked(Mutex<Option<PowerEvent>>);

impl Power for Asked {
    fn request(&self, event: PowerEvent, _device: &'static str) {
        self.0.lock().get_or_insert(event);
    }
}

/// What is behind a pin.
pub(crate) struct Behind(pub(crate) Line);

impl LineSink for Behind {
    fn set_level(&self, level: bool) {
        self.0.set(level);
    }
}

#[cfg(test)]
mod tests;
