//! The PC board with KVM's processors and interrupt controllers.

use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_device::{CharDevice, Clock, Device, Line, Power};
use trapline_display::{Input, Screen};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Irqchip, Kvm, Start, Vm, VmOptions};

use super::display::Display;
use super::{Board, Options, Wiring, boot, layout, ram};
use crate::control::Control;
use crate::parts::Lines;
use crate::session::OnKvm;
use crate::{Config, Error};

/// Local APIC and I/O APIC numbers are a byte in the MP table, and one more is the broadcast.
const CPUS_MAX: u32 = 254;

/// The board, its RAM and its VM.
pub(crate) struct PcOnKvm {
    display: Option<Display>,
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
        let options = vm_options(config.cpus)?;
        let mem = ram(config.mem_bytes)?;
        let vm = Vm::new(kvm, &mem, options)?;
        let handles = usize::try_from(config.cpus).unwrap_or(usize::MAX);
        let registry = Registry::builder().handles(handles).offload(vm.offload()).build();
        let power: Arc<dyn Power> = Arc::new(control.clone());
        let wiring =
            Wiring { lines: &vm, controllers: None, clock, power, options: options_of(config) };
        let mut board = Board::new(&registry, &wiring)?;
        let display = match config.display {
            Some(mode) => Some(Display::new(mode, &vm, &registry, &mut board)?),
            None => None,
        };
        Ok(Self { display, board, registry, vm, mem })
    }

    fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    fn registry(&self) -> &Registry {
        &self.registry
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

/// How KVM is to make the VM.
fn vm_options(cpus: u32) -> Result<VmOptions, Error> {
    if cpus > CPUS_MAX {
        return Err(Error::TooManyCpus { wanted: cpus, max: CPUS_MAX });
    }
    Ok(VmOptions {
        vcpus: cpus,
        tss_addr: layout::TSS,
        identity_map_addr: Some(layout::IDENTITY_MAP),
        irqchip: Irqchip::Kernel,
        pit: true,
    })
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
