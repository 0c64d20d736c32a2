//! One machine from power-on to its end.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use trapline::{Mode, Offload, Registry};
use trapline_backends::{EpollLoop, HostClock};
use trapline_device::{CharDevice, Clock, PowerEvent};
use trapline_display::{Input, Screen};
use trapline_kvm::{
    CountedClock, Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm, release_startup_memory,
};
use trapline_virtio::balloon::Balloon;
use trapline_virtio::console::Console as VirtioConsole;

use crate::board::{self, Board, Options, Vfio, Wiring};
use crate::control::{Answer, Control, Event, Inspection, Reply};
use crate::debug::Standing;
use crate::isolate::Isolates;
use crate::kvm::{Host, HostBoard};
use crate::life::{ControlError, Request, State};
use crate::on_loop::{CharReport, CoalescedWrites, InputReport, OnLoop, SizeReport, Terminal};
use crate::record::exact::NoDoorbells;
use crate::record::{Recorded, Tapped};
use crate::remote::Remotes;
use crate::{Config, Ending, Error, ResetCause, Snapshot};

/// A machine that has been built and not yet switched on.
pub struct Session {
    config: Config,
    control: Control,
    events: Receiver<Event>,
    /// What came while somebody looked into the machine, before what is in `events`.
    put_off: VecDeque<Event>,
    vcpus: Vec<Vcpu>,
    /// Where the first vCPU starts, until it has.
    start: Option<Start>,
    console: Arc<OnLoop<dyn CharDevice, CharReport>>,
    input: Option<Arc<OnLoop<dyn Input, InputReport>>>,
    /// The virtio console, to be told of its terminal.
    terminal: Option<Arc<OnLoop<VirtioConsole, SizeReport>>>,
    /// Calls the devices for everything that happens outside of the guest.
    event_loop: Arc<EpollLoop>,
    clock: Arc<HostClock>,
    registry: Registry,
    vm: Arc<Vm>,
    /// Before the board, whose devices it is about.
    recorded: Option<Recorded>,
    host: Host,
    /// After the board, which has the devices that are in processes.
    isolates: Arc<Isolates>,
    _remotes: Remotes,
}

impl Session {
    /// Opens KVM, maps RAM, builds the board and its vCPUs, and loads the guest's software.
    ///
    /// # Errors
    /// What cannot be had or loaded, in a sentence.
    pub fn new(config: Config) -> Result<Self, Error> {
        // Each step of the start leaves its code behind: what is opened before a machine is built, how it
        // is built, how its software is loaded.
        release_startup_memory();
        let kvm = Kvm::open(&config.kvm_device)?;
        let (control, events) = Control::new();
        let ram = board::map_ram(&Host::ram_ranges(&config)?, &config.memory)?;
        let vm = Vm::new(&kvm, &ram, Host::vm_options(&config)?)?;
        let registry = Registry::builder().offload(offload(&vm, &config)).build();
        let writes = CoalescedWrites::of(&registry);
        let event_loop = EpollLoop::start("events", writes.clone()).map_err(Error::EventLoop)?;
        let clock = Arc::new(HostClock::new(&*event_loop).map_err(Error::EventLoop)?);
        let mode = if config.record.is_some() { Mode::Lossless } else { Mode::Flight };
        registry.start_recorder(Arc::new(CountedClock::new(clock.clone())), mode);
        let power = Arc::new(control.clone());
        let mut options = Options::from(&config);
        let tapped = Tapped::of(&config, &registry, clock.clone(), &mut options)?;
        let vfio = Vfio::open(&config.vfio, &vm)?;
        let isolates = Arc::new(Isolates::new(&config.isolate, &control)?);
        let wiring = Wiring {
            registry: registry.clone(),
            clock: tapped.clock(),
            host_clock: tapped.host_clock(),
            journal: tapped.journal(),
            event_loop: event_loop.clone(),
            power,
            ram,
            vfio,
            isolates: Arc::clone(&isolates),
            options,
        };
        let mut host = Host::new(&vm, wiring, &config)?;
        let console = OnLoop::new(host.board().console(), &*event_loop, tapped.journal());
        pause_for_disks(host.board(), &control);
        let remotes = Remotes::connect(&config.ioregions, &registry, &control)?;
        let terminal = host.board().virtio().console.as_ref();
        let terminal = terminal.filter(|console| console.has_console()).map(Arc::downgrade);
        let terminal = terminal.map(|device| OnLoop::new(device, &*event_loop, tapped.journal()));
        let input = host.board().input();
        let told = |input| OnLoop::new(Arc::downgrade(&input), &*event_loop, tapped.journal());
        let input = input.map(told);
        event_loop.look_for_writes();
        let mut vcpus = (0..config.cpus)
            .map(|index| Vcpu::new(&vm, index, &registry))
            .collect::<Result<Vec<_>, _>>()?;
        host.connect(&mut vcpus)?;
        writes.connect(&vcpus);
        control.watch(registry.clone(), vcpus.iter().map(Vcpu::counters).collect());
        control.debug().begin(&registry, vcpus.iter().map(Vcpu::brake).collect());
        release_startup_memory();
        let start = Some(host.load(&config, false)?);
        let recorded = tapped.begin(&config, host.irqchip(), host.board(), &registry)?;
        Ok(Self {
            recorded,
            config,
            control,
            events,
            put_off: VecDeque::new(),
            vcpus,
            start,
            console,
            input,
            terminal,
            event_loop,
            clock,
            registry,
            vm,
            host,
            isolates,
            _remotes: remotes,
        })
    }

