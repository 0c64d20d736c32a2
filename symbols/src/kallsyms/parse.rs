//! From the row of digits in the token table to all symbols, step by step.

use super::bytes::{size_at, u16_at, u32_at, u64_at};
use crate::Symbols;
use crate::table::{NAME_MAX, SYMBOLS_MAX, is_code};

/// How many tokens there are.
const TOKENS: usize = 256;
/// Each marker says where so many names further one begins.
const NAMES_A_MARKER: usize = 256;
/// Hardly another place has the right number before it by chance; a guest can write it to each of them.
const STARTS_MAX: usize = 16;
/// A kernel has more; a table that fits by chance has not.
const SYMBOLS_MIN: usize = 256;

/// The arrays, as places in the image.
struct Tables {
    token_table: usize,
    token_index: usize,
    names: usize,
    count: usize,
}

/// Reads the table in `image` whose row of digits, with the zero before it, begins at `digits`. The
/// image begins at a multiple of eight.
pub(super) fn parse(image: &[u8], digits: usize) -> Option<Symbols> {
    let (token_table, token_index) = tokens(image, digits)?;
    let (names, count) = names(image, token_table)?;
    let tables = Tables { token_table, token_index, names, count };
    let addresses = addresses(image, &tables)?;
    let mut symbols = Symbols::default();
    let mut at = names;
    for addr in addresses {
        let (start, len) = name_at(image, at)?;
        at = start + len;
        let name = tables.expand(image, image.get(start..at)?)?;
        // The first letter is the symbol's kind.
        let (kind, name) = (name.bytes().next()?, name.get(1..)?);
        symbols.push(addr, name, is_code(kind));
    }
    Some(symbols.sorted())
}

/// Where the token table begins, and its index.
fn tokens(image: &[u8], digits: usize) -> Option<(usize, usize)> {
    // The row begins with the end of the token before `0`: of 48 of them.
    let mut start = digits + 1;
    for _ in 0..b'0' {
        let before = image.get(..start.checked_sub(1)?)?;
        start = before.iter().rposition(|byte| *byte == 0).map_or(0, |zero| zero + 1);
    }
    let mut starts = Vec::with_capacity(TOKENS);
    let mut at = start;
    for _ in 0..TOKENS {
        starts.push(at - start);
        let rest = image.get(at..)?;
        at += rest.iter().take(NAME_MAX).position(|byte| *byte == 0)? + 1;
    }
    let fits = |index: &usize| {
        let mut told = (0..TOKENS).map(|token| u16_at(image, index + 2 * token).map(usize::from));
        starts.iter().all(|start| told.next().flatten() == Some(*start))
    };
    // Aligned to eight, to four on kernels to come.
    let index = [at.next_multiple_of(8), at.next_multiple_of(4)].into_iter().find(fits)?;
    Some((start, index))
}

/// Where the names begin, and how many there are.
pub(super) fn names(image: &[u8], token_table: usize) -> Option<(usize, usize)> {
    let direct = markers_before(image, token_table).into_iter();
    direct.chain(markers_before_order(image, token_table)).find_map(|markers| {
        let last = size_at(image, markers.start + 4 * (markers.count - 1))?;
        // The names after the last marker: no more than 256, each at least a byte and its length.
        let latest = markers.start.checked_sub(last)? & !3;
        let earliest = latest.saturating_sub(NAMES_A_MARKER * NAME_MAX);
        let starts = (earliest..=latest).rev().filter(|start| start.is_multiple_of(4));
        starts
            .filter_map(|start| Some((start, count_before(image, start, &markers)?)))
            .take(STARTS_MAX)
            .find(|(start, count)| fits(image, *start, *count, markers.start))
    })
}

/// How many names there are from `start` on, which is in the four or eight bytes before.
fn count_before(image: &[u8], start: usize, markers: &Markers) -> Option<usize> {
    let counts = [start.checked_sub(8)?, start - 4];
    counts.into_iter().filter_map(|at| size_at(image, at)).find(|symbols| {
        (SYMBOLS_MIN..=SYMBOLS_MAX).contains(symbols)
            && symbols.div_ceil(NAMES_A_MARKER) == markers.count
    })
}

/// Where each 256th name begins, as an array of 32-bit numbers.
struct Markers {
    start: usize,
    count: usize,
}

/// Those that end before the token table.
fn markers_before(image: &[u8], token_table: usize) -> Option<Markers> {
    let mut at = (token_table & !3).checked_sub(4)?;
    // What fills up to the next multiple of eight.
    if u32_at(image, at)? == 0 {
        at = at.checked_sub(4)?;
    }
    let (end, mut above) = (at, u32::MAX);
    loop {
        let marker = u32_at(image, at)?;
        if marker >= above {
            return None;
        }
        if marker == 0 {
            let count = (end - at) / 4 + 1;
            return (count > 1).then_some(Markers { start: at, count });
        }
        above = marker;
        at = at.checked_sub(4)?;
    }
}

