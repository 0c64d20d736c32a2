//! A vCPU's registers as gdb has them.

use trapline_machine::debug::Processor;

/// gdb's idea of the architecture.
#[cfg(target_arch = "x86_64")]
pub(super) type Arch = gdbstub_arch::x86::X86_64_SSE;
/// gdb's idea of the architecture.
#[cfg(target_arch = "aarch64")]
pub(super) type Arch = gdbstub_arch::aarch64::AArch64;

/// All registers of it.
pub(super) type Registers = <Arch as gdbstub::arch::Arch>::Registers;

/// The instruction that stops a vCPU.
#[cfg(target_arch = "x86_64")]
pub(super) const BREAKPOINT: &[u8] = &[0xcc];
/// The instruction that stops a vCPU: `brk #0`.
#[cfg(target_arch = "aarch64")]
pub(super) const BREAKPOINT: &[u8] = &[0x00, 0x00, 0x20, 0xd4];

/// gdb's registers of a vCPU.
#[cfg(target_arch = "x86_64")]
pub(super) fn read(from: &Processor, to: &mut Registers) {
    to.regs = from.general;
    to.rip = from.rip;
    to.eflags = low(from.rflags);
    let [cs, ss, ds, es, fs, gs] = from.segments.map(u32::from);
    to.segments = gdbstub_arch::x86::reg::X86SegmentRegs { cs, ss, ds, es, fs, gs };
    for (st, bytes) in to.st.iter_mut().zip(&from.st) {
        st.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }
    [to.fpu.fctrl, to.fpu.fstat, to.fpu.ftag] = from.x87_words.map(u32::from);
    to.xmm = from.xmm.map(u128::from_le_bytes);
    to.mxcsr = from.mxcsr;
}

/// Puts gdb's registers into a vCPU's, as far as they can be written.
#[cfg(target_arch = "x86_64")]
pub(super) fn write(from: &Registers, to: &mut Processor) {
    to.general = from.regs;
    to.rip = from.rip;
    to.rflags = to.rflags & !0xffff_ffff | u64::from(from.eflags);
    for (bytes, st) in to.st.iter_mut().zip(&from.st) {
        bytes.iter_mut().zip(st).for_each(|(to, from)| *to = *from);
    }
    let words = [from.fpu.fctrl, from.fpu.fstat, from.fpu.ftag];
    to.x87_words = words.map(|word| u16::try_from(word & 0xffff).unwrap_or_default());
    to.xmm = from.xmm.map(u128::to_le_bytes);
    to.mxcsr = from.mxcsr;
}

/// gdb's registers of a vCPU.
#[cfg(target_arch = "aarch64")]
pub(super) fn read(from: &Processor, to: &mut Registers) {
    (to.x, to.sp, to.pc, to.v) = (from.x, from.sp, from.pc, from.v);
    to.cpsr = low(from.pstate);
    (to.fpcr, to.fpsr) = (from.fpcr, from.fpsr);
}

/// Puts gdb's registers into a vCPU's, as far as they can be written.
#[cfg(target_arch = "aarch64")]
pub(super) fn write(from: &Registers, to: &mut Processor) {
    (to.x, to.sp, to.pc, to.v) = (from.x, from.sp, from.pc, from.v);
    to.pstate = to.pstate & !0xffff_ffff | u64::from(from.cpsr);
    (to.fpcr, to.fpsr) = (from.fpcr, from.fpsr);
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gdb_writes_back_unchanged_changes_nothing() {
        #[cfg(target_arch = "x86_64")]
        let before = Processor {
            general: std::array::from_fn(|n| n as u64 + 1),
            rip: 0xfff0,
            rflags: 0x246,
            st: [[7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0]; 8],
            x87_words: [0x37f, 1, 2],
            xmm: [[3; 16]; 16],
            mxcsr: 0x1f80,
            cr3: 5,
            ..Processor::default()
        };
        #[cfg(target_arch = "aarch64")]
        let before = Processor {
            x: std::array::from_fn(|n| n as u64),
            sp: 1,
            pc: 2,
            pstate: 0x3c5,
            v: [9; 32],
            fpcr: 3,
            ttbr1_el1: 4,
            ..Processor::default()
        };
        let (mut registers, mut after) = (Registers::default(), before);
        read(&before, &mut registers);
        write(&registers, &mut after);
        assert_eq!(after, before);
    }
}
