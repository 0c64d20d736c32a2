use super::*;
use crate::kallsyms::made::{BASE, Era, Made};
use crate::testing::{Ram, paged};
use crate::{Arm64, X86};

/// Symbol numbers that say something to the unwinder.
const STARTS: u64 = 600;
const STARTS_END: u64 = 601;
const ENTRIES: u64 = 610;
const BANNER: u64 = 620;

const fn function(n: u64) -> u64 {
    BASE + 0x100 * n
}

/// A kernel of this version in memory whose functions from number 100 on unwind as `entries` say.
fn kernel(version: &str, entries: &[[u8; 6]]) -> (Ram, X86) {
    let mut made = Made::new(Era::Latest);
    for (n, name) in [
        (STARTS, "__start_orc_unwind_ip"),
        (STARTS_END, "__stop_orc_unwind_ip"),
        (ENTRIES, "__start_orc_unwind"),
        (BANNER, "linux_banner"),
    ] {
        made.symbols[usize::try_from(n).unwrap()] = ('D', name.to_owned());
    }
    let (mut ram, mut cpu) = paged(BASE, 8 << 20);
    ram.write_paged(0x10_0000, &made.image());
    cpu.lstar = function(5);
    for n in 0..64_u64 {
        // Those after the last one are beyond everything.
        let there = usize::try_from(n).unwrap() < entries.len();
        let target = function(if there { 100 + n } else { 699 });
        let at = function(STARTS) + 4 * n;
        let word = i32::try_from(target.wrapping_sub(at).cast_signed()).unwrap();
        ram.write_paged(at - BASE, &word.to_le_bytes());
        let entry = entries.get(usize::try_from(n).unwrap()).copied().unwrap_or_default();
        ram.write_paged(0x100 * ENTRIES + 6 * n, &entry);
    }
    ram.write_paged(0x100 * BANNER, format!("Linux version {version} (nobody)").as_bytes());
    (ram, cpu)
}

/// An entry: stack at `sp` and offset, caller's base pointer at `bp` and offset, and kind.
fn entry(sp: (u8, i16), bp: (u8, i16), kind: u8) -> [u8; 6] {
    let [a, b] = sp.1.to_le_bytes();
    let [c, d] = bp.1.to_le_bytes();
    [a, b, c, d, sp.0 | bp.0 << 4, kind]
}

const STACK: u64 = BASE + (4 << 20);

fn push(ram: &mut Ram, at: u64, values: &[u64]) {
    for (n, value) in (0..).zip(values) {
        ram.write_paged(at - BASE + 8 * n, &value.to_le_bytes());
    }
}

/// Program counters, negative where they are not sure.
fn told(ram: &Ram, cpu: X86) -> Vec<(u64, bool)> {
    let cpu = Cpu::X86(cpu);
    let virt = Virtual::of(ram, &cpu);
    let kernel = Kernel::in_memory(&virt, &cpu);
    chain(&virt, &cpu, kernel.as_ref()).iter().map(|frame| (frame.pc, frame.sure)).collect()
}

#[test]
fn the_tables_lead_from_frame_to_frame_over_saved_registers_to_the_end() {
    for (version, regs, end) in [("5.10.0-1", 1, 1 << 2), ("6.4.1", 3, 1), ("6.12.9+deb", 3, 1)] {
        let call = if regs == 1 { 0 } else { 2 };
        let entries = [
            // 100: two registers pushed, then called. 101: by the base pointer. 102: an interrupt.
            entry((5, 24), (1, -24), call),
            entry((4, 16), (1, -16), call),
            entry((5, 0), (0, 0), regs),
            // 103: what was interrupted; its caller is the last one.
            entry((5, 8), (0, 0), call),
            entry((0, 0), (0, 0), end),
        ];
        let (mut ram, cpu) = kernel(version, &entries);
        let bp = STACK + 0x100;
        push(&mut ram, STACK, &[bp, 0, function(101) + 5]);
        push(&mut ram, bp, &[0xdead, function(102) + 5]);
        let mut regs = [0; 21];
        (regs[16], regs[19]) = (function(103), STACK + 0x400);
        push(&mut ram, bp + 16, &regs);
        push(&mut ram, STACK + 0x400, &[function(104) + 9]);
        let cpu = X86 { rip: function(100) + 1, rsp: STACK, rbp: 7, ..cpu };
        let all = [function(100) + 1, function(101) + 5, function(102) + 5, function(103)];
        let mut wanted: Vec<_> = all.into_iter().map(|pc| (pc, true)).collect();
        wanted.push((function(104) + 9, true));
        assert_eq!(told(&ram, cpu), wanted, "{version}");
    }
}

#[test]
fn what_the_tables_do_not_say_is_looked_for_on_the_stack() {
    let entries = [entry((5, 8), (0, 0), 2), entry((0, 0), (0, 0), 0)];
    let (mut ram, cpu) = kernel("6.12", &entries);
    push(&mut ram, STACK, &[function(101) + 4, 17, function(7) + 2, 0xffff_ffff_0000_0000]);
    push(&mut ram, STACK + 0x40, &[function(8) + 2]);
    let cpu = X86 { rip: function(100), rsp: STACK, ..cpu };
    let wanted = [
        (function(100), true),
        (function(101) + 4, true),
        (function(7) + 2, false),
        (function(8) + 2, false),
    ];
    assert_eq!(told(&ram, cpu), wanted);
    // A stack that leads back to where it was.
    push(&mut ram, STACK, &[function(100) + 4; 2000]);
    let entries = [entry((5, 0), (0, 0), 2)];
    let (mut again, cpu) = kernel("6.12", &entries);
    push(&mut again, STACK - 8, &[function(100) + 4; 2000]);
    let frames = told(&again, X86 { rip: function(100), rsp: STACK, ..cpu });
    assert!(frames.len() <= FRAMES_MAX && frames.iter().skip(1).all(|frame| !frame.1));
}

