//! The configuration of a machine, as its user describes it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use trapline_backends::Outlet;
use trapline_block::DiskOptions;
use trapline_device::CharBackend;
use trapline_guestmem::Backing;
use trapline_net::NetOptions;
use trapline_ninep::ShareOptions;
use trapline_vfio::Assignment;

use crate::board::{EntropyFrom, FirmwareOptions, Options, Spared};
use crate::record::RecordOptions;
use crate::{IoRegion, Isolate};

/// A machine, as its user describes it.
#[derive(Clone)]
pub struct Config {
    /// vCPUs, from 1.
    pub cpus: u32,
    /// RAM in bytes, a multiple of 4 KiB.
    pub mem_bytes: u64,
    /// Where the RAM's bytes are: private, or in a file that other processes can map.
    pub memory: Backing,
    /// The KVM device, usually `/dev/kvm`.
    pub kvm_device: PathBuf,
    /// What runs first.
    pub boot: Boot,
    /// Behind the guest's console.
    pub console: Arc<dyn CharBackend>,
    /// Which device that is.
    pub console_kind: ConsoleKind,
    /// Ports of a virtio console device, besides the console.
    pub ports: Vec<PortOptions>,
    /// How many bytes of RAM a balloon is to hold at first, if there is one.
    pub balloon: Option<u64>,
    /// Behind the firmware's debug port (0x402), if there is one. The PC's only.
    pub firmware_log: Option<Arc<dyn CharBackend>>,
    /// The display, if there is one.
    pub display: Option<trapline_display::Mode>,
    /// Whether a port is there through which the guest can end the machine with a status.
    pub exit_port: bool,
    /// Whether the test device is there, which brings the exit port. The PC's only.
    pub testdev: bool,
    /// What registers virtio devices have.
    pub virtio: VirtioTransports,
    /// Whether there is an entropy source (virtio-rng).
    pub rng: bool,
    /// How many educational devices are on the PCI bus, for tests.
    pub edu: u8,
    /// Functions of the host that the guest drives itself.
    pub vfio: Vec<Assignment>,
    /// The disks, which are virtio devices.
    pub disks: Vec<DiskOptions>,
    /// The network cards, which are virtio devices.
    pub nets: Vec<NetOptions>,
    /// Folders of the host that the guest can mount (virtio-9p).
    pub shares: Vec<ShareOptions>,
    /// The socket device, if there is one.
    pub vsock: Option<VsockOptions>,
    /// Files for firmware to read by fw_cfg: names and contents. The PC's only.
    pub fw_cfg: Vec<(String, Vec<u8>)>,
    /// Regions that other processes answer.
    pub ioregions: Vec<IoRegion>,
    /// Which devices are in processes of their own.
    pub isolate: Isolate,
    /// Whether writes that may be late are queued by the kernel.
    pub coalesce: bool,
    /// Whether reads that change nothing are answered by the kernel.
    pub mirror: bool,
    /// Where a PC's interrupt controllers and its timer are emulated.
    pub pc_irqchip: PcIrqchip,
    /// Whether a PC that starts a kernel has the second to fourth serial port, and says that it has a
    /// keyboard controller and a clock with CMOS RAM. Both are there in any case, for who looks
    /// without asking ACPI, but a kernel that is not told of them does not go through them. A PC with
    /// firmware has it all, and one with a display says that it has a keyboard.
    pub pc_legacy: bool,
    /// How the configuration space of a PC's bus is reached.
    pub pc_config_space: PcConfigSpace,
    /// Whether the registers of a PC's first serial port are in memory, too, at
    /// [`MMIO_CONSOLE`](crate::MMIO_CONSOLE), of which the guest is not told but by its command line:
    /// for messages of a kernel (Linux' `earlycon`) that polls by reads without exits. Not with
    /// [`ConsoleKind::Mmio`], where they are there alone.
    pub pc_earlycon: bool,
    /// How the run is recorded, if it is.
    pub record: Option<RecordOptions>,
    /// What only arm64 machines have; the PC takes no notice.
    pub arm64: Arm64,
}