    /// The handle for other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The registry, to watch the guest's accesses in.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The device behind [`Config::console`], to be polled by it.
    pub fn console_device(&self) -> Weak<dyn CharDevice> {
        let console: Arc<dyn CharDevice> = self.console.clone();
        Arc::downgrade(&console)
    }

    /// Who tells the virtio console of the size of its terminal, if there is one.
    pub fn terminal(&self) -> Option<Terminal> {
        self.terminal.clone().map(Terminal)
    }

    /// The balloon, if there is one.
    pub fn balloon(&self) -> Option<&Arc<Balloon>> {
        self.host.board().virtio().balloon.as_ref()
    }

    /// Where ports ([`Config::ports`]) are on the host, as far as that was the host's choice: their
    /// names, and the names of terminals.
    pub fn port_places(&self) -> &[(String, PathBuf)] {
        &self.host.board().virtio().places
    }

    /// The screen of [`Config::display`].
    pub fn screen(&self) -> Option<Arc<Screen>> {
        self.host.board().screen()
    }

    /// The keyboard and the mouse, if the board has them.
    pub fn input(&self) -> Option<Arc<dyn Input>> {
        self.input.clone().map(|input| input as Arc<dyn Input>)
    }

    /// Writes the rest of the recording, if the run is recorded. Nothing of the guest runs any more.
    ///
    /// # Errors
    /// It could not be written, now or earlier.
    pub fn finish_recording(&mut self) -> Result<(), Error> {
        self.recorded.take().map_or(Ok(()), Recorded::finish)
    }

    /// Runs the machine until it is switched off, reset by its guest or stopped. Called again after
    /// [`Ending::Reset`], it boots the guest again.
    ///
    /// # Errors
    /// The guest's software cannot be loaded again, or KVM refuses. Nothing of the guest runs any
    /// more.
    pub fn run(&mut self) -> Result<Ending, Error> {
        let begins = if self.start.is_some() { State::Built } else { State::Resetting };
        self.control.in_run(true, begins);
        let mut ended = self.run_to_its_end();
        if let Some(reason) = self.control.loss() {
            ended = Err(Error::DeviceLost(reason.to_owned()));
        }
        let state = match &ended {
            Ok(Ending::Reset(cause)) => {
                self.control.note_reset(cause.to_string());
                State::Resetting
            }
            _ => State::Ended,
        };
        self.event_loop.resume();
        self.control.in_run(false, state);
        // Whatever came after the reason to end was asked of a machine that was ending.
        self.put_off.clear();
        while self.events.try_recv().is_ok() {}
        ended
    }

