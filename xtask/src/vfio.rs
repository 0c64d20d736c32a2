//! Functions of the host that guests drive: an outer machine with an IOMMU and real (emulated)
//! devices behind it, which trapline assigns to Linux guests with Debian's own drivers.
//!
//! The tests boot one guest that has several functions (`cargo xtask test vfio`); `cargo xtask vfio`
//! goes through each device alone, with both command lines, resets and many rounds.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::cases::{part, tally};
use crate::driver;
use crate::guest::{Ready, TIMEOUT};
use crate::kernel::{self, Kernel};
use crate::nested::{Hardware, NestedRun};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{self, Guests, Tally, Task};
use crate::vmm::Profile;
use crate::{initrd, paths};

/// A device of the outer machine.
struct Assigned {
    /// Vendor and device, as the host's scripts and our options name it.
    id: &'static str,
    /// QEMU's options; DISK stands for an image.
    qemu: &'static [&'static str],
    /// What each life of the guest says of it.
    says: &'static [&'static str],
}

/// What sends back what it gets, at the address 100 of each network.
macro_rules! network {
    ($id:literal, $net:literal) => {
        concat!(
            "user,id=",
            $id,
            ",net=10.0.",
            $net,
            ".0/24,host=10.0.",
            $net,
            ".2,guestfwd=tcp:10.0.",
            $net,
            ".100:7-cmd:cat"
        )
    };
}

const NVME: Assigned = Assigned {
    id: "1b36:0010",
    qemu: &[
        "-drive",
        "if=none,id=disk,format=raw,file=DISK",
        "-device",
        "nvme,drive=disk,serial=1",
    ],
    says: &["TRAPLINE-GUEST: nvme0n1: the same bytes\n"],
};
const E1000: Assigned = Assigned {
    id: "8086:100e",
    qemu: &["-netdev", network!("n10", "10"), "-device", "e1000,netdev=n10,mac=52:54:00:00:00:0a"],
    says: &["TRAPLINE-GUEST: e1000: the same bytes there and back\n"],
};
const E1000E: Assigned = Assigned {
    id: "8086:10d3",
    qemu: &["-netdev", network!("n11", "11"), "-device", "e1000e,netdev=n11,mac=52:54:00:00:00:0b"],
    says: &["TRAPLINE-GUEST: e1000e: the same bytes there and back\n"],
};
const VIRTIO_NET: Assigned = Assigned {
    id: "1af4:1041",
    qemu: &[
        "-netdev",
        network!("n12", "12"),
        "-device",
        "virtio-net-pci,netdev=n12,mac=52:54:00:00:00:0c,disable-legacy=on,iommu_platform=on",
    ],
    says: &["TRAPLINE-GUEST: virtio_net: the same bytes there and back\n"],
};

/// The educational device, with a driver of ours; what it says by messages, and by DMA.
const EDU: Assigned = Assigned {
    id: "1234:11e8",
    qemu: &["-device", "edu"],
    says: &[
        "edu 0000:00:01.0: 8 of 8 interrupts by MSI on CPU 0\n",
        "TRAPLINE-GUEST: edu: 0x12345678 came back\n",
    ],
};

const ALL: [&Assigned; 5] = [&NVME, &E1000, &E1000E, &VIRTIO_NET, &EDU];

/// A function that shares its group with a network card: both are behind a bridge of conventional PCI.
const SHARED: (&str, &[&str]) = (
    "1b36:0005",
    &[
        "-device",
        "pcie-pci-bridge,id=bridge",
        "-device",
        "pci-testdev,bus=bridge,addr=1",
        "-device",
        "rtl8139,bus=bridge,addr=2,romfile=",
    ],
);

/// Each of them alone.
const EACH: [(&str, &[&Assigned]); 4] = [
    ("nvme", &[&NVME]),
    ("e1000", &[&E1000]),
    ("e1000e", &[&E1000E]),
    ("virtio-net", &[&VIRTIO_NET]),
];

/// The others of them, which need nothing of the guest's command line.
const TOGETHER: &[&Assigned] = &[&NVME, &E1000, &E1000E, &VIRTIO_NET];

/// Modules of the outer machine.
const HOST_MODULES: [&str; 7] =
    ["vfio", "vfio_iommu_type1", "vfio_virqfd", "vfio-pci-core", "vfio-pci", "mii", "8139cp"];