impl Config {
    /// A machine of one vCPU with this much RAM and a console, and nothing that is only there where
    /// somebody asks for it.
    pub fn new(boot: Boot, mem_bytes: u64, console: Arc<dyn CharBackend>) -> Self {
        Self {
            cpus: 1,
            mem_bytes,
            memory: Backing::Private,
            kvm_device: "/dev/kvm".into(),
            boot,
            console,
            console_kind: ConsoleKind::default(),
            ports: Vec::new(),
            balloon: None,
            firmware_log: None,
            display: None,
            exit_port: false,
            testdev: false,
            virtio: VirtioTransports::default(),
            rng: false,
            edu: 0,
            vfio: Vec::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            fw_cfg: Vec::new(),
            ioregions: Vec::new(),
            isolate: Isolate::default(),
            coalesce: true,
            mirror: true,
            pc_irqchip: PcIrqchip::default(),
            pc_legacy: true,
            pc_config_space: PcConfigSpace::default(),
            pc_earlycon: false,
            record: None,
            arm64: Arm64::default(),
        }
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            cpus: config.cpus,
            mem_bytes: config.mem_bytes,
            console: Arc::clone(&config.console),
            console_kind: config.console_kind,
            ports: config.ports.clone(),
            balloon: config.balloon,
            firmware_log: config.firmware_log.clone(),
            exit_port: config.exit_port,
            testdev: config.testdev,
            fw_cfg: config.fw_cfg.clone(),
            firmware: match &config.boot {
                Boot::Kernel { .. } => None,
                Boot::Firmware { kernel, .. } => Some(FirmwareOptions {
                    kernel: kernel.clone(),
                    display: config.display.is_some(),
                }),
            },
            legacy: config.pc_legacy,
            config_space: config.pc_config_space,
            earlycon: config.pc_earlycon,
            virtio: config.virtio.clone(),
            rng: config.rng.then_some(EntropyFrom::Host),
            edu: config.edu,
            plugs: false,
            disks: config.disks.clone(),
            nets: config.nets.clone(),
            shares: config.shares.clone(),
            vsock: config.vsock.clone(),
            stand_ins: None,
            awaits_files: false,
            spared: {
                let exact = config.record.as_ref().is_some_and(|record| record.exact);
                Spared { writes: config.coalesce && !exact, reads: config.mirror && !exact }
            },
        }
    }
}

/// Which device the guest's console is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleKind {
    /// The first serial port.
    #[default]
    Serial,
    /// A serial port in memory, which a guest on KVM can poll without an exit. A PC has it instead of
    /// those at ports; arm64's are all in memory.
    Mmio,
    /// A port of a virtio console device. What the first serial port sends goes to the same place,
    /// as a kernel's first messages do, and nothing comes to it from there.
    Virtio,
}

/// A port of a virtio console device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// What the guest knows it by.
    pub name: String,
    /// What is behind it.
    pub outlet: Outlet,
}

/// A socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockOptions {
    /// The guest's context identifier, from 3 to 0xffff_fffe.
    pub cid: u32,
    /// The socket of the host by which its programs get to the guest; beside it, with `_` and a port, are
    /// those of whom the guest gets to.
    pub socket: PathBuf,
}

/// What only arm64 machines have. The default is what kvmtool does without options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arm64 {
    /// Where RAM begins; where the board has it, if not said.
    pub mem_base: Option<u64>,
    /// The interrupt controller; the first of [`Irqchip::ORDER`] that KVM can make, if not said.
    pub irqchip: Option<Irqchip>,
    /// The guest is a 32-bit one.
    pub aarch32: bool,
    /// The processors have performance monitors.
    pub pmu: bool,
    /// Memory tagging is kept from the guest.
    pub disable_mte: bool,
    /// Stolen time is kept from the guest.
    pub no_pvtime: bool,
    /// The longest SVE vector in bits.
    pub sve_max_vl: Option<u32>,
    /// Host CPUs the vCPUs may run on; empty for all.
    pub vcpu_affinity: Vec<u32>,
    /// The timers' frequency in Hz, where the host's firmware tells a wrong one.
    pub timer_hz: Option<u32>,
    /// Seed of the kernel's address randomization; 0 is none.
    pub kaslr_seed: u64,
    /// What is in the flash, if there is one. The guest's changes go there.
    pub flash: Option<PathBuf>,
    /// Where firmware is loaded; to the start of RAM, if not said.
    pub firmware_address: Option<u64>,
    /// What firmware is to tell the kernel it starts (`bootargs`).
    pub firmware_params: Option<String>,
    /// Where a copy of the device tree goes.
    pub dump_dtb: Option<PathBuf>,
}

/// An arm64 machine's interrupt controllers, with or without a way in for messages (MSI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// GICv2, for 8 vCPUs at most; no messages.
    Gicv2,
    /// GICv2 with a GICv2m frame.
    Gicv2m,
    /// GICv3; no messages.
    Gicv3,
    /// GICv3 with an interrupt translation service.
    Gicv3Its,
}

impl Irqchip {
    /// Which one is taken: the first that can be had.
    pub const ORDER: [Self; 4] = [Self::Gicv3Its, Self::Gicv3, Self::Gicv2m, Self::Gicv2];

    /// What kvmtool's `--irqchip` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gicv2 => "gicv2",
            Self::Gicv2m => "gicv2m",
            Self::Gicv3 => "gicv3",
            Self::Gicv3Its => "gicv3-its",
        }
    }
}

/// Where a PC's interrupt controllers and its timer are emulated. The local APICs are always KVM's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PcIrqchip {
    /// All of them in KVM.
    #[default]
    Kernel,
    /// 8259 pair, I/O APIC and 8254 on the board.
    Split,
}

