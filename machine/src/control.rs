//! The handle that other threads have on a running machine, and the events that end a run.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use trapline::Registry;
use trapline_device::{Power, PowerEvent};
use trapline_kvm::{ExitCounters, VcpuEvent};

use crate::report::Report;

/// Something that may end the run.
pub(crate) enum Event {
    /// The guest asked for it, through this device.
    Power(PowerEvent, &'static str),
    /// A vCPU came to its end.
    Vcpu(VcpuEvent),
    /// The host wants it to end.
    Stop,
}

/// A guest may repeat a request until its vCPU is stopped; the first one counts, so the rest need
/// not be kept.
const EVENTS_MAX: usize = 64;

/// Stops a machine, and looks into it while it runs. Clones control the same machine.
#[derive(Clone)]
pub struct Control {
    events: SyncSender<Event>,
    live: Arc<Mutex<Live>>,
}

/// What can be looked at.
#[derive(Default)]
struct Live {
    registry: Option<Registry>,
    exits: Vec<Arc<ExitCounters>>,
    resets: u32,
}

impl Control {
    pub(crate) fn new() -> (Self, Receiver<Event>) {
        let (events, inbox) = sync_channel(EVENTS_MAX);
        (Self { events, live: Arc::default() }, inbox)
    }

    /// Ends the run; [`crate::Session::run`] returns soon.
    pub fn stop(&self) {
        self.send(Event::Stop);
    }

    /// What the guest has done so far, over all its resets.
    pub fn report(&self) -> Report {
        let live = self.live.lock();
        let mut report = Report { resets: live.resets, ..Report::default() };
        if let Some(registry) = &live.registry {
            report.traps = registry.stats();
        }
        for counters in &live.exits {
            report.exits = report.exits.plus(&counters.snapshot());
        }
        report
    }

    pub(crate) fn send(&self, event: Event) {
        // A full channel holds a reason to stop already.
        let _ = self.events.try_send(event);
    }

    /// Says what there is to look at.
    pub(crate) fn watch(&self, registry: Registry, exits: Vec<Arc<ExitCounters>>) {
        let mut live = self.live.lock();
        live.registry = Some(registry);
        live.exits = exits;
    }

    pub(crate) fn count_reset(&self) {
        self.live.lock().resets += 1;
    }
}

impl Power for Control {
    fn request(&self, event: PowerEvent, device: &'static str) {
        self.send(Event::Power(event, device));
    }
}
