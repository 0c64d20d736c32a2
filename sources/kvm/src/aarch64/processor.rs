//! An arm64 processor's registers as a debugger knows them, and what it stops at.

use std::mem::offset_of;

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW, KVM_GUESTDBG_USE_SW_BP,
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U32, KVM_REG_SIZE_U128, kvm_guest_debug,
    kvm_guest_debug_arch, kvm_regs, user_fpsimd_state,
};
use kvm_ioctls::VcpuFd;

use super::registers::{
    ELR_EL1, ESR_EL1, FAR_EL1, PC, PSTATE, SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1, TCR_EL1, TTBR0_EL1,
    TTBR1_EL1, VBAR_EL1, get, set, x,
};
use crate::Error;
use crate::debug::{DebugStop, Debugged, Traps};
use crate::exit::DebugExit;

/// The registers of a vCPU. Those from `sctlr_el1` on can be read only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// X0 to X30.
    pub x: [u64; 31],
    /// The stack pointer that is in use.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// The processor state.
    pub pstate: u64,
    /// V0 to V31; zero where the vCPU has them as parts of longer ones (SVE).
    pub v: [u128; 32],
    /// The floating point's status.
    pub fpsr: u32,
    /// The floating point's control.
    pub fpcr: u32,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
    /// TCR_EL1.
    pub tcr_el1: u64,
    /// TTBR0_EL1.
    pub ttbr0_el1: u64,
    /// TTBR1_EL1.
    pub ttbr1_el1: u64,
    /// VBAR_EL1.
    pub vbar_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// FAR_EL1.
    pub far_el1: u64,
}

/// PSTATE: the exception level and which stack pointer (Arm ARM, C5.2.19, "SPSR_EL1").
const MODE: u64 = 0xf;
const EL1H: u64 = 5;
/// All interrupts are masked.
const DAIF: u64 = 0xf << 6;

const fn vector(n: usize) -> u64 {
    let offset = offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, vregs) + 16 * n;
    KVM_REG_ARM64 | KVM_REG_SIZE_U128 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

const fn word(offset: usize) -> u64 {
    let offset = offset_of!(kvm_regs, fp_regs) + offset;
    KVM_REG_ARM64 | KVM_REG_SIZE_U32 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

const FPSR: u64 = word(offset_of!(user_fpsimd_state, fpsr));
const FPCR: u64 = word(offset_of!(user_fpsimd_state, fpcr));

impl Processor {
    pub(crate) fn of(fd: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        let mut made = Self::default();
        for (n, register) in made.x.iter_mut().enumerate() {
            *register = get(fd, x(n))?;
        }
        for (n, register) in made.v.iter_mut().enumerate() {
            let mut bytes = [0; 16];
            // With SVE they are not to be had by this name.
            if fd.get_one_reg(vector(n), &mut bytes).is_ok() {
                *register = u128::from_ne_bytes(bytes);
            }
        }
        made.pstate = get(fd, PSTATE)?;
        made.sp = get(fd, made.stack_pointer())?;
        for (register, number) in [
            (&mut made.pc, PC),
            (&mut made.sctlr_el1, SCTLR_EL1),
            (&mut made.tcr_el1, TCR_EL1),
            (&mut made.ttbr0_el1, TTBR0_EL1),
            (&mut made.ttbr1_el1, TTBR1_EL1),
            (&mut made.vbar_el1, VBAR_EL1),
            (&mut made.esr_el1, ESR_EL1),
            (&mut made.far_el1, FAR_EL1),
        ] {
            *register = get(fd, number)?;
        }
        for (register, number) in [(&mut made.fpsr, FPSR), (&mut made.fpcr, FPCR)] {
            let mut bytes = [0; 4];
            fd.get_one_reg(number, &mut bytes)?;
            *register = u32::from_ne_bytes(bytes);
        }
        Ok(made)
    }

    /// The address of the next instruction.
    pub const fn pc(&self) -> u64 {
        self.pc
    }

    pub(crate) fn put(&self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        let now = Self::of(fd)?;
        for (n, (new, old)) in self.x.iter().zip(now.x).enumerate() {
            if *new != old {
                set(fd, x(n), *new)?;
            }
        }
        for (n, (new, old)) in self.v.iter().zip(now.v).enumerate() {
            if *new != old {
                fd.set_one_reg(vector(n), &new.to_ne_bytes())?;
            }
        }
        for (number, new, old) in [
            (now.stack_pointer(), self.sp, now.sp),
            (PC, self.pc, now.pc),
            (PSTATE, self.pstate, now.pstate),
        ] {
            if new != old {
                set(fd, number, new)?;
            }
        }
        for (number, new, old) in [(FPSR, self.fpsr, now.fpsr), (FPCR, self.fpcr, now.fpcr)] {
            if new != old {
                fd.set_one_reg(number, &new.to_ne_bytes())?;
            }
        }
        Ok(())
    }

    /// Whether a user's code runs on it (EL0).
    pub const fn is_user(&self) -> bool {
        self.pstate & MODE == 0
    }

    /// The number of the stack pointer in use.
    const fn stack_pointer(&self) -> u64 {
        if self.pstate & MODE == EL1H { SP_EL1 } else { SP_EL0 }
    }
}

/// A debug register's controls: EL0 and EL1, enabled (Arm ARM, D13.3, "DBGBCR<n>_EL1").
const BOTH_LEVELS: u64 = 3 << 1 | 1;
/// All four bytes of an instruction.
const INSTRUCTION: u64 = 0xf << 5;

/// Has a vCPU stop at `traps`.
pub(crate) fn set_traps(fd: &VcpuFd, traps: &Traps, _give: bool) -> Result<(), Error> {
    let mut arch = kvm_guest_debug_arch::default();
    let max = arch.dbg_bcr.len();
    if traps.breakpoints.len() > max || traps.watchpoints.len() > max {
        return Err(Error::DebugRegisters { max });
    }
    let breakpoints = arch.dbg_bcr.iter_mut().zip(&mut arch.dbg_bvr);
    for ((control, value), addr) in breakpoints.zip(&traps.breakpoints) {
        (*control, *value) = (BOTH_LEVELS | INSTRUCTION, addr & !3);
    }
    let watchpoints = arch.dbg_wcr.iter_mut().zip(&mut arch.dbg_wvr);
    for ((control, value), watchpoint) in watchpoints.zip(&traps.watchpoints) {
        let inside = watchpoint.addr & 7;
        if !(1..=8).contains(&watchpoint.len) || inside + watchpoint.len > 8 {
            return Err(Error::Watchpoint { len: watchpoint.len });
        }
        let bytes = (0xff >> (8 - watchpoint.len)) << inside;
        let kinds = u64::from(watchpoint.read) | u64::from(watchpoint.write) << 1;
        (*control, *value) = (BOTH_LEVELS | kinds << 3 | bytes << 5, watchpoint.addr & !7);
    }
    let hardware = !traps.breakpoints.is_empty() || !traps.watchpoints.is_empty();
    let flags = [
        (!traps.is_empty(), KVM_GUESTDBG_ENABLE),
        (traps.step, KVM_GUESTDBG_SINGLESTEP),
        (!traps.software.is_empty(), KVM_GUESTDBG_USE_SW_BP),
        (hardware, KVM_GUESTDBG_USE_HW),
    ];
    let control = flags.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag);
    let debug = kvm_guest_debug { control, arch, ..Default::default() };
    fd.set_guest_debug(&debug).map_err(Error::ioctl("debug a vCPU"))
}

