//! Which interrupts wait, are served and are masked in the chips that the kernel emulates: two 8259A
//! and the I/O APIC (`KVM_GET_IRQCHIP`), and a vCPU's local APIC (`KVM_GET_LAPIC`).

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_lapic_state, kvm_msr_entry,
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

/// A vCPU's local APIC (Intel SDM volume 3, "Local APIC register address map").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalApic {
    /// It is enabled by software (SVR).
    pub enabled: bool,
    /// Vectors that are requested, ascending (IRR).
    pub requested: Vec<u8>,
    /// Vectors that are being served, ascending (ISR).
    pub in_service: Vec<u8>,
    /// The priority that a vector has to be above (PPR); only the upper four bits count.
    pub priority: u8,
    /// Whether it passes on the 8259A's interrupts (LVT LINT0 unmasked and in ExtINT mode).
    pub passes_pic: bool,
    /// Whether its timer is going to interrupt.
    pub timer_armed: bool,
}

/// Offsets in the local APIC's page.
mod reg {
    pub(super) const PPR: usize = 0x0a0;
    pub(super) const SVR: usize = 0x0f0;
    pub(super) const ISR: usize = 0x100;
    pub(super) const IRR: usize = 0x200;
    pub(super) const LVT_TIMER: usize = 0x320;
    pub(super) const LVT_LINT0: usize = 0x350;
    pub(super) const CURRENT_COUNT: usize = 0x390;
}

/// SVR: enabled by software.
const SVR_ENABLED: u32 = 1 << 8;
/// A local vector table's entry: masked; its delivery mode, and ExtINT of those.
const LVT_MASKED: u32 = 1 << 16;
const LVT_MODE: u32 = 7 << 8;
const LVT_EXT_INT: u32 = 7 << 8;
/// The timer's mode, and the TSC deadline of those.
const TIMER_MODE: u32 = 3 << 17;
const TIMER_DEADLINE: u32 = 2 << 17;
/// Linux `arch/x86/include/asm/msr-index.h`.
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

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
    /// The local APIC of a stopped vCPU.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn local_apic(&self) -> Result<LocalApic, Error> {
        let refused = Error::ioctl("read a local APIC");
        let page = Page(self.fd().get_lapic().map_err(refused)?);
        let (timer, lint0) = (page.word(reg::LVT_TIMER), page.word(reg::LVT_LINT0));
        let counts = match timer & TIMER_MODE {
            TIMER_DEADLINE => deadline(self.fd()) != 0,
            _ => page.word(reg::CURRENT_COUNT) != 0,
        };
        let enabled = page.word(reg::SVR) & SVR_ENABLED != 0;
        Ok(LocalApic {
            enabled,
            requested: page.vectors(reg::IRR),
            in_service: page.vectors(reg::ISR),
            priority: page.word(reg::PPR).to_le_bytes()[0],
            // Switched off as a whole it is a wire (KVM's, too).
            passes_pic: lint0 & (LVT_MASKED | LVT_MODE) == LVT_EXT_INT,
            timer_armed: enabled && timer & LVT_MASKED == 0 && counts,
        })
    }

    /// Whether a stopped vCPU would take an interrupt now (RFLAGS.IF).
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn takes_interrupts(&self) -> Result<bool, Error> {
        const IF: u64 = 1 << 9;
        Ok(self.processor()?.rflags & IF != 0)
    }
}

fn deadline(fd: &VcpuFd) -> u64 {
    let entry = kvm_msr_entry { index: MSR_IA32_TSC_DEADLINE, ..Default::default() };
    let Ok(mut msrs) = Msrs::from_entries(&[entry]) else { return 0 };
    let read = fd.get_msrs(&mut msrs).unwrap_or(0);
    msrs.as_slice().first().filter(|_| read == 1).map_or(0, |entry| entry.data)
}

/// What a stopped vCPU goes on with.
pub(crate) fn activity(fd: &VcpuFd) -> Result<Activity, kvm_ioctls::Error> {
    Ok(match fd.get_mp_state()?.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::AwaitsStart,
        _ => Activity::Runs,
    })
}

/// A local APIC's registers: 32 bits each, 16 bytes apart.
struct Page(kvm_lapic_state);

impl Page {
    fn word(&self, offset: usize) -> u32 {
        let bytes = self.0.regs.get(offset..offset + 4).unwrap_or_default();
        bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(byte.cast_unsigned()))
    }

    /// The vectors of 256 bits in eight registers.
    fn vectors(&self, offset: usize) -> Vec<u8> {
        let bit = |vector: &u8| {
            let word = self.word(offset + usize::from(vector / 32) * 16);
            word >> (vector % 32) & 1 == 1
        };
        (0..=u8::MAX).filter(bit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_the_bits_of_eight_registers() {
        let mut page = Page(kvm_lapic_state::default());
        for (at, byte) in [(reg::IRR + 0x10, 0x02), (reg::IRR + 0x73, -0x80), (reg::ISR, 1)] {
            page.0.regs[at] = byte;
        }
        assert_eq!(page.vectors(reg::IRR), [33, 255]);
        assert_eq!(page.vectors(reg::ISR), [0]);
        assert_eq!(page.word(reg::IRR + 0x70), 0x8000_0000);
    }
}
