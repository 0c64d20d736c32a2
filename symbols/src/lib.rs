//! What a guest calls its own code: from the registers of a stopped processor and the guest's
//! memory to symbols and a call chain, without anything of the guest's help.
//!
//! ```text
//!   registers ──► paging ──► virtual memory ──► kallsyms (or a file) ──► symbols ──┐
//!       └──────────────────────────────────────────────────────────────► unwind ───┴──► frames
//! ```
//!
//! * [`paging`] walks the page tables of x86-64 (two to five levels) and of arm64 (three granules).
//! * [`kallsyms`] finds the table of symbols that Linux keeps for its own reports, wherever the kernel
//!   has put itself, and [`Symbols`] takes a file instead: `vmlinux` or `System.map`, shifted to where
//!   the kernel runs ([`kernel`]).
//! * [`unwind`] goes from a program counter to its callers: by Linux' ORC tables, by frame pointers,
//!   or, where neither is there, by a look at everything on the stack that could be a return address.
//!
//! All of it is made of what a guest has written, so nothing here trusts it: no value panics, and
//! what is read and kept has a bound.

#![forbid(unsafe_code)]

pub mod kallsyms;
pub mod kernel;
pub mod paging;
mod table;
#[cfg(test)]
mod testing;
pub mod unwind;
mod virt;

pub use kernel::Kernel;
pub use table::{FileError, Symbol, Symbols};
pub use virt::Virtual;

/// Guest physical memory, to be read.
pub trait Memory {
    /// Copies the bytes at the guest physical address `addr` to `buf`. `false`, and whatever in
    /// `buf`, unless all of them are memory: a device register must not be read.
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool;
}

/// A processor that stands still, as far as symbols and call chains need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// x86-64.
    X86(X86),
    /// arm64.
    Arm64(Arm64),
}

/// An x86-64 processor. Names are those of the manuals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct X86 {
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rdx: u64,
    pub rdi: u64,
    pub r10: u64,
    pub r13: u64,
    /// Base address of the code segment; zero in 64-bit mode.
    pub cs_base: u64,
    /// Base address of the stack segment; zero in 64-bit mode.
    pub ss_base: u64,
    /// It runs 64-bit code.
    pub long: bool,
    /// It runs with a user's rights (privilege level 3).
    pub user: bool,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// `MSR_LSTAR`: where system calls enter the kernel.
    pub lstar: u64,
    /// Base address of the interrupt descriptor table.
    pub idt: u64,
}

/// An arm64 processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct Arm64 {
    pub pc: u64,
    pub sp: u64,
    /// X29, the frame pointer.
    pub fp: u64,
    /// X30, the link register.
    pub lr: u64,
    /// It runs with a user's rights (EL0).
    pub user: bool,
    pub sctlr_el1: u64,
    pub tcr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub vbar_el1: u64,
}

impl Cpu {
    /// The address of the next instruction, as the page tables take it.
    pub const fn pc(&self) -> u64 {
        match self {
            Self::X86(cpu) => cpu.cs_base.wrapping_add(cpu.rip),
            Self::Arm64(cpu) => cpu.pc,
        }
    }

    /// Whether a user's code runs on it.
    pub const fn is_user(&self) -> bool {
        match self {
            Self::X86(cpu) => cpu.user,
            Self::Arm64(cpu) => cpu.user,
        }
    }

    /// Its page tables.
    pub const fn paging(&self) -> paging::Paging {
        match self {
            Self::X86(cpu) => paging::Paging::X86(paging::X86 {
                cr0: cpu.cr0,
                cr3: cpu.cr3,
                cr4: cpu.cr4,
                efer: cpu.efer,
            }),
            Self::Arm64(cpu) => paging::Paging::Arm64(paging::Arm64 {
                sctlr_el1: cpu.sctlr_el1,
                tcr_el1: cpu.tcr_el1,
                ttbr0_el1: cpu.ttbr0_el1,
                ttbr1_el1: cpu.ttbr1_el1,
            }),
        }
    }
}
