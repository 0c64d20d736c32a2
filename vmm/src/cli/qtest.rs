//! The options of `trapline qtest`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail, ensure};
use clap::{ArgAction, Args};
use trapline_machine::disk::DiskOptions;
use trapline_machine::ninep::ShareOptions;
use trapline_machine::qtest::BoardKind;
use trapline_machine::{ConsoleKind, PortOptions, VirtioTransports, VsockOptions};
use trapline_qtest::{Address, Way};

use super::disk::disk;
use super::fw_cfg::FwCfgFile;
use super::options::{balloon, edu};
use super::ports::ports;
use super::qemu::{self, Chardevs, Netdevs, Properties};
use super::shares::shares;
use super::units::{self, BadNumber};
use super::virtio;
use super::vsock::vsock;

// No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
pub(super) struct QtestArgs {
    /// The board: x86-pc or arm64-virt
    #[arg(long, value_name = "BOARD", default_value = "x86-pc")]
    machine: String,
    /// Processors that the interrupt controller serves; none of them runs
    #[arg(short, long, value_name = "N", default_value = "1", allow_negative_numbers = true)]
    cpus: String,
    /// virtio transport, as of trapline run
    #[arg(long, value_name = "TRANSPORT[,DEVICE=TRANSPORT...]", default_value = "pci")]
    virtio_transport: String,
    /// virtio console device
    #[arg(long)]
    virtio_console: bool,
    /// Port of the virtio console device besides the console, as of trapline run
    #[arg(
        long, value_name = "[name=]NAME,file=PATH|pty[=LINK]|socket=PATH",
        action = ArgAction::Append
    )]
    virtio_port: Vec<OsString>,
    /// virtio memory balloon, as of trapline run
    #[arg(
        long, value_name = "SIZE[BKMGTP]", num_args = 0..=1, require_equals = true,
        default_missing_value = "0"
    )]
    balloon: Option<String>,
    /// virtio random number generator, whose numbers are the same each time
    #[arg(long)]
    rng: bool,
    /// Educational devices (QEMU's edu), which raise interrupts and send messages when told to
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    edu: String,
    /// Disk image, as of trapline run: a virtio device
    #[arg(
        short, long, value_name = "IMAGE[,ro|,direct][,KEY=VALUE...]", action = ArgAction::Append
    )]
    disk: Vec<OsString>,
    /// Folder of the host, as of trapline run: a virtio device
    #[arg(
        long = "9p", value_name = "DIR,TAG[,ro][,security_model=NAME]", action = ArgAction::Append
    )]
    plan9: Vec<OsString>,
    /// Socket device, as of trapline run: a virtio device
    #[arg(long, value_name = "CID,socket=PATH")]
    vsock: Option<OsString>,
    /// Memory; without a unit, in MiB
    #[arg(
        short,
        long,
        value_name = "SIZE[BKMGTP]",
        default_value = "64",
        allow_negative_numbers = true
    )]
    mem: String,
    /// Where the client is: a socket of this host
    #[arg(long, value_name = "unix:PATH|tcp:HOST:PORT", conflicts_with = "stdio")]
    socket: Option<String>,
    /// Connect to the socket instead of listening on it
    #[arg(long, requires = "socket")]
    connect: bool,
    /// The client is on standard input and output
    #[arg(long)]
    stdio: bool,
    /// Where a client of QEMU's monitor (QMP) can come to; devices can come and go then
    #[arg(long, value_name = "unix:PATH|tcp:HOST:PORT", action = ArgAction::Append)]
    qmp: Vec<String>,
    /// Take the rest for arguments of QEMU's, as its tests have them
    #[arg(
        long, value_name = "ARGUMENT...", num_args = 0.., allow_hyphen_values = true,
        exclusive = true
    )]
    qemu: Option<Vec<OsString>>,
    /// What UTC is when the machine starts
    #[arg(long, value_name = "YYYY-MM-DDTHH:MM:SS", default_value = "2000-01-01T00:00:00")]
    rtc_base: String,
    /// Give the machine a port that ends it with an exit status
    #[arg(long)]
    exit_port: bool,
    /// Image of the flash, which the client changes
    #[arg(short = 'F', long, value_name = "FILE")]
    flash: Option<PathBuf>,
    /// Image of a PC's flash above that, which the client cannot change
    #[arg(short, long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Give the machine the test device of kvm-unit-tests, with the exit port
    #[arg(long)]
    testdev: bool,
    /// Give firmware a file to read by fw_cfg
    #[arg(
        long, value_name = "[name=]NAME,file=PATH|string=TEXT", action = ArgAction::Append,
        allow_hyphen_values = true
    )]
    fw_cfg: Vec<OsString>,
}

