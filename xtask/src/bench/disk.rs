//! `cargo xtask bench virtio-blk`: what a request of a guest to its disk costs, beside QEMU in the
//! same run.
//!
//! Both run in an emulated machine with one processor, whose clock counts instructions. So the time
//! that a guest sees pass is the number of instructions that it, KVM, the VMM and the kernel below
//! them have needed, the same in every run whatever else this machine does.

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::BTreeMap;

use super::{grouped, verdict};
use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::vmm::Profile;
use crate::{disks, driver, qemu, vmm};

/// The guests' memory.
const MEMORY_MIB: u32 = 192;

/// What `cargo xtask bench virtio-blk` takes.
#[derive(Args)]
pub(super) struct Options {
    /// Leave QEMU out
    #[arg(long)]
    alone: bool,
    /// Show all that the machines print, not only how far they are
    #[arg(long)]
    show: bool,
    /// The disks to load, separated by commas: `vda`, a file in memory, and `vdb`, a null block
    /// device by O_DIRECT; both, if it is not said
    #[arg(long, value_delimiter = ',', value_parser = ["vda", "vdb"])]
    disks: Vec<String>,
    /// Only the loads whose name has this in it: `read`, `write-1`, `sync`
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Further options of `trapline run`
    #[arg(last = true)]
    run: Vec<String>,
}

/// A load of `guest-tests/diskload`.
struct Load {
    disk: &'static str,
    name: &'static str,
    what: &'static str,
    count: u64,
    /// Instructions a request: the most that there may be, and Firecracker's, which were recorded on
    /// the same rig. Where neither is known, QEMU's in the same run are the limit.
    goal: Option<(u64, u64)>,
    /// KVM's exits a request, in hundredths: the most there may be.
    exits: Option<u64>,
}

#[rustfmt::skip]
const LOADS: [Load; 8] = [
    Load { disk: "vda", name: "nothing", what: "", count: 0, goal: None, exits: None },
    Load { disk: "vda", name: "read-1", what: "read, depth 1", count: 4000, goal: Some((36_000, 38_062)), exits: Some(115) },
    Load { disk: "vda", name: "read-32", what: "read, depth 32", count: 12_800, goal: Some((15_500, 16_420)), exits: Some(9) },
    Load { disk: "vda", name: "write-1", what: "write, depth 1", count: 4000, goal: Some((39_000, 40_971)), exits: Some(115) },
    Load { disk: "vda", name: "write-32", what: "write, depth 32", count: 12_800, goal: Some((15_800, 16_659)), exits: Some(9) },
    Load { disk: "vda", name: "sync", what: "write and fdatasync", count: 2000, goal: Some((69_000, 70_972)), exits: None },
    Load { disk: "vdb", name: "read-1", what: "O_DIRECT read, depth 1", count: 2000, goal: None, exits: None },
    Load { disk: "vdb", name: "read-32", what: "O_DIRECT read, depth 32", count: 6400, goal: None, exits: None },
];

/// What `host-bench-disk.sh` puts before a line that says how far it is.
const PROGRESS: &str = "TRAPLINE-PROGRESS: ";

/// No return to user space for each doorbell: in hundredths a request, what other returns there may
/// be, for the clock and the console.
const MOST_RETURNS: u64 = 3;

/// Measures, and prints a table.
pub(super) fn run(options: &Options) -> Result<u8> {
    let ready = Ready::make(Arch::X86_64, Profile::Release)?;
    let diskload =
        vmm::static_binary(Arch::X86_64, ready.profile, "trapline-diskload", "diskload")?;
    let module = |name| anyhow::Ok(driver::shipped(name, &ready.kernel)?.file);
    let mut files = vec![("CONFIGFS", module("configfs")?), ("NULL_BLK", module("null_blk")?)];
    if !options.alone {
        files.push(("QEMU", qemu::archive()?));
    }
    let loads = options.loads();
    ensure!(loads.len() > 1, "no load has {} in its name", options.only);
    let said = loads.iter().map(|load| format!("{}:{}:{}", load.disk, load.name, load.count));
    let variables = [
        ("LOADS", said.collect::<Vec<_>>().join(",")),
        ("MEMORY", MEMORY_MIB.to_string()),
        ("KERNEL", "/guest/kernel".to_owned()),
        ("INITRD", "/guest/initrd".to_owned()),
    ];
    let fixed = ["-c", "1", "-m", &MEMORY_MIB.to_string()].map(str::to_owned);
    let show = if options.show { Show::Everything } else { Show::Progress(PROGRESS) };
    let boot = Boot {
        name: format!("bench-{}", std::process::id()),
        place: Place::Nested,
        image: Image::Bzimage,
        init: "init-bench-disk.sh".to_owned(),
        modules: driver::all_shipped(disks::modules(), &ready.kernel)?,
        programs: vec![("diskload".to_owned(), diskload)],
        options: fixed.into_iter().chain(options.run.iter().cloned()).collect(),
        script: Script {
            file: Some("host-bench-disk.sh"),
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            files,
            counted: true,
        },
        watch: Watch { show, input: false, timeout: Some(TIMEOUT * 20) },
    };
    let beside = if options.alone { "" } else { " and QEMU" };
    eprintln!("Loading the disks of {} in trapline{beside}", ready.kernel.release);
    let text = boot.run(&ready)?.well()?;
    let table = report(&text, &loads, options.alone);
    print!("{}", table.with_context(|| format!("last lines:\n{}", last_lines(&text)))?);
    Ok(0)
}

