//! `trapline stat`.

use std::fmt::Write;

use trapline_control::Client;
use trapline_control::api::GetStatistics;

use super::say;
use crate::{statistics, terminal};

/// Shows what the guest has done, as a table or as JSON.
pub(super) fn traps(guest: &mut Client, json: bool) -> anyhow::Result<()> {
    let statistics = guest.ask::<GetStatistics>(&())?;
    if json {
        return say(&(serde_json::to_string(&statistics)? + "\n"));
    }
    let columns = terminal::size().map_or(statistics::COLUMNS, |(columns, _)| columns.into());
    let mut text = format!("guest {}\n", guest.name());
    let _ = writeln!(text, "{}", statistics::table(&statistics, columns));
    say(&text)
}
