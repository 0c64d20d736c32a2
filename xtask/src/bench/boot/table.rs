//! What the outer machine says, as one table, and how it is judged.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::super::{grouped, verdict};
use super::{DEVICES, Start, TRAPPED, Vmm};

/// What the project promises: KiB resident beside guest RAM, without what devices may have besides.
const MOST_RESIDENT: u64 = 2560;
/// Ten seconds of an idle guest, and as many wake-ups.
const MOST_WAITS: u64 = 10;
/// Configuration space in memory, in the table of `trapline run --stat`.
const CONFIG_SPACE: &str = "pci/ecam";
/// Configuration space wherever it is, in that table.
const CONFIG_SPACES: [&str; 3] = ["pci/conf1", "pci/cam", CONFIG_SPACE];
/// What is mapped, as `host-measure.sh` calls it.
const MAPPINGS: [&str; 7] =
    ["code", "constants", "data", "heap", "anonymous", "libraries", "others"];

/// What one start took.
#[derive(Debug, Default)]
struct Found<'a> {
    /// Microseconds, which are thousands of instructions.
    us: BTreeMap<&'a str, u64>,
    /// KVM's counters.
    kvm: BTreeMap<&'a str, u64>,
    /// Returns to user space by KVM's numbers of their reasons.
    returns: Vec<(u64, u64)>,
    /// KiB by mapping: all, and those of no file.
    resident: BTreeMap<&'a str, (u64, u64)>,
    /// How often an idle guest's VMM was woken in ten seconds.
    waits: Option<u64>,
    /// Returns to user space by device, over the whole run.
    devices: Vec<(&'a str, u64)>,
    /// The reads among them, of configuration space in memory, if there is such.
    config_reads: Option<u64>,
    /// Why there is none of this.
    failed: Option<&'a str>,
}

/// The figures that have a column.
struct Row {
    before: u64,
    all: u64,
    exits: u64,
    faults: u64,
    returns: u64,
    resident: u64,
    private: u64,
    waits: u64,
    config_reads: Option<u64>,
    config: u64,
}

impl<'a> Found<'a> {
    fn of(text: &'a str, name: &str) -> Self {
        let mut found = Self::default();
        let mut titles = Vec::new();
        for line in text.lines() {
            let Some((_, said)) = line.split_once(MARK) else { continue };
            let Some((whose, said)) = said.split_once(' ') else { continue };
            if whose != name {
                continue;
            }
            let (kind, rest) = said.split_once(' ').unwrap_or((said, ""));
            let words: Vec<&str> = rest.split_whitespace().collect();
            if kind == "failed" {
                found.failed = Some(rest);
            } else if kind == "stat" {
                found.stat(&words, &mut titles);
            } else if let [key, ref numbers @ ..] = *words.as_slice() {
                found.figure(kind, key, numbers);
            }
        }
        found
    }

    fn figure(&mut self, kind: &str, key: &'a str, numbers: &[&str]) {
        let mut numbers = numbers.iter().filter_map(|number| number.parse().ok());
        let Some(number) = numbers.next() else { return };
        match kind {
            "us" => self.us.extend([(key, number)]),
            "kvm" => self.kvm.extend([(key, number)]),
            "returns" => self.returns.extend(key.parse().ok().map(|reason| (reason, number))),
            "resident" => {
                self.resident.extend([(key, (number, numbers.next().unwrap_or_default()))]);
            }
            "waits" => self.waits = Some(number),
            _ => {}
        }
    }

