//! The arm64 board with KVM's processors and interrupt controllers.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Weak};

use trapline::Registry;
use trapline_boot::arm64::{self, KernelRequest, Loaded};
use trapline_boot::fdt;
use trapline_device::{CharDevice, Clock, Device, Line, MsiController};
use trapline_display::{Input, Screen};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Gic, Kvm, MemoryWindow, Pmu, Start, Vcpu, Vm, VmOptions};
use trapline_platform::flash::{FlashArray, Worn};

use super::edu::Edus;
use super::flash::FlashFile;
use super::frame::Frame;
use super::tree::Facts;
use super::{Board, Controllers, Options, Wiring, layout, ram};
use crate::config::initrd;
use crate::control::Control;
use crate::parts::Lines;
use crate::session::OnKvm;
use crate::{Boot, Config, Error, Irqchip};

/// The board, its RAM and its VM.
pub(crate) struct VirtOnKvm {
    board: Board,
    registry: Registry,
    vm: Arc<Vm>,
    mem: GuestMem,
    ram: Range<u64>,
    irqchip: Irqchip,
    /// The vCPUs' MPIDRs, once there are vCPUs.
    affinities: Vec<u64>,
}

impl OnKvm for VirtOnKvm {
    const OTHERS: Start = Start::WaitForPsci;

    fn new(
        kvm: &Kvm,
        config: &Config,
        clock: Arc<dyn Clock>,
        _control: &Control,
    ) -> Result<Self, Error> {
        let base = config.arm64.mem_base.unwrap_or(layout::RAM);
        let mem = ram(base, config.mem_bytes, &config.memory)?;
        let vm = Vm::new(kvm, &mem, vm_options(config))?;
        let irqchip = irqchip_of(&vm, config.arm64.irqchip)?;
        let handles = usize::try_from(config.cpus).unwrap_or(usize::MAX);
        let registry = Registry::builder().handles(handles).offload(vm.offload()).build();
        let (frame, its) = (Frame::new(&vm), vm.messages());
        let (msi, controllers): (Option<&dyn MsiController>, Option<&dyn Controllers>) =
            match irqchip {
                Irqchip::Gicv2 | Irqchip::Gicv3 => (None, None),
                Irqchip::Gicv2m => (Some(&frame), Some(&frame)),
                Irqchip::Gicv3Its => (Some(&*its), None),
            };
        let flash = config.arm64.flash.as_deref().map(|path| flash(&vm, path)).transpose()?;
        let console = Arc::clone(&config.console);
        let options = Options { console, flash, coalesce: config.coalesce };
        let wiring = Wiring { lines: &vm, msi, controllers, clock, options };
        let mut board = Board::new(&registry, &wiring)?;
        let edus = Edus::new(config.arm64.edu, &registry, &board, &vm, msi)?;
        board.devices.add_follower(move || edus.place());
        let ram = base..base.saturating_add(config.mem_bytes);
        Ok(Self { board, registry, vm, mem, ram, irqchip, affinities: Vec::new() })
    }

    fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn complete(&mut self, vcpus: &mut [Vcpu]) -> Result<(), Error> {
        self.affinities = vcpus.iter().map(Vcpu::mpidr).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn load(&self, config: &Config, again: bool) -> Result<Start, Error> {
        let arm64 = &config.arm64;
        let (loaded, bootargs) = match &config.boot {
            Boot::Firmware(path) => (
                arm64::load_firmware(&self.mem, path, &self.ram, arm64.firmware_address)?,
                arm64.firmware_params.as_deref(),
            ),
            Boot::Kernel { path, initrd: disk, cmdline } => {
                let request = KernelRequest {
                    path,
                    initrd: initrd(disk),
                    ram: self.ram.clone(),
                    aarch32: arm64.aarch32,
                    cmdline,
                };
                (arm64::load_kernel(&self.mem, &request)?, Some(cmdline.as_str()))
            }
        };
        self.write_tree(config, &loaded, bootargs, again)?;
        if !arm64.aarch32 {
            return Ok(Start::Boot { pc: loaded.entry, x0: loaded.fdt });
        }
        /// With a device tree, a 32-bit kernel is told no machine type
        /// (`Documentation/arch/arm/booting.rst`, section 3).
        const NO_MACHINE: u32 = u32::MAX;
        let reach = |addr: u64| {
            u32::try_from(addr)
                .map_err(|_| Error::TooHigh { end: self.ram.end, limit: 1 << u32::BITS })
        };
        let (pc, r2) = (reach(loaded.entry)?, reach(loaded.fdt)?);
        Ok(Start::Boot32 { pc, r1: NO_MACHINE, r2 })
    }

    fn reset(&self) -> Result<(), Error> {
        self.board.reset();
        Ok(self.vm.reset()?)
    }

    fn console(&self) -> Weak<dyn CharDevice> {
        self.board.console()
    }

    fn screen(&self) -> Option<Arc<Screen>> {
        None
    }

    fn input(&self) -> Option<Arc<dyn Input>> {
        None
    }
}

impl VirtOnKvm {
    /// Puts the device tree where the software expects it, and a copy where the user wants one.
    fn write_tree(
        &self,
        config: &Config,
        loaded: &Loaded,
        bootargs: Option<&str>,
        again: bool,
    ) -> Result<(), Error> {
        let arm64 = &config.arm64;
        let facts = Facts {
            ram: self.ram.clone(),
            affinities: &self.affinities,
            irqchip: self.irqchip,
            aarch32: arm64.aarch32,
            pmu: arm64.pmu,
            timer_hz: arm64.timer_hz,
            kaslr_seed: arm64.kaslr_seed,
            bootargs,
            initrd: loaded.initrd.clone(),
        };
        let blob = fdt::flatten(&self.board.describe(&facts))?;
        if let Some(path) = arm64.dump_dtb.as_ref().filter(|_| !again) {
            std::fs::write(path, &blob)
                .map_err(|reason| Error::DumpTree { path: path.clone(), reason })?;
        }
        Ok(fdt::write(&self.mem, loaded.fdt, &blob)?)
    }
}

impl Lines for Arc<Vm> {
    fn line(&self, number: u32) -> Line {
        Vm::line(self, number)
    }
}

/// What is in the flash, shown to the guest by KVM where that can be.
fn flash(vm: &Arc<Vm>, path: &Path) -> Result<Arc<dyn FlashArray>, Error> {
    let file = FlashFile::open(path)?;
    Ok(match MemoryWindow::read_only(vm, file.contents()) {
        Ok(window) => Arc::new(Shown { file, window }),
        Err(error) => {
            tracing::debug!("every access to the flash is trapped: {error}");
            Arc::new(file)
        }
    })
}

/// A flash image that the guest reads by itself, as long as it is what reads are answered with.
struct Shown {
    file: FlashFile,
    window: MemoryWindow,
}

impl FlashArray for Shown {
    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        self.file.read(offset, buf);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Worn> {
        self.file.write(offset, data)
    }

    fn show(&self, visible: bool) {
        if let Err(error) = self.window.place(visible.then_some(layout::FLASH.start)) {
            // Then it is nowhere, and every access is trapped.
            tracing::debug!("the flash is not shown: {error}");
        }
    }
}

/// How KVM is to make the VM.
fn vm_options(config: &Config) -> VmOptions {
    /// INTID of the first private peripheral interrupt.
    const FIRST_PPI: u32 = 16;
    let arm64 = &config.arm64;
    let wanted = arm64.irqchip.map_or_else(|| Irqchip::ORDER.to_vec(), |irqchip| vec![irqchip]);
    VmOptions {
        vcpus: config.cpus,
        gics: wanted.into_iter().map(|irqchip| gic(irqchip, config.cpus)).collect(),
        spis: layout::spi::COUNT,
        aarch32: arm64.aarch32,
        pmu: arm64.pmu.then_some(Pmu { intid: FIRST_PPI + layout::ppi::PMU }),
        sve_max_vl: arm64.sve_max_vl,
        mte: !arm64.disable_mte,
        stolen_time: (!arm64.no_pvtime).then_some(layout::PV_TIME.start),
        affinity: arm64.vcpu_affinity.clone(),
    }
}

/// An interrupt controller in KVM's words.
fn gic(irqchip: Irqchip, cpus: u32) -> Gic {
    let distributor = layout::GIC_DIST.start;
    match irqchip {
        Irqchip::Gicv2 | Irqchip::Gicv2m => {
            Gic::V2 { distributor, cpu_interface: layout::GIC_CPU.start }
        }
        Irqchip::Gicv3 | Irqchip::Gicv3Its => Gic::V3 {
            distributor,
            redistributors: layout::gic_redist(cpus).start,
            its: (irqchip == Irqchip::Gicv3Its).then(|| layout::gic_its(cpus).start),
        },
    }
}

/// Which one KVM has made. A GICv2 has a message frame unless that was not wanted.
fn irqchip_of(vm: &Vm, wanted: Option<Irqchip>) -> Result<Irqchip, Error> {
    let made = match vm.gic() {
        Some(Gic::V3 { its: Some(_), .. }) => Irqchip::Gicv3Its,
        Some(Gic::V3 { its: None, .. }) => Irqchip::Gicv3,
        Some(Gic::V2 { .. }) => wanted.unwrap_or(Irqchip::Gicv2m),
        None => return Err(Error::NoIrqchip),
    };
    tracing::debug!("the interrupt controller is {}", made.name());
    Ok(made)
}
