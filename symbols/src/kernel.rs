//! The Linux kernel in a guest: where it has put itself, and what there is of its own knowledge.

use crate::unwind::orc::Orc;
use crate::{Arm64, Cpu, Symbols, Virtual, X86, kallsyms};

/// A kernel whose symbols are known.
#[derive(Clone, Debug)]
pub struct Kernel {
    symbols: Symbols,
    orc: Option<Orc>,
    /// Its code.
    text: Vec<std::ops::Range<u64>>,
}

/// Where something that has a name can be found in the processor's registers.
struct Anchor {
    /// Its names, one of which it has.
    names: &'static [&'static str],
    addr: u64,
}

/// What a kernel is at least aligned to when it moves.
const SLIDE_ALIGN: u64 = 0x1_0000;

impl Kernel {
    /// The kernel that `cpu` runs, by the table in its memory. `None`: no kernel has set up this
    /// processor yet, or it has no such table.
    pub fn in_memory(virt: &Virtual<'_>, cpu: &Cpu) -> Option<Self> {
        let near = anchors(virt, cpu).first()?.addr;
        Some(Self::with(virt, kallsyms::find(virt, near)?))
    }

    /// The kernel that `cpu` runs, by the symbols of a file, moved to where it runs. `None`: no
    /// kernel has set up this processor yet, or it is not that one.
    pub fn of_file(virt: &Virtual<'_>, cpu: &Cpu, file: &Symbols) -> Option<Self> {
        let anchors = anchors(virt, cpu);
        let mut slides = anchors.iter().filter_map(|anchor| {
            let linked = anchor.names.iter().find_map(|name| file.address(name))?;
            Some(anchor.addr.wrapping_sub(linked))
        });
        let slide = slides.find(|slide| slide % SLIDE_ALIGN == 0).or_else(|| {
            // By the kernel's own table, which has moved with it.
            let found = kallsyms::find(virt, anchors.first()?.addr)?;
            Some(start(&found)?.wrapping_sub(start(file)?))
        })?;
        Some(Self::with(virt, file.clone().shifted(slide)))
    }

    /// The address of code of the kernel that has set `cpu` up, if one has.
    pub fn anchor(virt: &Virtual<'_>, cpu: &Cpu) -> Option<u64> {
        anchors(virt, cpu).first().map(|anchor| anchor.addr)
    }

    fn with(virt: &Virtual<'_>, symbols: Symbols) -> Self {
        let named = |start, end| Some(symbols.address(start)?..symbols.address(end)?);
        let ranges = [named("_stext", "_etext"), named("_sinittext", "_einittext")];
        let text = ranges.into_iter().flatten().collect();
        let orc = Orc::read(virt, &symbols);
        Self { symbols, orc, text }
    }

    /// Its symbols.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Its tables for unwinding, if it has some (x86-64).
    pub fn orc(&self) -> Option<&Orc> {
        self.orc.as_ref()
    }

    /// Whether its own code is there. That of its modules is not among it.
    pub fn is_text(&self, addr: u64) -> bool {
        self.text.iter().any(|range| range.contains(&addr))
    }

    /// The name of its code at `addr`.
    pub fn name(&self, addr: u64) -> Option<crate::Symbol<'_>> {
        self.is_text(addr).then(|| self.symbols.lookup(addr)).flatten()
    }

    /// Where it runs: the address of its first code.
    pub fn base(&self) -> Option<u64> {
        start(&self.symbols)
    }
}

/// The first code of a kernel.
fn start(symbols: &Symbols) -> Option<u64> {
    symbols.address("_stext")
}

/// What in the registers has a name; the first is code of the kernel's in any case.
fn anchors(virt: &Virtual<'_>, cpu: &Cpu) -> Vec<Anchor> {
    let all = match cpu {
        Cpu::X86(cpu) => x86_anchors(virt, cpu),
        Cpu::Arm64(cpu) => arm64_anchors(cpu),
    };
    // Linux runs in the upper half. Firmware does not, nor does what loads it.
    all.into_iter().filter(|anchor| anchor.addr >> 63 == 1).collect()
}

