//! Linux' ORC tables of x86-64 (`arch/x86/include/asm/orc_types.h`): for each stretch of code, where
//! the caller's stack begins.

use crate::{Symbols, Virtual};

/// The tables of one kernel, as its memory has them.
#[derive(Clone, Debug)]
pub struct Orc {
    /// Where each stretch begins, rising.
    starts: Vec<u64>,
    entries: Vec<[u8; ENTRY]>,
    layout: Layout,
}

/// How the last two bytes of an entry are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Until 6.3: two bits of kind, which there is no other of at the end of a stack.
    Old,
    /// Since 6.4: three bits, with kinds of their own for the two ends.
    New,
}

/// Bytes of an entry.
const ENTRY: usize = 6;
/// More stretches than any kernel has.
const ENTRIES_MAX: u64 = 4 << 20;

/// What a stretch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sp: Base,
    pub(super) sp_offset: i16,
    pub(super) bp: Base,
    pub(super) bp_offset: i16,
    pub(super) kind: Kind,
}

/// What an offset counts from (`ORC_REG_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Undefined,
    /// The caller's stack pointer.
    PreviousSp,
    Dx,
    Di,
    Bp,
    Sp,
    R10,
    R13,
    /// What is at the base pointer and the offset.
    BpIndirect,
    /// What is at the stack pointer, and the offset beyond that.
    SpIndirect,
}

/// What is where the stack begins (`UNWIND_HINT_TYPE_*`, `ORC_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A return address below it.
    Call,
    /// All registers of what was interrupted.
    Regs,
    /// Those that the processor pushes.
    RegsPartial,
    /// Nobody called.
    End,
    /// It is not known.
    Undefined,
}

impl Orc {
    /// Reads the tables through the names that the linker gives them.
    pub(crate) fn read(virt: &Virtual<'_>, symbols: &Symbols) -> Option<Self> {
        let start = symbols.address("__start_orc_unwind_ip")?;
        let end = symbols.address("__stop_orc_unwind_ip")?;
        let count = end.checked_sub(start)? / 4;
        let count =
            usize::try_from(Some(count).filter(|count| (1..=ENTRIES_MAX).contains(count))?).ok()?;
        let mut starts = vec![0; count * 4];
        let mut entries = vec![0; count * ENTRY];
        let entries_at = symbols.address("__start_orc_unwind")?;
        if !virt.read(start, &mut starts) || !virt.read(entries_at, &mut entries) {
            return None;
        }
        // Each says how far from itself the stretch begins.
        let (words, _) = starts.as_chunks::<4>();
        let starts: Vec<u64> = words
            .iter()
            .zip((start..end).step_by(4))
            .map(|(word, at)| at.wrapping_add_signed(i32::from_le_bytes(*word).into()))
            .collect();
        if !starts.is_sorted() {
            return None;
        }
        let (entries, _) = entries.as_chunks::<ENTRY>();
        let layout = Layout::of(virt, symbols)?;
        Some(Self { starts, entries: entries.to_vec(), layout })
    }

    /// What is said of the code at `addr`.
    pub(super) fn entry(&self, addr: u64) -> Option<Entry> {
        let index = self.starts.partition_point(|start| *start <= addr).checked_sub(1)?;
        let [sp_low, sp_high, bp_low, bp_high, bases, kind] = *self.entries.get(index)?;
        Some(Entry {
            sp: Base::of(bases & 0xf)?,
            sp_offset: i16::from_le_bytes([sp_low, sp_high]),
            bp: Base::of(bases >> 4)?,
            bp_offset: i16::from_le_bytes([bp_low, bp_high]),
            kind: self.layout.kind(kind, bases),
        })
    }
}

impl Layout {
    /// The layout changed with version 6.4, and the kernel's banner says its version.
    fn of(virt: &Virtual<'_>, symbols: &Symbols) -> Option<Self> {
        let mut banner = [0; 32];
        virt.read(symbols.address("linux_banner")?, &mut banner).then_some(())?;
        let text = std::str::from_utf8(&banner).ok()?.strip_prefix("Linux version ")?;
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
        Some(if (number()?, number()?) >= (6, 4) { Self::New } else { Self::Old })
    }

    fn kind(self, byte: u8, bases: u8) -> Kind {
        let ends = bases & 0xf == 0;
        match (self, byte & if self == Self::New { 7 } else { 3 }) {
            // The end of a stack is marked by a bit, and has no base.
            (Self::Old, 0) if ends => {
                if byte >> 2 & 3 != 0 {
                    Kind::End
                } else {
                    Kind::Undefined
                }
            }
            (Self::Old, 0) | (Self::New, 2) => Kind::Call,
            (Self::Old, 1) | (Self::New, 3) => Kind::Regs,
            (Self::Old, 2) | (Self::New, 4) => Kind::RegsPartial,
            (Self::New, 1) => Kind::End,
            _ => Kind::Undefined,
        }
    }
}

impl Base {
    const fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Undefined,
            1 => Self::PreviousSp,
            2 => Self::Dx,
            3 => Self::Di,
            4 => Self::Bp,
            5 => Self::Sp,
            6 => Self::R10,
            7 => Self::R13,
            8 => Self::BpIndirect,
            9 => Self::SpIndirect,
            _ => return None,
        })
    }
}