/// Everything `trapline qtest` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QtestOptions {
    /// The board.
    pub board: BoardKind,
    /// Processors, of which none runs.
    pub cpus: u32,
    /// What registers virtio devices have.
    pub virtio: VirtioTransports,
    /// Which device the console is.
    pub console: ConsoleKind,
    /// Ports of the virtio console device besides the console.
    pub ports: Vec<PortOptions>,
    /// How many bytes of memory a balloon is to hold at first, if there is one.
    pub balloon: Option<u64>,
    /// There is an entropy source.
    pub rng: bool,
    /// Educational devices on the PCI bus.
    pub edu: u8,
    /// The disks.
    pub disks: Vec<DiskOptions>,
    /// Folders of the host that a driver can reach.
    pub shares: Vec<ShareOptions>,
    /// The socket device, if there is one.
    pub vsock: Option<VsockOptions>,
    /// Memory in bytes, a multiple of 4 KiB.
    pub mem_bytes: u64,
    /// Who the client is; `None` is whoever has standard input and output.
    pub way: Option<Way>,
    /// Images for devices that the user or a monitor's client plugs in, by name.
    pub drives: BTreeMap<String, DiskOptions>,
    /// What ports that the user or a monitor's client plugs in can lead to, by name.
    pub chardevs: Chardevs,
    /// What network cards that the user or a monitor's client plugs in can lead to, by name.
    pub netdevs: Netdevs,
    /// Devices to be plugged in at the start.
    pub devices: Vec<Properties>,
    /// Where monitors are.
    pub qmp: Vec<Way>,
    /// The command line was QEMU's.
    pub as_qemu: Option<AsQemu>,
    /// UTC at the start, in nanoseconds since 1970.
    pub utc_start_ns: u64,
    /// The machine gets the exit port.
    pub exit_port: bool,
    /// What is in the flash, if there is one.
    pub flash: Option<PathBuf>,
    /// What is in a PC's flash above that, if there is one.
    pub firmware: Option<PathBuf>,
    /// The machine gets the test device.
    pub testdev: bool,
    /// Files for firmware.
    pub fw_cfg: Vec<FwCfgFile>,
}

/// What is different where QEMU was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsQemu {
    /// It was one of version 8.2 or later.
    pub recent: bool,
}

