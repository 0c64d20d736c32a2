//! A virtual machine: memory, interrupt controllers, timer, and the kernel's ends of lines.

use std::sync::{Arc, OnceLock};

use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::{VcpuFd, VmFd};
use parking_lot::Mutex;
use trapline::Offload;
use trapline_device::{Line, LineSink};
use trapline_guestmem::{GuestMem, RamRegion};

use crate::arch::{self, Chips, CpuModel, VmOptions};
use crate::map::FdMap;
use crate::offload::KvmOffload;
use crate::ring::Ring;
use crate::routing::Routing;
use crate::{Caps, Error, Kvm, ioctl};

/// What a piece of memory is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It can be written.
    Ram,
    /// It can be read and executed; writes go to the registry.
    Rom,
}

/// A virtual machine.
pub struct Vm {
    fd: VmFd,
    caps: Caps,
    options: VmOptions,
    cpu_model: CpuModel,
    chips: Chips,
    routing: Routing,
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
        let (fd, cpu_model, chips) = arch::create(kvm, mem, &options)?;
        let routing = arch::routing(&caps, &options);
        let vm = Self {
            fd,
            caps,
            options,
            cpu_model,
            chips,
            routing,
            ring: OnceLock::new(),
            memory: Mutex::default(),
        };
        vm.add_memory(mem, Memory::Ram)?;
        arch::add_own_memory(&vm)?;
        arch::commit_routing(&vm)?;
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
    ///
    /// x86-64: a global system interrupt. arm64: a shared peripheral interrupt, from 0 (which is
    /// INTID 32).
    pub fn line(self: &Arc<Self>, gsi: u32) -> Line {
        match self.options.input(gsi) {
            Some(irq) => Line::new(KernelLine { vm: Arc::clone(self), irq }),
            None => Line::unconnected(),
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
        self.chips().reset(&self.fd)
    }

    /// What this host's KVM can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    pub(crate) fn options(&self) -> &VmOptions {
        &self.options
    }

    pub(crate) fn chips(&self) -> &Chips {
        &self.chips
    }

    /// Where interrupts lead.
    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
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

    /// What the guest has been given that stays where it is.
    pub(crate) fn memory_regions(&self) -> Vec<RamRegion> {
        self.memory.lock().kept.iter().flat_map(GuestMem::regions).collect()
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
        // KVM counts the ring's place in the host's pages, which arm64 has of three sizes.
        let size = rustix::param::page_size();
        let map = FdMap::new(vcpu, page * size, size)
            .map_err(|reason| Error::Ioctl { what: "map the coalesced ring", reason })?;
        // Losing a race leaves the other's mapping of the same page.
        let _ = self.ring.set(Ring::new(map));
        Ok(())
    }
}

struct KernelLine {
    vm: Arc<Vm>,
    /// KVM's number for the input.
    irq: u32,
}

impl LineSink for KernelLine {
    fn set_level(&self, level: bool) {
        // KVM refuses inputs that do not exist only, and those lead nowhere.
        let _ = self.vm.fd.set_irq_line(self.irq, level);
    }
}
