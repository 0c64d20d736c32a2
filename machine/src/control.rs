//! The handle that other threads have on a running machine, and the events that end a run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline::Registry;
use trapline_device::{Power, PowerEvent};
use trapline_kvm::{ExitCounters, VcpuEvent, VcpuSet};

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
    /// The host wants it to end, whatever becomes of the event that says so.
    stopped: Arc<AtomicBool>,
    /// The vCPUs that run.
    running: Arc<Mutex<Weak<VcpuSet>>>,
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
        let (stopped, running, live) = Default::default();
        (Self { events, stopped, running, live }, inbox)
    }

    /// Ends the run; [`crate::Session::run`] returns soon.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.send(Event::Stop);
    }

    /// Whether [`Control::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
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

    /// Starts the vCPUs that are to leave the guest when the guest asks for its end. One that asks
    /// right away waits until they are known.
    pub(crate) fn start<E>(
        &self,
        start: impl FnOnce() -> Result<VcpuSet, E>,
    ) -> Result<Arc<VcpuSet>, E> {
        let mut running = self.running.lock();
        let vcpus = Arc::new(start()?);
        *running = Arc::downgrade(&vcpus);
        Ok(vcpus)
    }

    pub(crate) fn count_reset(&self) {
        self.live.lock().resets += 1;
    }
}

impl Power for Control {
    fn request(&self, event: PowerEvent, device: &'static str) {
        self.send(Event::Power(event, device));
        // A guest that has switched itself off executes nothing more.
        let running = self.running.lock().upgrade();
        if let Some(vcpus) = running {
            vcpus.ask_to_stop();
        }
    }
}
