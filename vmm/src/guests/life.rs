//! `trapline pause`, `resume` and `stop`.

use std::time::Duration;

use anyhow::bail;
use trapline_control::Client;
use trapline_control::api::{
    Action, ActionType, GetInstance, InstanceState, PatchVm, PutAction, Vm, VmState,
};

use super::say;

/// How long a guest that has been stopped may take to go: to write what it has not yet.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has the guest stand still.
pub(super) fn pause(guest: &mut Client) -> anyhow::Result<()> {
    let told = ["is already paused.", "paused"];
    bring(guest, (InstanceState::Paused, VmState::Paused), told)
}

/// Has the guest go on.
pub(super) fn resume(guest: &mut Client) -> anyhow::Result<()> {
    let told = ["is still running.", "resumed"];
    bring(guest, (InstanceState::Running, VmState::Resumed), told)
}

/// Brings the guest to a state, and says which of these two it was, in kvmtool's words: in it before,
/// or brought to it.
fn bring(
    guest: &mut Client,
    (is, to): (InstanceState, VmState),
    [before, now]: [&str; 2],
) -> anyhow::Result<()> {
    let told = if guest.ask::<GetInstance>(&())?.state == is {
        before
    } else {
        guest.ask::<PatchVm>(&Vm { state: to })?;
        now
    };
    say(&format!("Guest {} {told}\n", guest.name()))
}

/// Ends the guest, and waits until its process has let go of everything.
pub(super) fn stop(guest: &mut Client) -> anyhow::Result<()> {
    guest.ask::<PutAction>(&Action { action_type: ActionType::Stop })?;
    if !guest.wait_for_end(PATIENCE) {
        bail!("guest {} does not end", guest.name());
    }
    Ok(())
}
