//! `cargo xtask bench boot`: what a start of Linux takes, from the VMM's start to user space.
//!
//! The guests run in an emulated machine with one processor whose clock counts instructions, so the
//! times are numbers of instructions (of the guest, KVM, the VMM and the kernel below them), the same
//! in every run whatever else this machine does. QEMU's machines start the same kernel beside it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::MEMORY_MIB;
use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script};
use crate::nested::quoted;
use crate::session::{Show, Watch, last_lines};
use crate::vmm::Profile;
use crate::{disks, driver, qemu, terminal};

mod table;

/// What `cargo xtask bench boot` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The guests' architecture [default: both]
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Leave QEMU out
    #[arg(long)]
    alone: bool,
    /// Only the starts whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Further options of `trapline run`
    #[arg(last = true)]
    run: Vec<String>,
}

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vmm {
    Trapline,
    Pc,
    Microvm,
}

/// Where a PC has the registers of its console and of configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registers {
    /// At ports.
    Ports,
    /// At ports, and those of the console in memory, too, for the kernel's first messages.
    Earlycon,
    /// In memory alone.
    Memory,
}

/// How the guest's kernel is told what to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// All it has to say, on the first serial port: the default arguments.
    Everything,
    /// Little: the default arguments and `quiet`.
    Little,
    /// Nothing but the line that is waited for: no default arguments, and `quiet`.
    Nothing,
}

/// One start.
#[derive(Debug)]
struct Start {
    vmm: Vmm,
    arch: Arch,
    /// The ELF image; else what Debian ships.
    elf: bool,
    say: Say,
    /// Where a PC has what kernels read again and again.
    registers: Registers,
    /// No reads are mirrored and no writes coalesced.
    trapped: bool,
    /// There are a disk, an entropy source, and a console device with a port.
    devices: bool,
    /// There are a disk and a network card, whose drivers the guest loads before it is in user space.
    driven: bool,
    limits: Limits,
}

/// What a start may take at most, where something was promised.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    /// Thousands of instructions.
    instructions: Option<u64>,
    exits: Option<u64>,
    returns: Option<u64>,
    /// Per cent of the returns of the same start with neither mirrored reads nor coalesced writes.
    share: Option<u64>,
    /// Reads of configuration space in memory that are exits, in the whole run.
    config_reads: Option<u64>,
    /// Returns for configuration space, wherever it is, in the whole run.
    config: Option<u64>,
    /// KiB resident besides what the same start has without devices.
    more_resident: Option<u64>,
}

/// What a kernel is told that says nothing itself.
const QUIET: &str = "console=ttyS0 quiet";
/// The same with the console in memory.
const QUIET_IN_MEMORY: &str = "console=uart8250,mmio,0xfeb10000 quiet";

/// What the name of a start ends with in which every access is an exit.
const TRAPPED: &str = "-trapped";

/// What the name of a start ends with that has devices.
const DEVICES: &str = "-devices";
/// The options for those; `host-measure.sh` makes the disk.
const DEVICE_OPTIONS: [&str; 5] =
    ["-d", "/disk,format=raw", "--rng", "--virtio-port", "name=port,file=/port"];

/// What the name of a start ends with whose guest drives a disk and a network card.
const DRIVEN: &str = "-driven";
/// The options for those, and the drivers behind those of the bus.
const DRIVEN_OPTIONS: [&str; 4] = ["-d", "/disk,format=raw", "-n", "mode=user"];
const DRIVEN_MODULES: [&str; 4] = ["virtio_blk", "failover", "net_failover", "virtio_net"];
/// Returns to user space of a start with both, at most.
const DRIVEN_RETURNS: u64 = 1400;

/// What `host-measure.sh` puts before how far it is.
const PROGRESS: &str = "TRAPLINE-PROGRESS: ";
/// How many seconds of the outer machine, which are as many thousand million instructions, a guest has
/// to come to user space.
const PATIENCE_S: u32 = 60;

