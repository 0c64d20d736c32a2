//! The handle that other threads have on a machine, and what reaches the machine's own thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use trapline::Registry;
use trapline_device::{Power, PowerEvent};
use trapline_kvm::{ExitCounters, VcpuEvent, VcpuSet};

use crate::Snapshot;
use crate::debug::{Debug, Standing};
use crate::life::{ControlError, Request, State};
use crate::remote::Loss;
use crate::report::Report;
use crate::why::Resets;

/// Where the answer to a request goes.
pub(crate) type Reply = SyncSender<Result<Answer, ControlError>>;

/// What a machine answers that did as it was asked.
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// Its state ([`Request::Save`]).
    State(Box<Snapshot>),
}

/// What somebody does with a machine that stands still. One that does not throws it away.
pub(crate) type Inspection = Box<dyn FnOnce(&mut Standing<'_>) + Send>;

/// Something the machine's own thread does something about.
pub(crate) enum Event {
    /// Another thread wants something, and waits for the answer.
    Request(Request, Reply),
    /// Another thread wants to look into the machine while it stands still.
    Inspect(Inspection),
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

/// Pauses, resumes, resets and stops a machine, and looks into it while it runs. Clones control the
/// same machine.
///
/// Nothing here is for a device or for a handler on the machine's event loop to call: the machine
/// would wait for it.
#[derive(Clone)]
pub struct Control {
    events: SyncSender<Event>,
    /// The host wants it to end, whatever becomes of the event that says so.
    stopped: Arc<AtomicBool>,
    /// The vCPUs that run.
    running: Arc<Mutex<Weak<VcpuSet>>>,
    live: Arc<Mutex<Live>>,
    life: Arc<Life>,
    /// Why the machine cannot go on, if the host says so.
    loss: Loss,
    debug: Arc<Debug>,
}

/// The machine's state, and who waits for it to change.
#[derive(Default)]
struct Life {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    state: State,
    /// Somebody is in [`crate::Session::run`], who answers requests.
    in_run: bool,
}

/// What can be looked at.
#[derive(Default)]
struct Live {
    registry: Option<Registry>,
    exits: Vec<Arc<ExitCounters>>,
    resets: u32,
    /// When the last few were, the latest last.
    reset_times: VecDeque<Instant>,
    reset_cause: Option<String>,
}

/// So many resets are remembered.
const RESETS_MAX: usize = 8;

impl Control {
    pub(crate) fn new() -> (Self, Receiver<Event>) {
        let (events, inbox) = sync_channel(EVENTS_MAX);
        let (stopped, running, live, life, loss, debug) = Default::default();
        (Self { events, stopped, running, live, life, loss, debug }, inbox)
    }

    /// What the machine is doing.
    pub fn state(&self) -> State {
        self.life.now.lock().state
    }

    /// Has the machine stand still: on return no vCPU, no back end and no timer of it runs, every
    /// access of the guest is complete, and every write of the guest has reached its device. The
    /// machine's time goes on (see `life.rs`). A machine that is paused stays so.
    ///
    /// # Errors
    /// The machine is not running, or ended meanwhile.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.ask(Request::Pause)
    }

    /// Has a paused machine go on: on return its vCPUs run. One that runs goes on running.
    ///
    /// # Errors
    /// The machine has not been paused, or ended meanwhile.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.ask(Request::Resume)
    }

    /// Resets the machine, as its reset button would: on return it boots again, or, if it was
    /// paused, will do so when it is resumed.
    ///
    /// # Errors
    /// The machine is not running, or its software cannot be loaded again, of which it ends.
    pub fn reset(&self) -> Result<(), ControlError> {
        self.ask(Request::Reset)
    }

    /// Gives the state of a paused machine, which is saved then: its devices stay as they are, and
    /// it cannot be reset. It can be resumed; whoever goes on from the snapshot elsewhere leaves
    /// that.
    ///
    /// The snapshot has the devices' state and the machine's time. Its slots for vCPUs and for chips
    /// in the kernel are empty: their state is KVM's, and is not asked for yet.
    ///
    /// # Errors
    /// The machine is not paused, or ended meanwhile.
    pub fn save(&self) -> Result<Snapshot, ControlError> {
        match self.request(Request::Save)? {
            Answer::State(snapshot) => Ok(*snapshot),
            Answer::Done => {
                Err(ControlError::State { state: self.state(), request: Request::Save })
            }
        }
    }

    /// Who stops the machine at accesses and instructions, and hears of it.
    pub fn debug(&self) -> &Arc<Debug> {
        &self.debug
    }

    /// Looks into a machine: `look` is called on the machine's thread, where nothing of the machine runs
    /// meanwhile, and must not ask anything of it. A machine that runs stands still for that and goes
    /// on, without being paused for anybody else; who asks meanwhile, to pause it for one, waits.
    ///
    /// # Errors
    /// The machine does not run and is not paused, or ends before it comes to that.
    pub fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Standing<'_>) -> T + Send + 'static,
    ) -> Result<T, ControlError> {
        let answer = self.begin_inspection(look)?;
        answer.recv().map_err(|_| self.not_inspected(RecvTimeoutError::Disconnected))
    }

    /// Has somebody look into the machine, which sends what comes of it.
    pub(crate) fn begin_inspection<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Standing<'_>) -> T + Send + 'static,
    ) -> Result<Receiver<T>, ControlError> {
        let (seen, answer) = sync_channel(1);
        let inspection = move |standing: &mut Standing<'_>| {
            let _ = seen.send(look(standing));
        };
        self.queue(Request::Inspect, Event::Inspect(Box::new(inspection)))?;
        Ok(answer)
    }

    /// Why nothing came of an inspection.
    pub(crate) fn not_inspected(&self, error: RecvTimeoutError) -> ControlError {
        match error {
            RecvTimeoutError::Timeout => ControlError::Late { request: Request::Inspect },
            // It was thrown away.
            RecvTimeoutError::Disconnected => {
                ControlError::State { state: self.state(), request: Request::Inspect }
            }
        }
    }

    /// Ends the run: on return no vCPU runs any more, and [`crate::Session::run`] returns.
    pub fn stop(&self) {
        self.request_stop();
        let mut now = self.life.now.lock();
        while now.in_run {
            self.life.changed.wait(&mut now);
        }
    }

    /// Asks for what [`Control::stop`] does, and waits for nothing.
    pub fn request_stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.send(Event::Stop);
    }

    /// Ends the run with an error for this reason, and waits for nothing.
    pub(crate) fn lose(&self, reason: String) {
        self.loss.set(reason);
        self.request_stop();
    }

    /// Why the run has to end with an error, if it has.
    pub(crate) fn loss(&self) -> Option<&str> {
        self.loss.get()
    }

    /// Has the machine pause, and waits for nothing: for whoever is on its event loop.
    pub(crate) fn request_pause(&self) {
        let (nobody, _) = sync_channel(1);
        self.send(Event::Request(Request::Pause, nobody));
    }

    fn ask(&self, request: Request) -> Result<(), ControlError> {
        self.request(request).map(|_| ())
    }

    fn request(&self, request: Request) -> Result<Answer, ControlError> {
        let (reply, answer) = sync_channel(1);
        self.queue(request, Event::Request(request, reply))?;
        let thrown_away = |_| Err(ControlError::State { state: self.state(), request });
        answer.recv().unwrap_or_else(thrown_away)
    }

    /// Queues what asks for `request`, if the machine can do that now.
    fn queue(&self, request: Request, mut event: Event) -> Result<(), ControlError> {
        loop {
            // With the state locked: whoever ends the run changes it, and then throws away the
            // requests that came before.
            let now = self.life.now.lock();
            now.state.after(request)?;
            match self.events.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => event = back,
            }
            drop(now);
            std::thread::yield_now();
        }
    }

    /// A run begins or ends. What was asked before its end and not answered yet can be thrown away
    /// afterwards, as nothing more comes.
    pub(crate) fn in_run(&self, in_run: bool, state: State) {
        *self.life.now.lock() = Now { state, in_run };
        self.life.changed.notify_all();
    }

    /// The machine is doing something else now.
    pub(crate) fn enter(&self, state: State) {
        self.life.now.lock().state = state;
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

    /// The registry, to look on in; nothing before the machine is built.
    pub fn registry(&self) -> Option<Registry> {
        self.live.lock().registry.clone()
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
    /// right away waits until they are known. The machine is running before the first of them is:
    /// who sees that the guest has begun can ask for everything that a running machine can do.
    pub(crate) fn start<E>(
        &self,
        start: impl FnOnce() -> Result<VcpuSet, E>,
    ) -> Result<Arc<VcpuSet>, E> {
        self.enter(State::Running);
        let mut running = self.running.lock();
        let vcpus = Arc::new(start()?);
        *running = Arc::downgrade(&vcpus);
        Ok(vcpus)
    }

    pub(crate) fn count_reset(&self) {
        let mut live = self.live.lock();
        live.resets += 1;
        if live.reset_times.len() >= RESETS_MAX {
            live.reset_times.pop_front();
        }
        live.reset_times.push_back(Instant::now());
    }

    /// What the next reset is by.
    pub(crate) fn note_reset(&self, cause: String) {
        self.live.lock().reset_cause = Some(cause);
    }

    /// How the machine was reset.
    pub(crate) fn resets(&self) -> Resets {
        let live = self.live.lock();
        Resets {
            count: live.resets,
            ago: live.reset_times.iter().rev().map(Instant::elapsed).collect(),
            cause: live.reset_cause.clone(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_runs_before_its_first_vcpu_does() {
        let (control, _events) = Control::new();
        control.in_run(true, State::Resetting);
        let mut seen = None;
        let started = control.start(|| {
            seen = Some((control.state(), control.queue(Request::Pause, Event::Stop)));
            Err(())
        });
        assert!(started.is_err());
        assert_eq!(seen, Some((State::Running, Ok(()))));
    }
}
