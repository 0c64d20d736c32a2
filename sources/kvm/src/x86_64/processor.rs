//! An x86-64 processor's registers as a debugger knows them, and what it stops at.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_SINGLESTEP,
    KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, Msrs, kvm_fpu, kvm_guest_debug,
    kvm_guest_debug_arch, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::VcpuFd;

use crate::Error;
use crate::debug::{DebugStop, Debugged, Traps};
use crate::exit::DebugExit;

/// The registers of a vCPU. Those from `segments` on, but for the floating point's, can be read only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15: gdb's order.
    pub general: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
    /// Selectors of CS, SS, DS, ES, FS, GS.
    pub segments: [u16; 6],
    /// Base addresses of the same.
    pub segment_bases: [u64; 6],
    /// It runs 64-bit code.
    pub long: bool,
    /// The privilege level of its code.
    pub level: u8,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// The base address of the interrupt descriptor table.
    pub idt: u64,
    /// `MSR_LSTAR`.
    pub lstar: u64,
    /// The x87 registers, of which ten bytes count.
    pub st: [[u8; 16]; 8],
    /// The x87 control, status and (abridged) tag words.
    pub x87_words: [u16; 3],
    /// XMM0 to XMM15.
    pub xmm: [[u8; 16]; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

/// Linux `arch/x86/include/asm/msr-index.h`.
const MSR_LSTAR: u32 = 0xc000_0082;
/// The vectors of debug and breakpoint exceptions.
const DB: u32 = 1;
const BP: u32 = 3;
/// DR6: a single step.
const DR6_BS: u64 = 1 << 14;
/// Bits of DR7 that are always set.
const DR7_FIXED: u64 = 0x400;
/// How many of them a processor has.
const DEBUG_REGISTERS: usize = 4;

impl Processor {
    pub(crate) fn of(fd: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        let (regs, sregs, fpu) = (fd.get_regs()?, fd.get_sregs()?, fd.get_fpu()?);
        let segments = [&sregs.cs, &sregs.ss, &sregs.ds, &sregs.es, &sregs.fs, &sregs.gs];
        Ok(Self {
            general: general(&regs),
            rip: regs.rip,
            rflags: regs.rflags,
            segments: segments.map(|segment| segment.selector),
            segment_bases: segments.map(|segment: &kvm_segment| segment.base),
            long: sregs.cs.l != 0,
            level: sregs.ss.dpl & 3,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            idt: sregs.idt.base,
            lstar: lstar(fd).unwrap_or_default(),
            st: fpu.fpr,
            x87_words: [fpu.fcw, fpu.fsw, fpu.ftwx.into()],
            xmm: fpu.xmm,
            mxcsr: fpu.mxcsr,
        })
    }

    /// The address of the next instruction, as the page tables take it.
    pub const fn pc(&self) -> u64 {
        let [cs, ..] = self.segment_bases;
        if self.long { self.rip } else { cs.wrapping_add(self.rip) }
    }

    pub(crate) fn put(&self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] =
            self.general;
        let (rip, rflags) = (self.rip, self.rflags);
        fd.set_regs(&kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        })?;
        let now = fd.get_fpu()?;
        let [fcw, fsw, ftw] = self.x87_words;
        let ftwx = u8::try_from(ftw & 0xff).unwrap_or_default();
        let (fpr, xmm, mxcsr) = (self.st, self.xmm, self.mxcsr);
        let fpu = kvm_fpu { fcw, fsw, ftwx, fpr, xmm, mxcsr, ..now };
        if fpu == now { Ok(()) } else { fd.set_fpu(&fpu) }
    }
}

const fn general(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

fn lstar(fd: &VcpuFd) -> Option<u64> {
    let entry = kvm_msr_entry { index: MSR_LSTAR, ..Default::default() };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    fd.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().first().map(|entry| entry.data)
}

/// Has a vCPU stop at `traps`, and hands the guest the breakpoint that it came to, if asked to.
pub(crate) fn set_traps(fd: &VcpuFd, traps: &Traps, give: bool) -> Result<(), Error> {
    let debugreg = debug_registers(traps)?;
    let flags = [
        (!traps.is_empty(), KVM_GUESTDBG_ENABLE),
        (traps.step, KVM_GUESTDBG_SINGLESTEP),
        (!traps.software.is_empty(), KVM_GUESTDBG_USE_SW_BP),
        (debugreg[7] != 0, KVM_GUESTDBG_USE_HW_BP),
        (give, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP),
    ];
    let control = flags.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag);
    let debug = |control| {
        let arch = kvm_guest_debug_arch { debugreg };
        fd.set_guest_debug(&kvm_guest_debug { control, arch, ..Default::default() })
    };
    // An interrupt that waits would be what the next instruction is of; older kernels cannot hold it
    // back.
    if traps.step && debug(control | KVM_GUESTDBG_BLOCKIRQ).is_ok() {
        return Ok(());
    }
    debug(control).map_err(Error::ioctl("debug a vCPU"))
}

