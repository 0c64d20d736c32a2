//! The options of a run, judged and with every default filled in.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use trapline_control::GuestName;
use trapline_machine::boot::cmdline::Machine;
use trapline_machine::deliveries::LateWrites;
use trapline_machine::disk::DiskOptions;
use trapline_machine::net::NetOptions;
use trapline_machine::ninep::ShareOptions;
use trapline_machine::{
    Backing, ConsoleKind, FirmwareFlash, FirmwareKernel, IoRegion, OnDeath, PcConfigSpace,
    PcIrqchip, PortOptions, VirtioTransports, VsockOptions,
};

use super::args::{BasicArgs, KernelArgs, RunArgs, VirtioArgs};
use super::disk::disk;
use super::fw_cfg::FwCfgFile;
use super::ioregion::{ioregions, isolate};
use super::ports::ports;
use super::root::{self, RootOptions};
use super::shares::shares;
use super::units::{self, BadNumber};
use super::vfio::{self, VfioOptions};
use super::vsock::vsock;
use super::{Host, arm64, deliveries, foreign, network, refused, virtio};

/// Everything a run needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// The guest's name, by which other commands find it.
    pub name: GuestName,
    /// The name was chosen by the user.
    pub named: bool,
    /// Virtual CPUs, at least 1.
    pub cpus: u32,
    /// Guest memory in bytes, a multiple of 4 KiB.
    pub mem_bytes: u64,
    /// Where it is.
    pub memory: Backing,
    /// Where the interrupt controllers are emulated.
    pub pc_irqchip: PcIrqchip,
    /// The disks.
    pub disks: Vec<DiskOptions>,
    /// Folders of the host that the guest can mount.
    pub shares: Vec<ShareOptions>,
    /// The socket device, if there is one.
    pub vsock: Option<VsockOptions>,
    /// The root file system, where it is neither a disk nor an initial RAM disk.
    pub root: RootOptions,
    /// The network cards.
    pub nets: Vec<NetOptions>,
    /// KVM's device file.
    pub dev: PathBuf,
    /// What to start.
    pub boot: Boot,
    /// Nothing is added that was not asked for; above all, the kernel's arguments are
    /// [`Boot::Kernel`]'s `params` and nothing else.
    pub nodefaults: bool,
    /// A PC has all its legacy devices.
    pub legacy: bool,
    /// How the configuration space of a PC's bus is reached.
    pub config_space: PcConfigSpace,
    /// A PC's first serial port is in memory, too, where its kernel prints its first messages.
    pub earlycon: bool,
    /// Where viewers of the display connect.
    pub vnc: Option<SocketAddr>,
    /// Where the display's last picture goes.
    pub screendump: Option<PathBuf>,
    /// Ports that nobody answers are listed.
    pub debug_ioport: bool,
    /// Memory addresses that nobody answers are listed.
    pub debug_mmio: bool,
    /// The trap statistics are printed at the end, in this form.
    pub stat: Option<StatForm>,
    /// Where metrics are written to.
    pub metrics_path: Option<PathBuf>,
    /// Whose accesses are printed as they happen.
    pub trace: Vec<String>,
    /// At which accesses the guest stops.
    pub breaks: Vec<String>,
    /// Where the guest kernel's symbols are.
    pub symbols: Option<PathBuf>,
    /// Where gdb connects.
    pub gdb: Option<SocketAddr>,
    /// Writes that may be late, besides those that devices say themselves.
    pub late_writes: Vec<LateWrites>,
    /// Where the run is recorded.
    pub record: Option<PathBuf>,
    /// Nothing is left to the kernel whose order a recording does not see.
    pub record_exact: bool,
    /// What devices exchange with guest memory without looking at it is recorded, too.
    pub record_payload: bool,
    /// A guest that resets starts again.
    pub reboot: bool,
    /// A triple fault is a failure, not a reset.
    pub fail_on_triple_fault: bool,
    /// The guest gets the exit port.
    pub exit_port: bool,
    /// The guest gets the test device.
    pub testdev: bool,
    /// Which device the console is.
    pub console: ConsoleKind,
    /// Ports of the virtio console device besides the console.
    pub ports: Vec<PortOptions>,
    /// How many bytes of memory a balloon is to hold at first, if there is one.
    pub balloon: Option<u64>,
    /// What registers virtio devices have.
    pub virtio: VirtioTransports,
    /// There is an entropy source.
    pub rng: bool,
    /// How many educational devices are on the PCI bus.
    pub edu: u8,
    /// Functions of the host for the guest.
    pub vfio: Vec<VfioOptions>,
    /// Files for firmware.
    pub fw_cfg: Vec<FwCfgFile>,
    /// Regions that other processes answer.
    pub ioregions: Vec<IoRegion>,
    /// Devices in processes of their own, by their names on the board.
    pub isolated: Vec<String>,
    /// What happens when one of the processes dies.
    pub on_isolated_death: OnDeath,
    /// The kernel may queue writes that can be late.
    pub coalesce: bool,
    /// Whether reads that change nothing are answered by the kernel.
    pub mirror: bool,
    /// How much is said on standard error.
    pub loglevel: LogLevel,
    /// What only arm64 guests have.
    pub arm64: trapline_machine::Arm64,
    /// What may surprise about these options, in sentences.
    pub warnings: Vec<String>,
}

