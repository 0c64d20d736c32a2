//! `cargo xtask bench`: numbers, beside those recorded for kvmtool.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::proc;
use crate::session::{Show, Watch, last_lines};
use crate::vmm::Profile;

mod boot;
mod disk;
mod vfio;

const MEMORY_MIB: u32 = 256;
/// What the project promises: memory beside guest RAM, in KiB.
const MOST_OWN_KIB: u64 = 4080;

/// One of KVM's counters in the table.
struct Counter {
    /// Its file in debugfs.
    name: &'static str,
    /// What it counts.
    what: &'static str,
    /// kvmtool's least and most, where they were recorded for the same kernel with
    /// `console=ttyS0` and kvmtool's own command line.
    kvmtool: Option<(u64, u64)>,
}

#[rustfmt::skip]
const COUNTERS: [Counter; 8] = [
    Counter { name: "exits", what: "exits from the guest", kvmtool: Some((76_987, 79_824)) },
    Counter { name: RETURNS, what: "returns to user space", kvmtool: Some((43_125, MOST_RETURNS)) },
    Counter { name: "fpu_reload", what: "calls of KVM_RUN", kvmtool: None },
    Counter { name: "io_exits", what: "of the exits: port I/O", kvmtool: None },
    Counter { name: "mmio_exits", what: "of the exits: MMIO", kvmtool: None },
    Counter { name: "halt_exits", what: "of the exits: halt", kvmtool: None },
    Counter { name: "irq_exits", what: "of the exits: host interrupts", kvmtool: None },
    Counter { name: "pf_fixed", what: "page faults mended in the guest's memory", kvmtool: None },
];
const RETURNS: &str = "host_state_reload";
const MOST_RETURNS: u64 = 45_042;
const KVMTOOL_OWN: &str = "1.2 MiB";

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Instructions, exits and memory from the VMM's start to the guest's first userspace line, for
    /// each form of the kernel, beside QEMU's machines
    Boot(boot::Options),
    /// Instructions and exits for a request of a guest to its disks, beside QEMU's
    VirtioBlk(disk::Options),
    /// Instructions for an access to, and an interrupt of, a PCI function of the host, beside the same
    /// assignment by QEMU
    Vfio,
    /// The registry's dispatch and edits beside those of other crates
    Trap,
    /// Nanoseconds per exit on /dev/kvm, beside a bare KVM_RUN loop
    Exit,
    /// Nanoseconds per access that a device behind a descriptor answers, beside one in place
    Ioregion,
    /// Nanoseconds an access and an exit while nothing, the last accesses or all are recorded; bytes an
    /// access, and the time of a replay
    Record,
    /// The GICv3 ITS: translations and commands per second, from 1 to 1,000,000 mapped events
    Its,
}

/// Measures and prints a table; the status is that of what was measured.
pub(crate) fn run(options: &Options) -> Result<u8> {
    match &options.what {
        What::Boot(options) => boot::run(options),
        What::VirtioBlk(options) => disk::run(options),
        What::Vfio => vfio::run(),
        What::Trap => cargo_bench("trapline", "dispatch"),
        What::Exit => cargo_bench("trapline-kvm", "exit"),
        What::Ioregion => cargo_bench("trapline-machine", "ioregion"),
        What::Record => cargo_bench("trapline-machine", "record"),
        What::Its => its(),
    }
}

/// Runs a bench program of one of our crates, which prints its own table and verdicts.
fn cargo_bench(package: &str, bench: &str) -> Result<u8> {
    Ok(u8::from(!proc::succeeds(&mut bench_command(package, bench)?)?))
}

fn bench_command(package: &str, bench: &str) -> Result<Command> {
    let mut command = proc::cargo()?;
    command.args(["bench", "--package", package, "--bench", bench]);
    Ok(command)
}

/// The plain bytes beside the guest's RAM are in huge pages, too.
fn its() -> Result<u8> {
    let mut command = bench_command("gicv3-its", "its")?;
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    Ok(u8::from(!proc::succeeds(&mut command)?))
}

/// Boots with nothing counting and says what KVM counted, and how much memory trapline had at most.
fn peak(run: &[String]) -> Result<()> {
    let ready = Ready::make(Arch::X86_64, Profile::Release)?;
    let memory = MEMORY_MIB.to_string();
    let fixed = ["-c", "1", "-m", &memory, "--stat=all"].map(str::to_owned);
    let boot = Boot {
        name: format!("bench-{}", std::process::id()),
        place: Place::best(Arch::X86_64),
        image: Image::Bzimage,
        init: "init-bench.sh".to_owned(),
        modules: Vec::new(),
        programs: Vec::new(),
        options: fixed.into_iter().chain(run.iter().cloned()).collect(),
        script: Script {
            file: Some("host-bench.sh"),
            variables: vec![("RAM_KIB".to_owned(), (MEMORY_MIB * 1024).to_string())],
            ..Script::default()
        },
        watch: Watch { show: Show::Nothing, input: false, timeout: Some(TIMEOUT) },
    };
    eprintln!("Booting {} once", ready.kernel.release);
    let text = boot.run(&ready)?.well()?;
    print!("{}", report(&text).with_context(|| format!("last lines:\n{}", last_lines(&text)))?);
    Ok(())
}

