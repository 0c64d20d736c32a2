//! The vGIC's registers as they are after power-on, and the way back to them.
//!
//! KVM has no reset for anything but the ITS, so every register that a guest can change is written
//! (`KVM_DEV_ARM_VGIC_GRP_*_REGS`). Offsets are those of Arm IHI 0048 (GICv2) and
//! IHI 0069 (GICv3), "Programmers' model"; encodings of system registers those of the Arm ARM.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CPUID_SHIFT, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
    KVM_DEV_ARM_VGIC_GRP_DIST_REGS, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT,
};
use kvm_ioctls::DeviceFd;

use super::attr::{set_u32, set_u64};
use super::registers::encoding;
use crate::{Error, ioctl};

/// One register to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Write {
    group: u32,
    attr: u64,
    value: Value,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Always this.
    Fixed(u32),
    /// What it was after power-on.
    Kept(u64),
}

/// Registers in the order in which they are to be written.
#[derive(Debug, Default)]
pub(super) struct PowerOnState(Vec<Write>);

/// Which controller it is, and who its vCPUs are.
#[derive(Clone, Copy)]
pub(super) enum Version<'a> {
    /// vCPUs are counted.
    V2(u32),
    /// vCPUs have MPIDRs.
    V3(&'a [u64]),
}

/// INTIDs in a bank: those of one vCPU, or as many shared ones.
const BANK: u32 = 32;

impl PowerOnState {
    /// Reads the present state, which is that after power-on.
    pub(super) fn of(fd: &DeviceFd, version: Version<'_>, intids: u32) -> Result<Self, Error> {
        let mut writes = plan(version, intids);
        for write in &mut writes {
            if let Value::Kept(value) = &mut write.value {
                *value = ioctl::device_attr(fd, write.group, write.attr).map_err(|error| {
                    tracing::debug!("vGIC group {}, attribute {:#x}", write.group, write.attr);
                    Error::ioctl("read the interrupt controller")(error)
                })?;
            }
        }
        Ok(Self(writes))
    }

    /// Goes back to it. All vCPUs are stopped.
    pub(super) fn restore(&self, fd: &DeviceFd) -> Result<(), Error> {
        self.0.iter().try_for_each(|Write { group, attr, value }| {
            let done = match *value {
                Value::Fixed(value) => set_u32(fd, *group, *attr, value),
                // The kernel takes as many of the bytes as the register has.
                Value::Kept(value) => set_u64(fd, *group, *attr, value),
            };
            done.map_err(|error| {
                tracing::debug!("vGIC group {group}, attribute {attr:#x}, {value:x?}");
                Error::ioctl("reset the interrupt controller")(error)
            })
        })
    }
}

/// Where the state of 32 interrupts is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bank {
    group: u32,
    /// Of the registers' first.
    base: u64,
    /// The line levels of the same: group and attribute.
    levels: Option<(u32, u64)>,
}

/// The private interrupts of a vCPU of a GICv2.
pub(super) fn private_v2(vcpu: u32) -> Bank {
    let base = u64::from(vcpu) << KVM_DEV_ARM_VGIC_CPUID_SHIFT;
    Bank { group: KVM_DEV_ARM_VGIC_GRP_DIST_REGS, base, levels: None }
}

/// The private interrupts of a vCPU of a GICv3.
pub(super) fn private_v3(mpidr: u64) -> Bank {
    let of = affinity(mpidr) << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT;
    let levels = Some((KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, of));
    Bank { group: KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, base: of | gicr::SGI_BASE, levels }
}

/// The 32 shared interrupts from `first`.
pub(super) fn shared(first: u32) -> Bank {
    let levels = Some((KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, first.into()));
    let base = u64::from(first) / 8;
    Bank { group: KVM_DEV_ARM_VGIC_GRP_DIST_REGS, base, levels }
}

impl Bank {
    /// Which are pending, enabled and active. A GICv3 tells user space of pending latches and of line
    /// levels, which a GICv2 has together.
    pub(super) fn read(self, fd: &DeviceFd) -> Result<[u64; 3], kvm_ioctls::Error> {
        let read = |register| ioctl::device_attr(fd, self.group, self.base + register);
        let levels = self.levels.and_then(|(group, attr)| ioctl::device_attr(fd, group, attr).ok());
        let pending = read(gicd::ISPENDR)? | levels.unwrap_or(0);
        Ok([pending, read(gicd::ISENABLER)?, read(gicd::ISACTIVER)?])
    }
}

