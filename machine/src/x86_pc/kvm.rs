//! The PC board with KVM's processors and interrupt controllers.

use std::sync::{Arc, OnceLock, Weak};

use trapline_device::{Line, LineSink};
use trapline_guestmem::GuestMem;
use trapline_kvm::{LocalApics, Start, Vcpu, Vm, VmOptions};
use trapline_platform::testdev::PageFlush;

use super::intc::Controllers;
use super::{FlashImages, Source, X86Pc, boot, display, layout, pending};
use crate::board::{Board, Lines, Wiring};
use crate::kvm::HostBoard;
use crate::record::journal::{self, Journal};
use crate::record::settings::SPLIT;
use crate::why::Interrupt;
use crate::{Boot, Config, Error, PcIrqchip};

/// Local APIC and I/O APIC numbers are a byte in the MP table, and one more is the broadcast.
const CPUS_MAX: u32 = 254;

/// The PC on KVM, which runs its processors and their local APICs.
pub(crate) struct PcOnKvm {
    board: X86Pc,
    vm: Arc<Vm>,
    ram: GuestMem,
    /// What is in the flash that firmware starts in, if there is one.
    firmware: Option<GuestMem>,
    /// Our own interrupt controllers, if there are any.
    chips: Option<Chips>,
}

impl HostBoard for PcOnKvm {
    const SECONDARY: Start = Start::WaitForSipi;

    fn ram_ranges(config: &Config) -> Result<Vec<(u64, u64)>, Error> {
        super::ram_ranges(config.mem_bytes)
    }

    fn vm_options(config: &Config) -> Result<VmOptions, Error> {
        vm_options(config)
    }

    fn new(vm: &Arc<Vm>, wiring: Wiring, config: &Config) -> Result<Self, Error> {
        let chips = match config.pc_irqchip {
            PcIrqchip::Kernel => None,
            PcIrqchip::Split => Some(Chips::around(vm, &wiring)?),
        };
        let controllers = chips.as_ref().map(|chips| Arc::clone(&chips.controllers));
        let lines = match controllers.clone() {
            Some(controllers) => Lines::new(move |gsi| controllers.line(gsi)),
            None => {
                let (vm, journal) = (Arc::clone(vm), wiring.journal.clone());
                Lines::new(move |gsi| match &journal {
                    Some(journal) => journal::line(vm.line(gsi), journal, gsi),
                    None => vm.line(gsi),
                })
            }
        };
        let pages = Arc::new(Pages(Arc::downgrade(vm)));
        let flash = match &config.boot {
            Boot::Firmware { path, flash, .. } => FlashImages::of(path, flash).open()?,
            Boot::Kernel { .. } => Vec::new(),
        };
        // What is in the topmost one is what a processor starts with.
        let firmware = flash.first().map(|image| image.contents().clone());
        let messages = journal::messages(vm.messages(), wiring.journal.as_ref());
        let lines = Arc::new(lines);
        let source = Source { lines, messages, controllers, pages, flash };
        let mut board = X86Pc::new(&wiring, &source)?;
        if let Some(mode) = config.display {
            display::add(mode, &wiring.registry, &mut board)?;
        }
        Ok(Self { board, vm: Arc::clone(vm), ram: wiring.ram, firmware, chips })
    }

    fn board(&self) -> &dyn Board {
        &self.board
    }

    fn connect(&mut self, vcpus: &mut [Vcpu]) -> Result<(), Error> {
        if let Some(chips) = &self.chips {
            chips.connect(vcpus);
        }
        Ok(())
    }

    fn irqchip(&self) -> &'static str {
        match &self.chips {
            Some(_) => SPLIT,
            None => "kernel",
        }
    }

    fn interrupts(&self, vm: &Vm, vcpus: &[Vcpu]) -> Result<Vec<Interrupt>, Error> {
        let chips = match (&self.chips, vm.kernel_chips()?) {
            (Some(ours), _) => ours.controllers.pending(),
            (None, Some(kernel)) => pending::Chips::of_kernel(&kernel),
            (None, None) => return Ok(Vec::new()),
        };
        let cpus = vcpus.iter().map(pending::Cpu::of).collect::<Result<Vec<_>, _>>()?;
        Ok(pending::waiting(&chips, &cpus))
    }

    fn load(&self, config: &Config, again: bool) -> Result<Start, Error> {
        if matches!(config.boot, Boot::Kernel { .. }) {
            self.set_up_as_firmware_does()?;
        }
        match &self.firmware {
            Some(flash) => boot::start_flash(&self.ram, flash, config),
            None => {
                let windows = self.board.virtio_windows;
                boot::load(&self.ram, self.board.devices(), config, windows, again)
            }
        }
    }
}

impl PcOnKvm {
    /// Sets up interrupts for software that relies on firmware having done so.
    fn set_up_as_firmware_does(&self) -> Result<(), Error> {
        match &self.chips {
            Some(chips) => chips.controllers.set_level_triggered(layout::irq::LEVEL),
            None => self.vm.set_level_triggered(layout::irq::LEVEL)?,
        }
        self.board.tell_interrupt_lines();
        Ok(())
    }
}

/// Our own interrupt controllers around KVM's local APICs.
struct Chips {
    controllers: Arc<Controllers>,
    /// The first vCPU's INTR pin, when there are vCPUs.
    processor: Arc<OnceLock<Box<dyn LineSink>>>,
    journal: Option<Arc<dyn Journal>>,
}

impl Chips {
    /// Controllers after power-on.
    fn around(vm: &Arc<Vm>, wiring: &Wiring) -> Result<Self, Error> {
        let local = LocalApics::new(vm);
        let processor = Arc::<OnceLock<_>>::default();
        let journal = wiring.journal.clone();
        let sink = journal::sink(local.clone(), journal.as_ref());
        let controllers = Controllers::new(sink, Some(local), &wiring.clock, |pin0| {
            Line::new(Intr { processor: Arc::clone(&processor), pin0 })
        })?;
        Ok(Self { controllers: Arc::new(controllers), processor, journal })
    }

    /// Connects them to all vCPUs of the VM; INTR is the first one's.
    fn connect(&self, vcpus: &mut [Vcpu]) {
        if let Some(first) = vcpus.first_mut() {
            let _ = self.processor.set(Box::new(first.intr()));
            let controller = self.controllers.ext_int();
            first.connect_intr(journal::ext_int(controller, self.journal.as_ref()));
        }
        for vcpu in vcpus {
            let sink = self.controllers.eoi_sink();
            vcpu.connect_eoi(journal::eoi(sink, self.journal.as_ref()));
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
        Boot::Firmware { .. } => (layout::FIRMWARE_TSS, layout::FIRMWARE_IDENTITY_MAP),
    };
    Ok(VmOptions {
        vcpus: cpus,
        tss_addr,
        identity_map_addr: Some(identity_map),
        irqchip: match config.pc_irqchip {
            PcIrqchip::Kernel => trapline_kvm::Irqchip::Kernel,
            PcIrqchip::Split => trapline_kvm::Irqchip::Split,
        },
        wiring: layout::wiring(),
        pit: config.pc_irqchip == PcIrqchip::Kernel,
    })
}