/// Those that have the order of the names behind them, three bytes a name, and then the token table:
/// from how far away they are follows how many they are.
fn markers_before_order(image: &[u8], token_table: usize) -> impl Iterator<Item = Markers> {
    let most = token_table.min(3 * SYMBOLS_MAX);
    let lengths = (3 * SYMBOLS_MIN..most).filter(|len| len.is_multiple_of(8));
    let places = lengths.flat_map(move |len| {
        // What fills up to the next multiple of eight is up to two names long.
        let counts = [len / 3, (len - 7) / 3].map(|names| names.div_ceil(NAMES_A_MARKER));
        let end = token_table - len;
        counts.map(|count| Some((end.checked_sub((4 * count).next_multiple_of(8))?, count)))
    });
    places.flatten().map(|(start, count)| Markers { start, count }).filter(|markers| {
        let marker = |n: usize| u32_at(image, markers.start + 4 * n);
        marker(0) == Some(0) && (1..markers.count).all(|n| marker(n - 1) < marker(n))
    })
}

/// Whether there are so many names from `start` on, each 256th where its marker says, and nothing but
/// what aligns the markers behind them.
fn fits(image: &[u8], start: usize, symbols: usize, markers: usize) -> bool {
    let mut at = start;
    for symbol in 0..symbols {
        if symbol % NAMES_A_MARKER == 0 {
            let marker = size_at(image, markers + 4 * (symbol / NAMES_A_MARKER));
            if marker != Some(at - start) {
                return false;
            }
        }
        match name_at(image, at) {
            Some((name, len)) if len > 0 && name + len <= markers => at = name + len,
            _ => return false,
        }
    }
    markers - at < 8
}

/// Where the tokens of the name at `at` are, and how many: one byte of length, or since 6.1 two, the
/// first of which has its highest bit set.
fn name_at(image: &[u8], at: usize) -> Option<(usize, usize)> {
    let low = usize::from(*image.get(at)?);
    if low & 0x80 == 0 {
        return Some((at + 1, low));
    }
    let high = usize::from(*image.get(at + 1)?);
    Some((at + 2, low & 0x7f | high << 7))
}

/// Every symbol's address, in the table's order: of the arrays before the names, or behind the tokens.
fn addresses(image: &[u8], tables: &Tables) -> Option<Vec<u64>> {
    let len = 4 * tables.count;
    let behind = tables.token_index + 2 * TOKENS;
    let ways = [8, 4].into_iter().flat_map(|align| {
        // Until 6.3: offsets, base, count, names.
        let base = tables.names.checked_sub(8 + 8);
        let before =
            base.and_then(|base| Some((base.checked_sub(len.next_multiple_of(align))?, base)));
        let behind = behind.next_multiple_of(align);
        let base = (behind + len).next_multiple_of(align);
        [before, Some((behind, base))]
    });
    ways.flatten().find_map(|(offsets, base)| read_addresses(image, tables.count, offsets, base))
}

/// Addresses from 32-bit offsets, if they rise and are a kernel's, which begins at a page's.
fn read_addresses(image: &[u8], count: usize, offsets: usize, base: usize) -> Option<Vec<u64>> {
    let base = u64_at(image, base).filter(|base| *base >= 1 << 63 && base.is_multiple_of(4096))?;
    let offsets: Option<Vec<u32>> = (0..count).map(|n| u32_at(image, offsets + 4 * n)).collect();
    let offsets = offsets?;
    // With absolute addresses of per-CPU data (x86-64 until 6.14) the others are negative.
    let negative = offsets.last()? >> 31 == 1;
    let addresses = offsets.into_iter().map(|offset| match offset.cast_signed() {
        absolute @ 0.. if negative => u64::from(absolute.cast_unsigned()),
        relative if negative => base.wrapping_sub(1).wrapping_add_signed(-i64::from(relative)),
        _ => base.wrapping_add(offset.into()),
    });
    let addresses: Vec<u64> = addresses.collect();
    let rises = addresses.is_sorted() && addresses.last().is_some_and(|last| *last > base);
    rises.then_some(addresses)
}

impl Tables {
    /// The name that these tokens stand for.
    fn expand(&self, image: &[u8], tokens: &[u8]) -> Option<String> {
        let mut name = String::new();
        for token in tokens {
            let start = u16_at(image, self.token_index + 2 * usize::from(*token))?;
            let rest = image.get(self.token_table + usize::from(start)..)?;
            let len = rest.iter().position(|byte| *byte == 0)?;
            name.push_str(std::str::from_utf8(rest.get(..len)?).ok()?);
            if name.len() > NAME_MAX {
                return None;
            }
        }
        Some(name)
    }
}
