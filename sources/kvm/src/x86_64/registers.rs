//! A vCPU's registers as a person reads them.

use std::fmt::Write;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

/// The general registers of a vCPU at the exit of an access.
pub(crate) struct GeneralRegisters(kvm_regs);

impl GeneralRegisters {
    /// Those of now.
    pub(crate) fn of(fd: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        fd.get_regs().map(Self)
    }

    /// Puts them back after KVM has completed the access, with the instruction behind it. A string
    /// instruction that goes on keeps what it counts with.
    pub(crate) fn keep(self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        let now = fd.get_regs()?;
        if now.rip == self.0.rip {
            return Ok(());
        }
        fd.set_regs(&kvm_regs { rip: now.rip, rflags: now.rflags, ..self.0 })
    }
}

/// The registers as a block of lines.
pub(crate) fn describe_registers(fd: &VcpuFd) -> String {
    match (fd.get_regs(), fd.get_sregs()) {
        (Ok(regs), Ok(sregs)) => format_registers(&regs, &sregs),
        (Err(error), _) | (_, Err(error)) => format!("  registers: KVM does not tell: {error}\n"),
    }
}

/// The guest physical address of the next instruction, if it has one.
pub(crate) fn code_address(fd: &VcpuFd) -> Option<u64> {
    let linear = fd.get_sregs().ok()?.cs.base.wrapping_add(fd.get_regs().ok()?.rip);
    let translation = fd.translate_gva(linear).ok()?;
    (translation.valid != 0).then_some(translation.physical_address)
}

/// What the processor means by its reason for not entering the guest.
pub(crate) fn entry_failure_hint(reason: u64) -> &'static str {
    // Intel SDM volume 3, appendix C: bit 31 says that entry failed, the low half why; without it
    // the number is a VM-instruction error (volume 3, "VM instruction error numbers"). AMD APM
    // volume 2, appendix C: all ones is VMEXIT_INVALID.
    match (reason >> 31 & 1, reason & 0xffff) {
        _ if reason == u64::MAX || reason == 0xffff_ffff => {
            ": its state is not valid on this processor (VMEXIT_INVALID)"
        }
        (1, 33) => {
            ": its state is not valid on this processor; on processors without \"unrestricted \
             guest\", code that runs in real mode can cause this"
        }
        (1, 34) => ": a model-specific register could not be loaded",
        (1, 41) => ": a machine check happened on the way in",
        (0, 7) => ": a control field of the virtual machine is not valid",
        (0, 8) => ": a host field of the virtual machine is not valid",
        _ => "",
    }
}

fn format_registers(regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let rows = [
        [("rip", regs.rip), ("rsp", regs.rsp), ("rbp", regs.rbp), ("flags", regs.rflags)],
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx)],
        [("rsi", regs.rsi), ("rdi", regs.rdi), ("r8", regs.r8), ("r9", regs.r9)],
        [("r10", regs.r10), ("r11", regs.r11), ("r12", regs.r12), ("r13", regs.r13)],
        [("r14", regs.r14), ("r15", regs.r15), ("cr0", sregs.cr0), ("cr2", sregs.cr2)],
        [("cr3", sregs.cr3), ("cr4", sregs.cr4), ("cr8", sregs.cr8), ("efer", sregs.efer)],
    ];
    let mut out = String::new();
    for row in rows {
        for (name, value) in row {
            let _ = write!(out, "  {name:<5} {value:016x}");
        }
        out.push('\n');
    }
    let segments = [
        ("cs", &sregs.cs),
        ("ss", &sregs.ss),
        ("ds", &sregs.ds),
        ("es", &sregs.es),
        ("fs", &sregs.fs),
        ("gs", &sregs.gs),
        ("tr", &sregs.tr),
        ("ldt", &sregs.ldt),
    ];
    for (name, segment) in segments {
        format_segment(&mut out, name, segment);
    }
    for (name, table) in [("gdt", &sregs.gdt), ("idt", &sregs.idt)] {
        let _ =
            writeln!(out, "  {name:<5}      base {:016x} limit {:08x}", table.base, table.limit);
    }
    out
}