/// How long a start may take here, and how often one that takes longer is tried.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
const TRIES: usize = 2;

/// Of kvmtool's returns to user space with the same kernel and a console, 40 %.
const CONSOLE_RETURNS: u64 = 41_250 * 40 / 100;
/// kvmtool's returns to user space with the same kernel, which says little, and a disk.
const DISK_RETURNS: u64 = 3286;

/// Every start that is measured.
fn starts() -> Vec<Start> {
    use Arch::{Aarch64, X86_64};
    use Say::{Everything, Little, Nothing};
    use Vmm::{Microvm, Pc, Trapline};
    let none = Limits::default();
    let instructions = |most| Limits { instructions: Some(most), ..none };
    let console = Limits { returns: Some(CONSOLE_RETURNS), ..none };
    let (exits, returns) = (Some(2900), Some(308));
    let quiet = Limits { exits, returns, ..instructions(1_750_000) };
    let arm64 = Limits { share: Some(10), config_reads: Some(0), ..none };
    let (registers, trapped, devices, driven) = (Registers::Ports, false, false, false);
    let start = |vmm, arch, elf, say, limits| Start {
        vmm,
        arch,
        elf,
        say,
        registers,
        trapped,
        devices,
        driven,
        limits,
    };
    let with_devices = |start: Start| {
        let (returns, config, more_resident) = (Some(DISK_RETURNS), Some(2000), Some(1024));
        Start { devices: true, limits: Limits { returns, config, more_resident, ..none }, ..start }
    };
    let driven = |start: Start| {
        let limits = Limits { returns: Some(DRIVEN_RETURNS), ..none };
        Start { driven: true, limits, ..start }
    };
    let trapped = |start: Start| Start { trapped: true, ..start };
    let in_memory = |start: Start| {
        let limits = Limits { config_reads: Some(0), ..start.limits };
        Start { registers: Registers::Memory, limits, ..start }
    };
    let earlycon = |start: Start| Start { registers: Registers::Earlycon, ..start };
    vec![
        start(Trapline, X86_64, false, Everything, console),
        start(Trapline, X86_64, false, Little, none),
        with_devices(start(Trapline, X86_64, false, Little, none)),
        start(Trapline, X86_64, false, Nothing, quiet),
        driven(start(Trapline, X86_64, false, Nothing, none)),
        earlycon(start(Trapline, X86_64, false, Everything, console)),
        in_memory(start(Trapline, X86_64, false, Everything, console)),
        in_memory(start(Trapline, X86_64, false, Nothing, quiet)),
        start(Trapline, X86_64, true, Everything, none),
        start(Trapline, X86_64, true, Nothing, instructions(1_595_000)),
        start(Pc, X86_64, false, Everything, none),
        start(Pc, X86_64, false, Nothing, none),
        start(Microvm, X86_64, false, Everything, none),
        start(Microvm, X86_64, false, Nothing, none),
        start(Trapline, Aarch64, false, Everything, arm64),
        start(Trapline, Aarch64, false, Nothing, Limits { config_reads: Some(0), ..none }),
        trapped(start(Trapline, Aarch64, false, Everything, none)),
    ]
}

impl Start {
    /// One word, for the script and for `--only`.
    fn name(&self) -> String {
        let vmm = match self.vmm {
            Vmm::Trapline => "trapline",
            Vmm::Pc => "qemu-pc",
            Vmm::Microvm => "qemu-microvm",
        };
        let image = match (self.arch, self.elf) {
            (Arch::X86_64, false) => "bzImage",
            (Arch::X86_64, true) => "vmlinux",
            (Arch::Aarch64, _) => "Image",
        };
        let say = match self.say {
            Say::Everything => "console",
            Say::Little => "quiet",
            Say::Nothing => "nodefaults",
        };
        let place = match self.registers {
            Registers::Ports => "",
            Registers::Earlycon => "-earlycon",
            Registers::Memory => "-memory",
        };
        let delivery = if self.trapped { TRAPPED } else { "" };
        let devices = if self.devices { DEVICES } else { "" };
        let driven = if self.driven { DRIVEN } else { "" };
        format!("{vmm}-{image}-{say}{place}{delivery}{devices}{driven}")
    }

