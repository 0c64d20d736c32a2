//! The machine's RAM as the registry's address space uses it, and ranges cut into pages.

use std::ops::RangeInclusive;

use trapline::Ram;
use trapline_guestmem::{GuestMem, RamRegion};

const PAGE: usize = 4096;

/// RAM, and where it is.
pub(crate) struct GuestRam {
    mem: GuestMem,
    regions: Vec<RamRegion>,
}

impl GuestRam {
    pub(crate) fn new(mem: &GuestMem) -> Self {
        Self { mem: mem.clone(), regions: mem.regions() }
    }

    /// How many of `len` bytes at `addr` are RAM, in one piece.
    fn len_at(&self, addr: u64, len: usize) -> usize {
        let left = |region: &RamRegion| {
            let offset = addr.checked_sub(region.guest_addr)?;
            region.len.checked_sub(offset)
        };
        let left = self.regions.iter().find_map(|region| left(region).filter(|left| *left > 0));
        left.map_or(0, |left| usize::try_from(left).unwrap_or(usize::MAX).min(len))
    }
}

impl Ram for GuestRam {
    fn read(&self, addr: u64, data: &mut [u8]) -> usize {
        let len = self.len_at(addr, data.len());
        let part = data.get_mut(..len).unwrap_or_default();
        self.mem.read(addr, part).map_or(0, |()| len)
    }

    fn write(&self, addr: u64, data: &[u8]) -> usize {
        let len = self.len_at(addr, data.len());
        let part = data.get(..len).unwrap_or_default();
        self.mem.write(addr, part).map_or(0, |()| len)
    }

    fn next(&self, addr: u64) -> Option<u64> {
        let after = |region: &RamRegion| {
            let last = region.guest_addr.checked_add(region.len.checked_sub(1)?)?;
            (addr <= last).then(|| region.guest_addr.max(addr))
        };
        self.regions.iter().filter_map(after).min()
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
    fn ram_ends_where_its_last_piece_does() {
        let ram = GuestRam::new(&GuestMem::new(&[(0x1000, 0x1000), (0x3000, 0x1000)]).unwrap());
        assert_eq!(ram.write(0x1ffe, &[1, 2, 3]), 2);
        let mut data = [9; 3];
        assert_eq!((ram.read(0x1ffe, &mut data), data), (2, [1, 2, 9]));
        assert_eq!([0xfff, 0x2000].map(|addr| ram.read(addr, &mut data)), [0, 0]);
        let next = [0, 0x1fff, 0x2000, 0x3fff, 0x4000].map(|addr| ram.next(addr));
        assert_eq!(next, [Some(0x1000), Some(0x1fff), Some(0x3000), Some(0x3fff), None]);
    }

    #[test]
    fn blocks_are_cut_at_pages_and_nothing_is_left_out() {
        let cut = |addr, len| pages(addr, len).collect::<Vec<_>>();
        assert_eq!(cut(0x10, 0), []);
        assert_eq!(cut(0xfff, 2), [(0xfff, 1), (0x1000, 1)]);
        assert_eq!(cut(0x1000, 0x2001), [(0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 1)]);
        assert_eq!(cut(u64::MAX - 1, 2), [(u64::MAX - 1, 2)]);
    }
}