    /// A line of `trapline run --stat`: the titles of its columns, or a region's.
    fn stat(&mut self, words: &[&'a str], titles: &mut Vec<&'a str>) {
        const NAME: &str = "device/region";
        if words.contains(&NAME) {
            words.clone_into(titles);
            return;
        }
        let Some(name) = words.iter().position(|word| word.contains('/')) else { return };
        let Some(first) = titles.iter().position(|title| *title == NAME) else { return };
        let column = |title| {
            let at = titles.iter().position(|found| *found == title)? + name - first;
            words.get(at)?.parse::<u64>().ok()
        };
        let counts = ["reads", "writes", "str.in", "str.out"].map(column);
        let (Some(all), Some(queued)) = (counts.into_iter().sum::<Option<u64>>(), column("queued"))
        else {
            return;
        };
        let exits = all.saturating_sub(queued);
        let Some(device) = words.get(name) else { return };
        if exits > 0 {
            self.devices.push((device, exits));
        }
        if *device == CONFIG_SPACE {
            self.config_reads = counts.first().copied().flatten();
        }
    }

    fn returns(&self) -> u64 {
        self.returns.iter().map(|(_, count)| count).sum()
    }

    /// All that has a column, or what is missing. A count of nothing would meet every goal.
    fn row(&self) -> Result<Row> {
        if let Some(why) = self.failed {
            bail!("{why}");
        }
        let counted = |counts: &BTreeMap<&str, u64>, key| {
            let count = counts.get(key).copied().filter(|count| *count > 0);
            count.with_context(|| format!("{key} counted nothing"))
        };
        let (before, all) = (counted(&self.us, "before")?, counted(&self.us, "userspace")?);
        let exits = counted(&self.kvm, "exits")?;
        let faults = self.kvm.get("pf_fixed").copied().unwrap_or_default();
        let returns = self.returns();
        let (resident, private) = self.resident();
        ensure!(returns > 0 && resident > 0, "returns or memory counted nothing");
        let waits = self.waits.context("no wake-ups were counted")?;
        let config_reads = self.config_reads;
        let spaces = self.devices.iter().filter(|(device, _)| CONFIG_SPACES.contains(device));
        let config = spaces.map(|(_, count)| count).sum();
        Ok(Row {
            before,
            all,
            exits,
            faults,
            returns,
            resident,
            private,
            waits,
            config_reads,
            config,
        })
    }

    fn resident(&self) -> (u64, u64) {
        let sum = |sum: (u64, u64), kib: &(u64, u64)| (sum.0 + kib.0, sum.1 + kib.1);
        self.resident.values().fold((0, 0), sum)
    }
}

/// Why there is nothing of a start, as the outer machine says it.
pub(super) fn failed(name: &str, why: &str) -> String {
    format!("{MARK}{name} failed {why}\n")
}

/// What is in front of everything that the outer machine has counted.
const MARK: &str = "TRAPLINE-BENCH: ";

/// The table with a line for each promise, and whether all of `starts` are in it.
pub(super) fn report(starts: &[Start], text: &str) -> (String, bool) {
    let mut table = String::new();
    let (mut mappings, mut reasons) = (String::new(), String::new());
    let (mut verdicts, mut missing) = (String::new(), String::new());
    for start in starts {
        let name = start.name();
        let found = Found::of(text, &name);
        let row = match found.row() {
            Ok(row) => row,
            Err(error) => {
                missing += &format!("{name}: not measured: {error}\n");
                continue;
            }
        };
        let Row { before, all, exits, faults, returns, resident, private, waits, .. } = row;
        let after = all.saturating_sub(before);
        let figures = [before, after, all, exits, faults, returns, resident, private, waits];
        table += &line(&name, &figures);
        let kib = MAPPINGS.map(|what| found.resident.get(what).map_or(0, |kib| kib.0));
        mappings += &line(&name, &kib);
        reasons += &format!("{name}: {}\n", by_reason(&found));
        if start.vmm == Vmm::Trapline {
            verdicts += &judged(start, &row);
            verdicts += &share(start, &row, &Found::of(text, &format!("{name}{TRAPPED}")));
            let without = name.strip_suffix(DEVICES).unwrap_or(&name);
            verdicts += &more_resident(start, &row, &Found::of(text, without));
        }
    }
    let text = format!(
        "VMM start to the first userspace line (thousands of instructions to the guest's first, from \
         there, and all;\nexits from the guest; nested page faults; returns to user space; KiB \
         resident beside guest RAM, each page\nonce, all and those of no file; the VMM's wake-ups in ten \
         seconds of an idle guest)\n{}{table}\nKiB resident beside guest RAM, by mapping\n{}{mappings}\nreturns \
         to user space\n{reasons}\n{missing}{verdicts}",
        titles(&[
            "before", "after", "all", "exits", "faults", "returns", "resident", "private", "wakes"
        ]),
        titles(&MAPPINGS)
    );
    (text, missing.is_empty())
}

fn titles(titles: &[&str]) -> String {
    let cells: String = titles.iter().map(|title| format!(" {title:>9}")).collect();
    format!("{:32}{cells}\n", "")
}

fn line(name: &str, figures: &[u64]) -> String {
    let cells: String = figures.iter().map(|figure| format!(" {:>9}", grouped(figure))).collect();
    format!("{name:32}{cells}\n")
}

/// By KVM's reason until the first userspace line, and by device in the whole run.
fn by_reason(found: &Found<'_>) -> String {
    let mut reasons = found.returns.clone();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let reasons: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{} {count}", reason_name(*reason))).collect();
    let mut devices = found.devices.clone();
    devices.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let devices: Vec<String> =
        devices.iter().map(|(device, count)| format!("{device} {count}")).collect();
    let all = if devices.is_empty() { String::new() } else { "; whole run: ".to_owned() };
    reasons.join(", ") + &all + &devices.join(", ")
}

/// `KVM_EXIT_*` of `linux/kvm.h`.
fn reason_name(reason: u64) -> String {
    match reason {
        2 => "port".to_owned(),
        5 => "halt".to_owned(),
        6 => "mmio".to_owned(),
        7 => "interrupt window".to_owned(),
        10 => "interrupted".to_owned(),
        26 => "end of interrupt".to_owned(),
        other => format!("reason {other}"),
    }
}

fn judged(start: &Start, row: &Row) -> String {
    let limits = start.limits;
    let resident = MOST_RESIDENT + limits.more_resident.unwrap_or(0);
    let figures = [
        ("thousands of instructions", row.all, limits.instructions),
        ("exits", row.exits, limits.exits),
        ("returns to user space", row.returns, limits.returns),
        ("KiB beside guest RAM", row.resident, Some(resident)),
        ("wake-ups in ten idle seconds", row.waits, Some(MOST_WAITS)),
        ("returns for configuration space", row.config, limits.config),
    ];
    let reads = row.config_reads.zip(limits.config_reads);
    let reads = reads.map(|(found, most)| ("reads of configuration space", found, Some(most)));
    let name = start.name();
    let judged = figures
        .into_iter()
        .chain(reads)
        .filter_map(|(what, found, most)| most.map(|most| judge(&name, what, found, most)));
    judged.collect()
}

/// How many returns there are beside those of the same start without mirrored reads and coalesced
/// writes, if both were measured.
fn share(start: &Start, row: &Row, trapped: &Found<'_>) -> String {
    let (Some(most), Ok(trapped)) = (start.limits.share, trapped.row()) else {
        return String::new();
    };
    let goal = format!(
        "{}: at most {most} % of the returns to user space without mirrored reads and coalesced \
         writes ({} of {}, {:.1} %)",
        start.name(),
        grouped(row.returns),
        grouped(trapped.returns),
        row.returns as f64 * 100.0 / trapped.returns as f64
    );
    verdict(&goal, row.returns * 100 <= trapped.returns * most)
}

/// How much more is resident than of the same start without devices, if both were measured.
fn more_resident(start: &Start, row: &Row, without: &Found<'_>) -> String {
    let (Some(most), Ok(without)) = (start.limits.more_resident, without.row()) else {
        return String::new();
    };
    let more = row.resident.saturating_sub(without.resident);
    judge(&start.name(), "KiB resident for its devices", more, most)
}

fn judge(name: &str, what: &str, found: u64, most: u64) -> String {
    let goal = format!("{name}: at most {} {what} ({})", grouped(most), grouped(found));
    verdict(&goal, found <= most)
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Registers, Say, starts};
    use super::*;
    use crate::arch::Arch;

