//! Recordings of guests: made by boots, kept in the tree, and played by the tests.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::paths;

/// The machines that are recorded, a name and options of `trapline run` each.
pub(crate) const MACHINES: &[(&str, &str)] = &[
    ("pc-kernel", "--irqchip kernel"),
    ("pc-split", "--irqchip split"),
    ("pc-split-2", "--irqchip split -c 2"),
    ("pc-exact-2", "--irqchip split -c 2 --record-exact"),
];

/// Options of the last of them, but for its exactness: of the machine that is run with deliveries that
/// were found from its recording.
const TUNED: &str = "--irqchip split -c 2";

/// How far the exits of that run may be from what was predicted, in percent.
const FAR: u64 = 2;

/// What `host-record.sh` is to be told.
pub(crate) fn variables() -> Vec<(String, String)> {
    let lines = MACHINES.iter().map(|(name, options)| format!("{name} {options}"));
    let machines = lines.collect::<Vec<_>>().join("\n");
    vec![("MACHINES".to_owned(), machines), ("TUNED".to_owned(), TUNED.to_owned())]
}

/// Whether a run made as many exits as `host-record.sh` printed that it would.
///
/// # Errors
///
/// When it did not, or when there is nothing to compare.
pub(crate) fn compare_exits(text: &str) -> Result<()> {
    let told = text.split_once("TRAPLINE-HOST: exits predicted ");
    let line = told.and_then(|(_, rest)| rest.lines().next()).unwrap_or_default();
    let numbers = line.trim_end().split_once(", made ").context("Nothing was predicted")?;
    let [predicted, made] = [numbers.0, numbers.1].map(str::parse::<u64>);
    let (predicted, made) = (predicted.context("No number")?, made.context("No number")?);
    let near = predicted.abs_diff(made) * 100 <= predicted * FAR;
    ensure!(predicted > 0 && near, "{predicted} exits were predicted, and {made} were made");
    Ok(())
}

/// Takes the recordings out of what `host-record.sh` printed, and keeps them in `build/recordings`.
///
/// # Errors
///
/// When one is missing or damaged, or was not played without a difference.
pub(crate) fn keep(text: &str) -> Result<()> {
    let folder = paths::build()?.join("recordings");
    std::fs::create_dir_all(&folder)?;
    for (name, _) in MACHINES {
        let begin = format!("TRAPLINE-HOST: recording {name}\n");
        let (before, rest) =
            text.split_once(&begin).with_context(|| format!("There is no recording {name}"))?;
        let end = "TRAPLINE-HOST: end of recording";
        let (encoded, _) = rest.split_once(end).context("A recording is cut short")?;
        let encoded: String = encoded.split_whitespace().collect();
        let file = BASE64_STANDARD.decode(encoded).context("A recording is damaged")?;
        let played = before.trim_end().rsplit('\n').nth(1).unwrap_or_default();
        ensure!(played.trim_end() == "no difference", "{name} was played like this: {played}");
        paths::write_whole(&folder.join(format!("{name}.trp")), &file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_as_predicted_within_two_percent() {
        let compare = |line: &str| compare_exits(&format!("x\nTRAPLINE-HOST: exits {line}\r\ny"));
        assert!(compare("predicted 1000, made 1020").is_ok());
        assert!(compare("predicted 1000, made 980").is_ok());
        let none = ["predicted 1000, made 1021", "predicted 0, made 0", "predicted , made 5", ""];
        none.iter().for_each(|line| assert!(compare(line).is_err(), "{line}"));
    }
}
