//! `trapline list`, in kvmtool's columns.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use trapline_control::AskError;
use trapline_control::api::{GetInstance, InstanceState};

use super::{Found, all, say};
use crate::{logging, status, stream};

/// How long a guest may take to say what it does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lists guests: those that run, if `running`. There are no root file systems of guests yet, which
/// kvmtool lists, too.
pub(super) fn list(running: bool) -> anyhow::Result<ExitCode> {
    let mut text = format!("{:>6} {:<20} {}\n", "PID", "NAME", "STATE");
    text += "------------------------------------\n";
    let mut status = ExitCode::SUCCESS;
    for guest in if running { all()? } else { Vec::new() } {
        match row(&guest) {
            Ok(row) => text += &row,
            Err(AskError::NoGuest(_) | AskError::Ended(_)) => {}
            Err(error) => {
                let error = logging::one_sentence(&error.into());
                stream::message(&format!("  Error: {error}\n"));
                status = ExitCode::from(status::SOME_FAILED);
            }
        }
    }
    say(&text)?;
    Ok(status)
}

fn row(guest: &Found) -> Result<String, AskError> {
    let mut client = guest.connect()?;
    client.set_patience(PATIENCE);
    let instance = client.ask::<GetInstance>(&())?;
    let state = match instance.state {
        InstanceState::Paused => "paused",
        _ => "running",
    };
    let mut row = String::new();
    let _ = writeln!(row, "{:>5} {:<20} {state}", instance.pid, guest.name);
    Ok(row)
}