    const NAME: &str = "trapline-bzImage-nodefaults";

    fn text(us: u64, exits: u64, kib: u64, waits: u64) -> String {
        let lines = [
            "us before 78000".to_owned(),
            format!("us userspace {us}"),
            format!("kvm exits {exits}"),
            "kvm pf_fixed 59".to_owned(),
            "returns 2 300".to_owned(),
            "returns 6 8".to_owned(),
            format!("resident code {} 0", kib - 100),
            "resident heap 100 100".to_owned(),
            format!("waits idle {waits}"),
            "stat exits: total 5, port read 5".to_owned(),
            "stat range device/region reads writes queued str.in str.out refused watch delivery"
                .to_owned(),
            "stat pio 0x03f8-0x03ff serial0/uart 7 40 30 0 2 0 - +0x0 coalesced (kernel)"
                .to_owned(),
            "stat pio 0x0080-0x0080 post/code 0 3 3 0 0 0 - trap".to_owned(),
        ];
        let other = "TRAPLINE-BENCH: trapline-bzImage-console us userspace 1\n".to_owned();
        let line = |line: String| format!("TRAPLINE-BENCH: {NAME} {line}\n");
        other + &lines.map(line).concat()
    }

    fn only() -> Vec<Start> {
        let mut starts = starts();
        starts.retain(|start| start.name() == NAME);
        starts
    }

