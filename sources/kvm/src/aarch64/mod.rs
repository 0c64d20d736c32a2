//! The arm64 side of a VM and its vCPUs: GIC, features, registers, PSCI.
//!
//! The vGIC must be told when all vCPUs are there, and a PMU when the vGIC knows: the first start
//! of a vCPU does both ([`Chips::finish`], [`PowerOn::restore`]), so no vCPU can be made after it.

mod attr;
mod chips;
mod counter;
mod gic;
mod gic_state;
mod model;
mod options;
mod pins;
mod pmu;
mod power_on;
mod processor;
mod registers;
mod start;
mod suspend;

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_ARM_MTE, KVM_CAP_ARM_NISV_TO_USER, KVM_CAP_ARM_SYSTEM_SUSPEND, KVM_MP_STATE_STOPPED,
    kvm_enable_cap,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use trapline::Region;
use trapline_guestmem::GuestMem;

use crate::{Activity, Error, Kvm, Vcpu, Vm};

pub(crate) use chips::{Chips, commit_routing, routing};
pub(crate) use counter::counter;
pub use gic::{Gic, GicInterrupt};
pub(crate) use model::CpuModel;
pub use options::VmOptions;
pub(crate) use pins::Pins;
pub use pmu::Pmu;
pub(crate) use power_on::PowerOn;
pub use processor::Processor;
pub(crate) use processor::{debugged, give_to_guest, set_traps};
pub(crate) use registers::{
    GeneralRegisters, code_address, describe_registers, entry_failure_hint, mpidr,
};
pub use start::Start;
pub(crate) use suspend::system_event;

/// Whether the processor virtualizes in hardware. KVM on arm64 does not exist without.
pub(crate) fn hardware_virtualization() -> bool {
    true
}

/// Makes a VM with the chips `options` ask for, and knows what its processors are like.
pub(crate) fn create(
    kvm: &Kvm,
    mem: &GuestMem,
    options: &VmOptions,
) -> Result<(VmFd, CpuModel, Chips), Error> {
    let fd = kvm.fd.create_vm_with_type(vm_type(kvm, mem)?).map_err(Error::ioctl("create a VM"))?;
    // Without it, KVM tells a guest that it cannot be suspended, which is an answer too.
    enable(&fd, KVM_CAP_ARM_SYSTEM_SUSPEND);
    // Without it, KVM_RUN fails for such an access and does not tell the address.
    enable(&fd, KVM_CAP_ARM_NISV_TO_USER);
    if options.mte && !options.aarch32 {
        enable(&fd, KVM_CAP_ARM_MTE);
    }
    let model = CpuModel::of(&fd, options)?;
    let chips = Chips::new(&fd, options)?;
    Ok((fd, model, chips))
}

impl Vm {
    /// The memory in which KVM tells the guest how long its vCPUs did not run, if it does
    /// (`KVM_ARM_VCPU_PVTIME_CTRL`), to be mapped before the first vCPU is made.
    ///
    /// # Errors
    /// The host has no room for it.
    pub fn stolen_time(&self) -> Result<Option<Region>, Error> {
        /// A page on every host, which has them of up to this size.
        const LEN: u64 = 0x1_0000;
        let Some(base) = self.cpu_model().stolen_time() else { return Ok(None) };
        let pieces = GuestMem::new(&[(base, LEN)])?.pieces();
        let region = |piece| Region::ram(base, "kvm", "stolen-time", Arc::new(piece));
        Ok(pieces.into_iter().next().map(region))
    }
}

/// Keeps the calling thread, a vCPU's, on the host CPUs the options name.
pub(crate) fn prepare_thread(options: &VmOptions) {
    if options.affinity.is_empty() {
        return;
    }
    let mut cpus = rustix::thread::CpuSet::new();
    let known = options.affinity.iter().filter_map(|cpu| usize::try_from(*cpu).ok());
    known.filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| cpus.set(cpu));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
        tracing::warn!("a vCPU cannot be kept on the host CPUs asked for: {error}");
    }
}

/// Enables a capability of the VM where the kernel has it.
fn enable(fd: &VmFd, cap: u32) {
    if fd.check_extension_raw(cap.into()) > 0 {
        let done = fd.enable_cap(&kvm_enable_cap { cap, ..Default::default() });
        tracing::debug!("KVM capability {cap}: {done:?}");
    }
}

/// The type of VM (`KVM_CREATE_VM`): how many bits a guest physical address has, as many as the
/// memory needs and 32 at least; 0, KVM's default of 40, on kernels that cannot choose.
fn vm_type(kvm: &Kvm, mem: &GuestMem) -> Result<u64, Error> {
    if !kvm.fd.check_extension(Cap::ArmVmIPASize) {
        return Ok(0);
    }
    let host = u32::try_from(kvm.fd.get_host_ipa_limit()).unwrap_or(0);
    let last = mem
        .regions()
        .iter()
        .map(|region| region.guest_addr.saturating_add(region.len.saturating_sub(1)))
        .max();
    let bits = address_bits(last.unwrap_or(0));
    if bits > host {
        return Err(Error::AddressBits { needed: bits, host });
    }
    Ok(bits.into())
}

fn address_bits(last: u64) -> u32 {
    (u64::BITS - last.leading_zeros()).max(32)
}

/// What a stopped vCPU goes on with. One that has switched itself off waits for another, too.
pub(crate) fn activity(fd: &VcpuFd) -> Result<Activity, kvm_ioctls::Error> {
    Ok(match fd.get_mp_state()?.mp_state {
        KVM_MP_STATE_STOPPED => Activity::AwaitsStart,
        _ => Activity::Runs,
    })
}

impl Vcpu {
    /// Whether a stopped vCPU would take an interrupt now (PSTATE.I).
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn takes_interrupts(&self) -> Result<bool, Error> {
        const I: u64 = 1 << 7;
        Ok(self.processor()?.pstate & I == 0)
    }
}

/// There are no non-maskable interrupts.
pub(crate) fn nmi(_fd: &VcpuFd) -> Result<bool, Error> {
    Err(Error::Missing("non-maskable interrupts"))
}

/// There is no paravirtual clock to be told of a pause.
pub(crate) fn tell_of_pause(_fd: &VcpuFd) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_space_holds_the_last_byte_of_memory_and_four_gigabytes_at_least() {
        assert_eq!(address_bits(0), 32);
        assert_eq!(address_bits(0xffff_ffff), 32);
        assert_eq!(address_bits(0x1_0000_0000), 33);
        assert_eq!(address_bits(u64::MAX), 64);
    }
}
