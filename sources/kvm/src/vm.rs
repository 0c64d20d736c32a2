//! A virtual machine: memory, interrupt controllers, timer, and the kernel's ends of lines.

use std::sync::{Arc, OnceLock};

use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::{VcpuFd, VmFd};
use parking_lot::Mutex;
use trapline::Offload;
use trapline_device::{Line, LineSink};
use trapline_guestmem::GuestMem;

use crate::arch::{CpuModel, PowerOnChips};
use crate::map::FdMap;
use crate::offload::KvmOffload;
use crate::ring::Ring;
use crate::{Caps, Error, Kvm, arch, ioctl};

/// Where interrupt controllers are emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// In the kernel.
    Kernel,
    /// Nowhere. A halted vCPU ends with [`crate::Stop::Halted`], as nothing can wake it.
    None,
}

/// What a piece of memory is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It can be written.
    Ram,
    /// It can be read and executed; writes go to the registry.
    Rom,
}

/// How a VM is to be made.
#[derive(Clone, Copy, Debug)]
pub struct VmOptions {
    /// How many vCPUs it will have, 1 or more. Goes into CPUID.
    pub vcpus: u32,
    /// Guest physical address of three pages KVM may use on Intel processors to run real mode.
    /// Must not be RAM.
    pub tss_addr: u64,
    /// The same of one more page, for a page table; KVM's own choice is 0xfffbc000.
    pub identity_map_addr: Option<u64>,
    /// The interrupt controllers.
    pub irqchip: Irqchip,
    /// Whether the kernel emulates the interval timer (ports 0x40 to 0x43). It then also answers
    /// port 0x61, whose bit 5 is the output of the timer's channel 2 and calibrates clocks: only
    /// who has the timer can answer it. Needs [`Irqchip::Kernel`].
    pub pit: bool,
}

/// A virtual machine.
pub struct Vm {
    fd: VmFd,
    caps: Caps,
    options: VmOptions,
    cpu_model: CpuModel,
    power_on: PowerOnChips,
    /// Set when the first vCPU is made: the ring is mapped from one.
    ring: OnceLock<Ring>,
    /// What the guest has been given stays mapped as long as the VM.
    memory: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    next: u32,
    kept: Vec<GuestMem>,
    /// Behind [`crate::MemoryWindow`]s, which the guest sees at other addresses than ours.
    windows: Vec<GuestMem>,
}

impl Vm {
    /// Makes a VM whose RAM is `mem`.
    ///
    /// # Errors
    /// More vCPUs than KVM allows, something it cannot do, or its refusal.
    pub fn new(kvm: &Kvm, mem: &GuestMem, options: VmOptions) -> Result<Arc<Self>, Error> {
        let caps = *kvm.caps();
        if options.vcpus == 0 || options.vcpus > caps.max_vcpus {
            return Err(Error::Vcpus { wanted: options.vcpus, max: caps.max_vcpus });
        }
        let cpu_model = CpuModel::of(kvm)?;
        let fd = kvm.fd.create_vm().map_err(Error::ioctl("create a VM"))?;
        arch::set_up_vm(&fd, &caps, &options)?;
        let power_on = PowerOnChips::of(&fd, &options)?;
        let vm = Self {
            fd,
            caps,
            options,
            cpu_model,
            power_on,
            ring: OnceLock::new(),
            memory: Mutex::default(),
        };
        vm.add_memory(mem, Memory::Ram)?;
        Ok(Arc::new(vm))
    }

    /// Gives the guest more memory: firmware, a frame buffer. Must not overlap what it has.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn add_memory(&self, mem: &GuestMem, kind: Memory) -> Result<(), Error> {
        let flags = match kind {
            Memory::Ram => 0,
            Memory::Rom if self.caps.readonly_memory => KVM_MEM_READONLY,
            Memory::Rom => return Err(Error::Missing("read-only memory")),
        };
        let mut memory = self.memory.lock();
        // Kept even if only some of its regions are taken: the guest has those.
        memory.kept.push(mem.clone());
        ioctl::set_memory(&self.fd, mem, &mut memory.next, flags)
            .map_err(Error::ioctl("map guest memory"))
    }

    /// A slot for memory that comes and goes, which is kept mapped from now on.
    pub(crate) fn reserve_slot(&self, mem: &GuestMem) -> u32 {
        let mut memory = self.memory.lock();
        memory.windows.push(mem.clone());
        let slot = memory.next;
        memory.next += 1;
        slot
    }

    /// The line into input `gsi` of the in-kernel interrupt controllers, low; unconnected where
    /// there are none. Every holder of that input must be a share of one line.
    pub fn line(self: &Arc<Self>, gsi: u32) -> Line {
        match self.options.irqchip {
            Irqchip::Kernel => Line::new(KernelLine { vm: Arc::clone(self), gsi }),
            Irqchip::None => Line::unconnected(),
        }
    }

    /// What the kernel can take off the registry's hands.
    pub fn offload(self: &Arc<Self>) -> Arc<dyn Offload> {
        Arc::new(KvmOffload(Arc::clone(self)))
    }

    /// Puts the in-kernel interrupt controllers and timer in their power-on state. The vCPUs must
    /// be stopped; theirs is [`crate::Vcpu::set_start`]'s business.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn reset(&self) -> Result<(), Error> {
        self.power_on.restore(&self.fd)
    }

    /// What this host's KVM can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    pub(crate) fn options(&self) -> &VmOptions {
        &self.options
    }

    pub(crate) fn cpu_model(&self) -> &CpuModel {
        &self.cpu_model
    }

    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    pub(crate) fn ring(&self) -> Option<&Ring> {
        self.ring.get()
    }

    /// The guest's memory at a guest physical address, for reports.
    pub(crate) fn peek(&self, addr: u64, to: &mut [u8]) -> bool {
        self.memory.lock().kept.iter().any(|mem| mem.read(addr, to).is_ok())
    }

    /// Maps the ring, which is the same page through every vCPU.
    pub(crate) fn map_ring(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        let Ok(page) = usize::try_from(self.caps.coalesced_page) else { return Ok(()) };
        if page == 0 || self.ring.get().is_some() {
            return Ok(());
        }
        let map = FdMap::new(vcpu, page * PAGE, PAGE)
            .map_err(|reason| Error::Ioctl { what: "map the coalesced ring", reason })?;
        // Losing a race leaves the other's mapping of the same page.
        let _ = self.ring.set(Ring::new(map));
        Ok(())
    }
}

/// The size of a page on x86-64, which KVM counts the ring's place in.
const PAGE: usize = 4096;

struct KernelLine {
    vm: Arc<Vm>,
    gsi: u32,
}

impl LineSink for KernelLine {
    fn set_level(&self, level: bool) {
        // KVM refuses inputs that do not exist only, and those lead nowhere.
        let _ = self.vm.fd.set_irq_line(self.gsi, level);
    }
}
