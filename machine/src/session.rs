//! One machine from power-on to its end.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_device::{CharDevice, Clock, Power, PowerEvent};
use trapline_display::{Input, Screen};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm};

use crate::clock::HostClock;
use crate::control::{Control, Event};
use crate::flusher::Flusher;
use crate::x86_pc::{self, Board, Display, Options, Wiring};
use crate::{Config, Ending, Error};

/// A machine that has been built and not yet switched on.
pub struct Session {
    config: Config,
    control: Control,
    events: Receiver<Event>,
    vcpus: Vec<Vcpu>,
    /// Where the first vCPU starts, until it has.
    start: Option<Start>,
    display: Option<Display>,
    board: Board,
    registry: Registry,
    vm: Arc<Vm>,
    mem: GuestMem,
}

impl Session {
    /// Opens KVM, maps RAM, builds the board and its vCPUs, and loads the guest's software.
    ///
    /// # Errors
    /// What cannot be had or loaded, in a sentence.
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
        let wiring =
            Wiring { lines: &vm, controllers: None, clock, power, options: options_of(&config) };
        let mut board = Board::new(&registry, &wiring)?;
        let display = match config.display {
            Some(mode) => Some(Display::new(mode, &vm, &registry, &mut board)?),
            None => None,
        };
        let vcpus = (0..config.cpus)
            .map(|index| Vcpu::new(&vm, index, &registry))
            .collect::<Result<Vec<_>, _>>()?;
        control.watch(registry.clone(), vcpus.iter().map(Vcpu::counters).collect());
        let start = Some(x86_pc::load(&mem, &vm, &config, false)?);
        Ok(Self { config, control, events, vcpus, start, display, board, registry, vm, mem })
    }

    /// The handle for other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The device behind [`Config::console`], to be polled by it.
    pub fn console_device(&self) -> Weak<dyn CharDevice> {
        self.board.console()
    }

    /// The screen of [`Config::display`].
    pub fn screen(&self) -> Option<Arc<Screen>> {
        self.display.as_ref().map(Display::screen)
    }

    /// The keyboard and the mouse.
    pub fn input(&self) -> Arc<dyn Input> {
        self.board.input()
    }

    /// Runs the machine until it ends, booting it again after each reset.
    ///
    /// # Errors
    /// The guest's software cannot be loaded again, or KVM refuses. Nothing of the guest runs any
    /// more.
    pub fn run(&mut self) -> Result<Ending, Error> {
        let _flusher = Flusher::start(self.registry.clone()).map_err(Error::Thread)?;
        loop {
            let start = match self.start.take() {
                Some(start) => start,
                None => x86_pc::load(&self.mem, &self.vm, &self.config, true)?,
            };
            match self.run_once(start)? {
                // A guest that resets again and again must not outrun who wants to end it.
                Ending::Reset if self.control.is_stopped() => return Ok(Ending::Stopped),
                Ending::Reset if self.config.reboot => {
                    self.control.count_reset();
                    tracing::info!("the guest was reset, booting it again");
                    self.board.reset();
                    self.vm.reset()?;
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
        let running = Arc::new(VcpuSet::start(vcpus, Arc::new(on_event))?);
        self.control.runs(&running);
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

fn options_of(config: &Config) -> Options {
    Options {
        cpus: config.cpus,
        mem_bytes: config.mem_bytes,
        console: Arc::clone(&config.console),
        firmware_log: Arc::clone(&config.firmware_log),
        exit_port: config.exit_port,
        coalesce: config.coalesce,
    }
}