/// How the configuration space of a PC's bus is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PcConfigSpace {
    /// By configuration mechanism #1, and by kvmtool's window of 256 bytes a function.
    #[default]
    Ports,
    /// As memory alone, 4 KiB a function (ECAM), which a guest on KVM reads without an exit. Not with
    /// firmware, which goes by ports.
    Ecam,
}

/// What registers a virtio device has, by kvmtool's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtioTransport {
    /// Those of PCI functions of version 1.0 and later.
    #[default]
    Pci,
    /// Those of PCI functions of before 1.0.
    PciLegacy,
    /// Both, of which the driver uses one. kvmtool has no such functions.
    PciTransitional,
    /// A window in memory, version 2. kvmtool has none on a PC.
    Mmio,
    /// The same in version 1, for drivers of before 1.0.
    MmioLegacy,
}

impl VirtioTransport {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Pci, Self::PciLegacy, Self::PciTransitional, Self::Mmio, Self::MmioLegacy];

    /// What a user calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::PciLegacy => "pci-legacy",
            Self::PciTransitional => "pci-transitional",
            Self::Mmio => "mmio",
            Self::MmioLegacy => "mmio-legacy",
        }
    }

    /// The same for drivers of before 1.0.
    #[must_use]
    pub const fn legacy(self) -> Self {
        match self {
            Self::Pci | Self::PciLegacy | Self::PciTransitional => Self::PciLegacy,
            Self::Mmio | Self::MmioLegacy => Self::MmioLegacy,
        }
    }
}

/// What registers each virtio device has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtioTransports {
    /// All that are not named.
    pub others: VirtioTransport,
    /// Devices by their names on the board (`disk0`, `rng`); the last word on a name counts.
    pub named: Vec<(String, VirtioTransport)>,
}

impl VirtioTransports {
    /// That of the device with this name.
    pub fn of(&self, device: &str) -> VirtioTransport {
        let named = self.named.iter().rev().find(|(name, _)| name == device);
        named.map_or(self.others, |(_, transport)| *transport)
    }
}

impl From<VirtioTransport> for VirtioTransports {
    /// The same for every device.
    fn from(others: VirtioTransport) -> Self {
        Self { others, named: Vec::new() }
    }
}

/// What runs first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel.
    Kernel {
        /// The file.
        path: PathBuf,
        /// Its initial RAM disk.
        initrd: Initrd,
        /// Its whole command line.
        cmdline: String,
    },
    /// A firmware image.
    Firmware {
        /// The file.
        path: PathBuf,
        /// What of a PC's is in flash.
        flash: FirmwareFlash,
        /// A kernel for it to start. The PC's only.
        kernel: Option<FirmwareKernel>,
    },
}

/// What of a PC's firmware is in flash, in which it keeps its variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FirmwareFlash {
    /// Nothing: the image is ROM.
    #[default]
    None,
    /// All of it: code and variables are in one image, which the guest changes.
    Whole,
    /// The image, which the guest cannot change, and below it the variables, in this one.
    Variables(PathBuf),
}

/// A kernel that firmware gets by fw_cfg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareKernel {
    /// The file.
    pub path: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its whole command line.
    pub cmdline: String,
}

/// An initial RAM disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initrd {
    /// None at all.
    None,
    /// A file.
    File(PathBuf),
    /// An archive made on the spot.
    Made(Arc<Vec<u8>>),
}

/// The loader's word for an initial RAM disk.
pub(crate) fn initrd(initrd: &Initrd) -> Option<trapline_boot::Initrd<'_>> {
    match initrd {
        Initrd::None => None,
        Initrd::File(path) => Some(trapline_boot::Initrd::File(path)),
        Initrd::Made(bytes) => {
            Some(trapline_boot::Initrd::Bytes { name: "the built-in initramfs", bytes })
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest switched itself off.
    Off,
    /// The guest was reset, in this way.
    Reset(ResetCause),
    /// The guest ended the machine with this status.
    Exit(u8),
    /// The host ended it ([`crate::Control::stop`]).
    Stopped,
    /// The guest cannot go on.
    Crashed(Box<trapline_kvm::CrashReport>),
}

/// How a guest came to be reset. `Display` is the end of the sentence "the guest was reset by ...".
#[derive(Debug)]
pub enum ResetCause {
    /// The guest told this device to.
    Device(&'static str),
    /// The guest asked the firmware that KVM plays: PSCI's SYSTEM_RESET.
    Firmware,
    /// A triple fault, on purpose (Linux' `reboot=t`) or not. The report shows what led to it.
    TripleFault(Box<trapline_kvm::CrashReport>),
}

impl fmt::Display for ResetCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => f.write_str(device),
            Self::Firmware => f.write_str("a firmware call (PSCI SYSTEM_RESET)"),
            Self::TripleFault(_) => f.write_str("a triple fault"),
        }
    }
}
