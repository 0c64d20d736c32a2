//! Recordings of guests: made by boots, kept in the tree, and played by the tests.
//!
//! The tests make some of them (`cargo xtask test record`), `cargo xtask record` all. Both leave them in
//! `build/recordings`, from where they are copied to `machine/tests/recordings`, whose files the tests
//! play without KVM on a host of either architecture.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;

use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch};
use crate::suite::{self, Guests, Tally, Task};
use crate::vmm::Profile;
use crate::{disks, driver, paths};

/// A machine that is recorded.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    /// What is typed when the guest waits for a word: its ends, one life after another.
    words: &'static str,
    /// Options of `trapline run`, where `DEVICES` stands for [`DEVICES`].
    options: &'static str,
}

/// Every kind of device.
const DEVICES: &str = "-d DISK0 -d DISK1 --virtio-transport disk1=mmio --rng --balloon=8 \
                       --virtio-port name=log,file=PORT --9p SHARE,share --edu 1";

/// Machines that share an outer one.
struct Group {
    name: &'static str,
    arch: Arch,
    /// What the outer machine gets its processors and interrupt controller by.
    outer: &'static [&'static str],
    machines: &'static [Machine],
}

const fn machine(name: &'static str, words: &'static str, options: &'static str) -> Machine {
    Machine { name, words, options }
}

/// Those that the tests make: the last is run again with what its recording says may be late.
pub(crate) const TESTED: &[Machine] = &[
    machine("pc-kernel", "", "--irqchip kernel"),
    machine("pc-split", "", "--irqchip split"),
    machine("pc-split-2", "", "--irqchip split -c 2"),
    machine("pc-devices", "", "--irqchip split --record-exact -p 'quiet devices' DEVICES"),
    machine("pc-exact-2", "", "--irqchip split -c 2 --record-exact"),
];

/// The others.
const GROUPS: &[Group] = &[
    Group {
        name: "pc",
        arch: Arch::X86_64,
        outer: &["-c", "1"],
        machines: &[
            machine("pc-exact-4", "", "--irqchip split -c 4 --record-exact -p quiet"),
            machine("pc-typing", "poweroff", "--irqchip split --record-exact -p 'quiet words'"),
            machine(
                "pc-reboot",
                "reboot poweroff",
                "--irqchip split --record-exact --reboot -p 'quiet words'",
            ),
            machine(
                "pc-display",
                "",
                "--irqchip split --record-exact --vnc=127.0.0.1:5900 -p quiet",
            ),
            machine(
                "pc-console",
                "",
                "--irqchip kernel --record-exact --console virtio -p 'quiet devices console=ttyS0'",
            ),
            machine("pc-net", "", "--irqchip split --record-exact -n mode=tap -p 'quiet devices'"),
            machine(
                "pc-legacy",
                "",
                "--irqchip kernel --record-exact --virtio-legacy -d DISK0 --rng -p 'quiet devices'",
            ),
            machine("pc-late", "", "--irqchip kernel -d DISK0 --rng -p 'quiet devices'"),
        ],
    },
    Group {
        name: "arm64",
        arch: Arch::Aarch64,
        outer: &["--irqchip=gicv3", "-c", "2"],
        machines: &[
            machine("arm64-its", "", "-c 1 --irqchip gicv3-its --record-exact -p quiet"),
            machine("arm64-its-2", "", "-c 2 --irqchip gicv3-its -p quiet"),
            machine(
                "arm64-devices",
                "",
                "-c 1 --irqchip gicv3-its --record-exact -p 'quiet devices' DEVICES",
            ),
            machine(
                "arm64-reboot",
                "reboot poweroff",
                "-c 1 --irqchip gicv3 --record-exact --reboot -p 'quiet words'",
            ),
        ],
    },
    Group {
        name: "arm64-gicv2",
        arch: Arch::Aarch64,
        outer: &["--irqchip=gicv2", "-c", "4"],
        machines: &[
            machine("arm64-v2m", "", "-c 1 --irqchip gicv2m --edu 1 --record-exact -p quiet"),
            machine("arm64-v2m-2", "", "-c 2 --irqchip gicv2m --record-exact -p quiet"),
            machine("arm64-four", "", "-c 4 --irqchip gicv2 --record-exact -p quiet"),
        ],
    },
];

/// Which of the tests' machines is run again, and with what: all but its exactness.
const TUNING: &str = "pc-exact-2";
const TUNED: &str = "--irqchip split -c 2";

