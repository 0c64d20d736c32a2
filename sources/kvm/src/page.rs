//! Pages of registers that the guest is shown read-only.

use std::any::Any;
use std::sync::Arc;

use trapline::Memory;
use trapline_guestmem::{GuestMem, Piece};

use crate::ioctl;

/// A piece of memory whose every change the guest sees at once, by whatever kind of mapping. arm64's
/// maps registers as a device's, so its reads pass by the caches.
struct Page(Piece);

/// Memory of `len` bytes for registers, if they are whole pages of the host.
pub(crate) fn new(len: u64) -> Option<Arc<dyn Memory>> {
    let page = rustix::param::page_size() as u64;
    let mem = GuestMem::new(&[(0, len)]).ok().filter(|_| len.is_multiple_of(page))?;
    Some(Arc::new(Page(mem.pieces().into_iter().next()?)))
}

/// The same, of ones.
pub(crate) fn all_ones(len: u64) -> Option<Arc<dyn Memory>> {
    let piece = GuestMem::all_ones(len).ok()?.pieces().into_iter().next()?;
    Some(Arc::new(piece))
}

impl Memory for Page {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
        ioctl::clean_cache(&self.0, offset..offset + data.len() as u64);
    }

    fn mapping(&self) -> Option<&dyn Any> {
        self.0.mapping()
    }

    fn page_size(&self) -> u64 {
        self.0.page_size()
    }

    fn log_writes(&self, on: bool) {
        self.0.log_writes(on);
    }

    fn take_written(&self, written: &mut trapline::DirtyBitmap) {
        self.0.take_written(written);
    }
}