fn format_segment(out: &mut String, name: &str, segment: &kvm_segment) {
    let _ = write!(
        out,
        "  {name:<5} {:04x} base {:016x} limit {:08x} type {:x} dpl {}",
        segment.selector, segment.base, segment.limit, segment.type_, segment.dpl
    );
    for (flag, on) in [
        (" present", segment.present),
        (" unusable", segment.unusable),
        (" 64-bit", segment.l),
        (" 32-bit", segment.db),
    ] {
        out.push_str(if on == 0 { "" } else { flag });
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_names_every_register_with_its_value() {
        let regs = kvm_regs { rip: 0xfff0, r15: 0x1234_5678_9abc_def0, ..Default::default() };
        let mut sregs = kvm_sregs { cr0: 0x11, efer: 0x500, ..Default::default() };
        sregs.cs = kvm_segment { selector: 0xf000, base: 0xf_0000, present: 1, ..sregs.cs };
        let block = format_registers(&regs, &sregs);
        assert!(block.contains("rip   000000000000fff0"));
        assert!(block.contains("r15   123456789abcdef0"));
        assert!(block.contains("cr0   0000000000000011"));
        assert!(block.contains("efer  0000000000000500"));
        assert!(
            block.contains("cs    f000 base 00000000000f0000 limit 00000000 type 0 dpl 0 present")
        );
        assert!(block.lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn a_segment_says_what_kind_it_is() {
        let mut sregs = kvm_sregs::default();
        let base = 0x1_0000;
        sregs.ss = kvm_segment { unusable: 1, dpl: 3, type_: 0xb, limit: 0x67, base, ..sregs.ss };
        sregs.cs = kvm_segment { present: 1, l: 1, ..sregs.cs };
        sregs.ds = kvm_segment { present: 1, db: 1, ..sregs.ds };
        sregs.idt.base = 0xfee0_0000;
        sregs.idt.limit = 0xfff;
        let block = format_registers(&kvm_regs::default(), &sregs);
        for line in [
            "  cs    0000 base 0000000000000000 limit 00000000 type 0 dpl 0 present 64-bit\n",
            "  ds    0000 base 0000000000000000 limit 00000000 type 0 dpl 0 present 32-bit\n",
            "  ss    0000 base 0000000000010000 limit 00000067 type b dpl 3 unusable\n",
            "  es    0000 base 0000000000000000 limit 00000000 type 0 dpl 0\n",
            "  idt        base 00000000fee00000 limit 00000fff\n",
        ] {
            assert!(block.contains(line), "{line:?} in\n{block}");
        }
    }

    #[test]
    fn the_reason_of_a_refused_entry_is_named_on_both_vendors_processors() {
        for (reason, hint) in [
            (u64::MAX, "(VMEXIT_INVALID)"),
            (0xffff_ffff, "(VMEXIT_INVALID)"),
            (0x8000_0021, "\"unrestricted guest\""),
            (0x8000_0022, "model-specific register"),
            (0x8000_0029, "machine check"),
            (7, "control field"),
            (8, "host field"),
        ] {
            let told = entry_failure_hint(reason);
            assert!(told.starts_with(": ") && told.contains(hint), "{reason:#x}: {told:?}");
        }
        // Neither does bit 31 make an error of the other kind, nor its absence.
        for unknown in [0x1234, 0x8000_0007, 0x8000_0008, 0x21, 0x22, 0x29] {
            assert_eq!(entry_failure_hint(unknown), "", "{unknown:#x}");
        }
        // The bits above the low half are others'.
        assert_eq!(entry_failure_hint(0x8001_0022), entry_failure_hint(0x8000_0022));
    }
}
