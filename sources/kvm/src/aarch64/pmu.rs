//! Performance monitors (Linux `Documentation/virt/kvm/devices/vcpu.rst`,
//! `KVM_ARM_VCPU_PMU_V3_CTRL`).

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ,
    KVM_ARM_VCPU_PMU_V3_SET_PMU,
};
use kvm_ioctls::VcpuFd;

use super::attr::{command, has, set_u32};
use crate::Error;

/// The performance monitors of every vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pmu {
    /// INTID of their overflow interrupt, a private peripheral interrupt.
    pub intid: u32,
}

impl Pmu {
    /// Builds them into a vCPU, when the interrupt controller is there.
    pub(super) fn give_to(self, fd: &VcpuFd, affinity: &[u32]) -> Result<(), Error> {
        let refused = "build the performance monitors";
        set_u32(fd, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ.into(), self.intid)
            .map_err(Error::ioctl(refused))?;
        if has(fd, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_PMU) {
            let _ = affinity;
        }
        command(fd, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT)
            .map_err(Error::ioctl(refused))
    }
}