impl QtestOptions {
    pub(super) fn new(args: &QtestArgs) -> anyhow::Result<Self> {
        if let Some(arguments) = &args.qemu {
            return qemu::parse(arguments.iter().cloned());
        }
        let board = board(&args.machine)?;
        let cpus = units::within("--cpus", &args.cpus, 1..=u64::from(u32::MAX))?;
        ensure!(
            board == BoardKind::X86Pc || !args.exit_port,
            "--exit-port: the board {} has no such port",
            args.machine
        );
        ensure!(
            board == BoardKind::Arm64Virt || cpus == 1,
            "--cpus {cpus}: under qtest the board {} has one processor",
            args.machine
        );
        ensure!(
            board == BoardKind::X86Pc || args.firmware.is_none(),
            "--firmware: the board {} has no place for it without a processor",
            args.machine
        );
        ensure!(
            board == BoardKind::X86Pc || !args.testdev,
            "--testdev: the board {} has no such device",
            args.machine
        );
        ensure!(
            board == BoardKind::X86Pc || args.fw_cfg.is_empty(),
            "--fw-cfg: the board {} has no such device",
            args.machine
        );
        Ok(Self {
            board,
            virtio: virtio::parse(&args.virtio_transport)?,
            console: match args.virtio_console {
                true => ConsoleKind::Virtio,
                false => ConsoleKind::Serial,
            },
            ports: ports(&args.virtio_port)?,
            balloon: args
                .balloon
                .as_deref()
                .map(|text| balloon(text, mem_bytes(&args.mem)?))
                .transpose()?,
            rng: args.rng,
            edu: edu(&args.edu)?,
            cpus: u32::try_from(cpus)?,
            disks: args.disk.iter().map(|text| disk(text)).collect::<Result<_, _>>()?,
            shares: shares(&args.plan9)?,
            vsock: args.vsock.as_deref().map(vsock).transpose()?,
            mem_bytes: mem_bytes(&args.mem)?,
            way: way(args)?,
            drives: BTreeMap::new(),
            chardevs: BTreeMap::new(),
            netdevs: BTreeMap::new(),
            devices: Vec::new(),
            qmp: qmp(args, board)?,
            as_qemu: None,
            utc_start_ns: utc_start_ns(&args.rtc_base)?,
            exit_port: args.exit_port,
            flash: args.flash.clone(),
            firmware: args.firmware.clone(),
            testdev: args.testdev,
            fw_cfg: args
                .fw_cfg
                .iter()
                .map(|text| FwCfgFile::new(text))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn board(name: &str) -> anyhow::Result<BoardKind> {
    match name {
        "x86-pc" => Ok(BoardKind::X86Pc),
        "arm64-virt" => Ok(BoardKind::Arm64Virt),
        _ => bail!("--machine {name}: no such board; there are x86-pc and arm64-virt"),
    }
}

fn mem_bytes(text: &str) -> anyhow::Result<u64> {
    match units::size(text) {
        Ok(0) => bail!("-m {text}: a machine needs memory"),
        Ok(size) => size.checked_next_multiple_of(4096),
        Err(BadNumber::TooLarge) => None,
        Err(BadNumber::NotANumber) => bail!("-m {text}: not a memory size"),
    }
    .ok_or_else(|| anyhow!("-m {text}: too much memory"))
}

fn way(args: &QtestArgs) -> anyhow::Result<Option<Way>> {
    let address = |text: &String| -> anyhow::Result<Address> { Ok(text.parse()?) };
    match &args.socket {
        _ if args.stdio => Ok(None),
        Some(socket) if args.connect => Ok(Some(Way::Connect(address(socket)?))),
        Some(socket) => Ok(Some(Way::Listen(address(socket)?))),
        None => bail!("trapline qtest: where is the client? Give --socket or --stdio"),
    }
}

fn qmp(args: &QtestArgs, board: BoardKind) -> anyhow::Result<Vec<Way>> {
    ensure!(
        board == BoardKind::X86Pc || args.qmp.is_empty(),
        "--qmp: devices of the board {} cannot come and go",
        args.machine
    );
    args.qmp.iter().map(|text| Ok(Way::Listen(text.parse()?))).collect()
}

fn utc_start_ns(text: &str) -> anyhow::Result<u64> {
    let time: SystemTime = humantime::parse_rfc3339_weak(text)
        .map_err(|_| anyhow!("--rtc-base {text}: write it as 2000-01-01T00:00:00"))?;
    let since = time.duration_since(UNIX_EPOCH).ok();
    // Devices count nanoseconds in 64 bits, and time is to go on from here.
    let ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
    ns.filter(|ns| *ns <= i64::MAX.unsigned_abs())
        .ok_or_else(|| anyhow!("--rtc-base {text}: not between 1970 and 2262"))
}
