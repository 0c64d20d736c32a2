//! A Linux guest in trapline, wherever this machine can run one.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::arch::Arch;
use crate::driver::Module;
use crate::kernel::{self, Kernel};
use crate::nested::{Hardware, NestedRun, Outcome, parse_status};
use crate::session::{self, Watch};
use crate::vmm::Profile;
use crate::{initrd, paths, proc, vmm};

/// How long a boot that nobody types at may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(360);
/// How long such a boot may take on this architecture: emulating arm64's virtualization takes QEMU
/// several times as long as AMD's.
pub(crate) fn patience(arch: Arch) -> Duration {
    match arch {
        Arch::X86_64 => TIMEOUT,
        Arch::Aarch64 => TIMEOUT * 4,
    }
}

/// What the smoke test's init prints last.
pub(crate) const DONE: &str = "TRAPLINE-GUEST: done";

/// The form in which the kernel is handed to trapline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Image {
    /// Debian's vmlinuz, by the Linux boot protocol
    Bzimage,
    /// The ELF image inside it, by its PVH note
    Vmlinux,
    /// The vmlinuz of Debian's kernel for real machines, which drives displays
    Full,
}

/// Where trapline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine's KVM.
    Direct,
    /// In a machine that QEMU emulates, virtualization and all.
    Nested,
}

impl Place {
    /// Direct where a Linux guest is practical: a KVM without hardware below it takes minutes to
    /// do nothing visible. There is none on arm64.
    pub(crate) fn best(arch: Arch) -> Self {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let able = arch == Arch::Aarch64 || has_virtualization(&flags);
        if arch == Arch::host() && able && kvm_refusal().is_none() {
            Self::Direct
        } else {
            Self::Nested
        }
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Why `/dev/kvm` cannot be used, if so.
pub(crate) fn kvm_refusal() -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("/dev/kvm cannot be opened: {error}"))
}

/// What every boot needs, made once.
#[derive(Clone)]
pub(crate) struct Ready {
    /// Debian's kernel.
    pub(crate) kernel: Kernel,
    /// The static binary.
    pub(crate) vmm: PathBuf,
    /// How that and other programs of ours are compiled.
    pub(crate) profile: Profile,
}

impl Ready {
    /// Fetches and builds whatever is not there yet.
    pub(crate) fn make(arch: Arch, profile: Profile) -> Result<Self> {
        let (kernel, vmm) = (kernel::debian_cloud(arch)?, vmm::build(arch, profile)?);
        Ok(Self { kernel, vmm, profile })
    }
}

/// One boot.
#[derive(Clone)]
pub(crate) struct Boot {
    /// A name different from any other boot's at the same time.
    pub(crate) name: String,
    /// Where.
    pub(crate) place: Place,
    /// The kernel's form.
    pub(crate) image: Image,
    /// The guest's init, a file of `guest-tests/`.
    pub(crate) init: String,
    /// Kernel modules it finds in `/modules`.
    pub(crate) modules: Vec<Module>,
    /// Programs it finds in `/bin`: their names there, and their files here.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// Further options of `trapline run`.
    pub(crate) options: Vec<String>,
    /// The script that runs trapline, a file of `guest-tests/`, and variables for it.
    pub(crate) script: Script,
    /// How to watch it.
    pub(crate) watch: Watch,
}

/// What runs trapline, if something more than its exit status is wanted.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// A file of `guest-tests/`; none for just running trapline.
    pub(crate) file: Option<&'static str>,
    /// Shell variables it sees.
    pub(crate) variables: Vec<(String, String)>,
    /// Files it needs, each under the name of the shell variable that says where it is.
    pub(crate) files: Vec<(&'static str, PathBuf)>,
    /// The clock of the outer machine counts instructions.
    pub(crate) counted: bool,
}

