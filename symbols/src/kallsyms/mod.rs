//! Linux' own table of symbols (`kernel/kallsyms.c`), found and read in a running guest's memory.
//!
//! The kernel has it for its reports, as six arrays in its read-only data (`scripts/kallsyms.c`).
//! Names are compressed: each is a length and so many bytes, each byte stands for a token. In order:
//!
//! ```text
//!   until 6.1   offsets  relative_base  num_syms  names  markers         token_table  token_index
//!   until 6.3   offsets  relative_base  num_syms  names  markers  order  token_table  token_index
//!   since 6.4                           num_syms  names  markers         token_table  token_index  offsets  relative_base
//! ```
//!
//! `order` (`kallsyms_seqs_of_names`, three bytes a name) went to stable kernels, too: Debian's 6.1 has
//! it. Later it is the last one.
//!
//! The token table is what can be found: the tokens of the digits are the digits, so that ten of them
//! stand in a row, and `token_index` says where each of the 256 begins. From there every step is one
//! with a check: markers rise and say where each 256th name begins, so exactly one place for `names`
//! fits; and addresses rise. Where the kernel has put itself does not matter, as `relative_base` is
//! one of the numbers that it corrects when it moves.

mod bytes;
#[cfg(test)]
pub(crate) mod made;
mod parse;

use memchr::memmem;

use crate::{Symbols, Virtual};

/// How far before the code that is known, and how far behind it, the table is looked for.
const BEFORE: u64 = 64 << 20;
const BEHIND: u64 = 192 << 20;
/// What is read at once.
const PIECE: usize = 1 << 20;
/// The token table is found by this: the tokens of the digits, and the end of the one before.
const DIGITS: &[u8] = b"\x000\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// What belongs to it is at most so far before the token table, and behind it.
const TABLES_BEFORE: u64 = 12 << 20;
const TABLES_BEHIND: usize = 6 << 20;
/// A guest can write that row as often as it likes.
const TRIES_MAX: usize = 64;

/// Finds the table of the kernel that has code at `near`, and reads it.
pub fn find(virt: &Virtual<'_>, near: u64) -> Option<Symbols> {
    let mut tries = 0;
    let (mut at, end) = (near.saturating_sub(BEFORE) & !0xfff, near.saturating_add(BEHIND));
    // A row can lie across a border.
    let mut piece = vec![0; PIECE + DIGITS.len()];
    while at < end {
        if virt.read_mapped(at, &mut piece) {
            for offset in memmem::find_iter(&piece, DIGITS) {
                tries += 1;
                let found = read_around(virt, at + offset as u64);
                if found.is_some() || tries == TRIES_MAX {
                    return found;
                }
            }
        }
        at = at.saturating_add(PIECE as u64);
    }
    None
}

/// Reads the table around the row of digits at `digits`.
fn read_around(virt: &Virtual<'_>, digits: u64) -> Option<Symbols> {
    // Everything in it is a multiple of eight from the start.
    let start = digits.saturating_sub(TABLES_BEFORE) & !7;
    let before = usize::try_from(digits - start).ok()?;
    let mut image = vec![0; before + TABLES_BEHIND];
    virt.read_mapped(start, &mut image);
    parse::parse(&image, before)
}

#[cfg(test)]
mod tests;
