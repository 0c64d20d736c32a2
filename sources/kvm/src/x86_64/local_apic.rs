//! A vCPU's local APIC in the kernel (`KVM_GET_LAPIC`), whose registers are 32 bits each, 16 bytes apart.
//!
//! Spec: Intel SDM volume 3, "Local APIC register address map" and "Local vector table".

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::{Error, Vcpu};

/// What a local APIC is doing.
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
pub(super) mod reg {
    pub(crate) const PPR: usize = 0x0a0;
    pub(crate) const SVR: usize = 0x0f0;
    pub(crate) const ISR: usize = 0x100;
    pub(crate) const IRR: usize = 0x200;
    pub(crate) const LVT_TIMER: usize = 0x320;
    pub(crate) const LVT_LINT0: usize = 0x350;
    pub(crate) const LVT_LINT1: usize = 0x360;
    pub(crate) const CURRENT_COUNT: usize = 0x390;
}

/// SVR: enabled by software.
const SVR_ENABLED: u32 = 1 << 8;
/// A local vector table's entry: masked; its delivery mode, and NMI and ExtINT of those.
const LVT_MASKED: u32 = 1 << 16;
const LVT_MODE: u32 = 7 << 8;
pub(super) const LVT_NMI: u32 = 4 << 8;
pub(super) const LVT_EXT_INT: u32 = 7 << 8;
/// The timer's mode, and the TSC deadline of those.
const TIMER_MODE: u32 = 3 << 17;
const TIMER_DEADLINE: u32 = 2 << 17;
/// Linux `arch/x86/include/asm/msr-index.h`.
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

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
}

fn deadline(fd: &VcpuFd) -> u64 {
    let entry = kvm_msr_entry { index: MSR_IA32_TSC_DEADLINE, ..Default::default() };
    let Ok(mut msrs) = Msrs::from_entries(&[entry]) else { return 0 };
    let read = fd.get_msrs(&mut msrs).unwrap_or(0);
    msrs.as_slice().first().filter(|_| read == 1).map_or(0, |entry| entry.data)
}

/// The registers.
pub(super) struct Page(pub(super) kvm_lapic_state);

impl Page {
    pub(super) fn word(&self, offset: usize) -> u32 {
        let bytes = self.0.regs.get(offset..offset + 4).unwrap_or_default();
        bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(byte.cast_unsigned()))
    }

    pub(super) fn set_word(&mut self, offset: usize, value: u32) {
        let bytes = self.0.regs.get_mut(offset..offset + 4).unwrap_or_default();
        for (byte, value) in bytes.iter_mut().zip(value.to_le_bytes()) {
            *byte = value.cast_signed();
        }
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
        for (at, byte) in [(reg::IRR + 0x10, 0x02), (reg::IRR + 0x73, -0x80)] {
            page.0.regs[at] = byte;
        }
        page.set_word(reg::ISR, 1);
        assert_eq!(page.vectors(reg::IRR), [33, 255]);
        assert_eq!(page.vectors(reg::ISR), [0]);
        assert_eq!(page.word(reg::IRR + 0x70), 0x8000_0000);
    }
}
