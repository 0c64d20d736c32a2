//! What the guest's processors are: the target KVM prefers on this host, with the features that
//! were asked for or that cost nothing.

use kvm_bindings::{
    KVM_ARM_VCPU_EL1_32BIT, KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PSCI_0_2,
    KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_ARM_VCPU_PVTIME_IPA, KVM_ARM_VCPU_SVE, KVM_CAP_STEAL_TIME, KVM_REG_ARM64,
    KVM_REG_ARM64_SVE, KVM_REG_SIZE_U512, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use super::attr::{has, set_u64};
use crate::vm::Vm;
use crate::{Error, VmOptions};

/// The processor model of a VM.
pub(crate) struct CpuModel {
    init: kvm_vcpu_init,
    /// Where stolen time is accounted, if it is.
    stolen_time: Option<u64>,
}

/// Bytes of one vCPU's stolen time structure (Arm DEN0057, "Stolen time").
const STOLEN_TIME_LEN: u64 = 64;
/// Bits of a quadword, the unit of SVE vector lengths.
const QUADWORD_BITS: u32 = 128;
/// `KVM_REG_ARM64_SVE_VLS`: which vector lengths there are, one bit for each quadword.
const SVE_VLS: u64 = KVM_REG_ARM64 | KVM_REG_ARM64_SVE as u64 | KVM_REG_SIZE_U512 | 0xffff;

impl CpuModel {
    /// Looks what this host's KVM can do of what the options ask for.
    pub(super) fn of(fd: &VmFd, options: &VmOptions) -> Result<Self, Error> {
        let mut init = kvm_vcpu_init::default();
        fd.get_preferred_target(&mut init)
            .map_err(Error::ioctl("name the processor it can virtualize"))?;
        let mut add = |feature: u32| {
            if let Some(word) = init.features.first_mut() {
                *word |= 1 << feature;
            }
        };
        let need = |cap, what| {
            if fd.check_extension(cap) { Ok(()) } else { Err(Error::Missing(what)) }
        };
        need(Cap::ArmPsci02, "PSCI 0.2")?;
        add(KVM_ARM_VCPU_PSCI_0_2);
        if options.pmu.is_some() {
            need(Cap::ArmPmuV3, "performance monitors (--pmu)")?;
            add(KVM_ARM_VCPU_PMU_V3);
        }
        if options.aarch32 {
            need(Cap::ArmEl132bit, "32-bit guests (--aarch32)")?;
            add(KVM_ARM_VCPU_EL1_32BIT);
        } else {
            let pointers = [Cap::ArmPtrAuthAddress, Cap::ArmPtrAuthGeneric];
            if pointers.into_iter().all(|cap| fd.check_extension(cap)) {
                add(KVM_ARM_VCPU_PTRAUTH_ADDRESS);
                add(KVM_ARM_VCPU_PTRAUTH_GENERIC);
            }
            if fd.check_extension(Cap::ArmSve) {
                add(KVM_ARM_VCPU_SVE);
            }
        }
        let accounts = fd.check_extension_raw(KVM_CAP_STEAL_TIME.into()) > 0;
        Ok(Self { init, stolen_time: options.stolen_time.filter(|_| accounts) })
    }

    /// Where stolen time is accounted, if this host can.
    pub(crate) fn stolen_time(&self) -> Option<u64> {
        self.stolen_time
    }

    /// Makes vCPU `index` of `vm` this model.
    pub(crate) fn give_to(&self, fd: &VcpuFd, vm: &Vm, index: u32) -> Result<(), Error> {
        self.init(fd)?;
        if self.init.features.first().is_some_and(|word| word & 1 << KVM_ARM_VCPU_SVE != 0) {
            if let Some(bits) = vm.options().sve_max_vl {
                limit_vectors(fd, bits)?;
            }
            fd.vcpu_finalize(&i32::try_from(KVM_ARM_VCPU_SVE).unwrap_or(0))
                .map_err(Error::ioctl("settle the vector lengths"))?;
        }
        let Some(base) = self.stolen_time else { return Ok(()) };
        if has(fd, KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA) {
            let at = base + u64::from(index) * STOLEN_TIME_LEN;
            set_u64(fd, KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA.into(), at)
                .map_err(Error::ioctl("account stolen time"))?;
        }
        Ok(())
    }

    /// Puts the vCPU's registers in the state after power-on.
    pub(super) fn init(&self, fd: &VcpuFd) -> Result<(), Error> {
        fd.vcpu_init(&self.init).map_err(Error::ioctl("initialize a vCPU"))
    }
}

/// Takes the vectors longer than `bits` from a vCPU.
fn limit_vectors(fd: &VcpuFd, bits: u32) -> Result<(), Error> {
    let mut lengths = [0; 64];
    fd.get_one_reg(SVE_VLS, &mut lengths).map_err(Error::ioctl("name its vector lengths"))?;
    if !cut(&mut lengths, bits / QUADWORD_BITS) {
        return Err(Error::VectorLength { bits });
    }
    fd.set_one_reg(SVE_VLS, &lengths).map_err(Error::ioctl("limit the vector lengths")).map(drop)
}

/// Clears the bits of lengths above `quadwords`; false if that length itself is not there.
fn cut(lengths: &mut [u8; 64], quadwords: u32) -> bool {
    let mut there = false;
    for (byte, first) in lengths.iter_mut().zip((1_u32..).step_by(8)) {
        for (bit, length) in (0..8).zip(first..) {
            there |= length == quadwords && *byte & 1 << bit != 0;
            if length > quadwords {
                *byte &= !(1 << bit);
            }
        }
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_longer_than_asked_for_are_taken_away() {
        // 128, 256 and 512 bits, as QEMU's "max" has among others.
        let mut lengths = [0; 64];
        lengths[0] = 0b1011;
        let mut short = lengths;
        assert!(cut(&mut short, 2));
        assert_eq!(short[0], 0b0011);
        assert!(!cut(&mut short, 3), "384 bits are not there");
        assert!(cut(&mut lengths, 4));
        assert_eq!(lengths[0], 0b1011);
        let mut all = [0xff; 64];
        assert!(cut(&mut all, 9));
        assert_eq!((all[0], all[1], all[2]), (0xff, 1, 0));
    }
}
