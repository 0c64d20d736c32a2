//! Where a vCPU starts, as boot protocols put it.

use kvm_bindings::{KVM_MP_STATE_STOPPED, kvm_mp_state};
use kvm_ioctls::VcpuFd;

use super::registers::{self, PC, PSTATE, x};
use crate::Error;

/// Where a vCPU starts, at EL1 with the MMU off. What is not named is as after power-on;
/// interrupts are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// AArch64: the entry of Linux (`Documentation/arch/arm64/booting.rst`, the device tree in
    /// `x0`) and of firmware. x1 to x3 are zero.
    Boot {
        /// Program counter.
        pc: u64,
        /// X0.
        x0: u64,
    },
    /// AArch32 supervisor mode, for VMs with [`crate::VmOptions::aarch32`]: the entry of 32-bit
    /// Linux (`Documentation/arch/arm/booting.rst`). r0 is zero.
    Boot32 {
        /// Program counter.
        pc: u32,
        /// R1, the machine type; all ones with a device tree.
        r1: u32,
        /// R2, the device tree.
        r2: u32,
    },
    /// Off, until another vCPU switches it on by PSCI `CPU_ON` (Arm DEN0022).
    WaitForPsci,
}

/// EL1 with its own stack pointer, debug, SError, IRQ and FIQ masked (Arm ARM, SPSR_EL1).
const EL1H_MASKED: u64 = 0x3c5;
/// Supervisor mode, IRQ and FIQ masked (Arm ARM, CPSR).
const SVC_MASKED: u64 = 0xd3;

impl Start {
    /// Puts a vCPU in power-on state there.
    pub(crate) fn apply(&self, fd: &VcpuFd) -> Result<(), Error> {
        if *self == Self::WaitForPsci {
            let state = kvm_mp_state { mp_state: KVM_MP_STATE_STOPPED };
            return fd.set_mp_state(state).map_err(Error::ioctl("switch a vCPU off"));
        }
        registers::set_all(fd, &self.registers())
    }

    /// Where a 32-bit guest goes on after a suspension: the state in which `CPU_ON` starts a CPU too,
    /// in Thumb when the address is odd (Linux `arch/arm64/kvm/reset.c`).
    pub(super) fn resume32(entry: u64, context: u64) -> Vec<(u64, u64)> {
        const THUMB: u64 = 1 << 5;
        let thumb = if entry & 1 == 0 { 0 } else { THUMB };
        vec![(PSTATE, SVC_MASKED | thumb), (x(0), context), (PC, entry & !1)]
    }

    /// Registers and their values.
    pub(super) fn registers(&self) -> Vec<(u64, u64)> {
        match *self {
            Self::Boot { pc, x0 } => {
                vec![(PSTATE, EL1H_MASKED), (x(0), x0), (x(1), 0), (x(2), 0), (x(3), 0), (PC, pc)]
            }
            Self::Boot32 { pc, r1, r2 } => vec![
                (PSTATE, SVC_MASKED),
                (x(0), 0),
                (x(1), r1.into()),
                (x(2), r2.into()),
                (PC, pc.into()),
            ],
            Self::WaitForPsci => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_gets_its_device_tree_and_no_interrupts() {
        let registers = Start::Boot { pc: 0x8020_0000, x0: 0x8fe0_0000 }.registers();
        assert!(registers.contains(&(x(0), 0x8fe0_0000)));
        assert!(registers.contains(&(PSTATE, 0x3c5)));
        assert_eq!(registers.last(), Some(&(PC, 0x8020_0000)));
        let old = Start::Boot32 { pc: 0x8000_8000, r1: u32::MAX, r2: 0x8fe0_0000 }.registers();
        assert_eq!(Start::resume32(0x8001, 7), [(PSTATE, 0xf3), (x(0), 7), (PC, 0x8000)]);
        assert!(old.contains(&(x(1), 0xffff_ffff)) && old.contains(&(x(2), 0x8fe0_0000)));
    }
}
