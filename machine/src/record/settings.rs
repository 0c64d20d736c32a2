//! What a recording says of the machine, and what a replay builds it from.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use trapline_device::CharBackend;
use trapline_display::Mode;
use trapline_trace::{Level, Meta, Source};

use super::RecordOptions;
use super::devices::{self, Devices, FW_CFG_MAX};
use crate::board::{EntropyFrom, FirmwareOptions, Options, Spared, VirtioHandles};
use crate::qtest::BoardKind;
use crate::{Boot, Config, ConsoleKind, FirmwareFlash, PcConfigSpace};

/// The names of the settings.
const IRQCHIP: &str = "irqchip";
const MEM_BASE: &str = "mem-base";
const EXIT_PORT: &str = "exit-port";
const TESTDEV: &str = "testdev";
const LEGACY: &str = "legacy";
const FIRMWARE_LOG: &str = "firmware-log";
const DISPLAY: &str = "display";
const FIRMWARE: &str = "firmware";
const CONSOLE_IN_MEMORY: &str = "console-in-memory";
const ECAM: &str = "ecam";
const EARLYCON: &str = "earlycon";
/// Devices of which the recording does not have all that they depend on.
pub(super) const LACKING: &str = "lacking";

/// What a recording of a machine of `config` says of it, whose UTC at machine time 0 and whose
/// interrupt controllers are these.
pub(crate) fn meta(
    (config, options): (&Config, &RecordOptions),
    utc_ns: u64,
    irqchip: &'static str,
    virtio: &VirtioHandles,
) -> Meta {
    let flag = |name: &str, on: bool| (name.to_owned(), u8::from(on).to_string());
    let mut settings = vec![
        (IRQCHIP.to_owned(), irqchip.to_owned()),
        flag(EXIT_PORT, config.exit_port),
        flag(TESTDEV, config.testdev),
        flag(LEGACY, config.pc_legacy),
        flag(FIRMWARE_LOG, config.firmware_log.is_some()),
        flag(CONSOLE_IN_MEMORY, config.console_kind == ConsoleKind::Mmio),
        flag(ECAM, config.pc_config_space == PcConfigSpace::Ecam),
        flag(EARLYCON, config.pc_earlycon),
        flag(FIRMWARE, matches!(config.boot, Boot::Firmware { .. })),
    ];
    if let Some(base) = config.arm64.mem_base {
        settings.push((MEM_BASE.to_owned(), base.to_string()));
    }
    if let Some(mode) = config.display {
        settings.push((DISPLAY.to_owned(), format!("{}x{}", mode.width(), mode.height())));
    }
    settings.extend(devices::settings(config, virtio));
    let lacking = lacking(config);
    if !lacking.is_empty() {
        settings.push((LACKING.to_owned(), lacking.join(", ")));
    }
    Meta {
        recorder: concat!("trapline ", env!("CARGO_PKG_VERSION")).to_owned(),
        source: Source::Kvm,
        architecture: std::env::consts::ARCH.to_owned(),
        board: BOARD.to_owned(),
        arguments: options.arguments.clone(),
        vcpus: config.cpus,
        ram_bytes: config.mem_bytes,
        utc_ns,
        clock_hz: 1_000_000_000,
        kernel_sha256: kernel_sha256(config).unwrap_or_default(),
        levels: vec![Level::Accesses, Level::Inputs, Level::Memory, Level::Outputs],
        exact: options.exact,
        unseen: unseen(config, options, irqchip),
        settings,
    }
}

/// The board of this host's machines.
const BOARD: &str = if cfg!(target_arch = "aarch64") { ARM64_VIRT } else { X86_PC };
const X86_PC: &str = "x86-pc";
const ARM64_VIRT: &str = "arm64-virt";

