//! arm64 Linux boots to test, as data: outer machines, and the guests that run in each, one after
//! another, because booting the outer machine takes as long as a guest.

use anyhow::{Result, bail, ensure};

use crate::arch::Arch;
use crate::driver;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};

/// Guests that share an outer machine.
struct Group {
    /// What a user calls it.
    name: &'static str,
    /// One line about it.
    about: &'static str,
    /// The option by which the outer machine gets its interrupt controller.
    irqchip: &'static str,
    cases: &'static [Case],
}

/// One guest.
struct Case {
    /// Its name within the group.
    name: &'static str,
    /// What is typed when the guest waits for a word: its ends, one life after another.
    words: &'static str,
    /// Options of `trapline run`.
    options: &'static str,
    /// Texts that must occur in the output, in any order, each so many times at least.
    expect: &'static [(&'static str, usize)],
    /// Texts that must not.
    forbid: &'static [&'static str],
}

/// What every guest finds, whatever its interrupt controller.
const ALWAYS: [&str; 9] = [
    "01000000-01000007 : serial",
    "01001000-01001007 : serial",
    "01003000-01003007 : serial",
    "40000000-4fffffff : PCI ECAM",
    "50000000-7fffffff : pci",
    "1000000.serial: ttyS0 at MMIO 0x1000000",
    "psci: PSCIv1.",
    "pci-host-generic 40000000.pci: ECAM at [mem 0x40000000-0x4fffffff] for [bus 00]",
    "PCI host bridge to bus 0000:00",
];
/// The clock's node in the device tree, and its register D: Debian's arm64 kernel has no driver that
/// would claim the addresses.
const RTC: [&str; 2] = ["rtc@1010000", "TRAPLINE-GUEST: clock 0x80\n"];
/// What the kernel says when something is not as it should be.
const COMPLAINTS: [&str; 5] =
    ["WARNING", "Unhandled", "Kernel panic", "GICv2m: Failed", " interrupt 0 on "];

const ITS: (&str, usize) = ("ITS [mem 0x3ff", 1);
const V3: (&str, usize) = ("GICv3: CPU0: found redistributor 0", 1);
const V2M: (&str, usize) = ("GICv2m: range[mem 0x3ffcf000-0x3ffcffff], SPI[", 1);

// What the driver of an educational device says when each interrupt came where it was to, with one
// vCPU and with two; and the kernel's row for it: the chip, the interrupt there, the trigger.
const MSIX_1: (&str, usize) = ("edu 0000:00:01.0: 32 of 32 interrupts by MSI-X on CPU 0\n", 1);
const MSIX_THREAD_1: (&str, usize) =
    ("edu 0000:00:01.0: 8 of 8 interrupts of a thread by MSI-X on CPU 0\n", 1);
const MSIX_2: &str = "edu 0000:00:01.0: 64 of 64 interrupts by MSI-X on CPU 0-1\n";
const MSIX_THREAD_2: &str =
    "edu 0000:00:01.0: 16 of 16 interrupts of a thread by MSI-X on CPU 0-1\n";
const MSIX_MOVED: &str = "edu 0000:00:01.0: 64 of 64 moved interrupts by MSI-X\n";
const MASKED_VECTOR: &str =
    "edu 0000:00:01.0: 5 of 5 pending while the vector is masked, then come\n";
const MASKED_FUNCTION: &str =
    "edu 0000:00:01.0: 2 of 2 pending while the function is masked, then come\n";
const NEXT_MSIX_2: &str = "edu 0000:00:02.0: 64 of 64 interrupts by MSI-X on CPU 0-1\n";
const MSI_1: (&str, usize) = ("edu 0000:00:01.0: 8 of 8 interrupts by MSI on CPU 0\n", 1);
const MSI_THREAD_1: (&str, usize) =
    ("edu 0000:00:01.0: 8 of 8 interrupts of a thread by MSI on CPU 0\n", 1);
const MSI_2: &str = "edu 0000:00:01.0: 16 of 16 interrupts by MSI on CPU 0-1\n";
const NEXT_MSI_2: &str = "edu 0000:00:02.0: 16 of 16 interrupts by MSI on CPU 0-1\n";
const PIN_1: (&str, usize) = ("edu 0000:00:01.0: 8 of 8 interrupts by INTA# on CPU 0\n", 1);
const PIN_2: (&str, usize) = ("edu 0000:00:01.0: 16 of 16 interrupts by INTA# on CPU 0-1\n", 1);
const PIN_THREAD_2: (&str, usize) =
    ("edu 0000:00:01.0: 16 of 16 interrupts of a thread by INTA# on CPU 0-1\n", 1);