impl Boot {
    /// Boots and returns when trapline has ended.
    pub(crate) fn run(&self, ready: &Ready) -> Result<Outcome> {
        let kernel = match self.image {
            Image::Bzimage => &ready.kernel.image,
            Image::Vmlinux => {
                ready.kernel.vmlinux.as_ref().context("arm64 kernels have no such form")?
            }
            Image::Full => &kernel::debian_full(ready.kernel.arch)?,
        };
        let initrd = initrd::guest(ready.kernel.arch, &self.init, &self.modules, &self.programs)?;
        match self.place {
            Place::Direct => self.direct(ready, &self.args(kernel.clone(), initrd)),
            Place::Nested => {
                let there = ["guest/kernel", "guest/initrd"].map(str::to_owned);
                let [in_kernel, in_initrd] =
                    there.clone().map(|name| PathBuf::from("/").join(name));
                let mut files: Vec<_> = there.into_iter().zip([kernel.clone(), initrd]).collect();
                let mut variables = self.script.variables.clone();
                for (variable, file) in &self.script.files {
                    let name = format!("guest/{variable}");
                    variables.push(((*variable).to_owned(), format!("/{name}")));
                    files.push((name, file.clone()));
                }
                NestedRun {
                    name: self.name.clone(),
                    kernel: ready.kernel.clone(),
                    hardware: Hardware::default(),
                    gic: gic(&self.options),
                    vmm: ready.vmm.clone(),
                    args: self.args(in_kernel, in_initrd),
                    variables,
                    files,
                    script: self.script.file.unwrap_or("host-run.sh").to_owned(),
                    counted: self.script.counted,
                    smp: outer_cpus(ready.kernel.arch, &self.options),
                    watch: self.watch,
                }
                .run()
            }
        }
    }

    fn args(&self, kernel: PathBuf, initrd: PathBuf) -> Vec<String> {
        let [kernel, initrd] = [kernel, initrd].map(|path| path.to_string_lossy().into_owned());
        let mut args = vec!["run".to_owned(), "-k".to_owned(), kernel, "-i".to_owned(), initrd];
        args.extend(self.options.iter().cloned());
        args
    }

    fn direct(&self, ready: &Ready, args: &[String]) -> Result<Outcome> {
        let Some(script) = self.script.file else {
            return self.plain(ready, args);
        };
        let folder = ready.vmm.parent().context("trapline has no folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", &paths::host_script(script)?, "sh"]).args(args);
        shell.env("PATH", format!("{}:{path}", folder.display()));
        shell.envs(self.script.variables.iter().cloned());
        shell.envs(self.script.files.iter().cloned());
        let done = session::run(&self.name, &mut shell, self.watch)?;
        let status = parse_status(&done.text).context("The script ended before trapline did")?;
        Ok(Outcome { text: done.text, status })
    }

    fn plain(&self, ready: &Ready, args: &[String]) -> Result<Outcome> {
        let mut command = Command::new(&ready.vmm);
        command.args(args);
        let (text, status) = if self.watch.input {
            // The terminal is trapline's own business.
            (String::new(), proc::status(&mut command)?)
        } else {
            let done = session::run(&self.name, &mut command, self.watch)?;
            (done.text, done.status)
        };
        // A signal has no exit status; what a shell reports for one is 128 and more.
        let status = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(128);
        Ok(Outcome { text, status })
    }
}

/// The version of the interrupt controller the options ask for, so that the outer machine has it.
pub(crate) fn gic(options: &[String]) -> u32 {
    let named = |name| options.iter().any(|word| word.trim_start_matches("--irqchip=") == name);
    if named("gicv2") || named("gicv2m") { 2 } else { 3 }
}

/// How many processors the outer machine has. On arm64 as many as the guest. With more than one,
/// QEMU emulates them on threads of their own, and its AMD-V then loses a guest with two vCPUs to a
/// triple fault now and then, where the host is busy; so on x86-64 the vCPUs take turns on one.
fn outer_cpus(arch: Arch, options: &[String]) -> u32 {
    match arch {
        Arch::X86_64 => 1,
        Arch::Aarch64 => cpus(options),
    }
}

/// How many vCPUs the options ask for; one if they say nothing that can be read.
fn cpus(options: &[String]) -> u32 {
    let mut words = options.iter().map(String::as_str);
    let mut found = None;
    while let Some(word) = words.next() {
        if word == "-c" || word == "--cpus" {
            found = words.next();
        } else if let Some(value) = word.strip_prefix("--cpus=").or_else(|| word.strip_prefix("-c"))
        {
            found = Some(value);
        }
    }
    let asked = found.and_then(|value| value.trim_start_matches('=').parse().ok());
    asked.map_or(1, |count: u32| count.clamp(1, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_vcpus_is_read_from_the_options() {
        let count = |line: &str| cpus(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(count("-m 512"), 1);
        assert_eq!(count("-m 512 -c 2"), 2);
        assert_eq!(count("-c4 --name x"), 4);
        assert_eq!(count("--cpus=3"), 3);
        assert_eq!(count("--cpus 0"), 1);
        assert_eq!(count("-c 64"), 8);
        assert_eq!(count("-c many"), 1);
    }

    #[test]
    fn only_a_processor_with_virtualization_runs_linux_directly() {
        assert!(has_virtualization("model name : x\nflags\t\t: fpu svm lm\n"));
        assert!(!has_virtualization("flags\t\t: fpu svm_lock lm\nbugs : svm\n"));
    }
}
