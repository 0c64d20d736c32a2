//! Numbers in a piece of memory.

/// The 16-bit number at byte `at`.
pub(super) fn u16_at(image: &[u8], at: usize) -> Option<u16> {
    let bytes = image.get(at..at.checked_add(2)?)?;
    bytes.try_into().ok().map(u16::from_le_bytes)
}

/// The 32-bit number at byte `at`.
pub(super) fn u32_at(image: &[u8], at: usize) -> Option<u32> {
    let bytes = image.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// The 64-bit number at byte `at`.
pub(super) fn u64_at(image: &[u8], at: usize) -> Option<u64> {
    let bytes = image.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// The 32-bit number at byte `at`, as a place in memory.
pub(super) fn size_at(image: &[u8], at: usize) -> Option<usize> {
    u32_at(image, at).and_then(|value| usize::try_from(value).ok())
}