const BY_ITS: (&str, usize) = (" 19 ITS-MSI 16384 Edge edu\n", 1);
const BY_V2M: (&str, usize) = (" 19 MSI 16384 Edge edu\n", 1);
const BY_PIN: (&str, usize) = (" 19 GICv3 37 Level edu\n", 1);

// The flash's content, seen through the memory slot; its query table; the status after an erase; what
// is then in the block, in a word of it that was programmed, and in the next block; and the file.
const FLASH: (&str, usize) = (
    "TRAPLINE-GUEST: flash holds 0x0A212123\nTRAPLINE-GUEST: flash answers 0x00510051\n\
     TRAPLINE-GUEST: flash says 0x00800080\nTRAPLINE-GUEST: flash holds 0xFFFFFFFF\n\
     TRAPLINE-GUEST: flash holds 0x12345678\nTRAPLINE-GUEST: flash holds 0x0A212123\n",
    1,
);
const FLASH_IMAGE: (&str, usize) =
    ("TRAPLINE-HOST: flash  ff ff ff ff 78 56 34 12 ff ff ff ff\n", 1);

/// All of them.
#[rustfmt::skip]
const GROUPS: &[Group] = &[
    Group {
        name: "arm64-gicv3",
        about: "Debian's arm64 kernel with gicv3-its and gicv3, 1 and 2 vCPUs, MSI and INTA#, \
                suspend and reboot",
        irqchip: "--irqchip=gicv3",
        cases: &[
            Case { name: "its", words: "", options: "-c 1 --irqchip gicv3-its --edu 1",
                expect: &[ITS, V3, ("cpus 1", 1), MSIX_1, MSIX_THREAD_1, (MASKED_VECTOR, 1),
                    (MASKED_FUNCTION, 1), MSI_1, MSI_THREAD_1, BY_ITS],
                forbid: &[] },
            Case { name: "its-reboot", words: "suspend reboot poweroff",
                options: "-c 2 --irqchip gicv3-its --pmu -p words --edu 2 --reboot",
                expect: &[("ITS [mem 0x3ff", 2), V3, ("cpus 2", 2), ("TRAPLINE-GUEST: done", 2),
                    ("TRAPLINE-GUEST: resumed with 2 CPUs", 1),
                    // At first, after the suspend, after the reboot.
                    (MSIX_2, 3), (MSIX_THREAD_2, 3), (MSIX_MOVED, 3), (MASKED_VECTOR, 3),
                    (MASKED_FUNCTION, 3), (MSI_2, 3), (NEXT_MSIX_2, 3), (NEXT_MSI_2, 3),
                    (BY_ITS.0, 3), (" 18 19 ITS-MSI 32768 Edge edu\n", 3)],
                forbid: &[] },
            Case { name: "plain", words: "", options: "-c 1 --irqchip gicv3 --edu 1 --flash FLASH",
                expect: &[V3, ("cpus 1", 1), PIN_1, BY_PIN, FLASH, FLASH_IMAGE],
                forbid: &["ITS [mem"] },
            Case { name: "plain-two", words: "", options: "-c 2 --irqchip gicv3 --edu 1",
                expect: &[V3, ("cpus 2", 1), PIN_2, PIN_THREAD_2, BY_PIN], forbid: &["ITS [mem"] },
        ],
    },
    Group {
        name: "arm64-gicv2",
        about: "the same with gicv2m",
        irqchip: "--irqchip=gicv2",
        cases: &[
            Case { name: "v2m", words: "", options: "-c 1 --irqchip gicv2m --edu 1",
                expect: &[V2M, ("cpus 1", 1), MSIX_1, MSIX_THREAD_1, (MASKED_VECTOR, 1),
                    (MASKED_FUNCTION, 1), MSI_1, MSI_THREAD_1, BY_V2M],
                forbid: &["GICv3"] },
            Case { name: "v2m-reboot", words: "reboot poweroff",
                options: "-c 2 --irqchip gicv2m -p words --edu 1 --reboot",
                expect: &[(V2M.0, 2), ("cpus 2", 2), ("TRAPLINE-GUEST: done", 2),
                    (MSIX_2, 2), (MSIX_THREAD_2, 2), (MSIX_MOVED, 2), (MASKED_VECTOR, 2),
                    (MASKED_FUNCTION, 2), (MSI_2, 2), (BY_V2M.0, 2)],
                forbid: &["GICv3"] },
        ],
    },
];

/// The groups, as tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    GROUPS.iter().map(|group| Guests {
        name: group.name,
        about: group.about,
        arch: Arch::Aarch64,
        run: Box::new(|ready| group.run(ready)),
    })
}

