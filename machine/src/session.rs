//! One machine from power-on to its end.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_device::{CharDevice, Clock, Power, PowerEvent};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm};

use crate::clock::HostClock;
use crate::control::{Control, Event};
use crate::flusher::Flusher;
use crate::x86_pc::{self, Board, Wiring};
use crate::{Config, Ending, Error};

/// A machine that has been built and not yet switched on.
pub struct Session {
    config: Config,
    control: Control,
    events: Receiver<Event>,
    vcpus: Vec<Vcpu>,
    board: Board,
    registry: Registry,
    vm: Arc<Vm>,
    mem: GuestMem,
}

impl Session {
    /// Opens KVM, maps RAM, builds the board and its vCPUs.
    ///
    /// # Errors
    /// What cannot be had, in a sentence.
    pub fn new(config: Config) -> Result<Self, Error> {
        let options = x86_pc::vm_options(config.cpus)?;
        let kvm = Kvm::open(&config.kvm_device)?;
        let mem = x86_pc::ram(config.mem_bytes)?;
        let vm = Vm::new(&kvm, &mem, options)?;
        let handles = usize::try_from(config.cpus).unwrap_or(usize::MAX);
        let registry = Registry::builder().handles(handles).offload(vm.offload()).build();
        let (control, events) = Control::new();
        let clock: Arc<dyn Clock> = Arc::new(HostClock::new().map_err(Error::Thread)?);
        let power: Arc<dyn Power> = Arc::new(control.clone());
        let board = Board::new(&registry, &Wiring { vm: &vm, clock, power, config: &config })?;
        let vcpus = (0..config.cpus)
            .map(|index| Vcpu::new(&vm, index, &registry))
            .collect::<Result<Vec<_>, _>>()?;
        control.watch(registry.clone(), vcpus.iter().map(Vcpu::counters).collect());
        Ok(Self { config, control, events, vcpus, board, registry, vm, mem })
    }

    /// The handle for other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The device behind [`Config::console`], to be polled by it.
    pub fn console_device(&self) -> Weak<dyn CharDevice> {
        self.board.console()
    }

    /// Runs the machine until it ends, booting it again after each reset.
    ///
    /// # Errors
    /// The guest's software cannot be loaded, or KVM refuses. Nothing of the guest runs any more.
    pub fn run(&mut self) -> Result<Ending, Error> {
        let _flusher = Flusher::start(self.registry.clone()).map_err(Error::Thread)?;
        let mut again = false;
        loop {
            let start = x86_pc::load(&self.mem, &self.vm, &self.config, again)?;
            match self.run_once(start)? {
                Ending::Reset if self.config.reboot => {
                    self.control.count_reset();
                    tracing::info!("the guest was reset, booting it again");
                    self.board.reset();
                    self.vm.reset()?;
                    again = true;
                }
                ending => return Ok(ending),
            }
        }
    }

    /// Runs the vCPUs until the first event that ends a run, and stops them all.
    fn run_once(&mut self, start: Start) -> Result<Ending, Error> {
        let mut vcpus = std::mem::take(&mut self.vcpus);
        for vcpu in &mut vcpus {
            let start = if vcpu.index() == 0 { start } else { Start::WaitForSipi };
            vcpu.set_start(&start)?;
        }
        let control = self.control.clone();
        let on_event = move |event| control.send(Event::Vcpu(event));
        let running = VcpuSet::start(vcpus, Arc::new(on_event))?;
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
                        PowerEvent::Reset => Ending::Reset,
                        PowerEvent::Off => Ending::Off,
                        PowerEvent::Exit(status) => Ending::Exit(status),
                    };
                }
                Event::Vcpu(VcpuEvent { stop, vcpu }) => match stop {
                    Stop::Requested => {}
                    Stop::Halted => tracing::debug!("vCPU {vcpu} halted for good"),
                    Stop::Reset => return Ending::Reset,
                    Stop::Off => return Ending::Off,
                    Stop::Crash(report) => return Ending::Crashed(report),
                },
            }
        }
    }
}
