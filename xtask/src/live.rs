//! Guests that run and the commands to them, as far as it takes more of a machine than a test's share:
//! a hundred guests at once, and schemathesis against the control socket.

use anyhow::Result;

use crate::suite::{Tally, Task};
use crate::{guest, paths, proc, python, unit};

/// How many guests there are at once; the test of the same name is content with four.
const GUESTS: &str = "100";
/// The version is one that speaks of the same problems each time.
const SCHEMATHESIS: &str = "schemathesis>=4,<5";

/// The binary of tests that the guests are from, for which cargo builds `target/debug/trapline`. Built
/// with the whole workspace, as for all other tests: for its package alone the crates it stands on have
/// fewer features, and are all built again.
const LIVE: &str = "kvm_live";

/// Both.
pub(crate) fn tasks() -> Vec<Task> {
    vec![
        Task::new(
            "live-guests",
            "100 guests at once are started, listed, paused, resumed and stopped (TRAPLINE_GUESTS)",
            guests,
        )
        .alone_in("debug"),
        Task::new(
            "live-contract",
            "schemathesis holds the control socket to docs/openapi.json",
            contract,
        )
        .alone_in("debug"),
    ]
}

/// Why it cannot be run here, if so.
fn refused(name: &str) -> Option<Tally> {
    let reason = guest::kvm_refusal()?;
    Some(Tally { skipped: vec![format!("{name}: {reason}")], ..Tally::default() })
}

fn guests() -> Result<Tally> {
    if let Some(tally) = refused("live-guests") {
        return Ok(tally);
    }
    let mut command = proc::cargo()?;
    command.args(["test", "--quiet", "--workspace", "--test", LIVE]);
    command.args(["several_guests_obey_at_once", "--", "--exact", "--show-output"]);
    if std::env::var_os("TRAPLINE_GUESTS").is_none() {
        command.env("TRAPLINE_GUESTS", GUESTS);
    }
    let (passed, text) = proc::watched(&mut command, |_| true)?;
    Ok(unit::libtest_tally(&text, passed))
}

fn contract() -> Result<Tally> {
    if let Some(tally) = refused("live-contract") {
        return Ok(tally);
    }
    let mut build = proc::cargo()?;
    build.args(["test", "--quiet", "--workspace", "--test", LIVE, "--no-run"]);
    if !proc::succeeds(&mut build)? {
        anyhow::bail!("trapline does not build");
    }
    let mut command = python::with(SCHEMATHESIS)?;
    command.arg("control/tests/contract.py").arg(paths::target()?.join("debug/trapline"));
    command.arg("docs/openapi.json");
    Ok(Tally::of(proc::succeeds(&mut command)?))
}