impl Options {
    fn loads(&self) -> Vec<&'static Load> {
        let wanted = |disk| self.disks.is_empty() || self.disks.iter().any(|named| named == disk);
        let wanted = |load: &Load| wanted(load.disk) && load.name.contains(&self.only);
        LOADS.iter().filter(|load| load.is_nothing() || wanted(load)).collect()
    }
}

impl Load {
    /// What it costs to say so: no row of the table, and taken off every other.
    const fn is_nothing(&self) -> bool {
        self.count == 0
    }
}

/// KVM's counters, as `host-bench-disk.sh` prints them.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    exits: u64,
    halts: u64,
    interrupts: u64,
    returns: u64,
}

impl Counters {
    fn parse(words: &[&str]) -> Option<Self> {
        let mut numbers = words.iter().map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { exits: next()?, halts: next()?, interrupts: next()?, returns: next()? })
    }

    fn since(self, other: Self) -> Self {
        Self {
            exits: self.exits.saturating_sub(other.exits),
            halts: self.halts.saturating_sub(other.halts),
            interrupts: self.interrupts.saturating_sub(other.interrupts),
            returns: self.returns.saturating_sub(other.returns),
        }
    }
}

/// What a load has cost, all of it.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    count: u64,
    ns: u64,
    counters: Counters,
}

impl Cost {
    fn instructions(&self) -> u64 {
        self.ns.checked_div(self.count).unwrap_or_default()
    }

    /// Hundredths a request.
    fn each(&self, counted: u64) -> u64 {
        (counted * 100 + self.count / 2).checked_div(self.count).unwrap_or_default()
    }
}

/// What one VMM's loads have cost, by disk and name, without what it costs to say so.
fn costs<'a>(text: &'a str, vmm: &str) -> BTreeMap<(&'a str, &'a str), Cost> {
    let (mut disk, mut begin, mut end) = ("", Counters::default(), Counters::default());
    let mut costs = BTreeMap::new();
    let mut nothing = Counters::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["TRAPLINE-BENCH:", name, "begin", ref numbers @ ..] if name == vmm => {
                begin = Counters::parse(numbers).unwrap_or_default();
            }
            ["TRAPLINE-BENCH:", name, "end", ref numbers @ ..] if name == vmm => {
                end = Counters::parse(numbers).unwrap_or_default();
            }
            [name, "TRAPLINE-GUEST:", at] if name.strip_suffix(':') == Some(vmm) => disk = at,
            [name, "DISKLOAD:", "end", load, count, ns] if name.strip_suffix(':') == Some(vmm) => {
                let (Ok(count), Ok(ns)) = (count.parse(), ns.parse()) else { continue };
                let counters = end.since(begin);
                match load {
                    "nothing" => nothing = counters,
                    _ => {
                        let counters = counters.since(nothing);
                        costs.insert((disk, load), Cost { count, ns, counters });
                    }
                }
            }
            _ => {}
        }
    }
    costs
}

fn report(text: &str, loads: &[&Load], alone: bool) -> Result<String> {
    let [ours, theirs] = ["trapline", "qemu"].map(|vmm| costs(text, vmm));
    let mut table = format!(
        "{:44} {:>9} {:>9}  {}\n",
        "a request of 4 KiB", "trapline", "QEMU", "Firecracker (recorded)"
    );
    let mut verdicts = String::new();
    for load in loads.iter().filter(|load| !load.is_nothing()) {
        let cost = ours.get(&(load.disk, load.name));
        let cost = cost.with_context(|| format!("{} was not measured", load.what))?;
        let other = theirs.get(&(load.disk, load.name));
        ensure!(alone || other.is_some(), "{} was not measured with QEMU", load.what);
        // A count of nothing would meet every goal.
        ensure!(cost.ns > 0 && cost.counters.exits > 0, "{} counted nothing", load.what);
        let recorded = load.goal.map(|(_, recorded)| grouped(recorded)).unwrap_or_default();
        let beside = |figure: fn(&Cost) -> String| other.map(figure).unwrap_or_default();
        let mut row = |what: &str, figure: fn(&Cost) -> String, recorded: &str| {
            table += &format!("{what:44} {:>9} {:>9}  {recorded}\n", figure(cost), beside(figure));
        };
        row(
            &format!("{}: instructions", load.what),
            |cost| grouped(cost.instructions()),
            &recorded,
        );
        row("  exits from the guest", |cost| hundredths(cost.each(cost.counters.exits)), "");
        row("    halts", |cost| hundredths(cost.each(cost.counters.halts)), "");
        row("    host interrupts", |cost| hundredths(cost.each(cost.counters.interrupts)), "");
        row("  returns to user space", |cost| hundredths(cost.each(cost.counters.returns)), "");
        verdicts += &judged(load, cost, other);
    }
    Ok(format!("{table}\n{verdicts}"))
}

