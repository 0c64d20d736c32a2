//! The PC board with KVM's processors and interrupt controllers.

use std::sync::{Arc, OnceLock, Weak};

use trapline::Registry;
use trapline_device::{CharDevice, Clock, Device, Line, LineSink, Power};
use trapline_display::{Input, Screen};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Kvm, LocalApics, Start, Vcpu, Vm, VmOptions};
use trapline_platform::testdev::PageFlush;

use super::display::Display;
use super::intc::Controllers;
use super::{Board, Options, Wiring, boot, layout, ram};
use crate::control::Control;
use crate::parts::Lines;
use crate::session::OnKvm;
use crate::{Boot, Config, Error, PcIrqchip};

/// Local APIC and I/O APIC numbers are a byte in the MP table, and one more is the broadcast.
const CPUS_MAX: u32 = 254;

/// The board, its RAM and its VM.
pub(crate) struct PcOnKvm {
    display: Option<Display>,
    /// Our own interrupt controllers, if there are any.
    chips: Option<Chips>,
    board: Board,
    registry: Registry,
    vm: Arc<Vm>,
    mem: GuestMem,
}

impl OnKvm for PcOnKvm {
    const OTHERS: Start = Start::WaitForSipi;

    fn new(
        kvm: &Kvm,
        config: &Config,
        clock: Arc<dyn Clock>,
        control: &Control,
    ) -> Result<Self, Error> {
        let options = vm_options(config)?;
        let mem = ram(config.mem_bytes, &config.memory)?;
        let vm = Vm::new(kvm, &mem, options)?;
        let handles = usize::try_from(config.cpus).unwrap_or(usize::MAX);
        let registry = Registry::builder().handles(handles).offload(vm.offload()).build();
        let power: Arc<dyn Power> = Arc::new(control.clone());
        let chips = match config.pc_irqchip {
            PcIrqchip::Kernel => None,
            PcIrqchip::Split => Some(Chips::around(&vm, &clock)?),
        };
        let controllers = chips.as_ref().map(|chips| &chips.controllers);
        let wiring = Wiring {
            lines: controllers.map_or(&vm, |controllers| controllers as &dyn Lines),
            controllers,
            clock,
            power,
            mem: mem.clone(),
            pages: Arc::new(Pages(Arc::downgrade(&vm))),
            options: options_of(config),
        };
        let mut board = Board::new(&registry, wiring)?;
        let display = match config.display {
            Some(mode) => Some(Display::new(mode, &vm, &registry, &mut board)?),
            None => None,
        };
        Ok(Self { display, chips, board, registry, vm, mem })
    }

    fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn complete(&mut self, vcpus: &mut [Vcpu]) -> Result<(), Error> {
        if let Some(chips) = &self.chips {
            chips.connect(vcpus);
        }
        Ok(())
    }

    fn load(&self, config: &Config, again: bool) -> Result<Start, Error> {
        boot::load(&self.mem, &self.vm, config, again)
    }

    fn reset(&self) -> Result<(), Error> {
        self.board.reset();
        Ok(self.vm.reset()?)
    }

    fn console(&self) -> Weak<dyn CharDevice> {
        self.board.console()
    }

    fn screen(&self) -> Option<Arc<Screen>> {
        self.display.as_ref().map(Display::screen)
    }

    fn input(&self) -> Option<Arc<dyn Input>> {
        Some(self.board.input())
    }
}

impl Lines for Arc<Vm> {
    fn line(&self, number: u32) -> Line {
        Vm::line(self, number)
    }
}

/// Our own interrupt controllers around KVM's local APICs.
struct Chips {
    controllers: Controllers,
    /// The first vCPU's INTR pin, when there are vCPUs.
    processor: Arc<OnceLock<Box<dyn LineSink>>>,
}

impl Chips {
    /// Controllers after power-on.
    fn around(vm: &Arc<Vm>, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let local = LocalApics::new(vm);
        let processor = Arc::<OnceLock<_>>::default();
        let controllers = Controllers::new(local.clone(), Some(local), clock, |pin0| {
            Line::new(Intr { processor: Arc::clone(&processor), pin0 })
        })?;
        Ok(Self { controllers, processor })
    }

    /// Connects them to all vCPUs of the VM; INTR is the first one's.
    fn connect(&self, vcpus: &mut [Vcpu]) {
        if let Some(first) = vcpus.first_mut() {
            let _ = self.processor.set(Box::new(first.intr()));
            first.connect_intr(self.controllers.ext_int());
        }
        for vcpu in vcpus {
            vcpu.connect_eoi(self.controllers.eoi_sink());
        }
    }
}

/// The wire from the 8259s' INTR to the processor and to pin 0 of the I/O APIC.
struct Intr {
    processor: Arc<OnceLock<Box<dyn LineSink>>>,
    pin0: Box<dyn LineSink>,
}

impl LineSink for Intr {
    fn set_level(&self, level: bool) {
        if let Some(processor) = self.processor.get() {
            processor.set_level(level);
        }
        self.pin0.set_level(level);
    }
}

/// Guest RAM as KVM has mapped it.
struct Pages(Weak<Vm>);

impl PageFlush for Pages {
    fn flush(&self, addr: u64) {
        if let Some(vm) = self.0.upgrade() {
            vm.flush_page(addr);
        }
    }
}

/// How KVM is to make the VM.
fn vm_options(config: &Config) -> Result<VmOptions, Error> {
    let cpus = config.cpus;
    if cpus > CPUS_MAX {
        return Err(Error::TooManyCpus { wanted: cpus, max: CPUS_MAX });
    }
    let (tss_addr, identity_map) = match config.boot {
        Boot::Kernel { .. } => (layout::TSS, layout::IDENTITY_MAP),
        Boot::Firmware(_) => (layout::FIRMWARE_TSS, layout::FIRMWARE_IDENTITY_MAP),
    };
    Ok(VmOptions {
        vcpus: cpus,
        tss_addr,
        identity_map_addr: Some(identity_map),
        irqchip: match config.pc_irqchip {
            PcIrqchip::Kernel => trapline_kvm::Irqchip::Kernel,
            PcIrqchip::Split => trapline_kvm::Irqchip::Split,
        },
        pit: config.pc_irqchip == PcIrqchip::Kernel,
    })
}

fn options_of(config: &Config) -> Options {
    Options {
        cpus: config.cpus,
        mem_bytes: config.mem_bytes,
        console: Arc::clone(&config.console),
        firmware_log: Arc::clone(&config.firmware_log),
        exit_port: config.exit_port,
        testdev: config.testdev,
        fw_cfg: config.fw_cfg.clone(),
        coalesce: config.coalesce,
    }
}