/// What an exit for debugging means: by the exception class (Arm ARM, D17.2.37, "ESR_EL1").
pub(crate) fn debugged(
    fd: &VcpuFd,
    traps: &Traps,
    exit: &DebugExit,
) -> Result<Debugged, kvm_ioctls::Error> {
    let pc = get(fd, PC)?;
    Ok(match exit.what >> 26 {
        0x30 | 0x31 => Debugged::Stop(DebugStop::Hardware(pc)),
        0x34 | 0x35 => Debugged::Stop(DebugStop::Watch(exit.addr)),
        0x38 | 0x3c if traps.software.contains(&pc) => Debugged::Stop(DebugStop::Software(pc)),
        0x38 | 0x3c => Debugged::Guests,
        _ => Debugged::Stop(DebugStop::Step),
    })
}

/// Has the guest take its own breakpoint: the exception is entered as the processor would have (Arm
/// ARM, "AArch64.TakeException").
pub(crate) fn give_to_guest(fd: &VcpuFd, _traps: &Traps, exit: &DebugExit) -> Result<(), Error> {
    let given = || -> Result<(), kvm_ioctls::Error> {
        let (pc, pstate, vbar) = (get(fd, PC)?, get(fd, PSTATE)?, get(fd, VBAR_EL1)?);
        let entry = match pstate & MODE {
            EL1H => 0x200,
            0 => 0x400,
            _ => 0,
        };
        set(fd, ELR_EL1, pc)?;
        set(fd, SPSR_EL1, pstate)?;
        set(fd, ESR_EL1, exit.what.into())?;
        set(fd, PSTATE, EL1H | DAIF | pstate & PAN)?;
        set(fd, PC, vbar.wrapping_add(entry))
    };
    given().map_err(Error::ioctl("give the guest its breakpoint"))
}

/// Privileged access never.
const PAN: u64 = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_numbers_are_those_of_the_kernel() {
        assert_eq!(vector(0), 0x6040_0000_0010_0054);
        assert_eq!(vector(1), 0x6040_0000_0010_0058);
        assert_eq!(FPSR, 0x6020_0000_0010_00d4);
        assert_eq!(FPCR, 0x6020_0000_0010_00d5);
    }
}
