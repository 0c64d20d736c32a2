//! A dirty bitmap: which pages of a memory were written.

use std::ops::Range;

/// A set of pages of one [`crate::Memory`]: those that were written. Offsets are in bytes, from the
/// memory's first.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    /// Bytes of a page.
    page: u64,
    /// Bytes of the memory.
    len: u64,
    /// Bit `n % 64` of word `n / 64` is page `n`'s.
    words: Vec<u64>,
}

impl DirtyBitmap {
    /// No page of a memory of `len` bytes, in pages of `page` bytes.
    ///
    /// # Panics
    /// When a page has no bytes.
    pub fn new(len: u64, page: u64) -> Self {
        let words = len.div_ceil(page).div_ceil(64);
        Self { page, len, words: vec![0; usize::try_from(words).unwrap_or(0)] }
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.page
    }

    /// The pages that hold these bytes were written. What is beyond the end is not there.
    pub fn set(&mut self, bytes: Range<u64>) {
        for page in self.pages_of(bytes) {
            if let Some(word) =
                usize::try_from(page / 64).ok().and_then(|at| self.words.get_mut(at))
            {
                *word |= 1 << (page % 64);
            }
        }
    }

    /// All pages were written.
    pub fn set_all(&mut self) {
        self.set(0..self.len);
    }

    /// Pages were written: bit `n % 64` of word `n / 64` is that of page `first + n`. This is how
    /// `KVM_GET_DIRTY_LOG` says it. What is beyond the end is not there.
    pub fn set_words(&mut self, first: u64, words: &[u64]) {
        for (at, word) in (0u64..).zip(words) {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                let page = first.saturating_add(at * 64 + bit);
                let start = page.saturating_mul(self.page);
                self.set(start..start.saturating_add(1));
            }
        }
    }

    /// The pages of `other`, a set of the same memory, were written, too.
    pub fn merge(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    /// Whether any of the pages that hold these bytes was written.
    pub fn is_dirty(&self, bytes: Range<u64>) -> bool {
        self.pages_of(bytes).any(|page| self.has(page))
    }

    /// Where each written page begins, in order.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages_of(0..self.len).filter(|page| self.has(*page)).map(|page| page * self.page)
    }

    /// Whether no page was written.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes the pages out.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let empty = Self { words: vec![0; self.words.len()], ..*self };
        std::mem::replace(self, empty)
    }

    fn has(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn pages_of(&self, bytes: Range<u64>) -> Range<u64> {
        let end = bytes.end.min(self.len);
        if bytes.start >= end { 0..0 } else { bytes.start / self.page..end.div_ceil(self.page) }
    }
}

/// The pages by number, which is short where few were written.
impl std::fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pages of {:#x} bytes ", self.page)?;
        f.debug_list().entries(self.pages().map(|start| start / self.page)).finish()
    }
}

/// A log of which pages of one memory are written, by the guest and by devices, from when it was
/// asked for until it is dropped. See [`crate::Regions::log_dirty`].
pub trait DirtyLog: Send + Sync {
    /// Which pages were written since the last call. A page may be named that was not written, as
    /// after the memory has moved to another guest address; none is left out that was.
    fn take(&self) -> DirtyBitmap;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(bitmap: &DirtyBitmap) -> Vec<u64> {
        bitmap.pages().map(|start| start / bitmap.page_size()).collect()
    }

    #[test]
    fn bytes_are_of_every_page_that_holds_one_of_them() {
        let mut bitmap = DirtyBitmap::new(0x1000 * 70 + 1, 0x1000);
        bitmap.set(0xfff..0x1001);
        bitmap.set(0x4000..0x4000);
        bitmap.set(0x1000 * 70..u64::MAX);
        assert_eq!(pages(&bitmap), [0, 1, 70]);
        assert!(bitmap.is_dirty(0x800..0x801) && bitmap.is_dirty(0x1fff..0x3000));
        assert!(!bitmap.is_dirty(0x2000..0x1000 * 70) && !bitmap.is_dirty(5..5));
        assert_eq!(format!("{bitmap:?}"), "pages of 0x1000 bytes [0, 1, 70]");
        assert_eq!(pages(&bitmap.take()), [0, 1, 70]);
        assert!(bitmap.is_empty());
    }

    #[test]
    fn words_count_from_their_first_page_and_end_with_the_memory() {
        let mut bitmap = DirtyBitmap::new(0x1000 * 80, 0x1000);
        bitmap.set_words(60, &[1 | 1 << 10, 1 << 1]);
        bitmap.set_words(79, &[u64::MAX]);
        bitmap.set_words(u64::MAX - 100, &[1]);
        assert_eq!(pages(&bitmap), [60, 70, 79]);
        let mut other = DirtyBitmap::new(0x1000 * 80, 0x1000);
        other.set_all();
        assert_eq!(pages(&other).len(), 80);
        bitmap.merge(&other);
        assert_eq!(bitmap, other);
    }
}