    fn whole_table(text: &str) -> String {
        let (table, complete) = report(&only(), text);
        assert!(complete, "{table}");
        table
    }

    #[test]
    fn the_goals_are_judged_at_their_limits() {
        let table = whole_table(&text(1_750_000, 2900, 2560, 10));
        assert_eq!(table.matches(": met").count(), 5, "{table}");
        let table = whole_table(&text(1_750_001, 2901, 2561, 11));
        assert_eq!(table.matches(": MISSED").count(), 4, "{table}");
        assert!(table.contains("at most 308 returns to user space (308): met"), "{table}");
    }

    #[test]
    fn figures_stand_under_their_titles() {
        let table = whole_table(&text(1_750_000, 2900, 2560, 10));
        let line = |start: &str| table.lines().find(|l| l.starts_with(start)).unwrap();
        let cells: Vec<&str> = line(NAME).split_whitespace().skip(1).collect();
        let expected =
            ["78,000", "1,672,000", "1,750,000", "2,900", "59", "308", "2,560", "100", "10"];
        assert_eq!(cells, expected);
        let reasons = "port 300, mmio 8; whole run: serial0/uart 19\n";
        assert!(table.contains(&format!("{NAME}: {reasons}")), "{table}");
    }

    #[test]
    fn what_was_not_counted_is_missing() {
        let whole = text(1, 1, 200, 1);
        let complete = |text: &str| report(&only(), text).1;
        assert!(complete(&whole));
        for missing in ["us before", "us userspace", "kvm exits", "waits idle", "returns"] {
            let part = whole.replace(&format!("{NAME} {missing}"), NAME);
            assert!(!complete(&part), "{missing}");
        }
        let say = Say::Nothing;
        let (vmm, arch, limits) = (Vmm::Pc, Arch::X86_64, Limits::default());
        let (elf, trapped, devices, driven) = (false, false, false, false);
        let registers = Registers::Ports;
        let start = Start { vmm, arch, elf, say, registers, trapped, devices, driven, limits };
        assert!(!report(&[start], &whole).1, "another start's figures are not its own");
    }

    #[test]
    fn a_start_that_failed_leaves_the_others_in_the_table() {
        let failed = failed("trapline-bzImage-quiet", "not in user space after 60 s");
        let whole = failed + &text(1, 1, 200, 1);
        let mut both = starts();
        both.retain(|start| [NAME, "trapline-bzImage-quiet"].contains(&start.name().as_str()));
        let (table, complete) = report(&both, &whole);
        assert!(!complete);
        let said = "trapline-bzImage-quiet: not measured: not in user space after 60 s\n";
        assert!(table.contains(said), "{table}");
        assert!(table.contains(&format!("{NAME}: port 300")), "{table}");
    }