/// The same on arm64, whose UART queues characters in both runs; reads of it that the kernel answers are in
/// no recording.
const TUNING_ARM64: Machine = machine("arm64-tuning", "", TUNED_ARM64);
const TUNED_ARM64: &str = "-c 1 --irqchip gicv3-its --no-mirror";

/// How far the exits of that run may be from what was predicted, in percent.
const FAR: u64 = 2;

/// The modules beside those of the bus, of which a kernel has some built in.
const MODULES: [&str; 14] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio-rng",
    "virtio_console",
    "virtio_balloon",
    "failover",
    "net_failover",
    "virtio_net",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "rng-core",
];

/// What `cargo xtask record` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The machines; all, if none is named
    names: Vec<String>,
    /// The guests' architecture; both, if it is not said
    #[arg(long, value_enum)]
    arch: Option<Arch>,
}

/// Records machines; the status is 0 when all were played without a difference.
///
/// # Errors
///
/// When a machine is named that there is not, or what a boot needs cannot be had.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let tested =
        Group { name: "pc-tested", arch: Arch::X86_64, outer: &["-c", "1"], machines: TESTED };
    let groups: Vec<&Group> = std::iter::once(&tested).chain(GROUPS).collect();
    let is_wanted = |machine: &Machine| {
        options.names.is_empty() || options.names.iter().any(|name| name == machine.name)
    };
    for name in &options.names {
        let all = groups.iter().flat_map(|group| group.machines);
        let is_there = all.map(|machine| machine.name).any(|there| there == name);
        ensure!(is_there, "There is no machine {name} to be recorded");
    }
    let mut tasks = Vec::new();
    for group in groups {
        let machines: Vec<_> = group.machines.iter().filter(|machine| is_wanted(machine)).collect();
        if machines.is_empty() || options.arch.is_some_and(|arch| arch != group.arch) {
            continue;
        }
        let ready = Ready::make(group.arch, Profile::Release)?;
        let boot = (boot(group.name, &ready, &machines, group.outer)?, ready);
        let names: Vec<_> = machines.iter().map(|machine| machine.name).collect();
        tasks.push(Task::new(group.name, "machines that are recorded and played", move || {
            let outcome = boot.0.run(&boot.1)?;
            keep(&outcome.text, &names)?;
            outcome.well()?;
            Ok(Tally { passed: names.len(), ..Tally::default() })
        }));
    }
    Ok(suite::conclude(&suite::perform(&tasks)))
}

/// The outer machine of these, and what it needs.
fn boot(name: &str, ready: &Ready, machines: &[&Machine], outer: &[&str]) -> Result<Boot> {
    let lives: usize = machines.iter().map(|machine| machine.words.split(' ').count()).sum();
    let slow = if ready.kernel.arch == Arch::Aarch64 { 3 } else { 1 };
    let mut script = script(machines);
    if ready.kernel.module("tun")?.is_some() {
        script.files.push(("TUN", driver::shipped("tun", &ready.kernel)?.file));
    }
    Ok(Boot {
        name: format!("record-{name}"),
        place: Place::Nested,
        image: Image::Bzimage,
        init: "init-record.sh".to_owned(),
        modules: modules(ready)?,
        programs: Vec::new(),
        options: ["-m", "128"].iter().chain(outer).map(|word| (*word).to_owned()).collect(),
        script,
        watch: Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(TIMEOUT * slow * u32::try_from(lives + 2)?),
        },
    })
}

/// The test that has an arm64 machine run again.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    std::iter::once(Guests {
        name: "record-arm64",
        about: "an arm64 boot is played alike, and again makes as many exits as tune predicts",
        arch: Arch::Aarch64,
        run: Box::new(|ready| {
            let outer = ["--irqchip=gicv3", "-c", "1"];
            let mut boot = boot("tuning", ready, &[&TUNING_ARM64], &outer)?;
            again(&mut boot.script, TUNING_ARM64.name, TUNED_ARM64);
            let outcome = boot.run(ready)?;
            keep(&outcome.text, &[TUNING_ARM64.name])?;
            compare_exits(&outcome.text)?;
            outcome.well()?;
            Ok(Tally::of(true))
        }),
    })
}