/// What the guest starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel.
    Kernel {
        /// Its file; `None` is the first of kvmtool's usual places that has one.
        path: Option<PathBuf>,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
        /// The user's arguments for it.
        params: String,
    },
    /// A firmware image.
    Firmware {
        /// Its file.
        path: PathBuf,
        /// What of a PC's is in flash.
        flash: FirmwareFlash,
        /// A kernel for it to start, with nothing added to what the user says to it.
        kernel: Option<FirmwareKernel>,
    },
}

/// How much is said on standard error; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// What may surprise.
    Warning,
    /// What happens.
    #[default]
    Info,
    /// Everything.
    Debug,
}

/// How statistics are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatForm {
    /// By device and register, what was touched, the biggest first.
    Table,
    /// The whole map, by region.
    All,
    /// As JSON, all there is.
    Json,
}

impl RunOptions {
    pub(super) fn new(args: RunArgs, host: &Host) -> anyhow::Result<Self> {
        let software = software(&args, host)?;
        let cpus = cpus(&args.basic, host)?;
        let (mem_bytes, mem_base) = memory(&args.basic, cpus, host)?;
        let mut virtio = virtio::transports(&args.virtio)?;
        let (isolated, on_isolated_death) = isolate(&args.trapline.isolate)?;
        let (disks, root) = files(&args, &software)?;
        Ok(Self {
            isolated,
            on_isolated_death,
            warnings: warnings(&args, mem_bytes, host),
            arm64: match host.machine {
                Machine::Pc => trapline_machine::Arm64::default(),
                Machine::Arm64 => arm64::options(&args, mem_base)?,
            },
            pc_irqchip: match host.machine {
                Machine::Pc => pc_irqchip(args.machine.irqchip.as_deref())?,
                Machine::Arm64 => PcIrqchip::default(),
            },
            cpus,
            mem_bytes,
            memory: args.basic.hugetlbfs.clone().map_or(Backing::Private, Backing::Hugetlbfs),
            disks,
            shares: shares(&args.virtio.plan9)?,
            vsock: args.virtio.vsock.as_deref().map(vsock).transpose()?,
            boot: software,
            loglevel: loglevel(&args.basic, args.debug.debug, &root)?,
            root,
            named: args.basic.name.is_some(),
            name: name(args.basic.name.as_deref())?,
            dev: args.basic.dev.unwrap_or_else(|| "/dev/kvm".into()),
            nodefaults: args.basic.nodefaults,
            legacy: args.trapline.legacy || !args.basic.nodefaults,
            config_space: match args.trapline.ecam {
                true => PcConfigSpace::Ecam,
                false => PcConfigSpace::Ports,
            },
            earlycon: args.trapline.earlycon,
            vnc: args.display.vnc.as_deref().map(vnc).transpose()?,
            screendump: args.display.screendump,
            debug_ioport: args.debug.debug_ioport,
            debug_mmio: args.debug.debug_mmio,
            stat: args.trapline.stat.as_deref().map(stat_form).transpose()?,
            metrics_path: args.trapline.metrics_path,
            trace: args.trapline.trace,
            breaks: args.trapline.breaks,
            symbols: args.trapline.symbols,
            gdb: args.trapline.gdb.as_deref().map(gdb).transpose()?,
            late_writes: deliveries::read(args.trapline.deliveries.as_deref())?,
            record: args.trapline.record,
            record_exact: args.trapline.record_exact,
            record_payload: args.trapline.record_payload,
            reboot: args.trapline.reboot,
            fail_on_triple_fault: args.trapline.fail_on_triple_fault,
            exit_port: args.trapline.exit_port,
            testdev: args.trapline.testdev,
            console: console(args.basic.console.as_deref(), host.machine),
            ports: ports(&args.virtio.virtio_port)?,
            balloon: balloon_of(&args.virtio, mem_bytes)?,
            nets: network::cards(&args.network.network, &mut virtio)?,
            virtio,
            rng: args.virtio.rng,
            edu: args.trapline.edu.as_deref().map_or(Ok(0), edu)?,
            vfio: vfio::functions(&args.vfio)?,
            fw_cfg: fw_cfg_files(&args.trapline.fw_cfg)?,
            ioregions: ioregions(&args.trapline.ioregion)?,
            coalesce: !args.trapline.no_coalesce,
            mirror: !args.trapline.no_mirror,
        })
    }
}

