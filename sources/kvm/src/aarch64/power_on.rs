//! A vCPU's power-on state, put back before each start.

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use kvm_ioctls::VcpuFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::registers;
use crate::{Error, Vm};

/// How a vCPU gets back to power-on.
pub(crate) struct PowerOn {
    /// Whether it has been started before.
    started: AtomicBool,
}

impl PowerOn {
    /// A new vCPU of `vm`.
    pub(crate) fn of(fd: &VcpuFd, vm: &Vm, _index: u32) -> Result<Self, Error> {
        vm.chips().add_vcpu(registers::mpidr(fd)?);
        Ok(Self { started: AtomicBool::new(false) })
    }

    /// Goes back to it: `KVM_ARM_VCPU_INIT` again, which resets every register.
    pub(crate) fn restore(&self, fd: &VcpuFd, vm: &Vm) -> Result<(), Error> {
        vm.chips().finish(vm.routing())?;
        if !self.started.swap(true, Ordering::Relaxed)
            && let Some(pmu) = vm.options().pmu
        {
            pmu.give_to(fd, &vm.options().affinity)?;
        }
        vm.cpu_model().init(fd)?;
        fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
            .map_err(Error::ioctl("make a vCPU runnable"))
    }
}
