//! Linux with Debian's own modules on virtio devices behind every kind of registers: at first, with
//! drivers taken off and put back, after loading the modules again, and after a reset.
//!
//! The tests boot boards that have all kinds at once (`cargo xtask test virtio`); `cargo xtask virtio`
//! boots one board for each kind and number of vCPUs, and loads the modules a hundred times.

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::cases::{part, tally};
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{self, Guests, Tally, Task};
use crate::vmm::Profile;
use crate::{disks, driver};

/// Guests that share an outer machine.
struct Board {
    /// What a user calls it.
    name: &'static str,
    /// One line about it.
    about: &'static str,
    /// The guests' architecture.
    arch: Arch,
    cases: &'static [Case],
}

/// One guest.
#[derive(Clone)]
struct Case {
    name: &'static str,
    cpus: u32,
    /// Registers of the disks, one disk each.
    disks: &'static [&'static str],
    /// Registers of the entropy source, the balloon, and the console device with its port.
    others: [&'static str; 3],
    /// Whether it has kvmtool's defaults on its command line, which has a PC use its 8259s.
    defaults: bool,
    /// What is typed when the guest waits for a word: its ends, one life after another.
    words: &'static str,
    /// How often it loads the modules again in each life.
    reloads: usize,
}

const ALL: &[&str] = &["pci", "pci-legacy", "pci-transitional", "mmio", "mmio-legacy"];

/// Every kind of registers, with the ends of each life.
const TWO: Case = Case {
    name: "two",
    cpus: 2,
    disks: ALL,
    others: ["mmio", "pci-legacy", "pci"],
    defaults: false,
    words: "suspend reboot poweroff",
    reloads: 1,
};

/// Those of the tests.
#[rustfmt::skip]
const BOARDS: &[Board] = &[
    Board {
        name: "arm64-virtio",
        about: "the same as boot-virtio with arm64, whose device tree has the registers in memory",
        arch: Arch::Aarch64,
        cases: &[
            TWO,
            Case { name: "one", cpus: 1, disks: ALL, defaults: false,
                others: ["mmio-legacy", "pci", "pci-legacy"], words: "", reloads: 1 },
        ],
    },
    Board {
        name: "boot-virtio",
        about: "Debian's modules drive virtio devices over every transport, also after suspend and reboot",
        arch: Arch::X86_64,
        cases: &[
            TWO,
            Case { name: "8259", cpus: 1, disks: ALL, defaults: true,
                others: ["mmio-legacy", "pci", "pci-legacy"], words: "", reloads: 1 },
        ],
    },
];

/// What `cargo xtask virtio` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The guests' architecture; both, if it is not said
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// How often a guest loads the modules again
    #[arg(long, value_name = "N", default_value_t = 100)]
    reloads: usize,
}

/// Boots each board of the matrix; the status is 0 when all is as it should be.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let archs = [Arch::Aarch64, Arch::X86_64].into_iter();
    let archs = archs.filter(|arch| options.arch.is_none_or(|wanted| wanted == *arch));
    let mut tasks = Vec::new();
    for arch in archs {
        let ready = Ready::make(arch, Profile::Release)?;
        for case in matrix(options.reloads) {
            let name = format!("{arch}-{}-{}", case.name, case.cpus);
            let ready = ready.clone();
            let about = "virtio devices behind one kind of registers";
            tasks.push(Task::new(name.clone(), about, move || {
                boot(&name, arch, std::slice::from_ref(&case), &ready)
            }));
        }
    }
    Ok(suite::conclude(&suite::perform(&tasks)))
}

/// Each kind of registers alone, with one vCPU and with two.
fn matrix(reloads: usize) -> Vec<Case> {
    let kinds = ALL.iter().zip(ALL.chunks(1));
    let kinds: Vec<_> = kinds.flat_map(|kind| [1, 2].map(|cpus| (kind, cpus))).collect();
    let case = |((name, disks), cpus): ((&&'static str, &'static [&'static str]), u32)| Case {
        name,
        cpus,
        disks,
        others: [name; 3],
        defaults: false,
        words: "reboot poweroff",
        reloads,
    };
    kinds.into_iter().map(case).collect()
}

/// The boards, as tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    BOARDS.iter().map(|board| Guests {
        name: board.name,
        about: board.about,
        arch: board.arch,
        run: Box::new(|ready| boot(board.name, board.arch, board.cases, ready)),
    })
}