fn fw_cfg_files(options: &[OsString]) -> anyhow::Result<Vec<FwCfgFile>> {
    options.iter().map(|option| FwCfgFile::new(option)).collect()
}

/// The disks, and what is the root file system if they are not.
fn files(args: &RunArgs, software: &Boot) -> anyhow::Result<(Vec<DiskOptions>, RootOptions)> {
    let disks = args.basic.disk.iter().map(|text| disk(text)).collect::<Result<_, _>>()?;
    let (disks, folders) = root::split(disks);
    let root = RootOptions::new(args, folders)?;
    root.check(software, &disks, args.basic.nodefaults)?;
    Ok((disks, root))
}

/// What to start, if all that is asked for can be had with it.
fn software(args: &RunArgs, host: &Host) -> anyhow::Result<Boot> {
    if let Some(reason) = foreign::first(args, host.machine).or_else(|| refused::first(args)) {
        bail!(reason);
    }
    let software = boot(args.kernel.clone(), host.machine)?;
    let console = console(args.basic.console.as_deref(), host.machine);
    if args.trapline.earlycon && console != ConsoleKind::Serial {
        bail!("--earlycon: the console is no serial port at ports (--console serial)");
    }
    if let (Boot::Firmware { .. }, Some(option)) = (&software, not_firmwares(args, host.machine)) {
        bail!("{option}: a PC's firmware has no way to it but by ports");
    }
    Ok(software)
}

fn stat_form(text: &str) -> anyhow::Result<StatForm> {
    Ok(match text {
        "table" => StatForm::Table,
        "all" => StatForm::All,
        "json" => StatForm::Json,
        _ => bail!("--stat: there is no {text}; there are table, all and json"),
    })
}

fn name(chosen: Option<&str>) -> anyhow::Result<GuestName> {
    let default = || format!("guest-{}", std::process::id());
    GuestName::new(&chosen.map_or_else(default, str::to_owned)).context("--name")
}

fn cpus(args: &BasicArgs, host: &Host) -> anyhow::Result<u32> {
    let Some(text) = &args.cpus else { return Ok(host.default_cpus()) };
    let count = match units::count(text) {
        // As in kvmtool.
        Ok(0) => return Ok(host.default_cpus()),
        Ok(count) => count,
        Err(BadNumber::TooLarge) => u64::MAX,
        Err(BadNumber::NotANumber) => bail!("-c {text}: not a number of CPUs"),
    };
    u32::try_from(count)
        .ok()
        .with_context(|| format!("-c {text}: no guest can have that many CPUs"))
}

