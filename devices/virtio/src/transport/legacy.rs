//! Where a legacy driver's queue is: all of it behind each other (2.7.2, "Legacy Interfaces").

use crate::QueuePlace;

/// Pages of legacy PCI drivers, and the alignment of their used rings, in bytes (4.1.5.1.3.1).
pub(crate) const LEGACY_PAGE: u32 = 4096;

/// Bytes of a descriptor, of an entry of the available ring, and of that ring's header with what is
/// behind its entries.
const DESCRIPTOR: u64 = 16;
const AVAIL_ENTRY: u64 = 2;
const AVAIL_REST: u64 = 6;

/// Where the parts of a queue are that begins at `base`, with its used ring at a multiple of `align`.
pub(crate) fn legacy_place(base: u64, size: u16, align: u32) -> QueuePlace {
    let driver = base.saturating_add(u64::from(size) * DESCRIPTOR);
    let end = driver.saturating_add(AVAIL_REST + AVAIL_ENTRY * u64::from(size));
    let align = u64::from(align.max(1));
    let device = end.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    QueuePlace { size, descriptors: base, driver, device }
}
