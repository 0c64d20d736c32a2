//! Who answers which end point of the [API](trapline_control::api).

use std::sync::{Arc, Weak};

use trapline_control::api::{
    Action, ActionType, GetBalloon, GetBalloonStatistics, GetInstance, GetStatistics, GetWhy,
    Instance, METRICS, PatchBalloon, PatchVm, PutAction, PutBreakLine, PutBreaks, PutDebug,
    PutTrace, Vm, VmState, Why,
};
use trapline_control::{Refusal, Routes};
use trapline_machine::balloon::Balloon;
use trapline_machine::{Control, ControlError};

use super::{Look, Sessions, attach, metrics};
use crate::console::Console;
use crate::request::{Request, Requests};
use crate::why::{self, Surroundings};

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
    /// The images of its disks.
    pub disks: Vec<String>,
    /// Who has breaks in it by the socket.
    pub breaks: Arc<Sessions>,
    /// What ends it as its user would.
    pub requests: Requests,
}

impl Guest {
    /// The routes of its socket.
    pub(super) fn routes(self) -> Routes {
        let guest = &Arc::new(self);
        Routes::default()
            .serve::<GetInstance>(of(guest, |guest, ()| Ok(guest.instance())))
            .serve::<GetStatistics>(of(guest, |guest, ()| Ok(guest.look.statistics(true))))
            .serve_text(METRICS, metrics::MEDIA_TYPE, {
                let text = of(guest, |guest, ()| {
                    metrics::text(&guest.name, &guest.look.statistics(false))
                });
                move || text(())
            })
            .serve::<GetBalloon>(of(guest, |guest, ()| guest.balloon()))
            .serve::<GetBalloonStatistics>(of(guest, |guest, ()| guest.balloon_statistics()))
            .serve::<PatchBalloon>(of(guest, Self::set_balloon))
            .serve::<PutDebug>(of(guest, Self::debug))
            .serve_lines::<PutTrace, _>(of(guest, |guest, request| {
                attach::trace(&guest.control, request)
            }))
            .serve_lines::<PutBreaks, _>(of(guest, |guest, request| {
                guest.breaks.attach(&guest.control, &request)
            }))
            .serve::<PutBreakLine>(of(guest, |guest, request| guest.breaks.obey(&request)))
            .serve::<GetWhy>(of(guest, |guest, ()| guest.why()))
            .serve::<PatchVm>(of(guest, Self::bring))
            .serve::<PutAction>(of(guest, Self::act))
    }

    fn instance(&self) -> Instance {
        Instance {
            app_name: "trapline".to_owned(),
            id: self.name.clone(),
            state: why::state(self.control.state()),
            vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            vcpu_count: self.cpus,
            mem_size_mib: self.mem_bytes >> 20,
        }
    }

    fn why(&self) -> Result<Why, Refusal> {
        let seen = self.control.observe(why::SPAN);
        let console = self.console.upgrade();
        let console = console.ok_or_else(|| Refusal::conflict("the machine is over"))?;
        Ok(why::why(&seen, Surroundings::of(&console, &self.disks)))
    }

    fn bring(&self, vm: Vm) -> Result<(), Refusal> {
        let done = match vm.state {
            VmState::Paused => self.control.pause(),
            VmState::Resumed => self.control.resume(),
        };
        done.map_err(refusal)
    }

    fn act(&self, action: Action) -> Result<(), Refusal> {
        match action.action_type {
            ActionType::Stop => {
                self.requests.make(Request::Quit);
                self.control.stop();
                Ok(())
            }
            ActionType::Reset => self.control.reset().map_err(refusal),
        }
    }
}

/// What answers for `guest`.
fn of<Q, A>(
    guest: &Arc<Guest>,
    answer: impl Fn(&Guest, Q) -> A + Send + Sync + 'static,
) -> impl Fn(Q) -> A + Send + Sync + 'static {
    let guest = Arc::clone(guest);
    move |request| answer(&guest, request)
}

/// Why the machine did not do it.
pub(super) fn refusal(error: ControlError) -> Refusal {
    match error {
        ControlError::State { .. } => Refusal::conflict(error),
        error => Refusal::failed(error),
    }
}
