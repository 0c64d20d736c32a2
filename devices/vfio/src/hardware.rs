//! What the kernel has of a device and of its IOMMU, as the rest of this crate asks for it: the seam at
//! which unit tests put a function that no machine has.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use trapline_guestmem::GuestMem;
use vfio_bindings::bindings::vfio::{
    VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_REGION_INFO_FLAG_MMAP,
};

use crate::sys::wide;

/// A device.
pub(crate) trait Hardware: Send + Sync {
    /// `VFIO_DEVICE_FLAGS_*`.
    fn flags(&self) -> io::Result<u32>;
    /// One of its regions.
    fn region(&self, index: u32) -> io::Result<RegionInfo>;
    /// How many interrupts of this kind it has.
    fn irqs(&self, index: u32) -> io::Result<u32>;
    /// Connects interrupts, or disconnects them.
    fn set_irqs(&self, irq: &Irq<'_>) -> io::Result<()>;
    /// Resets it by itself.
    fn reset(&self) -> io::Result<()>;
    /// Resets it with all that its bus or slot resets too, all of which are in these groups.
    fn hot_reset(&self, groups: &[BorrowedFd<'_>]) -> io::Result<()>;
    /// One access, or several where the width is none that the device has.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;
    /// See [`Hardware::read`].
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Closes it, after which all the others fail.
    fn close(&self);
    /// Maps a part of it.
    fn map(&self, offset: u64, len: u64) -> Result<GuestMem, trapline_guestmem::Error>;
}

/// What devices reach memory through.
pub(crate) trait Iommu: Send + Sync {
    /// What addresses there are.
    fn space(&self) -> io::Result<IovaSpace>;
    /// Has devices see `len` bytes of this process at `vaddr` from `iova` on, with
    /// `VFIO_DMA_MAP_FLAG_*`.
    fn map(&self, iova: u64, vaddr: u64, len: u64, flags: u32) -> io::Result<()>;
    /// Ends that, for exactly what was mapped.
    fn unmap(&self, iova: u64, len: u64) -> io::Result<()>;
}

/// A region of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegionInfo {
    /// Length in bytes; 0 if there is none.
    pub(crate) len: u64,
    /// Where it is in the device's file.
    pub(crate) offset: u64,
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub(crate) flags: u32,
    /// Which parts can be mapped, by offset and length, if not all of it or nothing can.
    sparse: Option<Vec<(u64, u64)>>,
}

impl RegionInfo {
    /// From the words of `struct vfio_region_info` and the capabilities behind it.
    pub(crate) fn parse(words: &[u32]) -> Self {
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let (flags, first) = (word(1), word(3));
        let caps = if flags & VFIO_REGION_INFO_FLAG_CAPS == 0 { 0 } else { first };
        let sparse = capability(words, caps, VFIO_REGION_INFO_CAP_SPARSE_MMAP).map(|at| {
            let count = usize::try_from(word(at + 2)).unwrap_or(0).min(words.len() / 4);
            (0..count).map(|n| (wide(words, at + 4 + 4 * n), wide(words, at + 6 + 4 * n))).collect()
        });
        Self { len: wide(words, 4), offset: wide(words, 6), flags, sparse }
    }

    /// What of it can be mapped: offsets and lengths, whole pages each.
    pub(crate) fn mappable(&self, page: u64) -> Vec<(u64, u64)> {
        if self.flags & VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Vec::new();
        }
        let all = vec![(0, self.len)];
        let areas = self.sparse.as_ref().unwrap_or(&all).iter();
        let pages = areas.filter_map(|&(offset, len)| {
            let start = offset.checked_next_multiple_of(page)?;
            let end = offset.checked_add(len)?.min(self.len) / page * page;
            Some((start, end.checked_sub(start).filter(|len| *len > 0)?))
        });
        pages.collect()
    }
}

/// The addresses that devices can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IovaSpace {
    /// What mappings are multiples of.
    pub(crate) page: u64,
    /// Where they may be; empty if the kernel does not say.
    pub(crate) ranges: Vec<RangeInclusive<u64>>,
}

impl IovaSpace {
    /// From the words of `struct vfio_iommu_type1_info` and the capabilities behind it.
    pub(crate) fn parse(words: &[u32]) -> Self {
        let flags = words.get(1).copied().unwrap_or(0);
        let sizes = if flags & VFIO_IOMMU_INFO_PGSIZES == 0 { 0 } else { wide(words, 2) };
        // The smallest of the page sizes, which are a bit each.
        let page = if sizes == 0 { 4096 } else { 1 << sizes.trailing_zeros() };
        let caps = words.get(4).copied().filter(|_| flags & VFIO_IOMMU_INFO_CAPS != 0);
        let found = capability(words, caps.unwrap_or(0), VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
        let ranges = found.map_or_else(Vec::new, |at| {
            let count = words.get(at + 2).copied().unwrap_or(0);
            let count = usize::try_from(count).unwrap_or(0).min(words.len() / 4);
            (0..count).map(|n| wide(words, at + 4 + 4 * n)..=wide(words, at + 6 + 4 * n)).collect()
        });
        Self { page, ranges }
    }

    /// Whether `len` bytes from `start` on are all in one range.
    pub(crate) fn admits(&self, start: u64, len: u64) -> bool {
        let last = start.checked_add(len.saturating_sub(1));
        let inside = |last: u64| {
            let mut ranges = self.ranges.iter();
            ranges.any(|range| range.contains(&start) && range.contains(&last))
        };
        last.is_some_and(|last| self.ranges.is_empty() || inside(last))
    }
}

/// The index of the first word of the capability `id`, in a chain (`struct vfio_info_cap_header`) that
/// begins at byte `first`.
fn capability(words: &[u32], first: u32, id: u32) -> Option<usize> {
    let mut at = usize::try_from(first).ok()? / 4;
    // Each has two words at least.
    for _ in 0..words.len() {
        if at == 0 {
            return None;
        }
        let (head, next) = (words.get(at)?, words.get(at + 1)?);
        if head & 0xffff == id {
            return Some(at);
        }
        at = usize::try_from(*next).ok()? / 4;
    }
    None
}

/// What is to be done with a device's interrupts of one kind (`struct vfio_irq_set`).
#[derive(Clone, Debug)]
pub(crate) struct Irq<'a> {
    /// `VFIO_PCI_*_IRQ_INDEX`.
    pub(crate) index: u32,
    /// What.
    pub(crate) action: IrqAction<'a>,
}

