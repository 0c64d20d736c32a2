//! Who answers which end point of the [API](trapline_control::api).

use std::sync::Weak;

use trapline_control::api::{
    Action, ActionType, GetBalloon, GetBalloonStatistics, GetInstance, GetStatistics, Instance,
    InstanceState, METRICS, PatchBalloon, PatchVm, PutAction, PutDebug, VmState,
};
use trapline_control::{Refusal, Routes};
use trapline_machine::balloon::Balloon;
use trapline_machine::{Control, ControlError, State};

use super::poke::{self, BalloonOf};
use super::{Look, metrics};
use crate::console::Console;
use crate::request::{Request, Requests};

/// What there is to ask of a guest, and to look at. Nothing of it keeps the machine alive.
pub struct Guest {
    /// Its name.
    pub name: String,
    /// How many vCPUs it has.
    pub cpus: u32,
    /// Its memory in bytes.
    pub mem_bytes: u64,
    /// What pauses it, resets it, and looks into it.
    pub control: Control,
    /// What sees what it does.
    pub look: Look,
    /// Its balloon, if it has one.
    pub balloon: Option<Weak<Balloon>>,
    /// Its console.
    pub console: Weak<Console>,
    /// What ends it as its user would.
    pub requests: Requests,
}

impl Guest {
    /// The routes of its socket.
    pub(super) fn routes(self) -> Routes {
        let Self { name, cpus, mem_bytes, control, look, balloon, console, requests } = self;
        let balloons = [(); 3].map(|()| BalloonOf(balloon.clone()));
        let [balloon, set, statistics] = balloons;
        let (debugged, recorded) = (control.clone(), control.clone());
        let (called, seen) = (name.clone(), look.clone());
        let of = control.clone();
        let instance = move |()| Ok(instance(&name, cpus, mem_bytes, &of));
        let pauses = control.clone();
        Routes::default()
            .serve::<GetInstance>(instance)
            .serve::<GetStatistics>(move |()| Ok(look.statistics(true)))
            .serve_text(METRICS, metrics::MEDIA_TYPE, move || {
                metrics::text(&called, &seen.statistics(false))
            })
            .serve::<GetBalloon>(move |()| balloon.get())
            .serve::<GetBalloonStatistics>(move |()| statistics.statistics())
            .serve::<PatchBalloon>(move |update| set.set(&update, &recorded))
            .serve::<PutDebug>(move |request| poke::debug(&request, &debugged, &console))
            .serve::<PatchVm>(move |vm| {
                let done = match vm.state {
                    VmState::Paused => pauses.pause(),
                    VmState::Resumed => pauses.resume(),
                };
                done.map_err(refusal)
            })
            .serve::<PutAction>(move |action| act(action, &control, &requests))
    }
}

fn instance(name: &str, cpus: u32, mem_bytes: u64, control: &Control) -> Instance {
    Instance {
        app_name: "trapline".to_owned(),
        id: name.to_owned(),
        state: match control.state() {
            State::Built => InstanceState::NotStarted,
            State::Running => InstanceState::Running,
            State::Paused | State::Saved => InstanceState::Paused,
            State::Resetting => InstanceState::Resetting,
            State::Ended => InstanceState::Ended,
        },
        vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        vcpu_count: cpus,
        mem_size_mib: mem_bytes >> 20,
    }
}

fn act(action: Action, control: &Control, requests: &Requests) -> Result<(), Refusal> {
    match action.action_type {
        ActionType::Stop => {
            requests.make(Request::Quit);
            control.stop();
            Ok(())
        }
        ActionType::Reset => control.reset().map_err(refusal),
    }
}

/// Why the machine did not do it.
pub(super) fn refusal(error: ControlError) -> Refusal {
    match error {
        ControlError::State { .. } => Refusal::conflict(error),
        error => Refusal::failed(error),
    }
}
