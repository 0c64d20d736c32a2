//! Memory that a guest sees without trapping, where the source can map it.

use std::any::Any;
use std::os::fd::BorrowedFd;

use crate::{DirtyBitmap, Handler, IoCx, Size};

/// Memory behind a window of a region: RAM, ROM, a frame buffer, a mapped piece of an assigned
/// device's BAR.
///
/// A guest may write to it at any time without anybody being called, so contents are reached by
/// copying only.
pub trait Memory: Send + Sync {
    /// Its length in bytes, which never changes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies from `offset` on; `offset + data.len()` is at most [`Memory::len`]. A number of 1, 2,
    /// 4 or 8 bytes at a multiple of its size is read at once.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Copies to `offset` on; see [`Memory::read`].
    fn write(&self, offset: u64, data: &[u8]);

    /// How a hypervisor can map it into a guest: a type that its source knows, looked for with
    /// [`Any`] because only that source can tell whether an address in it can be trusted. Without
    /// one the registry copies on every access.
    fn mapping(&self) -> Option<&dyn Any> {
        None
    }

    /// The file this memory is mapped from and where in it, for another process to map it, too.
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }

    /// Bytes of the pages that [`Memory::take_written`] tells apart.
    fn page_size(&self) -> u64 {
        4096
    }

    /// Starts to remember which pages this process writes, whoever does and by whatever way, or
    /// stops. Called by the registry that has the memory's logs ([`crate::Regions::log_dirty`]) and
    /// by nobody else. A write that is being made just now may or may not be remembered.
    fn log_writes(&self, _on: bool) {}

    /// Adds the pages that this process has written since the last call to `written`, which is
    /// empty and of this memory's length and page size. Whoever does not know says all.
    fn take_written(&self, written: &mut DirtyBitmap) {
        written.set_all();
    }
}

/// A handler for regions that have none of their own, as everything in them is delivered otherwise:
/// reads are ones, writes vanish.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHandler;

impl Handler for NoHandler {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}
