//! Linux with Debian's own driver on network cards over a tap: bytes by TCP each way and echoes by UDP,
//! all of them looked at, also with the driver taken off meanwhile and put back.
//!
//! The tests exchange little (`cargo xtask test net-tap`); `cargo xtask net` exchanges 64 MiB each way and
//! 100,000 echoes, or what it is told.

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::cases::{part, tally};
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{self, Guests, Tally, Task};
use crate::{disks, driver, vmm};

/// One guest's card.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Keys of `-n`.
    keys: &'static str,
    /// Whether its registers are those of before version 1.0.
    legacy: bool,
    queues: u32,
}

const CASES: &[Case] = &[
    Case { name: "pci", keys: "mq=2", legacy: false, queues: 2 },
    Case { name: "mmio", keys: "trans=mmio", legacy: false, queues: 1 },
    Case { name: "pci-legacy", keys: "trans=pci-legacy", legacy: true, queues: 1 },
];

/// How much is exchanged at first.
#[derive(Args, Clone, Copy)]
pub(crate) struct Options {
    /// The guests' architecture
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// MiB each way
    #[arg(long, value_name = "N", default_value_t = 64)]
    mebibytes: u32,
    /// Echoes
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    echoes: u32,
}

/// Those of the tests.
const SHORT: Options = Options { arch: Arch::X86_64, mebibytes: 4, echoes: 200 };

/// Exchanges that much; the status is 0 when all is as it should be.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let (options, ready) = (*options, Ready::make(options.arch)?);
    let about = "network cards on taps";
    let task = Task::new("net-tap".to_owned(), about, move || boot(options, &ready));
    Ok(suite::conclude(&suite::perform(&[task])))
}

/// As a test.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    std::iter::once(Guests {
        name: "net-tap",
        about: "Debian's virtio_net exchanges bytes with the host by taps, over three transports",
        arch: SHORT.arch,
        run: Box::new(|ready| boot(SHORT, ready)),
    })
}

/// The modules beside those of the bus, of which a kernel has some built in.
const MODULES: [&str; 4] = ["virtio_mmio", "failover", "net_failover", "virtio_net"];

fn boot(options: Options, ready: &Ready) -> Result<Tally> {
    let Options { arch, mebibytes, echoes } = options;
    let netload = vmm::static_binary(arch, "trapline-netload", "netload")?;
    let mut modules = Vec::new();
    for module in disks::BUS.into_iter().chain(MODULES) {
        if ready.kernel.module(module)?.is_some() {
            modules.push(driver::shipped(module, &ready.kernel)?);
        }
    }
    let tun = driver::shipped("tun", &ready.kernel)?;
    let lines: Vec<String> =
        CASES.iter().map(|case| format!("{}|{}", case.name, case.keys)).collect();
    let words = format!("quiet mebibytes={mebibytes} echoes={echoes}");
    let boot = Boot {
        name: "net-tap".to_owned(),
        // It makes interfaces on whatever it runs on.
        place: Place::Nested,
        image: Image::Bzimage,
        init: "init-net.sh".to_owned(),
        modules,
        programs: vec![("netload".to_owned(), netload.clone())],
        options: ["-m", "192", "-c", "2", "-p", &words].map(str::to_owned).into(),
        script: Script {
            file: Some("host-net.sh"),
            variables: vec![("CASES".to_owned(), lines.join("\n"))],
            files: vec![("TUN", tun.file), ("NETLOAD", netload)],
            ..Script::default()
        },
        watch: Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(TIMEOUT * 3 + TIMEOUT / 30 * mebibytes + TIMEOUT / 1000 * echoes),
        },
    };
    let text = boot.run(ready)?.text;
    let judged = CASES.iter().map(|case| (case.name, case.judge(options, &text)));
    Ok(tally("net-tap", judged))
}

impl Case {
    fn judge(&self, options: Options, transcript: &str) -> Result<()> {
        let Some(text) = part(transcript, self.name) else { bail!("it was not run") };
        let last = || last_lines(text);
        let version = u8::from(!self.legacy);
        let bytes = u64::from(options.mebibytes) << 20;
        let echoes = options.echoes;
        for expected in [
            format!("card 02:15:15:15:15:15, version_1 {version}, queues {}\n", self.queues),
            format!(
                "netload: {bytes} bytes sent and {bytes} received of {bytes}, \
                 {echoes} echoes of {echoes}\n"
            ),
            "TRAPLINE-GUEST: good at first\n".to_owned(),
            "TRAPLINE-GUEST: good with another address\n".to_owned(),
            "TRAPLINE-GUEST: good rebound\n".to_owned(),
            "TRAPLINE-GUEST: good loaded again\n".to_owned(),
            "TRAPLINE-GUEST: done\n".to_owned(),
            "TRAPLINE-HOST: case status 0\n".to_owned(),
            "TRAPLINE-HOST: copied 4d 3c b2 a1\n".to_owned(),
            // The tap has gone with its guest.
            "TRAPLINE-HOST: interfaces lo\n".to_owned(),
        ] {
            ensure!(
                text.contains(&expected),
                "{expected:?} does not occur, last lines:\n{}",
                last()
            );
        }
        for forbidden in ["WARNING", "BUG:", "Kernel panic", "nobody cared", "hung"] {
            ensure!(!text.contains(forbidden), "{forbidden:?} occurs, last lines:\n{}", last());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_to_have_exchanged_all_and_left_nothing() {
        let [first, ..] = CASES else { panic!("there are none") };
        let good = "TRAPLINE-HOST: case pci\n\
            TRAPLINE-GUEST: card 02:15:15:15:15:15, version_1 1, queues 2\n\
            netload: 4194304 bytes sent and 4194304 received of 4194304, 200 echoes of 200\n\
            TRAPLINE-GUEST: good at first\nTRAPLINE-GUEST: good with another address\n\
            TRAPLINE-GUEST: good rebound\nTRAPLINE-GUEST: good loaded again\nTRAPLINE-GUEST: done\n\
            TRAPLINE-HOST: case status 0\nTRAPLINE-HOST: copied 4d 3c b2 a1\n\
            TRAPLINE-HOST: interfaces lo\n";
        first.judge(SHORT, good).unwrap();
        for (part, other) in [
            ("200 echoes", "199 echoes"),
            ("good rebound\n", "rebound\n"),
            ("interfaces lo", "interfaces lo tap0"),
            ("status 0", "status 1"),
            ("TRAPLINE-GUEST: done", "WARNING: CPU 0\nTRAPLINE-GUEST: done"),
        ] {
            assert!(first.judge(SHORT, &good.replacen(part, other, 1)).is_err(), "{part}");
        }
    }
}
