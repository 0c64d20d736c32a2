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

const ALL: [&Assigned; 4] = [&NVME, &E1000, &E1000E, &VIRTIO_NET];

/// Each of them alone.
const EACH: [(&str, &[&Assigned]); 4] = [
    ("nvme", &[&NVME]),
    ("e1000", &[&E1000]),
    ("e1000e", &[&E1000E]),
    ("virtio-net", &[&VIRTIO_NET]),
];

/// Modules of the outer machine.
const HOST_MODULES: [&str; 5] =
    ["vfio", "vfio_iommu_type1", "vfio_virqfd", "vfio-pci-core", "vfio-pci"];
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
    /// Texts that must occur besides, so many times.
    expect: &'static [(&'static str, usize)],
}

/// Those of the tests.
const TESTED: &[Case] = &[Case {
    name: Cow::Borrowed("together"),
    functions: &[&NVME, &E1000],
    words: "reboot poweroff",
    options: "-c 2 --reboot --nodefaults -p 'console=ttyS0 panic=1 quiet words'",
    // What the drivers use: the pin of the e1000, vectors of the disk.
    expect: &[("fasteoi eth0", 2), ("nvme0q1", 2)],
}];

/// What `cargo xtask vfio` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// How often each function goes to a guest and back
    #[arg(long, value_name = "N", default_value_t = 2)]
    rounds: usize,
}

/// The whole matrix; the status is 0 when all is as it should be.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let ready = Ready::make(Arch::X86_64)?;
    let tasks = vec![Task::new("x86_64-vfio", "every function, alone and together", {
        let rounds = options.rounds;
        move || boot("vfio-matrix", &matrix(rounds), &ready)
    })];
    Ok(suite::conclude(&suite::perform(&tasks)))
}

/// Each function alone, with kvmtool's command line and one vCPU, so many times; then without defaults
/// and with two; then all of them.
fn matrix(rounds: usize) -> Vec<Case> {
    let alone = |(name, functions): (&'static str, &'static [&'static Assigned])| {
        (1..=rounds).map(move |round| Case {
            name: format!("{name}-{round}").into(),
            functions,
            words: "",
            options: "-c 1 -p quiet",
            expect: &[],
        })
    };
    let mut cases: Vec<Case> = EACH.into_iter().flat_map(alone).collect();
    cases.push(Case {
        name: Cow::Borrowed("all"),
        functions: &ALL,
        words: "suspend reboot poweroff",
        options: "-c 2 --reboot --nodefaults -p 'console=ttyS0 panic=1 quiet words'",
        expect: &[],
    });
    cases
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
    let kernel = kernel::debian_machine(Arch::X86_64)?;
    let lines: Vec<String> = cases.iter().map(Case::line).collect();
    let ids: Vec<&str> = ALL.iter().map(|assigned| assigned.id).collect();
    let files = [("guest/kernel", kernel.image.clone()), ("guest/initrd", guest(&kernel)?)];
    let args = ["run", "-k", "/guest/kernel", "-i", "/guest/initrd", "-m", "256"];
    let lives: usize = cases.iter().map(Case::lives).sum();
    let done = NestedRun {
        name: name.to_owned(),
        hardware: hardware(name)?,
        kernel,
        gic: 3,
        vmm: ready.vmm.clone(),
        args: args.map(str::to_owned).into(),
        variables: vec![
            ("CASES".to_owned(), lines.join("\n")),
            ("FUNCTIONS".to_owned(), ids.join(" ")),
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
    judged.push(("host", judge_host(&text)));
    Ok(tally(name, judged))
}

/// The guests' initial RAM disk.
fn guest(kernel: &Kernel) -> Result<PathBuf> {
    let mut modules = Vec::new();
    for &module in GUEST_MODULES {
        if kernel.module(module)?.is_some() {
            modules.push(driver::shipped(module, kernel)?);
        }
    }
    initrd::guest(Arch::X86_64, "init-vfio.sh", &modules, &[])
}

/// What the outer machine has besides.
fn hardware(name: &str) -> Result<Hardware> {
    let image = paths::build()?.join(format!("{name}.nvme"));
    std::fs::File::create(&image)?.set_len(16 << 20)?;
    let image = image.display().to_string();
    let mut args = vec!["-M".to_owned(), "q35,kernel-irqchip=off".to_owned()];
    args.extend(["-device", "amd-iommu"].map(str::to_owned));
    let devices = ALL.iter().flat_map(|assigned| assigned.qemu);
    args.extend(devices.map(|arg| arg.replace("DISK", &image)));
    Ok(Hardware {
        args,
        append: "amd_iommu=on iommu=nopt".to_owned(),
        modules: HOST_MODULES.to_vec(),
    })
}

/// What the host says of its functions before, between and after.
fn judge_host(text: &str) -> Result<()> {
    let count = |what: &str| text.matches(what).count();
    let refused = count("TRAPLINE-HOST: refused: ");
    ensure!(refused >= ALL.len(), "{refused} functions were refused before vfio-pci had them");
    let mends = count("no driver has it and not vfio-pci; run: trapline setup vfio 0000:");
    ensure!(mends == ALL.len(), "{mends} refusals say what mends them");
    let given = count(": given to vfio-pci\n");
    ensure!(given == ALL.len(), "{given} functions were given to vfio-pci");
    let back = count(": taken from vfio-pci\n");
    ensure!(back == ALL.len(), "{back} functions were taken back");
    for complaint in ["IO_PAGE_FAULT", "WARNING", "BUG:"] {
        let said = format!("TRAPLINE-HOST: kernel: {complaint}");
        ensure!(!text.contains(&said), "the host's kernel: {complaint}");
    }
    Ok(())
}

impl Case {
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
        ensure!(text.contains("case status 0\n"), "trapline failed, last lines:\n{}", last());
        let says = self.functions.iter().flat_map(|function| function.says);
        let says = says.map(|said| (*said, self.turns()));
        let done = ("TRAPLINE-GUEST: done\n", self.lives());
        for (expected, times) in says.chain([done]).chain(self.expect.iter().copied()) {
            let count = text.matches(expected).count();
            ensure!(
                count >= times,
                "{expected:?} occurs {count} times and not {times}, last lines:\n{}",
                last()
            );
        }
        for complaint in ["WARNING", "BUG:", "I/O error", "nobody cared", "NETDEV WATCHDOG"] {
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