/// Modules of the guests, in the order in which they are loaded. Not all kernels have all of them as
/// modules.
const GUEST_MODULES: &[&str] = &[
    "crc16",
    "crc32c_generic",
    "libcrc32c",
    "mbcache",
    "jbd2",
    "ext4",
    // Checksums of blocks, which NVMe may have: each algorithm before who looks for it.
    "crct10dif_common",
    "crct10dif_generic",
    "crc-t10dif",
    "crc64",
    "crc64_rocksoft_generic",
    "crc64-rocksoft",
    "t10-pi",
    "nvme-core",
    "nvme",
    "e1000",
    "e1000e",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// A guest.
struct Case {
    name: Cow<'static, str>,
    /// The functions it has.
    functions: &'static [&'static Assigned],
    /// What is typed when the guest waits for a word: its ends, one life after another.
    words: &'static str,
    /// Options of `trapline run`.
    options: &'static str,
    /// How it ends: trapline's exit status, with 137 for one that was killed.
    status: u8,
    /// Texts that must occur besides, so many times.
    expect: &'static [(&'static str, usize)],
}

/// Those of the tests.
const TESTED: &[Case] = &[Case {
    name: Cow::Borrowed("together"),
    functions: &[&NVME, &E1000],
    words: "reboot poweroff",
    options: "-c 2 --reboot --nodefaults -p 'console=ttyS0 panic=1 quiet words'",
    status: 0,
    // What the drivers use: the pin of the e1000, vectors of the disk.
    expect: &[("fasteoi eth0", 2), ("nvme0q1", 2)],
}];

/// What `cargo xtask vfio` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The guests' architecture; both, if it is not said
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// How often each function goes to a guest and back
    #[arg(long, value_name = "N", default_value_t = 2)]
    rounds: usize,
    /// Only the guests whose name contains one of these
    names: Vec<String>,
}

/// The whole matrix; the status is 0 when all is as it should be.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let mut tasks = Vec::new();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let mut cases = matrix(arch, options.rounds);
        cases.retain(|case| {
            let names = &options.names;
            names.is_empty() || names.iter().any(|name| case.name.contains(name.as_str()))
        });
        if cases.is_empty() || options.arch.is_some_and(|wanted| wanted != arch) {
            continue;
        }
        let (ready, name) = (Ready::make(arch, Profile::Release)?, format!("{arch}-vfio"));
        tasks.push(Task::new(name.clone(), "every function, alone and together", move || {
            boot(&name, &cases, &ready)
        }));
    }
    ensure!(!tasks.is_empty(), "No guest has such a name");
    Ok(suite::conclude(&suite::perform(&tasks)))
}

/// Each function alone, with kvmtool's command line and one vCPU, so many times; then without defaults
/// and with two; then all of them.
fn matrix(arch: Arch, rounds: usize) -> Vec<Case> {
    let alone = |(name, functions): (&'static str, &'static [&'static Assigned])| {
        (1..=rounds).map(move |round| Case {
            name: format!("{name}-{round}").into(),
            functions,
            words: "",
            options: "-c 1 -p quiet",
            status: 0,
            expect: &[],
        })
    };
    let mut cases: Vec<Case> = EACH.into_iter().flat_map(alone).collect();
    cases.push(Case {
        name: Cow::Borrowed("all"),
        functions: TOGETHER,
        words: "suspend reboot poweroff",
        options: "-c 2 --reboot --nodefaults -p 'console=ttyS0 panic=1 quiet words'",
        status: 0,
        expect: &[],
    });
    cases.extend(particular());
    if arch == Arch::X86_64 {
        cases.extend(of_pc());
    }
    cases
}

/// What is not the same with every function.
#[rustfmt::skip]
fn particular() -> [Case; 4] {
    [
        Case { name: "killed".into(), functions: &[&NVME, &E1000E], words: "kill", status: 137,
            options: "-c 1 --nodefaults -p 'console=ttyS0 panic=1 quiet waits'",
            expect: &[("is bus master: 0\n", 1)] },
        Case { name: "after-killed".into(), functions: &[&NVME, &E1000E], words: "", status: 0,
            options: "-c 1 -p quiet", expect: &[("is bus master: 0\n", 1)] },
        Case { name: "taken".into(), functions: &[&E1000E, &NVME], words: "take", status: 0,
            options: "-c 1 --nodefaults -p 'console=ttyS0 panic=1 quiet waits'",
            expect: &[("vfio0 was taken from the guest: the host wants it back", 1),
                (": given to vfio-pci\n", 1), ("now 0000:00:01.0  ffff\n", 1),
                ("now 0000:00:02.0  1b36\n", 1), ("nvme0n1: the same bytes\n", 2),
                ("TRAPLINE-GUEST: still there\n", 1)] },
        Case { name: "traced".into(), functions: &[&E1000], words: "", status: 0,
            options: "-c 1 --vfio-trap 0 --trace vfio0/bar0 -p quiet",
            expect: &[("bar0 ICR\n", 1), ("bar0 TDT\n", 1), ("bar0 RDT\n", 1)] },
    ]
}

/// What only a PC has: our own interrupt controllers beside KVM's, and memory where a script expects it.
#[rustfmt::skip]
fn of_pc() -> [Case; 3] {
    [
        // Its DMA to where the guest has no memory ends at the IOMMU.
        Case { name: "edu-stray".into(), functions: &[&EDU], words: "", status: 0,
            options: "-c 1 -m 128 --nodefaults \
                      -p 'console=ttyS0 panic=1 quiet iomem=relaxed memmap=64K$0x6000000'",
            expect: &[] },
        Case { name: "split".into(), functions: &[&NVME], words: "", status: 0,
            options: "-c 2 --irqchip split --nodefaults -p 'console=ttyS0 panic=1 quiet'",
            expect: &[] },
        Case { name: "split-pin".into(), functions: &[&E1000], words: "", status: 1,
            options: "-c 1 --irqchip split -p quiet",
            expect: &[("it interrupts by its pin, which only interrupt controllers in KVM", 1)] },
    ]
}

/// The tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    [Guests {
        name: "boot-vfio",
        about: "an NVMe disk and an e1000 assigned to one guest, also after a reboot",
        arch: Arch::X86_64,
        run: Box::new(|ready: &Ready| boot("boot-vfio", TESTED, ready)),
    }]
    .into_iter()
}

