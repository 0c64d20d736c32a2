//! A vCPU's registers, as symbols and call chains need them.

use trapline_kvm::Processor;
use trapline_symbols::Cpu;

/// The processor that `from` are the registers of.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn of(from: &Processor) -> Cpu {
    let [_, _, _, rdx, _, rdi, rbp, rsp, _, _, r10, _, _, r13, _, _] = from.general;
    let [cs_base, ss_base, ..] = from.segment_bases;
    Cpu::X86(trapline_symbols::X86 {
        rip: from.rip,
        rsp,
        rbp,
        rdx,
        rdi,
        r10,
        r13,
        cs_base: if from.long { 0 } else { cs_base },
        ss_base: if from.long { 0 } else { ss_base },
        long: from.long,
        user: from.level == 3,
        cr0: from.cr0,
        cr3: from.cr3,
        cr4: from.cr4,
        efer: from.efer,
        lstar: from.lstar,
        idt: from.idt,
    })
}

/// The processor that `from` are the registers of.
#[cfg(target_arch = "aarch64")]
pub(crate) const fn of(from: &Processor) -> Cpu {
    let [.., fp, lr] = from.x;
    Cpu::Arm64(trapline_symbols::Arm64 {
        pc: from.pc,
        sp: from.sp,
        fp,
        lr,
        user: from.is_user(),
        sctlr_el1: from.sctlr_el1,
        tcr_el1: from.tcr_el1,
        ttbr0_el1: from.ttbr0_el1,
        ttbr1_el1: from.ttbr1_el1,
        vbar_el1: from.vbar_el1,
    })
}
