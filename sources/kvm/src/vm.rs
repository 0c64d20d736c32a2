//! A virtual machine: memory, interrupt controllers, timer, and the kernel's ends of lines.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use kvm_ioctls::{DeviceFd, VcpuFd, VmFd};
use parking_lot::Mutex;
use trapline::Offload;
use trapline_device::{Line, LineSink};
use trapline_guestmem::GuestMem;

use crate::arch::{self, Chips, CpuModel, VmOptions};
use crate::kick::Kick;
use crate::map::FdMap;
use crate::offload::KvmOffload;
use crate::ring::Ring;
use crate::routing::Routing;
use crate::slots::{SeenMemory, Slots};
use crate::{Caps, Error, Kvm, ioctl};

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
    /// Of every vCPU.
    kicks: Mutex<Vec<Kick>>,
    /// KVM's side of assigned devices, once there is one.
    vfio: Mutex<Option<DeviceFd>>,
    /// Why no vCPU may run any more.
    defect: OnceLock<String>,
    /// What the guest sees without an exit. After `fd`: it stays mapped as long as the VM.
    slots: Slots,
}

impl Vm {
    /// Makes a VM whose RAM is to be `mem`, which a registry gives it ([`Vm::offload`]); its
    /// addresses have as many bits as that needs.
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
            kicks: Mutex::default(),
            vfio: Mutex::default(),
            defect: OnceLock::new(),
            slots: Slots::new(&caps),
        };
        arch::commit_routing(&vm)?;
        Ok(Arc::new(vm))
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

    /// Tells KVM of a group of devices that reach guest memory by themselves (`KVM_DEV_TYPE_VFIO`,
    /// Linux `Documentation/virt/kvm/devices/vfio.rst`), so that what they write past the processors'
    /// caches is seen. For the life of the VM.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn add_vfio_group(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        let mut device = self.vfio.lock();
        if device.is_none() {
            let type_ = kvm_bindings::kvm_device_type_KVM_DEV_TYPE_VFIO;
            let mut wanted = kvm_bindings::kvm_create_device { type_, fd: 0, flags: 0 };
            *device = Some(self.fd.create_device(&mut wanted)?);
        }
        let device = device.as_ref().ok_or(io::ErrorKind::NotFound)?;
        ioctl::add_vfio_group(device, group)
    }

    /// What the kernel can take off the registry's hands.
    pub fn offload(self: &Arc<Self>) -> Arc<dyn Offload> {
        Arc::new(KvmOffload(Arc::clone(self)))
    }

    /// How many memory slots are in use: one for each window of memory, placed and offloaded, of
    /// which a whole page of the host can be shown.
    pub fn memory_slots(&self) -> usize {
        self.slots.count()
    }

    /// What the guest sees without an exit now, to be read and written besides it.
    pub fn memory(&self) -> SeenMemory {
        self.slots.seen()
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

    /// Has every vCPU leave the guest, which it enters no more: each ends in a report that says this.
    /// For what would have the guest see, from now on, what is not so.
    pub(crate) fn give_up(&self, why: String) {
        // The first is what the others come from.
        let _ = self.defect.set(why);
        self.kicks.lock().iter().for_each(Kick::wake);
    }

    /// Why no vCPU may run any more. To be asked after the last kick was acknowledged.
    pub(crate) fn defect(&self) -> Option<&str> {
        self.defect.get().map(String::as_str)
    }

    /// Has [`Vm::give_up`] reach a vCPU.
    pub(crate) fn add_vcpu(&self, kick: &Kick) {
        self.kicks.lock().push(kick.clone());
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

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
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