fn boot(name: &str, cases: &[Case], ready: &Ready) -> Result<Tally> {
    let kernel = kernel::debian_machine(ready.kernel.arch)?;
    let lines: Vec<String> = cases.iter().map(Case::line).collect();
    let ids: Vec<&str> = ALL.iter().map(|assigned| assigned.id).collect();
    let files = [("guest/kernel", kernel.image.clone()), ("guest/initrd", guest(&kernel)?)];
    let args = ["run", "-k", "/guest/kernel", "-i", "/guest/initrd", "-m", "256"];
    let lives: usize = cases.iter().map(Case::lives).sum();
    let done = NestedRun {
        name: name.to_owned(),
        hardware: hardware(name, kernel.arch)?,
        kernel,
        gic: 3,
        vmm: ready.vmm.clone(),
        args: args.map(str::to_owned).into(),
        variables: vec![
            ("CASES".to_owned(), lines.join("\n")),
            ("FUNCTIONS".to_owned(), ids.join(" ")),
            ("SHARED".to_owned(), SHARED.0.to_owned()),
        ],
        files: files.map(|(name, file)| (name.to_owned(), file)).into(),
        script: "host-vfio.sh".to_owned(),
        smp: 2,
        counted: false,
        watch: Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(TIMEOUT * u32::try_from(lives + 2)?),
        },
    };
    let text = done.run()?.text;
    let mut judged: Vec<(&str, Result<()>)> =
        cases.iter().map(|case| (&*case.name, case.judge(&text))).collect();
    let strays = cases.iter().any(|case| case.name == "edu-stray");
    judged.push(("host", judge_host(ready.kernel.arch, &text, strays)));
    Ok(tally(name, judged))
}

/// The guests' initial RAM disk.
fn guest(kernel: &Kernel) -> Result<PathBuf> {
    let mut modules = driver::if_shipped(GUEST_MODULES.iter().copied(), kernel)?;
    modules.push(driver::module("edu", kernel)?);
    initrd::guest(kernel.arch, "init-vfio.sh", &modules, &[])
}

/// What the outer machine has besides.
fn hardware(name: &str, arch: Arch) -> Result<Hardware> {
    let image = paths::build()?.join(format!("{name}.nvme"));
    std::fs::File::create(&image)?.set_len(16 << 20)?;
    let image = image.display().to_string();
    let devices = ALL.iter().flat_map(|assigned| assigned.qemu).chain(SHARED.1);
    Ok(behind_iommu(arch, devices.map(|arg| arg.replace("DISK", &image))))
}

/// An outer machine with these devices (QEMU's arguments) behind an IOMMU: AMD's, or an SMMUv3.
pub(crate) fn behind_iommu(arch: Arch, devices: impl IntoIterator<Item = String>) -> Hardware {
    let (iommu, append): (&[&str], _) = match arch {
        Arch::X86_64 => (&["-M", "q35,kernel-irqchip=off", "-device", "amd-iommu"], "iommu=nopt"),
        Arch::Aarch64 => (&["-M", "iommu=smmuv3"], ""),
    };
    Hardware {
        args: iommu.iter().map(|arg| (*arg).to_owned()).chain(devices).collect(),
        append: append.to_owned(),
        modules: HOST_MODULES.to_vec(),
    }
}

