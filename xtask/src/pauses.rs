//! A Linux guest is paused at random moments while it counts, is typed to, sleeps and watches its
//! clocks (`guest-tests/metronome`): what it says is the same as if it had not been, no interrupt of
//! its timers is lost, and its clocks have gone on meanwhile (`machine/src/life.rs`).

use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};
use crate::vmm;

/// A guest to be paused.
struct Storm {
    /// What a user calls it.
    name: &'static str,
    /// One line about it.
    about: &'static str,
    /// The guest's architecture.
    arch: Arch,
    /// Options of `trapline run`.
    options: &'static [&'static str],
    /// Says which moments they are, as far as the host's scheduler lets it.
    seed: u32,
}

/// All of them.
const STORMS: &[Storm] = &[
    Storm {
        name: "arm64-pause-storm",
        about: "an arm64 guest with two vCPUs, paused while it counts and is typed to (TRAPLINE_PAUSES times, or 60)",
        arch: Arch::Aarch64,
        options: &["-c", "2", "-m", "256", "-p", "quiet"],
        seed: 2,
    },
    Storm {
        name: "pause-storm",
        about: "a guest with two vCPUs, paused while it counts and is typed to (TRAPLINE_PAUSES times, or 60)",
        arch: Arch::X86_64,
        options: &["-c", "2", "-m", "256", "-p", "quiet"],
        seed: 1,
    },
    Storm {
        name: "split-pause-storm",
        about: "the same with our own interrupt controllers, of which the guest uses the 8259s",
        arch: Arch::X86_64,
        options: &["-c", "2", "-m", "256", "--irqchip", "split", "-p", "quiet noapic"],
        seed: 3,
    },
];

/// The storms, as tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    STORMS.iter().map(|storm| Guests {
        name: storm.name,
        about: storm.about,
        arch: storm.arch,
        run: Box::new(|ready| storm.run(ready)),
    })
}

impl Storm {
    /// Boots the guest, and judges what it says.
    fn run(&self, ready: &Ready) -> Result<Tally> {
        let pauses = std::env::var("TRAPLINE_PAUSES").unwrap_or_else(|_| "60".to_owned());
        let pauses = pauses.parse().context("TRAPLINE_PAUSES is no number")?;
        let text = self.boot(ready, pauses)?;
        let judged = Said(&text).judge(pauses);
        let summary = judged.with_context(|| format!("last lines:\n{}", last_lines(&text)))?;
        eprintln!("{summary}");
        Ok(Tally::of(true))
    }

    fn boot(&self, ready: &Ready, pauses: u32) -> Result<String> {
        let metronome =
            vmm::static_binary(self.arch, ready.profile, "trapline-metronome", "metronome")?;
        let boot = Boot {
            name: self.name.to_owned(),
            place: Place::best(self.arch),
            image: Image::Bzimage,
            init: "init-pause.sh".to_owned(),
            modules: Vec::new(),
            programs: vec![("metronome".to_owned(), metronome)],
            options: self.options.iter().map(|&option| option.to_owned()).collect(),
            script: Script {
                file: Some("host-pause.sh"),
                variables: vec![
                    ("PAUSES".to_owned(), pauses.to_string()),
                    ("SEED".to_owned(), self.seed.to_string()),
                ],
                ..Script::default()
            },
            watch: Watch {
                show: Show::Nothing,
                input: false,
                timeout: Some(TIMEOUT * (2 + pauses / 30)),
            },
        };
        boot.run(ready)?.well()
    }
}

/// Warnings of a kernel that thinks it has been asleep.
const COMPLAINTS: [&str; 4] =
    ["soft lockup", "detected stall", "blocked for more than", "WARNING:"];

/// The host's clock is read in hundredths of a second, twice.
const HOST_S: f64 = 0.02;
/// So much faster or slower than the host's a guest's clock may be.
const DRIFT: f64 = 0.01;
/// So far may two of the guest's clocks drift apart: the kernel adjusts the rate of some.
const APART: f64 = 0.001;
/// The pauses take at least this part of the time, so that a clock that stands still shows.
const PAUSED: f64 = 3.0 * DRIFT;

/// All that was said.
struct Said<'a>(&'a str);

