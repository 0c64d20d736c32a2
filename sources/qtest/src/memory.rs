//! Memory as the processor sees it: RAM, and the registry where there is none.

use std::ops::RangeInclusive;

use trapline::{Handle, Space};
use trapline_guestmem::GuestMem;

/// RAM begins and ends at multiples of this, so a page is one or the other.
const PAGE: usize = 4096;

/// Both sides of the memory space.
pub(crate) struct Memory<'a> {
    pub(crate) ram: &'a GuestMem,
    pub(crate) handle: &'a mut Handle,
}

impl Memory<'_> {
    /// Reads one access, or a piece of a block within a page.
    pub(crate) fn read(&mut self, addr: u64, data: &mut [u8]) {
        if self.ram.read(addr, data).is_err() {
            self.handle.read(Space::Mmio, addr, data);
        }
    }

    /// Writes one access, or a piece of a block within a page.
    pub(crate) fn write(&mut self, addr: u64, data: &[u8]) {
        if self.ram.write(addr, data).is_err() {
            self.handle.write(Space::Mmio, addr, data);
        }
    }
}

/// Cuts a range whose last byte exists into pieces, none across a page's end: their first
/// addresses and lengths.
pub(crate) fn pages(addr: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut left: Option<RangeInclusive<u64>> =
        len.checked_sub(1).map(|more| addr..=addr.saturating_add(more));
    std::iter::from_fn(move || {
        let (first, last) = left.take()?.into_inner();
        let end = (first | (PAGE as u64 - 1)).min(last);
        left = end.checked_add(1).filter(|_| end < last).map(|next| next..=last);
        let len = usize::try_from(end - first + 1).unwrap_or(PAGE);
        Some((first, len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_at_pages_and_nothing_is_left_out() {
        let cut = |addr, len| pages(addr, len).collect::<Vec<_>>();
        assert_eq!(cut(0x10, 0), []);
        assert_eq!(cut(0xfff, 2), [(0xfff, 1), (0x1000, 1)]);
        assert_eq!(cut(0x1000, 0x2001), [(0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 1)]);
        assert_eq!(cut(u64::MAX - 1, 2), [(u64::MAX - 1, 2)]);
    }
}
