//! The x86-64 side of a VM and its vCPUs: interrupt chips, CPUID, registers.

mod chips;
mod counter;
mod cpuid;
mod emulated;
mod external;
mod local_apic;
mod options;
mod pending;
mod power_on;
mod processor;
mod registers;
mod start;

use kvm_bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::{VcpuFd, VmFd};
use trapline_guestmem::GuestMem;

use crate::{Error, Kvm, Vm};

pub(crate) use chips::{Chips, commit_routing, routing};
pub(crate) use counter::counter;
pub(crate) use cpuid::{CpuModel, hardware_virtualization};
pub use external::LocalApics;
pub(crate) use external::Pins;
pub use local_apic::LocalApic;
pub use options::{Irqchip, VmOptions};
pub(crate) use pending::activity;
pub use pending::{KernelChips, KernelIoApic, KernelPic};
pub(crate) use power_on::PowerOn;
pub use processor::Processor;
pub(crate) use processor::{debugged, give_to_guest, set_traps};
pub(crate) use registers::{
    GeneralRegisters, code_address, describe_registers, entry_failure_hint,
};
pub use start::{Start, Table};

/// Makes a VM with the chips `options` ask for, and knows what its processors are like.
pub(crate) fn create(
    kvm: &Kvm,
    _mem: &GuestMem,
    options: &VmOptions,
) -> Result<(VmFd, CpuModel, Chips), Error> {
    let cpu_model = CpuModel::of(kvm)?;
    let fd = kvm.fd.create_vm().map_err(Error::ioctl("create a VM"))?;
    chips::set_up_vm(&fd, kvm.caps(), options)?;
    let chips = Chips::of(&fd, options)?;
    Ok((fd, cpu_model, chips))
}

/// Does what a system event asks of the vCPU, if it is no end: there are none.
pub(crate) fn system_event(_fd: &VcpuFd, _vm: &Vm, _kind: u32) -> Option<Result<(), Error>> {
    None
}

/// Tells the guest's kvmclock that the vCPU was paused. KVM refuses where the guest has none.
pub(crate) fn tell_of_pause(fd: &VcpuFd) {
    let _ = fd.kvmclock_ctrl();
}

/// Gives the vCPU a non-maskable interrupt, if it has been started: one that waits for a start-up IPI
/// takes none (SDM vol. 3, 11.4.3), and KVM would come back from it for ever.
pub(crate) fn nmi(fd: &VcpuFd) -> Result<bool, Error> {
    let state = fd.get_mp_state().map_err(Error::ioctl("tell what a vCPU is doing"))?.mp_state;
    let waits = matches!(state, KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED);
    if !waits {
        fd.nmi().map_err(Error::ioctl("give a vCPU a non-maskable interrupt"))?;
    }
    Ok(!waits)
}

/// A vCPU's thread is like any other.
pub(crate) fn prepare_thread(_options: &VmOptions) {}