/// What there is to write.
fn plan(version: Version<'_>, intids: u32) -> Vec<Write> {
    let mut plan = Plan(Vec::new());
    match version {
        Version::V2(vcpus) => {
            let cpu = |index: u32| u64::from(index) << KVM_DEV_ARM_VGIC_CPUID_SHIFT;
            plan.kept(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, gicd::IIDR);
            plan.kept(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, gicd::CTLR);
            for index in 0..vcpus {
                plan.bank(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, cpu(index), 0);
                for register in gicc::ALL {
                    plan.kept(KVM_DEV_ARM_VGIC_GRP_CPU_REGS, cpu(index) | register);
                }
            }
            for first in shared_banks(intids) {
                plan.bank(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, first);
                plan.targets(first);
            }
        }
        Version::V3(mpidrs) => {
            for mpidr in mpidrs {
                plan.redistributor(affinity(*mpidr) << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT);
            }
            plan.kept(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, gicd::CTLR);
            for first in shared_banks(intids) {
                plan.bank(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, first);
                plan.routes(first);
            }
        }
    }
    plan.0
}

/// The first INTIDs of the banks of shared interrupts. The last INTIDs of all are special and have
/// no registers of their own, but share a bank.
fn shared_banks(intids: u32) -> impl Iterator<Item = u64> {
    (BANK..intids).step_by(32).map(u64::from)
}

/// The four affinity fields of an MPIDR, one byte each.
fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_ffff | (mpidr >> 32 & 0xff) << 24
}

struct Plan(Vec<Write>);

impl Plan {
    fn fixed(&mut self, group: u32, attr: u64, value: u32) {
        self.0.push(Write { group, attr, value: Value::Fixed(value) });
    }

    fn kept(&mut self, group: u32, attr: u64) {
        self.0.push(Write { group, attr, value: Value::Kept(0) });
    }

    /// The state of the 32 interrupts from `first`, whose registers are at `base`.
    fn bank(&mut self, group: u32, base: u64, first: u64) {
        let bits = base + first / 8;
        self.kept(group, bits + gicd::IGROUPR);
        for clear in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
            self.fixed(group, bits + clear, u32::MAX);
        }
        self.kept(group, bits + gicd::ISENABLER);
        // To user space a GICv3 has pending latches here that are written as they are to be.
        self.fixed(group, bits + gicd::ISPENDR, 0);
        for word in (0..u64::from(BANK)).step_by(4) {
            self.kept(group, base + gicd::IPRIORITYR + first + word);
        }
        for word in [0, 4] {
            self.kept(group, base + gicd::ICFGR + first / 4 + word);
        }
    }

    /// GICv2: which vCPUs get the 32 shared interrupts from `first`.
    fn targets(&mut self, first: u64) {
        for word in (0..u64::from(BANK)).step_by(4) {
            self.kept(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, gicd::ITARGETSR + first + word);
        }
    }

    /// GICv3: where the 32 shared interrupts from `first` go, registers of 64 bits in two halves.
    fn routes(&mut self, first: u64) {
        for half in (0..u64::from(BANK) * 8).step_by(4) {
            let offset = gicd::IROUTER + first * 8 + half;
            // INTIDs from 1020 are special.
            if offset < gicd::IROUTER + 1020 * 8 {
                self.kept(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset);
            }
        }
    }

    /// GICv3: one vCPU's redistributor and CPU interface.
    fn redistributor(&mut self, mpidr: u64) {
        let group = KVM_DEV_ARM_VGIC_GRP_REDIST_REGS;
        // LPIs off first: their tables cannot be moved while they are on.
        self.fixed(group, mpidr | gicr::CTLR, 0);
        for table in [gicr::PROPBASER, gicr::PENDBASER] {
            self.kept(group, mpidr | table);
            self.kept(group, (mpidr | table) + 4);
        }
        self.bank(group, mpidr | gicr::SGI_BASE, 0);
        for register in icc::ALL {
            self.kept(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, mpidr | register);
        }
    }
}