/// The modules beside those of the bus, of which a kernel has some built in.
const MODULES: [&str; 5] =
    ["virtio_mmio", "virtio_blk", "virtio-rng", "virtio_console", "virtio_balloon"];

fn boot(name: &str, arch: Arch, cases: &[Case], ready: &Ready) -> Result<Tally> {
    let lines: Vec<String> = cases.iter().map(|case| case.line(arch)).collect();
    let turns: usize = cases.iter().map(Case::turns).sum();
    let most_cpus = cases.iter().map(|case| case.cpus).max().unwrap_or(1);
    let modules = disks::BUS.into_iter().chain(MODULES);
    let modules = driver::if_shipped(modules, &ready.kernel)?;
    let boot = Boot {
        name: name.to_owned(),
        place: Place::best(arch),
        image: Image::Bzimage,
        init: "init-virtio.sh".to_owned(),
        modules,
        programs: Vec::new(),
        options: ["-m", "256", "-c", &most_cpus.to_string()].map(str::to_owned).into(),
        script: Script {
            file: Some("host-cases.sh"),
            variables: vec![("CASES".to_owned(), lines.join("\n"))],
            ..Script::default()
        },
        watch: Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(TIMEOUT * 3 + TIMEOUT / 6 * u32::try_from(turns)?),
        },
    };
    let text = boot.run(ready)?.text;
    Ok(tally(name, cases.iter().map(|case| (case.name, case.judge(&text)))))
}

impl Case {
    /// How often it boots.
    fn lives(&self) -> usize {
        self.words.split_whitespace().filter(|word| *word != "suspend").count().max(1)
    }

    fn suspends(&self) -> usize {
        self.words.split_whitespace().filter(|word| *word == "suspend").count()
    }

    /// How often everything is driven, which is how long it takes.
    fn turns(&self) -> usize {
        self.lives() * (5 + self.reloads) + self.suspends()
    }

    /// Its line for `host-cases.sh`.
    fn line(&self, arch: Arch) -> String {
        let own = "--reboot --rng --balloon=16 --virtio-port port,file=PORT";
        let mut options = format!("-c {} {own}", self.cpus);
        let [rng, balloon, console] = self.others;
        let mut transports =
            format!("--virtio-transport rng={rng},balloon={balloon},console={console}");
        for (n, kind) in self.disks.iter().enumerate() {
            options.push_str(&format!(" -d DISK{n},serial={kind},format=raw"));
            transports.push_str(&format!(",disk{n}={kind}"));
        }
        let mut words = format!("quiet reloads={}", self.reloads);
        if !self.words.is_empty() {
            words.push_str(" words");
        }
        if !self.defaults && arch == Arch::X86_64 {
            options.push_str(" --nodefaults");
            words.push_str(" console=ttyS0 panic=1");
        }
        format!("{}|{}|{options} {transports} -p '{words}'", self.name, self.words)
    }

    fn judge(&self, transcript: &str) -> Result<()> {
        let Some(text) = part(transcript, self.name) else { bail!("it was not run") };
        let last = || last_lines(text);
        ensure!(text.contains("case status 0\n"), "trapline failed, last lines:\n{}", last());
        let mut good = self.disks.to_vec();
        good.extend(["rng", "balloon", "port"]);
        good.sort_unstable();
        let good = good.join(" ");
        let (lives, suspends) = (self.lives(), self.suspends());
        for (when, times) in [
            ("at first", lives),
            ("rebound", lives),
            ("with transports rebound", lives),
            ("loaded again", lives * self.reloads),
            ("after suspend", suspends),
        ] {
            self.occurs(text, &format!("TRAPLINE-GUEST: good {when}: {good}\n"), times)?;
        }
        self.occurs(text, &format!("TRAPLINE-GUEST: cpus {}\n", self.cpus), lives)?;
        self.occurs(text, "TRAPLINE-GUEST: done\n", lives)?;
        let lines = lives * (3 + self.reloads) + suspends;
        self.occurs(text, &format!("TRAPLINE-HOST: port: {lines} lines\n"), 1)?;
        // Linux uses what it takes for the better registers of a transitional function.
        let legacy = |kind: &&str| kind.ends_with("-legacy");
        let old = self.disks.iter().filter(|kind| legacy(kind)).count();
        self.occurs(text, "virtio_blk, version_1 0,", lives * old)?;
        self.occurs(text, "virtio_blk, version_1 1,", lives * (self.disks.len() - old))?;
        for forbidden in ["WARNING", "BUG:", "I/O error", "Kernel panic", "nobody cared"] {
            ensure!(!text.contains(forbidden), "{forbidden:?} occurs");
        }
        Ok(())
    }