/// How much memory there is, and where, if that is said.
fn memory(args: &BasicArgs, cpus: u32, host: &Host) -> anyhow::Result<(u64, Option<u64>)> {
    const PAGE: u64 = 4096;
    let Some(text) = &args.mem else {
        return Ok((host.default_mem_bytes(cpus) / PAGE * PAGE, None));
    };
    let (size, base) = match text.split_once('@') {
        Some(_) if host.machine != Machine::Arm64 => {
            bail!("-m {text}: only the memory of arm64 guests can be somewhere else")
        }
        Some((size, base)) => (size, Some(arm64::mem_base(base)?)),
        None => (text.as_str(), None),
    };
    let size = match units::size(size) {
        Ok(0) => bail!("-m {text}: a guest needs memory"),
        Ok(size) => size,
        Err(BadNumber::TooLarge) => u64::MAX,
        Err(BadNumber::NotANumber) => {
            bail!("-m {text}: not a memory size; write MiB, or a unit as in 512M or 2G")
        }
    };
    let size = size.checked_next_multiple_of(PAGE);
    Ok((size.with_context(|| format!("-m {text}: too much memory"))?, base))
}

/// What kvmtool warns of, too. Memory beyond the host's RAM is legal: a guest need not touch it all.
fn warnings(args: &RunArgs, mem_bytes: u64, host: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(ram) = host.ram_bytes.filter(|ram| mem_bytes > *ram) {
        let (guest, ram) = (mem_bytes >> 20, ram >> 20);
        warnings.push(format!("-m: the guest has {guest} MiB of memory, the host only {ram} MiB"));
    }
    let kernels = args.kernel.kernel.iter().chain(&args.kernel.positional).count();
    let flash = host.machine == Machine::Pc && args.kernel.flash.is_some();
    let firmware = flash || args.kernel.firmware.is_some();
    if firmware && args.kernel.initrd.is_some() && kernels == 0 {
        warnings.push(
            "--initrd: firmware takes no initial RAM disk without a kernel, it is ignored"
                .to_owned(),
        );
    }
    let consoles = ["serial", "mmio", "virtio", "hv"];
    if let Some(text) = args.basic.console.as_deref().filter(|text| !consoles.contains(text)) {
        warnings.push(format!("--console {text}: no such console, it is the serial port"));
    }
    warnings
}

/// How much of the guest's memory a balloon is to hold, if there is one.
fn balloon_of(args: &VirtioArgs, mem_bytes: u64) -> anyhow::Result<Option<u64>> {
    args.balloon.as_deref().map(|text| balloon(text, mem_bytes)).transpose()
}

/// How much of the guest's memory a balloon is to hold, as `--balloon` says it.
pub(super) fn balloon(text: &str, mem_bytes: u64) -> anyhow::Result<u64> {
    match units::size(text) {
        Ok(size) if size < mem_bytes => Ok(size),
        Ok(_) | Err(BadNumber::TooLarge) => {
            bail!("--balloon={text}: that is all of the guest's memory, or more")
        }
        Err(BadNumber::NotANumber) => {
            bail!("--balloon={text}: not a memory size; write MiB, or a unit as in 512M or 2G")
        }
    }
}

/// What is no console at all is the serial port, with a warning, as in kvmtool.
fn console(text: Option<&str>, machine: Machine) -> ConsoleKind {
    match text {
        Some("virtio") => ConsoleKind::Virtio,
        // All of arm64's are in memory.
        Some("mmio") if machine == Machine::Pc => ConsoleKind::Mmio,
        _ => ConsoleKind::Serial,
    }
}

fn pc_irqchip(text: Option<&str>) -> anyhow::Result<PcIrqchip> {
    Ok(match text {
        None => PcIrqchip::default(),
        Some("kernel") => PcIrqchip::Kernel,
        Some("split") => PcIrqchip::Split,
        Some(text @ ("gicv2" | "gicv2m" | "gicv3" | "gicv3-its")) => {
            bail!("--irqchip {text}: an arm64 guest's; a PC has kernel and split")
        }
        Some(text) => bail!("--irqchip {text}: not one of kernel and split"),
    })
}

