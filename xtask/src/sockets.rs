//! Linux with Debian's own driver of socket devices: programs of the guest and of the host exchange bytes,
//! each reached by the other, over three transports.

use anyhow::{Result, bail, ensure};

use crate::arch::Arch;
use crate::cases::{part, tally};
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};
use crate::{disks, driver, vmm};

/// Modules of the driver, behind those of the bus; not every kernel has all of them as modules.
const MODULES: [&str; 4] =
    ["virtio_mmio", "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];

/// The transports.
const CASES: [&str; 3] = ["pci", "mmio", "pci-legacy"];

/// What is to be said in each case.
const SAID: &[&str] = &[
    "sockload: 2097152 bytes of 2097152 came back right\n",
    "TRAPLINE-GUEST: good alone\n",
    "sockload: 8388608 bytes of 8388608 came back right\n",
    "TRAPLINE-GUEST: good together\n",
    "sockload: Connection reset by peer (os error 104)\n",
    // Nobody listens at the guest's port 23.
    "sockload: failed to fill whole buffer\n",
    "sockload: 5242880 bytes of 5242880 came back right\n",
    "TRAPLINE-HOST: good from the host\n",
    "TRAPLINE-GUEST: good from the host\n",
    "TRAPLINE-GUEST: good loaded again\n",
    "TRAPLINE-GUEST: done\n",
    "TRAPLINE-HOST: case status 0\n",
    // The socket has gone with its guest.
    "TRAPLINE-HOST: sockets v_7000\n",
];

/// The test.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    [Guests {
        name: "boot-vsock",
        about: "Debian's socket driver and programs of the host, over three transports",
        arch: Arch::X86_64,
        run: Box::new(|ready: &Ready| boot("boot-vsock", ready)),
    }]
    .into_iter()
}

fn boot(name: &str, ready: &Ready) -> Result<Tally> {
    let load = vmm::static_binary(Arch::X86_64, ready.profile, "trapline-sockload", "sockload")?;
    let modules = disks::BUS.into_iter().chain(MODULES);
    let boot = Boot {
        name: name.to_owned(),
        // It makes a folder where it likes.
        place: Place::Nested,
        image: Image::Bzimage,
        init: "init-vsock.sh".to_owned(),
        modules: driver::if_shipped(modules, &ready.kernel)?,
        programs: vec![("sockload".to_owned(), load.clone())],
        options: ["-m", "192", "-c", "1", "-p", "quiet"].map(str::to_owned).into(),
        script: Script {
            file: Some("host-vsock.sh"),
            variables: vec![("CASES".to_owned(), CASES.join("\n"))],
            files: vec![("SOCKLOAD", load)],
            ..Script::default()
        },
        watch: Watch { show: Show::Nothing, input: false, timeout: Some(TIMEOUT * 4) },
    };
    let outcome = boot.run(ready)?;
    let tally = tally(name, CASES.into_iter().map(|case| (case, judge(case, &outcome.text))));
    // A case that failed has said why.
    if tally.failed == 0 {
        outcome.well()?;
    }
    Ok(tally)
}

fn judge(case: &str, transcript: &str) -> Result<()> {
    let Some(text) = part(transcript, case) else { bail!("it was not run") };
    let last = || last_lines(text);
    let version = format!("version_1 {}\n", u8::from(!case.ends_with("legacy")));
    for said in SAID.iter().copied().chain([version.as_str()]) {
        ensure!(text.contains(said), "{said:?} was not said, last lines:\n{}", last());
    }
    for forbidden in ["WARNING", "BUG:", "Oops", "Kernel panic", "hung"] {
        ensure!(!text.contains(forbidden), "{forbidden:?} occurs, last lines:\n{}", last());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_to_be_said_in_each_case() {
        let text = format!("TRAPLINE-HOST: case mmio\n{}version_1 1\n", SAID.concat());
        judge("mmio", &text).unwrap();
        judge("pci", &text).unwrap_err();
        for said in SAID {
            judge("mmio", &text.replacen(said, "", 1)).unwrap_err();
        }
        judge("mmio", &text.replace("version_1 1", "version_1 0")).unwrap_err();
        judge("mmio", &format!("{text}WARNING: CPU")).unwrap_err();
    }
}