fn x86_anchors(virt: &Virtual<'_>, cpu: &X86) -> Vec<Anchor> {
    let gate = |vector: u64| {
        // A gate of 16 bytes has its offset in three pieces (Intel SDM, volume 3, "64-Bit Mode IDT").
        let low = virt.read_u64(cpu.idt.wrapping_add(16 * vector))?;
        let high = virt.read_u64(cpu.idt.wrapping_add(16 * vector + 8))?;
        Some(low & 0xffff | low >> 32 & 0xffff_0000 | high << 32)
    };
    let page_fault = &["asm_exc_page_fault", "page_fault", "async_page_fault"][..];
    let divide_error = &["asm_exc_divide_error", "divide_error", "early_idt_handler_array"][..];
    let lstar = Some(cpu.lstar).filter(|addr| *addr != 0);
    [(&["entry_SYSCALL_64"][..], lstar), (divide_error, gate(0)), (page_fault, gate(14))]
        .into_iter()
        .filter_map(|(names, addr)| Some(Anchor { names, addr: addr? }))
        .collect()
}

/// The exception vectors are the kernel's own, but with page table isolation, in a user's time.
fn arm64_anchors(cpu: &Arm64) -> Vec<Anchor> {
    vec![Anchor { names: &["vectors"], addr: cpu.vbar_el1 }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kallsyms::made::{BASE, Era, Made};
    use crate::testing::{Ram, paged};

    /// A kernel at `BASE`, moved by `slide`, with its table and an IDT.
    fn guest(slide: u64) -> (Ram, X86) {
        let mut made = Made::new(Era::Latest);
        made.relative_base += slide;
        let (mut ram, mut cpu) = paged(BASE + slide, 8 << 20);
        ram.write_paged(0x10_0000, &made.image());
        cpu.lstar = BASE + slide + 0x100 * 5;
        (ram, cpu)
    }

    #[test]
    fn the_table_in_memory_says_where_the_kernel_is() {
        for slide in [0, 0x1e0_0000] {
            let (ram, cpu) = guest(slide);
            let cpu = Cpu::X86(cpu);
            let virt = Virtual::of(&ram, &cpu);
            let kernel = Kernel::in_memory(&virt, &cpu).unwrap();
            assert_eq!(kernel.base(), Some(BASE + slide));
            let name = kernel.name(BASE + slide + 0x512).unwrap();
            assert_eq!(name.to_string(), "entry_SYSCALL_64+0x12");
            assert_eq!(kernel.name(BASE + slide + (2 << 20)), None, "behind the text");
            assert!(kernel.orc().is_none());
        }
    }

    #[test]
    fn a_file_is_moved_to_where_the_kernel_runs() {
        let slide = 0x1e0_0000;
        let (ram, cpu) = guest(slide);
        let map: String = Made::new(Era::Latest)
            .symbols
            .iter()
            .zip(0..)
            .map(|((kind, name), n)| format!("{:x} {kind} {name}\n", BASE + 0x100 * n))
            .collect();
        let file = Symbols::from_file(std::io::Cursor::new(map)).unwrap();
        let find = |cpu: X86, file: &Symbols| {
            let cpu = Cpu::X86(cpu);
            let kernel = Kernel::of_file(&Virtual::of(&ram, &cpu), &cpu, file)?;
            kernel.name(BASE + slide + 0x512).map(|symbol| symbol.to_string())
        };
        assert_eq!(find(cpu, &file).unwrap(), "entry_SYSCALL_64+0x12");
        // By the kernel's own table, where the entry is not what the file has.
        let moved = X86 { lstar: cpu.lstar + 0x40, ..cpu };
        assert_eq!(find(moved, &file).unwrap(), "entry_SYSCALL_64+0x12");
        // Firmware, and a processor that has been given nothing.
        assert_eq!(find(X86 { lstar: 0, ..cpu }, &file), None);
        assert_eq!(find(X86 { lstar: 0xf_e000, ..cpu }, &file), None);
    }

    #[test]
    fn a_gate_of_the_idt_will_do_where_no_system_call_has_been_set_up() {
        let (mut ram, cpu) = guest(0x40_0000);
        let handler = BASE + 0x40_0000 + 0x100 * 4;
        let idt = BASE + 0x40_0000 + (4 << 20);
        let gate = [handler & 0xffff | 0x8e00 << 32 | (handler & 0xffff_0000) << 32, handler >> 32];
        let bytes: Vec<u8> = gate.iter().flat_map(|word| word.to_le_bytes()).collect();
        ram.write_paged(4 << 20, &bytes);
        let cpu = Cpu::X86(X86 { lstar: 0, idt, ..cpu });
        let kernel = Kernel::in_memory(&Virtual::of(&ram, &cpu), &cpu).unwrap();
        assert_eq!(kernel.base(), Some(BASE + 0x40_0000));
    }
}