fn boot(args: KernelArgs, machine: Machine) -> anyhow::Result<Boot> {
    let mut kernels = args.kernel.into_iter().chain(args.positional);
    let path = kernels.next();
    if let Some(second) = kernels.next() {
        bail!("{}: a kernel was already given", second.display());
    }
    let params = args.params.unwrap_or_default();
    let firmware = match (args.firmware, args.flash) {
        // The flash of an arm64 machine is there for whatever it starts with.
        (path, _) if machine == Machine::Arm64 => path.map(|path| (path, FirmwareFlash::None)),
        (Some(path), Some(flash)) => Some((path, FirmwareFlash::Variables(flash))),
        (Some(path), None) => Some((path, FirmwareFlash::None)),
        (None, flash) => flash.map(|path| (path, FirmwareFlash::Whole)),
    };
    match (path, firmware) {
        (Some(_), Some(_)) if machine == Machine::Arm64 => {
            bail!("--firmware: a guest starts with a kernel or with firmware")
        }
        (kernel, Some((path, flash))) => {
            let kernel =
                kernel.map(|path| FirmwareKernel { path, initrd: args.initrd, cmdline: params });
            Ok(Boot::Firmware { path, flash, kernel })
        }
        (path, None) => Ok(Boot::Kernel { path, initrd: args.initrd, params }),
    }
}

/// The first option for what a PC's firmware would not find.
fn not_firmwares(args: &RunArgs, machine: Machine) -> Option<&'static str> {
    let mmio = console(args.basic.console.as_deref(), machine) == ConsoleKind::Mmio;
    let table = [
        (mmio, "--console mmio"),
        (args.trapline.ecam, "--ecam"),
        (args.trapline.earlycon, "--earlycon"),
    ];
    table.into_iter().find(|row| row.0).map(|(_, option)| option)
}

/// How many educational devices, as `--edu` says it: what fits on the bus.
pub(super) fn edu(text: &str) -> anyhow::Result<u8> {
    const EDU_MAX: u8 = 31;
    Ok(u8::try_from(units::within("--edu", text, 0..=EDU_MAX.into())?)?)
}

/// VNC's first port.
const VNC_PORT: u16 = 5900;

/// A port, or an address and a port. Nobody outside this host gets in unless the user says so.
pub(super) fn gdb(text: &str) -> anyhow::Result<SocketAddr> {
    let port = text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let addr = port.or_else(|| text.parse().ok());
    addr.with_context(|| format!("--gdb {text}: not a port, nor an address and a port"))
}

/// An address, a port, or both; nothing is all defaults. Nobody outside this host gets in unless
/// the user says so.
fn vnc(text: &str) -> anyhow::Result<SocketAddr> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = |text| u16::try_from(units::count(text).ok()?).ok();
    let address = || {
        let Some((host, after)) = text.rsplit_once(':') else {
            return Some(SocketAddr::new(here, port(text)?));
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match bare {
            Some(v6) => IpAddr::V6(v6.parse().ok()?),
            None => IpAddr::V4(host.parse().ok()?),
        };
        Some(SocketAddr::new(ip, port(after)?))
    };
    if text.is_empty() {
        return Ok(SocketAddr::new(here, VNC_PORT));
    }
    let whole = text.parse().ok().map(|ip| SocketAddr::new(ip, VNC_PORT));
    whole.or_else(|| text.parse().ok()).or_else(address).with_context(|| {
        format!("--vnc={text}: not an address to listen on; write 127.0.0.1:5900, or a port")
    })
}

/// What a command writes is not to be between sentences of ours.
fn loglevel(args: &BasicArgs, debug: bool, root: &RootOptions) -> anyhow::Result<LogLevel> {
    let level = match args.loglevel.as_deref() {
        None if root.is_errand() => LogLevel::Warning,
        None => LogLevel::default(),
        Some("error") => LogLevel::Error,
        Some("warning") => LogLevel::Warning,
        Some("info") => LogLevel::Info,
        Some("debug") => LogLevel::Debug,
        Some(text) => bail!("--loglevel {text}: not one of error, warning, info and debug"),
    };
    Ok(if debug { LogLevel::Debug } else { level })
}
