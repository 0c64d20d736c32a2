//! Two boots that differ in whether writes are coalesced, as `host-coalescing.sh` reports them.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use crate::scenarios::FEWER_EXITS;
use crate::session::last_lines;

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
        write!(f, "{with} exits with coalesced writes, {without} without: {saved} % saved")
    }
}

/// Checks that both consoles were the same and the exits few enough.
pub(crate) fn compare(text: &str) -> Result<Exits> {
    let exits = Exits { with: total(text, "coalesce")?, without: total(text, "no-coalesce")? };
    if !text.contains(" bytes of console both times") {
        bail!("the consoles differ:\n{}", last_lines(text));
    }
    let few = exits.with * 100 <= exits.without * FEWER_EXITS;
    ensure!(few, "{exits}; at most {FEWER_EXITS} of 100 were to be left");
    Ok(exits)
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
        let exits = compare(&text(600, 1000, same)).unwrap();
        assert_eq!(exits, Exits { with: 600, without: 1000 });
        assert_eq!(exits.to_string(), "600 exits with coalesced writes, 1000 without: 40 % saved");
        assert!(compare(&text(601, 1000, same)).is_err());
        assert!(compare(&text(1, 1000, "differ")).is_err());
        assert!(compare("nothing").is_err());
    }
}