#[test]
fn frame_pointers_lead_where_there_are_no_tables() {
    let (mut ram, cpu) = kernel("no banner", &[]);
    ram.write_paged(0x100 * BANNER, b"something else");
    push(&mut ram, STACK + 0x10, &[STACK + 0x40, function(9)]);
    push(&mut ram, STACK + 0x40, &[STACK + 0x20, function(10)]);
    let cpu = X86 { rip: function(8), rsp: STACK, rbp: STACK + 0x10, ..cpu };
    let wanted = [(function(8), true), (function(9), true), (function(10), true)];
    assert_eq!(told(&ram, cpu), wanted, "the next one would be below");
    // A user's stack, and one of 16-bit code, are nobody's business.
    assert_eq!(told(&ram, X86 { user: true, ..cpu }).len(), 1);
    assert_eq!(told(&ram, X86 { long: false, ..cpu }).len(), 1);
}

fn told_arm64(ram: &Ram, cpu: Arm64, kernel: Option<&Kernel>) -> Vec<u64> {
    let cpu = Cpu::Arm64(cpu);
    chain(&Virtual::of(ram, &cpu), &cpu, kernel).iter().map(|frame| frame.pc).collect()
}

#[test]
fn arm64_keeps_frame_records_and_a_leaf_its_link_register() {
    // Without an MMU: addresses are the memory's own. The kernel's symbols are another guest's.
    let (theirs, cpu) = kernel("6.12", &[]);
    let cpu = Cpu::X86(cpu);
    let found = Kernel::in_memory(&Virtual::of(&theirs, &cpu), &cpu).unwrap();
    assert_eq!(found.name(function(50)).unwrap().offset, 0);
    let mut ram = Ram::new(0x10000);
    ram.put(0x8000, 0x8040);
    ram.put(0x8008, 0x1111);
    ram.put(0x8040, 0);
    ram.put(0x8048, 0x2222);
    let cpu = Arm64 { pc: 0x1000, fp: 0x8000, lr: 0x3333, ..Arm64::default() };
    assert_eq!(told_arm64(&ram, cpu, None), [0x1000, 0x1111, 0x2222], "without symbols");
    // A record that is its own caller, and one that is nowhere.
    ram.put(0x8040, 0x8040);
    assert_eq!(told_arm64(&ram, cpu, None), [0x1000, 0x1111, 0x2222]);
    assert_eq!(told_arm64(&ram, Arm64 { fp: 1 << 40, ..cpu }, None), [0x1000]);
    assert_eq!(told_arm64(&ram, Arm64 { user: true, ..cpu }, None), [0x1000]);
}

/// arm64 tables that show 2 MiB of memory at `BASE`.
fn arm64_guest() -> (Ram, Arm64) {
    let mut ram = Ram::new(4 << 20);
    ram.put(0x1000 + (BASE >> 39 & 0x1ff) * 8, 0x2003);
    ram.put(0x2000 + (BASE >> 30 & 0x1ff) * 8, 0x3003);
    ram.put(0x3000 + (BASE >> 21 & 0x1ff) * 8, 0x20_0001);
    let tcr_el1 = 16 | 16 << 16 | 2 << 30;
    (ram, Arm64 { sctlr_el1: 1, tcr_el1, ttbr1_el1: 0x1000, ..Arm64::default() })
}

#[test]
fn authentication_codes_are_taken_off_and_frames_begin_with_their_push() {
    let (mut ram, cpu) = arm64_guest();
    let mut made = Made::new(Era::Order);
    made.symbols[9] = ('t', "leaf".to_owned());
    ram.write_paged(0x10_0000, &made.image());
    let cpu = Arm64 { vbar_el1: function(3), ..cpu };
    let find = |ram: &Ram| {
        let cpu = Cpu::Arm64(cpu);
        Kernel::in_memory(&Virtual::of(ram, &cpu), &cpu).unwrap()
    };
    let kernel = find(&ram);
    let stack = 0x18_0000;
    ram.write_paged(stack, &0_u64.to_le_bytes());
    // Its high bits, but for the 55th, are a code.
    let signed = function(11) & !(0x7f7f << 48) | 0x2a35 << 48;
    ram.write_paged(stack + 8, &signed.to_le_bytes());
    let lr = function(10) & !(0x7f7f << 48) | 0x1234 << 48;
    let cpu = Arm64 { pc: function(9) + 8, fp: BASE + stack, lr, ..cpu };
    let leaf = [function(9) + 8, function(10), function(11)];
    assert_eq!(told_arm64(&ram, cpu, Some(&kernel)), leaf);
    // paciasp; stp x29, x30, [sp, #-32]!
    ram.write_paged(0x900, &0xd503_233f_u32.to_le_bytes());
    ram.write_paged(0x904, &0xa9be_7bfd_u32.to_le_bytes());
    assert_eq!(told_arm64(&ram, cpu, Some(&kernel)), [function(9) + 8, function(11)]);
    let before = Arm64 { pc: function(9) + 4, ..cpu };
    assert_eq!(told_arm64(&ram, before, Some(&kernel)).len(), 3, "it has not been pushed yet");
}