/// The distributor. GICv3's redistributors have those of private interrupts at the same offsets of
/// their second frame.
mod gicd {
    pub(super) const CTLR: u64 = 0x000;
    pub(super) const IIDR: u64 = 0x008;
    pub(super) const IGROUPR: u64 = 0x080;
    pub(super) const ISENABLER: u64 = 0x100;
    pub(super) const ICENABLER: u64 = 0x180;
    pub(super) const ISPENDR: u64 = 0x200;
    pub(super) const ICPENDR: u64 = 0x280;
    pub(super) const ISACTIVER: u64 = 0x300;
    pub(super) const ICACTIVER: u64 = 0x380;
    pub(super) const IPRIORITYR: u64 = 0x400;
    pub(super) const ITARGETSR: u64 = 0x800;
    pub(super) const ICFGR: u64 = 0xc00;
    pub(super) const IROUTER: u64 = 0x6000;
}

/// GICv3's redistributors.
mod gicr {
    pub(super) const CTLR: u64 = 0x00;
    pub(super) const PROPBASER: u64 = 0x70;
    pub(super) const PENDBASER: u64 = 0x78;
    pub(super) const SGI_BASE: u64 = 0x1_0000;
}

/// GICv2's CPU interface.
mod gicc {
    const CTLR: u64 = 0x00;
    const PMR: u64 = 0x04;
    const BPR: u64 = 0x08;
    const ABPR: u64 = 0x1c;
    const APR: u64 = 0xd0;
    pub(super) const ALL: [u64; 5] = [CTLR, PMR, BPR, ABPR, APR];
}

/// GICv3's CPU interface.
mod icc {
    use super::encoding;

    const PMR: u64 = encoding(3, 0, 4, 6, 0);
    const BPR0: u64 = encoding(3, 0, 12, 8, 3);
    const AP0R0: u64 = encoding(3, 0, 12, 8, 4);
    const AP1R0: u64 = encoding(3, 0, 12, 9, 0);
    const CTLR: u64 = encoding(3, 0, 12, 12, 4);
    const BPR1: u64 = encoding(3, 0, 12, 12, 3);
    const SRE: u64 = encoding(3, 0, 12, 12, 5);
    const IGRPEN0: u64 = encoding(3, 0, 12, 12, 6);
    const IGRPEN1: u64 = encoding(3, 0, 12, 12, 7);
    pub(super) const ALL: [u64; 9] = [SRE, CTLR, PMR, BPR0, AP0R0, AP1R0, BPR1, IGRPEN0, IGRPEN1];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(plan: &[Write], group: u32, attr: u64) -> usize {
        plan.iter().filter(|write| write.group == group && write.attr == attr).count()
    }

    #[test]
    fn every_redistributor_is_named_by_its_affinity() {
        let mpidrs = [0x8000_0000, 0x1_8000_0102];
        let plan = plan(Version::V3(&mpidrs), 64);
        let group = KVM_DEV_ARM_VGIC_GRP_REDIST_REGS;
        assert_eq!(writes(&plan, group, 0), 1);
        assert_eq!(writes(&plan, group, 0x0100_0102 << 32), 1);
        assert_eq!(writes(&plan, group, 0x0100_0102 << 32 | 0x1_0400), 1);
        // ICC_IGRPEN1_EL1 is S3_0_C12_C12_7.
        let sysregs = KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS;
        assert_eq!(writes(&plan, sysregs, 0x0100_0102 << 32 | 0xc667), 1);
    }

    #[test]
    fn no_special_interrupt_has_a_route_and_every_other_one_has() {
        let plan = plan(Version::V3(&[0]), 1024);
        let routes: Vec<u64> = plan
            .iter()
            .filter(|write| write.group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && write.attr >= 0x6000)
            .map(|write| write.attr)
            .collect();
        assert_eq!(routes.first(), Some(&0x6100));
        assert_eq!(routes.last(), Some(&(0x6000 + 1019 * 8 + 4)));
        assert_eq!(routes.len(), (1020 - 32) * 2);
    }

    #[test]
    fn a_gicv2_has_a_bank_for_each_vcpu_and_one_for_32_shared_interrupts() {
        let plan = plan(Version::V2(2), 96);
        let group = KVM_DEV_ARM_VGIC_GRP_DIST_REGS;
        assert_eq!(writes(&plan, group, 0x180), 1);
        assert_eq!(writes(&plan, group, 1 << 32 | 0x180), 1);
        assert_eq!(writes(&plan, group, 0x184), 1);
        assert_eq!(writes(&plan, group, 0x188), 1);
        assert_eq!(writes(&plan, group, 0x18c), 0);
        assert_eq!(writes(&plan, group, 0x820), 1, "INTID 32's target");
        assert_eq!(writes(&plan, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, 1 << 32 | 0xd0), 1);
    }
}
