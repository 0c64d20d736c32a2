//! What an access is: which space, which direction, how wide, and who makes it.

use std::fmt;

/// One of the two address spaces a guest can trap in. 0x3f8 in one has nothing to do with 0x3f8 in
/// the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Guest physical addresses, 64 bits.
    Mmio,
    /// x86 I/O ports, 16 bits.
    Pio,
}

impl Space {
    /// The highest address of the space.
    pub const fn last(self) -> u64 {
        match self {
            Self::Mmio => u64::MAX,
            Self::Pio => 0xffff,
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mmio => "mmio",
            Self::Pio => "pio",
        })
    }
}

/// The direction of an access, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The guest reads.
    Read,
    /// The guest writes.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// Who makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Requester {
    /// This vCPU, by its index.
    Vcpu(u32),
    /// Some vCPU earlier: a write out of the source's queue of coalesced writes, which does not say
    /// whose it is.
    Coalesced,
    /// A device, by direct memory access to another device's registers.
    Dma,
    /// Somebody outside of the machine: a debugger, a test.
    External,
}

impl Requester {
    /// The vCPU's index, if one makes the access now.
    pub const fn vcpu(self) -> Option<u32> {
        match self {
            Self::Vcpu(index) => Some(index),
            _ => None,
        }
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpu(index) => write!(f, "vcpu {index}"),
            Self::Coalesced => f.write_str("coalesced"),
            Self::Dma => f.write_str("dma"),
            Self::External => f.write_str("external"),
        }
    }
}

/// The width of one access as a handler sees it: a power of two, 1 to 8 bytes. Other lengths (KVM
/// hands out MMIO of 3, 5, 6 and 7 bytes too) are cut into these by the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Size {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits.
    Qword = 8,
}

impl Size {
    /// The size of `bytes` bytes, if it is one.
    pub const fn new(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }

    /// Width in bytes.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// Width in bits.
    pub const fn bits(self) -> u32 {
        self as u32 * 8
    }

    /// All ones of this width: what a bus nobody drives reads as.
    pub const fn ones(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The largest size that neither exceeds `len` bytes nor is misaligned at `offset`.
    pub const fn largest_aligned(offset: u64, len: usize) -> Self {
        let align = if offset == 0 { 3 } else { offset.trailing_zeros() };
        match (align, len) {
            (3.., 8..) => Self::Qword,
            (2.., 4..) => Self::Dword,
            (1.., 2..) => Self::Word,
            _ => Self::Byte,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_are_as_wide_as_the_access() {
        assert_eq!(Size::Byte.ones(), 0xff);
        assert_eq!(Size::Word.ones(), 0xffff);
        assert_eq!(Size::Dword.ones(), 0xffff_ffff);
        assert_eq!(Size::Qword.ones(), u64::MAX);
    }

    #[test]
    fn pieces_are_aligned_and_no_longer_than_asked() {
        for offset in 0..32u64 {
            for len in 1..=16usize {
                let size = Size::largest_aligned(offset, len);
                assert!(size.bytes() <= len);
                assert_eq!(offset % size.bytes() as u64, 0);
            }
        }
        assert_eq!(Size::largest_aligned(0, 8), Size::Qword);
        assert_eq!(Size::largest_aligned(4, 8), Size::Dword);
        assert_eq!(Size::largest_aligned(6, 3), Size::Word);
    }
}
