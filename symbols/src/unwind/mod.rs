//! Call chains: from a stopped processor to who called what it runs.

mod arm64;
pub mod orc;
#[cfg(test)]
mod tests;
mod x86;

use crate::{Cpu, Kernel, Virtual};

/// One place in a call chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The next instruction there: for a caller, what it returns to.
    pub pc: u64,
    /// It is known to be one. Otherwise it is a number on the stack that could be a return address.
    pub sure: bool,
    /// `pc` is behind a call; its caller's symbol is that of the byte before it.
    pub returns: bool,
}

/// The longest chain.
pub const FRAMES_MAX: usize = 64;

impl Frame {
    /// Code that was interrupted, or runs.
    const fn at(pc: u64) -> Self {
        Self { pc, sure: true, returns: false }
    }

    /// A caller.
    const fn returning(pc: u64) -> Self {
        Self { pc, sure: true, returns: true }
    }

    /// What could be a caller.
    const fn unsure(pc: u64) -> Self {
        Self { pc, sure: false, returns: true }
    }

    /// The address whose symbol it has.
    pub const fn place(&self) -> u64 {
        if self.returns { self.pc.wrapping_sub(1) } else { self.pc }
    }
}

/// The call chain of `cpu`, innermost first; at least the instruction it is at. Where the kernel is
/// not known, it is what frame pointers say.
pub fn chain(virt: &Virtual<'_>, cpu: &Cpu, kernel: Option<&Kernel>) -> Vec<Frame> {
    let mut frames = vec![Frame::at(cpu.pc())];
    // A user's stack is laid out as that user likes.
    if !cpu.is_user() {
        match cpu {
            Cpu::X86(cpu) => x86::walk(virt, cpu, kernel, &mut frames),
            Cpu::Arm64(cpu) => arm64::walk(virt, cpu, kernel, &mut frames),
        }
    }
    frames.truncate(FRAMES_MAX);
    frames
}

/// Whether `addr` may be code: of the kernel, if that is known, or else something that is mapped.
/// Modules are not in the kernel's text, so where a chain is certain anything mapped will do.
fn may_be_code(virt: &Virtual<'_>, kernel: Option<&Kernel>, addr: u64) -> bool {
    match kernel {
        Some(kernel) if kernel.is_text(addr) => true,
        Some(_) => addr >> 63 == 1 && virt.translate(addr).is_some(),
        None => addr != 0 && virt.translate(addr).is_some(),
    }
}
