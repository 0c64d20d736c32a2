//! The options of an x86-64 VM.

use trapline_device::PcInput;

/// Where interrupt controllers are emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// In the kernel.
    Kernel,
    /// The local APICs in the kernel, everything else on the board: [`crate::LocalApics`],
    /// [`crate::Vcpu::connect_intr`] and [`crate::Vcpu::connect_eoi`] join them.
    Split,
    /// Nowhere. A halted vCPU ends with [`crate::Stop::Halted`], as nothing can wake it.
    None,
}

/// How a VM is to be made.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// How many vCPUs it will have, 1 or more. Goes into CPUID.
    pub vcpus: u32,
    /// Guest physical address of three pages KVM may use on Intel processors to run real mode.
    /// Must not be RAM.
    pub tss_addr: u64,
    /// The same of one more page, for a page table; KVM's own choice is 0xfffbc000.
    pub identity_map_addr: Option<u64>,
    /// The interrupt controllers.
    pub irqchip: Irqchip,
    /// What the interrupt inputs ([`crate::Vm::line`]) are wired to, with [`Irqchip::Kernel`].
    pub wiring: Vec<(u32, PcInput)>,
    /// Whether the kernel emulates the interval timer (ports 0x40 to 0x43). It then also answers
    /// port 0x61, whose bit 5 is the output of the timer's channel 2 and calibrates clocks: only
    /// who has the timer can answer it. Needs [`Irqchip::Kernel`].
    pub pit: bool,
}

impl VmOptions {
    /// A VM with so many vCPUs whose kernel emulates no device. The four pages at 0xfffb_c000 must not be
    /// RAM.
    pub const fn bare(vcpus: u32) -> Self {
        Self {
            vcpus,
            tss_addr: 0xfffb_d000,
            identity_map_addr: None,
            irqchip: Irqchip::None,
            wiring: Vec::new(),
            pit: false,
        }
    }

    /// KVM's number of interrupt input `gsi`, if the kernel has any inputs.
    pub(crate) fn input(&self, gsi: u32) -> Option<u32> {
        (self.irqchip == Irqchip::Kernel).then_some(gsi)
    }
}
