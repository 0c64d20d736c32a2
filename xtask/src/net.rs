//! Linux with Debian's own driver on network cards, over a tap and in a network that needs no rights:
//! bytes by TCP each way and echoes by UDP, all of them looked at, also with the driver taken off
//! meanwhile and put back; and without rights DHCP, echoes, IPv6, the name server and forwarded
//! ports.
//!
//! The tests exchange little (`cargo xtask test net-tap`, `net-user`); `cargo xtask net` exchanges 64 MiB
//! each way and 100,000 echoes, or what it is told.

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::cases::{part, tally};
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{self, Guests, Tally, Task};
use crate::vmm::Profile;
use crate::{disks, driver, vmm};

/// Guests whose cards are of one kind.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    about: &'static str,
    cases: &'static [Case],
    /// Whether they are in a network that needs no rights, which has more than a tap.
    user: bool,
}

/// One guest's card.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Keys of `-n`.
    keys: &'static str,
    /// Whether its registers are those of before version 1.0.
    legacy: bool,
    /// Whether it has several pairs of queues.
    mq: bool,
}

const TAP: Kind = Kind {
    name: "net-tap",
    about: "Debian's virtio_net exchanges bytes with the host by taps, over three transports",
    cases: &[
        Case { name: "pci", keys: "mode=tap,mq=2", legacy: false, mq: true },
        Case { name: "mmio", keys: "mode=tap,trans=mmio", legacy: false, mq: false },
        Case { name: "pci-legacy", keys: "mode=tap,trans=pci-legacy", legacy: true, mq: false },
    ],
    user: false,
};

const USER: Kind = Kind {
    name: "net-user",
    about: "Debian's virtio_net in a network without rights: DHCP, IPv6, name server, forwarded ports",
    cases: &[
        Case {
            name: "user",
            keys: "mode=user,backend=embedded,hostfwd=tcp:8700:7001,hostfwd=udp:8700:7001",
            legacy: false,
            mq: false,
        },
        Case {
            // Its driver takes packets of 1,500 bytes at a time.
            name: "user-legacy",
            keys: "mode=user,backend=embedded,trans=pci-legacy,mtu=1500,hostfwd=tcp:8700:7001,hostfwd=udp:8700:7001",
            legacy: true,
            mq: false,
        },
    ],
    user: true,
};

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
    let (options, ready) = (*options, Ready::make(options.arch, Profile::Release)?);
    let tasks = [TAP, USER].map(|kind| {
        let ready = ready.clone();
        Task::new(kind.name.to_owned(), kind.about, move || kind.boot(options, &ready))
    });
    Ok(suite::conclude(&suite::perform(&tasks)))
}

/// As tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    [TAP, USER].into_iter().map(|kind| Guests {
        name: kind.name,
        about: kind.about,
        arch: SHORT.arch,
        run: Box::new(move |ready| kind.boot(SHORT, ready)),
    })
}

/// What a guest says in a network without rights.
const OF_USER: &[&str] = &[
    "TRAPLINE-GUEST: DHCP gave 192.168.33.15/24, router 192.168.33.1, name server 192.168.33.1",
    "TRAPLINE-GUEST: echo of 192.168.33.1",
    "TRAPLINE-GUEST: echo of fdc0:a821::1",
    "TRAPLINE-GUEST: good by IPv6",
    "TRAPLINE-GUEST: good with the name server",
    "TRAPLINE-GUEST: good by a forwarded port",
    "netload: Connection refused (os error 111)",
];

/// The modules beside those of the bus, of which a kernel has some built in.
const MODULES: [&str; 4] = ["virtio_mmio", "failover", "net_failover", "virtio_net"];

impl Kind {
    fn boot(self, options: Options, ready: &Ready) -> Result<Tally> {
        let Options { arch, mebibytes, echoes } = options;
        let netload = vmm::static_binary(arch, ready.profile, "trapline-netload", "netload")?;
        let modules = disks::BUS.into_iter().chain(MODULES);
        let modules = driver::if_shipped(modules, &ready.kernel)?;
        let tun = driver::shipped("tun", &ready.kernel)?;
        let lines: Vec<String> =
            self.cases.iter().map(|case| format!("{}|{}", case.name, case.keys)).collect();
        let user = u8::from(self.user);
        let words = format!("quiet mebibytes={mebibytes} echoes={echoes} user={user}");
        let boot = Boot {
            name: self.name.to_owned(),
            // It makes interfaces on whatever it runs on.
            place: Place::Nested,
            image: Image::Bzimage,
            init: "init-net.sh".to_owned(),
            modules,
            programs: vec![("netload".to_owned(), netload.clone())],
            // Two vCPUs that exchange much lose each other in QEMU's AMD-V now and then.
            options: ["-m", "192", "-c", "1", "-p", &words].map(str::to_owned).into(),
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
        let outcome = boot.run(ready)?;
        let judge = |case: &Case| (case.name, case.judge(self, options, &outcome.text));
        let tally = tally(self.name, self.cases.iter().map(judge));
        // A case that failed has said why.
        if tally.failed == 0 {
            outcome.well()?;
        }
        Ok(tally)
    }
}

impl Case {
    fn judge(&self, kind: Kind, options: Options, transcript: &str) -> Result<()> {
        let Some(text) = part(transcript, self.name) else { bail!("it was not run") };
        let last = || last_lines(text);
        let (version, mq) = (u8::from(!self.legacy), u8::from(self.mq));
        let bytes = u64::from(options.mebibytes) << 20;
        let echoes = options.echoes;
        let besides = if kind.user { OF_USER } else { &[] };
        for expected in [
            format!("card 02:15:15:15:15:15, version_1 {version}, mq {mq}\n"),
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
        ]
        .into_iter()
        .chain(besides.iter().map(|line| format!("{line}\n")))
        {
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
        let [first, ..] = TAP.cases else { panic!("there are none") };
        let good = "TRAPLINE-HOST: case pci\n\
            TRAPLINE-GUEST: card 02:15:15:15:15:15, version_1 1, mq 1\n\
            netload: 4194304 bytes sent and 4194304 received of 4194304, 200 echoes of 200\n\
            TRAPLINE-GUEST: good at first\nTRAPLINE-GUEST: good with another address\n\
            TRAPLINE-GUEST: good rebound\nTRAPLINE-GUEST: good loaded again\nTRAPLINE-GUEST: done\n\
            TRAPLINE-HOST: case status 0\nTRAPLINE-HOST: copied 4d 3c b2 a1\n\
            TRAPLINE-HOST: interfaces lo\n";
        first.judge(TAP, SHORT, good).unwrap();
        for (part, other) in [
            ("200 echoes", "199 echoes"),
            ("good rebound\n", "rebound\n"),
            ("interfaces lo", "interfaces lo tap0"),
            ("status 0", "status 1"),
            ("TRAPLINE-GUEST: done", "WARNING: CPU 0\nTRAPLINE-GUEST: done"),
        ] {
            assert!(first.judge(TAP, SHORT, &good.replacen(part, other, 1)).is_err(), "{part}");
        }
        let [user, ..] = USER.cases else { panic!("there are none") };
        let good = good.replace("case pci", "case user").replace("mq 1", "mq 0");
        user.judge(USER, SHORT, &good).unwrap_err();
        user.judge(USER, SHORT, &format!("{good}{}\n", OF_USER.join("\n"))).unwrap();
    }
}
