//! What a newcomer does: trapline in a host with Debian's kernel and its modules, without anything
//! prepared.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::cases::tally;
use crate::guest::{Ready, TIMEOUT};
use crate::kernel::Kernel;
use crate::nested::{Hardware, NestedRun};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};
use crate::{driver, kernel, paths};

/// Modules that a guest on the host's files needs, and what those need; not every kernel has all of
/// them as modules.
const MODULES: [&str; 14] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "failover",
    "net_failover",
    "virtio_net",
];

/// What has to be said, in this order; `{release}` is the host's kernel's, `{cloud}` the other's.
const SAID: &[&str] = &[
    "TRAPLINE-HOST: a shell\n",
    "the guest's root is the host's files, which it cannot change",
    "Linux {release} x86_64, CPUs 0, ",
    "inet 192.168.33.15/24",
    "nameserver 192.168.33.1",
    "1 packets received, 0% packet loss",
    "of the host",
    "touch: /folder/new: Read-only file system",
    "42 in guest-",
    "# KVM session ended normally.",
    "TRAPLINE-HOST: the shell has ended\n",
    "TRAPLINE-HOST: status 7, release {release}\n",
    "TRAPLINE-HOST: output as sent\n",
    "TRAPLINE-HOST: errors as sent\n",
    "TRAPLINE-GUEST: in /folder, 31 101, one two\n",
    "TRAPLINE-HOST: terminal as before\n",
    "TRAPLINE-HOST: status 5, in the file: of the guest\n",
    "Linux {cloud} has no driver 9pnet_virtio and 9p, by which the guest would see",
    "TRAPLINE-HOST: status 0, release {cloud}\n",
    "Fatal: --rw: Linux {cloud} has no driver 9pnet_virtio and 9p, by which guests share files\n",
    "TRAPLINE-HOST: refused with 1\n",
    "TRAPLINE-HOST: left behind: \n",
];

/// What the guest on the folder runs.
const SCRIPT: &str = "\
echo \"TRAPLINE-GUEST: in $(pwd), $(stty size), $*\"
echo 'of the guest' >made
exit 5
";

/// The test.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    [Guests {
        name: "first-run",
        about: "trapline run alone: a shell on the host's files, a network; commands, scripts, folders",
        arch: Arch::X86_64,
        run: Box::new(|ready: &Ready| run("first-run", ready)),
    }]
    .into_iter()
}

fn run(name: &str, ready: &Ready) -> Result<Tally> {
    // The cloud kernels have no 9P.
    let kernel = kernel::debian_machine(Arch::X86_64)?;
    let script = paths::build()?.join("first-run-script.sh");
    paths::write_whole(&script, SCRIPT.as_bytes())?;
    let mut files = vec![("script.sh".to_owned(), script)];
    for kernel in [&kernel, &ready.kernel] {
        files.extend(installed(kernel)?);
    }
    let cloud = ready.kernel.release.clone();
    let done = NestedRun {
        name: name.to_owned(),
        hardware: Hardware::default(),
        kernel: kernel.clone(),
        gic: 3,
        vmm: ready.vmm.clone(),
        args: Vec::new(),
        variables: vec![("CLOUD".to_owned(), cloud.clone())],
        files,
        script: "host-first-run.sh".to_owned(),
        smp: 1,
        counted: false,
        watch: Watch { show: Show::Nothing, input: false, timeout: Some(TIMEOUT * 3) },
    };
    let outcome = done.run()?;
    let judged = judge(&outcome.text, &kernel.release, &cloud)
        .with_context(|| format!("last lines:\n{}", last_lines(&outcome.text)));
    Ok(tally(name, [(name, judged)]))
}

/// A kernel's files where a distribution installs them.
fn installed(kernel: &Kernel) -> Result<Vec<(String, PathBuf)>> {
    let modules = format!("lib/modules/{}", kernel.release);
    let mut files = vec![
        (format!("boot/vmlinuz-{}", kernel.release), kernel.image.clone()),
        (format!("{modules}/modules.builtin"), kernel.builtin()),
    ];
    for module in driver::if_shipped(MODULES, kernel)? {
        files.push((format!("{modules}/kernel/{}.ko", module.name), module.file));
    }
    Ok(files)
}

fn judge(text: &str, release: &str, cloud: &str) -> Result<()> {
    let mut rest = text;
    for said in SAID {
        let said = said.replace("{release}", release).replace("{cloud}", cloud);
        let (_, after) = rest
            .split_once(&said)
            .with_context(|| format!("{said:?} was not said in its place"))?;
        rest = after;
    }
    for forbidden in ["panicked", "cannot be loaded", "no DHCP server", "Kernel panic"] {
        ensure!(!text.contains(forbidden), "{forbidden:?} occurs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_to_be_said_in_its_place() {
        let said = |line: &&str| line.replace("{release}", "6.1").replace("{cloud}", "6.1-cloud");
        let lines: Vec<String> = SAID.iter().map(said).collect();
        let text = lines.join("\n");
        judge(&text, "6.1", "6.1-cloud").unwrap();
        assert!(judge(&text, "6.2", "6.1-cloud").is_err());
        for line in &lines {
            assert!(judge(&text.replacen(line, "", 1), "6.1", "6.1-cloud").is_err(), "{line}");
        }
        assert!(judge(&format!("{text} panicked"), "6.1", "6.1-cloud").is_err());
    }
}