impl Said<'_> {
    /// The line that has `start` and then `end` in it, and what is between.
    fn between<T: FromStr>(&self, start: &str, end: &str) -> Result<T> {
        let found = self.0.lines().find_map(|line| {
            let (_, rest) = line.split_once(start)?;
            rest.split_once(end)?.0.trim().parse().ok()
        });
        found.with_context(|| format!("nobody says `{start}…{end}`"))
    }

    /// Lines of several words, the first of which is `word`: the others.
    fn lines(&self, word: &str) -> impl Iterator<Item = Vec<&str>> {
        let words = self.0.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.filter_map(move |words| match words.split_first() {
            Some((first, rest)) if *first == word => Some(rest.to_vec()),
            _ => None,
        })
    }

    /// Judges it all; a line about what there was.
    fn judge(&self, pauses: u32) -> Result<String> {
        for complaint in COMPLAINTS {
            ensure!(!self.0.contains(complaint), "the guest's kernel says {complaint:?}");
        }
        let counted = self.counted()?;
        self.heard(2 * pauses)?;
        let paused = self.paused(pauses)?;
        let (slept, ticks) = self.slept(pauses)?;
        let elapsed = self.clocks(paused)?;
        Ok(format!(
            "{pauses} pauses, {paused:.1} s of {elapsed:.1} s; {counted} lines counted, {slept} \
             sleeps, {ticks} timer interrupts"
        ))
    }

    /// Every number is there once, in order, with its checksum.
    fn counted(&self) -> Result<u64> {
        let mut sum: u32 = 0x811c_9dc5;
        let mut number: u64 = 0;
        for words in self.lines("count") {
            number += 1;
            let text = format!("count {number:06}");
            // FNV-1a.
            let add = |sum: u32, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            sum = text.bytes().fold(sum, add);
            let line = format!("count {}", words.join(" "));
            ensure!(line == format!("{text} {sum:08x}"), "{line:?} is not line {number}");
        }
        let counted: u64 = self.between("METRONOME: counted ", ",")?;
        ensure!(number == counted, "the guest counted to {counted}, and {number} lines came");
        ensure!(number > 0, "the guest counted nothing");
        Ok(number)
    }

    /// Every word that was typed was heard, in order.
    fn heard(&self, words: u32) -> Result<()> {
        let heard: Vec<String> = self.lines("heard").map(|words| words.join(" ")).collect();
        let typed: Vec<String> =
            (1..=words).map(|n| format!("word {n} {}", n * 7919 % 10007)).collect();
        let wrong = heard.iter().zip(&typed).find(|(heard, typed)| heard != typed);
        ensure!(wrong.is_none(), "heard and typed are not the same: {wrong:?}");
        ensure!(heard.len() == typed.len(), "{} words of {words} were heard", heard.len());
        Ok(())
    }

    /// The guest was paused as often as it was to be; for so many seconds.
    fn paused(&self, pauses: u32) -> Result<f64> {
        let all = format!("# The guest was paused {pauses} times, for ");
        let seconds = self.between(&all, " s in all.");
        seconds.with_context(|| format!("not all of {pauses} pauses were made"))
    }

    /// No sleep was too short, and each was ended by an interrupt. How many there were of both.
    fn slept(&self, pauses: u32) -> Result<(u64, u64)> {
        let slept = self.between("METRONOME: slept ", " times")?;
        let early: u64 = self.between(" times, ", " too short")?;
        let ticks = self.between("METRONOME: ", " timer interrupts")?;
        ensure!(early == 0, "{early} of {slept} sleeps were too short");
        // What is due in a pause can come by one interrupt, on whichever processor.
        ensure!(slept <= ticks + u64::from(pauses), "{slept} sleeps with {ticks} timer interrupts");
        ensure!(slept > u64::from(pauses), "{slept} sleeps in {pauses} pauses tell nothing");
        Ok((slept, ticks))
    }

    /// No clock went back, all agree, and they went on in the pauses, which took `paused` seconds.
    /// Says how long it was.
    fn clocks(&self, paused: f64) -> Result<f64> {
        let back: u64 = self.between(" readings, ", " went back")?;
        ensure!(back == 0, "clocks went back {back} times");
        let clock = |name: &str| self.between::<f64>(name, " ").map(|us| us / 1e6);
        let elapsed = clock(" monotonic ")?;
        let within = clock("read within ")?;
        for name in [" raw ", " boottime ", " realtime "] {
            let apart = (clock(name)? - elapsed).abs();
            let most = within + elapsed * APART;
            ensure!(apart <= most, "{} is {apart:.4} s off of {elapsed:.4} s", name.trim());
        }
        let host = |what: &str| self.between::<f64>(&format!("TRAPLINE-HOST: {what} at "), " s");
        // The guest looked at its clocks after the first and before the second of these, ...
        let most = (host("over")? - host("go")? + HOST_S) * (1.0 + DRIFT);
        ensure!(elapsed <= most, "the guest's clocks went {elapsed:.2} s in {most:.2} s");
        // ... and before and after these.
        let least = (host("all pauses over")? - host("first pause")? - HOST_S) * (1.0 - DRIFT);
        ensure!(elapsed >= least, "the guest's clocks went {elapsed:.2} s in {least:.2} s");
        ensure!(paused > elapsed * PAUSED, "pauses of {paused} s in {elapsed} s tell nothing");
        Ok(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A good run with two pauses.
    const GOOD: &str = "\
TRAPLINE-HOST: go at 10.00 s
METRONOME: begins
TRAPLINE-HOST: first pause at 10.50 s
count 000001 53bfa0cf
heard word 1 7919
count 000002 448f7fcc
heard word 2 5831
heard word 3 3743
count 000003 b7a83b68
heard word 4 1655
METRONOME: counted 3, heard 4
METRONOME: slept 300 times, 0 too short, 31000 us too long
METRONOME: 298 timer interrupts
METRONOME: 5000 readings, 0 went back
METRONOME: elapsed monotonic 4000000 raw 4000100 boottime 4000000 realtime 4000001 us, read within 20 us
METRONOME: over
TRAPLINE-HOST: all pauses over at 14.45 s
TRAPLINE-HOST: over at 14.60 s
  # The guest was paused 2 times, for 1.500 s in all.
";

    fn complaint(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from:?}");
        let said = GOOD.replacen(from, to, 1);
        Said(&said).judge(2).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn a_good_run_is_summed_up() {
        let summary = Said(GOOD).judge(2).unwrap();
        let wanted = "2 pauses, 1.5 s of 4.0 s; 3 lines counted, 300 sleeps, 298 timer interrupts";
        assert_eq!(summary, wanted);
    }

    #[test]
    fn whatever_is_lost_doubled_or_changed_is_said() {
        let lost = complaint("count 000002 448f7fcc\n", "");
        assert_eq!(lost, "\"count 000003 b7a83b68\" is not line 2");
        let doubled = complaint("000001 53bfa0cf\n", "000001 53bfa0cf\ncount 000001 53bfa0cf\n");
        assert_eq!(doubled, "\"count 000001 53bfa0cf\" is not line 2");
        assert!(complaint("448f7fcc", "448f7fcd").ends_with("is not line 2"));
        let last = complaint("count 000003 b7a83b68\n", "");
        assert_eq!(last, "the guest counted to 3, and 2 lines came");
        assert_eq!(complaint("heard word 4 1655\n", ""), "3 words of 4 were heard");
        assert!(complaint("word 3", "word 2").starts_with("heard and typed are not the same"));
    }

    #[test]
    fn each_pause_counts_and_so_does_each_refusal() {
        for (from, to) in [("paused 2 times", "paused 1 times"), ("in all.", "in all; refused: 1.")]
        {
            assert!(complaint(from, to).starts_with("not all of 2 pauses were made"));
        }
        assert!(complaint("1.500 s", "0.100 s").ends_with("tell nothing"));
    }

    #[test]
    fn sleeps_have_their_interrupts_and_are_not_too_short() {
        assert_eq!(complaint("0 too short", "1 too short"), "1 of 300 sleeps were too short");
        assert_eq!(complaint("298 timer", "297 timer"), "300 sleeps with 297 timer interrupts");
        assert_eq!(
            complaint("METRONOME: over", "rcu: INFO: rcu_sched detected stalls"),
            "the guest's kernel says \"detected stall\""
        );
    }

    #[test]
    fn clocks_go_on_in_pauses_together_and_never_back() {
        assert_eq!(complaint("0 went back", "3 went back"), "clocks went back 3 times");
        let stopped = complaint("monotonic 4000000", "monotonic 2500000");
        assert!(stopped.starts_with("raw is 1.5001 s off"), "{stopped}");
        for name in ["raw 4000100", "boottime 4000000", "realtime 4000001"] {
            let clock = name.split(' ').next().unwrap_or_default();
            let said = complaint(name, &format!("{clock} 4005000"));
            assert!(said.starts_with(&format!("{clock} is 0.005")), "{said}");
        }
        let slow = complaint(
            "monotonic 4000000 raw 4000100 boottime 4000000 realtime 4000001",
            "monotonic 3800000 raw 3800000 boottime 3800000 realtime 3800000",
        );
        assert!(slow.starts_with("the guest's clocks went 3.80 s in 3.89"), "{slow}");
        let fast = complaint("over at 14.60", "over at 13.90");
        assert!(fast.starts_with("the guest's clocks went 4.00 s in 3.96"), "{fast}");
    }
}