    fn occurs(&self, text: &str, expected: &str, times: usize) -> Result<()> {
        let count = text.matches(expected).count();
        let last = || last_lines(text);
        ensure!(
            count == times,
            "{expected:?} occurs {count} times and not {times}, last lines:\n{}",
            last()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case {
        name: "x",
        cpus: 2,
        disks: &["pci", "mmio-legacy"],
        others: ["mmio", "pci", "pci-legacy"],
        defaults: false,
        words: "suspend reboot poweroff",
        reloads: 1,
    };

    #[test]
    fn a_case_says_what_its_guest_is_to_have() {
        let line = "x|suspend reboot poweroff|-c 2 --reboot --rng --balloon=16 \
                    --virtio-port port,file=PORT -d DISK0,serial=pci,format=raw -d DISK1,serial=mmio-legacy,format=raw";
        let transports = "--virtio-transport rng=mmio,balloon=pci,console=pci-legacy,disk0=pci,disk1=mmio-legacy";
        let words = "quiet reloads=1 words";
        assert_eq!(CASE.line(Arch::Aarch64), format!("{line} {transports} -p '{words}'"));
        let words = format!("{words} console=ttyS0 panic=1");
        let pc = format!("{line} --nodefaults {transports} -p '{words}'");
        assert_eq!(CASE.line(Arch::X86_64), pc);
    }

    #[test]
    fn every_device_is_to_be_good_in_every_life_and_nothing_else_to_be_said() {
        let life = "TRAPLINE-GUEST: cpus 2\n\
            type 2, virtio_blk, version_1 1, behind 0\ntype 2, virtio_blk, version_1 0, behind 1\n\
            TRAPLINE-GUEST: good at first: balloon mmio-legacy pci port rng\n\
            TRAPLINE-GUEST: good rebound: balloon mmio-legacy pci port rng\n\
            TRAPLINE-GUEST: good with transports rebound: balloon mmio-legacy pci port rng\n\
            TRAPLINE-GUEST: good loaded again: balloon mmio-legacy pci port rng\n\
            TRAPLINE-GUEST: done\n";
        let resumed = "TRAPLINE-GUEST: good after suspend: balloon mmio-legacy pci port rng\n";
        let judge = |text: &str| {
            let end = "TRAPLINE-HOST: case status 0\nTRAPLINE-HOST: port: 9 lines\n";
            CASE.judge(&format!("TRAPLINE-HOST: case x\n{text}{end}"))
        };
        let all = format!("{life}{resumed}{life}");
        judge(&all).unwrap();
        assert!(judge(&format!("{life}{life}")).is_err(), "it was not suspended");
        assert!(judge(&format!("{life}{resumed}")).is_err(), "it was not reset");
        assert!(
            judge(&all.replacen(
                "rebound: balloon mmio-legacy pci port rng",
                "rebound: pci port rng",
                1
            ))
            .is_err()
        );
        assert!(judge(&all.replacen("version_1 0", "version_1 1", 1)).is_err());
        assert!(judge(&format!("{all}WARNING: CPU")).is_err());
    }

    #[test]
    fn the_matrix_has_each_kind_with_one_processor_and_with_two() {
        let all = matrix(7);
        assert_eq!(all.len(), 10);
        assert!(all.iter().all(|case| case.disks == [case.others[0]] && case.reloads == 7));
        assert_eq!(all.iter().filter(|case| case.cpus == 2).count(), 5);
    }
}