/// SHA-256 of the kernel, or of the firmware, that the guest starts with. The machine has loaded it, so what
/// keeps it from being read again is no reason to refuse a recording.
fn kernel_sha256(config: &Config) -> Option<String> {
    let path = match &config.boot {
        Boot::Kernel { path, .. } => path,
        Boot::Firmware { path, kernel, .. } => kernel.as_ref().map_or(path, |kernel| &kernel.path),
    };
    let mut file = File::open(path).ok()?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => hash.update(piece.get(..len)?),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Devices that read what the recording does not have: files of the host, other devices.
fn lacking(config: &Config) -> Vec<String> {
    let all = [
        (!config.vfio.is_empty(), "assigned functions"),
        (!config.ioregions.is_empty(), "devices of other processes"),
        (!config.isolate.devices.is_empty(), "isolated devices"),
        (firmware_has_more(config), "firmware"),
        (devices::fw_cfg_bytes(config) > FW_CFG_MAX, "fw_cfg"),
        (config.arm64.flash.is_some(), "flash"),
    ];
    let there = all.into_iter().filter(|(is_there, _)| *is_there);
    there.map(|(_, name)| name.to_owned()).collect()
}

/// Whether firmware has more than an image in ROM: its flash, or a kernel to start.
fn firmware_has_more(config: &Config) -> bool {
    match &config.boot {
        Boot::Firmware { flash, kernel, .. } => *flash != FirmwareFlash::None || kernel.is_some(),
        Boot::Kernel { .. } => false,
    }
}

/// What a recording does not see, a sentence each.
fn unseen(config: &Config, options: &RecordOptions, irqchip: &str) -> Vec<String> {
    let mut unseen = Vec::new();
    if irqchip != SPLIT {
        unseen.push(format!("the interrupt controllers ({irqchip}) are in the kernel"));
    }
    let queues = config.rng
        || config.balloon.is_some()
        || config.console_kind == ConsoleKind::Virtio
        || !config.ports.is_empty();
    if !options.exact && (exchanges(config) || queues) {
        unseen.push("doorbells of queues, which the kernel takes".to_owned());
    }
    if config.mirror && !options.exact {
        unseen.push("reads that the kernel answers from pages of a device".to_owned());
    }
    if exchanges(config) && !options.payload {
        let what =
            "what disks, networks and shared folders exchange with guest memory, but for a hash";
        unseen.push(what.to_owned());
    }
    let lacking = lacking(config);
    if !lacking.is_empty() {
        let names = lacking.join(", ");
        unseen.push(format!("what these have of the host: {names}"));
    }
    unseen
}

/// Whether bytes go between the host and guest memory that no device looks at.
fn exchanges(config: &Config) -> bool {
    !(config.disks.is_empty() && config.nets.is_empty() && config.shares.is_empty())
        || config.vsock.is_some()
}

/// What the PC's interrupt controllers are called where they are ours.
pub(crate) const SPLIT: &str = "split";

/// The machine of a recording.
pub(crate) struct Settings {
    pub(crate) board: BoardKind,
    pub(crate) cpus: u32,
    pub(crate) mem_bytes: u64,
    pub(crate) mem_base: Option<u64>,
    pub(crate) utc_ns: u64,
    pub(crate) irqchip: String,
    pub(crate) display: Option<Mode>,
    exit_port: bool,
    testdev: bool,
    legacy: bool,
    firmware_log: bool,
    /// Whether the guest starts with firmware.
    pub(crate) firmware: bool,
    console_in_memory: bool,
    ecam: bool,
    earlycon: bool,
    devices: Devices,
}

/// The most RAM that a replay maps, which it does not fill: 1 TiB.
const MEM_MAX: u64 = 1 << 40;

impl Settings {
    /// What `meta` says, or why it is not enough for a replay, in a sentence.
    pub(crate) fn of(meta: &Meta) -> Result<Self, String> {
        let board = match meta.board.as_str() {
            X86_PC => BoardKind::X86Pc,
            ARM64_VIRT => BoardKind::Arm64Virt,
            "" => return Err("it does not say which board was recorded".to_owned()),
            other => return Err(format!("this program has no board {other}")),
        };
        if let Some(names) = meta.setting(LACKING) {
            return Err(format!("it does not have all that these depend on: {names}"));
        }
        if meta.vcpus == 0 || meta.vcpus > 4096 || meta.ram_bytes > MEM_MAX {
            let (cpus, ram) = (meta.vcpus, meta.ram_bytes);
            return Err(format!("no machine has {cpus} vCPUs and {ram} bytes of RAM"));
        }
        let is_set = |name| meta.setting(name) == Some("1");
        let number = |name| meta.setting(name).and_then(|value| value.parse().ok());
        let display = meta.setting(DISPLAY).map(|mode| {
            let parsed = mode
                .split_once('x')
                .and_then(|(width, height)| Mode::new(width.parse().ok()?, height.parse().ok()?));
            parsed.ok_or_else(|| format!("there is no display of {mode}"))
        });
        Ok(Self {
            board,
            cpus: meta.vcpus,
            mem_bytes: meta.ram_bytes,
            mem_base: number(MEM_BASE),
            utc_ns: meta.utc_ns,
            irqchip: meta.setting(IRQCHIP).unwrap_or_default().to_owned(),
            display: display.transpose()?,
            exit_port: is_set(EXIT_PORT),
            testdev: is_set(TESTDEV),
            legacy: is_set(LEGACY),
            firmware_log: is_set(FIRMWARE_LOG),
            firmware: is_set(FIRMWARE),
            console_in_memory: is_set(CONSOLE_IN_MEMORY),
            ecam: is_set(ECAM),
            earlycon: is_set(EARLYCON),
            devices: Devices::of(meta)?,
        })
    }

    /// What its board is built with, its console in front of `console`.
    pub(crate) fn options(&self, console: Arc<dyn CharBackend>) -> Options {
        let devices = &self.devices;
        Options {
            cpus: self.cpus,
            mem_bytes: self.mem_bytes,
            firmware_log: self.firmware_log.then(|| Arc::clone(&console)),
            console,
            console_kind: match (self.devices.virtio_console, self.console_in_memory) {
                (true, _) => ConsoleKind::Virtio,
                (false, true) => ConsoleKind::Mmio,
                (false, false) => ConsoleKind::Serial,
            },
            config_space: match self.ecam {
                true => PcConfigSpace::Ecam,
                false => PcConfigSpace::default(),
            },
            earlycon: self.earlycon,
            ports: devices.ports.clone(),
            balloon: devices.balloon,
            exit_port: self.exit_port,
            testdev: self.testdev,
            legacy: self.legacy,
            fw_cfg: devices.fw_cfg.clone(),
            firmware: self
                .firmware
                .then(|| FirmwareOptions { kernel: None, display: self.display.is_some() }),
            virtio: devices.virtio.clone(),
            // What is behind it is in the recording.
            rng: devices.rng.then_some(EntropyFrom::Sequence),
            edu: devices.edu,
            plugs: false,
            disks: devices.disks.clone(),
            nets: devices.nets.clone(),
            shares: devices.shares.clone(),
            vsock: devices.vsock.clone(),
            stand_ins: Some(devices.stand_ins.clone()),
            awaits_files: false,
            spared: Spared { writes: false, reads: false },
        }
    }
}
