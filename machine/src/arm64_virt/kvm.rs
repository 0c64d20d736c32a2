//! The arm64 board with KVM's processors and interrupt controllers.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use trapline_boot::arm64::{self, KernelRequest, Loaded};
use trapline_boot::fdt;
use trapline_device::{MessageVector, MsiController, MsiSink};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Gic, GicInterrupt, Pmu, Start, Vcpu, Vm, VmOptions};

use super::frame::{DOORBELL, Frame};
use super::tree::Facts;
use super::{Arm64Virt, Controllers, FLASH, Source, layout, ram_ranges};
use crate::board::{Board, Builder, Lines, Wiring};
use crate::config::initrd;
use crate::flash::{Access, FlashFile, FlashImage};
use crate::kvm::HostBoard;
use crate::record::journal;
use crate::why::{Interrupt, Stage};
use crate::{Boot, Config, Error, Irqchip};

/// The arm64 board on KVM, which runs its processors and their interrupt controller.
pub(crate) struct VirtOnKvm {
    board: Arm64Virt,
    mem: GuestMem,
    ram: Range<u64>,
    irqchip: Irqchip,
    /// The vCPUs' MPIDRs, once there are vCPUs.
    affinities: Vec<u64>,
}

/// A GICv2m frame, of whose messages KVM's GICv2 delivers those that it is told of.
struct OnKvm {
    vm: Arc<Vm>,
    frame: Arc<Frame>,
}

impl MsiController for OnKvm {
    fn sink(&self, requester: u16) -> Arc<dyn MsiSink> {
        self.frame.sink(requester)
    }

    fn vector(&self, requester: u16) -> Arc<dyn MessageVector> {
        self.vm.frame_vector(self.sink(requester), DOORBELL)
    }
}

impl HostBoard for VirtOnKvm {
    const SECONDARY: Start = Start::WaitForPsci;

    fn ram_ranges(config: &Config) -> Result<Vec<(u64, u64)>, Error> {
        ram_ranges(config.arm64.mem_base, config.mem_bytes)
    }

    fn vm_options(config: &Config) -> Result<VmOptions, Error> {
        Ok(vm_options(config))
    }

    fn new(vm: &Arc<Vm>, wiring: Wiring, config: &Config) -> Result<Self, Error> {
        let irqchip = irqchip_of(vm, config.arm64.irqchip)?;
        let (inputs, journal) = (Arc::clone(vm), wiring.journal.clone());
        let lines = Lines::new(move |spi| match &journal {
            Some(journal) => journal::line(inputs.line(spi), journal, spi),
            None => inputs.line(spi),
        });
        let (messages, controllers): (Option<Arc<dyn MsiController>>, _) = match irqchip {
            Irqchip::Gicv2 | Irqchip::Gicv3 => (None, None),
            Irqchip::Gicv2m => {
                let frame = Arc::new(Frame::new(&lines));
                let on_kvm = OnKvm { vm: Arc::clone(vm), frame: Arc::clone(&frame) };
                (Some(Arc::new(on_kvm)), Some(frame as Arc<dyn Controllers>))
            }
            Irqchip::Gicv3Its => (Some(vm.messages()), None),
        };
        let messages = messages.map(|to| journal::messages(to, wiring.journal.as_ref()));
        let open = |path| FlashFile::open(path, FLASH, Access::ReadWrite);
        let flash = config.arm64.flash.as_deref().map(open).transpose()?;
        let flash = flash.map(FlashImage::new);
        let source = Source { lines, messages, controllers, flash };
        let board = Arm64Virt::new(&wiring, &source)?;
        if let Some(region) = vm.stolen_time()? {
            let mut builder = Builder::default();
            builder.stateless("stolen-time").region(region);
            board.devices.add(builder)?;
        }
        let base = config.arm64.mem_base.unwrap_or(layout::RAM);
        let ram = base..base.saturating_add(config.mem_bytes);
        Ok(Self { board, mem: wiring.ram, ram, irqchip, affinities: Vec::new() })
    }

    fn board(&self) -> &dyn Board {
        &self.board
    }

    fn irqchip(&self) -> &'static str {
        self.irqchip.name()
    }

    fn connect(&mut self, vcpus: &mut [Vcpu]) -> Result<(), Error> {
        self.affinities = vcpus.iter().map(Vcpu::mpidr).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn interrupts(&self, vm: &Vm, vcpus: &[Vcpu]) -> Result<Vec<Interrupt>, Error> {
        let cpus = vcpus.iter().map(Vcpu::takes_interrupts).collect::<Result<Vec<_>, _>>()?;
        let waiting = vm.gic_interrupts(vcpus)?;
        Ok(waiting.iter().map(|one| pending(one, &cpus)).collect())
    }

    fn load(&self, config: &Config, again: bool) -> Result<Start, Error> {
        let arm64 = &config.arm64;
        let (loaded, bootargs) = match &config.boot {
            Boot::Firmware { path, .. } => (
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
            dump(path, &blob).map_err(|reason| Error::DumpTree { path: path.clone(), reason })?;
        }
        Ok(fdt::write(&self.mem, loaded.fdt, &blob)?)
    }
}

/// Makes `blob` the content of a file.
fn dump(path: &Path, blob: &[u8]) -> std::io::Result<()> {
    let mut file = trapline_boot::create(path)?;
    trapline_boot::empty(&file)?;
    file.write_all(blob)
}

/// An interrupt that the GIC has and no processor has served.
fn pending(interrupt: &GicInterrupt, takes_interrupts: &[bool]) -> Interrupt {
    let GicInterrupt { intid, vcpu, pending: _, enabled, active } = *interrupt;
    let name = match (vcpu, layout::devices_of(intid)) {
        (Some(vcpu), devices) => format!("INTID {intid} of vCPU {vcpu}{devices}"),
        (None, devices) => format!("INTID {intid}{devices}"),
    };
    let stage = if active {
        Stage::InService("the GIC (GICD_ISACTIVER)".to_owned())
    } else if enabled {
        let off = |index: usize| takes_interrupts.get(index).is_some_and(|takes| !takes);
        let of = vcpu.and_then(|vcpu| usize::try_from(vcpu).ok());
        let all_off = of.map_or_else(|| takes_interrupts.iter().all(|takes| !takes), off);
        let why = all_off.then(|| "interrupts are off (PSTATE.I)".to_owned());
        Stage::Raised { at: "the GIC".to_owned(), why }
    } else {
        Stage::Masked(vec!["the GIC (GICD_ISENABLER)".to_owned()])
    };
    Interrupt { name, stage, vector: Some(intid) }
}

/// How KVM is to make the VM.
fn vm_options(config: &Config) -> VmOptions {
    let arm64 = &config.arm64;
    let wanted = arm64.irqchip.map_or_else(|| Irqchip::ORDER.to_vec(), |irqchip| vec![irqchip]);
    VmOptions {
        vcpus: config.cpus,
        gics: wanted.into_iter().map(|irqchip| gic(irqchip, config.cpus)).collect(),
        spis: layout::spi::COUNT,
        aarch32: arm64.aarch32,
        pmu: arm64.pmu.then_some(Pmu { intid: layout::ppi::FIRST_INTID + layout::ppi::PMU }),
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
