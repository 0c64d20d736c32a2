//! The options of an arm64 VM.

use super::chips::spi;
use super::{Gic, Pmu};

/// How a VM is to be made.
#[derive(Clone, Debug, Default)]
pub struct VmOptions {
    /// How many vCPUs it will have, 1 or more. All must be made before the first is started.
    pub vcpus: u32,
    /// Interrupt controllers in order of preference: the first that this host's KVM can make is
    /// made, and [`crate::Vm::gic`] says which. None at all: a VM without one.
    pub gics: Vec<Gic>,
    /// How many shared peripheral interrupts the interrupt controller has, INTID 32 and up; KVM
    /// takes multiples of 32, so it is rounded up.
    pub spis: u32,
    /// 32-bit guests: EL1 and EL0 execute AArch32.
    pub aarch32: bool,
    /// Performance monitors, if any.
    pub pmu: Option<Pmu>,
    /// The longest SVE vector in bits, a power of two; `None` for the longest the host has. Without
    /// effect on hosts without SVE.
    pub sve_max_vl: Option<u32>,
    /// Memory tagging, on hosts that have it.
    pub mte: bool,
    /// Guest physical address of 64 KiB in which KVM accounts stolen time, 64 bytes for each vCPU
    /// (Arm DEN0057); must not be RAM. Without effect on hosts that cannot account it.
    pub stolen_time: Option<u64>,
    /// Host CPUs the vCPUs may run on; empty for all.
    pub affinity: Vec<u32>,
}

impl VmOptions {
    /// KVM's number of shared peripheral interrupt `gsi`, if there is an interrupt controller.
    pub(crate) fn input(&self, gsi: u32) -> Option<u32> {
        (!self.gics.is_empty()).then(|| spi(gsi))
    }
}
