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

/// As `host-record.sh` wants them.
pub(crate) fn machines() -> String {
    let lines = MACHINES.iter().map(|(name, options)| format!("{name} {options}"));
    lines.collect::<Vec<_>>().join("\n")
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