    fn run_to_its_end(&mut self) -> Result<Ending, Error> {
        // A guest that resets again and again must not outrun who wants to end it.
        if self.control.is_stopped() {
            return Ok(Ending::Stopped);
        }
        let start = match self.start.take() {
            Some(start) => {
                release_startup_memory();
                start
            }
            None => self.boot_again()?,
        };
        self.set_start(start)?;
        let mut next = Next::Run(None);
        loop {
            next = match next {
                Next::Run(answer) => self.run_vcpus(answer)?,
                Next::Look(look) => self.stand_still_for(look),
                Next::Pause(reply) => self.stay_paused(&reply)?,
                Next::Reset(reply) => {
                    self.control.note_reset("its user".to_owned());
                    self.reset(&reply)?;
                    Next::Run(Some(reply))
                }
                Next::End(Ending::Reset(_)) if self.control.is_stopped() => {
                    return Ok(Ending::Stopped);
                }
                Next::End(ending) => return Ok(ending),
            };
        }
    }

    /// Puts the machine back to power-on, with the guest's software in memory; says where the first
    /// vCPU starts. All vCPUs are stopped.
    fn boot_again(&mut self) -> Result<Start, Error> {
        self.control.count_reset();
        let _step = self.recorded.as_ref().map(Recorded::reset);
        self.host.board().devices().reset();
        self.vm.reset()?;
        self.host.load(&self.config, true)
    }

    /// Puts all vCPUs where they start.
    fn set_start(&mut self, start: Start) -> Result<(), Error> {
        for vcpu in &mut self.vcpus {
            let start = if vcpu.index() == 0 { start } else { Host::SECONDARY };
            vcpu.set_start(&start)?;
        }
        Ok(())
    }

    /// Resets the machine because somebody asked for it, who is told if it fails.
    fn reset(&mut self, reply: &Reply) -> Result<(), Error> {
        self.control.enter(State::Resetting);
        let done = self.boot_again().and_then(|start| self.set_start(start));
        done.inspect_err(|error| fail(reply, Request::Reset, error))
    }

    /// Runs the vCPUs, which `answer` waits for, until something else is to be done, and stops them
    /// all.
    fn run_vcpus(&mut self, answer: Option<Reply>) -> Result<Next, Error> {
        let control = self.control.clone();
        let on_event = move |event: VcpuEvent| {
            if event.stop != Stop::Requested {
                control.send(Event::Vcpu(event));
            }
        };
        self.control.debug().goes_on();
        self.event_loop.resume();
        self.isolates.pause(false);
        self.look_after_disks();
        let vcpus = std::mem::take(&mut self.vcpus);
        let running = self.control.start(|| VcpuSet::start(vcpus, Arc::new(on_event)))?;
        if let Some(answer) = answer {
            succeed(&answer);
        }
        let next = self.wait();
        self.vcpus = running.stop().map_err(Error::from).inspect_err(|error| match &next {
            Next::Pause(reply) => fail(reply, Request::Pause, error),
            Next::Reset(reply) => fail(reply, Request::Reset, error),
            Next::Run(_) | Next::Look(_) | Next::End(_) => {}
        })?;
        self.registry.drain();
        self.isolates.settle();
        Ok(next)
    }

    /// Has the disks be as large as their images are by now, and go on with what had the machine pause,
    /// which may be over. Those of a machine that is recorded keep their sizes, as nobody would know when
    /// it is played.
    fn look_after_disks(&self) {
        let disks = &self.host.board().virtio().disks;
        if self.recorded.is_none() {
            for blk in disks {
                if let Err(error) = blk.look_again() {
                    let image = blk.disk().options().path.display();
                    tracing::warn!("disk image {image}: its size cannot be had: {error}");
                }
            }
        }
        let recorded = self.recorded.as_ref().filter(|_| !disks.is_empty());
        let _step = recorded.map(Recorded::retry);
        disks.iter().for_each(|blk| blk.retry());
    }

    /// Waits for a reason to stop the vCPUs.
    fn wait(&mut self) -> Next {
        loop {
            let event = self.put_off.pop_front().map_or_else(|| self.events.recv(), Ok);
            let Ok(event) = event else { return Next::End(Ending::Stopped) };
            match event {
                Event::Inspect(look) => return Next::Look(look),
                Event::Request(Request::Pause, reply) => return Next::Pause(reply),
                Event::Request(Request::Reset, reply) => return Next::Reset(reply),
                Event::Request(Request::Resume, reply) => succeed(&reply),
                Event::Request(request, reply) => refuse(&reply, State::Running, request),
                event if self.is_stop(&event) => return Next::Pause(nobody()),
                event => {
                    if let Some(ending) = ending(event) {
                        return Next::End(ending);
                    }
                }
            }
        }
    }