    /// The VMM and its arguments, in the outer machine.
    fn command(&self, more: &[String]) -> Vec<String> {
        let kernel = if self.elf { "/guest/VMLINUX" } else { "/guest/kernel" };
        let memory = MEMORY_MIB.to_string();
        let words: Vec<&str> = match self.vmm {
            Vmm::Trapline => {
                let fixed = ["trapline", "run", "-k", kernel, "-i", "/guest/initrd"];
                let size = ["-c", "1", "-m", &memory, "--stat=all"];
                let say: &[&str] = match self.say {
                    Say::Everything => &[],
                    Say::Little => &["-p", "quiet"],
                    Say::Nothing if self.registers == Registers::Memory => {
                        &["--nodefaults", "-p", QUIET_IN_MEMORY]
                    }
                    Say::Nothing => &["--nodefaults", "-p", QUIET],
                };
                let place: &[&str] = match self.registers {
                    Registers::Ports => &[],
                    Registers::Earlycon => &["--earlycon"],
                    Registers::Memory => &["--console", "mmio", "--ecam"],
                };
                let delivery: &[&str] =
                    if self.trapped { &["--no-mirror", "--no-coalesce"] } else { &[] };
                let devices: &[&str] = if self.devices { &DEVICE_OPTIONS } else { &[] };
                let driven: &[&str] = if self.driven { &DRIVEN_OPTIONS } else { &[] };
                let more = more.iter().map(String::as_str);
                let words = [&fixed[..], &size, place, delivery, devices, driven, say].concat();
                words.into_iter().chain(more).collect()
            }
            Vmm::Pc | Vmm::Microvm => {
                let machine = if self.vmm == Vmm::Pc { "pc" } else { "microvm" };
                let say = match self.say {
                    Say::Everything => "earlyprintk=serial console=ttyS0",
                    Say::Little | Say::Nothing => QUIET,
                };
                let program = ["/usr/bin/qemu-system-x86_64", "-M", machine, "-accel", "kvm"];
                let size = ["-cpu", "host", "-smp", "1", "-m", &memory, "-nodefaults"];
                let rest = ["-no-user-config", "-no-reboot", "-display", "none", "-serial"];
                let guest = ["stdio", "-kernel", kernel, "-initrd", "/guest/initrd"];
                [&program[..], &size, &rest, &guest, &["-append", say]].concat()
            }
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

/// Measures and prints the table.
pub(super) fn run(options: &Options) -> Result<u8> {
    let only = options.only.as_deref().unwrap_or_default();
    let mut starts = starts();
    starts.retain(|start| {
        options.arch.is_none_or(|arch| arch == start.arch)
            && (start.vmm == Vmm::Trapline || !options.alone)
            && start.name().contains(only)
    });
    ensure!(!starts.is_empty(), "no start is called {only}");
    if starts.iter().any(|start| start.vmm == Vmm::Trapline && start.arch == Arch::X86_64) {
        super::peak(&options.run)?;
    }
    let text = measure_all(&starts, &options.run)?;
    let (table, complete) = table::report(&starts, &text);
    print!("{table}");
    ensure!(complete, "not all of it was measured; the last lines:\n{}", last_lines(&text));
    Ok(0)
}

/// What the outer machines say about these starts, each of which has one of its own: the emulated one
/// hangs now and then (its processor does, with its clock), which then is one start's trouble alone.
fn measure_all(starts: &[Start], more: &[String]) -> Result<String> {
    let (mut text, mut made) = (String::new(), Vec::<(Arch, Ready)>::new());
    for (n, start) in (1..).zip(starts) {
        if made.iter().all(|(arch, _)| *arch != start.arch) {
            made.push((start.arch, Ready::make(start.arch, Profile::Release)?));
        }
        let ready = made.iter().find(|(arch, _)| *arch == start.arch);
        let (_, ready) = ready.context("made above")?;
        eprintln!("{n} of {}: {} ({})", starts.len(), start.name(), ready.kernel.release);
        for left in (0..TRIES).rev() {
            match measure(start, more, ready) {
                Ok(said) => text += &said,
                Err(error) if terminal::ended() => return Err(error),
                Err(error) if left > 0 => {
                    eprintln!("once more: {}", first_line(&error));
                    continue;
                }
                Err(error) => text += &table::failed(&start.name(), &first_line(&error)),
            }
            break;
        }
    }
    Ok(text)
}

fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What the outer machine says about a start.
fn measure(start: &Start, more: &[String], ready: &Ready) -> Result<String> {
    let mut files = Vec::new();
    if start.elf {
        let vmlinux = ready.kernel.vmlinux.clone();
        files.push(("VMLINUX", vmlinux.context("arm64 kernels have no such form")?));
    }
    if start.vmm != Vmm::Trapline {
        files.push(("QEMU", qemu::archive()?));
    }
    let words: Vec<String> = start.command(more).iter().map(|word| quoted(word)).collect();
    let variables = [
        ("MEASURES", format!("measure {} {}", start.name(), words.join(" "))),
        ("PATIENCE", PATIENCE_S.to_string()),
        ("RAM_KIB", (MEMORY_MIB * 1024).to_string()),
    ];
    let boot = Boot {
        name: format!("bench-{}-{}", std::process::id(), start.name()),
        place: Place::Nested,
        image: Image::Bzimage,
        init: if start.driven { "init-measure-driven.sh" } else { "init-measure.sh" }.to_owned(),
        modules: match start.driven {
            true => {
                driver::if_shipped(disks::BUS.into_iter().chain(DRIVEN_MODULES), &ready.kernel)?
            }
            false => Vec::new(),
        },
        programs: Vec::new(),
        options: Vec::new(),
        script: Script {
            file: Some("host-measure.sh"),
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            files,
            counted: true,
        },
        watch: Watch { show: Show::Progress(PROGRESS), input: false, timeout: Some(PATIENCE) },
    };
    boot.run(ready)?.well()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_has_a_name_of_its_own_which_is_a_word() {
        let names: Vec<String> = starts().iter().map(Start::name).collect();
        let mut different = names.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), names.len());
        assert!(names.iter().all(|name| !name.contains(char::is_whitespace)), "{names:?}");
    }

    #[test]
    fn the_same_kernel_is_told_the_same_whoever_runs_it() {
        let command = |start: &Start| start.command(&["--no-coalesce".to_owned()]).join(" ");
        let find = |name: &str| starts().into_iter().find(|start| start.name() == name).unwrap();
        let ours = command(&find("trapline-vmlinux-nodefaults"));
        assert!(ours.starts_with("trapline run -k /guest/VMLINUX "), "{ours}");
        assert!(ours.ends_with("--nodefaults -p console=ttyS0 quiet --no-coalesce"), "{ours}");
        let ours = command(&find("trapline-bzImage-nodefaults-memory"));
        assert!(ours.contains(" --console mmio --ecam --nodefaults "), "{ours}");
        let ours = command(&find("trapline-bzImage-console-earlycon"));
        assert!(ours.contains("=all --earlycon "), "{ours}");
        let ours = command(&find("trapline-Image-console-trapped"));
        assert!(ours.contains(" --no-mirror --no-coalesce "), "{ours}");
        let theirs = command(&find("qemu-microvm-bzImage-nodefaults"));
        assert!(theirs.contains(" -M microvm ") && theirs.ends_with(QUIET), "{theirs}");
        let theirs = command(&find("qemu-pc-bzImage-console"));
        assert!(theirs.ends_with("-append earlyprintk=serial console=ttyS0"), "{theirs}");
    }
}