/// DR0 to DR7 (Intel SDM, volume 3, "Debug Registers").
fn debug_registers(traps: &Traps) -> Result<[u64; 8], Error> {
    let breakpoints = traps.breakpoints.iter().map(|addr| Ok((*addr, 0)));
    let watchpoints = traps.watchpoints.iter().map(|watchpoint| {
        let len = match watchpoint.len {
            1 => 0,
            2 => 1,
            4 => 3,
            8 => 2,
            _ => return Err(Error::Watchpoint { len: watchpoint.len }),
        };
        if !watchpoint.addr.is_multiple_of(watchpoint.len) {
            return Err(Error::Watchpoint { len: watchpoint.len });
        }
        // There is none for reads alone.
        let kind = if watchpoint.read { 3 } else { 1 };
        Ok((watchpoint.addr, kind | len << 2))
    });
    let mut registers = [0; 8];
    for (n, wanted) in breakpoints.chain(watchpoints).enumerate() {
        let (addr, bits) = wanted?;
        let [.., control] = &mut registers;
        if n >= DEBUG_REGISTERS {
            return Err(Error::DebugRegisters { max: DEBUG_REGISTERS });
        }
        *control |= DR7_FIXED | 2 << (2 * n) | bits << (16 + 4 * n);
        if let Some(register) = registers.get_mut(n) {
            *register = addr;
        }
    }
    Ok(registers)
}

/// What an exit for debugging means.
#[expect(clippy::unnecessary_wraps, reason = "arm64 asks KVM")]
pub(crate) fn debugged(
    _fd: &VcpuFd,
    traps: &Traps,
    exit: &DebugExit,
) -> Result<Debugged, kvm_ioctls::Error> {
    Ok(match exit.what {
        BP if traps.software.contains(&exit.addr) => Debugged::Stop(DebugStop::Software(exit.addr)),
        BP => Debugged::Guests,
        DB => Debugged::Stop(debug_exception(traps, exit)),
        // Nothing else was asked for.
        _ => Debugged::Stop(DebugStop::Step),
    })
}

fn debug_exception(traps: &Traps, exit: &DebugExit) -> DebugStop {
    let hit = (0..DEBUG_REGISTERS).find(|n| exit.status >> n & 1 == 1);
    match hit {
        Some(n) if n < traps.breakpoints.len() => DebugStop::Hardware(exit.addr),
        Some(n) => match traps.watchpoints.get(n - traps.breakpoints.len()) {
            Some(watchpoint) => DebugStop::Watch(watchpoint.addr),
            None => DebugStop::Step,
        },
        None if exit.status & DR6_BS == 0 && traps.breakpoints.contains(&exit.addr) => {
            DebugStop::Hardware(exit.addr)
        }
        None => DebugStop::Step,
    }
}

/// Has the guest take its own breakpoint.
pub(crate) fn give_to_guest(fd: &VcpuFd, traps: &Traps, _exit: &DebugExit) -> Result<(), Error> {
    set_traps(fd, traps, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debug::Watchpoint;

    #[test]
    fn debug_registers_have_addresses_lengths_and_kinds() {
        let watch = |addr, len, read| Watchpoint { addr, len, read, write: true };
        let mut traps = Traps {
            breakpoints: vec![0x1000],
            watchpoints: vec![watch(0x2004, 4, false), watch(0x3000, 8, true)],
            ..Traps::default()
        };
        let registers = debug_registers(&traps).unwrap();
        assert_eq!(registers[..4], [0x1000, 0x2004, 0x3000, 0]);
        assert_eq!(registers[7], 0x400 | 0x2a | 0b1101 << 20 | 0b1011 << 24);
        traps.watchpoints.push(watch(0x4000, 1, false));
        assert!(debug_registers(&traps).is_ok());
        traps.breakpoints.push(0x5000);
        let told = debug_registers(&traps).unwrap_err().to_string();
        assert_eq!(told, "the processor has no more than 4 debug registers of that kind");
        for (addr, len) in [(0x1001, 2), (0x1000, 3), (0x1000, 16)] {
            let traps = Traps { watchpoints: vec![watch(addr, len, true)], ..Traps::default() };
            assert!(debug_registers(&traps).is_err(), "{addr:#x} {len}");
        }
        assert_eq!(debug_registers(&Traps::default()).unwrap(), [0; 8]);
    }

    #[test]
    fn an_exception_is_told_by_what_asked_for_it() {
        let traps = Traps {
            software: vec![0x10],
            breakpoints: vec![0x20],
            watchpoints: vec![Watchpoint { addr: 0x30, len: 1, read: false, write: true }],
            ..Traps::default()
        };
        let of = |status, addr| debug_exception(&traps, &DebugExit { what: DB, addr, status });
        assert_eq!(of(1, 0x20), DebugStop::Hardware(0x20));
        assert_eq!(of(2, 0x55), DebugStop::Watch(0x30));
        assert_eq!(of(DR6_BS, 0x20), DebugStop::Step);
        assert_eq!(of(0, 0x20), DebugStop::Hardware(0x20), "some KVM leave DR6 as it was");
        assert_eq!(of(8, 0x20), DebugStop::Step, "nobody asked for that");
    }
}