    /// Stands still while somebody looks, and goes on, unless a vCPU came to a break or the guest ended
    /// meanwhile.
    fn stand_still_for(&mut self, look: Inspection) -> Next {
        self.event_loop.pause();
        self.isolates.pause(true);
        self.registry.drain();
        look(&mut self.standing());
        let Came { requests, end, stops } = self.came();
        if let Some(end) = end {
            refuse_all(requests);
            return Next::End(end);
        }
        self.put_off.extend(requests);
        if stops {
            return Next::Pause(nobody());
        }
        self.vcpus.iter().for_each(Vcpu::tell_of_pause);
        Next::Run(None)
    }

    /// The machine, for who looks into it.
    fn standing(&mut self) -> Standing<'_> {
        Standing {
            vcpus: &mut self.vcpus,
            memory: self.vm.memory(),
            debug: self.control.debug(),
            host: &self.host,
            vm: &self.vm,
        }
    }

    /// What came up to now; for when the vCPUs have stopped. The guest may have ended itself while
    /// they did: nothing of it runs any more, so what it asked for is queued by now.
    fn came(&mut self) -> Came {
        let put_off = std::mem::take(&mut self.put_off);
        let mut came = Came { requests: Vec::new(), end: None, stops: false };
        for event in put_off.into_iter().chain(self.events.try_iter()) {
            match event {
                event if self.is_stop(&event) => came.stops = true,
                event @ (Event::Request(..) | Event::Inspect(_)) => came.requests.push(event),
                event => came.end = came.end.or_else(|| ending(event)),
            }
        }
        came
    }

    /// Whether a vCPU has stopped for who debugs the guest, which is noted then.
    fn is_stop(&self, event: &Event) -> bool {
        match event {
            Event::Vcpu(VcpuEvent { stop: Stop::Braked, .. }) => true,
            Event::Vcpu(VcpuEvent { stop: Stop::Debug(stop), vcpu }) => {
                self.control.debug().instruction(*vcpu, *stop);
                true
            }
            _ => false,
        }
    }

    /// Stands still, which `reply` waits for, until the machine is to go on or to end. The vCPUs
    /// are stopped: their accesses are complete, as KVM has come back interrupted.
    fn stay_paused(&mut self, reply: &Reply) -> Result<Next, Error> {
        self.event_loop.pause();
        self.isolates.pause(true);
        // What a handler of the loop may have had the guest's devices do last.
        self.registry.drain();
        let Came { requests, end, .. } = self.came();
        if let Some(end) = end {
            refuse(reply, State::Ended, Request::Pause);
            refuse_all(requests);
            return Ok(Next::End(end));
        }
        let mut requests = requests.into_iter();
        let mut state = State::Paused;
        self.control.enter(state);
        let waited_for = reply.send(Ok(Answer::Done)).is_ok();
        // Who wanted to know has gone, and nobody else has asked for a pause.
        if self.control.debug().announce() == Some(false) && !waited_for && requests.len() == 0 {
            self.vcpus.iter().for_each(Vcpu::tell_of_pause);
            return Ok(Next::Run(None));
        }
        loop {
            let next = requests.next().map_or_else(|| self.events.recv(), Ok);
            let Ok(event) = next else { return Ok(Next::End(Ending::Stopped)) };
            match event {
                Event::Request(request, reply) if state.after(request).is_err() => {
                    refuse(&reply, state, request);
                }
                Event::Request(Request::Pause, reply) => succeed(&reply),
                Event::Request(Request::Resume, reply) => {
                    self.vcpus.iter().for_each(Vcpu::tell_of_pause);
                    return Ok(Next::Run(Some(reply)));
                }
                Event::Request(Request::Reset, reply) => {
                    self.reset(&reply)?;
                    self.control.enter(state);
                    succeed(&reply);
                }
                Event::Request(Request::Save, reply) => {
                    state = State::Saved;
                    self.control.enter(state);
                    let _ = reply.send(Ok(Answer::State(Box::new(self.snapshot()))));
                }
                Event::Request(request @ (Request::Stop | Request::Inspect), reply) => {
                    refuse(&reply, state, request);
                }
                Event::Inspect(look) => look(&mut self.standing()),
                // The host ended it meanwhile.
                event => {
                    if let Some(ending) = ending(event) {
                        return Ok(Next::End(ending));
                    }
                }
            }
        }
    }

    /// The state of a machine that stands still, as far as it is ours and not KVM's.
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            now_ns: self.clock.now_ns(),
            devices: self.host.board().devices().save(),
            vcpus: BTreeMap::new(),
            kernel_chips: BTreeMap::new(),
        }
    }
}