fn report(text: &str) -> Result<String> {
    for name in ["exits", RETURNS] {
        // A count of nothing would meet every goal.
        ensure!(counter(text, name) != Some(0), "KVM's counter {name} counted nothing");
    }
    let row = |name: &str, ours: &str, kvmtool: &str| format!("{name:48} {ours:>10}  {kvmtool}\n");
    let mut table = row("VMM start to the first userspace line", "trapline", "kvmtool (recorded)");
    for Counter { name, what, kvmtool } in COUNTERS {
        let Some(count) = counter(text, name) else { continue };
        let recorded =
            kvmtool.map(|(least, most)| format!("{} to {}", grouped(least), grouped(most)));
        table +=
            &row(&format!("{what} (kvm/{name})"), &grouped(count), &recorded.unwrap_or_default());
    }
    let own = counter(text, "own_kib").context("no sample of trapline's memory was taken")?;
    table += &row("peak memory beside guest RAM, KiB", &grouped(own), KVMTOOL_OWN);
    table += "\nexits by kind, whole run (trapline run --stat)\n";
    for (kind, count) in exits_by_kind(text) {
        table += &row(&format!("  {kind}"), &grouped(count), "");
    }
    table += "\n";
    if let Some(returns) = counter(text, RETURNS) {
        table += &verdict("no more returns to user space than kvmtool", returns <= MOST_RETURNS);
    }
    let most = format!("at most {} KiB beside guest RAM", grouped(MOST_OWN_KIB));
    table += &verdict(&most, own <= MOST_OWN_KIB);
    Ok(table)
}

/// A line that says whether a goal was met.
pub(crate) fn verdict(goal: &str, met: bool) -> String {
    format!("goal: {goal}: {}\n", if met { "met" } else { "MISSED" })
}

/// A value that `host-bench.sh` printed.
fn counter(text: &str, name: &str) -> Option<u64> {
    let lines = text.lines().filter_map(|line| line.split_once("TRAPLINE-KVM: "));
    let mut pairs = lines.filter_map(|(_, pair)| pair.trim().split_once(' '));
    pairs.find(|(found, _)| *found == name).and_then(|(_, value)| value.parse().ok())
}

/// The exits in the output of `trapline run --stat`: pairs of a name and a count, in either order,
/// on the line that starts with `exits:` and on the indented lines that follow it.
fn exits_by_kind(text: &str) -> Vec<(String, u64)> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("exits:"));
    let first = lines.next().and_then(|line| line.strip_prefix("exits:")).unwrap_or_default();
    let more = lines.take_while(|line| line.starts_with([' ', '\t']));
    let parts = std::iter::once(first).chain(more).flat_map(|line| line.split(','));
    parts.filter_map(pair).collect()
}

fn pair(part: &str) -> Option<(String, u64)> {
    let is_count = |word: &&str| word.parse::<u64>().is_ok();
    let words = || part.split(|c: char| c.is_whitespace() || "=:".contains(c));
    let count = words().find(is_count)?.parse().ok()?;
    let name: Vec<&str> = words().filter(|word| !word.is_empty() && !is_count(word)).collect();
    let name = if name.is_empty() { "all".to_owned() } else { name.join(" ") };
    Some((name, count))
}

/// `12345` as `12,345`.
pub(crate) fn grouped(number: impl std::fmt::Display) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (digit, left) in digits.chars().zip((0..digits.len()).rev()) {
        text.push(digit);
        if left > 0 && left % 3 == 0 {
            text.push(',');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "noise\nTRAPLINE-KVM: exits 76000\nTRAPLINE-KVM: host_state_reload 45043\n\
                          TRAPLINE-KVM: own_kib 4080\nexits: 120\n  port-out 100\n  mmio read: 20\nend 7\n";

    #[test]
    fn kinds_are_read_from_one_line_or_from_several() {
        let expected = [("all", 120), ("port-out", 100), ("mmio read", 20)];
        assert_eq!(exits_by_kind(OUTPUT), expected.map(|(name, count)| (name.to_owned(), count)));
        let one = exits_by_kind("exits: io=5, hlt=6, 7 mmio");
        assert_eq!(one, [("io", 5), ("hlt", 6), ("mmio", 7)].map(|(n, c)| (n.to_owned(), c)));
        assert_eq!(exits_by_kind("nothing"), []);
    }

    #[test]
    fn the_goals_are_judged_at_their_limits() {
        let table = report(OUTPUT).unwrap();
        assert!(table.contains("kvmtool: MISSED") && table.contains("guest RAM: met"), "{table}");
        assert!(table.contains("76,987 to 79,824"), "{table}");
        let table = report(&OUTPUT.replace("own_kib 4080", "own_kib 4081")).unwrap();
        assert!(table.contains("guest RAM: MISSED"), "{table}");
        assert!(report("nothing").is_err());
        assert!(report(&OUTPUT.replace("exits 76000", "exits 0")).is_err());
        assert!(report(&OUTPUT.replace("reload 45043", "reload 0")).is_err());
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([7, 999, 1000, 1_234_567].map(grouped), ["7", "999", "1,000", "1,234,567"]);
    }
}