/// What drives the devices that machines are recorded with.
///
/// # Errors
///
/// When the kernel's package cannot be had.
pub(crate) fn modules(ready: &Ready) -> Result<Vec<driver::Module>> {
    driver::if_shipped(disks::BUS.into_iter().chain(MODULES), &ready.kernel)
}

/// What records these machines.
fn script(machines: &[&Machine]) -> Script {
    let line = |Machine { name, words, options }: &&Machine| {
        format!("{name}|{words}|{}", options.replace("DEVICES", DEVICES))
    };
    let lines = machines.iter().map(line).collect::<Vec<_>>().join("\n");
    let variables = vec![("MACHINES".to_owned(), lines)];
    Script { file: Some("host-record.sh"), variables, ..Script::default() }
}

/// What records the tests' machines, and runs one of them again.
pub(crate) fn tested() -> Script {
    let mut script = script(&TESTED.iter().collect::<Vec<_>>());
    again(&mut script, TUNING, TUNED);
    script
}

/// Has this machine run once more, with these options.
fn again(script: &mut Script, name: &str, options: &str) {
    let again = [("TUNING", name), ("TUNED", options)];
    script.variables.extend(again.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// Whether a run made as many exits as `host-record.sh` printed that it would.
///
/// # Errors
///
/// When it did not, or when there is nothing to compare.
pub(crate) fn compare_exits(text: &str) -> Result<()> {
    let told = text.split_once("TRAPLINE-HOST: exits predicted ");
    let line = told.and_then(|(_, rest)| rest.lines().next()).unwrap_or_default();
    let numbers = line.trim_end().split_once(", made ").context("Nothing was predicted")?;
    let [predicted, made] = [numbers.0, numbers.1].map(str::parse::<u64>);
    let (predicted, made) = (predicted.context("No number")?, made.context("No number")?);
    let near = predicted.abs_diff(made) * 100 <= predicted * FAR;
    ensure!(predicted > 0 && near, "{predicted} exits were predicted, and {made} were made");
    Ok(())
}

/// Takes these recordings out of what `host-record.sh` printed, and keeps them in `build/recordings`, under
/// another name where they were not played alike.
///
/// # Errors
///
/// When one is missing or damaged, or was not played without a difference.
pub(crate) fn keep(text: &str, names: &[&str]) -> Result<()> {
    let folder = paths::build()?.join("recordings");
    std::fs::create_dir_all(&folder)?;
    for name in names {
        let begin = format!("TRAPLINE-HOST: recording {name}\n");
        let (before, rest) =
            text.split_once(&begin).with_context(|| format!("There is no recording {name}"))?;
        let end = "TRAPLINE-HOST: end of recording";
        let (encoded, _) = rest.split_once(end).context("A recording is cut short")?;
        let encoded: String = encoded.split_whitespace().collect();
        let file = BASE64_STANDARD.decode(encoded).context("A recording is damaged")?;
        let (played, status) = before.trim_end().rsplit_once('\n').unwrap_or_default();
        let played = played.trim_end().rsplit('\n').next().unwrap_or_default();
        let well = format!("TRAPLINE-HOST: played {name}, status 0");
        let same = played == "no difference" && status.trim_end() == well;
        let kept = if same { format!("{name}.trp") } else { format!("{name}-different.trp") };
        paths::write_whole(&folder.join(&kept), &file)?;
        ensure!(same, "{name} was played like this: {played} ({status}); it is in {kept}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_as_predicted_within_two_percent() {
        let compare = |line: &str| compare_exits(&format!("x\nTRAPLINE-HOST: exits {line}\r\ny"));
        assert!(compare("predicted 1000, made 1020").is_ok());
        assert!(compare("predicted 1000, made 980").is_ok());
        let none = ["predicted 1000, made 1021", "predicted 0, made 0", "predicted , made 5", ""];
        none.iter().for_each(|line| assert!(compare(line).is_err(), "{line}"));
    }

    #[test]
    fn names_differ_and_what_is_split_by_bars_has_none() {
        let mut all: Vec<_> =
            TESTED.iter().chain(GROUPS.iter().flat_map(|group| group.machines)).collect();
        assert!(all.len() >= 20, "{}", all.len());
        assert!(all.iter().all(|machine| !machine.options.contains('|')));
        assert!(all.iter().any(|machine| machine.name == TUNING));
        let count = all.len();
        all.sort_by_key(|machine| machine.name);
        all.dedup_by_key(|machine| machine.name);
        assert_eq!(all.len(), count);
    }
}
