//! A guest that suspends itself by PSCI `SYSTEM_SUSPEND` (Arm DEN0022, "SYSTEM_SUSPEND"; Linux
//! `Documentation/virt/kvm/api.rst`, `KVM_SYSTEM_EVENT_SUSPEND`): the vCPU sleeps until an
//! interrupt wants it, and then starts at the address the guest has named.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SUSPENDED, KVM_SYSTEM_EVENT_SUSPEND,
    KVM_SYSTEM_EVENT_WAKEUP, kvm_mp_state,
};
use kvm_ioctls::VcpuFd;

use super::Start;
use super::registers::{self, x};
use crate::{Error, Vm};

/// Does what a system event asks of the vCPU, if it is no end; `None` for all others.
pub(crate) fn system_event(fd: &VcpuFd, vm: &Vm, kind: u32) -> Option<Result<(), Error>> {
    match kind {
        KVM_SYSTEM_EVENT_SUSPEND => Some(suspend(fd, vm)),
        KVM_SYSTEM_EVENT_WAKEUP => Some(set_state(fd, KVM_MP_STATE_RUNNABLE)),
        _ => None,
    }
}

fn suspend(fd: &VcpuFd, vm: &Vm) -> Result<(), Error> {
    let argument = |n| registers::get(fd, x(n)).map_err(Error::ioctl("read the registers"));
    let (entry, context) = (argument(1)?, argument(2)?);
    vm.cpu_model().init(fd)?;
    let start = if vm.options().aarch32 {
        Start::resume32(entry, context)
    } else {
        Start::Boot { pc: entry, x0: context }.registers()
    };
    registers::set_all(fd, &start)?;
    set_state(fd, KVM_MP_STATE_SUSPENDED)
}

fn set_state(fd: &VcpuFd, mp_state: u32) -> Result<(), Error> {
    fd.set_mp_state(kvm_mp_state { mp_state }).map_err(Error::ioctl("suspend or wake a vCPU"))
}