/// What the host says of its functions before, between and after.
fn judge_host(arch: Arch, text: &str, strays: bool) -> Result<()> {
    let count = |what: &str| text.matches(what).count();
    let refused = count("TRAPLINE-HOST: refused: ");
    ensure!(refused >= ALL.len(), "{refused} functions were refused before vfio-pci had them");
    let mends = count("no driver has it and not vfio-pci; run: trapline setup vfio 0000:");
    ensure!(mends == ALL.len(), "{mends} refusals say what mends them");
    let given = count(": given to vfio-pci\n");
    ensure!(given > ALL.len(), "{given} functions were given to vfio-pci");
    let group = text.lines().find(|line| line.starts_with("TRAPLINE-HOST: group: "));
    // By a device tree the card comes to the group when a driver takes it; the bridge is in it before.
    let who = if arch == Arch::X86_64 { "(driver 8139cp)" } else { "(driver shpchp)" };
    let mends =
        |line: &str| line.contains("the IOMMU cannot tell it from 0000:") && line.contains(who);
    ensure!(group.is_some_and(mends), "a function that the host has half of: {group:?}");
    let back = count(": taken from vfio-pci\n");
    ensure!(back > ALL.len(), "{back} functions were taken back");
    let kernel: Vec<_> = text.lines().filter(|line| line.contains("HOST: kernel: ")).collect();
    let said = |what: &str| kernel.iter().any(|line| line.contains(what));
    ensure!(!said("WARNING") && !said("BUG:"), "the host's kernel: {}", kernel.join("\n"));
    // QEMU's IOMMU tells of it or not.
    ensure!(strays || !said("IO_PAGE_FAULT"), "the IOMMU tells of DMA to nowhere");
    Ok(())
}

impl Case {
    /// Whether there is to be a guest at all.
    fn starts(&self) -> bool {
        matches!(self.status, 0 | 137)
    }

    fn lives(&self) -> usize {
        self.words.split_whitespace().filter(|word| *word != "suspend").count().max(1)
    }

    /// How often the guest drives everything.
    fn turns(&self) -> usize {
        self.words.split_whitespace().filter(|word| *word == "suspend").count() + self.lives()
    }

    /// Its line for `host-vfio.sh`.
    fn line(&self) -> String {
        let functions = self.functions.iter().map(|function| format!("--vfio-pci {}", function.id));
        let functions = functions.collect::<Vec<_>>().join(" ");
        format!("{}|{}|{functions} {}", self.name, self.words, self.options)
    }

    fn judge(&self, transcript: &str) -> Result<()> {
        let Some(text) = part(transcript, &self.name) else { bail!("it was not run") };
        let last = || last_lines(text);
        let status = format!("case status {}\n", self.status);
        ensure!(text.contains(&status), "trapline ended otherwise, last lines:\n{}", last());
        let turns = if self.starts() { self.turns() } else { 0 };
        let says = self.functions.iter().flat_map(|function| function.says);
        let says = says.map(|said| (*said, turns));
        let done = ("TRAPLINE-GUEST: done\n", turns.min(self.lives()));
        for (expected, times) in says.chain([done]).chain(self.expect.iter().copied()) {
            let count = text.matches(expected).count();
            ensure!(
                count >= times,
                "{expected:?} occurs {count} times and not {times}, last lines:\n{}",
                last()
            );
        }
        for complaint in ["WARNING:", "BUG:", "I/O error", "nobody cared", "NETDEV WATCHDOG"] {
            ensure!(!text.contains(complaint), "{complaint:?} occurs");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case {
        name: Cow::Borrowed("x"),
        functions: &[&NVME, &E1000],
        words: "suspend reboot poweroff",
        options: "-c 2",
        status: 0,
        expect: &[("yes", 1)],
    };

    #[test]
    fn a_case_names_its_functions_and_says_when_each_is_to_be_driven() {
        let line = "x|suspend reboot poweroff|--vfio-pci 1b36:0010 --vfio-pci 8086:100e -c 2";
        assert_eq!(CASE.line(), line);
        assert_eq!((CASE.lives(), CASE.turns()), (2, 3));
    }

    #[test]
    fn a_guest_is_to_say_all_of_its_functions_each_time() {
        let turn = "TRAPLINE-GUEST: nvme0n1: the same bytes\n\
                    TRAPLINE-GUEST: e1000: the same bytes there and back\n";
        let judge = |middle: &str| {
            let done = "TRAPLINE-GUEST: done\n".repeat(2);
            let end = "TRAPLINE-HOST: case status 0\n";
            CASE.judge(&format!("TRAPLINE-HOST: case x\n{middle}{done}{end}"))
        };
        judge(&format!("{}yes", turn.repeat(3))).unwrap();
        assert!(judge(&turn.repeat(3)).is_err(), "something is missing");
        assert!(judge(&format!("{}yes", turn.repeat(2))).is_err(), "not after the suspend");
        assert!(judge(&format!("{}yes I/O error", turn.repeat(3))).is_err());
    }
}
