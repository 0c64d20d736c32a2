//! Page tables: from a virtual address to a physical one, as the processor would go, without its
//! rights and faults.

mod arm64;
mod x86;

use crate::Memory;

pub use arm64::Arm64;
pub use x86::X86;

/// Which page tables, and how they are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// x86-64's, also in its 32-bit modes.
    X86(X86),
    /// arm64's.
    Arm64(Arm64),
}

/// Where a virtual address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its guest physical address.
    pub phys: u64,
    /// Bytes from there to the end of its page, at least 1.
    pub left: u64,
}

/// A virtual address is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Bytes from there to the next address that may be somewhere, at least 1.
    pub left: u64,
}

impl Paging {
    /// Where `virt` is.
    ///
    /// # Errors
    /// No page table has it, or one is not in memory.
    pub fn translate(&self, memory: &dyn Memory, virt: u64) -> Result<Mapped, Hole> {
        match self {
            Self::X86(tables) => tables.translate(memory, virt),
            Self::Arm64(tables) => tables.translate(memory, virt),
        }
    }
}

/// How far `virt` is from the end of the block of 2^`bits` bytes it is in; at most `u64::MAX`.
const fn left_of(virt: u64, bits: u32) -> u64 {
    match 1_u64.checked_shl(bits) {
        Some(len) => len - (virt & (len - 1)),
        None => u64::MAX,
    }
}

/// The entry of eight bytes at `addr`.
fn entry(memory: &dyn Memory, addr: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(addr, &mut bytes).then(|| u64::from_le_bytes(bytes))
}