/// Has a disk that cannot go on have the machine pause.
fn pause_for_disks(board: &dyn Board, control: &Control) {
    for blk in &board.virtio().disks {
        let control = control.clone();
        blk.disk().on_stop(move |reason| {
            tracing::error!("{reason}; the machine is paused, and tries again when it goes on");
            control.request_pause();
        });
    }
}

/// What KVM does for the registry. Of an exact recording it rings no doorbells.
fn offload(vm: &Arc<Vm>, config: &Config) -> Arc<dyn Offload> {
    match &config.record {
        Some(record) if record.exact => Arc::new(NoDoorbells(vm.offload())),
        _ => vm.offload(),
    }
}

/// What is to be done next in a run.
enum Next {
    /// Run the vCPUs. Whoever asked for it waits until they do.
    Run(Option<Reply>),
    /// Stand still for as long as somebody looks.
    Look(Inspection),
    /// Stand still.
    Pause(Reply),
    /// Reset the machine, and go on.
    Reset(Reply),
    /// End the run.
    End(Ending),
}

/// What came while the vCPUs stopped.
struct Came {
    /// Requests and inspections, in their order.
    requests: Vec<Event>,
    /// How the run is to end, if it is.
    end: Option<Ending>,
    /// Whether a vCPU stopped for who debugs the guest.
    stops: bool,
}

/// How the run ends of an event that is no request, if it does.
fn ending(event: Event) -> Option<Ending> {
    Some(match event {
        Event::Request(..) | Event::Inspect(_) => return None,
        Event::Stop => Ending::Stopped,
        Event::Power(event, device) => {
            tracing::debug!("{device} asks for {event:?}");
            match event {
                PowerEvent::Reset => Ending::Reset(ResetCause::Device(device)),
                PowerEvent::Off => Ending::Off,
                PowerEvent::Exit(status) => Ending::Exit(status),
            }
        }
        Event::Vcpu(VcpuEvent { stop, vcpu }) => match stop {
            Stop::Requested | Stop::Braked | Stop::Debug(_) => return None,
            Stop::Halted => {
                tracing::debug!("vCPU {vcpu} halted for good");
                return None;
            }
            Stop::Reset => Ending::Reset(ResetCause::Firmware),
            Stop::TripleFault(report) => Ending::Reset(ResetCause::TripleFault(report)),
            Stop::Off => Ending::Off,
            Stop::Crash(report) => Ending::Crashed(report),
        },
    })
}

/// Whom to answer where nobody has asked.
fn nobody() -> Reply {
    std::sync::mpsc::sync_channel(1).0
}

/// Tells who asked that it is done. Who has gone away meanwhile need not know.
fn succeed(reply: &Reply) {
    let _ = reply.send(Ok(Answer::Done));
}

fn refuse(reply: &Reply, state: State, request: Request) {
    let _ = reply.send(Err(ControlError::State { state, request }));
}

/// Refuses what was asked of a machine that is over. Inspections are thrown away, which says so.
fn refuse_all(requests: Vec<Event>) {
    for event in requests {
        if let Event::Request(request, reply) = event {
            refuse(&reply, State::Ended, request);
        }
    }
}

fn fail(reply: &Reply, request: Request, error: &Error) {
    let _ = reply.send(Err(ControlError::Failed { request, reason: error.to_string() }));
}
