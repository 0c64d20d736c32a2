//! What a recording says of the machine, and what a replay builds it from.

use std::sync::Arc;

use trapline_device::CharBackend;
use trapline_display::Mode;
use trapline_trace::{Level, Meta, Source};

use super::RecordOptions;
use crate::board::{FirmwareOptions, Options, Spared};
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
/// Devices of which the recording does not have all that they depend on.
const LACKING: &str = "lacking";

/// What a recording of a machine of `config` says of it, whose UTC at machine time 0 and whose
/// interrupt controllers are these.
pub(crate) fn meta(
    config: &Config,
    options: &RecordOptions,
    utc_ns: u64,
    irqchip: &'static str,
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
        flag(FIRMWARE, matches!(config.boot, Boot::Firmware { .. })),
    ];
    if let Some(base) = config.arm64.mem_base {
        settings.push((MEM_BASE.to_owned(), base.to_string()));
    }
    if let Some(mode) = config.display {
        settings.push((DISPLAY.to_owned(), format!("{}x{}", mode.width(), mode.height())));
    }
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
        kernel_sha256: String::new(),
        levels: vec![Level::Accesses, Level::Inputs, Level::Outputs],
        exact: options.exact,
        unseen: unseen(config, irqchip),
        settings,
    }
}

/// The board of this host's machines.
const BOARD: &str = if cfg!(target_arch = "aarch64") { ARM64_VIRT } else { X86_PC };
const X86_PC: &str = "x86-pc";
const ARM64_VIRT: &str = "arm64-virt";

/// Devices that read what the recording does not have: guest memory, files of the host.
fn lacking(config: &Config) -> Vec<String> {
    let disks = (0..config.disks.len()).map(|number| format!("disk{number}"));
    let others = [
        (config.rng, "rng"),
        (config.console_kind == ConsoleKind::Virtio || !config.ports.is_empty(), "console"),
        (config.balloon.is_some(), "balloon"),
        (!config.nets.is_empty(), "network cards"),
        (!config.vfio.is_empty(), "assigned functions"),
        (!config.shares.is_empty(), "shared folders"),
        (!config.ioregions.is_empty(), "devices of other processes"),
        (config.edu > 0, "edu0"),
        (firmware_has_more(config), "firmware"),
        (!config.fw_cfg.is_empty(), "fw_cfg"),
        (config.arm64.flash.is_some(), "flash"),
    ];
    let others = others.into_iter().filter(|(is_there, _)| *is_there);
    let mut all: Vec<_> = disks.chain(others.map(|(_, name)| name.to_owned())).collect();
    all.dedup();
    all
}

/// Whether firmware has more than an image in ROM: its flash, or a kernel to start.
fn firmware_has_more(config: &Config) -> bool {
    match &config.boot {
        Boot::Firmware { flash, kernel, .. } => *flash != FirmwareFlash::None || kernel.is_some(),
        Boot::Kernel { .. } => false,
    }
}

/// What a recording does not see, a sentence each.
fn unseen(config: &Config, irqchip: &str) -> Vec<String> {
    let mut unseen = Vec::new();
    if irqchip != SPLIT {
        unseen.push(format!("the interrupt controllers ({irqchip}) are in the kernel"));
    }
    if config.mirror {
        unseen.push("reads that the kernel answers from pages of a device".to_owned());
    }
    if cfg!(target_arch = "x86_64") && matches!(config.boot, Boot::Firmware { .. }) {
        unseen.push("what fw_cfg reads from guest memory".to_owned());
    }
    let lacking = lacking(config);
    if !lacking.is_empty() {
        let names = lacking.join(", ");
        unseen.push(format!("what these read from guest memory or from files: {names}"));
    }
    unseen
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
    firmware: bool,
    console_in_memory: bool,
    ecam: bool,
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
        })
    }

    /// What its board is built with, its console in front of `console`.
    pub(crate) fn options(&self, console: Arc<dyn CharBackend>) -> Options {
        Options {
            cpus: self.cpus,
            mem_bytes: self.mem_bytes,
            firmware_log: self.firmware_log.then(|| Arc::clone(&console)),
            console,
            console_kind: match self.console_in_memory {
                true => ConsoleKind::Mmio,
                false => ConsoleKind::Serial,
            },
            config_space: match self.ecam {
                true => PcConfigSpace::Ecam,
                false => PcConfigSpace::default(),
            },
            ports: Vec::new(),
            balloon: None,
            exit_port: self.exit_port,
            testdev: self.testdev,
            legacy: self.legacy,
            fw_cfg: Vec::new(),
            firmware: self
                .firmware
                .then(|| FirmwareOptions { kernel: None, display: self.display.is_some() }),
            virtio: crate::VirtioTransports::default(),
            rng: None,
            edu: 0,
            plugs: false,
            disks: Vec::new(),
            nets: Vec::new(),
            shares: Vec::new(),
            awaits_files: true,
            spared: Spared { writes: false, reads: false },
        }
    }
}
