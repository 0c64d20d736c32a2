//! A vCPU's registers: their numbers (Linux `Documentation/virt/kvm/api.rst`, `KVM_SET_ONE_REG`)
//! and how a person reads them.

use std::fmt::Write;
use std::mem::offset_of;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_regs, user_pt_regs,
};
use kvm_ioctls::VcpuFd;

use crate::Error;

/// The number of the general register at this offset of `kvm_regs`.
const fn core(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

/// The encoding of a system register (Arm ARM, section C5.1).
pub(super) const fn encoding(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// The number of a system register.
const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    let encoding = encoding(op0, op1, crn, crm, op2);
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | encoding
}

/// X0 to X30.
pub(super) const fn x(n: usize) -> u64 {
    core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs) + n * 8)
}

/// The program counter.
pub(super) const PC: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc));
/// The processor state.
pub(super) const PSTATE: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pstate));
pub(super) const SP_EL0: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, sp));
pub(super) const SP_EL1: u64 = core(offset_of!(kvm_regs, sp_el1));
pub(super) const ELR_EL1: u64 = core(offset_of!(kvm_regs, elr_el1));
pub(super) const SPSR_EL1: u64 = core(offset_of!(kvm_regs, spsr));
/// Multiprocessor affinity.
const MPIDR_EL1: u64 = system(3, 0, 0, 0, 5);
pub(super) const SCTLR_EL1: u64 = system(3, 0, 1, 0, 0);
pub(super) const TTBR0_EL1: u64 = system(3, 0, 2, 0, 0);
pub(super) const TTBR1_EL1: u64 = system(3, 0, 2, 0, 1);
pub(super) const TCR_EL1: u64 = system(3, 0, 2, 0, 2);
pub(super) const ESR_EL1: u64 = system(3, 0, 5, 2, 0);
pub(super) const FAR_EL1: u64 = system(3, 0, 6, 0, 0);
pub(super) const VBAR_EL1: u64 = system(3, 0, 12, 0, 0);

/// Reads a register of 64 bits.
pub(super) fn get(fd: &VcpuFd, register: u64) -> Result<u64, kvm_ioctls::Error> {
    let mut bytes = [0; 8];
    fd.get_one_reg(register, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Writes a register of 64 bits.
pub(super) fn set(fd: &VcpuFd, register: u64, value: u64) -> Result<(), kvm_ioctls::Error> {
    fd.set_one_reg(register, &value.to_ne_bytes()).map(drop)
}

/// Writes registers, in this order.
pub(super) fn set_all(fd: &VcpuFd, registers: &[(u64, u64)]) -> Result<(), Error> {
    registers.iter().try_for_each(|(register, value)| {
        set(fd, *register, *value).map_err(Error::ioctl("set the registers"))
    })
}

/// The general registers of a vCPU at the exit of an access.
pub(crate) struct GeneralRegisters([u64; 31]);

impl GeneralRegisters {
    /// Those of now.
    pub(crate) fn of(fd: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        let mut registers = [0; 31];
        for (n, register) in registers.iter_mut().enumerate() {
            *register = get(fd, x(n))?;
        }
        Ok(Self(registers))
    }

    /// Puts them back after KVM has completed the access; the program counter is behind it.
    pub(crate) fn keep(self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        self.0.iter().enumerate().try_for_each(|(n, register)| set(fd, x(n), *register))
    }
}

/// A vCPU's affinity.
pub(crate) fn mpidr(fd: &VcpuFd) -> Result<u64, Error> {
    get(fd, MPIDR_EL1).map_err(Error::ioctl("read a vCPU's affinity"))
}

/// The registers as a block of lines.
pub(crate) fn describe_registers(fd: &VcpuFd) -> String {
    format_registers(|register| get(fd, register).ok())
}

/// The guest physical address of the next instruction, if it has one.
pub(crate) fn code_address(fd: &VcpuFd) -> Option<u64> {
    const MMU_ON: u64 = 1;
    let sctlr = get(fd, SCTLR_EL1).ok()?;
    (sctlr & MMU_ON == 0).then(|| get(fd, PC).ok()).flatten()
}

/// What KVM means by its reason for not entering the guest.
pub(crate) fn entry_failure_hint(reason: u64) -> &'static str {
    // `KVM_EXIT_FAIL_ENTRY_CPU_UNSUPPORTED`, Linux include/uapi/linux/kvm.h.
    if reason & 1 != 0 {
        ": this CPU's performance monitors are not those of the vCPU; --vcpu-affinity keeps it on \
         CPUs of one kind"
    } else {
        ""
    }
}

fn format_registers(read: impl Fn(u64) -> Option<u64>) -> String {
    let general = (0..31).map(|n| (format!("x{n}"), x(n)));
    let others = [
        ("sp_el0", SP_EL0),
        ("pc", PC),
        ("pstate", PSTATE),
        ("sp_el1", SP_EL1),
        ("elr_el1", ELR_EL1),
        ("spsr", SPSR_EL1),
        ("esr_el1", ESR_EL1),
        ("far_el1", FAR_EL1),
        ("vbar", VBAR_EL1),
        ("sctlr", SCTLR_EL1),
        ("tcr", TCR_EL1),
        ("ttbr0", TTBR0_EL1),
        ("ttbr1", TTBR1_EL1),
        ("mpidr", MPIDR_EL1),
    ];
    let others = others.map(|(name, register)| (name.to_owned(), register));
    let all: Vec<(String, u64)> = general.chain(others).collect();
    let mut out = String::new();
    for row in all.chunks(4) {
        for (name, register) in row {
            let value = read(*register).map_or("-".to_owned(), |value| format!("{value:016x}"));
            let _ = write!(out, "  {name:<7} {value:16}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_numbers_are_those_of_the_kernel() {
        assert_eq!(x(0), 0x6030_0000_0010_0000);
        assert_eq!(x(1), 0x6030_0000_0010_0002);
        assert_eq!(PC, 0x6030_0000_0010_0040);
        assert_eq!(PSTATE, 0x6030_0000_0010_0042);
        assert_eq!(SP_EL1, 0x6030_0000_0010_0044);
        assert_eq!(MPIDR_EL1, 0x6030_0000_0013_c005);
    }

    #[test]
    fn the_block_names_every_register_with_its_value_or_says_that_there_is_none() {
        let block = format_registers(|register| match register {
            PC => Some(0x8020_0000),
            VBAR_EL1 => None,
            _ => Some(0),
        });
        assert!(block.contains("pc      0000000080200000"), "{block}");
        assert!(block.contains("vbar    -"), "{block}");
        assert!(block.lines().all(|line| line.len() <= 112), "{block}");
    }
}