/// The verdicts on one load.
fn judged(load: &Load, cost: &Cost, other: Option<&Cost>) -> String {
    let (what, mut verdicts) = (load.what, String::new());
    let most = load.goal.map(|(goal, _)| goal);
    if let Some(most) = most.or(other.map(Cost::instructions)) {
        let goal = format!("{what}: at most {} instructions", grouped(most));
        verdicts += &verdict(&goal, cost.instructions() <= most);
    }
    if let Some(most) = load.exits {
        let goal = format!("{what}: at most {} exits", hundredths(most));
        verdicts += &verdict(&goal, cost.each(cost.counters.exits) <= most);
    }
    let goal = format!("{what}: no doorbell reaches user space");
    verdicts + &verdict(&goal, cost.each(cost.counters.returns) <= MOST_RETURNS)
}

/// `115` as `1.15`.
fn hundredths(number: u64) -> String {
    format!("{}.{:02}", number / 100, number % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Load> {
        LOADS.iter().collect()
    }

    fn output(vmm: &str, ns: u64, exits: u64) -> String {
        let mut text = format!(
            "TRAPLINE-BENCH: {vmm} begin 100 0 0 7\nTRAPLINE-BENCH: {vmm} end 140 2 0 9\n\
             {vmm}: DISKLOAD: end nothing 0 55\n"
        );
        for Load { disk, name, count, .. } in all().into_iter().filter(|load| !load.is_nothing()) {
            let (ns, end) = (ns * count, 140 + count * exits / 100);
            text += &format!(
                "{vmm}: TRAPLINE-GUEST: {disk}\nTRAPLINE-BENCH: {vmm} begin 100 0 0 7\n\
                 TRAPLINE-BENCH: {vmm} end {end} 2 0 9\n{vmm}: DISKLOAD: end {name} {count} {ns}\n"
            );
        }
        text
    }

    #[test]
    fn figures_are_a_request_and_the_goals_are_judged_at_their_limits() {
        let text = output("trapline", 36_000, 9) + &output("qemu", 36_000, 9);
        let table = report(&text, &all(), false).unwrap();
        let has = |line: &str| assert!(table.contains(line), "{line}:\n{table}");
        has("goal: read, depth 1: at most 36,000 instructions: met");
        has("goal: read, depth 32: at most 15,500 instructions: MISSED");
        has("goal: read, depth 32: at most 0.09 exits: met");
        has("goal: O_DIRECT read, depth 1: at most 36,000 instructions: met");
        let text = output("trapline", 36_001, 10) + &output("qemu", 36_000, 9);
        let table = report(&text, &all(), false).unwrap();
        let has = |line: &str| assert!(table.contains(line), "{line}:\n{table}");
        has("goal: read, depth 1: at most 36,000 instructions: MISSED");
        has("goal: read, depth 32: at most 0.09 exits: MISSED");
        has("goal: O_DIRECT read, depth 1: at most 36,000 instructions: MISSED");
    }

    #[test]
    fn the_loads_of_one_disk_alone_are_measured_and_reported() {
        let options = |disks: &[&str]| Options {
            alone: true,
            show: false,
            disks: disks.iter().map(|disk| (*disk).to_owned()).collect(),
            only: String::new(),
            run: Vec::new(),
        };
        assert_eq!(options(&[]).loads().len(), LOADS.len());
        let loads = options(&["vdb"]).loads();
        assert!(loads.first().is_some_and(|load| load.is_nothing()));
        assert!(loads.iter().skip(1).all(|load| load.disk == "vdb") && loads.len() == 3);
        let syncs = Options { only: "sync".to_owned(), ..options(&[]) };
        let names: Vec<_> = syncs.loads().iter().map(|load| load.name).collect();
        assert_eq!(names, ["nothing", "sync"]);
        let text = output("trapline", 1, 1).replace("vda", "vdc");
        assert!(report(&text, &loads, true).is_ok());
        assert!(report(&text, &all(), true).is_err());
    }

    #[test]
    fn a_load_that_was_not_measured_is_an_error() {
        let text = output("trapline", 1, 1);
        assert!(report(&text, &all(), true).is_ok());
        assert!(report(&text, &all(), false).is_err(), "QEMU was to be measured");
        assert!(report(&text.replace("vdb", "vdc"), &all(), true).is_err());
        assert!(report(&text.replace("read-1 4000 4000", "read-1 4000 0"), &all(), true).is_err());
    }
}