    #[test]
    fn devices_are_judged_beside_the_same_start_without_them() {
        let mut only = starts();
        only.retain(|start| start.name().starts_with("trapline-bzImage-quiet"));
        let without_devices = |kib: u64| text(1, 1, kib, 1).replace(NAME, "trapline-bzImage-quiet");
        let said = |more_kib: u64, config: u64, returns: u64| {
            let without = without_devices(200);
            let with =
                text(1, 1, 200 + more_kib, 1).replace(NAME, "trapline-bzImage-quiet-devices");
            let with = with.replace("returns 2 300", &format!("returns 2 {}", returns - 8));
            let config = format!(
                "TRAPLINE-BENCH: trapline-bzImage-quiet-devices stat pio 0x0cf8-0x0cff pci/conf1 \
                 {config} 9 9 0 0 0 - trap\n"
            );
            let (table, complete) = report(&only, &(without + &with + &config));
            assert!(complete, "{table}");
            table
        };
        let (without, with) = (without_devices(2560), 2560 + 1024);
        let both = |with: u64| {
            let with = text(1, 1, with, 1).replace(NAME, "trapline-bzImage-quiet-devices");
            report(&only, &(without.clone() + &with)).0
        };
        let beside =
            |found: &str| format!("-devices: at most 3,584 KiB beside guest RAM ({found})");
        let table = both(with);
        assert!(table.contains(&format!("{}: met", beside("3,584"))), "{table}");
        let table = both(with + 1);
        assert!(table.contains(&format!("{}: MISSED", beside("3,585"))), "{table}");
        let table = said(1024, 2000, 3286);
        assert_eq!(table.matches("-devices: at most").count(), 5, "{table}");
        assert!(!table.contains("MISSED"), "{table}");
        let table = said(1025, 2001, 3287);
        for missed in [
            "at most 1,024 KiB resident for its devices (1,025)",
            "at most 2,000 returns for configuration space (2,001)",
            "at most 3,286 returns to user space (3,287)",
        ] {
            assert!(table.contains(&format!("-devices: {missed}: MISSED")), "{missed}: {table}");
        }
    }

    /// The console of an arm64 guest, with so many returns to user space, of which one is a read of
    /// configuration space or none, and without mirrored reads with 1,000.
    fn arm64(returns: u64, config_reads: u64) -> String {
        let rename = |text: String, name: &str| text.replace(NAME, name);
        let ours = text(1, 1, 200, 1).replace("returns 2 300", &format!("returns 2 {returns}"));
        let ours = ours.replace("returns 6 8\n", "returns 6 0\n");
        let reads = format!(
            "TRAPLINE-BENCH: {NAME} stat mmio 0x40000000-0x4fffffff pci/ecam {config_reads} 3 0 0 0 \
             0 - +0x0 mirrored\n"
        );
        let trapped = text(1, 1, 200, 1).replace("returns 2 300", "returns 2 992");
        rename(ours + &reads, "trapline-Image-console")
            + &rename(trapped, "trapline-Image-console-trapped")
    }

    #[test]
    fn a_share_is_judged_where_both_starts_were_measured_and_reads_where_there_is_such_memory() {
        let mut only = starts();
        only.retain(|start| start.name().starts_with("trapline-Image-console"));
        let verdicts = |text: &str| {
            let (table, complete) = report(&only, text);
            assert!(complete, "{table}");
            table
        };
        let table = verdicts(&arm64(100, 0));
        assert!(table.contains("coalesced writes (100 of 1,000, 10.0 %): met"), "{table}");
        assert!(table.contains("at most 0 reads of configuration space (0): met"), "{table}");
        assert_eq!(table.matches("reads of configuration space").count(), 1, "{table}");
        let table = verdicts(&arm64(101, 1));
        assert!(table.contains("coalesced writes (101 of 1,000, 10.1 %): MISSED"), "{table}");
        assert!(table.contains("at most 0 reads of configuration space (1): MISSED"), "{table}");
        let alone = report(&only, &arm64(100, 0).replace("-trapped us", "-x us")).0;
        assert!(!alone.contains("10.0 %"), "{alone}");
    }
}
