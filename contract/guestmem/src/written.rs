//! Which pages of a region this process has written, for as long as somebody wants to know.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

/// The pages of one region that this process has written while they were remembered. There is a
/// bitmap from when that was first asked for; until then marking a page costs one load.
#[derive(Debug, Default)]
pub struct WrittenPages {
    /// Of the region, in bytes.
    len: usize,
    remembered: AtomicBool,
    pages: OnceLock<AtomicBitmap>,
}

impl WrittenPages {
    /// Starts with no page, or stops.
    pub(crate) fn remember(&self, on: bool) {
        let pages = self.pages.get_or_init(|| AtomicBitmap::with_len(self.len));
        if on {
            pages.reset();
        }
        self.remembered.store(on, Ordering::SeqCst);
    }

    /// Takes the pages out: bit `n % 64` of word `n / 64` is page `n`'s.
    pub(crate) fn take(&self) -> Vec<u64> {
        self.pages.get().map(AtomicBitmap::get_and_reset).unwrap_or_default()
    }

    fn remembered(&self) -> Option<&AtomicBitmap> {
        self.pages.get().filter(|_| self.remembered.load(Ordering::Relaxed))
    }
}

impl<'a> WithBitmapSlice<'a> for WrittenPages {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WrittenPages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(pages) = self.remembered() {
            pages.mark_dirty(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.remembered().is_some_and(|pages| pages.dirty_at(offset))
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for WrittenPages {
    fn with_len(len: usize) -> Self {
        Self { len, ..Self::default() }
    }
}