/// Counts the cases of a group that were as they should be, and says why others were not.
pub(crate) fn tally<'a>(
    group: &str,
    judged: impl IntoIterator<Item = (&'a str, Result<()>)>,
) -> Tally {
    let mut tally = Tally::default();
    for (name, result) in judged {
        match result {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                eprintln!("{group} {name}: {error:#}");
                tally.failed += 1;
            }
        }
    }
    tally
}

impl Group {
    fn run(&self, ready: &Ready) -> Result<Tally> {
        let lines: Vec<String> = self
            .cases
            .iter()
            .map(|case| format!("{}|{}|{}", case.name, case.words, case.options))
            .collect();
        let lives = self.cases.iter().map(|case| case.words.split(' ').count()).sum::<usize>();
        let boot = Boot {
            name: self.name.to_owned(),
            place: Place::best(Arch::Aarch64),
            image: Image::Bzimage,
            init: "init-cases.sh".to_owned(),
            modules: vec![driver::module("edu", &ready.kernel)?],
            programs: Vec::new(),
            options: ["-c", "2", "-m", "256", "-p", "quiet", self.irqchip]
                .map(str::to_owned)
                .into(),
            script: Script {
                file: Some("host-cases.sh"),
                variables: vec![("CASES".to_owned(), lines.join("\n"))],
                ..Script::default()
            },
            watch: Watch {
                show: Show::Nothing,
                input: false,
                timeout: Some(TIMEOUT * u32::try_from(lives + 3)?),
            },
        };
        let text = boot.run(ready)?.text;
        let judge = |case: &Case| (case.name, case.judge(&text, &ready.kernel.release));
        Ok(tally(self.name, self.cases.iter().map(judge)))
    }
}

impl Case {
    fn judge(&self, transcript: &str, release: &str) -> Result<()> {
        let Some(text) = part(transcript, self.name) else { bail!("it was not run") };
        let last = || last_lines(text);
        ensure!(text.contains("case status 0\n"), "trapline failed, last lines:\n{}", last());
        let uname = format!("uname {release}\n");
        let always = ALWAYS.into_iter().chain(RTC).chain([&*uname]).map(|text| (text, 1));
        for (expected, times) in always.chain(self.expect.iter().copied()) {
            let count = text.matches(expected).count();
            ensure!(
                count >= times,
                "{expected:?} occurs {count} times and not {times}, last lines:\n{}",
                last()
            );
        }
        for forbidden in COMPLAINTS.into_iter().chain(self.forbid.iter().copied()) {
            ensure!(!text.contains(forbidden), "{forbidden:?} occurs");
        }
        Ok(())
    }
}

/// What was printed while this case ran.
pub(crate) fn part<'a>(transcript: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = transcript.split_once(&format!("TRAPLINE-HOST: case {name}\n"))?;
    let mut marks = rest.match_indices("TRAPLINE-HOST: case ");
    let next = marks.find(|(at, mark)| {
        !rest.get(at + mark.len()..).is_some_and(|after| after.starts_with("status "))
    });
    rest.get(..next.map_or(rest.len(), |(at, _)| at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "TRAPLINE-HOST: case a\nfirst\nTRAPLINE-HOST: case status 0\n\
                       TRAPLINE-HOST: case b\nsecond\nTRAPLINE-HOST: case status 3\n";

    #[test]
    fn each_case_has_its_own_part_with_its_status() {
        assert_eq!(part(TWO, "a"), Some("first\nTRAPLINE-HOST: case status 0\n"));
        assert_eq!(part(TWO, "b"), Some("second\nTRAPLINE-HOST: case status 3\n"));
        assert_eq!(part(TWO, "c"), None);
    }

    #[test]
    fn a_case_that_failed_or_lacks_something_is_refused() {
        let case =
            Case { name: "x", words: "", options: "", expect: &[("yes", 2)], forbid: &["never"] };
        let judge = |middle: &str, status: u8| {
            let good = ALWAYS.join("\n");
            let text = format!(
                "TRAPLINE-HOST: case x\n{good}\nuname 6.1\n{}\n{middle}\n\
                 TRAPLINE-HOST: case status {status}\n",
                RTC.join("")
            );
            case.judge(&text, "6.1").is_ok()
        };
        assert!(judge("yes yes", 0));
        assert!(!judge("yes", 0), "once is not twice");
        assert!(!judge("yes yes", 1), "it failed");
        assert!(!judge("yes yes never", 0), "something forbidden");
        assert!(!judge("yes yes Unhandled fault", 0), "a complaint");
    }

    #[test]
    fn names_differ_and_no_name_is_taken_for_a_status() {
        for group in GROUPS {
            for case in group.cases {
                assert_eq!(group.cases.iter().filter(|other| other.name == case.name).count(), 1);
                assert!(!case.name.starts_with("status") && !case.options.contains('|'));
            }
        }
    }
}
