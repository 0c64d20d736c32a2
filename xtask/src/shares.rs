//! Linux with Debian's own 9P client on folders of the host: POSIX's rules and random accesses in each
//! way of caching, several processes, and what the host can do to a folder meanwhile.

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::cases::tally;
use crate::guest::{Ready, TIMEOUT};
use crate::nested::{Hardware, NestedRun};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};
use crate::{disks, driver, initrd, kernel, vmm};

/// Modules of the client, behind those of the bus; not every kernel has all of them as modules.
const MODULES: [&str; 6] = ["virtio_mmio", "netfs", "fscache", "9pnet", "9pnet_virtio", "9p"];

/// Ways of caching.
const CACHES: [&str; 3] = ["none", "mmap", "loose"];

/// What else has to be said.
const SAID: &[&str] = &[
    "TRAPLINE-GUEST: copy 1 is the same",
    "TRAPLINE-GUEST: copy 4 is the same",
    "TRAPLINE-GUEST: packed and unpacked",
    "TRAPLINE-GUEST: the host says: hello",
    "No space left on device",
    "TRAPLINE-GUEST: there is room again: small",
    "Read-only file system",
    "TRAPLINE-GUEST: unchanged: as it was",
    "TRAPLINE-GUEST: before: still here",
    "can't create directory '/mnt/new': No such file or directory",
    "TRAPLINE-GUEST: unmounted what is gone",
    "TRAPLINE-GUEST: done",
    "the other folder: as it was",
];

/// The test.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    [Guests {
        name: "boot-9p",
        about: "Debian's 9P client on folders of the host: POSIX's rules, a full one, one taken away",
        arch: Arch::X86_64,
        run: Box::new(|ready: &Ready| boot("boot-9p", ready)),
    }]
    .into_iter()
}

fn boot(name: &str, ready: &Ready) -> Result<Tally> {
    // The cloud kernels have no 9P.
    let kernel = kernel::debian_machine(Arch::X86_64)?;
    let modules = disks::BUS.into_iter().chain(MODULES);
    let modules = driver::if_shipped(modules, &kernel)?;
    let load = vmm::static_binary(Arch::X86_64, ready.profile, "trapline-fileload", "fileload")?;
    let programs = [("fileload".to_owned(), load)];
    let initrd = initrd::guest(Arch::X86_64, "init-9p.sh", &modules, &programs)?;
    let files = [("guest/kernel", kernel.image.clone()), ("guest/initrd", initrd)];
    // Warnings are printed and looked for, what comes below them is not.
    let args = ["run", "-k", "/guest/kernel", "-i", "/guest/initrd", "-m", "256", "-c", "1", "-p"];
    let args = args.into_iter().chain(["loglevel=5"]);
    let done = NestedRun {
        name: name.to_owned(),
        hardware: Hardware::default(),
        kernel: ready.kernel.clone(),
        gic: 3,
        vmm: ready.vmm.clone(),
        args: args.map(str::to_owned).collect(),
        variables: Vec::new(),
        files: files.map(|(name, file)| (name.to_owned(), file)).into(),
        script: "host-9p.sh".to_owned(),
        smp: 1,
        counted: false,
        watch: Watch { show: Show::Nothing, input: false, timeout: Some(TIMEOUT * 4) },
    };
    let outcome = done.run()?;
    let judged = judge(&outcome.text, outcome.status);
    Ok(tally(name, [(name, judged)]))
}

fn judge(text: &str, status: u8) -> Result<()> {
    let last = || last_lines(text);
    ensure!(status == 0, "trapline failed, last lines:\n{}", last());
    for cache in CACHES {
        let mark = format!("TRAPLINE-GUEST: cache={cache}");
        let (_, part) = text.split_once(&mark).with_context(|| format!("{mark} was not said"))?;
        let part = part.split("TRAPLINE-GUEST: ").next().unwrap_or_default();
        for held in [" rules hold", " random steps"] {
            ensure!(part.contains(held), "cache={cache}: {}", part.trim());
        }
    }
    for said in SAID {
        ensure!(text.contains(said), "{said:?} was not said, last lines:\n{}", last());
    }
    let sum = |who: &str| {
        let (_, rest) = text.split_once(&format!("{who}: data "))?;
        rest.split_whitespace().next()
    };
    let (guest, host) = (sum("TRAPLINE-GUEST"), sum("TRAPLINE-HOST"));
    ensure!(guest.is_some() && guest == host, "the guest has {guest:?}, the host {host:?}");
    for forbidden in ["WARNING", "BUG:", "Oops", "is not mounted", "FILELOAD: failed"] {
        ensure!(!text.contains(forbidden), "{forbidden:?} occurs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_to_be_said_and_nothing_else() {
        let caches = CACHES.map(|cache| {
            format!(
                "TRAPLINE-GUEST: cache={cache}\nFILELOAD: 3 rules hold\nFILELOAD: 5 random steps\n"
            )
        });
        let sums = "TRAPLINE-GUEST: data abc  -\nTRAPLINE-HOST: data abc  -\n";
        let text = format!("{}{}\n{sums}", caches.concat(), SAID.join("\n"));
        judge(&text, 0).unwrap();
        assert!(judge(&text, 1).is_err());
        assert!(judge(&text.replace("HOST: data abc", "HOST: data abd"), 0).is_err());
        assert!(judge(&text.replacen("5 random steps", "", 1), 0).is_err());
        assert!(judge(&text.replace("unchanged", "changed"), 0).is_err());
        assert!(judge(&format!("{text}WARNING: CPU"), 0).is_err());
    }
}
