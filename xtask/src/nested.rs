//! Real KVM on a machine without hardware virtualization: a Debian kernel in QEMU's emulated
//! AMD-V loads `kvm-amd`, or one in QEMU's emulated EL2 has KVM built in, and trapline runs inside
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::heartbeat::Heartbeat;
use crate::initrd::Archive;
use crate::kernel::{KVM_MODULES, Kernel};
use crate::session::{self, Transcript, Watch, last_lines};
use crate::{deb, paths};

const MEMORY_MIB: u32 = 2048;
const STATUS: &str = "TRAPLINE-HOST: exit status ";

/// One run of trapline in the outer machine.
pub(crate) struct NestedRun {
    /// A name for its files in `build/`, different from any other run's at the same time.
    pub(crate) name: String,
    /// The outer machine's kernel, which also says what machine it is.
    pub(crate) kernel: Kernel,
    /// What the outer machine has besides what every one has.
    pub(crate) hardware: Hardware,
    /// arm64: the version of the outer machine's interrupt controller, which is what its KVM can
    /// give to guests.
    pub(crate) gic: u32,
    /// The static binary, found there as `trapline`.
    pub(crate) vmm: PathBuf,
    /// The arguments that `script` sees as `"$@"`.
    pub(crate) args: Vec<String>,
    /// Shell variables that `script` sees.
    pub(crate) variables: Vec<(String, String)>,
    /// Further files: their names there, without the leading slash, and here.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// What to do there: a file of `guest-tests/` that prints the exit status at its end.
    pub(crate) script: String,
    /// How many processors the outer machine has.
    pub(crate) smp: u32,
    /// Its clock counts its instructions, a thousand to the microsecond, whatever else happens
    /// here. Wants one processor.
    pub(crate) counted: bool,
    /// How to watch it.
    pub(crate) watch: Watch,
}

/// What an outer machine has besides.
#[derive(Clone, Default)]
pub(crate) struct Hardware {
    /// Arguments of QEMU's.
    pub(crate) args: Vec<String>,
    /// Further words of its kernel's command line.
    pub(crate) append: String,
    /// Modules of its kernel in `/modules`, for the script to load.
    pub(crate) modules: Vec<&'static str>,
}

/// What a run printed and trapline's exit status.
pub(crate) struct Outcome {
    /// All output of the outer machine.
    pub(crate) text: String,
    /// How trapline ended.
    pub(crate) status: u8,
}

impl Outcome {
    /// What was printed, if trapline ended with status 0.
    ///
    /// # Errors
    ///
    /// When it ended with another one: says which, and the last lines.
    pub(crate) fn well(self) -> Result<String> {
        let Self { text, status } = self;
        ensure!(
            status == 0,
            "trapline ended with status {status}, last lines:\n{}",
            last_lines(&text)
        );
        Ok(text)
    }
}

impl NestedRun {
    /// Boots the outer machine and returns when it has powered off.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be had, does not end in time, or ends before trapline did.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let initrd = paths::build()?.join(format!("host-{}.cpio", self.name));
        paths::write_whole(&initrd, &self.archive()?)?;
        // Not in the build folder: a socket's name has room for about a hundred bytes.
        let monitor = format!("trapline-{}-{}", std::process::id(), self.name);
        let monitor = std::env::temp_dir().join(monitor);
        let mut qemu = self.qemu(&initrd, &monitor)?;
        let beats = self.kernel.arch == Arch::X86_64 && !self.counted;
        let heartbeat = beats.then(|| Heartbeat::start(monitor));
        let done = session::run(&self.name, &mut qemu, self.watch);
        drop(heartbeat);
        // Tens of megabytes, made anew for every run.
        let _ = fs::remove_file(&initrd);
        let Transcript { text, status } = done?;
        match parse_status(&text) {
            Some(status) => Ok(Outcome { text, status }),
            None => bail!(
                "QEMU ended ({status}) before trapline did; its last lines:\n{}",
                last_lines(&text)
            ),
        }
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::new()?;
        archive.init(self.kernel.arch, "host-init.sh")?;
        archive.file("run.sh", 0o644, paths::host_script(&self.script)?.as_bytes())?;
        archive.file("args.sh", 0o644, self.settings().as_bytes())?;
        archive.file("bin/trapline", 0o755, &read(&self.vmm)?)?;
        for module in KVM_MODULES.into_iter().chain(self.hardware.modules.iter().copied()) {
            if let Some(content) = self.kernel.module(module)? {
                archive.file(&format!("modules/{module}.ko"), 0o644, &content)?;
            }
        }
        for (name, path) in &self.files {
            archive.file(name, 0o644, &read(path)?)?;
        }
        archive.finish()
    }

    fn settings(&self) -> String {
        let mut lines = String::new();
        for (name, value) in &self.variables {
            lines += &format!("{name}={}\n", quoted(value));
        }
        let args: Vec<String> = self.args.iter().map(|arg| quoted(arg)).collect();
        lines + "set -- " + &args.join(" ") + "\n"
    }

    fn qemu(&self, initrd: &Path, monitor: &Path) -> Result<Command> {
        let (mut command, console) = match self.kernel.arch {
            Arch::X86_64 => {
                let packages = ["qemu-system-x86", "seabios"];
                let mut command = Command::new(deb::program("qemu-system-x86_64", &packages)?);
                command.args(["-cpu", "max,+svm,+npt"]);
                (command, "ttyS0")
            }
            Arch::Aarch64 => {
                let program = deb::program("qemu-system-aarch64", &["qemu-system-arm"])?;
                let mut command = Command::new(program);
                let machine = format!("virt,virtualization=on,gic-version={}", self.gic);
                // Signing return addresses takes QEMU as long as many instructions, and once, at
                // the end of a vCPU's run, it did not know one again.
                command.args(["-M", &machine, "-cpu", "max,pauth=off"]);
                (command, "ttyAMA0")
            }
        };
        command.args(["-accel", "tcg"]);
        if self.counted {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args(["-m", &MEMORY_MIB.to_string(), "-smp", &self.smp.to_string()]);
        command.args(["-display", "none", "-no-reboot", "-net", "none"]);
        command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        // Every byte belongs to the machine inside: Ctrl-a and Ctrl-c are trapline's.
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(initrd);
        // Its timer works, but may be late where this machine has much to do: no reason to panic.
        let timer = if self.kernel.arch == Arch::X86_64 { " no_timer_check" } else { "" };
        let further = &self.hardware.append;
        command.args(["-append", &format!("console={console} panic=-1 quiet{timer} {further}")]);
        command.args(&self.hardware.args);
        Ok(command)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}

/// A word for the shell, whatever it contains.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The exit status a script of `guest-tests/` printed at its end.
pub(crate) fn parse_status(text: &str) -> Option<u8> {
    let (_, rest) = text.rsplit_once(STATUS)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_counts_and_a_missing_one_is_none() {
        assert_eq!(parse_status("x TRAPLINE-HOST: exit status 3\nPower down\n"), Some(3));
        assert_eq!(parse_status("x TRAPLINE-HOST: exit st"), None);
    }

    #[test]
    fn what_was_printed_is_good_only_with_status_0() {
        let outcome = |status| Outcome { text: "all is well\n".to_owned(), status };
        assert_eq!(outcome(0).well().unwrap(), "all is well\n");
        let told = outcome(3).well().unwrap_err().to_string();
        assert!(told.contains("status 3") && told.contains("all is well"), "{told}");
    }

    #[test]
    fn the_shell_gives_a_quoted_word_back() {
        let word = "a 'b' $c \"d\" `e` \\ *";
        let mut echo = Command::new("sh");
        let said = echo.args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
    }
}
