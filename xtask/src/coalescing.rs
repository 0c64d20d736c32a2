//! Two boots that differ in what the kernel does of accesses, as `host-coalescing.sh` reports them:
//! whether writes are coalesced, or also whether reads are mirrored.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};

/// What two boots took.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exits {
    with: u64,
    without: u64,
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { with, without } = self;
        let saved = 100 - (with * 100).div_ceil((*without).max(1)).min(100);
        write!(f, "{with} exits with the kernel's help, {without} without: {saved} % saved")
    }
}

/// Checks that both consoles were the same and that at most `most` exits of a hundred are left.
pub(crate) fn compare(text: &str, most: u64) -> Result<Exits> {
    let exits = Exits { with: total(text, "coalesce")?, without: total(text, "no-coalesce")? };
    if !text.contains(" bytes of console both times") {
        bail!("the consoles differ:\n{}", last_lines(text));
    }
    let few = exits.with * 100 <= exits.without * most;
    ensure!(few, "{exits}; at most {most} of 100 were to be left");
    Ok(exits)
}

/// A guest whose console is a UART in memory, with coalesced writes and mirrored reads and without.
struct Mirroring {
    /// What a user calls it.
    name: &'static str,
    /// One line about it.
    about: &'static str,
    /// The guest's architecture.
    arch: Arch,
    /// Options of `trapline run`.
    options: &'static [&'static str],
    /// Somebody types meanwhile, and is heard.
    typing: bool,
    /// At most so many exits of a hundred are left.
    most: u64,
}

/// All of them. All that is logged is printed, and the kernel does not put itself elsewhere in each
/// boot.
const MIRRORINGS: &[Mirroring] = &[
    Mirroring {
        name: "boot-mirror",
        about: "mirrored reads and coalesced writes save 80 % of the exits of a PC's boot and its log",
        arch: Arch::X86_64,
        options: &PC,
        typing: false,
        most: 20,
    },
    Mirroring {
        name: "boot-mirror-typing",
        about: "the same console with mirrored reads and without, while somebody types",
        arch: Arch::X86_64,
        options: &PC,
        typing: true,
        most: 100,
    },
    Mirroring {
        name: "arm64-mirror",
        about: "mirrored reads and coalesced writes save 85 % of the exits of an arm64 boot and its log",
        arch: Arch::Aarch64,
        options: &ARM64,
        typing: false,
        // A boot alone leaves 3. Its init prints as much again by interrupts, each of which is answered
        // by reads that have effects.
        most: 15,
    },
    Mirroring {
        name: "arm64-mirror-typing",
        about: "the same console with mirrored reads and without, while somebody types",
        arch: Arch::Aarch64,
        options: &ARM64,
        typing: true,
        most: 100,
    },
];

const PC: [&str; 8] = [
    "-c",
    "1",
    "-m",
    "256",
    "--stat=all",
    "--console=mmio",
    "--ecam",
    "--params=loglevel=8 nokaslr",
];
const ARM64: [&str; 6] =
    ["-c", "1", "-m", "256", "--stat=all", "--params=earlycon loglevel=8 nokaslr"];

/// They, as tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    MIRRORINGS.iter().map(|mirroring| Guests {
        name: mirroring.name,
        about: mirroring.about,
        arch: mirroring.arch,
        run: Box::new(|ready| mirroring.run(ready)),
    })
}

/// What the guest of somebody who types says at its end.
const HEARD: &str = "TRAPLINE-GUEST: keys heard: 20\n";

impl Mirroring {
    /// Boots the guest twice, and compares.
    fn run(&self, ready: &Ready) -> Result<Tally> {
        let mut options: Vec<String> =
            self.options.iter().map(|&option| option.to_owned()).collect();
        let mut variables = vec![("WITHOUT".to_owned(), "--no-coalesce --no-mirror".to_owned())];
        if self.typing {
            variables.push(("TYPING".to_owned(), "yes".to_owned()));
            options.iter_mut().filter(|word| word.starts_with("--params")).for_each(|params| {
                params.push_str(" typed=yes");
            });
        }
        let script = Script { file: Some("host-coalescing.sh"), variables, ..Script::default() };
        let boot = Boot {
            name: self.name.to_owned(),
            place: Place::best(self.arch),
            image: Image::Bzimage,
            init: "init-quiet.sh".to_owned(),
            modules: Vec::new(),
            programs: Vec::new(),
            options,
            script,
            watch: Watch { show: Show::Nothing, input: false, timeout: Some(8 * TIMEOUT) },
        };
        let text = boot.run(ready)?.well()?;
        let last = || last_lines(&text);
        // In what was the same both times, which is shown once.
        let heard = !self.typing || text.contains(HEARD);
        ensure!(heard, "what was typed was not heard:\n{}", last());
        eprintln!("{}", compare(&text, self.most).with_context(last)?);
        Ok(Tally::of(true))
    }
}

fn total(text: &str, how: &str) -> Result<u64> {
    let mark = format!("TRAPLINE-HOST: {how}: exits: total ");
    let (_, after) = text.split_once(&mark).with_context(|| format!("no exits of {how}"))?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no exits of {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(with: u64, without: u64, end: &str) -> String {
        format!(
            "TRAPLINE-HOST: coalesce: exits: total {with}, port read 1\n\
             TRAPLINE-HOST: no-coalesce: exits: total {without}\nTRAPLINE-HOST: {end}\n"
        )
    }

    #[test]
    fn the_goal_is_judged_at_its_limit_and_the_consoles_count() {
        let same = "9 bytes of console both times";
        let exits = compare(&text(600, 1000, same), 60).unwrap();
        assert_eq!(exits, Exits { with: 600, without: 1000 });
        assert_eq!(exits.to_string(), "600 exits with the kernel's help, 1000 without: 40 % saved");
        assert!(compare(&text(601, 1000, same), 60).is_err());
        assert!(compare(&text(1, 1000, "differ"), 60).is_err());
        assert!(compare("nothing", 60).is_err());
    }
}
