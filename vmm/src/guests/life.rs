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
    let name = guest.name().clone();
    if state(guest)? == InstanceState::Paused {
        return say(&format!("Guest {name} is already paused.\n"));
    }
    guest.ask::<PatchVm>(&Vm { state: VmState::Paused })?;
    say(&format!("Guest {name} paused\n"))
}

/// Has the guest go on.
pub(super) fn resume(guest: &mut Client) -> anyhow::Result<()> {
    let name = guest.name().clone();
    if state(guest)? == InstanceState::Running {
        return say(&format!("Guest {name} is still running.\n"));
    }
    guest.ask::<PatchVm>(&Vm { state: VmState::Resumed })?;
    say(&format!("Guest {name} resumed\n"))
}

/// Ends the guest, and waits until its process has let go of everything.
pub(super) fn stop(guest: &mut Client) -> anyhow::Result<()> {
    guest.ask::<PutAction>(&Action { action_type: ActionType::Stop })?;
    if !guest.wait_for_end(PATIENCE) {
        bail!("guest {} does not end", guest.name());
    }
    Ok(())
}

fn state(guest: &mut Client) -> anyhow::Result<InstanceState> {
    Ok(guest.ask::<GetInstance>(&())?.state)
}
