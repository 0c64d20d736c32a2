//! Where a vCPU starts, as boot protocols put it.

use kvm_bindings::{
    KVM_MP_STATE_UNINITIALIZED, kvm_dtable, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use crate::Error;

/// Where a vCPU starts. What is not named is as after power-on; interrupts are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// 16-bit real mode.
    Real {
        /// Code segment; its base is 16 times this.
        cs: u16,
        /// Instruction pointer.
        ip: u16,
        /// Data, stack and extra segments.
        ds: u16,
        /// Stack pointer.
        sp: u16,
    },
    /// 32-bit protected mode without paging, code 0x10 and data 0x18 flat over 4 GiB: the PVH
    /// entry (Xen `docs/misc/pvh.pandoc`, start information in `ebx`), the 32-bit entry of
    /// Linux (`Documentation/arch/x86/boot.rst`, boot parameters in `esi`) and Multiboot's
    /// (specification 0.6.96, section 3.2, boot information in `ebx`).
    Protected {
        /// Instruction pointer.
        eip: u32,
        /// Stack pointer.
        esp: u32,
        /// EAX.
        eax: u32,
        /// EBX.
        ebx: u32,
        /// ESI.
        esi: u32,
        /// The descriptor table that says the same as the segments.
        gdt: Table,
    },
    /// 64-bit long mode, paging on, code 0x10 and data 0x18 flat: the 64-bit entry of Linux
    /// (`Documentation/arch/x86/boot.rst`).
    Long {
        /// Instruction pointer.
        rip: u64,
        /// Stack pointer.
        rsp: u64,
        /// RSI, the boot parameters.
        rsi: u64,
        /// Address of the top page table.
        cr3: u64,
        /// The descriptor table that says the same as the segments.
        gdt: Table,
    },
    /// Waits for another vCPU to start it, by INIT and SIPI through the local APIC.
    WaitForSipi,
}

/// A descriptor table in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its guest address.
    pub base: u64,
    /// Its length in bytes, less one.
    pub limit: u16,
}

/// Selectors of the flat segments (Linux: `__BOOT_CS`, `__BOOT_DS`) and of the task state.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

// Segment types, Intel SDM volume 3, section 3.4.5.1 and 3.5.
const CODE_READ_ACCESSED: u8 = 0xb;
const DATA_WRITE_ACCESSED: u8 = 0x3;
const TASK_BUSY: u8 = 0xb;

// Control register bits, Intel SDM volume 3, section 2.5.
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Bit 1 of the flags register is always one.
const FLAGS: u64 = 2;

impl Start {
    /// Puts a vCPU in power-on state there.
    pub(crate) fn apply(&self, fd: &VcpuFd) -> Result<(), Error> {
        if *self == Self::WaitForSipi {
            let state = kvm_mp_state { mp_state: KVM_MP_STATE_UNINITIALIZED };
            return fd.set_mp_state(state).map_err(Error::ioctl("let a vCPU wait for SIPI"));
        }
        let mut sregs = fd.get_sregs().map_err(Error::ioctl("read the segment registers"))?;
        let regs = self.fill(&mut sregs);
        fd.set_sregs(&sregs).map_err(Error::ioctl("set the segment registers"))?;
        fd.set_regs(&regs).map_err(Error::ioctl("set the registers"))
    }

    /// The general registers, and the changes to the others.
    fn fill(&self, sregs: &mut kvm_sregs) -> kvm_regs {
        let clear = kvm_regs { rflags: FLAGS, ..Default::default() };
        match *self {
            Self::Real { cs, ip, ds, sp } => {
                sregs.cs = kvm_segment { selector: cs, base: u64::from(cs) << 4, ..sregs.cs };
                for segment in data_segments(sregs) {
                    segment.selector = ds;
                    segment.base = u64::from(ds) << 4;
                }
                let (rip, rsp) = (ip.into(), sp.into());
                kvm_regs { rip, rsp, rbp: rsp, ..clear }
            }
            Self::Protected { eip, esp, eax, ebx, esi, gdt } => {
                flat(sregs, gdt, false);
                sregs.cr0 = CR0_PE | CR0_ET;
                kvm_regs {
                    rip: eip.into(),
                    rsp: esp.into(),
                    rax: eax.into(),
                    rbx: ebx.into(),
                    rsi: esi.into(),
                    ..clear
                }
            }
            Self::Long { rip, rsp, rsi, cr3, gdt } => {
                flat(sregs, gdt, true);
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.cr3 = cr3;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
                kvm_regs { rip, rsp, rsi, ..clear }
            }
            Self::WaitForSipi => clear,
        }
    }
}

fn data_segments(sregs: &mut kvm_sregs) -> [&mut kvm_segment; 5] {
    [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss]
}

