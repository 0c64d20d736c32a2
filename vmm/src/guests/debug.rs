//! `trapline debug` and `balloon`.

use anyhow::Context;
use trapline_control::Client;
use trapline_control::api::{BalloonUpdate, DebugRequest, GetBalloon, PatchBalloon, PutDebug};

use super::say;

/// Looks into the guest, or pokes it.
pub(super) fn debug(guest: &mut Client, request: &DebugRequest) -> anyhow::Result<()> {
    let report = guest.ask::<PutDebug>(request)?;
    say(&report.vcpus.concat())
}

/// Has the guest put so many MiB more into its balloon, or take them out.
pub(super) fn balloon(guest: &mut Client, inflate: bool, mib: u64) -> anyhow::Result<()> {
    let now = guest.ask::<GetBalloon>(&())?.amount_mib;
    let amount = if inflate { now.checked_add(mib) } else { Some(now.saturating_sub(mib)) };
    let amount_mib = amount.context("no guest has so much memory")?;
    guest.ask::<PatchBalloon>(&BalloonUpdate { amount_mib })?;
    Ok(())
}