/// See [`Irq`].
#[derive(Clone, Debug)]
pub(crate) enum IrqAction<'a> {
    /// Switch them all off.
    Off,
    /// Signal these for the first ones, and switch the others off.
    Trigger(Vec<BorrowedFd<'a>>),
    /// Unmask the first whenever this is signalled; no longer, without one.
    UnmaskBy(Option<BorrowedFd<'a>>),
}

impl Irq<'_> {
    /// The kernel's words for it; `number` is a descriptor's.
    pub(crate) fn words(&self, number: impl Fn(Option<BorrowedFd<'_>>) -> i32) -> Vec<i32> {
        let (flags, fds) = match &self.action {
            IrqAction::Off => (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, Vec::new()),
            IrqAction::Trigger(fds) => (
                VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                fds.iter().map(|fd| number(Some(*fd))).collect(),
            ),
            IrqAction::UnmaskBy(fd) => {
                (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, vec![number(*fd)])
            }
        };
        let count = u32::try_from(fds.len()).unwrap_or(u32::MAX);
        let head = [20 + 4 * count, flags, self.index, 0, count];
        head.into_iter().map(u32::cast_signed).chain(fds).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_region_is_what_its_words_say_and_maps_by_whole_pages() {
        let mut words = vec![32, 7, 0, 0, 0x4000, 0, 0x1000, 2];
        let region = RegionInfo::parse(&words);
        assert_eq!((region.len, region.offset), (0x4000, 0x2_0000_1000));
        assert_eq!(region.mappable(0x1000), [(0, 0x4000)]);
        words[4] = 0x800;
        assert_eq!(RegionInfo::parse(&words).mappable(0x1000), [], "less than a page");
        words[1] = 3;
        words[4] = 0x4000;
        assert_eq!(RegionInfo::parse(&words).mappable(0x1000), [], "not to be mapped");
        // A capability of another kind, then one with two areas, one of them not whole pages.
        (words[1], words[3]) = (0xf, 32);
        words.extend([0x1_0003, 40, 0x1_0001, 0, 2, 0, 0, 0, 0x1800, 0, 0x2800, 0, 0x1800, 0]);
        let sparse = RegionInfo::parse(&words);
        assert_eq!(sparse.mappable(0x1000), [(0, 0x1000), (0x3000, 0x1000)]);
        words[9] = 32;
        assert_eq!(RegionInfo::parse(&words).mappable(0x1000), [(0, 0x4000)], "a loop ends");
        words.truncate(9);
        assert_eq!(RegionInfo::parse(&words).mappable(0x1000), [(0, 0x4000)], "cut short");
    }

    #[test]
    fn addresses_are_in_one_of_the_ranges_and_any_where_none_is_said() {
        let mut words = vec![56, 3, 0x1000, 0x20_0000, 24, 0, 0x1_0001, 0, 2, 0];
        words.extend([0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, u32::MAX, 0xff]);
        let space = IovaSpace::parse(&words);
        assert_eq!(space.page, 0x1000);
        assert_eq!(space.ranges, [0..=0xfedf_ffff, 0xfef0_0000..=0xff_ffff_ffff]);
        assert!(space.admits(0, 0xfee0_0000) && space.admits(0xfef0_0000, 0x1000));
        assert!(!space.admits(0, 0xfee0_0001) && !space.admits(0xfee0_0000, 0x1000));
        assert!(!space.admits(0xfed0_0000, 0x30_0000), "across the gap");
        assert!(!space.admits(u64::MAX, 2));
        words[1] = 1;
        let unsaid = IovaSpace::parse(&words);
        assert!(unsaid.ranges.is_empty() && unsaid.admits(0xfee0_0000, 0x1000));
    }

    #[test]
    fn interrupts_are_set_in_the_kernels_words() {
        let event = std::fs::File::open("/dev/null").unwrap();
        let words = |action| Irq { index: 2, action }.words(|fd| if fd.is_some() { 7 } else { -1 });
        let two = IrqAction::Trigger(vec![event.as_fd(), event.as_fd()]);
        assert_eq!(words(two), [28, 0x24, 2, 0, 2, 7, 7]);
        assert_eq!(words(IrqAction::Off), [20, 0x21, 2, 0, 0]);
        assert_eq!(words(IrqAction::UnmaskBy(Some(event.as_fd()))), [24, 0x14, 2, 0, 1, 7]);
        assert_eq!(words(IrqAction::UnmaskBy(None)), [24, 0x14, 2, 0, 1, -1]);
    }
}
