//! Which interrupts wait, are served and are masked in the chips that the kernel emulates: two 8259A
//! and the I/O APIC (`KVM_GET_IRQCHIP`), and whether a stopped vCPU would take one.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::VcpuFd;

use crate::{Activity, Error, Irqchip, Vcpu, Vm, ioctl};

/// An 8259A in the kernel, bit per input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelPic {
    /// Inputs that are high.
    pub lines: u8,
    /// Interrupt request register.
    pub requests: u8,
    /// Interrupt mask register.
    pub masked: u8,
    /// In-service register.
    pub in_service: u8,
    /// Edge/level control register: inputs that are level triggered.
    pub level: u8,
    /// The vector of input 0; 0 before the guest has set up the chip.
    pub base: u8,
    /// The input with the highest priority.
    pub highest: u8,
    /// Special mask mode: inputs that are masked keep no others waiting.
    pub special_mask: bool,
}

/// The I/O APIC in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelIoApic {
    /// Inputs that ask for an interrupt, bit per pin.
    pub requests: u32,
    /// Redirection table (82093AA data sheet, section 3.2.4).
    pub entries: Vec<u64>,
}

/// The interrupt controllers in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelChips {
    /// The primary 8259A and the secondary one.
    pub pics: [KernelPic; 2],
    /// The I/O APIC.
    pub ioapic: KernelIoApic,
}

impl Vm {
    /// The interrupt controllers in the kernel, if they are there.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn kernel_chips(&self) -> Result<Option<KernelChips>, Error> {
        if self.options().irqchip != Irqchip::Kernel {
            return Ok(None);
        }
        let refused = Error::ioctl("read the interrupt controllers");
        let read = || -> Result<KernelChips, kvm_ioctls::Error> {
            let pic = |chip| {
                ioctl::pic(self.fd(), chip).map(|state| KernelPic {
                    lines: state.last_irr,
                    requests: state.irr,
                    masked: state.imr,
                    in_service: state.isr,
                    level: state.elcr,
                    base: state.irq_base,
                    highest: state.priority_add,
                    special_mask: state.special_mask != 0,
                })
            };
            let (requests, entries) = ioctl::ioapic(self.fd(), KVM_IRQCHIP_IOAPIC)?;
            Ok(KernelChips {
                pics: [pic(KVM_IRQCHIP_PIC_MASTER)?, pic(KVM_IRQCHIP_PIC_SLAVE)?],
                ioapic: KernelIoApic { requests, entries },
            })
        };
        read().map(Some).map_err(refused)
    }
}

impl Vcpu {
    /// Whether a stopped vCPU would take an interrupt now (RFLAGS.IF).
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn takes_interrupts(&self) -> Result<bool, Error> {
        const IF: u64 = 1 << 9;
        Ok(self.processor()?.rflags & IF != 0)
    }
}

/// What a stopped vCPU goes on with.
pub(crate) fn activity(fd: &VcpuFd) -> Result<Activity, kvm_ioctls::Error> {
    Ok(match fd.get_mp_state()?.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::AwaitsStart,
        _ => Activity::Runs,
    })
}