/// Flat segments over 4 GiB, a task segment that is never used but must be valid, no interrupt
/// table.
fn flat(sregs: &mut kvm_sregs, gdt: Table, long: bool) {
    let code = kvm_segment {
        selector: CODE,
        limit: u32::MAX,
        type_: CODE_READ_ACCESSED,
        present: 1,
        s: 1,
        g: 1,
        db: u8::from(!long),
        l: u8::from(long),
        ..Default::default()
    };
    sregs.cs = code;
    for segment in data_segments(sregs) {
        *segment = kvm_segment { selector: DATA, type_: DATA_WRITE_ACCESSED, db: 1, l: 0, ..code };
    }
    sregs.tr = kvm_segment {
        selector: TASK,
        limit: 0x67,
        type_: TASK_BUSY,
        present: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable { base: gdt.base, limit: gdt.limit, ..Default::default() };
    sregs.idt = kvm_dtable::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    const GDT: Table = Table { base: 0x500, limit: 0x1f };

    /// What flat segments are, code with these two bits, over whatever was there.
    fn assert_flat(sregs: &kvm_sregs, l: u8, db: u8) {
        let limit = u32::MAX;
        let code = kvm_segment {
            selector: 0x10,
            limit,
            type_: 0xb,
            present: 1,
            s: 1,
            g: 1,
            db,
            l,
            ..Default::default()
        };
        assert_eq!(sregs.cs, code);
        let data = kvm_segment { selector: 0x18, type_: 0x3, db: 1, l: 0, ..code };
        assert_eq!([sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss], [data; 5]);
        // A task state that is busy, 104 bytes.
        let task = kvm_segment {
            selector: 0x20,
            limit: 0x67,
            type_: 0xb,
            present: 1,
            ..Default::default()
        };
        assert_eq!(sregs.tr, task);
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 0x1f));
        assert_eq!((sregs.idt.base, sregs.idt.limit), (0, 0));
    }

    /// Segments after power-on, as far as `start` has to replace them.
    fn power_on() -> kvm_sregs {
        let segment = kvm_segment { selector: 0xf000, base: 0xffff_0000, ..Default::default() };
        let idt = kvm_dtable { base: 0, limit: 0xffff, ..Default::default() };
        kvm_sregs {
            cs: segment,
            ds: segment,
            tr: segment,
            idt,
            cr0: 0x6000_0010,
            ..kvm_sregs::default()
        }
    }

    #[test]
    fn protected_mode_is_flat_and_unpaged() {
        let mut sregs = power_on();
        let (eip, eax, ebx) = (0x10_0000, 0x2bad_b002, 0x6000);
        let start = Start::Protected { eip, esp: 0x9000, eax, ebx, esi: 0x7000, gdt: GDT };
        let regs = start.fill(&mut sregs);
        let wanted = kvm_regs {
            rip: 0x10_0000,
            rsp: 0x9000,
            rax: 0x2bad_b002,
            rbx: 0x6000,
            rsi: 0x7000,
            rflags: 2,
            ..Default::default()
        };
        assert_eq!(regs, wanted);
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x11, 0, 0, 0));
        assert_flat(&sregs, 0, 1);
    }

    #[test]
    fn long_mode_is_flat_and_paged() {
        let mut sregs = power_on();
        let start = Start::Long { rip: 0x20_0200, rsp: 0x9000, rsi: 0x7000, cr3: 0x4000, gdt: GDT };
        let regs = start.fill(&mut sregs);
        let wanted =
            kvm_regs { rip: 0x20_0200, rsp: 0x9000, rsi: 0x7000, rflags: 2, ..Default::default() };
        assert_eq!(regs, wanted);
        assert_eq!((sregs.cr0, sregs.cr3), (1 << 31 | 0x11, 0x4000));
        assert_eq!((sregs.cr4, sregs.efer), (1 << 5, 1 << 10 | 1 << 8));
        assert_flat(&sregs, 1, 0);
    }

    #[test]
    fn real_mode_segments_are_sixteen_times_their_selector() {
        let mut sregs = kvm_sregs::default();
        sregs.cs.limit = 0xffff;
        let start = Start::Real { cs: 0xf000, ip: 0xfff0, ds: 0x1000, sp: 0x8000 };
        let regs = start.fill(&mut sregs);
        let wanted =
            kvm_regs { rip: 0xfff0, rsp: 0x8000, rbp: 0x8000, rflags: 2, ..Default::default() };
        assert_eq!(regs, wanted);
        assert_eq!((sregs.cs.selector, sregs.cs.base, sregs.cs.limit), (0xf000, 0xf_0000, 0xffff));
        for segment in [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] {
            assert_eq!((segment.selector, segment.base), (0x1000, 0x1_0000));
        }
    }
}
