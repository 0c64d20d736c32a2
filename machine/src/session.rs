//! One machine from power-on to its end.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_backends::{EpollLoop, HostClock};
use trapline_device::{CharDevice, PowerEvent};
use trapline_display::{Input, Screen};
use trapline_kvm::{Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm};

use crate::board::{self, Options, Wiring};
use crate::control::{Control, Event};
use crate::kvm::{Host, HostBoard};
use crate::on_loop::{CharReport, CoalescedWrites, InputReport, OnLoop};
use crate::{Config, Ending, Error, ResetCause};

/// A machine that has been built and not yet switched on.
pub struct Session {
    config: Config,
    control: Control,
    events: Receiver<Event>,
    vcpus: Vec<Vcpu>,
    /// Where the first vCPU starts, until it has.
    start: Option<Start>,
    console: Arc<OnLoop<dyn CharDevice, CharReport>>,
    input: Option<Arc<OnLoop<dyn Input, InputReport>>>,
    /// Calls the devices for everything that happens outside of the guest.
    _event_loop: Arc<EpollLoop>,
    registry: Registry,
    vm: Arc<Vm>,
    host: Host,
}

impl Session {
    /// Opens KVM, maps RAM, builds the board and its vCPUs, and loads the guest's software.
    ///
    /// # Errors
    /// What cannot be had or loaded, in a sentence.
    pub fn new(config: Config) -> Result<Self, Error> {
        let kvm = Kvm::open(&config.kvm_device)?;
        let (control, events) = Control::new();
        let options = Host::vm_options(&config)?;
        let ram = board::map_ram(&Host::ram_ranges(&config)?, &config.memory)?;
        let vm = Vm::new(&kvm, &ram, options)?;
        let handles = usize::try_from(config.cpus).unwrap_or(usize::MAX);
        let registry = Registry::builder().handles(handles).offload(vm.offload()).build();
        let writes = CoalescedWrites(registry.clone());
        let event_loop = EpollLoop::start("events", writes).map_err(Error::Thread)?;
        let clock = Arc::new(HostClock::new(&*event_loop).map_err(Error::Thread)?);
        let power = Arc::new(control.clone());
        let options = Options::from(&config);
        let wiring = Wiring { registry: registry.clone(), clock, power, ram, options };
        let mut host = Host::new(&vm, wiring, &config)?;
        let console = OnLoop::new(host.board().console(), &*event_loop);
        let input = host.board().input();
        let input = input.map(|input| OnLoop::new(Arc::downgrade(&input), &*event_loop));
        event_loop.look_for_writes();
        let mut vcpus = (0..config.cpus)
            .map(|index| Vcpu::new(&vm, index, &registry))
            .collect::<Result<Vec<_>, _>>()?;
        host.connect(&mut vcpus)?;
        control.watch(registry.clone(), vcpus.iter().map(Vcpu::counters).collect());
        let start = Some(host.load(&config, false)?);
        Ok(Self {
            config,
            control,
            events,
            vcpus,
            start,
            console,
            input,
            _event_loop: event_loop,
            registry,
            vm,
            host,
        })
    }

    /// The handle for other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The device behind [`Config::console`], to be polled by it.
    pub fn console_device(&self) -> Weak<dyn CharDevice> {
        let console: Arc<dyn CharDevice> = self.console.clone();
        Arc::downgrade(&console)
    }

    /// The screen of [`Config::display`].
    pub fn screen(&self) -> Option<Arc<Screen>> {
        self.host.board().screen()
    }

    /// The keyboard and the mouse, if the board has them.
    pub fn input(&self) -> Option<Arc<dyn Input>> {
        self.input.clone().map(|input| input as Arc<dyn Input>)
    }

    /// Runs the machine until it is switched off, reset or stopped. Called again after
    /// [`Ending::Reset`], it boots the guest again.
    ///
    /// # Errors
    /// The guest's software cannot be loaded again, or KVM refuses. Nothing of the guest runs any
    /// more.
    pub fn run(&mut self) -> Result<Ending, Error> {
        let start = match self.start.take() {
            Some(start) => start,
            None => self.boot_again()?,
        };
        match self.run_vcpus(start)? {
            // A guest that resets again and again must not outrun who wants to end it.
            Ending::Reset(_) if self.control.is_stopped() => Ok(Ending::Stopped),
            ending => Ok(ending),
        }
    }

    fn boot_again(&mut self) -> Result<Start, Error> {
        self.control.count_reset();
        self.host.board().devices().reset();
        self.vm.reset()?;
        self.host.load(&self.config, true)
    }

    /// Runs the vCPUs until the first event that ends a run, and stops them all.
    fn run_vcpus(&mut self, start: Start) -> Result<Ending, Error> {
        let mut vcpus = std::mem::take(&mut self.vcpus);
        for vcpu in &mut vcpus {
            let start = if vcpu.index() == 0 { start } else { Host::SECONDARY };
            vcpu.set_start(&start)?;
        }
        let control = self.control.clone();
        let on_event = move |event| control.send(Event::Vcpu(event));
        let running = self.control.start(|| VcpuSet::start(vcpus, Arc::new(on_event)))?;
        let ending = self.wait();
        self.vcpus = running.stop()?;
        self.registry.drain();
        // Requests that came after the first one were made by a machine that was ending.
        while self.events.try_recv().is_ok() {}
        Ok(ending)
    }

    fn wait(&self) -> Ending {
        loop {
            let Ok(event) = self.events.recv() else { return Ending::Stopped };
            match event {
                Event::Stop => return Ending::Stopped,
                Event::Power(event, device) => {
                    tracing::debug!("{device} asks for {event:?}");
                    return match event {
                        PowerEvent::Reset => Ending::Reset(ResetCause::Device(device)),
                        PowerEvent::Off => Ending::Off,
                        PowerEvent::Exit(status) => Ending::Exit(status),
                    };
                }
                Event::Vcpu(VcpuEvent { stop, vcpu }) => match stop {
                    Stop::Requested => {}
                    Stop::Halted => tracing::debug!("vCPU {vcpu} halted for good"),
                    Stop::Reset => return Ending::Reset(ResetCause::Firmware),
                    Stop::TripleFault(report) => {
                        return Ending::Reset(ResetCause::TripleFault(report));
                    }
                    Stop::Off => return Ending::Off,
                    Stop::Crash(report) => return Ending::Crashed(report),
                },
            }
        }
    }
}
